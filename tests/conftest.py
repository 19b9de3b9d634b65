"""One database server for a whole test run, and for each test a database of its own cloned from a migrated template.

The server is TEST_DATABASE_URL, else a container where Docker answers, else the embedded PostgreSQL. The controller of a parallel run
starts it for all its workers.
"""

import asyncio
import hashlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop
from psycopg.sql import SQL, Identifier

from app.infra import embedded_postgres
from sql import migrate

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
_SERVER = pytest.StashKey[str]()
_RESOURCES = pytest.StashKey[ExitStack]()
_TEMPLATE_LOCK = 0x74656D706C617465


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESOURCES] = ExitStack()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_RESOURCES].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist, in the controller: every worker is told of the one server."""
    node.workerinput["database_server"] = _server_of(node.config)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that runs in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def database_server(pytestconfig: pytest.Config) -> str:
    """The url of the run's server, with the rights to create databases."""
    workerinput: dict[str, str] | None = getattr(pytestconfig, "workerinput", None)
    return workerinput["database_server"] if workerinput is not None else _server_of(pytestconfig)


@pytest.fixture(scope="session")
def template(database_server: str) -> str:
    """The name of the migrated template on the run's server."""
    return _provide_template(database_server)


@pytest.fixture
def database(database_server: str, template: str) -> Iterator[str]:
    """The url of a migrated, empty database that only this test knows."""
    with _cloned(database_server, template) as url:
        yield url


@pytest.fixture
def empty_database(database_server: str) -> Iterator[str]:
    """The url of a database without our schema."""
    with _cloned(database_server, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def postgres15_server() -> Iterator[str]:
    if not (POSTGRES_15 / "postgres").exists():
        pytest.skip(f"PostgreSQL 15, the oldest supported, is not installed in {POSTGRES_15}")
    with embedded_postgres.running(durable=False, installed=POSTGRES_15) as server:
        yield server.url


@pytest.fixture
def postgres15_url(postgres15_server: str) -> Iterator[str]:
    """As `database`, on PostgreSQL 15."""
    with _cloned(postgres15_server, _provide_template(postgres15_server)) as url:
        yield url


@pytest.fixture(params=["run's server", "postgres 15"])
def any_database(request: pytest.FixtureRequest) -> str:
    """As `database`, once on the run's server and once on PostgreSQL 15, the floor."""
    url: str = request.getfixturevalue("postgres15_url" if request.param == "postgres 15" else "database")
    return url


def _server_of(config: pytest.Config) -> str:
    if _SERVER not in config.stash:
        config.stash[_SERVER] = os.environ.get("TEST_DATABASE_URL") or config.stash[_RESOURCES].enter_context(_own_server())
    return config.stash[_SERVER]


@contextmanager
def _own_server() -> Iterator[str]:
    if _docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18-alpine", driver=None) as container:
            yield container.get_connection_url()
    else:
        with embedded_postgres.running(durable=False) as server:
            yield server.url


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _provide_template(server: str) -> str:
    """Made once per server and content of `sql/`; the lock lets one process make it while the others wait."""
    content = hashlib.sha256("".join(migration.checksum for migration in migrate.load()).encode()).hexdigest()[:12]
    name = f"tollgate_template_{content}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_TEMPLATE_LOCK,))
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            unfinished = f"{name}_{secrets.token_hex(4)}"
            connection.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(Identifier(unfinished)))
            try:
                migrate.migrate(_renamed(server, unfinished))
            except BaseException:
                connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(unfinished)))
                raise
            connection.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(unfinished), Identifier(name)))
    return name


@contextmanager
def _cloned(server: str, template: str) -> Iterator[str]:
    name = f"tollgate_test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        # Copying files takes a quarter of the time of logging every page, and there is nothing to recover here.
        connection.execute(SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(Identifier(name), Identifier(template)))
    try:
        yield _renamed(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _renamed(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
