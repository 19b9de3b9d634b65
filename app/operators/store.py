"""The record of what operators did, and figures over the outbox, both as `tollgate_ops`."""

from datetime import datetime

from app.core.ids import Id
from app.infra.db import Connection

INSERT_ACT = """
INSERT INTO operator_acts (id, occurred_at, key_id, actor, act, subject, reason)
VALUES (%(id)s, %(occurred_at)s, %(key_id)s, %(actor)s, %(act)s, %(subject)s, %(reason)s)
"""

# In flight: a claim that has neither failed nor come back and whose lease still runs.
QUEUES = """
SELECT
    queue,
    count(*),
    count(*) FILTER (WHERE due_at <= statement_timestamp()),
    count(*) FILTER (WHERE due_at > statement_timestamp() AND attempt > failures + returned),
    min(created_at)
FROM outbox
GROUP BY queue
ORDER BY queue
"""

DEAD_PER_QUEUE = """
SELECT queue, count(*)
FROM dead_letters
WHERE replayed_at IS NULL AND discarded_at IS NULL
GROUP BY queue
"""


async def insert_act(
    connection: Connection, *, id_: Id, occurred_at: datetime, key_id: Id | None, actor: str, act: str, subject: str, reason: str
) -> None:
    values = {"id": id_, "occurred_at": occurred_at, "key_id": key_id, "actor": actor, "act": act, "subject": subject, "reason": reason}
    await connection.execute(INSERT_ACT, values)


async def queues(connection: Connection) -> list[tuple[str, int, int, int, datetime]]:
    """Per queue: rows, rows that are due, rows in flight, when the oldest was written."""
    return await (await connection.execute(QUEUES)).fetchall()


async def dead_per_queue(connection: Connection) -> dict[str, int]:
    """Letters that nobody has closed."""
    return dict(await (await connection.execute(DEAD_PER_QUEUE)).fetchall())
