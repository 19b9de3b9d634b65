"""Each CHECK of intents, payments, operations, refunds, exceptions and keys refuses the row that breaks its sentence."""

import asyncio
from typing import Any

import psycopg
import pytest

from app.core.ids import new_id
from app.core.machine import Edge
from app.infra.db import Connection, connect
from app.payments.model import INTENT, PAYMENT
from tests.refusal import refused
from tests.sql.rows import AT, LOOP, Row, asked, born, event, insert, key, moved, reserved, row, step, update, walked

CREATED = Edge("created", "none", "created")


async def captured(connection: Connection) -> Row:
    return await walked(connection, "payments", "captured")


async def touch(connection: Connection, payment: Row, **changes: Any) -> Row:
    """A legal change of a payment's columns: its status stays."""
    return await moved(connection, "payments", payment, Edge("operation_updated", payment["status"], payment["status"]), **changes)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount": 0}, "payment_amount_is_1_to_999_999_999_999"),
        ({"amount": 10**12}, "payment_amount_is_1_to_999_999_999_999"),
        ({"currency": "eur"}, "payment_currency_is_iso_4217"),
        ({"currency": "EURO"}, "payment_currency_is_iso_4217"),
        ({"capture_method": "sometimes"}, "payment_capture_is_automatic_or_manual"),
        ({"fee": -1}, "payment_fee_is_not_negative"),
    ],
)
async def test_a_payment_is_well_formed(writer: Connection, changes: Row, constraint: str) -> None:
    """From its first row on."""
    with refused(constraint):
        await born(writer, "payments", CREATED, **{"fee": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount_captured": 10001}, "captured_is_within_authorized"),
        ({"amount_captured": -1}, "captured_is_within_authorized"),
        ({"amount_refunded": 10001}, "refund_total_is_within_captured"),
        ({"refund_reserved": 10001}, "refund_total_is_within_captured"),
        ({"amount_refunded": 4000, "refund_reserved": 6001}, "refund_total_is_within_captured"),
        ({"amount_refunded": -1, "refund_reserved": 1}, "refund_total_is_within_captured"),
        ({"amount_refunded": 1, "refund_reserved": -1}, "refund_total_is_within_captured"),
        ({"amount_captured": 5000, "amount_refunded": 5001}, "refund_total_is_within_captured"),
        ({"amount_disputed": 10001}, "disputed_is_within_captured"),
        ({"amount_disputed": -1}, "disputed_is_within_captured"),
        ({"captured_at": None}, "captured_payment_has_amount_and_instant"),
        ({"amount_captured": 0, "captured_at": None}, "payment_without_capture_has_no_captured_status"),
        ({"authorization_expires_at": AT}, "standing_authorization_has_its_end"),
        ({"fee": -1}, "payment_fee_is_not_negative"),
    ],
)
async def test_the_amounts_of_a_captured_payment(writer: Connection, merchant: Connection, changes: Row, constraint: str) -> None:
    """Captured within authorized, refunded and reserved within captured, each with its instant; whoever writes, event or not."""
    for connection in (writer, merchant):
        payment = await captured(connection)
        with refused(constraint):
            await touch(connection, payment, **changes)


@pytest.mark.parametrize(
    ("status", "changes", "constraint"),
    [
        ("authorized", {"authorized_at": None}, "authorized_payment_has_its_instant"),
        ("authorized", {"authorization_expires_at": None}, "standing_authorization_has_its_end"),
        ("authorized", {"amount_captured": 1, "captured_at": AT}, "payment_without_capture_has_no_captured_status"),
        ("failed", {"failure": None}, "failed_payment_says_why"),
        ("refunded", {"amount_refunded": 9999}, "refunded_payment_is_refunded_whole"),
        (
            "partially_refunded",
            {"amount_captured": 0, "amount_refunded": 0, "captured_at": None},
            "payment_without_capture_has_no_captured_status",
        ),
    ],
)
async def test_a_status_and_its_facts_go_together(writer: Connection, status: str, changes: Row, constraint: str) -> None:
    """A move along a legal edge, with its event, is refused when the row does not look like its status."""
    edge = next(one for one in PAYMENT.edges if one.target == status and one.source not in ("none", status))
    payment = await walked(writer, "payments", edge.source)

    with refused(constraint):
        await moved(writer, "payments", payment, edge, **changes)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount": 0}, "intent_amount_is_1_to_999_999_999_999"),
        ({"amount": 10**12}, "intent_amount_is_1_to_999_999_999_999"),
        ({"currency": "€"}, "intent_currency_is_iso_4217"),
        ({"capture_method": ""}, "intent_capture_is_automatic_or_manual"),
        ({"attempt_count": 6}, "intent_attempts_are_limited"),
        ({"attempt_count": -1}, "intent_attempts_are_limited"),
        ({"next_action": {"type": "redirect_to_url"}}, "intent_next_action_goes_with_requires_action"),
        ({"cancellation_reason": "tired"}, "intent_canceled_has_a_reason"),
    ],
)
async def test_an_intent_is_well_formed(writer: Connection, merchant: Connection, changes: Row, constraint: str) -> None:
    """When it begins, and when it changes."""
    for connection in (writer, merchant):
        with refused(constraint):
            await born(connection, "payment_intents", **changes)
        intent = await born(connection, "payment_intents")
        with refused(constraint):
            await moved(connection, "payment_intents", intent, Edge("updated", intent["status"], intent["status"]), **changes)


