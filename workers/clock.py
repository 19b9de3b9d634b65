"""`tollgate clock`: writes work into the outbox when its time has come. Several may run; each tick claims its rows with SKIP LOCKED."""

import asyncio
import json
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import NamedTuple

import psycopg
import structlog
import uvloop

from app.core.clock import now
from app.infra.db import Pool, open_pool, transaction
from app.infra.telemetry.process import observing
from app.infra.telemetry.totals import counted
from app.payments import due
from app.payments.moves import PSP_QUEUE
from app.settings import Settings
from app.webhooks import deliveries
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from outbox import inbox
from outbox.wake import Waker

BATCH = 200
# Applied callbacks are kept for as long as a provider may repeat one.
INBOX_KEPT_SECONDS = 30 * 24 * 3600
MONTHS_AHEAD = 2

log = structlog.get_logger("clock")

# Returns the queues to wake and whether there may be more to do at once.
Tick = Callable[[Pool, datetime], Awaitable[tuple[frozenset[str], bool]]]


class Task(NamedTuple):
    run: Tick
    every_seconds: float


async def look_ups(pool: Pool, moment: datetime) -> tuple[frozenset[str], bool]:
    async with transaction(pool) as connection:
        count = await due.emit_look_ups(connection, now=moment, limit=BATCH)
    return frozenset({PSP_QUEUE} if count else ()), count == BATCH


async def lapsed_authorizations(pool: Pool, moment: datetime) -> tuple[frozenset[str], bool]:
    async with transaction(pool) as connection:
        queues = await due.let_go_of_lapsed(connection, now=moment, limit=BATCH)
    return queues, False


async def expired_intents(pool: Pool, moment: datetime) -> tuple[frozenset[str], bool]:
    async with transaction(pool) as connection:
        count, queues = await due.expire_intents(connection, now=moment, limit=BATCH)
    return queues, count == BATCH


async def webhook_retries(pool: Pool, moment: datetime) -> tuple[frozenset[str], bool]:
    async with transaction(pool) as connection:
        count = await deliveries.emit_due(connection, now=moment, limit=BATCH)
    return frozenset({WEBHOOKS} if count else ()), count == BATCH


async def purge(pool: Pool, moment: datetime) -> tuple[frozenset[str], bool]:
    """Small batches, so that no purge holds a lock or a snapshot for long. Keys that moved money stay: they refuse a second time."""
    async with transaction(pool) as connection:
        keys = await connection.execute(
            """
            DELETE FROM idempotency_keys
             WHERE (merchant_id, livemode, route, key) IN (
                   SELECT merchant_id, livemode, route, key FROM idempotency_keys
                    WHERE expires_at < %s AND NOT moves_money
                    ORDER BY expires_at
                    LIMIT %s
                      FOR UPDATE SKIP LOCKED)""",
            (moment, BATCH),
        )
    async with transaction(pool) as connection:
        events = await inbox.purge(connection, older_than_seconds=INBOX_KEPT_SECONDS, limit=BATCH)
    return frozenset(), BATCH in (keys.rowcount, events)


TASKS: Mapping[str, Task] = {
    "look_ups": Task(look_ups, 0.5),
    "webhook_retries": Task(webhook_retries, 0.5),
    "lapsed_authorizations": Task(lapsed_authorizations, 5.0),
    "expired_intents": Task(expired_intents, 5.0),
    "purge": Task(purge, 60.0),
}


async def run_once(pool: Pool, waker: Waker, name: str, *, moment: datetime) -> bool:
    """One tick of one task; True when there may be more to do at once."""
    queues, more = await TASKS[name].run(pool, moment)
    for queue in queues:
        waker.wake(queue)
    return more


def run(settings: Settings) -> int:
    """Tick until SIGTERM or SIGINT; the exit status."""
    with observing(settings, "clock"):
        uvloop.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with (
        open_pool(settings.database_url, role="tollgate_writer", size=2) as pool,
        counted(pool, "clock"),
        Waker(settings.direct_database_url) as waker,
    ):
        sys.stdout.write(json.dumps({"ready": True}) + "\n")
        sys.stdout.flush()
        async with asyncio.TaskGroup() as group:
            for name in TASKS:
                group.create_task(_tick_for_ever(pool, waker, name, ending))


async def _tick_for_ever(pool: Pool, waker: Waker, name: str, ending: asyncio.Event) -> None:
    while not ending.is_set():
        more = False
        try:
            more = await run_once(pool, waker, name, moment=now())
        except (psycopg.Error, TimeoutError) as error:
            # The database is away or busy: the work is still due at the next tick.
            log.warning("tick_failed", task=name, error=type(error).__name__, detail=str(error)[:200])
        if not more:
            # Jitter keeps clocks that started together from asking together.
            await _sleep(ending, TASKS[name].every_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - no secret


async def _sleep(ending: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await ending.wait()
    except TimeoutError:
        return
