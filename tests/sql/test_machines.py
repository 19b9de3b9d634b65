"""The machines of the code and the table in the database are one table, and the database holds every row to it."""

from collections.abc import Mapping

import pytest

from app.core.errors import IllegalTransition
from app.core.machine import NONE, Edge, Machine
from app.infra.db import Connection
from app.payments.model import MACHINES, OPERATION
from app.webhooks.model import ENDPOINT
from tests.refusal import refused
from tests.sql.rows import MACHINE_OF, asked, born, moved, row, update, walked

ALL = (*MACHINES, ENDPOINT)
EVENTFUL = sorted(MACHINE_OF)

# Every event from every status to every status, each in a subtransaction of its own: which of them the database takes.
MATRIX = """
DO $$
DECLARE
    source text;
    target text;
    happened text;
    refusal text;
BEGIN
    FOR source, happened, target IN
        SELECT s, e, t FROM unnest(%(sources)s::text[]) s, unnest(%(events)s::text[]) e, unnest(%(statuses)s::text[]) t
    LOOP
        BEGIN
            INSERT INTO events (id, merchant_id, livemode, object_type, object_id, sequence, event, from_status, to_status, announced,
                                actor, occurred_at)
            VALUES (gen_random_uuid(), gen_random_uuid(), false, %(machine)s, gen_random_uuid(),
                    CASE source WHEN 'none' THEN 1 ELSE 2 END, happened, source, target, false, 'test', now());
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS refusal = CONSTRAINT_NAME;
            -- A legal move is refused for its object only, which is not there.
            IF refusal = 'event_is_the_last_of_its_object' THEN
                INSERT INTO taken VALUES (happened, source, target);
            ELSIF refusal <> 'move_is_legal' THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END $$"""


async def test_the_tables_are_equal(writer: Connection) -> None:
    """Row by row, with what is announced to merchants."""
    cursor = await writer.execute("SELECT machine, event, from_status, to_status, announced FROM state_transitions")

    assert sorted(await cursor.fetchall()) == sorted(tuple(sql_row) for machine in ALL for sql_row in machine.sql_rows())


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
async def test_the_database_takes_exactly_the_moves_of_the_code(writer: Connection, machine: Machine) -> None:
    """Every event with every two statuses: what `require` lets pass is inserted, everything else is refused by name."""
    events, statuses = (*machine.events, "deleted_everything"), (*machine.statuses, "nirvana")
    sources = (NONE, *statuses)
    await writer.execute("CREATE TEMP TABLE taken (event text, source text, target text)")
    async with writer.transaction():
        given = {"sources": sources, "events": events, "statuses": statuses, "machine": machine.name}
        await writer.execute(literally(MATRIX, given))

    cursor = await writer.execute("SELECT event, source, target FROM taken")
    assert set(await cursor.fetchall()) == {(e, s, t) for e in events for s in sources for t in statuses if allowed(machine, e, s, t)}


def literally(statement: str, given: Mapping[str, object]) -> bytes:
    """A DO block takes no parameters."""
    for name, value in given.items():
        text = "'{" + ",".join(value) + "}'" if isinstance(value, tuple) else f"'{value}'"
        statement = statement.replace(f"%({name})s", text)
    return statement.encode()


def allowed(machine: Machine, event: str, source: str, target: str) -> bool:
    try:
        machine.require(event, source, target)
    except IllegalTransition:
        return False
    return True


@pytest.mark.parametrize("table", EVENTFUL)
async def test_every_edge_can_be_walked(writer: Connection, table: str) -> None:
    """No CHECK stands in the way of a legal move, from every status that a row can have."""
    machine = MACHINE_OF[table]
    reached = {}
    for edge in machine.edges:
        if edge.source == NONE:
            reached[edge] = (await born(writer, table, edge))["status"]
        else:
            reached[edge] = (await moved(writer, table, await walked(writer, table, edge.source), edge))["status"]

    assert reached == {edge: edge.target for edge in machine.edges}


@pytest.mark.parametrize("table", EVENTFUL)
async def test_no_row_moves_along_an_illegal_edge(writer: Connection, table: str) -> None:
    """From every status to every status that no event leads to: the move's event is refused, and without one nothing moves."""
    machine = MACHINE_OF[table]
    legal = {(edge.source, edge.target) for edge in machine.edges}
    for source in machine.statuses:
        subject = await walked(writer, table, source)
        for target in machine.statuses:
            if (source, target) not in legal:
                with refused("move_is_legal"):
                    await moved(writer, table, subject, Edge("updated", source, target))


async def test_operations_move_along_their_table(writer: Connection) -> None:
    """From every status to every other: legal moves pass, illegal ones are refused, standing still is allowed."""
    legal = {(edge.source, edge.target) for edge in OPERATION.edges}
    for source in OPERATION.statuses:
        for target in OPERATION.statuses:
            subject = await operation_in(writer, source, target)
            if source == target or (source, target) in legal:
                assert await update(writer, "operations", subject, **standing(target)) == 1
            else:
                with refused("operation_moves_legally"):
                    await update(writer, "operations", subject, **standing(target))


def standing(status: str) -> dict[str, object]:
    closed = status not in ("requested", "unknown")
    return {"status": status, "closed_at": "2026-11-20T12:00:00Z" if closed else None, "answer_event_id": row("customers")["id"]}


async def operation_in(connection: Connection, status: str, target: str) -> dict[str, object]:
    """Asked for, and then moved to where it has to be, of the type that may go on to `target`."""
    taken_back = (status, target) == ("succeeded", "failed")
    subject = await asked(connection, type="refund" if taken_back else "sale" if target == "succeeded" else "capture")
    for step in {"failed": ("unknown", "failed")}.get(status, (status,)):
        await update(connection, "operations", subject, **standing(step))
    return subject
