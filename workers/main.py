"""`tollgate worker`: one process under Dramatiq that works the queues it is given."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import outbox
from app.settings import Settings
from outbox.engine import Times
from outbox.intake import Queue
from outbox.wake import Waker
from outbox.worker import run_worker
from workers import psp, webhooks

# Which queue needs what; a family of queues is a process type of the Procfile.
QUEUES: dict[str, Queue] = {queue.name: queue for queue in (psp.INTAKE, webhooks.INTAKE)}


def run(settings: Settings, queues: Sequence[str] = ()) -> int:
    """Work until SIGTERM or SIGINT, over all queues by default; the exit status. Raises KeyError for a queue that does not exist."""
    wanted = [QUEUES[name] for name in (queues or settings.worker_queues or tuple(QUEUES))]

    @asynccontextmanager
    async def open_actors(waker: Waker) -> AsyncIterator[Sequence[outbox.Actor]]:
        names = {queue.name for queue in wanted}
        async with AsyncExitStack() as stack:
            actors: list[outbox.Actor] = []
            if psp.INTAKE.name in names:
                actors.extend(await stack.enter_async_context(psp.open_actors(settings, waker)))
            if webhooks.INTAKE.name in names:
                actors.extend(
                    await stack.enter_async_context(
                        webhooks.open_actors(
                            settings.database_url,
                            waker,
                            server_key=settings.server_key,
                            allow_loopback=settings.webhooks_allow_loopback,
                        )
                    )
                )
            yield actors

    return run_worker(
        settings.database_url,
        wanted,
        open_actors,
        times=Times(
            lease_seconds=settings.lease_seconds,
            handler_seconds=settings.handler_deadline_seconds,
            drain_seconds=settings.drain_seconds,
        ),
        threads=settings.worker_threads,
        listen_url=settings.direct_database_url,
        on_ready=_say_ready,
    )


def _say_ready() -> None:
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
