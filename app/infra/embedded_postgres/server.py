"""One PostgreSQL server on one directory, as long as its owner lives.

The server runs in a session of
its own, so that Ctrl-C reaches it only through its owner, after the workers have drained; a killed owner takes it along, and what
is left behind all the same is stopped by the next start.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from app.infra.children import die_with_parent
from app.infra.embedded_postgres.binaries import EmbeddedPostgresError, Programs, UnusableDirectory, find_programs
from app.infra.embedded_postgres.directory import make_reachable, make_socket_directory, own, private, read_password, take

DATABASE = "tollgate"
USER = "postgres"
MAX_CONNECTIONS = 200
START_SECONDS = 60
STOP_SECONDS = 20
_PORT = 5432
_TEMPORARY = "tollgate-once-"

_SETTINGS = {
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "256MB",
    # A checkpoint writes whole pages again after it: few and spread ones keep the WAL of a busy outbox small.
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "wal_buffers": "16MB",
    "random_page_cost": "1.1",
    # A payment's statements take less time than their compilation would.
    "jit": "off",
    # The outbox is a table that is written and emptied all day.
    "autovacuum_naptime": "10s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "client_min_messages": "warning",
    # Nobody looks at the processes' names, and each statement would write one twice.
    "update_process_title": "off",
}
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
# For tests: a machine that loses power in a test run loses nothing that anybody misses.
_HASTY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A test run has several installations of many processes on it at a time.
    "max_connections": "800",
}


_MEMORY = "/dev/shm"  # noqa: S108 - a directory of ours is made in it, with a random name and no rights for others
_ROOM_IN_MEMORY = 4 * 1024**3


class Server(NamedTuple):
    """A server that answers. `url` names the database `tollgate`, which exists and is empty at first."""

    url: str
    directory: Path
    binaries: Path
    process: subprocess.Popen[bytes]
    socket_directory: Path
    lock: IO[bytes] | None = None
    temporary: bool = False

    def url_of(self, database: str) -> str:
        return self.url.replace(f"/{DATABASE}", f"/{database}", 1)


@contextmanager
def running(directory: Path | None = None, *, durable: bool = True, tcp: bool = False, installed: Path | None = None) -> Iterator[Server]:
    """`start` and `stop` around a block."""
    server = start(directory, durable=durable, tcp=tcp, installed=installed)
    try:
        yield server
    finally:
        stop(server)


def start(directory: Path | None = None, *, durable: bool = True, tcp: bool = False, installed: Path | None = None) -> Server:
    """Start a server on `directory` (None: a temporary one, gone after `stop`). Call it from the main thread.

    `tcp` listens on a free port of the loopback with a password, beside the socket, and puts that into the url.
    `installed` is the `bin` directory of another PostgreSQL, 15 or later. Raises UnusableDirectory, EmbeddedPostgresError.
    """
    home = _temporary(durable=durable) if directory is None else directory.absolute()
    try:
        programs = find_programs(owner_of=home / "cluster", installed=installed)
        make_reachable(home, programs)
        lock = take(home)
        try:
            server = _start_locked(home, programs, durable=durable, port=_free_port() if tcp else None)
        except BaseException:
            lock.close()
            raise
    except BaseException:
        if directory is None:
            shutil.rmtree(home, ignore_errors=True)
        raise
    return server._replace(lock=lock, temporary=directory is None)


def _temporary(*, durable: bool) -> Path:
    # What need not survive lies in memory where there is room: cloning a database takes 12 ms there and 400 on a disk (measured).
    in_memory = not durable and _free_bytes(_MEMORY) > _ROOM_IN_MEMORY
    made = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=_MEMORY if in_memory else None))
    # The server's user passes through it to what is its own.
    made.chmod(0o711)
    _sweep(made.parent)
    return made


def _free_bytes(directory: str) -> int:
    try:
        return shutil.disk_usage(directory).free if os.access(directory, os.W_OK) else 0
    except OSError:
        return 0


def _sweep(parent: Path) -> None:
    """Remove the temporary directories whose owners were killed: their locks are free."""
    for left in parent.glob(f"{_TEMPORARY}*"):
        with suppress(OSError, UnusableDirectory):
            status = (left / "lock").stat()
            # A lock that was made just now may be about to be taken.
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > START_SECONDS:
                with take(left):
                    _stop_what_was_left(left / "cluster")
                    shutil.rmtree(left)


def _start_locked(home: Path, programs: Programs, *, durable: bool, port: int | None) -> Server:
    cluster = home / "cluster"
    own(cluster, programs)
    _stop_what_was_left(cluster)
    if not (cluster / "PG_VERSION").exists():
        _initialize(home, programs, durable=durable)
    socket_directory = make_socket_directory(home, programs)
    process = _launch(home, programs, _options(socket_directory, port=port, durable=durable))
    local = f"postgresql://{USER}@/{DATABASE}?host={quote(str(socket_directory), safe='')}&port={port or _PORT}"
    server = Server(local, home, programs.directory, process, socket_directory)
    try:
        _wait_until_it_answers(server)
        password = read_password(home)
        _prepare(server, password)
    except BaseException:
        stop(server)
        raise
    # Over the socket the directory's mode is the password; on the loopback every local user could connect.
    return server if port is None else server._replace(url=f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}")


def stop(server: Server) -> None:
    """A fast shutdown: open transactions are rolled back, everything committed is on disk. Does nothing the second time."""
    process = server.process
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if server.socket_directory.parent != server.directory:
        shutil.rmtree(server.socket_directory, ignore_errors=True)
    if server.temporary:
        shutil.rmtree(server.directory, ignore_errors=True)
    if server.lock is not None:
        server.lock.close()


def erase(directory: Path) -> None:
    """Remove the cluster of a directory, and nothing else in it. Raises UnusableDirectory while somebody runs it."""
    if not (directory / "cluster").exists():
        return
    with take(directory):
        _stop_what_was_left(directory / "cluster")
        shutil.rmtree(directory / "cluster")


# --- the server ---------------------------------------------------------------------------------------------------------------


def _stop_what_was_left(cluster: Path) -> None:
    """The lock is ours, so a server that still runs here has lost its owner."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    if pid <= 0 or not _is_alive(pid):
        return
    if str(cluster) not in _arguments_of(pid):
        # The number has gone to another program since; PostgreSQL itself would take that one for a server and refuse to start.
        pid_file.unlink()
        return
    for how in (signal.SIGINT, signal.SIGQUIT):
        os.kill(pid, how)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            if not _is_alive(pid):
                return
            time.sleep(0.05)
    raise EmbeddedPostgresError(f"A server that was left behind on {cluster} (process {pid}) does not stop. End it, then try again.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat_file = Path(f"/proc/{pid}/stat")
    # A zombie waits for its reaper and serves nobody.
    return not stat_file.exists() or stat_file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"


def _arguments_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.split()


def _initialize(home: Path, programs: Programs, *, durable: bool) -> None:
    """`initdb` into a fresh directory that is renamed when it is whole, so that a killed start leaves nothing half done."""
    cluster, fresh = home / "cluster", home / "cluster.new"
    shutil.rmtree(fresh, ignore_errors=True)
    own(fresh, programs)
    # The builtin provider sorts the same on every system; before 17 there was none, and C is its nearest relative.
    locale = ["--locale-provider=builtin", "--locale=C.UTF-8"] if programs.major_version() >= 17 else ["--locale=C"]
    command: list[str | Path] = [programs.directory / "initdb", "-D", fresh, "-U", USER, "-E", "UTF8", *locale]
    command += ["--auth-local=trust", "--auth-host=scram-sha-256", *([] if durable else ["--no-sync"])]
    # Its own session too: an impatient Ctrl-C must not leave the caller with an error instead of an orderly end.
    done = subprocess.run(
        command, env=_environment(), cwd="/", capture_output=True, check=False, start_new_session=True, **programs.identity()
    )
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"initdb failed on {fresh}: {done.stderr.decode(errors='replace').strip()}")
    cluster.rmdir()
    fresh.rename(cluster)


