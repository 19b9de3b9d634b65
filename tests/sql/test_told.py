"""Events tell what is so, once; and nothing that a session makes for itself stands before the tables that are checked against."""

import psycopg
import pytest

from app.core.ids import new_id
from app.core.machine import Edge
from app.infra.db import Connection, connect
from sql import migrate
from tests.refusal import forbidden, refused
from tests.sql.rows import LOOP, MACHINE_OF, Row, asked, born, event, insert, moved, row, step, together, update, walked

VOIDED = Edge("voided", "captured", "voided")
NOT_CAPTURED: Row = {"amount_captured": 0, "captured_at": None}
# Tables that a function reads or writes without saying in which schema.
NAMED = r"(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)(?![a-z_.(])"


@pytest.mark.parametrize("table", sorted(MACHINE_OF))
async def test_no_event_tells_of_what_is_not_there(writer: Connection, merchant: Connection, table: str) -> None:
    """Legal by its machine, of an object that nobody made."""
    machine = MACHINE_OF[table]
    for connection in (writer, merchant):
        for version, edge in ((0, machine.edges[0]), (6, next(one for one in machine.edges if one.source != "none"))):
            with refused("event_is_the_last_of_its_object"):
                await insert(connection, "events", event(machine, row(table, version=version), edge))


@pytest.mark.parametrize("table", sorted(MACHINE_OF))
async def test_no_event_is_told_twice(writer: Connection, merchant: Connection, table: str) -> None:
    """Neither with the number that the object has, nor with the next while the object stays where it is."""
    machine = MACHINE_OF[table]
    for connection in (writer, merchant):
        subject = await born(connection, table)
        first = next(edge for edge in machine.edges if edge.source == "none" and edge.target == subject["status"])
        again = event(machine, subject, first, sequence=1)
        following = event(machine, subject, next(edge for edge in machine.edges if edge.source == subject["status"]))
        for told in (again, following):
            with refused("event_is_the_last_of_its_object"):
                await insert(connection, "events", told)


async def test_no_second_event_hides_beside_the_first(writer: Connection) -> None:
    """A lawful move with two events of its number is refused as a whole."""
    payment = await walked(writer, "payments", "captured")
    told = event(MACHINE_OF["payments"], payment, LOOP)
    move = {"id": payment["id"], "version": payment["version"] + 1, "last_event_id": told["id"]}

    with refused("event_is_the_last_of_its_object"):
        await together(writer, ("insert", "events", told), ("insert", "events", told | {"id": new_id()}), ("update", "payments", move))


async def test_operations_have_no_events_of_their_own(writer: Connection) -> None:
    """They are told of by their payment's; a row under their name would be nobody's."""
    told = event(MACHINE_OF["payments"], row("operations", version=0), Edge("requested", "none", "requested"), object_type="operation")

    with refused("event_is_the_last_of_its_object"):
        await insert(writer, "events", told)


@pytest.mark.parametrize("column", ["era", "transaction_id", "recorded_at"])
async def test_nobody_chooses_when_it_was_recorded(writer: Connection, merchant: Connection, operator: Connection, column: str) -> None:
    """Readers of the feed go by these, so an event with a number of its own choice would pass them unseen."""
    value = {"era": "1", "transaction_id": "'1'", "recorded_at": "now()"}[column]
    for connection in (writer, merchant, operator):
        with forbidden():
            await connection.execute(f"INSERT INTO events (id, {column}) SELECT gen_random_uuid(), {value} WHERE false".encode())


