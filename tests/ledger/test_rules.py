from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.money import MAX_AMOUNT
from app.ledger.rules import RULES, Entry, Event, entries_for, fee


def test_a_payment_of_25_99_makes_the_entries_of_the_worked_example() -> None:
    """R086: clearing against pending for the amount, fee expense against revenue for the fee."""
    assert fee(2599) == 105
    assert entries_for("captured", amount=2599, fee=105) == (
        Entry("customer_payment_clearing", "debit", 2599),
        Entry("merchant_pending", "credit", 2599),
        Entry("merchant_fee_expense", "debit", 105),
        Entry("platform_revenue", "credit", 105),
    )


def test_a_capture_after_a_hold_lets_go_of_the_whole_hold() -> None:
    """However little is captured, nothing of the authorization stands afterwards."""
    assert entries_for("captured", amount=1000, fee=59, hold=2599)[:2] == (
        Entry("authorization_holds_contra", "debit", 2599),
        Entry("authorization_holds", "credit", 2599),
    )


@pytest.mark.parametrize(
    ("amount", "charged"), [(1, 30), (17, 30), (18, 31), (50, 31), (52, 32), (10_000, 320), (MAX_AMOUNT, 29_000_000_030)]
)
def test_the_fee_is_2_9_percent_half_up_and_30(amount: int, charged: int) -> None:
    """Half of a minor unit is rounded up, the fixed part is minor units of the payment's currency."""
    assert fee(amount) == charged


@given(st.sampled_from(sorted(RULES)), st.integers(1, MAX_AMOUNT), st.integers(1, MAX_AMOUNT), st.integers(1, MAX_AMOUNT))
def test_every_rule_balances(event: Event, amount: int, charged: int, hold: int) -> None:
    """Debits equal credits for each fact, whatever its figures."""
    parts = {"amount": amount, "fee": charged, "hold": hold}
    used: dict[str, Any] = {part: parts[part] for part in {leg.part for leg in RULES[event].legs}}

    entries = entries_for(event, **used)

    assert sum(one.amount if one.direction == "debit" else -one.amount for one in entries) == 0
    assert all(one.amount > 0 for one in entries)


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        ("captured", {}),
        ("authorized", {"amount": 2599}),
        ("refunded", {"amount": 100, "fee": 30}),
        ("released", {"hold": -1}),
        ("captured", {"amount": 100, "fee": -30}),
    ],
)
def test_a_fact_with_figures_it_does_not_have_is_refused(event: Event, parts: dict[str, int]) -> None:
    """A part that no leg of the rule takes would vanish without a trace, so it is an error."""
    with pytest.raises(ValueError, match=event):
        entries_for(event, **parts)
