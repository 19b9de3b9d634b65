"""Answers that come out of turn: an old one is never taken for news, and news is never dropped."""

from datetime import timedelta

from app.core.clock import now
from app.providers.base import ActionRequired, Unknown
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
