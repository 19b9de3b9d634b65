"""Which entries a fact makes: one table from event to debits and credits."""

from typing import Literal, NamedTuple

from app.core.money import share_half_up

Account = Literal[
    "customer_payment_clearing",
    "merchant_pending",
    "merchant_available",
    "merchant_fee_expense",
    "platform_revenue",
    "authorization_holds",
    "authorization_holds_contra",
    "psp_suspense",
]
Direction = Literal["debit", "credit"]
Event = Literal["authorized", "captured", "released", "refunded", "refund_reversed", "suspense_received", "suspense_returned"]
Part = Literal["amount", "fee", "hold"]

# The one price list there is for now: 2.9 % and 30 minor units of the payment's currency. Source: R086 with the figures.
FEE_PER_MILLE = 29
FEE_FIXED = 30


class Leg(NamedTuple):
    """The same part of a posting, once as a debit and once as a credit."""

    debit: Account
    credit: Account
    part: Part


class Rule(NamedTuple):
    type: str
    legs: tuple[Leg, ...]
    # What a reversal undoes: the transaction of this type with the same reference.
    reverses_type: str | None = None


class Entry(NamedTuple):
    account_id: Account
    direction: Direction
    amount: int


_LET_GO = Leg("authorization_holds_contra", "authorization_holds", "hold")

RULES: dict[Event, Rule] = {
    "authorized": Rule("auth", (Leg("authorization_holds", "authorization_holds_contra", "hold"),)),
    # A capture is final, so it lets go of the whole hold, whatever part of it is taken. A sale has no hold: that leg is empty.
    "captured": Rule(
        "capture",
        (
            _LET_GO,
            Leg("customer_payment_clearing", "merchant_pending", "amount"),
            Leg("merchant_fee_expense", "platform_revenue", "fee"),
        ),
    ),
    "released": Rule("release", (_LET_GO,)),
    # The fee is kept: the work was done.
    "refunded": Rule("refund", (Leg("merchant_pending", "customer_payment_clearing", "amount"),)),
    "refund_reversed": Rule("reversal", (Leg("customer_payment_clearing", "merchant_pending", "amount"),), reverses_type="refund"),
    # A PSP took, or gave back, money that no rule of ours admits. It is nobody's until an operator or a compensation says whose.
    "suspense_received": Rule("suspense", (Leg("customer_payment_clearing", "psp_suspense", "amount"),)),
    "suspense_returned": Rule("suspense", (Leg("psp_suspense", "customer_payment_clearing", "amount"),)),
}


def fee(amount: int) -> int:
    """Of a captured amount, in minor units: 2599 makes 105."""
    return share_half_up(amount, FEE_PER_MILLE, 1000) + FEE_FIXED


def entries_for(event: Event, *, amount: int = 0, fee: int = 0, hold: int = 0) -> tuple[Entry, ...]:
    """The debits and credits of `event`. A leg whose part is 0 is left out; at least one has to remain."""
    parts = {"amount": amount, "fee": fee, "hold": hold}
    rule = RULES[event]
    unused = {part for part, value in parts.items() if value} - {leg.part for leg in rule.legs}
    entries = tuple(
        entry
        for leg in rule.legs
        if parts[leg.part]
        for entry in (Entry(leg.debit, "debit", parts[leg.part]), Entry(leg.credit, "credit", parts[leg.part]))
    )
    if unused or not entries or min(parts.values()) < 0:
        raise ValueError(f"{event} cannot be booked with {parts}")
    return entries
