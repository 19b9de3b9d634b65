"""What the payments capability holds while a web process lives: its lanes, the waiters, the way to wake workers."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from app.core.ids import Id
from app.infra.db import Connection, Pool, connect
from app.infra.group_commit import Lane
from app.payments import confirm, create, waiting
from app.payments.confirm import Confirm, Confirmed
from app.payments.create import Created, NewIntent
from app.payments.settle import DONE
from app.payments.waiting import Answered, Waiters
from app.providers.registry import Registry
from app.settings import Settings
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from outbox.wake import Listener, Waker


class Road(NamedTuple):
    settings: Settings
    pool: Pool
    registry: Registry
    create: "Lane[NewIntent, Created]"
    confirm: "Lane[Confirm, Confirmed]"
    waiters: Waiters
    waker: Waker

    def wake(self, queues: Iterable[str]) -> None:
        """After the commit that filled them."""
        for queue in queues:
            self.waker.wake(queue)


@asynccontextmanager
async def open_road(settings: Settings, *, pool: Pool, registry: Registry) -> AsyncIterator[Road]:
    """Lanes, waiters and the listener of a web process, open inside the `async with`."""

    async def lane_connection() -> Connection:
        return await connect(settings.database_url, role="tollgate_writer", lane=True)

    answers: Lane[Id, Answered | None] = Lane("answers", lane_connection, waiting.read_answers, keys=waiting.touched)
    waiters = Waiters(answers)

    def heard(items: Sequence[str] | None) -> None:
        if items is None:
            waiters.told_all()
        else:
            for item in items:
                waiters.told(item)

    listener = Listener(settings.direct_database_url)
    listener.on(DONE, heard)
    async with Waker(settings.direct_database_url) as waker, listener:
        create_lane: Lane[NewIntent, Created] = Lane("create", lane_connection, _creating(waker), keys=create.touched)
        confirm_lane: Lane[Confirm, Confirmed] = Lane("confirm", lane_connection, _confirming(registry, waker), keys=confirm.touched)
        lanes: tuple[Lane[Any, Any], ...] = (answers, create_lane, confirm_lane)
        for lane in lanes:
            await lane.start()
        try:
            yield Road(settings, pool, registry, create_lane, confirm_lane, waiters, waker)
        finally:
            for lane in lanes:
                await lane.stop()


def _creating(waker: Waker) -> Any:
    async def batch(connection: Connection, news: list[NewIntent]) -> Sequence[Created]:
        answers, announced = await create.create_batch(connection, news)
        if announced:
            waker.wake(WEBHOOKS)
        return answers

    return batch


def _confirming(registry: Registry, waker: Waker) -> Any:
    confirming = confirm.confirm_batch(registry)

    async def batch(connection: Connection, confirms: list[Confirm]) -> Sequence[Confirmed]:
        answers, queues = await confirming(connection, confirms)
        for queue in queues:
            waker.wake(queue)
        return answers

    return batch
