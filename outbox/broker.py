"""The `postgres` engine: a Dramatiq broker whose consumer claims from the table, in batches.

One Dramatiq message carries the rows of one claim, and it is done as soon as they have been started on the event loop, so a
slow row holds its own slot and nobody else's. Retries, results, time limits and dead-letter queues of Dramatiq stay off: the
row's attempt and failures say all of that, and they survive the process.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import dramatiq
import uvloop
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread, set_event_loop_thread
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.message import Message
from dramatiq.middleware import AsyncIO, Middleware, MiddlewareError

from outbox.engine import Engine, OpenActors, Times
from outbox.intake import Intake, Queue
from outbox.model import Claimed

T = TypeVar("T")

# How long a consumer stays on the loop before it looks whether Dramatiq paused it.
PATIENCE_SECONDS = 5.0
# What opening the actors (pools, sessions) may take.
BOOT_SECONDS = 60.0


class OutboxBroker(Broker):
    """Its consumers claim rows of `queues`; `open_actors` says what is done with them. Nothing can be enqueued through it."""

    def __init__(
        self,
        url: str,
        *,
        queues: Sequence[Queue],
        open_actors: OpenActors,
        times: Times | None = None,
        listen_url: str | None = None,
    ) -> None:
        self.engine = Engine(url, queues=queues, open_actors=open_actors, times=times or Times(), listen_url=listen_url)
        super().__init__(middleware=[UvloopThread(), EngineOnTheLoop(self.engine)])
        for queue in queues:
            declare = dramatiq.actor(broker=self, actor_name=starter_name(queue.name), queue_name=queue.name)
            declare(_starter(self.engine, queue.name))

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> "OutboxConsumer":  # noqa: ARG002 - slots are counted per row
        return OutboxConsumer(self.engine.intakes[queue_name])

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:  # noqa: ARG002 - Dramatiq's signature
        raise TypeError("outbox rows are written by outbox.write, in the transaction that makes them necessary")


class OutboxConsumer(Consumer):
    """Lives on a thread of Dramatiq's; everything it does happens on the event loop."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def __next__(self) -> MessageProxy | None:
        rows = on_the_loop(self._intake.next_batch(PATIENCE_SECONDS))
        if not rows:
            return None
        queue = self._intake.queue.name
        return MessageProxy(Message(queue_name=queue, actor_name=starter_name(queue), args=(rows,), kwargs={}, options={}))

    def ack(self, message: MessageProxy) -> None:
        """The rows were started; what becomes of them is theirs."""

    def nack(self, message: MessageProxy) -> None:
        """They were not."""
        self.requeue([message])

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            on_the_loop(self._intake.hand_back(message.args[0]))


class UvloopThread(AsyncIO):
    """Dramatiq's middleware with uvloop's loop: half the time per row."""

    def before_worker_boot(self, broker: Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        thread = EventLoopThread(self.logger)
        thread.loop.close()
        thread.loop = uvloop.new_event_loop()
        thread.start(timeout=10.0)
        set_event_loop_thread(thread)


class BootFailed(MiddlewareError):
    """The actors could not be opened; the worker does not start."""


class EngineOnTheLoop(Middleware):
    """Keeps the engine open on the loop from the worker's boot to its end, in one task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._leave = asyncio.Event()
        self._life: Future[None]

    def before_worker_boot(self, broker: Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        booted = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(booted), loop())
        self._life.add_done_callback(lambda _: booted.set())
        if not booted.wait(BOOT_SECONDS) or self._life.done():
            self._life.cancel()
            raise BootFailed("the outbox worker could not open its actors") from _error_of(self._life)

    def before_worker_shutdown(self, broker: Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        loop().call_soon_threadsafe(self._engine.drain)

    def after_worker_shutdown(self, broker: Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        loop().call_soon_threadsafe(self._leave.set)
        wait((self._life,))

    async def _live(self, booted: threading.Event) -> None:
        async with self._engine.open():
            booted.set()
            await self._leave.wait()


def _starter(engine: Engine, queue: str) -> Callable[[Sequence[Claimed]], Coroutine[Any, Any, None]]:
    async def start(rows: Sequence[Claimed]) -> None:
        await engine.start(queue, rows)

    return start


def starter_name(queue: str) -> str:
    return f"start.{queue}"


def loop() -> asyncio.AbstractEventLoop:
    thread = get_event_loop_thread()
    if thread is None:
        raise RuntimeError("the worker's event loop does not run")
    return thread.loop


def on_the_loop(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop()).result()


def _error_of(life: Future[None]) -> BaseException | None:
    return life.exception() if life.done() and not life.cancelled() else None
