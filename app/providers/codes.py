"""Why payments are refused: one row per reason, with what may be done about it beside it.

Network codes are the card networks' response codes (ISO 8583 field 39 and Visa's and Mastercard's additions). What may be
retried follows the networks' own rules for merchants: Visa's "decline response code categories" (1 never approve again, 2 cannot
approve now, 3 data quality, 4 generic) and Mastercard's "merchant advice codes" (01 new data, 02 try later, 03 do not try again).
"""

from typing import Final, Literal

import msgspec

# now: the same request again may pass at once; later: the same card another day; changed: mended data or an authenticated
# payer; never: the card networks forbid (and fine) another attempt with this card, or it cannot succeed.
Retry = Literal["now", "later", "changed", "never"]

VISA_1 = "Visa category 1"
VISA_2 = "Visa category 2"
VISA_3 = "Visa category 3"
VISA_4 = "Visa category 4"
PSP = "PSP, no network code"


class DeclineReason(msgspec.Struct, frozen=True):
    reason: str
    network_codes: tuple[str, ...]
    retry: Retry
    message: str  # to the merchant; says nothing a fraudster could use that the networks ask to keep back
    source: str

    @property
    def retryable(self) -> bool:
        return self.retry == "now"


_TABLE: Final = (
    DeclineReason("do_not_honor", ("05",), "later", "The issuer declined without giving a reason.", VISA_4),
    DeclineReason("insufficient_funds", ("51",), "later", "The account has insufficient funds.", VISA_2),
    DeclineReason("limit_exceeded", ("61", "65"), "later", "The card's amount or frequency limit is reached.", VISA_2),
    DeclineReason("expired_card", ("54",), "changed", "The card has expired; use another card or its new expiry date.", VISA_3),
    DeclineReason("incorrect_cvc", ("N7", "82"), "changed", "The security code is incorrect.", VISA_3),
    DeclineReason("incorrect_number", ("14",), "never", "There is no such card number.", VISA_1),
    DeclineReason("lost_card", ("41",), "never", "The card was refused; ask for another card.", VISA_1),
    DeclineReason("stolen_card", ("43",), "never", "The card was refused; ask for another card.", VISA_1),
    DeclineReason("pickup_card", ("04", "07"), "never", "The card was refused; ask for another card.", VISA_1),
    DeclineReason("account_closed", ("46",), "never", "The account is closed; ask for another card.", VISA_1),
    DeclineReason("transaction_not_allowed", ("57",), "never", "The card does not allow this kind of payment.", VISA_1),
    DeclineReason("restricted_card", ("62",), "later", "The card is restricted, for example to its own country.", VISA_2),
    DeclineReason("payment_stopped", ("R0", "R1", "R3"), "never", "The cardholder stopped payments to this merchant.", VISA_1),
    DeclineReason("suspected_fraud", ("59",), "later", "The issuer declined the payment.", VISA_2),
    DeclineReason("authentication_required", ("1A", "70"), "changed", "The issuer asks for the cardholder's authentication.", VISA_3),
    DeclineReason("authentication_failed", (), "changed", "The cardholder was not authenticated.", PSP),
    DeclineReason("processing_error", ("96",), "now", "The issuer could not process the payment; try again.", VISA_2),
    DeclineReason("issuer_unavailable", ("91",), "now", "The issuer could not be reached; try again.", VISA_2),
    DeclineReason("invalid_amount", ("13",), "changed", "The amount is not possible for this card or charge.", VISA_4),
    DeclineReason("provider_unavailable", (), "now", "The provider could not be reached; nothing was charged.", "ours: never sent"),
    DeclineReason("capture_declined", (), "never", "The provider refused to capture the authorized amount.", PSP),
    DeclineReason("refund_failed", (), "changed", "The card's issuer sent the refund back.", PSP),
    DeclineReason("charge_not_found", (), "never", "The provider does not know the charge.", PSP),
    DeclineReason("charge_not_authorized", (), "never", "The charge is not an open authorization.", PSP),
    DeclineReason("charge_not_captured", (), "never", "Nothing of the charge was captured.", PSP),
    DeclineReason("amount_too_large", (), "changed", "The amount exceeds what is left of the charge.", PSP),
    DeclineReason("canceled", (), "changed", "The payment was called off before the payer confirmed it.", PSP),
    DeclineReason("invalid_payment_method", (), "changed", "The provider does not know this payment method.", PSP),
    DeclineReason("invalid_request", (), "never", "The provider refused the request as ill-formed.", PSP),
    DeclineReason("unrecognized", (), "later", "The provider declined for a reason this gateway does not know.", PSP),
)

DECLINES: Final[dict[str, DeclineReason]] = {row.reason: row for row in _TABLE}
UNRECOGNIZED: Final = DECLINES["unrecognized"]
_BY_NETWORK_CODE: Final[dict[str, DeclineReason]] = {code: row for row in _TABLE for code in row.network_codes}


def reason_of(reason: str, *, network_code: str = "") -> DeclineReason:
    """The row of a PSP's reason, else of the network's code; `unrecognized` if neither is known, since a decline must never be dropped."""
    return DECLINES.get(reason) or _BY_NETWORK_CODE.get(network_code, UNRECOGNIZED)
