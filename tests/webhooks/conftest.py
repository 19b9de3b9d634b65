"""A merchant's server, connections under the roles, and deliveries as a worker makes them."""

from collections.abc import AsyncIterator

import pytest

from app.infra.db import Connection, Pool, connect, open_pool
from tests.webhooks.builders import Deliveries, opened
from tests.webhooks.receiver import Receiver, running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running() as started:
        yield started


@pytest.fixture
async def writer(database: str) -> AsyncIterator[Connection]:
    """With the plans and timeouts of a lane."""
    async with await connect(database, role="tollgate_writer", lane=True) as connection:
        yield connection


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """As the API has it: one merchant and mode per transaction."""
    async with open_pool(database, role="tollgate_app", size=4) as opened_pool:
        yield opened_pool


@pytest.fixture
async def courier(database: str, writer: Connection) -> AsyncIterator[Deliveries]:
    async with opened(database, writer) as deliveries:
        yield deliveries
