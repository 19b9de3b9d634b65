"""The test cards: what each one does, by the name after `tok_sandbox_`."""

from typing import Final, Literal

import msgspec


class CardFacts(msgspec.Struct, frozen=True):
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    funding: str


class Decline(msgspec.Struct, frozen=True):
    code: str
    network_code: str | None
    message: str


class TestCard(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    facts: CardFacts
    decline: Decline | None = None
    challenge: bool = False
    declined_after_challenge: Decline | None = None
    capture_declined: Decline | None = None
    refund: Literal["at_once", "pending", "fails_later"] = "at_once"
    slow: bool = False
    answers: bool = True


DO_NOT_HONOR: Final = Decline("do_not_honor", "05", "Do not honor")
AUTHENTICATION_FAILED: Final = Decline("authentication_failed", None, "The cardholder was not authenticated")
REFUND_FAILED: Final = Decline("refund_failed", None, "The issuer sent the refund back")
CAPTURE_DECLINED: Final = Decline("capture_declined", None, "The capture was refused")


def _facts(last4: str) -> CardFacts:
    # The year is fixed so that equal requests give equal answers; far enough to outlive every book.
    return CardFacts(brand="visa", last4=last4, exp_month=12, exp_year=2040, funding="credit")


_TABLE: Final = (
    TestCard(name="approved", facts=_facts("4242")),
    TestCard(name="declined", facts=_facts("0002"), decline=DO_NOT_HONOR),
    TestCard(name="insufficient_funds", facts=_facts("9995"), decline=Decline("insufficient_funds", "51", "Insufficient funds")),
    TestCard(name="expired_card", facts=_facts("0069"), decline=Decline("expired_card", "54", "Expired card")),
    TestCard(name="lost_card", facts=_facts("9987"), decline=Decline("lost_card", "41", "Lost card, pick up")),
    TestCard(name="incorrect_cvc", facts=_facts("0127"), decline=Decline("incorrect_cvc", "N7", "Decline for CVV2 failure")),
    TestCard(name="processing_error", facts=_facts("0119"), decline=Decline("processing_error", "96", "System malfunction")),
    TestCard(name="authentication_required", facts=_facts("3184"), challenge=True),
    TestCard(name="declined_after_authentication", facts=_facts("1629"), challenge=True, declined_after_challenge=DO_NOT_HONOR),
    # Approved for now: this provider raises no chargebacks yet.
    TestCard(name="disputed", facts=_facts("0259")),
    TestCard(name="refund_pending", facts=_facts("7726"), refund="pending"),
    TestCard(name="refund_fails_later", facts=_facts("5126"), refund="fails_later"),
    TestCard(name="capture_declined", facts=_facts("8203"), capture_declined=CAPTURE_DECLINED),
    TestCard(name="timeout_after_effect", facts=_facts("8302"), answers=False),
    TestCard(name="slow", facts=_facts("8401"), slow=True),
)

CARDS: Final[dict[str, TestCard]] = {f"tok_sandbox_{card.name}": card for card in _TABLE}
