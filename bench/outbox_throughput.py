"""P4: no-op handlers per second in one process: the outbox, procrastinate, and Dramatiq over RabbitMQ, in interleaved rounds.

`python -m bench.outbox_throughput DATABASE_URL [ROUNDS]` prints one JSON object; TEST_AMQP_URL names the RabbitMQ.
"""

import asyncio
import json
import os
import statistics
import sys

from bench.outbox_sides import fill, result_of, worker

# Each about two seconds of work at the rate of its side.
COUNTS = {"outbox": 60_000, "procrastinate": 2_000, "rabbit": 10_000}
ROUNDS = 3


def measure(database_url: str, *, amqp_url: str | None, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Rows per second of every round, by side."""
    urls = {"outbox": database_url, "procrastinate": database_url, **({"rabbit": amqp_url} if amqp_url else {})}
    figures: dict[str, list[float]] = {side: [] for side in urls}
    for _ in range(rounds):
        for side, url in urls.items():
            figures[side].append(asyncio.run(_rate(side, url, COUNTS[side])))
    return figures


async def _rate(side: str, url: str, count: int) -> float:
    await fill(side, url, [str(number) for number in range(count)])
    with worker(side, url, count) as process:
        seconds: float = (await result_of(process))["seconds"]
    return count / seconds


def main(arguments: list[str]) -> None:
    figures = measure(arguments[0], amqp_url=os.environ.get("TEST_AMQP_URL"), rounds=int(arguments[1]) if arguments[1:] else ROUNDS)
    medians = {side: round(statistics.median(rates)) for side, rates in figures.items()}
    print(
        json.dumps(
            {
                "bench": "P4 outbox, no-op handlers through Dramatiq, one process",
                "unit": "rows per second",
                "rounds": {side: [round(rate) for rate in rates] for side, rates in figures.items()},
                "median": medians,
                "ratio": {side: round(medians["outbox"] / medians[side], 1) for side in medians if side != "outbox"},
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
