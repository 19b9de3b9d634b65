"""What happened stays: nothing is rewritten, deleted or emptied, by the roles for want of a right, by the owner for the triggers."""

import pytest

from app.infra.db import Connection
from tests.refusal import forbidden, refused
from tests.sql.rows import asked, born, insert, row

# Table -> its trigger, and a column to set.
APPEND_ONLY = {"events": ("events_are_append_only", "actor"), "state_transitions": ("transitions_are_append_only", "announced")}
KEPT = {
    "payment_intents": "payment_intents_are_kept",
    "payments": "payments_are_kept",
    "operations": "operations_are_kept",
    "refunds": "refunds_are_kept",
    "exceptions": "exceptions_are_kept",
}


@pytest.mark.parametrize("rewrite", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "TRUNCATE {table}"])
@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_the_log_is_append_only(
    owner: Connection, writer: Connection, merchant: Connection, operator: Connection, table: str, rewrite: str
) -> None:
    """Neither events nor the table of legal moves can be changed, not even where no row would be touched."""
    trigger, column = APPEND_ONLY[table]
    statement = rewrite.format(table=table, column=column).encode()

    for connection in (writer, merchant, operator):
        with forbidden():
            await connection.execute(statement)
    with refused(trigger):
        await owner.execute(statement)


@pytest.mark.parametrize("removal", ["DELETE FROM {table}", "TRUNCATE {table}"])
@pytest.mark.parametrize("table", KEPT)
async def test_what_money_was_about_is_kept(
    owner: Connection, writer: Connection, merchant: Connection, operator: Connection, table: str, removal: str
) -> None:
    """Intents, payments, operations, refunds and exceptions are never deleted."""
    if table == "operations":
        await asked(writer)
    elif table == "exceptions":
        await insert(writer, table, row(table))
    else:
        await born(writer, table)
    statement = removal.format(table=table).encode()

    for connection in (writer, merchant, operator):
        with forbidden():
            await connection.execute(statement)
    with refused(KEPT[table]):
        await owner.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO state_transitions VALUES ('payment', 'forgiven', 'captured', 'created', false)",
        "UPDATE installation SET era = era + 1",
        "DELETE FROM installation",
        "ALTER TABLE payments DISABLE TRIGGER ALL",
        "ALTER TABLE payments DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE payments DROP CONSTRAINT captured_is_within_authorized",
        "DROP TABLE events",
        "CREATE TABLE my_own (id integer)",
        "SET session_replication_role = replica",
        "CALL tollgate_make_partitions('events', 1)",
        "CALL tollgate_protect('payments')",
    ],
)
async def test_no_role_changes_the_rules(attacked: str, owner: Connection, statement: str) -> None:
    """A login that is a member of one of our roles, as an installation makes it, cannot take the guards away."""
    for role in ("tollgate_app", "tollgate_writer", "tollgate_ops"):
        async with owner.transaction(force_rollback=True):
            await owner.execute(f"SET LOCAL SESSION AUTHORIZATION {role}".encode())
            with forbidden():
                await owner.execute(statement.encode())


@pytest.mark.parametrize("table", ["events", "webhook_deliveries", "ledger_entries"])
async def test_partitions_are_reached_through_their_parent_only(owner: Connection, writer: Connection, table: str) -> None:
    """Triggers and policies sit on the parent, so nobody may name a partition."""
    cursor = await owner.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", (table,))
    partitions = [name for (name,) in await cursor.fetchall()]

    assert len(partitions) >= 4
    for partition in partitions:
        for statement in (f"INSERT INTO {partition} SELECT * FROM {table}", f"SELECT * FROM {partition}", f"DELETE FROM {partition}"):
            with forbidden():
                await writer.execute(statement.encode())
