"""Whatever raw SQL the application's role may send: no more is asked for, refunded or booked than the payment has."""

import asyncio

import psycopg
import pytest

from app.core.ids import new_id
from app.core.machine import Edge
from app.infra.db import Connection, connect
from tests.refusal import refused
from tests.sql.conftest import become
from tests.sql.rows import (
    AT,
    LOOP,
    MACHINE_OF,
    MERCHANT,
    OTHER_MERCHANT,
    Row,
    asked,
    born,
    event,
    insert,
    key,
    moved,
    refunds_end,
    reserved,
    row,
    step,
    together,
    update,
    walked,
)

NOBODY = "0190a5dac0007000800000000000000f"
CLOSED: Row = {"closed_at": AT, "answer_event_id": new_id()}
SUCCEEDED = Edge("succeeded", "pending", "succeeded")


@pytest.mark.parametrize(
    ("status", "type_", "amount"),
    [("authorized", "capture", 4000), ("authorized", "void", 10000), ("pending_auth", "sale", 10000), ("pending_auth", "authorize", 10000)],
)
async def test_what_the_payment_covers_may_be_asked_for(
    writer: Connection, merchant: Connection, status: str, type_: str, amount: int
) -> None:
    """Each attack below differs from this by one thing."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", status)
        await insert(connection, "operations", row("operations", payment_id=payment["id"], type=type_, amount=amount))


@pytest.mark.parametrize("type_", ["sale", "authorize", "capture", "void"])
async def test_no_more_is_asked_for_than_the_payment_has(writer: Connection, merchant: Connection, type_: str) -> None:
    """One cent too much is too much."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", "authorized" if type_ in ("capture", "void") else "pending_auth")
        with refused("operation_is_covered_by_its_payment"):
            await insert(connection, "operations", row("operations", payment_id=payment["id"], type=type_, amount=10001))


