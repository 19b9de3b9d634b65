"""P6: pick-up at idle, from the commit in one process to the start of the handler in another, in interleaved rounds.

`python -m bench.outbox_pickup DATABASE_URL [ROUNDS]` prints one JSON object; TEST_AMQP_URL names the RabbitMQ.
"""

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.outbox_sides import fill, putting, result_of, worker

# One at a time, with pauses in which everything falls asleep again.
COUNT = 200
PAUSE_SECONDS = (0.01, 0.03)
ROUNDS = 3
SETTLING_SECONDS = 0.7


def measure(database_url: str, *, amqp_url: str | None, rounds: int = ROUNDS, count: int = COUNT) -> dict[str, list[list[float]]]:
    """Milliseconds from commit to start, of every row of every round, by side; and the idle CPU is `idle_percent`'s."""
    urls = {"outbox": database_url, "procrastinate": database_url, **({"rabbit": amqp_url} if amqp_url else {})}
    figures: dict[str, list[list[float]]] = {side: [] for side in urls}
    for _ in range(rounds):
        for side, url in urls.items():
            figures[side].append(asyncio.run(_pick_ups(side, url, count)))
    return figures


def idle_percent(database_url: str, *, seconds: float = 5.0) -> float:
    """Percent of a core that a worker with an empty queue uses."""
    with worker("outbox", database_url, 1) as process:
        time.sleep(SETTLING_SECONDS)
        before = _cpu_seconds(process.pid)
        time.sleep(seconds)
        return 100 * (_cpu_seconds(process.pid) - before) / seconds


async def _pick_ups(side: str, url: str, count: int) -> list[float]:
    committed: dict[str, float] = {}
    await fill(side, url, [])
    with worker(side, url, count) as process:
        async with putting(side, url) as put:
            await asyncio.sleep(SETTLING_SECONDS)
            for number in range(count):
                sent = time.monotonic()
                await put(str(number))
                # RabbitMQ delivers before it confirms, so there the clock starts with the sending.
                committed[str(number)] = sent if side == "rabbit" else time.monotonic()
                await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
            started = (await result_of(process))["started"]
    return sorted((started[name] - at) * 1000 for name, at in committed.items())


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(figures: dict[str, list[list[float]]]) -> dict[str, dict[str, Any]]:
    """p50 and p99 over all rounds, and of each."""

    def at(values: list[float], share: float) -> float:
        return round(sorted(values)[int(len(values) * share)], 2)

    return {
        side: {
            "p50": at([value for values in rounds for value in values], 0.5),
            "p99": at([value for values in rounds for value in values], 0.99),
            "rounds": [[at(values, 0.5), at(values, 0.99)] for values in rounds],
        }
        for side, rounds in figures.items()
    }


def main(arguments: list[str]) -> None:
    rounds = int(arguments[1]) if arguments[1:] else ROUNDS
    figures = measure(arguments[0], amqp_url=os.environ.get("TEST_AMQP_URL"), rounds=rounds)
    print(
        json.dumps(
            {
                "bench": "P6 pick-up at idle, commit to start of the handler",
                "unit": "ms",
                **summary(figures),
                "idle worker, percent of a core": round(idle_percent(arguments[0]), 2),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
