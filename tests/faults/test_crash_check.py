"""`tollgate crash-check` as it is run: 200 payments while workers, a web process and the clock are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.flows.running import PACKAGES, control

pytestmark = pytest.mark.xdist_group("processes")

SEED = 20


def command(database_server: str, *options: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "app", "crash-check", *options], {**os.environ, "DATABASE_URL": database_server}


def databases(server: str) -> list[str]:
    with psycopg.connect(server) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tollgate_crash_check_%'").fetchall()
    return [name for (name,) in found]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_book_agrees_after_200_payments_between_kills(database_server: str, tmp_path: Path) -> None:
    """One charge per confirmed payment, equal books, nothing open, every event delivered; kills of every victim; nothing left behind."""
    arguments, environ = command(
        database_server, "--payments", "200", "--seed", str(SEED), "--lease-seconds", "6", "--data", str(tmp_path / "data")
    )
    done = subprocess.run(arguments, cwd=PACKAGES, env=environ, capture_output=True, text=True, check=False, timeout=220)

    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.rstrip().endswith("every book agrees")
    assert re.search(rf"seed +{SEED}\n +payments +200\n", done.stdout)
    kills = {name: int(count) for name, count in re.findall(r"(\w+-?\d?) (\d+)", re.search(r"kills +\d+: (.*)", done.stdout)[1])}  # type: ignore[index]
    assert {"worker-1", "worker-2", "web-1", "clock"} == set(kills)
    assert min(kills.values()) >= 2
    answers = [json.loads(line) for line in (tmp_path / "data" / "answers.jsonl").read_text().splitlines()]
    assert any(isinstance(one["answered"], str) for one in answers), "no request was interrupted: the kills hit nothing"
    assert databases(database_server) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_provider_that_charges_twice_is_found(database_server: str, tmp_path: Path) -> None:
    """Keys that the provider stops honouring: exit 1, the sentence that is not true, the payment and its timeline."""
    arguments, environ = command(
        database_server, "--payments", "120", "--seed", str(SEED), "--lease-seconds", "6", "--data", str(tmp_path / "data")
    )
    process = subprocess.Popen(arguments, cwd=PACKAGES, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(line for line in process.stderr if "killed" in line)
    sandbox_url = json.loads((tmp_path / "data" / "logs" / "sandbox.log").read_text().splitlines()[0])["url"]
    control(sandbox_url, "POST", "/_control/settings", {"honour_idempotency_keys": False})
    out, err = process.communicate(timeout=220)

    assert process.returncode == 1, out + err[-4000:]
    assert "not true: no reference took effect twice" in out
    payment_id = re.search(r"(pay_\w+): op_\w+ took effect \d times", out)
    assert payment_id is not None
    assert f"timeline of {payment_id[1]}" in out
    assert "provider_call" in out


def test_an_interrupted_check_leaves_nothing_behind(database_server: str, tmp_path: Path) -> None:
    """SIGINT in the middle: no result, no process, no database."""
    before = set(databases(database_server))
    arguments, environ = command(database_server, "--payments", "100", "--lease-seconds", "6", "--data", str(tmp_path / "data"))
    process = subprocess.Popen(arguments, cwd=PACKAGES, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen: list[int] = []
    for line in process.stderr:
        if killed := re.search(r"killed .*, process (\d+)", line):
            seen.append(int(killed[1]))
        if len(seen) == 2:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert out == ""
    assert set(databases(database_server)) <= before
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
