"""`make bench`: everything that PERFORMANCE asks for so far, in one run on one machine, as ratios with their spread.

`python -m bench --quick` does a tenth of the work and writes nothing: to see that it runs, not to quote.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from app.infra import embedded_postgres
from bench import baseline, gateway, outbox_pickup, outbox_throughput, rabbit, settlement
from bench.clients import quantile
from sql.migrate import migrate

ROUNDS = 3
RESULTS = Path(__file__).parent / "RESULTS.md"
_PACKAGES = ("litestar", "uvicorn", "psycopg", "dramatiq", "aiohttp", "msgspec", "procrastinate")


class Line(NamedTuple):
    """`values` are one figure per round; `met` says whether their median reaches the goal."""

    number: str
    what: str
    values: Sequence[float]
    unit: str
    goal: str
    met: bool | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one round, nothing written")
    options = parser.parse_args()
    rounds, share = (1, 0.1) if options.quick else (ROUNDS, 1.0)
    with tempfile.TemporaryDirectory(prefix="tollgate-bench-") as directory, rabbit.running() as amqp_url:
        # The embedded server may run as another user, who has to be able to pass through here.
        Path(directory).chmod(0o755)
        lines = [*_of_outbox(rounds, share, amqp_url), *_of_gateway(gateway.measure(Path(directory), rounds=rounds, share=share))]
    report = _report(sorted(lines, key=lambda line: line.number), rounds)
    sys.stdout.write(report)
    if not options.quick:
        RESULTS.write_text(report)
    return 0


def _of_gateway(figures: dict[str, list[float]]) -> list[Line]:
    def line(number: str, what: str, values: Sequence[float], unit: str, goal: str, meets: Callable[[float], bool]) -> Line:
        return Line(number, what, values, unit, goal, meets(median(values)))

    def ratio(name: str) -> list[float]:
        return [mine / theirs for mine, theirs in zip(figures[name], figures["pgbench"], strict=True)]

    return [
        Line("P1", "pgbench, the inserts of a create as one statement, 32 clients", figures["pgbench"], "/s", "", None),
        Line("P1", "POST /v1/payment_intents, 32 connections, 2 web processes", figures["create_per_second"], "/s", "", None),
        line("P1", "**ratio**", ratio("create_per_second"), "×", "≥ 0.45", lambda value: value >= 0.45),
        Line("P2", "whole payments to the acknowledged webhook, 64 clients, 1 worker", figures["whole_per_second"], "/s", "", None),
        line("P2", "**ratio**", ratio("whole_per_second"), "×", "≥ 0.07", lambda value: value >= 0.07),
        Line("P3", "the same piece of Python in every round, for the machine's pace", figures["machine_ms"], "ms", "", None),
        line("P3", "confirm, one at a time, p50", figures["confirm_p50_at_1_ms"], "ms", "≤ 6", lambda value: value <= 6),
        line("P3", "confirm at 200 payments/s, p50", figures["confirm_p50_at_200_ms"], "ms", "≤ 12", lambda value: value <= 12),
        line("P3", "confirm at 200 payments/s, p99", figures["confirm_p99_at_200_ms"], "ms", "≤ 40", lambda value: value <= 40),
        line("P9", "memory of a web process after the run", figures["web_mb"], "MB", "≤ 130", lambda value: value <= 130),
        line("P9", "memory of a worker after the run", figures["worker_mb"], "MB", "≤ 130", lambda value: value <= 130),
        line(
            "P9", "idle `tollgate dev`, share of one core, Postgres included", figures["idle_percent"], "%", "≤ 3", lambda value: value <= 3
        ),
    ]


def _of_outbox(rounds: int, share: float, amqp_url: str | None) -> list[Line]:
    with embedded_postgres.running(durable=True, tcp=True) as server:
        migrate(server.url)
        no_op = outbox_throughput.measure(server.url, amqp_url=amqp_url, rounds=rounds)
        picked = outbox_pickup.measure(server.url, amqp_url=None, rounds=rounds, count=max(50, int(outbox_pickup.COUNT * share)))
        settled: dict[str, list[float]] = {}
        for _ in range(rounds):
            for side, value in settlement.measure(server.url, count=int(6000 * share), amqp_url=amqp_url).items():
                settled.setdefault(side, []).append(value)
    median_pick_up = [quantile(values, 0.5) for values in picked["outbox"]]
    slowest_pick_up = [quantile(values, 0.99) for values in picked["outbox"]]
    return [
        Line("P4", "outbox through Dramatiq, no-op handlers, one process", no_op["outbox"], "/s", "", None),
        *_against("P4", "procrastinate, no-op tasks", no_op["outbox"], no_op["procrastinate"], 10.0),
        *_against("P4", "Dramatiq over RabbitMQ, no-op actors", no_op["outbox"], no_op.get("rabbit"), 1.5),
        Line("P5", "outbox, full settlement of a sale", settled["outbox"], "/s", "", None),
        *_against("P5", "Dramatiq over RabbitMQ, the same work per message", settled["outbox"], settled.get("rabbit"), 2.0),
        Line("P6", "pick-up at idle, commit to handler, p50", median_pick_up, "ms", "≤ 2", median(median_pick_up) <= 2),
        Line("P6", "pick-up at idle, commit to handler, p99", slowest_pick_up, "ms", "≤ 5", median(slowest_pick_up) <= 5),
        Line("P6", "procrastinate, p50", [quantile(values, 0.5) for values in picked["procrastinate"]], "ms", "", None),
        Line("P6", "procrastinate, p99", [quantile(values, 0.99) for values in picked["procrastinate"]], "ms", "", None),
    ]


def _against(number: str, what: str, ours: Sequence[float], theirs: Sequence[float] | None, goal: float) -> list[Line]:
    if theirs is None:
        return [Line(number, f"{what}: NOT MEASURED, RabbitMQ is missing", [], "", f"≥ {goal:g}", False)]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return [Line(number, what, theirs, "/s", "", None), Line(number, "**ratio**", ratios, "×", f"≥ {goal:g}", median(ratios) >= goal)]


def _report(lines: Sequence[Line], rounds: int) -> str:
    rows = [f"| {line.number} | {line.what} | {_figure(line)} | {_spread(line)} | {line.goal} | {_verdict(line)} |" for line in lines]
    head = [
        "# Measured",
        "",
        f"`make bench`, {datetime.now(UTC):%Y-%m-%d}: {rounds} interleaved rounds; medians, with the lowest and highest round beside them.",
        "Figures with a unit of time or per second drift with the machine; the ratios are what counts.",
        "",
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, load average at the end {os.getloadavg()[0]:.1f}; "
        f"{_postgres_version()}, fsync and synchronous_commit on; Python {platform.python_version()}; "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        + ".",
        "",
        "| goal | what | median | lowest to highest | wanted | reached |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def _figure(line: Line) -> str:
    return f"{_rounded(median(line.values))} {line.unit}".strip() if line.values else "–"


def _spread(line: Line) -> str:
    return f"{_rounded(min(line.values))} – {_rounded(max(line.values))}" if line.values else "–"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(line: Line) -> str:
    return "" if line.met is None else "yes" if line.met else "**no**"


def _postgres_version() -> str:
    server = baseline.pgbench().with_name("postgres")
    return subprocess.run([str(server), "--version"], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
