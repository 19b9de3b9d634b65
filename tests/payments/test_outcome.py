"""What an answer does to a payment, in the order in which answers really come: twice, late, wrong, contradicting each other."""

from datetime import timedelta

import pytest

from app.core.clock import now
from app.core.errors import OperationInProgress
from app.infra.db import connect
from app.ledger.balance import trial_balance, wallet_differences
from app.payments.model import PAYMENT
from app.payments.moves import FIRST_LOOK_UP, LONGEST_LOOK_UP, Moves, record
from app.payments.write import write
from app.providers.base import ActionRequired, Outcome, Pending, Unknown
from tests.payments.builders import CHARGE, Counter, approved, declined

CHALLENGE = ActionRequired(provider_ref=CHARGE, redirect_url="https://bank.example/3ds")
UNKNOWN = Unknown(why="no answer")
EXCEPTIONS = "SELECT kind, amount, currency, status FROM exceptions"
SUSPENSE = """
SELECT sum(CASE direction WHEN 'credit' THEN amount ELSE -amount END)::bigint FROM ledger_entries WHERE account_id = 'psp_suspense'"""


async def assert_books_balance(counter: Counter, database: str) -> None:
    async with await connect(database, role="tollgate_ops") as operator:
        assert (await trial_balance(operator)).balanced
        assert await wallet_differences(operator) == []
    (held,) = await counter.rows(
        "SELECT coalesce(sum(CASE direction WHEN 'debit' THEN amount ELSE -amount END), 0)::bigint FROM ledger_entries "
        "WHERE account_id = 'authorization_holds'"
    )
    (standing,) = await counter.rows("SELECT coalesce(sum(amount), 0)::bigint FROM payments WHERE status = 'authorized'")
    assert held == standing


@pytest.mark.parametrize(
    "outcome", [approved(), declined(), UNKNOWN, CHALLENGE, Pending(provider_ref=CHARGE)], ids=lambda o: type(o).__name__
)
async def test_an_answer_that_comes_twice_is_one(counter: Counter, database: str, outcome: Outcome) -> None:
    """The second time neither payment nor intent gets a new version, and nothing is booked again."""
    operation = await counter.sale()
    await counter.tell(operation, outcome)
    first = await counter.read(operation)
    entries = await counter.rows("SELECT count(*) FROM ledger_entries")
    await counter.tell(operation, outcome)
    second = await counter.read(operation)

    assert (second.payment.version, second.intent.version) == (first.payment.version, first.intent.version)
    assert await counter.rows("SELECT count(*) FROM ledger_entries") == entries
    await assert_books_balance(counter, database)


async def test_a_decline_after_an_approval_changes_nothing(counter: Counter) -> None:
    """Events out of order never take a payment back."""
    standing = await counter.captured()

    assert await counter.tell(standing.operation.id, declined()) is False
    assert await counter.tell(standing.operation.id, UNKNOWN) is False
    assert (await counter.read(standing.operation.id)).payment.status == "captured"


@pytest.mark.parametrize(
    ("kind", "suspense"), [("sale", 10000), ("authorize", None), ("capture", 10000), ("refund", -10000), ("void", None)]
)
async def test_a_success_after_a_failure_is_booked_and_owned(counter: Counter, database: str, kind: str, suspense: int | None) -> None:
    """No edge admits it: an exception is opened once, moved money stands in suspense, the payment stays as it is."""
    if kind in ("sale", "authorize"):
        operation = await counter.sale(capture_method="automatic" if kind == "sale" else "manual")
    elif kind == "refund":
        operation = await counter.refund((await counter.captured()).payment.id)
    else:
        payment = (await counter.authorized()).payment
        operation = await (counter.capture(payment.id) if kind == "capture" else counter.void(payment.id))
    await counter.tell(operation, declined())
    before = await counter.read(operation)
    moved = await counter.tell(operation, approved())
    after = await counter.read(operation)

    assert moved
    assert (after.payment.status, after.payment.version) == (before.payment.status, before.payment.version)
    assert await counter.rows(EXCEPTIONS) == [(f"late_{kind}", 10000, "EUR", "open")]
    assert await counter.rows(SUSPENSE) == [(suspense,)]
    await assert_books_balance(counter, database)


