"""What a risk check answers."""

from typing import Literal

import msgspec


class Decision(msgspec.Struct, frozen=True):
    """`reasons` name the rules that spoke."""

    verdict: Literal["allow", "block", "review"]
    reasons: tuple[str, ...] = ()


class Attempt(msgspec.Struct, frozen=True):
    """What the rules may look at; `amount` is in minor units."""

    merchant_id: str
    livemode: bool
    amount: int
    currency: str
    method_type: str
    attempt_count: int
    customer_id: str | None = None


def assess(_: Attempt) -> Decision:
    """Allows everything for now; the confirm batch already asks, so rules have a place to stand."""
    return Decision("allow")
