"""The counts of all processes as sums in Postgres, and who is alive.

Every few seconds a process adds what it has counted. What was on its way when a connection broke, or was counted when the process
was killed, is lost: at most one interval's counts, and never counted twice.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import msgspec
import psycopg
import structlog

from app.core.ids import new_id
from app.infra.db import Connection, Pool
from app.infra.telemetry import tally
from app.infra.telemetry.tally import Delta

EVERY_SECONDS = 5.0
# Three beats missed: the process is gone, or so busy that it might as well be.
ALIVE_SECONDS = 3 * EVERY_SECONDS
# Those that were killed leave their row behind; somebody may want to see when they were last seen.
KEPT_SECONDS = 24 * 3600

# In the order of the key, so that two processes never wait for each other's rows in a circle.
ADD = """
INSERT INTO figures AS f (name, labels, count, sum, buckets)
SELECT s.name, s.labels, s.count, s.sum, s.buckets
  FROM json_to_recordset(%s::json) AS s(name text, labels text[], count bigint, sum double precision, buckets bigint[])
 ORDER BY s.name COLLATE "C", s.labels COLLATE "C"
    ON CONFLICT (name, labels) DO UPDATE
   SET count = f.count + excluded.count,
       sum = f.sum + excluded.sum,
       buckets = (SELECT array_agg(coalesce(a.one, 0) + coalesce(a.other, 0) ORDER BY a.place)
                    FROM unnest(f.buckets, excluded.buckets) WITH ORDINALITY AS a(one, other, place))"""

BEAT = """
INSERT INTO processes (id, kind) VALUES (%s::uuid, %s)
    ON CONFLICT (id) DO UPDATE SET seen_at = statement_timestamp()"""

LEAVE = "DELETE FROM processes WHERE id = %s::uuid OR seen_at < statement_timestamp() - %s * interval '1 second'"

TOTALS = "SELECT name, labels, count, sum, buckets FROM figures ORDER BY name, labels"

PROCESSES = """
SELECT kind,
       count(*) FILTER (WHERE seen_at > statement_timestamp() - %s * interval '1 second'),
       extract(epoch FROM statement_timestamp() - max(seen_at))::float8
  FROM processes
 GROUP BY kind"""

_encode = msgspec.json.Encoder().encode

log = structlog.get_logger("telemetry")


class Beats(NamedTuple):
    """Of one kind of process: how many live, and how long ago the last one of them was heard of."""

    alive: int
    silent_seconds: float


@asynccontextmanager
async def counted(pool: Pool, process: str) -> AsyncIterator[None]:
    """While it is open, the counts of this process reach the database and it is seen to live. `pool`: tollgate_writer."""
    process_id = new_id()
    task = asyncio.create_task(_add_for_ever(pool, process_id, process))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with suppress(psycopg.Error, TimeoutError):
            await add_counts(pool)
            async with pool.connection() as connection:
                await connection.execute(LEAVE, (process_id, KEPT_SECONDS))


async def add_counts(pool: Pool) -> None:
    """What this process has counted until now. Raises psycopg.Error; what was on its way then is lost."""
    async with pool.connection() as connection:
        deltas = tally.take()
        if deltas:
            await connection.execute(ADD, (_encode(deltas).decode(),))


async def read_totals(connection: Connection) -> list[Delta]:
    cursor = await connection.execute(TOTALS)
    return [Delta(name, tuple(labels), *rest) for name, labels, *rest in await cursor.fetchall()]


async def read_beats(connection: Connection) -> dict[str, Beats]:
    cursor = await connection.execute(PROCESSES, (ALIVE_SECONDS,))
    return {kind: Beats(*rest) for kind, *rest in await cursor.fetchall()}


async def _add_for_ever(pool: Pool, process_id: str, process: str) -> None:
    while True:
        try:
            async with pool.connection() as connection:
                await connection.execute(BEAT, (process_id, process))
            await add_counts(pool)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("counts_not_added", error=type(error).__name__)
        # Processes that started together do not come together.
        await asyncio.sleep(EVERY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
