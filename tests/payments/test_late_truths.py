"""Answers that come out of turn: an old one is never taken for news, and news is never dropped."""

from datetime import timedelta
from typing import Any

import pytest

from app.core.clock import now
from app.providers.base import ActionRequired, Approved, Unknown
from tests.payments.builders import CHARGE, Counter, approved, declined
from tests.payments.test_outcome import assert_books_balance

UNKNOWN = Unknown(why="status 500")
EXCEPTIONS = "SELECT kind, amount, currency FROM exceptions ORDER BY opened_at"


async def test_a_look_up_that_learned_nothing_is_asked_again_also_after_the_end(counter: Counter) -> None:
    """A callback may have hinted at something about a closed operation: one failed look-up must not lose it."""
    operation = (await counter.captured()).operation.id

    assert await counter.tell(operation, UNKNOWN, looked_up=True)
    assert (await counter.read(operation)).operation.next_lookup_at is not None


async def test_a_repeated_first_answer_is_not_news(counter: Counter, database: str) -> None:
    """A refund came back; then the request is sent again, and the provider repeats that it succeeded: it is looked up, not booked."""
    refund = await counter.refund((await counter.captured()).payment.id)
    asked_at = now()
    await counter.tell(refund, approved())
    await counter.tell(refund, declined("refund_failed"))

    assert await counter.tell(refund, approved(), asked_at=asked_at)

    after = await counter.read(refund)
    assert (after.operation.status, after.operation.next_lookup_at is not None) == ("failed", True)
    assert await counter.rows(EXCEPTIONS) == []
    await assert_books_balance(counter, database)


async def test_an_overtaken_look_up_is_not_news(counter: Counter) -> None:
    """What was asked before the operation was closed says nothing about what came after."""
    refund = await counter.refund((await counter.captured()).payment.id)
    await counter.tell(refund, approved())

    await counter.tell(refund, declined("refund_failed"), asked_at=now() - timedelta(minutes=1), looked_up=True)

    assert (await counter.read(refund)).operation.status == "succeeded"


async def test_another_amount_is_an_exception_once_a_look_up_has_found_it(counter: Counter, database: str) -> None:
    """The echo of an answer may be garbled; what a look-up finds has happened, stands in suspense, and somebody owns it."""
    operation = await counter.sale()
    await counter.tell(operation, approved(10001))
    echoed = await counter.rows(EXCEPTIONS)
    for _ in range(3):
        await counter.tell(operation, approved(10001), asked_at=now(), looked_up=True)

    assert echoed == []
    assert await counter.rows(EXCEPTIONS) == [("other_amount", 10001, "EUR")]
    assert (await counter.read(operation)).operation.status == "unknown"
    await assert_books_balance(counter, database)


async def test_another_amount_after_the_end_is_an_exception_once(counter: Counter, database: str) -> None:
    """Each look-up finds it again: it is booked by the first, and the others are no rows that nobody can ever book."""
    operation = await counter.sale()
    await counter.tell(operation, declined())
    for _ in range(3):
        await counter.tell(operation, approved(10001), asked_at=now(), looked_up=True)

    assert await counter.rows(EXCEPTIONS) == [("other_amount", 10001, "EUR")]
    assert await counter.rows("SELECT type FROM ledger_transactions") == [("suspense",)]
    await assert_books_balance(counter, database)


@pytest.mark.parametrize("last", [approved(), approved(10001)])
async def test_what_stands_in_suspense_already_does_not_stand_in_the_way_of_the_truth(
    counter: Counter, database: str, last: Approved
) -> None:
    """Another amount, then a decline, then the approval after all: both are exceptions, and one effect is in suspense once."""
    operation = await counter.sale()
    await counter.tell(operation, approved(10001), asked_at=now(), looked_up=True)
    await counter.tell(operation, declined(), asked_at=now(), looked_up=True)
    for _ in range(2):
        await counter.tell(operation, last, asked_at=now(), looked_up=True)

    late = [("late_sale", 10000, "EUR")] if last.amount == 10000 else []
    assert await counter.rows(EXCEPTIONS) == [("other_amount", 10001, "EUR"), *late]
    assert await counter.rows("SELECT type FROM ledger_transactions") == [("suspense",)]
    await assert_books_balance(counter, database)


