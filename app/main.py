"""create_app: the only place that wires everything."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import psycopg
from litestar import Litestar
from litestar.datastructures import State

from app.http import errors_page, health, observing, openapi
from app.http.fallback import refuse
from app.http.resources import Resources
from app.http.routes import Route, mend_path_parameters, mount
from app.http.server import listening_socket, serve
from app.identity.keyring import FLUSH_SECONDS, KeyRing
from app.infra.db import connect, open_pool
from app.infra.telemetry import gauges, process, spans
from app.infra.telemetry.catalog import REQUESTS
from app.infra.telemetry.exposition import Exposition
from app.infra.telemetry.totals import counted
from app.operators import api as operators
from app.payments import api as payments
from app.payments import gauges as payments_gauges
from app.payments.moves import PSP_QUEUE
from app.payments.road import Road
from app.providers import observed
from app.settings import Settings
from app.webhooks import api as webhooks
from app.webhooks import gauges as webhooks_gauges
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from sql.migrate import SchemaMismatch, check_current

log = logging.getLogger(__name__)

# Reads of merchants; a write of the road goes through its lane's own connection.
APP_CONNECTIONS = 8
WRITER_CONNECTIONS = 2
OPS_CONNECTIONS = 2

# What there should be, so that what is missing shows as 0.
QUEUES = (PSP_QUEUE, WEBHOOKS)
PROCESSES = ("web", "worker", "clock")
GAUGES = (*gauges.of_outbox(QUEUES), *payments_gauges.GAUGES, *webhooks_gauges.GAUGES)

Lifespan = Callable[[Resources], AbstractAsyncContextManager[None]]

ROUTES: tuple[Route, ...] = (*health.ROUTES, *errors_page.ROUTES, *payments.ROUTES, *webhooks.ROUTES, *operators.ROUTES)
LIFESPANS: tuple[Lifespan, ...] = (payments.lifespan,)


def create_app(settings: Settings, *, routes: Sequence[Route] = ROUTES, lifespans: Sequence[Lifespan] = LIFESPANS) -> Litestar:
    """The ASGI application; its `state.resources` is filled while it runs."""
    resources = Resources(settings)
    resources.on_answer += observing.OBSERVERS
    if spans.exporter is not None:
        resources.on_answer.append(observing.spans_of(routes))

    @asynccontextmanager
    async def live(_app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _open(stack, resources, lifespans)
            resources.add(_figures(resources, routes))
            await stack.enter_async_context(counted(resources.writer_pool, "web"))
            yield

    app = Litestar(
        mount((*routes, *openapi.routes_for(routes)), resources),
        lifespan=[live],
        exception_handlers={Exception: refuse},
        openapi_config=None,
        logging_config=None,
        state=State({"resources": resources}),
    )
    mend_path_parameters(app)
    return app


def run_web(settings: Settings) -> int:
    """Serve until told to end; the exit code. Refuses to start on a schema that is older or newer than this code."""
    with process.observing(settings, "web"):
        try:
            asyncio.run(_require_current_schema(settings))
            listener = listening_socket(settings.host, settings.port)
        except (SchemaMismatch, psycopg.OperationalError, OSError) as error:
            print(f"tollgate web: {error}", file=sys.stderr)
            return 1
        app = create_app(settings)
        return serve(app, app.state.resources, listener)


async def _require_current_schema(settings: Settings) -> None:
    connection = await connect(settings.database_url, role="tollgate_ops")
    async with connection:
        await check_current(connection)


async def _open(stack: AsyncExitStack, resources: Resources, lifespans: Sequence[Lifespan]) -> None:
    url = resources.settings.database_url
    resources.pool = await stack.enter_async_context(open_pool(url, role="tollgate_app", size=APP_CONNECTIONS))
    resources.writer_pool = await stack.enter_async_context(open_pool(url, role="tollgate_writer", size=WRITER_CONNECTIONS))
    resources.ops_pool = await stack.enter_async_context(open_pool(url, role="tollgate_ops", size=OPS_CONNECTIONS))
    resources.keys = KeyRing(resources.writer_pool)
    await stack.enter_async_context(_noting_uses(resources.keys))
    for lifespan in lifespans:
        await stack.enter_async_context(lifespan(resources))


def _figures(resources: Resources, routes: Sequence[Route]) -> Exposition:
    road = resources.find(Road)
    providers = () if road is None else tuple(road.registry.adapters)
    return Exposition(
        resources.ops_pool,
        gauges=GAUGES,
        kinds=PROCESSES,
        zeros={REQUESTS.name: observing.possible_failures(routes), **observed.zeros(providers)},
    )


@asynccontextmanager
async def _noting_uses(keys: KeyRing) -> AsyncIterator[None]:
    task = asyncio.create_task(_flush_for_ever(keys))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        with suppress(Exception):
            await keys.flush()


async def _flush_for_ever(keys: KeyRing) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await keys.flush()
        except Exception:
            # When a key was used last is worth a line, not a process.
            log.warning("the last uses of API keys could not be written", exc_info=True)
