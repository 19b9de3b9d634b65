"""What is killed: a database of its own, the sandbox provider, web, worker and clock processes, and the merchant's server."""

import asyncio
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier

from app.dev import home as kept
from app.dev.processes import Plan, specs
from app.dev.session import GIVE_UP_AFTER, PACKAGES, READY_SECONDS
from app.infra import embedded_postgres
from app.settings import DRAIN_SECONDS, HANDLER_DEADLINE_SECONDS, LEASE_SECONDS, read_direct_url
from app.supervisor import Spec, Supervisor
from sql.migrate import migrate

# What the merchant's server got, and what the clients were told.
DELIVERIES = "deliveries.jsonl"
ANSWERS = "answers.jsonl"
WEBS = 2
WORKERS = 2
# Waiting requests need workers, workers need the provider and the merchant's server.
DRAIN = ((("web", "clock"), 10.0), (("worker",), 10.0), (("sandbox", "receiver"), 3.0))


class Times(NamedTuple):
    """In seconds, handler < drain < lease; a row that a killed worker had claimed comes back after the lease."""

    handler: int = HANDLER_DEADLINE_SECONDS
    drain: int = DRAIN_SECONDS
    lease: int = LEASE_SECONDS

    def environment(self) -> dict[str, str]:
        return {"HANDLER_DEADLINE_SECONDS": str(self.handler), "DRAIN_SECONDS": str(self.drain), "LEASE_SECONDS": str(self.lease)}


def times_for(lease_seconds: int | None) -> Times:
    """A shorter lease brings back sooner what a kill interrupted; the times below it shrink with it. None: as in production."""
    if lease_seconds is None:
        return Times()
    handler = max(1, lease_seconds // 3)
    return Times(handler=handler, drain=max(handler + 1, 2 * lease_seconds // 3), lease=lease_seconds)


class Installation(NamedTuple):
    home: Path
    url: str
    sandbox_url: str
    database_url: str
    hook_url: str
    secret_key: str
    supervisor: Supervisor

    @property
    def deliveries(self) -> Path:
        return self.home / DELIVERIES

    @property
    def answers(self) -> Path:
        return self.home / ANSWERS


@contextmanager
def prepared(home: Path, times: Times, *, embedded_at: Path | None) -> Iterator[Installation]:
    """Everything but the processes, which `supervisor` is yet to start. Call it from the main thread."""
    with ExitStack() as stack:
        # First, because it knows what a directory must look like that its server can reach.
        database_url = stack.enter_context(_database(embedded_at))
        _forget(home)
        migrate(database_url)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
        fresh = kept.Secrets(secrets.token_hex(32), secrets.token_hex(32), f"sandbox_{secrets.token_hex(16)}")
        known = kept.with_sandbox_port(asyncio.run(kept.with_keys(database_url, fresh)))
        plan = Plan(home, database_url, known, listening.getsockname()[1], listening.fileno(), WEBS, WORKERS)
        hook_port = _free_port()
        installation = Installation(
            home=home,
            url=plan.url,
            sandbox_url=plan.sandbox_url,
            database_url=database_url,
            hook_url=f"http://127.0.0.1:{hook_port}/hook",
            secret_key=known.secret_key,
            supervisor=_supervisor(plan, times, hook_port),
        )
        installation.deliveries.touch()
        yield installation


@contextmanager
def running(installation: Installation) -> Iterator[None]:
    """Its processes, started and ready; ended at the end. Raises NeverReady."""
    try:
        installation.supervisor.start(ready_within=READY_SECONDS, give_up_after=GIVE_UP_AFTER, stop=lambda: False)
        yield
    finally:
        for kinds, seconds in DRAIN:
            installation.supervisor.end(kinds, within=seconds)


def _forget(home: Path) -> None:
    """What an earlier run on the same directory wrote down, by name: the directory may hold what is not ours."""
    for name in ("logs", "sandbox"):
        shutil.rmtree(home / name, ignore_errors=True)
    for name in (DELIVERIES, ANSWERS):
        (home / name).unlink(missing_ok=True)
    (home / "logs").mkdir(parents=True)


def _supervisor(plan: Plan, times: Times, hook_port: int) -> Supervisor:
    environ = {**os.environ, **times.environment()}
    receiver = Spec(
        "receiver",
        "receiver",
        (sys.executable, "-m", "app.crash_check.receiver", "--port", str(hook_port), "--journal", str(plan.home / DELIVERIES)),
        environ,
        plan.home / "logs" / "receiver.log",
    )
    return Supervisor([receiver, *specs(plan, environ)], directory=PACKAGES, show=lambda _name, _line: None, on_change=lambda: None)


@contextmanager
def _database(embedded_at: Path | None) -> Iterator[str]:
    """An empty database that is gone afterwards: on the server that DATABASE_URL names, else on an embedded one."""
    if os.environ.get("DATABASE_URL", "").strip():
        with _on_a_server(read_direct_url(os.environ)) as url:
            yield url
        return
    if embedded_at is not None:
        embedded_postgres.erase(embedded_at)
    with embedded_postgres.running(embedded_at) as server:
        yield server.url


@contextmanager
def _on_a_server(url: str) -> Iterator[str]:
    name = f"tollgate_crash_check_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    try:
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
