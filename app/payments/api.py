"""The capability's routes, and what they need while the process lives."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.http import Resources
from app.payments import callback_api, checkout_api, intent_api, payment_api
from app.payments.road import open_road
from app.providers.configured import configured

ROUTES = (*intent_api.ROUTES, *payment_api.ROUTES, *callback_api.ROUTES, *checkout_api.ROUTES)


@asynccontextmanager
async def lifespan(resources: Resources) -> AsyncIterator[None]:
    registry = configured(resources.settings)
    try:
        async with open_road(resources.settings, pool=resources.pool, registry=registry) as road:
            resources.add(road)
            # Other capabilities wake workers over the same connection.
            resources.add(road.waker)
            resources.on_drain.append(road.waiters.drain)
            yield
    finally:
        await registry.close()
