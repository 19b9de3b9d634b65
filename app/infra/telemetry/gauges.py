"""What is asked of the tables when somebody looks: alerts stand on these, because the tables know also what no process is alive to tell."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg

from app.infra.db import Connection, Pool, transaction

# A question that takes longer is left unanswered, and that is told: figures must never be what loads the database.
TIMEOUT_MS = 2000


class Gauge(NamedTuple):
    """`query` gives rows of `labels` and then one number per name in `names`; `zeros` are label values shown as 0 when it has none."""

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    labels: tuple[str, ...]
    query: str
    zeros: tuple[tuple[str, ...], ...] = ()


class Reading(NamedTuple):
    """Rows of a gauge: label values to one number per name; None where the question was not answered."""

    gauge: Gauge
    rows: dict[tuple[str, ...], tuple[float, ...]] | None


async def read(pool: Pool, gauges: Iterable[Gauge]) -> list[Reading]:
    """Each in a transaction of its own, so that one slow question takes only its own answer away."""
    return [Reading(gauge, await _rows(pool, gauge)) for gauge in gauges]


async def _rows(pool: Pool, gauge: Gauge) -> dict[tuple[str, ...], tuple[float, ...]] | None:
    width = len(gauge.labels)
    try:
        async with transaction(pool) as connection:
            rows = await _asked(connection, gauge.query)
    except psycopg.Error:
        return None
    found = {tuple(str(label) for label in row[:width]): tuple(float(number or 0) for number in row[width:]) for row in rows}
    nothing = (0.0,) * len(gauge.names)
    return {**dict.fromkeys(gauge.zeros, nothing), **found}


async def _asked(connection: Connection, query: str) -> Sequence[tuple[Any, ...]]:
    await connection.execute(f"SET LOCAL statement_timeout = {TIMEOUT_MS}")
    return await (await connection.execute(query)).fetchall()


def of_outbox(queues: Sequence[str]) -> tuple[Gauge, ...]:
    """How much there is to do per queue, how late it is, and what nobody could do."""
    known = tuple((queue,) for queue in queues)
    return (
        Gauge(
            ("outbox_depth", "outbox_due", "outbox_oldest_age_seconds", "outbox_oldest_due_seconds"),
            (
                "Rows of a queue, those included that are being worked on or wait for their time.",
                "Rows that nobody has taken although their time has come.",
                "Age of the oldest row.",
                "How long the row that waits longest has been due: how late the workers are.",
            ),
            ("queue",),
            """
            SELECT queue,
                   count(*),
                   count(*) FILTER (WHERE due_at <= statement_timestamp()),
                   extract(epoch FROM statement_timestamp() - min(created_at)),
                   greatest(0, extract(epoch FROM statement_timestamp() - min(due_at)))
              FROM outbox
             GROUP BY queue""",
            zeros=known,
        ),
        Gauge(
            ("outbox_dead_letters", "outbox_dead_letter_oldest_seconds"),
            ("Rows that nobody could do and no operator has looked after yet.", "Age of the oldest of them."),
            ("queue",),
            """
            SELECT queue, count(*), extract(epoch FROM statement_timestamp() - min(dead_at))
              FROM dead_letters
             WHERE replayed_at IS NULL AND discarded_at IS NULL
             GROUP BY queue""",
            zeros=known,
        ),
    )