@pytest.mark.parametrize(
    "changes",
    [
        {"payment_id": NOBODY},
        {"payment_intent_id": NOBODY},
        {"currency": "USD"},
        {"provider": "another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_operation_is_of_its_payment(writer: Connection, merchant: Connection, changes: Row) -> None:
    """Of one that is there, for its intent, in its currency, at its provider."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", "authorized")
        with refused("operation_is_covered_by_its_payment"):
            await insert(connection, "operations", row("operations", **{"payment_id": payment["id"], **changes}))


async def test_nobody_asks_for_anothers_payment(writer: Connection, merchant: Connection) -> None:
    """The application does not see it, and the writer is held to the merchant and the mode of the payment."""
    for owned in ({"merchant_id": OTHER_MERCHANT}, {"livemode": True}):
        payment = await walked(writer, "payments", "authorized", **owned)
        for connection in (writer, merchant):
            with refused("operation_is_covered_by_its_payment"):
                await insert(connection, "operations", row("operations", payment_id=payment["id"]))


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        *((status, type_) for status in ("authorized", "captured", "failed", "voided") for type_ in ("sale", "authorize")),
        *((status, "capture") for status in ("pending_auth", "captured", "refunded", "voided", "expired", "failed")),
    ],
)
async def test_money_is_taken_once(writer: Connection, status: str, type_: str) -> None:
    """A payer is not charged again for what is authorized, taken or over, and nothing but an authorization is captured."""
    payment = await walked(writer, "payments", status)

    with refused("operation_is_covered_by_its_payment"):
        await insert(writer, "operations", row("operations", payment_id=payment["id"], type=type_))


@pytest.mark.parametrize("changes", [{"amount": 9999}, {"amount": 10001}, {"refund_id": NOBODY}], ids=str)
async def test_a_refund_is_asked_for_as_it_was_reserved(writer: Connection, changes: Row) -> None:
    """Its amount, and no other's."""
    refund = await born(writer, "refunds")
    right = row("operations", payment_id=refund["payment_id"], refund_id=refund["id"], type="refund")

    with refused("operation_is_covered_by_its_payment"):
        await insert(writer, "operations", right | changes)
    stranger = await reserved(writer, {})
    with refused("operation_is_covered_by_its_payment"):
        await insert(writer, "operations", right | {"payment_id": stranger["id"]})
    await insert(writer, "operations", right)


async def test_a_refund_that_has_ended_is_not_asked_for(writer: Connection) -> None:
    """Whoever asks for it first has it reserved."""
    refund = await moved(writer, "refunds", await born(writer, "refunds"), SUCCEEDED)

    with refused("operation_is_covered_by_its_payment"):
        await asked(writer, type="refund", payment_id=refund["payment_id"], refund_id=refund["id"])


@pytest.mark.parametrize(
    "changes", [{"amount": 10001}, {"currency": "USD"}, {"payment_id": NOBODY}], ids=lambda changes: next(iter(changes))
)
async def test_no_refund_is_beyond_what_its_payment_reserved(writer: Connection, merchant: Connection, changes: Row) -> None:
    """Of one that is there, in its currency, and within what it says."""
    for connection in (writer, merchant):
        payment = await reserved(connection, {})
        with refused("refunds_are_covered_by_their_payment"):
            await born(connection, "refunds", **{"payment_id": payment["id"], **changes})


async def test_refunds_are_counted_together(writer: Connection) -> None:
    """Each within the amount, all of them beyond it: in one statement or in two."""
    payment = await reserved(writer, {})
    await born(writer, "refunds", payment_id=payment["id"], amount=6000)
    with refused("refunds_are_covered_by_their_payment"):
        await born(writer, "refunds", payment_id=payment["id"], amount=4001)

    another = await reserved(writer, {})
    parts = []
    for _ in range(2):
        refund = row("refunds", payment_id=another["id"], amount=6000)
        told = event(MACHINE_OF["refunds"], refund, Edge("created", "none", "pending"))
        parts += [
            ("insert", "events", told),
            ("insert", "refunds", refund | {"status": "pending", "version": 1, "last_event_id": told["id"]}),
        ]
    with refused("refunds_are_covered_by_their_payment"):
        await together(writer, *parts)


async def test_a_refund_ends_with_its_payment(writer: Connection) -> None:
    """Money that has gone back is counted as refunded by the statement that says so."""
    refund = await born(writer, "refunds")

    with refused("refunds_are_covered_by_their_payment"):
        await step(writer, "refunds", refund, SUCCEEDED)


@pytest.mark.parametrize("after", ["reserved", "refunded"])
async def test_a_payment_does_not_forget_its_refunds(writer: Connection, merchant: Connection, after: str) -> None:
    """What is reserved or refunded is not let go of while the refund stands: it could be refunded again."""
    for connection in (writer, merchant):
        refund = await born(connection, "refunds")
        if after == "refunded":
            refund = await moved(connection, "refunds", refund, SUCCEEDED)
        ((_, _, told), (_, _, seen)) = await refunds_end(connection, refund, Edge("x", "pending", "pending"))
        payment = {"id": seen["id"], "merchant_id": MERCHANT, "livemode": False, "version": told["sequence"] - 1}
        column = {"reserved": "refund_reserved", "refunded": "amount_refunded"}[after]
        with refused("payment_covers_its_refunds"):
            await step(connection, "payments", payment, LOOP, **{column: 9999})


async def test_refunds_at_once_are_counted_together(attacked: str, writer: Connection) -> None:
    """Twenty connections write a refund of 6000 for the same reserved 10000, and none locks the payment: one is let."""
    payment = await reserved(writer, {})

    async def attempt() -> str | None:
        async with await connect(attacked, role="tollgate_app") as connection:
            await become(connection, MERCHANT)
            try:
                await born(connection, "refunds", payment_id=payment["id"], amount=6000)
            except psycopg.Error as error:
                return error.diag.constraint_name
        return None

    outcomes = await asyncio.gather(*(attempt() for _ in range(20)))

    assert sorted(map(str, outcomes)) == ["None"] + ["refunds_are_covered_by_their_payment"] * 19


@pytest.mark.parametrize("changes", [{"amount_captured": 1}, {"fee": 0}, {"fee": 999}, {"captured_at": "2027-01-01T00:00:00Z"}], ids=str)
async def test_what_was_captured_stays(writer: Connection, merchant: Connection, changes: Row) -> None:
    """It is in the books, and so is its fee: no later event changes them on the payment."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", "authorized")
        payment = await moved(connection, "payments", payment, Edge("captured", "authorized", "captured"), fee=405)
        with refused("what_was_captured_stays"):
            await step(connection, "payments", payment, LOOP, **changes)


@pytest.mark.parametrize("source", ["pending_auth", "authorized"])
async def test_nothing_is_captured_without_being_booked(writer: Connection, merchant: Connection, source: str) -> None:
    """The transaction ends only when the ledger has the capture, under the payment's merchant; others' books do not count."""
    captured: Row = {"amount_captured": 10000, "captured_at": AT, "authorization_expires_at": None}
    await walked(writer, "payments", "captured")
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", source)
        with refused("captured_payment_is_booked"):
            await step(connection, "payments", payment, Edge("captured", source, "captured"), **captured)


@pytest.mark.parametrize(
    ("type_", "status"), [("sale", "pending_auth"), ("authorize", "pending_auth"), ("capture", "authorized"), ("void", "authorized")]
)
async def test_only_refunds_are_taken_back(writer: Connection, merchant: Connection, type_: str, status: str) -> None:
    """A charge that has succeeded stays so: it could be charged again otherwise."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", status)
        operation = await asked(connection, payment_id=payment["id"], type=type_)
        await update(connection, "operations", operation, status="succeeded", **CLOSED)
        with refused("only_refunds_are_taken_back"):
            await update(connection, "operations", operation, status="failed")


@pytest.mark.parametrize("ended", ["declined", "failed"])
@pytest.mark.parametrize("type_", ["capture", "void", "refund"])
async def test_only_charges_are_found(writer: Connection, merchant: Connection, type_: str, ended: str) -> None:
    """What the payer can still do after it was given up is to pass a challenge; all else has ended when it ends."""
    for connection in (writer, merchant):
        operation = await asked(connection, type=type_)
        await update(connection, "operations", operation, status=ended, **CLOSED)
        with refused("only_charges_are_found"):
            await update(connection, "operations", operation, status="succeeded")


async def test_keys_that_moved_money_are_kept(writer: Connection, owner: Connection) -> None:
    """Whoever cleans up takes the others only; with one of these the same request would be paid twice."""
    moved_money, other = key(moves_money=True), key()
    await insert(writer, "idempotency_keys", moved_money)
    await insert(writer, "idempotency_keys", other)

    for connection in (writer, owner):
        with refused("keys_that_moved_money_are_kept"):
            await connection.execute("DELETE FROM idempotency_keys WHERE key = ANY(%s)", ([other["key"], moved_money["key"]],))
    assert (await writer.execute("DELETE FROM idempotency_keys WHERE key = %s", (other["key"],))).rowcount == 1
