"""The statements of the road stay on their indexes, also with a plan that was made while the tables were empty."""

import json
import re
from collections.abc import AsyncIterator

import msgspec
import psycopg
import pytest

from app.infra import idempotency
from app.infra.db import Connection, connect
from app.payments import due, locks, store, waiting
from tests.refusal import refused

# Each names the table it is about, its statement, and how many parameters of which type it has.
IDS = "'{0190a5dac0007000800000000000000a,0190a5dac0007000800000000000000b}'"
ROWS = "'[]'"
HOT: dict[str, tuple[str, str, tuple[str, ...]]] = {
    **{
        f"lock {table} for a settlement": (table, locks.SETTLEMENT, ("'{1,2}'", "'{1,1}'", "'{1,2}'", IDS, IDS, IDS, IDS))
        for table in ("outbox", "payments", "payment_intents", "operations", "refunds")
    },
    **{f"lock {table} for a confirmation": (table, locks.CONFIRM, (IDS, ROWS)) for table in ("payment_intents", "idempotency_keys")},
    "move payments": ("payments", store.MOVE_PAYMENTS, (ROWS,)),
    "move intents": ("payment_intents", store.MOVE_INTENTS, (ROWS,)),
    "move refunds": ("refunds", store.MOVE_REFUNDS, (ROWS,)),
    "move operations": ("operations", store.MOVE_OPERATIONS, (ROWS,)),
    "find keys": ("idempotency_keys", idempotency.FIND, (ROWS,)),
    "read answers": ("operations", waiting.ANSWERS, (ROWS,)),
    "look-ups that are due": ("operations", due.CLAIM_LOOK_UPS, ("now()", "100")),
    "authorizations that lapse": ("payments", due.DUE_AUTHORIZATIONS, ("now()", "100")),
    "intents that expire": ("payment_intents", due.DUE_INTENTS, ("now()", "now()", "100")),
}
TABLES = "outbox, payments, payment_intents, refunds, operations, idempotency_keys, events"


class Nobody(msgspec.Struct):
    """A row that is in no table."""

    id: str
    merchant_id: str


@pytest.fixture
async def lane(any_database: str) -> AsyncIterator[Connection]:
    """A lane's connection, on tables that were vacuumed and analyzed while they were empty.

    Up to 16 the planner then takes a walk over an empty index for cheaper than look-ups in it, until the next analyze; there the
    tables are as the migrations leave them.
    """
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as owner:
        if owner.info.server_version >= 170000:
            await owner.execute(f"VACUUM ANALYZE {TABLES}")
    async with await connect(any_database, role="tollgate_writer", lane=True) as opened:
        await opened.execute("SET plan_cache_mode = force_generic_plan")
        yield opened


@pytest.mark.parametrize("name", HOT)
async def test_a_plan_of_the_empty_table_looks_rows_up_by_an_index(lane: Connection, name: str) -> None:
    """The plan that stays for good has an index condition for the table, so it never reads all of it."""
    table, statement, arguments = HOT[name]
    count = iter(range(1, 9))
    numbered = re.sub("%s", lambda _: f"${next(count)}", statement)
    await lane.execute(f"PREPARE hot AS {numbered}")

    row = await (await lane.execute(f"EXPLAIN (FORMAT JSON) EXECUTE hot({', '.join(arguments)})")).fetchone()

    assert row is not None
    scans = [node for node in _nodes(row[0][0]["Plan"]) if node.get("Relation Name", "").startswith(table) and "Scan" in node["Node Type"]]
    assert scans, json.dumps(row[0])
    for scan in scans:
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Tid Scan"), scan["Node Type"]
        assert scan.get("Index Cond") or scan.get("Recheck Cond") or scan.get("TID Cond"), json.dumps(scan)


async def test_a_move_of_a_row_that_is_not_as_it_was_ends_the_transaction(lane: Connection) -> None:
    """A statement that touches fewer rows than it was given is refused whole, whatever its other parts did."""
    nobody = Nobody("0190a5dac0007000800000000000000a", "0190a5dac0007000800000000000000b")

    with refused("every_locked_row_moves"):
        await lane.execute(*store.fused([store.part(store.MOVE_OPERATIONS, [nobody])]))


def _nodes(plan: dict[str, object]) -> list[dict[str, str]]:
    below = plan.get("Plans", [])
    assert isinstance(below, list)
    return [plan, *(node for child in below for node in _nodes(child))]  # type: ignore[list-item]  # plans are trees of such dicts