def _options(socket_directory: Path, *, port: int | None, durable: bool) -> dict[str, str]:
    return {
        **_SETTINGS,
        **(_DURABLE if durable else _HASTY),
        "unix_socket_directories": str(socket_directory),
        "listen_addresses": "127.0.0.1" if port else "",
        "port": str(port or _PORT),
    }


def _launch(home: Path, programs: Programs, options: dict[str, str]) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [programs.directory / "postgres", "-D", home / "cluster"]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    keyword: dict[str, Any] = {**programs.identity(), "preexec_fn": die_with_parent(signal.SIGINT), "start_new_session": True}
    with private(home / "postgres.log") as log:
        return subprocess.Popen(command, env=_environment(), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **keyword)


def _environment() -> dict[str, str]:
    """Nothing of the caller's: PGPORT or PGDATA meant for another server would bend this one."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(server: Server) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(server.url_of("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if server.process.poll() is None and time.monotonic() < end:
                time.sleep(0.03)
                continue
            raise EmbeddedPostgresError(
                f"PostgreSQL did not start on {server.directory}: {_last_words(server.directory) or error}"
            ) from None
        else:
            return


def _last_words(home: Path) -> str:
    lines = (home / "postgres.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-10:])


def _prepare(server: Server, password: str) -> None:
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        # Encrypted here, so that the server's log never sees it.
        secret = connection.pgconn.encrypt_password(password.encode(), USER.encode(), b"scram-sha-256").decode()
        connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(USER), Literal(secret)))
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE)))
