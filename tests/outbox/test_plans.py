"""Hot statements stay index scans on an empty table and at a million rows, also when their plan was made while it was empty."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from outbox import store
from outbox.connection import connect

Connection = psycopg.AsyncConnection[Any]

CLAIM = {"queue": "q", "limit": 100, "lease_seconds": 60.0, "lane_limit": 50, "after_lane": ""}
OPEN = {**CLAIM, "busy_lanes": ["lane 1"], "rooms": [3]}
LATER = {**OPEN, "queue": "later"}
FULL = {**CLAIM, "busy_lanes": ["slow", "lane 1"], "rooms": [0, 3]}
ONES = [1] * 100
ZEROS = [0] * 100
HELD = {"ids": list(range(1, 101)), "attempts": ONES}
# The pieces take their parameters by position.
TOKENS = ("%(ids)s", "%(attempts)s", "%(ids)s")

HOT: dict[str, tuple[str, dict[str, Any]]] = {
    "claim the oldest": (store.CLAIM_OLDEST, OPEN),
    "claim where nothing is due yet": (store.CLAIM_OLDEST, LATER),
    "claim lane by lane": (store.CLAIM_LANE_BY_LANE, FULL),
    "hold": (store.HELD % TOKENS, HELD),
    "settle": (store.SETTLED % TOKENS, HELD),
    "fail": (store.FAIL, {**HELD, "failures": ZEROS, "errors": ["x"] * 100, "retry_in": [1.0] * 100}),
    "bury": (store.BURY, {**HELD, "failures": ZEROS, "errors": ["x"] * 100}),
    "defer": (store.DEFER, {**HELD, "returned": ZEROS, "seconds": [1.0] * 100}),
    "defer a lane": (store.DEFER_LANE, {"queue": "q", "lane": "slow", "seconds": 1.0, "limit": 100}),
}
# Blocks of 8 kB that one statement may touch for a hundred rows, the locks and the new versions of the rows included. Reading
# past a million waiting rows would be some twenty thousand.
BLOCKS = 2500

FILL = """
INSERT INTO outbox (queue, lane, actor, payload, attempt)
SELECT 'q', CASE WHEN n %% 100 = 0 THEN 'lane ' || n / 100 %% 500 ELSE 'slow' END, 'act', '{}', 1 FROM generate_series(1, %s) AS n
"""
FILL_LATER = """
INSERT INTO outbox (queue, lane, actor, payload, due_at)
SELECT 'later', 'slow', 'act', '{}', statement_timestamp() + interval '1 hour' FROM generate_series(1, 200000)
"""


@pytest.fixture
async def hot(any_database: str) -> AsyncIterator[Connection]:
    """A connection with the settings of the engine."""
    async with await connect(any_database) as opened:
        # Otherwise the driver deallocates everything after a rollback.
        opened.prepare_threshold = None
        await opened.execute("SET statement_timeout = 0")
        yield opened


async def test_an_empty_table_is_read_through_its_indexes(hot: Connection) -> None:
    """Freshly migrated, every hot statement is planned over an index, whatever its parameters."""
    await prepare(hot)

    for name in HOT:
        plan, _ = await explain(hot, name)

        assert not scanned_whole(plan), name


async def test_a_million_rows_are_not_read(hot: Connection) -> None:
    """At a million rows, 99 of 100 in one full lane, a bounded number of blocks is touched: by plans made while the table was empty, and by new ones."""
    await prepare(hot)
    for name in HOT:
        await explain(hot, name)
    await hot.execute(FILL, (1_000_000,))
    await hot.execute(FILL_LATER)

    for analyzed in (False, True):
        if analyzed:
            await hot.execute("ANALYZE outbox")
        for name in HOT:
            plan, blocks = await explain(hot, name)

            assert not scanned_whole(plan), (name, analyzed)
            assert blocks < BLOCKS, (name, analyzed)


async def prepare(connection: Connection) -> None:
    """As statements of the server's, whose one generic plan stays from its first use until the table's statistics change.

    A table that was just vacuumed is known to be empty, and nothing is cheaper to scan.
    """
    await connection.execute("VACUUM ANALYZE outbox")
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    for name, (statement, parameters) in HOT.items():
        numbered = statement
        for number, key in enumerate(used(statement, parameters), start=1):
            numbered = numbered.replace(f"%({key})s", f"${number}")
        await connection.execute(f'PREPARE "{name}" AS {numbered}', prepare=False)


async def explain(connection: Connection, name: str) -> tuple[dict[str, Any], int]:
    """The executed plan and the blocks it touched; rolled back."""
    statement, parameters = HOT[name]
    values = SQL(", ").join(Literal(parameters[key]) for key in used(statement, parameters))
    async with connection.transaction(force_rollback=True):
        explained = SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {} ({})").format(Identifier(name), values)
        record = await (await connection.execute(explained, prepare=False)).fetchone()
    assert record is not None
    plan: dict[str, Any] = record[0][0]["Plan"]
    return plan, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def used(statement: str, parameters: dict[str, Any]) -> list[str]:
    return [key for key in parameters if f"%({key})s" in statement]


def scanned_whole(plan: dict[str, Any]) -> list[str]:
    """Nodes that read a table from end to end or an index without a condition."""
    return [
        node["Node Type"]
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" or (node["Node Type"].startswith("Index") and "Index Cond" not in node)
    ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
