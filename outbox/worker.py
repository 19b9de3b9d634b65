"""One worker process: a Dramatiq worker over the outbox that ends with 0 within its drain on SIGTERM.

Dramatiq's own command line is not used: a second SIGTERM left its process hanging on the event loop's thread.
"""

import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import dramatiq

from outbox.broker import BootFailed, OutboxBroker
from outbox.engine import OpenActors, Times
from outbox.intake import Queue
from outbox.model import Actor
from outbox.wake import Waker

log = logging.getLogger("outbox")

# Worker threads only start rows and look for their end this often.
WORKER_TIMEOUT_MS = 500


def run_worker(
    url: str,
    queues: Sequence[Queue | str],
    actors: Sequence[Actor] | OpenActors,
    *,
    times: Times | None = None,
    threads: int = 2,
    listen_url: str | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Work until SIGTERM or SIGINT; the answer is the process's exit status. Runs on the main thread.

    `listen_url` goes past a pooler such as PgBouncer. `actors` may be a function from the worker's `Waker` to an async context
    manager that yields them: it is entered on the event loop and left there after the last handler.
    """
    ending = threading.Event()
    before = {number: signal.signal(number, lambda _number, _frame: ending.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    times = times or Times()
    broker = OutboxBroker(
        url,
        queues=[Queue(queue) if isinstance(queue, str) else queue for queue in queues],
        open_actors=actors if callable(actors) else _opened(actors),
        times=times,
        listen_url=listen_url,
    )
    try:
        return _work(broker, threads=threads, times=times, ending=ending, on_ready=on_ready)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(broker: OutboxBroker, *, threads: int, times: Times, ending: threading.Event, on_ready: Callable[[], None] | None) -> int:
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=WORKER_TIMEOUT_MS)
    try:
        worker.start()
    except BootFailed as error:
        log.critical("%s", error, exc_info=error.__cause__)
        broker.emit_after("worker_shutdown", worker)
        return 1
    if on_ready is not None:
        on_ready()
    ending.wait()
    # Whatever still hangs when the drain has passed is left to its lease.
    backstop = threading.Timer(times.drain_seconds, os._exit, (0,))
    backstop.daemon = True
    backstop.start()
    worker.stop(timeout=int(times.drain_seconds * 1000))
    backstop.cancel()
    return 0


def _opened(actors: Sequence[Actor]) -> OpenActors:
    @asynccontextmanager
    async def open_actors(_waker: Waker) -> AsyncIterator[Sequence[Actor]]:
        yield actors

    return open_actors
