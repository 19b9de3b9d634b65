"""What clients ask and are answered, and what the book remembers of a charge."""

from typing import Annotated, Literal

import msgspec

from sandbox.cards import CardFacts

OperationType = Literal["sale", "authorize", "capture", "void", "refund"]
Status = Literal["captured", "authorized", "succeeded", "declined", "requires_action", "pending"]

Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=999_999_999_999)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
# A browser is sent there after the challenge, so nothing but a web address.
ReturnUrl = Annotated[str, msgspec.Meta(pattern="^(https?://.*)?$", max_length=2048)]


class ChargeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A sale or an authorization."""

    reference: Reference
    amount: Amount
    currency: Currency
    payment_method: Annotated[str, msgspec.Meta(max_length=255)]
    merchant_reference: Annotated[str, msgspec.Meta(max_length=255)] = ""
    return_url: ReturnUrl = ""
    merchant: Annotated[str, msgspec.Meta(max_length=255)] = ""


class CaptureRequest(msgspec.Struct, frozen=True, kw_only=True):
    reference: Reference
    charge: Reference
    amount: Amount
    currency: Currency


class VoidRequest(msgspec.Struct, frozen=True, kw_only=True):
    reference: Reference
    charge: Reference


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True):
    reference: Reference
    charge: Reference
    amount: Amount
    currency: Currency


AnyRequest = ChargeRequest | CaptureRequest | VoidRequest | RefundRequest


class CaptureAnswer(msgspec.Struct, frozen=True):
    status: str
    decline_code: str | None
    network_code: str | None
    message: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How an operation stands; the same shape in answers, look-ups and callbacks."""

    id: str
    charge: str
    reference: str
    operation: OperationType
    status: Status
    amount: int
    currency: str
    authorization_code: str | None = None
    decline_code: str | None = None
    network_code: str | None = None
    message: str | None = None
    card: CardFacts | None = None
    redirect_url: str | None = None
    capture: CaptureAnswer | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    token: str
    operation: OperationType  # the one that made it
    state: Literal["requires_action", "authorized", "captured", "voided", "declined"]
    amount: int
    currency: str
    captured: int = 0
    refunded: int = 0  # refunds that are pending count
    return_url: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation comes to. `effect` is the line it adds to the journal; None for a decline, or while nothing has happened yet."""

    answer: Answer
    charge: Charge | None = None  # as it is from now on; None: unchanged
    effect: OperationType | None = None
    more_later: bool = False


def http_status(answer: Answer) -> int:
    return 402 if answer.status == "declined" else 200


def problem(code: str, message: str) -> bytes:
    """The body of an answer that is about no operation."""
    return msgspec.json.encode({"error": {"code": code, "message": message}})