@pytest.mark.parametrize("kind", ["sale", "authorize"])
async def test_a_late_success_that_is_told_again_is_one_exception(counter: Counter, kind: str) -> None:
    """A look-up and a callback bring the same truth: it is booked once, and neither becomes a poison message."""
    operation = await counter.sale(capture_method="automatic" if kind == "sale" else "manual")
    await counter.tell(operation, declined())
    for _ in range(3):
        await counter.tell(operation, approved())

    assert await counter.rows("SELECT count(*) FROM exceptions") == [(1,)]
    assert await counter.rows(SUSPENSE) == [(10000 if kind == "sale" else None,)]


@pytest.mark.parametrize("wrong", [approved(9999), approved(10001), approved(currency="USD")])
async def test_an_approval_of_something_else_is_unknown(counter: Counter, wrong: Outcome) -> None:
    """Another amount or currency than was asked for is no success; the provider is asked again."""
    operation = await counter.sale()
    await counter.tell(operation, wrong)
    unclear = await counter.read(operation)
    await counter.tell(operation, approved())

    assert (unclear.operation.status, unclear.payment.status, unclear.payment.amount_captured) == ("unknown", "pending_auth", 0)
    assert unclear.operation.next_lookup_at is not None
    assert (await counter.read(operation)).payment.status == "captured"


async def test_an_unknown_outcome_is_asked_about_ever_more_slowly(counter: Counter) -> None:
    """From two seconds to ten minutes; time alone never turns it into a failure."""
    operation, at = await counter.sale(), now()
    waits = []
    for _ in range(14):
        await counter.tell(operation, UNKNOWN, at=at)
        due_at = (await counter.read(operation)).operation.next_lookup_at
        assert due_at is not None
        waits.append(due_at - at)
        at += timedelta(days=1)
    standing = await counter.read(operation)

    assert (waits[0], waits[1], waits[-1]) == (FIRST_LOOK_UP, FIRST_LOOK_UP * 2, LONGEST_LOOK_UP)
    assert waits == sorted(waits)
    assert (standing.operation.status, standing.payment.status, standing.intent.status) == ("unknown", "pending_auth", "processing")
    assert standing.payment.pending_operation is not None
    assert standing.payment.pending_operation["status"] == "unknown"


async def test_an_abandoned_challenge_ends_with_its_intent(counter: Counter, database: str) -> None:
    """While there is time the payer is waited for; afterwards the challenge is called off, and the payment ends with the void."""
    operation = await counter.sale()
    await counter.tell(operation, CHALLENGE)
    waiting = await counter.read(operation)
    await counter.tell(operation, CHALLENGE, at=waiting.intent.expires_at - timedelta(seconds=1))
    still = await counter.read(operation)
    await counter.tell(operation, CHALLENGE, at=waiting.intent.expires_at)
    given_up = await counter.read(operation)
    await counter.tell((await counter.open_operation(given_up.payment.id)).id, approved())
    after = await counter.read(operation)

    assert (still.intent.status, still.payment.status) == ("requires_action", "pending_auth")
    assert (given_up.intent.status, given_up.payment.status, given_up.operation.status) == ("expired", "pending_auth", "failed")
    assert (after.intent.status, after.payment.status, after.operation.status) == ("expired", "expired", "failed")
    assert (after.intent.next_action, after.payment.pending_operation) == (None, None)
    await assert_books_balance(counter, database)


