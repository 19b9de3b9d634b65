"""One run of `tollgate dev`, from first to last."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from app.dev import home as kept
from app.dev.processes import Plan, specs
from app.infra import embedded_postgres
from app.settings import read_direct_url
from app.supervisor import NeverReady, Supervisor, to_stderr
from sql.migrate import migrate

# Child processes are started where our packages are, so that a folder `app` in the user's directory is not taken for ours.
PACKAGES = Path(__file__).resolve().parents[2]
DEFAULT_PORT = 8000
READY_SECONDS = 60.0
GIVE_UP_AFTER = 5
# Together less than the 25 s that a platform gives. Waiting requests need workers, workers need the provider, all need the database.
DRAIN = ((("web", "clock"), 10.0), (("worker",), 8.0), (("sandbox",), 2.0))


class Ending:
    """True from the first SIGINT or SIGTERM on. Further ones change nothing: the drain is under way."""

    def __init__(self) -> None:
        self._asked = False
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def run(*, port: int | None, data: Path | None, fresh: bool, webs: int, workers: int) -> int:
    """Until SIGINT or SIGTERM; the exit status. Raises UnusableDirectory, EmbeddedPostgresError and what `migrate` raises."""
    ending = Ending()
    home = (data or kept.default_directory()).absolute()
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(port))
        to_stderr("dev", f"data in {home}")
        database = stack.enter_context(_database(home, fresh=fresh))
        if ending():
            return 0
        migrate(database.url, on_warning=lambda line: to_stderr("migrate", line))
        secrets = kept.with_sandbox_port(asyncio.run(kept.with_keys(database.url, kept.read_secrets(home))))
        kept.write_secrets(home, secrets)
        plan = Plan(home, database.url, secrets, listening.getsockname()[1], listening.fileno(), webs, workers)
        return _supervise(plan, database, ending)


def _supervise(plan: Plan, database: "_Database", ending: Ending) -> int:
    # Both hold what only the owner should read: the provider's book, and log lines.
    for name in ("logs", "sandbox"):
        (plan.home / name).mkdir(mode=0o700, exist_ok=True)
    status = plan.home / "status.json"

    def note() -> None:
        """Process ids change with every restart; whoever needs today's reads them here."""
        kept.write_private(status, (_status_line(plan, supervisor) + "\n").encode())

    supervisor = Supervisor(specs(plan), directory=PACKAGES, show=to_stderr, on_change=note)
    try:
        if supervisor.start(ready_within=READY_SECONDS, give_up_after=GIVE_UP_AFTER, stop=ending):
            note()
            print(_status_line(plan, supervisor), flush=True)
            to_stderr("dev", f"ready on {plan.url}; Ctrl-C ends it")
            supervisor.watch(stop=ending, each_tick=database.look)
    except NeverReady as error:
        raise click.ClickException(str(error)) from None
    finally:
        for kinds, seconds in DRAIN:
            supervisor.end(kinds, within=seconds)
        status.unlink(missing_ok=True)
    return 0


def _status_line(plan: Plan, supervisor: Supervisor) -> str:
    return kept.status_line(
        {
            "url": plan.url,
            "secret_key": plan.secrets.secret_key,
            "operator_key": plan.secrets.operator_key,
            "sandbox_url": plan.sandbox_url,
            "database_url": plan.database_url,
            "pids": supervisor.pids(),
            "data": str(plan.home),
        }
    )


class _Database:
    """The embedded server, brought back when it dies; or the one that DATABASE_URL names, which is not ours to watch."""

    def __init__(self, home: Path, *, fresh: bool) -> None:
        self._home = home
        self._server: embedded_postgres.Server | None = None
        if os.environ.get("DATABASE_URL", "").strip():
            if fresh:
                raise click.UsageError("--fresh empties the embedded database; DATABASE_URL names another one, which is left alone.")
            self.url = read_direct_url(os.environ)
            home.mkdir(parents=True, exist_ok=True)
            return
        if fresh:
            embedded_postgres.erase(home)
        self._server = embedded_postgres.start(home)
        self.url = self._server.url
        if fresh:
            kept.forget(home)

    def look(self) -> None:
        if self._server is not None and self._server.process.poll() is not None:
            to_stderr("postgres", f"ended with {self._server.process.returncode}, starts again")
            embedded_postgres.stop(self._server)
            self._server = embedded_postgres.start(self._home)

    def stop(self) -> None:
        if self._server is not None:
            embedded_postgres.stop(self._server)


@contextmanager
def _database(home: Path, *, fresh: bool) -> Iterator[_Database]:
    database = _Database(home, fresh=fresh)
    try:
        yield database
    finally:
        database.stop()


@contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    """Bound before anything else is started, so that a port in use is said at once."""
    tries = [port] if port is not None else [DEFAULT_PORT, 0]
    for one in tries:
        try:
            listening = socket.create_server(("127.0.0.1", one), backlog=2048)
        except OSError as error:
            if one == tries[-1]:
                raise click.UsageError(f"port {one} cannot be used: {error.strerror}. Name another one with --port.") from None
            continue
        with listening:
            yield listening
        return
