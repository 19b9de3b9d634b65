"""Connections to one database under each of the roles that meet the ledger."""

from collections.abc import AsyncIterator

import pytest

from app.infra.db import connect
from app.ledger.store import Connection
from tests.ledger.builders import MERCHANT


@pytest.fixture
async def owner(any_database: str) -> AsyncIterator[Connection]:
    async with await connect(any_database, role=None) as connection:
        yield connection


@pytest.fixture
async def writer(any_database: str) -> AsyncIterator[Connection]:
    async with await connect(any_database, role="tollgate_writer", lane=True) as connection:
        yield connection


@pytest.fixture
async def operator(any_database: str) -> AsyncIterator[Connection]:
    async with await connect(any_database, role="tollgate_ops") as connection:
        yield connection


@pytest.fixture
async def tenant(any_database: str) -> AsyncIterator[Connection]:
    """Of the builders' merchant, in test mode."""
    async with await connect(any_database, role="tollgate_app") as connection:
        await connection.execute(
            "SELECT set_config('tollgate.merchant_id', %s, false), set_config('tollgate.livemode', 'false', false)", (MERCHANT,)
        )
        yield connection
