from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.outbox.engines import Ground, ground_on

pytest.register_assert_rewrite("tests.outbox.conformance")

# A second engine is added here and in program.py, and has to pass the same suite.
ENGINES = ["postgres"]


@pytest.fixture(params=ENGINES)
async def ground(request: pytest.FixtureRequest, any_database: str) -> AsyncIterator[Ground]:
    async with ground_on(request.param, any_database) as made:
        yield made


@pytest.fixture
async def connection(any_database: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """In autocommit, with the rights of the owner."""
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as opened:
        yield opened
