"""One run of `tollgate demo`: a system of its own by `tollgate dev`, the story on it, the report, and nothing left."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import click
import psycopg
from psycopg.sql import SQL, Identifier

from app.infra import embedded_postgres
from app.infra.children import die_with_parent
from app.settings import read_direct_url

PACKAGES = Path(__file__).resolve().parents[2]
# Longer than all that `tollgate dev` gives its processes to drain.
END_SECONDS = 40.0
_LINES_OF_LOG = 15


def run(data: Path | None) -> int:
    """0 when all is as it should be, else 1. Nothing keeps running, and no file stays but in the directory that was named."""
    # Whoever ends it by SIGTERM wants the same as by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        home = data.absolute() if data is not None else stack.enter_context(_temporary_directory())
        environment = stack.enter_context(_environment())
        ready = stack.enter_context(_system(home, environment))
        # Takes a second where the machine is slow, which the system is using to start.
        from app.demo.showing import show  # noqa: PLC0415

        return asyncio.run(show(ready()))


@contextmanager
def _system(home: Path, environment: dict[str, str]) -> Iterator[Callable[[], dict[str, Any]]]:
    """`tollgate dev` on `home`. What it gives waits until that is ready, and says what that said."""
    fresh = [] if "DATABASE_URL" in environment else ["--fresh"]
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches it through here, once, and it drains.
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "dev", "--data", str(home), *fresh],
            cwd=PACKAGES,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one call into the C library, prepared before the fork
        )
        try:
            yield lambda: _said(process, log)
        finally:
            _end(process)


def _said(process: subprocess.Popen[bytes], log: IO[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _not_started(process.wait(END_SECONDS), log)
    said: dict[str, Any] = json.loads(line)
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    # From here on nothing may stop the stopping.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        # Its children die with it.
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _not_started(status: int, log: IO[bytes]) -> click.ClickException:
    log.seek(0)
    last = log.read().decode(errors="replace").splitlines()[-_LINES_OF_LOG:]
    kind = click.UsageError if status == 2 else click.ClickException
    return kind("\n".join(["the system did not start:", *last]))


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """Where a server of ours can run: root's runs as another user, who has to get there."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - the fresh directory in it is ours alone
    place = next((one for one in places if one.is_dir() and embedded_postgres.can_hold(one)), places[0])
    home = Path(tempfile.mkdtemp(prefix="tollgate-demo-", dir=place))
    try:
        home.chmod(0o711)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _environment() -> Iterator[dict[str, str]]:
    """That of the system. A server that DATABASE_URL names gets a database for the demo, gone afterwards: what is there is left alone."""
    ours = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "DIRECT_DATABASE_URL"}}
    if not os.environ.get("DATABASE_URL", "").strip():
        yield ours
        return
    server, name = read_direct_url(os.environ), f"tollgate_demo_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        try:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            raise click.ClickException(
                "the user of DATABASE_URL may not create a database for the demo; without DATABASE_URL it brings its own server."
            ) from None
    try:
        url = _renamed(server, name)
        yield {**ours, "DATABASE_URL": url, "DIRECT_DATABASE_URL": url}
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _renamed(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
