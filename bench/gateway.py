"""P1, P2, P3, P9: the gateway over HTTP, interleaved with pgbench on the same server."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg

from bench import baseline
from bench.clients import Order, Result, quantile, run
from bench.stand import Stand, standing

MERCHANTS = 100
IDLE_SECONDS = 10.0


@contextmanager
def receiving() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", "bench.receiver"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        process.terminate()
        process.wait(10)


def measure(directory: Path, *, rounds: int, share: float) -> dict[str, list[float]]:
    """Lists of one figure per round, by name; `share` scales the amount of work."""
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    with (
        receiving() as receiver_url,
        standing(directory / "stand", webs=2, workers=1, merchants=MERCHANTS, receiver_url=receiver_url) as stand,
    ):
        idle(stand, note)
        _warm_up(stand)
        data, merchant_id = _an_intent(stand)
        for _ in range(rounds):
            _until_quiet(stand)
            note("machine_ms", _pace())
            alone = _load(stand, mode="pay", count=int(300 * share), connections=1)
            note("confirm_p50_at_1_ms", quantile(alone.confirm_ms, 0.5))
            paced = _load(stand, mode="pay", count=int(2_000 * share), connections=64, per_second=200.0)
            note("confirm_p50_at_200_ms", quantile(paced.confirm_ms, 0.5))
            note("confirm_p99_at_200_ms", quantile(paced.confirm_ms, 0.99))
            note(
                "pgbench",
                baseline.run(
                    stand.database_url, merchant_id=merchant_id, data=data, directory=directory, clients=32, seconds=max(2, int(5 * share))
                ),
            )
            created = _load(stand, mode="create", count=int(20_000 * share), connections=32)
            note("create_per_second", created.done / created.seconds)
            note("whole_per_second", _whole(stand, receiver_url, count=int(6_000 * share)))
        note("web_mb", max(_rss_mb(pid) for pid in stand.pids["web"]))
        note("worker_mb", max(_rss_mb(pid) for pid in stand.pids["worker"]))
    return figures


def _load(stand: Stand, *, mode: str, count: int, connections: int, per_second: float = 0.0) -> Result:
    result = asyncio.run(run(Order(stand.port, stand.secret_keys, mode, count, connections, per_second)))
    if result.refused:
        raise RuntimeError(f"{result.refused} of {count} requests were not answered as they should have been")
    return result


def _whole(stand: Stand, receiver_url: str, *, count: int) -> float:
    """Payments per second, from the first request to the last acknowledged webhook."""
    before = _received(receiver_url)
    begun = time.perf_counter()
    _load(stand, mode="pay", count=count, connections=64)
    while _received(receiver_url) < before + count:
        time.sleep(0.02)
        if time.perf_counter() - begun > 300:
            raise RuntimeError("webhooks are missing")
    return count / (time.perf_counter() - begun)


def _received(receiver_url: str) -> int:
    with urlopen(receiver_url) as answer:
        return int(answer.read())


def _pace() -> float:
    """Milliseconds of a fixed piece of work: a shared machine is faster and slower by turns, and what waits shows it."""

    def once() -> float:
        begun, total = time.perf_counter(), 0
        for number in range(300_000):
            total += number * number
        return (time.perf_counter() - begun) * 1000

    return min(once() for _ in range(5))


def _until_quiet(stand: Stand) -> None:
    """What a caller waits is measured without what the round before has left to autovacuum and the checkpointer; a minute at most."""
    with psycopg.connect(stand.database_url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        quiet_since = end = time.monotonic()
        end += 60
        while time.monotonic() < min(quiet_since + 3, end):
            row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'").fetchone()
            if row is not None and row[0]:
                quiet_since = time.monotonic()
            time.sleep(0.2)


def _warm_up(stand: Stand) -> None:
    _load(stand, mode="pay", count=300, connections=16)


def _an_intent(stand: Stand) -> tuple[str, str]:
    """The data of a real event, so that both sides write rows of the same width."""
    with psycopg.connect(stand.database_url) as connection:
        row = connection.execute(
            "SELECT data::text, merchant_id::text FROM events WHERE object_type = 'payment_intent' AND event = 'created' LIMIT 1"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def idle(stand: Stand, note: Any) -> None:
    """The share of one core that everything of `tollgate dev` uses while nothing is asked of it, Postgres included."""
    time.sleep(3)
    pids = [pid for kind in stand.pids.values() for pid in kind] + _postgres_of(stand)
    before, at = sum(_cpu_seconds(pid) for pid in pids), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    note("idle_percent", 100 * (sum(_cpu_seconds(pid) for pid in pids) - before) / (time.perf_counter() - at))


def _postgres_of(stand: Stand) -> list[int]:
    with psycopg.connect(stand.database_url) as connection:
        return [row[0] for row in connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100.0


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")