async def test_a_second_opinion_on_a_booked_sale_is_asked_about_and_not_booked(counter: Counter, database: str) -> None:
    """Another amount, the right one, and the other one again: what was captured stays, and the provider is asked once more."""
    operation = await counter.sale()
    for amount in (10001, 10000, 10001):
        await counter.tell(operation, approved(amount), asked_at=now(), looked_up=True)

    assert (await counter.read(operation)).payment.amount_captured == 10000
    assert await counter.rows(EXCEPTIONS) == [("other_amount", 10001, "EUR")]
    await assert_books_balance(counter, database)


NO_BOOK_HOLDS = {
    "more than a bigint": {"amount": 2**63},
    "hundreds of digits": {"amount": 10**400},
    "nothing": {"amount": 0},
    "less than nothing": {"amount": -1},
    "small letters": {"currency": "eur"},
    "no currency": {"currency": ""},
}


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("told", NO_BOOK_HOLDS.values(), ids=NO_BOOK_HOLDS)
async def test_what_no_book_can_hold_is_an_exception_of_what_was_asked(
    counter: Counter, database: str, *, told: dict[str, Any], ended: bool
) -> None:
    """A look-up finds an amount or a currency that cannot be: somebody sees it, and nothing is booked of it."""
    operation = await counter.sale()
    if ended:
        await counter.tell(operation, declined())
    for _ in range(2):
        await counter.tell(operation, approved(**told), asked_at=now(), looked_up=True)

    assert await counter.rows(EXCEPTIONS) == [("other_amount", 10000, "EUR")]
    ((detail,),) = await counter.rows("SELECT detail FROM exceptions")
    assert {name: detail["told"][name] for name in told} == told
    assert (await counter.read(operation)).operation.status == ("declined" if ended else "unknown")
    assert await counter.rows("SELECT type FROM ledger_transactions") == []
    await assert_books_balance(counter, database)


async def test_a_late_void_of_no_amount_is_an_exception_of_the_authorization(counter: Counter, database: str) -> None:
    """A void is of all that was authorized, whatever amount a provider names with it, and none is named often."""
    void = await counter.void((await counter.authorized()).payment.id)
    await counter.tell(void, declined())
    await counter.tell(void, approved(0), asked_at=now(), looked_up=True)

    assert await counter.rows(EXCEPTIONS) == [("late_void", 10000, "EUR")]
    await assert_books_balance(counter, database)


async def test_a_compensation_that_is_refused_is_owned(counter: Counter, database: str) -> None:
    """The order was canceled while the sale was under way, and the provider refuses to give the money back."""
    operation = await counter.sale()
    await counter.cancel((await counter.read(operation)).intent.id)
    await counter.tell(operation, approved())
    after = await counter.read(operation)
    refund = await counter.open_operation(after.payment.id)
    await counter.tell(refund.id, declined("processing_error"))

    assert (after.intent.status, refund.type) == ("canceled", "refund")
    assert await counter.rows(EXCEPTIONS) == [("compensation_refused", 10000, "EUR")]
    await assert_books_balance(counter, database)


async def test_a_cancel_that_was_taken_calls_the_challenge_off(counter: Counter) -> None:
    """The payer is never sent to a challenge for a payment whose cancellation we have accepted."""
    operation = await counter.sale()
    await counter.cancel((await counter.read(operation)).intent.id)
    await counter.tell(operation, ActionRequired(provider_ref=CHARGE, redirect_url="https://psp.example/3ds"))
    standing = await counter.read(operation)

    assert (standing.intent.status, standing.intent.next_action, standing.operation.status) == ("canceled", None, "failed")
    assert (await counter.open_operation(standing.payment.id)).type == "void"


async def test_an_unknown_refund_does_not_speak_for_another(counter: Counter) -> None:
    """`latest_operation` shows the refund that was asked for last, and its status."""
    payment = (await counter.captured()).payment
    first, second = await counter.refund(payment.id, 1000), await counter.refund(payment.id, 2000)
    await counter.tell(second, approved(2000))
    await counter.tell(first, UNKNOWN)

    shown = (await counter.read(second)).payment.latest_operation
    assert shown is not None
    assert (shown["amount"], shown["status"]) == (2000, "succeeded")
