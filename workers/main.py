"""`tollgate worker`: one process under Dramatiq that works the queues it is given."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import outbox
from app.infra.db import open_pool, with_role
from app.infra.telemetry.process import observing
from app.infra.telemetry.totals import counted
from app.settings import Settings
from outbox.engine import OpenActors, Times
from outbox.intake import Queue
from outbox.wake import Waker
from outbox.worker import run_worker
from workers import psp, webhooks
from workers.observing import observed

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
            pool = await stack.enter_async_context(open_pool(settings.database_url, role="tollgate_writer", size=1))
            await stack.enter_async_context(counted(pool, "worker"))
            yield observed(actors)

    with observing(settings, "worker"):
        return _run(settings, wanted, open_actors)


def _run(settings: Settings, queues: Sequence[Queue], open_actors: OpenActors) -> int:
    return run_worker(
        with_role(settings.database_url, "tollgate_writer"),
        queues,
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
