"""A database and a road of one's own for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.payments.builders import Counter, opened


@pytest.fixture
async def counter(database: str) -> AsyncIterator[Counter]:
    async with opened(database) as opened_counter:
        yield opened_counter
