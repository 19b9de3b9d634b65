"""One database per file and server, under each role: attacks leave nothing behind that another attack could trip over."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from app.infra.db import Connection, connect
from tests.conftest import _cloned, _provide_template
from tests.sql.rows import MERCHANT


@pytest.fixture(scope="module", params=["run's server", "postgres 15"])
def attacked(request: pytest.FixtureRequest) -> Iterator[str]:
    """The url of a migrated database, once on the run's server and once on PostgreSQL 15, the floor."""
    server: str = request.getfixturevalue("postgres15_server" if request.param == "postgres 15" else "database_server")
    with _cloned(server, _provide_template(server)) as url:
        yield url


@pytest.fixture
async def owner(attacked: str) -> AsyncIterator[Connection]:
    async with await connect(attacked, role=None) as connection:
        yield connection


@pytest.fixture
async def writer(attacked: str) -> AsyncIterator[Connection]:
    async with await connect(attacked, role="tollgate_writer") as connection:
        yield connection


@pytest.fixture(scope="module")
def unguarded(attacked: str) -> Iterator[str]:
    """A database in which events are not held to their objects, so that the rows' own guards are attacked alone."""
    parts = urlsplit(attacked)
    server = urlunsplit(parts._replace(path="/postgres"))
    with _cloned(server, _provide_template(server)) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TRIGGER event_is_the_last_of_its_object ON events")
        yield url


@pytest.fixture
async def alone(unguarded: str) -> AsyncIterator[Connection]:
    """The writer, where rows are guarded by their own rules alone."""
    async with await connect(unguarded, role="tollgate_writer") as connection:
        yield connection


@pytest.fixture
async def merchant(attacked: str) -> AsyncIterator[Connection]:
    """The application's role, as the rows' merchant in test mode."""
    async with await connect(attacked, role="tollgate_app") as connection:
        await become(connection, MERCHANT)
        yield connection


@pytest.fixture
async def operator(attacked: str) -> AsyncIterator[Connection]:
    async with await connect(attacked, role="tollgate_ops") as connection:
        yield connection


async def become(connection: Connection, merchant_id: str, *, livemode: bool = False) -> None:
    await connection.execute(
        "SELECT set_config('tollgate.merchant_id', %s, false), set_config('tollgate.livemode', %s, false)",
        (merchant_id, str(livemode).lower()),
    )
