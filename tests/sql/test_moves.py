"""A status moves only with its event: attacked on every table that has one, as the roles that write."""

from collections.abc import Callable
from typing import Any

import pytest

from app.core.ids import new_id
from app.core.machine import Edge
from app.infra.db import Connection
from tests.refusal import forbidden, refused
from tests.sql.rows import MACHINE_OF, OTHER_MERCHANT, born, event, facts, insert, moved, row, update

# One legal second move of each table: what the attacks below pretend to make.
MOVES = {
    "payment_intents": Edge("updated", "requires_payment_method", "requires_payment_method"),
    "payments": Edge("submitted", "created", "pending_auth"),
    "refunds": Edge("succeeded", "pending", "succeeded"),
}
BEGINS = {
    "payment_intents": "payment_intent_begins_with_its_event",
    "payments": "payment_begins_with_its_event",
    "refunds": "refund_begins_with_its_event",
}
MOVES_WITH = {
    "payment_intents": "payment_intent_moves_with_its_event",
    "payments": "payment_moves_with_its_event",
    "refunds": "refund_moves_with_its_event",
}
tables = pytest.mark.parametrize("table", sorted(MOVES))

# What is wrong with the event of a birth or of a move.
WRONG: dict[str, Callable[[], dict[str, Any]]] = {
    "another merchant's": lambda: {"merchant_id": OTHER_MERCHANT},
    "of the other mode": lambda: {"livemode": True},
    "another object's": lambda: {"object_id": new_id()},
    "of an id that the row does not name": lambda: {"id": new_id()},
}


@tables
async def test_a_legal_move_passes(writer: Connection, merchant: Connection, table: str) -> None:
    """Each attack differs from this by one thing, so it is that thing which is refused."""
    for connection in (writer, merchant):
        after = await moved(connection, table, await born(connection, table), MOVES[table])

        assert (after["version"], after["status"]) == (2, MOVES[table].target)


@tables
async def test_nothing_begins_without_its_event(writer: Connection, merchant: Connection, table: str) -> None:
    """A row whose first event is not there is refused, whoever writes it."""
    status = MOVES[table].source
    for connection in (writer, merchant):
        with refused(BEGINS[table]):
            await insert(connection, table, row(table, status=status, version=1, last_event_id=new_id()))


@tables
@pytest.mark.parametrize("wrong", WRONG)
async def test_nothing_begins_with_a_wrong_event(alone: Connection, table: str, wrong: str) -> None:
    """Somebody else's birth is no birth."""
    subject = row(table)
    first = next(edge for edge in MACHINE_OF[table].edges if edge.source == "none")
    told = event(MACHINE_OF[table], subject, first)
    await insert(alone, "events", told | WRONG[wrong]())

    with refused(BEGINS[table]):
        await insert(alone, table, subject | {"status": first.target, "version": 1, "last_event_id": told["id"]})


@tables
async def test_nothing_begins_in_another_version_or_status(alone: Connection, table: str) -> None:
    """Version 1, and the status of the event."""
    subject = row(table)
    first = next(edge for edge in MACHINE_OF[table].edges if edge.source == "none")
    told = event(MACHINE_OF[table], subject, first)
    await insert(alone, "events", told)
    right = subject | {"status": first.target, "version": 1, "last_event_id": told["id"]}

    with refused(BEGINS[table]):
        await insert(alone, table, right | {"version": 2})
    other = MOVES[table].target if MOVES[table].target != first.target else "requires_confirmation"
    with refused(BEGINS[table]):
        await insert(alone, table, right | {"status": other} | facts(table, other))


@tables
async def test_no_status_moves_without_its_event(writer: Connection, merchant: Connection, table: str) -> None:
    """Neither with a new version nor under the old one, and not with the event of before."""
    target = MOVES[table].target
    for connection in (writer, merchant):
        subject = await born(connection, table)
        for change in (
            {"status": target},
            {"status": target, "version": 2},
            {"status": target, "version": 2, "last_event_id": new_id()},
        ):
            with refused(MOVES_WITH[table]):
                await update(connection, table, subject, **change, **facts(table, target))


