"""Row-level security: the application sees one merchant in one mode, and writes nothing else."""

from typing import Any

import psycopg
import pytest

from app.infra.db import Connection, connect
from tests.refusal import forbidden
from tests.sql.conftest import become
from tests.sql.rows import MERCHANT, OTHER_MERCHANT, asked, born, insert, key, row, update

# Tables of merchants that the application's role may read, with what makes a row of each.
PROTECTED = """
SELECT r.relname
  FROM pg_class r
  JOIN pg_attribute m ON m.attrelid = r.oid AND m.attname = 'merchant_id'
 WHERE r.relnamespace = 'public'::regnamespace AND r.relkind IN ('r', 'p') AND NOT r.relispartition
   AND has_table_privilege('tollgate_app', r.oid, 'SELECT')"""
VERSIONED = ("payment_intents", "payments", "refunds", "webhook_endpoints")
WRITTEN = (*VERSIONED, "operations", "exceptions", "idempotency_keys", "events")


async def make(connection: Connection, table: str, **owned: Any) -> None:
    """A row of the table that belongs to whom it says."""
    if table in VERSIONED:
        await born(connection, table, **owned)
    elif table == "events":
        await born(connection, "payments", **owned)
    elif table == "operations":
        await asked(connection, **owned)
    elif table == "idempotency_keys":
        await insert(connection, table, key(**owned))
    else:
        await insert(connection, table, row(table, **owned))


async def count(connection: Connection, table: str, where: str = "true") -> int:
    found = await (await connection.execute(f"SELECT count(*) FROM {table} WHERE {where}".encode())).fetchone()
    assert found is not None
    return int(found[0])


async def test_every_table_of_merchants_is_asked_about(owner: Connection) -> None:
    """A new table of merchants that the application reads comes with a row here, or with a test of its own."""
    known = {*WRITTEN, "api_keys", "customers", "ledger_transactions", "ledger_entries", "wallets", "webhook_endpoint_health"}
    cursor = await owner.execute(PROTECTED)

    assert {name for (name,) in await cursor.fetchall()} <= known | {"webhook_deliveries"}


async def test_without_a_merchant_every_read_is_an_error(attacked: str, writer: Connection) -> None:
    """Where there is something to see an absent setting is no empty result, before and after a transaction had one."""
    for table in WRITTEN:
        await make(writer, table)
    async with await connect(attacked, role="tollgate_app") as connection:
        for table in WRITTEN:
            with pytest.raises(psycopg.errors.UndefinedObject):
                await connection.execute(f"SELECT * FROM {table}".encode())
        async with connection.transaction():
            await connection.execute(
                "SELECT set_config('tollgate.merchant_id', %s, true), set_config('tollgate.livemode', 'false', true)", (MERCHANT,)
            )
        for table in WRITTEN:
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                await connection.execute(f"SELECT * FROM {table}".encode())


@pytest.mark.parametrize("missing", ["tollgate.merchant_id", "tollgate.livemode"])
async def test_half_a_setting_is_an_error(attacked: str, writer: Connection, missing: str) -> None:
    """A merchant without a mode sees nothing, and a mode without a merchant neither."""
    await make(writer, "payments")
    async with await connect(attacked, role="tollgate_app") as connection:
        given = {"tollgate.merchant_id": MERCHANT, "tollgate.livemode": "false"}
        del given[missing]
        for name, value in given.items():
            await connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        with pytest.raises(psycopg.errors.UndefinedObject):
            await connection.execute("SELECT * FROM payments")


@pytest.mark.parametrize("table", WRITTEN)
async def test_other_merchants_and_the_other_mode_are_invisible(writer: Connection, merchant: Connection, table: str) -> None:
    """Each sees exactly its own rows, however it asks."""
    before = await count(merchant, table)
    strangers: list[dict[str, Any]] = [
        {},
        {"merchant_id": OTHER_MERCHANT},
        {"livemode": True},
        {"merchant_id": OTHER_MERCHANT, "livemode": True},
    ]
    for owned in strangers:
        await make(writer, table, **owned)

    assert await count(merchant, table) == before + 1
    assert await count(merchant, table, f"merchant_id = '{OTHER_MERCHANT}' OR livemode") == 0
    for who, livemode in ((OTHER_MERCHANT, False), (MERCHANT, True), (OTHER_MERCHANT, True)):
        await become(merchant, who, livemode=livemode)
        assert await count(merchant, table) >= 1
        assert await count(merchant, table, f"merchant_id <> '{who}' OR livemode <> {livemode}") == 0


@pytest.mark.parametrize("owned", [{"merchant_id": OTHER_MERCHANT}, {"livemode": True}], ids=["merchant", "mode"])
@pytest.mark.parametrize("table", WRITTEN)
async def test_nothing_is_written_for_others(merchant: Connection, table: str, owned: dict[str, Any]) -> None:
    """A row of another merchant, or of the other mode, is refused when it is written."""
    with forbidden():
        await (insert(merchant, table, row(table, **owned)) if table == "operations" else make(merchant, table, **owned))


@pytest.mark.parametrize("owned", [{"merchant_id": OTHER_MERCHANT}, {"livemode": True}], ids=["merchant", "mode"])
async def test_nothing_of_others_is_changed(writer: Connection, merchant: Connection, owned: dict[str, Any]) -> None:
    """An UPDATE by id finds nothing where the id is somebody else's."""
    payment = await born(writer, "payments", **owned)
    operation, exception = await asked(writer, **owned), row("exceptions", **owned)
    await insert(writer, "exceptions", exception)

    assert await update(merchant, "payments", payment, metadata={"stolen": "yes"}) == 0
    assert await update(merchant, "operations", operation, status="unknown") == 0
    assert await update(merchant, "exceptions", exception, resolution="mine") == 0


async def test_merchants_read_themselves_only(owner: Connection, writer: Connection, merchant: Connection) -> None:
    """The table of merchants shows one row, and customers are kept apart like payments."""
    for id_ in (MERCHANT, OTHER_MERCHANT):
        await owner.execute(
            "INSERT INTO merchants (id, name, api_version, created_at) VALUES (%s, 'x', '2026-11-20', now()) ON CONFLICT DO NOTHING", (id_,)
        )
        await insert(writer, "customers", row("customers", merchant_id=id_))

    assert (await count(merchant, "merchants"), await count(merchant, "customers")) == (1, 1)
    with forbidden():
        await insert(merchant, "customers", row("customers", merchant_id=OTHER_MERCHANT))


async def test_the_application_reads_no_keys_and_no_outbox(merchant: Connection) -> None:
    """What it does not need it cannot see."""
    for table in ("api_keys", "operator_acts", "dead_letters", "inbox"):
        with forbidden():
            await merchant.execute(f"SELECT * FROM {table}".encode())


async def test_operators_and_reviewed_statements_see_all(writer: Connection, operator: Connection) -> None:
    """Their policies say so, and only theirs."""
    await make(writer, "payments")
    await make(writer, "payments", merchant_id=OTHER_MERCHANT, livemode=True)

    for connection in (writer, operator):
        assert await count(connection, "payments", f"merchant_id = '{OTHER_MERCHANT}' AND livemode") >= 1
        assert await count(connection, "payments", f"merchant_id = '{MERCHANT}' AND NOT livemode") >= 1
