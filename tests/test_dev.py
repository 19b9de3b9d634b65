import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.infra import embedded_postgres

ROOT = Path(__file__).parents[1]
# A whole system on every core would make each of them slow: one at a time.
pytestmark = pytest.mark.xdist_group("processes")


class System:
    """A running `tollgate dev` and what it said."""

    def __init__(self, home: Path, *options: str) -> None:
        environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        self.log = (home.parent / f"{home.name}.err").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "dev", "--data", str(home), *options],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            pytest.fail(self.log.read().decode())
        self.said: dict[str, Any] = json.loads(line)

    def now(self) -> dict[str, Any]:
        """As the line, with the process ids of this moment."""
        found: dict[str, Any] = json.loads((Path(self.said["data"]) / "status.json").read_text())
        return found

    def everyone(self) -> list[int]:
        server = int((Path(self.said["data"]) / "cluster" / "postmaster.pid").read_text().split("\n")[0])
        return [server, *(pid for pids in self.now()["pids"].values() for pid in pids)]

    def get(self, path: str, key: str) -> int:
        asked = urllib.request.Request(self.said["url"] + path, headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(40)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that an unprivileged user may enter, which pytest's own temporary ones are not."""
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., System]]:
    with contextlib.ExitStack() as stack:

        def starting(*options: str) -> System:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            system = System(place / "dev", "--port", str(port), *options)
            stack.callback(system.log.close)
            stack.callback(system.process.wait, 40)
            stack.callback(system.process.terminate)
            return system

        yield starting


def comes_true(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if what():
                return True
        time.sleep(0.1)
    return False


def is_there(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_everything_runs_is_brought_back_and_ends(start: Callable[..., System]) -> None:
    """One line says how to reach it; what is killed returns; SIGTERM drains, ends with 0 in time and leaves nothing behind."""
    system = start("--workers", "2")
    said = system.said

    assert said.keys() >= {"ready", "url", "secret_key", "operator_key", "sandbox_url", "database_url", "pids"}
    assert said["ready"] is True
    assert {kind: len(pids) for kind, pids in said["pids"].items()} == {"web": 1, "worker": 2, "clock": 1, "sandbox": 1}
    assert system.get("/readyz", "") == 200
    assert system.get("/v1/payment_intents", said["secret_key"]) == 200
    assert system.get("/v1/ops/queues", said["operator_key"]) == 200
    with psycopg.connect(said["database_url"]) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)

    for pids in said["pids"].values():
        os.kill(pids[0], signal.SIGKILL)
    assert comes_true(lambda: not {pid for pids in system.now()["pids"].values() for pid in pids} & {p[0] for p in said["pids"].values()})
    assert comes_true(lambda: system.get("/readyz", "") == 200)
    os.kill(system.everyone()[0], signal.SIGKILL)
    assert comes_true(lambda: system.get("/readyz", "") == 200 and is_there(system.everyone()[0]))

    everyone = system.everyone()
    begun = time.monotonic()
    assert system.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 25
    assert system.process.stdout is not None
    assert system.process.stdout.read() == b""
    assert [pid for pid in everyone if is_there(pid)] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_killed_system_leaves_nothing_running_and_its_data_whole(start: Callable[..., System]) -> None:
    """SIGKILL takes all processes along; the next start has the same keys, and --fresh has new ones."""
    first = start()
    everyone = first.everyone()
    first.end(signal.SIGKILL)

    assert comes_true(lambda: not any(is_there(pid) for pid in everyone))

    second = start()
    assert second.said["secret_key"] == first.said["secret_key"]
    assert second.said["sandbox_url"] == first.said["sandbox_url"]
    assert second.get("/v1/payment_intents", first.said["secret_key"]) == 200
    assert second.end(signal.SIGINT) == 0

    third = start("--fresh")
    assert third.get("/v1/payment_intents", third.said["secret_key"]) == 200
    assert third.get("/v1/payment_intents", first.said["secret_key"]) == 401


def dev(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "dev", *options]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60)


def test_a_directory_that_cannot_be_used_exits_2(place: Path) -> None:
    """The message says where to put it instead."""
    (place / "file").write_text("")

    done = dev("--data", str(place / "file"))

    assert (done.returncode, done.stdout) == (2, "")
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_exits_2(place: Path) -> None:
    """Said before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = dev("--data", str(place / "dev"), "--port", str(busy.getsockname()[1]))

    assert (done.returncode, done.stdout) == (2, "")
    assert "--port" in done.stderr
    assert not (place / "dev").exists()


def test_a_database_that_is_not_ours_is_never_emptied(place: Path) -> None:
    """--fresh with DATABASE_URL is a mistake."""
    done = dev("--data", str(place / "dev"), "--fresh", DATABASE_URL="postgresql://127.0.0.1:1/precious")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--fresh" in done.stderr


def test_two_systems_do_not_share_a_directory(place: Path) -> None:
    """The second one says who has it."""
    with embedded_postgres.running(place / "dev", durable=False):
        done = dev("--data", str(place / "dev"))

    assert (done.returncode, done.stdout) == (2, "")
    assert "in use by another process" in done.stderr
