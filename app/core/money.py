"""Minor units and ISO 4217. An amount is an `int` of minor units beside its `currency`; a float never holds money."""

# The largest amount of one payment that every PSP message format we know can carry; its sums stay far inside a bigint.
MIN_AMOUNT = 1
MAX_AMOUNT = 999_999_999_999

# ISO 4217 list one, active codes that something can be priced in, by number of minor digits. Left out: metals (XAU …), funds
# (BOV, CHE, CHW, COU, MXV, USN, UYI), baskets and test codes (XDR, XSU, XUA, XTS, XXX), withdrawn codes (HRK, BGN, ANG, ZWL …).
# CLF and UYW are units of account, kept because contracts in Chile and Uruguay are billed in them.
_CODES_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK
        DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD
        KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP
        PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH
        USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: dict[str, int] = {code: digits for digits, codes in _CODES_BY_EXPONENT.items() for code in codes.split()}


class UnknownCurrency(ValueError):
    """This is not an active ISO 4217 code in upper case."""


def exponent(currency: str) -> int:
    """The number of minor digits: 2 for USD, 0 for JPY, 3 for KWD. Raises UnknownCurrency."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise UnknownCurrency("expected an active ISO 4217 code in upper case, such as USD") from None


def format_minor(currency: str, amount: int) -> str:
    """`("USD", 2599)` is `25.99`, `("JPY", 2599)` is `2599`, `("KWD", -5)` is `-0.005`."""
    digits = exponent(currency)
    sign = "-" if amount < 0 else ""
    if digits == 0:
        return f"{sign}{abs(amount)}"
    whole, minor = divmod(abs(amount), 10**digits)
    return f"{sign}{whole}.{minor:0{digits}}"


def share_half_up(amount: int, numerator: int, denominator: int) -> int:
    """`amount * numerator / denominator` in whole minor units, a half rounded up. For amounts from 0 on."""
    if amount < 0 or numerator < 0 or denominator <= 0:
        raise ValueError("a share is taken of an amount and by a rate that are not negative")
    return (2 * amount * numerator + denominator) // (2 * denominator)
