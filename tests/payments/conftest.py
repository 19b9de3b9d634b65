"""A database and a road of one's own for each test, and the sandbox provider for those whose worker asks one."""

from collections.abc import AsyncIterator

import pytest

from tests.payments.builders import Counter, opened
from tests.sandbox.conftest import sandbox, shared_sandbox  # noqa: F401 - fixtures


@pytest.fixture
async def counter(database: str) -> AsyncIterator[Counter]:
    async with opened(database) as opened_counter:
        yield opened_counter
