"""The worker program of the conformance suite: a real process whose handlers write what they did into the table `effects`.

python tests/outbox/program.py '{"engine": "postgres", "url": …, "queues": [{"name": …}], "times": {…}}'
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg

import outbox.engine
import outbox.model
from outbox import Actor, Bury, Claimed, LeaseLost, Postpone

EFFECTS = """
CREATE TABLE effects (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    outbox_id bigint NOT NULL,
    what      text NOT NULL,
    lane      text NOT NULL,
    seen      jsonb NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE cures (name text PRIMARY KEY);
GRANT SELECT, INSERT ON effects, cures TO tollgate_writer;
"""

RECORD = "INSERT INTO effects (outbox_id, what, lane, seen) VALUES (%s, %s, %s, %s)"


class Program:
    """What the handlers share: one connection with a lock, and how many of them are running."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.one_at_a_time = asyncio.Lock()
        self.running = 0

    async def note(self, row: Claimed, what: str) -> None:
        async with self.one_at_a_time:
            await self.connection.execute(RECORD, self._seen(row, what))

    async def finish(self, row: Claimed, what: str = "done") -> None:
        """The effect and the settlement of its row, together."""
        async with self.one_at_a_time, self.connection.transaction():
            await self.connection.execute(RECORD, self._seen(row, what))
            if not await outbox.settle(self.connection, [row]):
                raise LeaseLost

    def _seen(self, row: Claimed, what: str) -> tuple[int, str, str, str]:
        seen = {
            "attempt": row.attempt,
            "failures": row.failures,
            "maybe_sent": row.maybe_sent,
            "first": row.first_attempt,
            "vanished": row.vanished,
        }
        return row.id, what, row.lane, json.dumps({**seen, "running": self.running, "pid": os.getpid()})

    async def record(self, row: Claimed) -> None:
        await self.finish(row)

    async def slow(self, row: Claimed) -> None:
        await self.note(row, "started")
        await asyncio.sleep(float(row.payload))
        await self.finish(row)

    async def blocking(self, row: Claimed) -> None:
        """Stops the whole loop, as a paused process does, and then goes on as if nothing had been."""
        await self.note(row, "started")
        time.sleep(float(row.payload))  # noqa: ASYNC251 - that is the fault
        await self.finish(row)

    async def stubborn(self, row: Claimed) -> None:
        """Never ends and swallows its cancellation."""
        await self.note(row, "started")
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async def poison(self, row: Claimed) -> None:
        async with self.one_at_a_time:
            cured = await (await self.connection.execute("SELECT FROM cures WHERE name = %s", (row.payload,))).fetchone()
        if cured is None:
            raise RuntimeError(f"poison {row.failures + 1}\x00")
        await self.finish(row)

    async def postponing(self, row: Claimed) -> None:
        await self.note(row, "asked")
        if row.attempt <= 3:
            raise Postpone(0.05)
        await self.finish(row)

    async def leaving(self, _row: Claimed) -> None:
        sys.exit(3)

    async def killer(self, row: Claimed) -> None:
        await self.note(row, "killing")
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    async def exhausted(self, row: Claimed, error: str) -> None:
        await self.finish(row, f"exhausted: {error}")

    async def burying(self, row: Claimed, _error: str) -> None:
        raise Bury(row.payload)

    def actors(self) -> list[Actor]:
        counted = [self.record, self.slow, self.blocking, self.stubborn, self.postponing, self.leaving, self.killer]
        return [
            *(Actor(handler.__name__, self._counted(handler)) for handler in counted),
            Actor("poison", self.poison, failures_limit=3),
            Actor("unreadable", self.poison, failures_limit=1, never_dead_letter=True, on_exhausted=self.burying),
            Actor("money", self.poison, failures_limit=2, never_dead_letter=True, on_exhausted=self.exhausted),
        ]

    def _counted(self, handler: Any) -> Any:
        async def run(row: Claimed) -> None:
            self.running += 1
            try:
                await handler(row)
            finally:
                self.running -= 1

        return run


def main(order: dict[str, Any]) -> int:
    # Short waits between failures: the suite waits for them.
    outbox.model.BACKOFF_BASE_SECONDS = 0.02
    outbox.model.BACKOFF_CAP_SECONDS = 0.1
    outbox.engine.SUSPECT_SECONDS = 0.1

    @asynccontextmanager
    async def open_actors(_waker: outbox.Waker) -> AsyncIterator[Sequence[Actor]]:
        if order.get("broken"):
            raise RuntimeError("planted: the actors cannot be opened")
        connection = await psycopg.AsyncConnection.connect(order["url"], autocommit=True)
        async with connection:
            program = Program(connection)
            yield program.actors()
            await connection.execute("INSERT INTO cures VALUES (%s)", (f"closed {os.getpid()}",))

    assert order["engine"] == "postgres"
    return outbox.run_worker(
        order["url"],
        [outbox.Queue(**queue) for queue in order["queues"]],
        open_actors,
        times=outbox.Times(**order["times"]),
        threads=order["threads"],
        on_ready=lambda: print("ready", flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
