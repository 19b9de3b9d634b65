"""What the clients ask for and what must have come of it in the end, both decided by the seed before anything is started."""

import random
from typing import Literal, NamedTuple

# Payments begin at this rate: slow enough that a small machine can restart what was killed, quick enough that each kill hits many.
PER_SECOND = 16.0
CURRENCIES = ("EUR", "USD", "JPY")
APPROVED = "tok_sandbox_approved"
DECLINES = {
    "tok_sandbox_declined": "do_not_honor",
    "tok_sandbox_insufficient_funds": "insufficient_funds",
    "tok_sandbox_lost_card": "lost_card",
}

Kind = Literal["sale", "one_call", "refunded", "refunded_in_parts", "captured", "captured_in_part", "voided", "declined", "other_card"]

# Out of a hundred. The plain sale is most of what a gateway does; the others are where two steps can come apart.
_SHARES: dict[Kind, int] = {
    "sale": 40,
    "one_call": 8,
    "refunded": 8,
    "refunded_in_parts": 10,
    "captured": 8,
    "captured_in_part": 6,
    "voided": 6,
    "declined": 8,
    "other_card": 6,
}


class Journey(NamedTuple):
    """One payer's way: an intent, a card for each attempt, and what the merchant does afterwards.

    `capture` and `refunds` are amounts in minor units; `patience_seconds` is how long the client waits at first before it
    hangs up and asks again under the same key.
    """

    number: int
    kind: Kind
    amount: int
    currency: str
    tokens: tuple[str, ...]
    capture: int | None
    void: bool
    refunds: tuple[int, ...]
    starts_after_seconds: float
    patience_seconds: float

    @property
    def manual(self) -> bool:
        return self.capture is not None or self.void

    @property
    def charged(self) -> bool:
        return self.tokens[-1] == APPROVED

    @property
    def captured(self) -> int:
        """What the payer has paid in the end, before refunds."""
        if not self.charged or self.void:
            return 0
        return self.amount if self.capture is None else self.capture

    @property
    def intent_status(self) -> str:
        if self.void:
            return "canceled"
        return "succeeded" if self.charged else "requires_payment_method"

    @property
    def payment_status(self) -> str:
        if self.void:
            return "voided"
        if not self.charged:
            return "failed"
        returned = sum(self.refunds)
        if returned == 0:
            return "captured"
        return "refunded" if returned == self.captured else "partially_refunded"


def journeys(payments: int, seed: int) -> list[Journey]:
    """`payments` journeys; the same for the same seed."""
    chance = random.Random(f"journeys {seed}")  # noqa: S311 - repeatable, guards nothing
    kinds = random.Random(f"kinds {seed}").choices(list(_SHARES), weights=list(_SHARES.values()), k=payments)  # noqa: S311 - as above
    return [_journey(number, kind, chance) for number, kind in enumerate(kinds)]


def _journey(number: int, kind: Kind, chance: random.Random) -> Journey:
    amount = chance.randint(200, 99_999)
    declined = chance.choice(list(DECLINES))
    tokens: tuple[str, ...] = (APPROVED,)
    if kind == "declined":
        tokens = (declined,)
    elif kind == "other_card":
        tokens = (declined, APPROVED)
    capture = {"captured": amount, "captured_in_part": chance.randint(1, amount - 1)}.get(kind)
    return Journey(
        number=number,
        kind=kind,
        amount=amount,
        currency=chance.choice(CURRENCIES),
        tokens=tokens,
        capture=capture,
        void=kind == "voided",
        refunds=_refunds(kind, amount, chance),
        starts_after_seconds=(number + chance.random()) / PER_SECOND,
        # Some hang up in the middle of an answer, most wait as long as the API lets them.
        patience_seconds=chance.choice((0.3, 1.0, 12.0, 12.0)),
    )


def _refunds(kind: Kind, amount: int, chance: random.Random) -> tuple[int, ...]:
    if kind == "refunded":
        return (amount,)
    if kind == "refunded_in_parts":
        # At most all of it together, so none may be refused however they overlap.
        parts = chance.randint(2, 3)
        return tuple(chance.randint(1, amount // parts) for _ in range(parts))
    return ()