async def test_a_payment_whose_intent_was_canceled_meanwhile_is_given_back(counter: Counter, database: str) -> None:
    """The payer was quicker than the void: a sale is refunded, an authorization voided, and the intent stays canceled."""
    for capture_method, undone_by in (("automatic", "refund"), ("manual", "void")):
        operation = await counter.sale(capture_method=capture_method)
        await counter.tell(operation, CHALLENGE)
        await counter.cancel((await counter.read(operation)).intent.id)
        calling_off = await counter.open_operation((await counter.read(operation)).payment.id)
        assert await counter.tell(operation, approved())  # too early: the void decides
        assert (await counter.read(operation)).payment.status == "pending_auth"
        await counter.tell(calling_off.id, declined("charge_not_authorized"))
        await counter.tell(operation, approved())
        after = await counter.read(operation)
        undoing = await counter.open_operation(after.payment.id)
        await counter.tell(undoing.id, approved())

        assert (after.intent.status, undoing.type) == ("canceled", undone_by)
        assert (await counter.read(operation)).payment.status == {"refund": "refunded", "void": "voided"}[undone_by]
    await assert_books_balance(counter, database)


async def test_a_refused_void_leaves_the_authorization(counter: Counter) -> None:
    """It can be captured, or voided again."""
    payment = (await counter.authorized()).payment
    operation = await counter.void(payment.id)
    await counter.tell(operation, declined("charge_not_authorized"))
    after = await counter.read(operation)
    await counter.tell(await counter.capture(payment.id), approved())

    assert (after.payment.status, after.payment.pending_operation) == ("authorized", None)
    assert (await counter.read(operation)).payment.status == "captured"


async def test_a_refund_that_comes_back_can_be_given_again(counter: Counter, database: str) -> None:
    """Its reversal mirrors what was booked, and of several refunds only its own amount comes back."""
    payment = (await counter.captured()).payment
    first, second = await counter.refund(payment.id, 3000), await counter.refund(payment.id, 2000)
    for operation, amount in ((first, 3000), (second, 2000)):
        await counter.tell(operation, approved(amount))
    await counter.tell(first, declined("refund_failed"))
    after = await counter.read(first)
    assert await counter.tell(first, declined("refund_failed")) is False

    assert after.refund is not None
    assert (after.refund.status, after.payment.status, after.payment.amount_refunded) == ("failed", "partially_refunded", 2000)
    await counter.tell(await counter.refund(payment.id, 8000), approved(8000))
    assert (await counter.read(first)).payment.status == "refunded"
    await assert_books_balance(counter, database)


@pytest.mark.parametrize("status", ["disputed", "won", "lost"])
async def test_a_refund_that_was_under_way_when_a_dispute_came_is_booked(counter: Counter, database: str, status: str) -> None:
    """Limits bind requests, never facts: the amounts move, whatever the payment's chapter is by then."""
    payment = (await counter.captured()).payment
    operation = await counter.refund(payment.id, 3000)
    await disputed(counter, operation, status)
    await counter.tell(operation, approved(3000))
    after = await counter.read(operation)
    await counter.tell(operation, declined("refund_failed"))
    back = await counter.read(operation)

    assert after.refund is not None
    assert (after.refund.status, after.payment.amount_refunded, after.payment.refund_reserved) == ("succeeded", 3000, 0)
    assert after.payment.status == ("partially_refunded" if status == "won" else status)
    assert back.payment.amount_refunded == 0
    await assert_books_balance(counter, database)


async def disputed(counter: Counter, operation_id: str, status: str) -> None:
    """No action leads there yet, so it is recorded as the future one will have to."""
    payment = (await counter.read(operation_id)).payment
    for event in dict.fromkeys(("disputed", status)):
        moves = Moves(now=now(), actor="test")
        record(moves, PAYMENT, payment, event, event, operation_id=None)
        async with counter.writer.transaction():
            await write(counter.writer, moves)


async def test_a_second_operation_waits_for_the_first(counter: Counter) -> None:
    """Unknown is open: neither capture nor void until it is known."""
    payment = (await counter.authorized()).payment
    operation = await counter.capture(payment.id)
    await counter.tell(operation, UNKNOWN)

    with pytest.raises(OperationInProgress) as refusal:
        await counter.void(payment.id)
    shown = refusal.value.extra["pending_operation"]
    assert isinstance(shown, dict)
    assert (shown["type"], shown["status"]) == ("capture", "unknown")