@tables
async def test_no_column_changes_without_an_event(writer: Connection, table: str) -> None:
    """What merchants can see changes with a version and an event, or not at all."""
    subject = await born(writer, table)

    with refused(MOVES_WITH[table]):
        await update(writer, table, subject, metadata={"a": "b"})
    with refused(MOVES_WITH[table]):
        await update(writer, table, subject, updated_at="2027-01-01T00:00:00Z")


@tables
@pytest.mark.parametrize("wrong", WRONG)
async def test_no_status_moves_with_a_wrong_event(alone: Connection, table: str, wrong: str) -> None:
    """An event of another merchant, mode or object, or one that the row does not name, moves nothing."""
    subject, edge = await born(alone, table), MOVES[table]
    told = event(MACHINE_OF[table], subject, edge)
    await insert(alone, "events", told | WRONG[wrong]())

    with refused(MOVES_WITH[table]):
        await update(alone, table, subject, status=edge.target, version=2, last_event_id=told["id"], **facts(table, edge.target))


@tables
@pytest.mark.parametrize("version", [0, 1, 3, 7])
async def test_no_status_moves_to_another_version(alone: Connection, table: str, version: int) -> None:
    """The next version is one more; none is skipped, repeated or taken back, even with an event of that number."""
    subject, edge = await born(alone, table), MOVES[table]
    told = event(MACHINE_OF[table], subject, edge)
    if version > 1:
        told["sequence"] = version
    await insert(alone, "events", told)

    with refused(MOVES_WITH[table]):
        await update(alone, table, subject, status=edge.target, version=version, last_event_id=told["id"], **facts(table, edge.target))


@tables
async def test_an_event_of_an_earlier_move_does_not_serve_again(writer: Connection, table: str) -> None:
    """The second move needs a second event."""
    subject = await moved(writer, table, await born(writer, table), MOVES[table])

    with refused(MOVES_WITH[table]):
        await update(writer, table, subject, version=3)


@tables
async def test_one_bad_row_takes_the_whole_statement_with_it(alone: Connection, table: str) -> None:
    """In a set-based statement nobody slips through beside a row that is right."""
    good, bad = await born(alone, table), await born(alone, table)
    edge = MOVES[table]
    told = event(MACHINE_OF[table], good, edge)
    await insert(alone, "events", told)

    with refused(MOVES_WITH[table]):
        await alone.execute(
            f"UPDATE {table} SET version = 2, last_event_id = %s::uuid WHERE id = ANY(%s::uuid[])".encode(),
            (told["id"], [good["id"], bad["id"]]),
        )


@tables
@pytest.mark.parametrize("column", ["id", "merchant_id", "livemode", "created_at"])
async def test_nobody_rewrites_what_a_row_is(
    writer: Connection, merchant: Connection, operator: Connection, table: str, column: str
) -> None:
    """A row keeps its id, its merchant, its mode and its birth: no role has the right to set them."""
    subject = await born(writer, table)
    for connection in (writer, merchant, operator):
        with forbidden():
            await connection.execute(f"UPDATE {table} SET {column} = {column} WHERE id = %s::uuid".encode(), (subject["id"],))


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("payments", ("amount", "currency", "payment_intent_id", "provider", "capture_method")),
        ("refunds", ("amount", "currency", "payment_id")),
        ("operations", ("amount", "currency", "payment_id", "payment_intent_id", "refund_id", "type", "provider", "requested_at")),
        ("exceptions", ("amount", "currency", "payment_id", "operation_id", "kind")),
    ],
)
async def test_nobody_rewrites_what_was_asked_for(
    writer: Connection, merchant: Connection, operator: Connection, table: str, columns: tuple[str, ...]
) -> None:
    """Raising what was authorized would be a way around every limit, so no role has the right to."""
    for connection in (writer, merchant, operator):
        for column in columns:
            with forbidden():
                await connection.execute(f"UPDATE {table} SET {column} = {column} WHERE false".encode())


async def test_an_operation_begins_as_asked_for(writer: Connection) -> None:
    """Nobody writes down an answer to something that was never asked."""
    for status in ("unknown", "succeeded", "declined", "failed"):
        closed = {} if status == "unknown" else {"closed_at": "2026-11-20T12:00:00Z", "answer_event_id": new_id()}
        with refused("operation_begins_as_requested"):
            await insert(writer, "operations", row("operations", status=status, **closed))
