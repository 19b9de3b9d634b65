from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import money


@pytest.mark.parametrize(
    ("currency", "digits"),
    [("USD", 2), ("EUR", 2), ("INR", 2), ("JPY", 0), ("KRW", 0), ("ISK", 0), ("HUF", 2), ("KWD", 3), ("TND", 3), ("CLF", 4), ("UYW", 4)],
)
def test_exponents_are_those_of_iso_4217(currency: str, digits: int) -> None:
    """Minor digits are 0, 2, 3 or 4, and not what a PSP makes of them."""
    assert money.exponent(currency) == digits


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDX", "XAU", "XXX", "XTS", "XDR", "CHE", "HRK", "BGN", "ZWL", "ABC", "\uff35SD"])
def test_what_nothing_can_be_priced_in_is_no_currency(currency: str) -> None:
    """Metals, funds, test codes, withdrawn codes and lower case are refused."""
    with pytest.raises(money.UnknownCurrency):
        money.exponent(currency)


def test_the_table_has_each_code_once() -> None:
    """A code that stood under two exponents would silently take the later one."""
    codes = [code for codes in money._CODES_BY_EXPONENT.values() for code in codes.split()]

    assert len(codes) == len(set(codes)) == len(money.EXPONENTS)
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in codes)


@pytest.mark.parametrize(
    ("currency", "amount", "text"),
    [
        ("USD", 2599, "25.99"),
        ("USD", 5, "0.05"),
        ("USD", 0, "0.00"),
        ("USD", -5, "-0.05"),
        ("USD", money.MAX_AMOUNT, "9999999999.99"),
        ("JPY", 2599, "2599"),
        ("JPY", -1, "-1"),
        ("KWD", 2599, "2.599"),
        ("CLF", 2599, "0.2599"),
    ],
)
def test_minor_units_are_printed_with_the_currencys_digits(currency: str, amount: int, text: str) -> None:
    """The same number is another price in another currency."""
    assert money.format_minor(currency, amount) == text


@pytest.mark.parametrize(
    ("amount", "numerator", "denominator", "share"),
    [(2599, 29, 1000, 75), (1, 1, 2, 1), (3, 1, 2, 2), (1, 49, 100, 0), (0, 29, 1000, 0), (money.MAX_AMOUNT, 1, 1, money.MAX_AMOUNT)],
)
def test_a_half_is_rounded_up(amount: int, numerator: int, denominator: int, share: int) -> None:
    """Half up, not to the even neighbor."""
    assert money.share_half_up(amount, numerator, denominator) == share


@given(st.integers(0, money.MAX_AMOUNT), st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_share_is_the_nearest_whole_number(amount: int, numerator: int, denominator: int) -> None:
    """The share is off by half a minor unit at most, and by exactly that only upwards."""
    off = money.share_half_up(amount, numerator, denominator) - Fraction(amount * numerator, denominator)

    assert Fraction(-1, 2) < off <= Fraction(1, 2)


@pytest.mark.parametrize(("amount", "numerator", "denominator"), [(-1, 1, 2), (1, -1, 2), (1, 1, 0), (1, 1, -2)])
def test_a_share_of_something_negative_is_refused(amount: int, numerator: int, denominator: int) -> None:
    """Half up has two meanings below zero, so it has none here."""
    with pytest.raises(ValueError):
        money.share_half_up(amount, numerator, denominator)