async def test_a_temporary_table_of_moves_makes_none_legal(writer: Connection, merchant: Connection) -> None:
    """Names are looked up among temporary tables first, except where the schema is named."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", "captured")
        await connection.execute("CREATE TEMP TABLE state_transitions (LIKE public.state_transitions)")
        await connection.execute("INSERT INTO pg_temp.state_transitions VALUES ('payment', 'voided', 'captured', 'voided', true)")
        with refused("move_is_legal"):
            await step(connection, "payments", payment, VOIDED, **NOT_CAPTURED)
        operation = await asked(connection)
        await connection.execute("INSERT INTO pg_temp.state_transitions VALUES ('operation', 'x', 'unknown', 'requested', true)")
        await update(connection, "operations", operation, status="unknown")
        with refused("operation_moves_legally"):
            await update(connection, "operations", operation, status="requested")


async def test_a_temporary_table_of_events_tells_nothing(writer: Connection, merchant: Connection) -> None:
    """A move with an event that only its session can see is a move without an event, and so is a birth."""
    for connection in (writer, merchant):
        payment = await walked(connection, "payments", "pending_auth")
        told = event(MACHINE_OF["payments"], payment, Edge("voided", "pending_auth", "voided"))
        await connection.execute("CREATE TEMP TABLE events (LIKE public.events INCLUDING DEFAULTS)")
        await insert(connection, "pg_temp.events", told)
        with refused("payment_moves_with_its_event"):
            await update(connection, "payments", payment, status="voided", version=payment["version"] + 1, last_event_id=told["id"])

        fresh = row("payments")
        first = event(MACHINE_OF["payments"], fresh, Edge("created", "none", "created"))
        await insert(connection, "pg_temp.events", first)
        with refused("payment_begins_with_its_event"):
            await insert(connection, "payments", fresh | {"status": "created", "version": 1, "last_event_id": first["id"]})


async def test_temporary_payments_and_books_cover_nothing(attacked: str, writer: Connection) -> None:
    """Operations, refunds, captures and events are held to the tables themselves."""
    payment, pending = await walked(writer, "payments", "authorized"), await walked(writer, "payments", "captured")
    async with await connect(attacked, role="tollgate_writer") as connection:
        for table in ("payments", "refunds", "ledger_transactions", "payment_intents", "webhook_endpoints"):
            await connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM public.{table}".encode())
        await connection.execute("UPDATE pg_temp.payments SET amount = 99999, refund_reserved = 99999")

        with refused("operation_is_covered_by_its_payment"):
            await insert(connection, "operations", row("operations", payment_id=payment["id"], amount=10001))
        await connection.execute("DROP TABLE pg_temp.refunds")
        with refused("refunds_are_covered_by_their_payment"):
            await born(connection, "refunds", payment_id=pending["id"])
        with refused("event_is_the_last_of_its_object"):
            await insert(connection, "events", event(MACHINE_OF["payments"], pending, LOOP))


async def test_functions_name_the_schema_of_what_they_read(owner: Connection) -> None:
    """Also the next one: what runs as whoever calls it names the schema, or has a search path of its own."""
    cursor = await owner.execute(
        """
        SELECT p.proname, m[1]
          FROM pg_proc p, regexp_matches(regexp_replace(p.prosrc, '--[^\n]*', '', 'g'), %s, 'g') m
         WHERE p.pronamespace = 'public'::regnamespace AND p.proconfig IS NULL AND to_regclass('public.' || m[1]) IS NOT NULL""",
        (NAMED,),
    )

    assert await cursor.fetchall() == []


def test_nobody_makes_temporary_tables(empty_database: str) -> None:
    """From the first migration on, in the database that was migrated; whoever owns it still may."""
    migrate.migrate(empty_database)

    for role in ("tollgate_app", "tollgate_writer", "tollgate_ops"):
        with psycopg.connect(empty_database) as connection:
            connection.execute(f"SET ROLE {role}".encode())
            with forbidden():
                connection.execute("CREATE TEMP TABLE events (id integer)")


async def test_a_move_and_its_event_are_one_statement(writer: Connection) -> None:
    """Split in two, the first of them is refused, whichever it is."""
    payment = await born(writer, "payments")
    told = event(MACHINE_OF["payments"], payment, Edge("submitted", "created", "pending_auth"))

    with refused("event_is_the_last_of_its_object"):
        await insert(writer, "events", told)
    with refused("payment_moves_with_its_event"):
        await update(writer, "payments", payment, status="pending_auth", version=2, last_event_id=told["id"])
    assert (await moved(writer, "payments", payment, Edge("submitted", "created", "pending_auth")))["version"] == 2
