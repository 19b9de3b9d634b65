"""The worker of the queue `psp`: its own actors over rows of the real outbox, and a provider of the test's choice."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest

import outbox
from app.core.clock import now
from app.payments import due
from app.payments.moves import LONGEST_LOOK_UP, PSP_QUEUE
from app.providers.base import Adapter
from app.providers.configured import SANDBOX_TOKENS
from app.providers.registry import Registry, Route
from app.providers.sandbox import SandboxAdapter
from outbox.wake import Waker
from tests.payments.builders import Counter, opened, settings_of
from tests.sandbox.running import CALLBACK_SECRET, KEY, RunningSandbox
from workers import psp


class Worker:
    def __init__(self, counter: Counter, actors: Sequence[outbox.Actor], database: str) -> None:
        self._counter = counter
        self._actors = {actor.name: actor.run for actor in actors}
        self._database = database

    async def claim(self) -> outbox.Claimed:
        """The one row that is due."""
        (row,) = await outbox.claim(self._counter.writer, PSP_QUEUE, limit=10, lease_seconds=60)
        return row

    async def do(self, row: outbox.Claimed) -> None:
        await self._actors[row.actor](row)

    async def run(self) -> None:
        """Until nothing is due; what a handler raises is the test's."""
        while rows := await outbox.claim(self._counter.writer, PSP_QUEUE, limit=10, lease_seconds=60):
            for row in rows:
                await self.do(row)

    async def look_up(self) -> None:
        """What the clock does when every look-up has become due, and then the worker."""
        async with self._counter.writer.transaction():
            await due.emit_look_ups(self._counter.writer, now=now() + 2 * LONGEST_LOOK_UP, limit=10)
        await self.run()

    async def leases_end(self) -> None:
        """What was claimed by a worker that has vanished is due again."""
        async with await psycopg.AsyncConnection.connect(self._database, autocommit=True) as owner:
            await owner.execute("UPDATE outbox SET due_at = statement_timestamp() WHERE attempt > 0")


class Shift(msgspec.Struct):
    """Where a merchant asks, and the worker that asks the provider."""

    counter: Counter
    worker: Worker


@asynccontextmanager
async def at_work(database: str, adapter: Adapter) -> AsyncIterator[Shift]:
    """In a house that has this one provider, under the sandbox's name."""
    registry = Registry({"sandbox": adapter}, (Route("sandbox", livemode=False),), test_tokens=SANDBOX_TOKENS)
    with pytest.MonkeyPatch.context() as house:
        house.setattr(psp, "configured", lambda _: registry)
        async with opened(database, registry) as counter, Waker(database) as waker, psp.open_actors(settings_of(database), waker) as actors:
            yield Shift(counter, Worker(counter, actors, database))


def sandbox_adapter(sandbox: RunningSandbox, **otherwise: Any) -> SandboxAdapter:
    """Of a provider that speaks as the sandbox does and is otherwise capable."""
    adapter = SandboxAdapter(url=sandbox.url, key=KEY, callback_secret=CALLBACK_SECRET)
    adapter.capabilities = msgspec.structs.replace(adapter.capabilities, **otherwise)
    return adapter