@pytest.mark.parametrize(
    ("status", "changes", "constraint"),
    [
        ("requires_action", {"next_action": None}, "intent_next_action_goes_with_requires_action"),
        ("canceled", {"cancellation_reason": None}, "intent_canceled_has_a_reason"),
    ],
)
async def test_an_intents_status_and_its_facts_go_together(writer: Connection, status: str, changes: Row, constraint: str) -> None:
    """A payer who has to act is told what, and a canceled intent says why."""
    edge = next(one for one in INTENT.edges if one.target == status and one.source not in ("none", status))
    intent = await walked(writer, "payment_intents", edge.source)

    with refused(constraint):
        await moved(writer, "payment_intents", intent, edge, **changes)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"type": "gift"}, "operation_type_is_known"),
        ({"amount": 0}, "operation_amount_is_positive"),
        ({"type": "refund"}, "refund_operation_has_its_refund"),
        ({"refund_id": new_id()}, "refund_operation_has_its_refund"),
        ({"closed_at": AT, "answer_event_id": new_id()}, "closed_operation_has_its_instant"),
    ],
)
async def test_an_operation_is_well_formed(writer: Connection, changes: Row, constraint: str) -> None:
    """What is asked of a PSP is one of five things, of a positive amount, and still open."""
    with refused(constraint):
        await insert(writer, "operations", row("operations", **changes))


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"status": "lost"}, "operation_status_is_known"),
        ({"status": "succeeded"}, "closed_operation_has_its_instant"),
        ({"status": "succeeded", "closed_at": AT}, "closed_operation_has_its_answer"),
        ({"status": "unknown", "closed_at": AT, "answer_event_id": new_id()}, "closed_operation_has_its_instant"),
    ],
)
async def test_a_closed_operation_has_its_instant_and_its_answer(writer: Connection, changes: Row, constraint: str) -> None:
    """Whoever repeats the request is answered from there."""
    operation = await asked(writer)

    with refused(constraint):
        await update(writer, "operations", operation, **changes)


@pytest.mark.parametrize("second", ["authorize", "sale", "capture", "void"])
@pytest.mark.parametrize("status", ["requested", "unknown"])
async def test_one_open_operation_per_payment(writer: Connection, status: str, second: str) -> None:
    """While one is open, unknown ones included, no second one is written."""
    first = await asked(writer)
    await update(writer, "operations", first, status=status)

    with refused("one_open_operation_per_payment"):
        await insert(writer, "operations", row("operations", payment_id=first["payment_id"], type=second))
    await update(writer, "operations", first, status="declined", closed_at=AT, answer_event_id=new_id())
    await insert(writer, "operations", row("operations", payment_id=first["payment_id"], type="void"))


async def test_refunds_overlap(writer: Connection) -> None:
    """With each other and with what else is open; each is asked for once."""
    payment = await reserved(writer, {})
    await asked(writer, type="void", payment_id=payment["id"])
    first, second = [await born(writer, "refunds", payment_id=payment["id"], amount=5000) for _ in range(2)]
    for refund in (first, second):
        await asked(writer, type="refund", payment_id=payment["id"], refund_id=refund["id"], amount=5000)

    with refused("one_operation_per_refund"):
        await asked(writer, type="refund", payment_id=payment["id"], refund_id=first["id"], amount=5000)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount": 0}, "refund_amount_is_positive"),
        ({"reason": "x" * 256}, "refund_reason_is_within_255"),
        ({"failure": {"code": "x"}}, "failed_refund_says_why"),
    ],
)
async def test_a_refund_is_well_formed(writer: Connection, merchant: Connection, changes: Row, constraint: str) -> None:
    """A positive amount, a short reason, and a failure only where it failed."""
    for connection in (writer, merchant):
        with refused(constraint):
            await born(connection, "refunds", **changes)


async def test_a_failed_refund_says_why(writer: Connection) -> None:
    """Its status alone is no answer."""
    refund = await born(writer, "refunds")

    with refused("failed_refund_says_why"):
        await moved(writer, "refunds", refund, Edge("failed", "pending", "failed"), failure=None)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"amount": 0}, "exception_amount_is_positive"),
        ({"status": "forgotten"}, "exception_is_open_or_resolved"),
        ({"status": "resolved"}, "resolved_exception_says_how"),
        ({"status": "resolved", "resolved_at": AT}, "resolved_exception_says_how"),
        ({"status": "open", "resolved_at": AT, "resolution": "paid back"}, "resolved_exception_says_how"),
    ],
)
async def test_an_exception_is_open_or_says_how_it_ended(writer: Connection, changes: Row, constraint: str) -> None:
    """Somebody owns it until then."""
    with refused(constraint):
        await insert(writer, "exceptions", row("exceptions", **{"status": "open", **changes}))


