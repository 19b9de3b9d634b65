"""The event loop's side of a worker: claimed rows run concurrently here, each as a task of its own with its own slot."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from outbox.intake import Gate, Intake, Queue
from outbox.model import (
    ALONE_AFTER_VANISHED,
    BACKOFF_CAP_SECONDS,
    DEFAULT_FAILURES_LIMIT,
    GIVE_UP_AFTER_VANISHED,
    Actor,
    Bury,
    Claimed,
    Failed,
    LeaseLost,
    Postpone,
    backoff_seconds,
    error_text,
)
from outbox.store import restamp
from outbox.verdicts import Verdicts
from outbox.wake import Listener, Waker, channel_of

log = logging.getLogger("outbox")

# Opened on the worker's event loop and closed there after the last handler: pools, lanes, sessions of the actors it yields.
OpenActors = Callable[[Waker], AbstractAsyncContextManager[Sequence[Actor]]]

# Of the drain; the rest is for closing what the actors opened.
HANDLERS_SHARE = 0.96

# Suspects that must wait for their turn alone come back after this, in whichever process.
SUSPECT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Times:
    """handler < drain < lease: a worker that ends lets its handlers finish, and no row is claimed while its handler runs."""

    lease_seconds: float = 60.0
    handler_seconds: float = 20.0
    drain_seconds: float = 25.0

    def __post_init__(self) -> None:
        if not 0 < self.handler_seconds < self.drain_seconds < self.lease_seconds:
            raise ValueError("0 < handler_seconds < drain_seconds < lease_seconds")


class Engine:
    def __init__(self, url: str, *, queues: Sequence[Queue], open_actors: OpenActors, times: Times, listen_url: str | None = None) -> None:
        self.queues = {queue.name: queue for queue in queues}
        self.intakes: dict[str, Intake] = {}
        self._url = url
        self._listen_url = listen_url or url
        self._open_actors = open_actors
        self._times = times
        self._actors: dict[str, Actor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Everything a worker has on its loop; leaving waits for the running handlers as long as the drain may take."""
        self._gate = Gate()
        self._alone = asyncio.Lock()
        self._suspects = 0
        self._stop_at: float | None = None
        async with AsyncExitStack() as stack:
            spacings = {channel_of(queue.name): queue.spacing_seconds for queue in self.queues.values() if queue.spacing_seconds}
            waker = await stack.enter_async_context(Waker(self._listen_url, spacings=spacings))
            self._verdicts = Verdicts(self._url, lease_seconds=self._times.lease_seconds)
            stack.push_async_callback(self._verdicts.close)
            listener = Listener(self._listen_url, waker=waker)
            for queue in self.queues.values():
                intake = Intake(self._url, queue, lease_seconds=self._times.lease_seconds, gate=self._gate)
                self.intakes[queue.name] = intake
                stack.push_async_callback(intake.close)
                listener.on(channel_of(queue.name), intake.wake)
            self._actors = {actor.name: actor for actor in await stack.enter_async_context(self._open_actors(waker))}
            stack.push_async_callback(self._finish)
            await stack.enter_async_context(listener)
            yield

    def drain(self) -> None:
        """No claim from now on, and no claimed row starts; those that run may finish."""
        if self._stop_at is None:
            self._stop_at = asyncio.get_running_loop().time() + HANDLERS_SHARE * self._times.drain_seconds
        self._gate.draining = True
        self._reconsider()

    async def start(self, queue: str, rows: Sequence[Claimed]) -> None:
        """Start the rows of one claim and return; each frees its slot when it is done."""
        intake = self.intakes[queue]
        late: list[Claimed] = []
        suspects: list[Claimed] = []
        for row in rows:
            if self._gate.draining or row.past_deadline():
                late.append(row)
            elif ALONE_AFTER_VANISHED <= row.vanished < GIVE_UP_AFTER_VANISHED:
                suspects.append(row)
            else:
                self._spawn(self._run(intake, row))
        if suspects:
            self._spawn(self._run_alone(intake, suspects[0]))
        if suspects[1:]:
            await intake.hand_back(suspects[1:], seconds=SUSPECT_SECONDS)
        if late:
            await intake.hand_back(late)

    def _spawn(self, running: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, intake: Intake, row: Claimed) -> None:
        try:
            await self._decide(row)
        except Exception:
            log.exception("outbox row %d (%s) waits for the end of its lease", row.id, row.actor)
        finally:
            intake.freed(row)

    async def _decide(self, row: Claimed) -> None:
        actor = self._actors.get(row.actor)
        if row.vanished >= GIVE_UP_AFTER_VANISHED:
            alone = GIVE_UP_AFTER_VANISHED - ALONE_AFTER_VANISHED
            return await self._give_up(actor, row, f"its claim vanished {row.vanished} times, {alone} times while it ran alone")
        if actor is None:
            return await self._failed(actor, row, f"this worker has no actor {row.actor!r}")
        try:
            async with asyncio.timeout(self._times.handler_seconds):
                await actor.run(row)
        except Postpone as later:
            await self._verdicts.write((row, later.seconds))
        except LeaseLost:
            log.info("outbox row %d (%s) was lost to another claim", row.id, row.actor)
        # A handler that calls sys.exit() must not take the loop and all its neighbours along.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            log.warning("outbox row %d (%s) failed", row.id, row.actor, exc_info=True)
            await self._failed(actor, row, error_text(error))
        return None

    async def _failed(self, actor: Actor | None, row: Claimed, error: str) -> None:
        limit = DEFAULT_FAILURES_LIMIT if actor is None else actor.failures_limit
        if row.failures + 1 >= limit:
            return await self._give_up(actor, row, error)
        return await self._verdicts.write(Failed(row, error, backoff_seconds(row.failures)))

    async def _give_up(self, actor: Actor | None, row: Claimed, error: str) -> None:
        if actor is None or actor.on_exhausted is None:
            return await self._bury(row, error)
        try:
            async with asyncio.timeout(self._times.handler_seconds):
                await actor.on_exhausted(row, error)
        except LeaseLost:
            return None
        except Bury:
            return await self._bury(row, error)
        except Exception as unable:
            log.exception("outbox row %d (%s): its exhaustion could not be written down", row.id, row.actor)
            return await self._verdicts.write(Failed(row, error_text(unable), BACKOFF_CAP_SECONDS))
        return None

    async def _bury(self, row: Claimed, error: str) -> None:
        log.error("outbox row %d (%s) is a dead letter: %s", row.id, row.actor, error)
        await self._verdicts.write(Failed(row, error))

    async def _run_alone(self, intake: Intake, row: Claimed) -> None:
        """Nothing is beside a row that may be killing its workers, so that only it is blamed for the next crash."""
        self._suspects += 1
        try:
            async with self._alone:
                self._gate.open.clear()
                fresh = await self._restamped(intake, row) if await self._emptied() else None
                if fresh is None:
                    await intake.hand_back([row], seconds=SUSPECT_SECONDS)
                else:
                    log.warning("outbox row %d (%s) runs alone: its claim vanished %d times", row.id, row.actor, row.vanished)
                    await self._run(intake, fresh)
        finally:
            self._suspects -= 1
            self._gate.open.set()
            self._reconsider()

    async def _emptied(self) -> bool:
        """Wait until nothing runs but rows that wait for their turn alone; False when the process drains or something never ends."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._times.handler_seconds + 1.0
        while any(intake.claiming for intake in self.intakes.values()) or self._running() > self._suspects:
            # Rare enough that looking every few milliseconds beats one more event to keep right.
            await asyncio.sleep(0.005)
            if self._gate.draining or loop.time() > until:
                return False
        return not self._gate.draining

    async def _restamped(self, intake: Intake, row: Claimed) -> Claimed | None:
        """The row with a lease that begins now, because it had to wait; None when it is no longer ours."""
        asked_at = time.monotonic()
        try:
            ours = await restamp(await intake.connected(), row, lease_seconds=self._times.lease_seconds)
        except psycopg.Error as error:
            log.warning("outbox row %d cannot run alone now: %s", row.id, error)
            return None
        return replace(row, deadline=asked_at + self._times.lease_seconds / 2) if ours else None

    def _running(self) -> int:
        return sum(intake.running for intake in self.intakes.values())

    def _reconsider(self) -> None:
        for intake in self.intakes.values():
            intake.reconsider()

    async def _finish(self) -> None:
        self.drain()
        while self._tasks and (left := (self._stop_at or 0.0) - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        if self._tasks:
            log.error("%d outbox rows were still running when the drain ended; their leases end by themselves", len(self._tasks))
        for task in self._tasks:
            task.cancel()
