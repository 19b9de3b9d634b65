"""The engines under test and the ground they stand on: a database with the tables of the program, worker processes, waiting."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

import outbox
from outbox import NewRow
from tests.outbox.program import EFFECTS

# Every process runs as the role that production gives it, so what it may not do is seen here first.
AS_WRITER = "options=" + quote("-c role=tollgate_writer")
QUICK = {"lease_seconds": 1.2, "handler_seconds": 0.5, "drain_seconds": 0.9}
PATIENT = {"lease_seconds": 30.0, "handler_seconds": 4.0, "drain_seconds": 5.0}
WAIT_SECONDS = 20.0


@dataclass
class Ground:
    """One database and the workers over it."""

    engine: str
    url: str
    connection: psycopg.AsyncConnection[Any]
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def worker_url(self) -> str:
        return f"{self.url}{'&' if '?' in self.url else '?'}{AS_WRITER}"

    def start_worker(
        self, *, times: dict[str, float] | None = None, threads: int = 2, broken: bool = False, **limits: int
    ) -> subprocess.Popen[str]:
        order = {
            "engine": self.engine,
            "url": self.worker_url,
            "queues": [{"name": "q", **limits}],
            "times": times or PATIENT,
            "threads": threads,
            "broken": broken,
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.outbox.program", json.dumps(order)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.workers.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == ("" if broken else "ready\n")
        return worker

    async def write(self, *rows: NewRow) -> list[int]:
        """Committed, and nobody is woken: whoever finds the rows finds them by polling."""
        await outbox.write(self.connection, rows)
        cursor = await self.connection.execute("SELECT id FROM outbox ORDER BY id DESC LIMIT %s", (len(rows),))
        return [record[0] for record in reversed(await cursor.fetchall())]

    async def effects(self, what: str = "%") -> list[tuple[int, str, str, dict[str, Any]]]:
        cursor = await self.connection.execute("SELECT outbox_id, what, lane, seen FROM effects WHERE what LIKE %s ORDER BY id", (what,))
        return await cursor.fetchall()

    async def done(self) -> list[int]:
        return [effect[0] for effect in await self.effects("done")]

    async def count(self, sql: str) -> int:
        record = await (await self.connection.execute(sql)).fetchone()
        assert record is not None
        return int(record[0])

    async def waiting(self) -> int:
        return await self.count("SELECT count(*) FROM outbox")

    async def until_empty(self) -> None:
        await until(lambda: _is_zero(self.waiting))

    async def until_effects(self, what: str, *, count: int) -> None:
        async def there() -> bool:
            return len(await self.effects(what)) >= count

        await until(there)


def new_row(actor: str, payload: str = "0", *, lane: str = "lane") -> NewRow:
    return NewRow(queue="q", lane=lane, actor=actor, payload=payload)


async def until(true: Callable[[], Awaitable[bool]], *, seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.02)


async def _is_zero(number: Callable[[], Awaitable[int]]) -> bool:
    return await number() == 0


@asynccontextmanager
async def ground_on(engine: str, url: str) -> AsyncIterator[Ground]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(EFFECTS)
        ground = Ground(engine, url, connection)
        with _ended(ground):
            yield ground


@contextmanager
def _ended(ground: Ground) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in ground.workers:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