async def test_the_same_exception_is_opened_once(writer: Connection) -> None:
    """A truth that is told again is no second truth."""
    first = row("exceptions")
    await insert(writer, "exceptions", first)

    with refused("one_exception_per_operation_and_kind"):
        await insert(writer, "exceptions", row("exceptions", operation_id=first["operation_id"]))


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"key": ""}, "idempotency_key_is_1_to_255_long"),
        ({"key": "x" * 256}, "idempotency_key_is_1_to_255_long"),
        ({"event_id": None}, "idempotency_key_leads_to_an_answer"),
        ({"expires_at": AT}, "idempotency_key_lives_a_day"),
    ],
)
async def test_an_idempotency_key_is_well_formed(writer: Connection, merchant: Connection, changes: Row, constraint: str) -> None:
    """It has a length, leads to an answer, and is kept for a day."""
    for connection in (writer, merchant):
        with refused(constraint):
            await insert(connection, "idempotency_keys", key(**changes))


async def test_a_key_is_written_once_per_merchant_mode_and_route(writer: Connection) -> None:
    """The second of two equal requests finds it taken, on another route it is free."""
    taken = key()
    await insert(writer, "idempotency_keys", taken)

    with refused("idempotency_keys_pkey"):
        await insert(writer, "idempotency_keys", taken)
    for change in ({"route": "POST /v1/y"}, {"livemode": True}, {"merchant_id": new_id()}):
        await insert(writer, "idempotency_keys", taken | change)


async def test_there_is_one_installation(owner: Connection) -> None:
    """A second marker would let a copy pass for the original."""
    for statement in (b"INSERT INTO installation DEFAULT VALUES", b"UPDATE installation SET only_one = false"):
        with pytest.raises(psycopg.errors.IntegrityError):
            await owner.execute(statement)
    with refused("installation_is_one_row"):
        await owner.execute("INSERT INTO installation (only_one) VALUES (false)")


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [({"sequence": 0, "from_status": "captured"}, "event_sequence_starts_at_one"), ({"sequence": 2}, "event_starts_from_none")],
)
async def test_an_events_number_and_beginning_go_together(writer: Connection, changes: Row, constraint: str) -> None:
    """The first event of an object, and only the first, comes from nothing."""
    with refused(constraint):
        await insert(writer, "events", event(PAYMENT, row("payments"), CREATED, **changes))


async def test_fifty_refunds_at_once_reserve_what_there_is(attacked: str, writer: Connection) -> None:
    """Fifty connections reserve 60 of 100, each lawfully under the payment's lock: one is let, 49 are refused by the CHECK."""
    payment = await captured(writer)

    async def reserve() -> str | None:
        async with await connect(attacked, role="tollgate_writer") as connection:
            try:
                async with connection.transaction():
                    await _reserve(connection, payment["id"])
            except psycopg.errors.CheckViolation as error:
                return error.diag.constraint_name
        return None

    outcomes = await asyncio.gather(*(reserve() for _ in range(50)))

    assert sorted(map(str, outcomes)) == ["None"] + ["refund_total_is_within_captured"] * 49
    cursor = await writer.execute("SELECT refund_reserved, version FROM payments WHERE id = %s::uuid", (payment["id"],))
    assert await cursor.fetchone() == (6000, payment["version"] + 1)


async def _reserve(connection: Connection, payment_id: str) -> None:
    select = "SELECT version, status, merchant_id, livemode, refund_reserved FROM payments WHERE id = %s::uuid FOR UPDATE"
    found = await (await connection.execute(select, (payment_id,))).fetchone()
    assert found is not None
    seen = {"id": payment_id, "version": found[0], "status": found[1], "merchant_id": found[2], "livemode": found[3]}
    await step(connection, "payments", seen, LOOP, refund_reserved=found[4] + 6000)


async def test_fifty_refunds_that_do_not_lock_are_one(attacked: str, writer: Connection) -> None:
    """Whoever decides on a version that has passed is refused by it, so forgetting the lock loses requests and no money."""
    payment = await captured(writer)

    async def reserve() -> str | None:
        async with await connect(attacked, role="tollgate_writer") as connection:
            try:
                await touch(connection, payment, refund_reserved=100)
            except psycopg.Error as error:
                return error.diag.constraint_name
        return None

    outcomes = await asyncio.gather(*(reserve() for _ in range(50)))
    assert sorted(map(str, outcomes)) == ["None"] + ["payment_moves_with_its_event"] * 49
