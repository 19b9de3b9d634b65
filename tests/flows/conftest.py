"""One running system for all flows of a test process, and for each test a merchant of its own whose books are checked at the end."""

import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.conftest import _cloned
from tests.flows.books import assert_books_agree
from tests.flows.running import System, new_merchant, running
from tests.flows.shop import Shop


@pytest.fixture(scope="session")
def running_system(database_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with _cloned(database_server, template) as database, running(database, tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest.fixture
def system(running_system: System) -> Iterator[System]:
    """The shared system, whose provider behaves again after the test."""
    yield running_system
    running_system.behave()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=40)) as opened:
        yield opened


@pytest.fixture
async def shop(system: System, session: aiohttp.ClientSession, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    merchant = await new_merchant(system.database_url, f"{request.node.name[:100]} {os.urandom(4).hex()}")
    yield Shop(system, merchant, session)
    await assert_books_agree(system, merchant.id)


@pytest.fixture
async def neighbour(system: System, session: aiohttp.ClientSession) -> AsyncIterator[Shop]:
    """Another merchant of the same installation."""
    merchant = await new_merchant(system.database_url, f"neighbour {os.urandom(4).hex()}")
    yield Shop(system, merchant, session)
    await assert_books_agree(system, merchant.id)
