"""One worker process with handlers that do nothing, on each of the three sides that P4 and P6 compare.

`python -m bench.outbox_worker outbox|procrastinate|rabbit COUNT` says "ready", handles COUNT rows, says when each was started
(`time.monotonic`, one clock for all processes of a machine) and how long all of them took, and works on until it is terminated.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import dramatiq
import procrastinate
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO

import outbox
from app.infra.db import Connection, connect
from app.infra.group_commit import Lane

QUEUE = "bench.noop"
TASK = "noop"
SLOTS = 1024
# What each of the others is fastest with here: procrastinate's rate does not grow above it, Dramatiq's default is 8 threads.
PROCRASTINATE_CONCURRENCY = 32
DRAMATIQ_THREADS = 8


class Book:
    """When each row was started, and when the last of them was finished."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._started: dict[str, float] = {}

    def start(self, name: str) -> None:
        self._started[name] = time.monotonic()

    def finish(self) -> None:
        self._left -= 1
        if self._left == 0:
            seconds = time.monotonic() - min(self._started.values())
            say(json.dumps({"seconds": seconds, "started": self._started}))


def work_outbox(url: str, book: Book) -> int:
    async def settle(connection: Connection, rows: list[outbox.Claimed]) -> Sequence[bool]:
        settled = await outbox.settle(connection, rows)
        return [row.id in settled for row in rows]

    @asynccontextmanager
    async def open_actors(_waker: outbox.Waker) -> AsyncIterator[Sequence[outbox.Actor]]:
        lane: Lane[outbox.Claimed, bool] = Lane(
            "noop", partial(connect, url, role="tollgate_writer", lane=True), settle, keys=lambda row: (row.id,), max_batch=200
        )
        await lane.start()

        async def noop(row: outbox.Claimed) -> None:
            book.start(row.payload)
            if not await lane.submit(row):
                raise outbox.LeaseLost
            book.finish()

        yield [outbox.Actor(TASK, noop)]
        await lane.stop()

    queue = outbox.Queue(QUEUE, slots=SLOTS, lane_limit=SLOTS, batch=200)
    return outbox.run_worker(url, [queue], open_actors, on_ready=lambda: say("ready"))


def procrastinate_app(url: str, book: Book | None = None) -> procrastinate.App:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    @app.task(name=TASK, queue=QUEUE)
    async def noop(name: str) -> None:
        if book is not None:
            book.start(name)
            book.finish()

    return app


def work_procrastinate(url: str, book: Book) -> int:
    async def run() -> None:
        app = procrastinate_app(url, book)
        async with app.open_async():
            working = asyncio.create_task(
                app.run_worker_async(
                    queues=[QUEUE], concurrency=PROCRASTINATE_CONCURRENCY, delete_jobs="successful", install_signal_handlers=False
                )
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
            say("ready")
            with suppress(asyncio.CancelledError):
                await working

    asyncio.run(run())
    return 0


def rabbit_broker(url: str, book: Book | None = None) -> RabbitmqBroker:
    """Dramatiq as it comes: acknowledged messages, an async actor, publisher confirms."""
    broker = RabbitmqBroker(url=url, middleware=[AsyncIO()], confirm_delivery=True)

    async def noop(name: str) -> None:
        if book is not None:
            book.start(name)
            book.finish()

    dramatiq.actor(queue_name=QUEUE, actor_name=TASK, broker=broker)(noop)
    return broker


def work_rabbit(url: str, book: Book) -> int:
    worker = dramatiq.Worker(rabbit_broker(url, book), worker_threads=DRAMATIQ_THREADS)
    worker.start()
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    say("ready")
    while True:
        time.sleep(1)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    side, count = sys.argv[1], int(sys.argv[2])
    work = {"outbox": work_outbox, "procrastinate": work_procrastinate, "rabbit": work_rabbit}[side]
    sys.exit(work(os.environ["BENCH_URL"], Book(count)))
