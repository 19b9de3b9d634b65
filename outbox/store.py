"""The verbs: write, claim, hold, settle, fail, defer. Each is one statement over arrays, for one row as for a hundred.

All of them take the connection (and so the transaction) of the caller. `send_hold` and `send_settle` read nothing, for use in
psycopg's pipeline mode; `read_ids` reads their answer.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection, AsyncCursor

from outbox.model import Claimed, Failed, NewRow
from outbox.round_trip import Row, array, round_trip

Connection = AsyncConnection[Any]

# One JSON array: eight arrays of columns cost the driver ten times as much to encode (docs/decisions/0002).
WRITE = """
INSERT INTO outbox (queue, lane, actor, subject, tenant, payload, traceparent, due_at)
SELECT queue, lane, actor, subject, tenant, payload, traceparent, statement_timestamp() + due_in * interval '1 second'
  FROM json_to_recordset(%s::json)
       AS given (queue text, lane text, actor text, subject uuid, tenant uuid, payload text, traceparent text, due_in float8)
"""

_LEASE = """
UPDATE outbox
   SET attempt = attempt + 1,
       due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
 WHERE id = ANY (ARRAY(SELECT id FROM fitting))
RETURNING id,
          queue,
          lane,
          actor,
          encode(uuid_send(subject), 'hex'),
          encode(uuid_send(tenant), 'hex'),
          payload,
          traceparent,
          attempt,
          failures,
          returned
"""

_ROOM = """
coalesce(
    (SELECT room FROM unnest(%(busy_lanes)s::text[], %(rooms)s::int[]) AS busy (name, room) WHERE busy.name = {lane} LIMIT 1),
    %(lane_limit)s
)
"""

# `statement_timestamp()` is stable, so it bounds the index scan; a volatile clock would be a filter over the whole queue.
CLAIM_OLDEST = f"""
WITH head AS MATERIALIZED (
    SELECT id, lane, due_at
      FROM outbox
     WHERE queue = %(queue)s AND due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), placed AS (
    SELECT id, lane, row_number() OVER (PARTITION BY lane ORDER BY due_at, id) AS place FROM head
), fitting AS MATERIALIZED (
    SELECT id FROM placed WHERE place <= {_ROOM.format(lane="placed.lane")}
)
{_LEASE}
"""  # noqa: S608 - made of this file's own constants

# Steps from lane to lane through the index and takes of each what it has room for: the waiting rows of a full lane are never
# read. The recursion runs only as far as the outer LIMIT pulls it.
CLAIM_LANE_BY_LANE = f"""
WITH RECURSIVE lanes AS (
    (SELECT lane FROM outbox WHERE queue = %(queue)s AND lane > %(after_lane)s ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT following.lane
              FROM outbox AS following
             WHERE following.queue = %(queue)s AND following.lane > lanes.lane
             ORDER BY following.lane
             LIMIT 1)
      FROM lanes
     WHERE lanes.lane IS NOT NULL
), fitting AS MATERIALIZED (
    SELECT due.id
      FROM lanes,
           LATERAL (SELECT waiting.id
                      FROM outbox AS waiting
                     WHERE waiting.queue = %(queue)s AND waiting.lane = lanes.lane AND waiting.due_at <= statement_timestamp()
                     ORDER BY waiting.due_at
                     LIMIT {_ROOM.format(lane="lanes.lane")}
                       FOR UPDATE SKIP LOCKED) AS due
     WHERE lanes.lane IS NOT NULL
     LIMIT %(limit)s
)
{_LEASE}
"""  # noqa: S608 - made of this file's own constants

# Rows are named by `id = ANY` and never by a join: on a table that was vacuumed while empty the planner joins by walking the
# whole primary key, and that plan stays when there are a million rows (a seqscan that is off does not keep it from it).
# The array goes through a sub-select, behind which the planner does not count its items: it would plan anew for every batch.
_OURS = "id = ANY (ARRAY(SELECT unnest({ids}::bigint[]))) AND attempt = ({attempts}::int[])[array_position({ids}::bigint[], id)]"
_STILL_OURS = _OURS.format(ids="%(ids)s", attempts="%(attempts)s")
_GIVEN = _OURS.format(ids="%s", attempts="%s")

# Pieces for statements of the caller's own; their parameters are `tokens`.
# Ordered, so that two batches that share rows wait for each other and never in a circle.
HELD = f"SELECT id FROM outbox WHERE {_GIVEN} ORDER BY id FOR UPDATE"  # noqa: S608 - made of this file's own constants
SETTLED = f"DELETE FROM outbox WHERE {_GIVEN}"  # noqa: S608 - made of this file's own constants

# The counts are set from what was claimed, not incremented: sent again after a lost answer, the statement changes nothing.
FAIL = f"""
UPDATE outbox
   SET failures = (%(failures)s::int[])[array_position(%(ids)s::bigint[], id)] + 1,
       first_error = coalesce(first_error, (%(errors)s::text[])[array_position(%(ids)s::bigint[], id)]),
       last_error = (%(errors)s::text[])[array_position(%(ids)s::bigint[], id)],
       due_at = statement_timestamp() + (%(retry_in)s::float8[])[array_position(%(ids)s::bigint[], id)] * interval '1 second'
 WHERE {_STILL_OURS}
RETURNING id
"""  # noqa: S608 - made of this file's own constants

BURY = f"""
WITH dead AS (
    DELETE FROM outbox
     WHERE {_STILL_OURS}
    RETURNING outbox.*,
              (%(errors)s::text[])[array_position(%(ids)s::bigint[], id)] AS error,
              (%(failures)s::int[])[array_position(%(ids)s::bigint[], id)] + 1 AS all_failures
)
INSERT INTO dead_letters (
    outbox_id, queue, lane, actor, subject, tenant, payload, traceparent, attempts, failures, first_error, last_error, created_at, replay_of)
SELECT id, queue, lane, actor, subject, tenant, payload, traceparent, attempt, all_failures, coalesce(first_error, error), error, created_at, replay_of
  FROM dead
RETURNING outbox_id
"""  # noqa: S608 - made of this file's own constants

DEFER = f"""
UPDATE outbox
   SET returned = (%(returned)s::int[])[array_position(%(ids)s::bigint[], id)] + 1,
       due_at = statement_timestamp() + (%(seconds)s::float8[])[array_position(%(ids)s::bigint[], id)] * interval '1 second'
 WHERE {_STILL_OURS}
RETURNING id
"""  # noqa: S608 - made of this file's own constants

DEFER_LANE = """
WITH waiting AS MATERIALIZED (
    SELECT id
      FROM outbox
     WHERE queue = %(queue)s AND lane = %(lane)s AND due_at <= statement_timestamp()
     ORDER BY due_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox
   SET due_at = statement_timestamp() + %(seconds)s * interval '1 second'
 WHERE id = ANY (ARRAY(SELECT id FROM waiting))
RETURNING id
"""

RESTAMP = """
UPDATE outbox
   SET due_at = statement_timestamp() + %(lease_seconds)s * interval '1 second'
 WHERE id = %(id)s AND attempt = %(attempt)s
RETURNING id
"""

DEPTH = """
SELECT queue,
       count(*),
       count(*) FILTER (WHERE due_at <= statement_timestamp()),
       coalesce(extract(epoch FROM statement_timestamp() - min(created_at)), 0)::float8
  FROM outbox
 GROUP BY queue
 ORDER BY queue
"""


async def write(connection: Connection, rows: Sequence[NewRow]) -> None:
    """Add rows in the transaction that makes them necessary; wake their queues after it has committed."""
    if rows:
        await connection.execute(WRITE, (encoded(rows),))


def encoded(rows: Sequence[NewRow]) -> str:
    """The parameter of `WRITE`, for a caller who makes it a part of a statement of his own."""
    given = [
        {
            "queue": row.queue,
            "lane": row.lane,
            "actor": row.actor,
            "subject": None if row.subject is None else str(row.subject),
            "tenant": None if row.tenant is None else str(row.tenant),
            "payload": row.payload,
            "traceparent": row.traceparent,
            "due_in": float(row.due_in_seconds),
        }
        for row in rows
    ]
    return json.dumps(given)


def tokens(rows: Sequence[Claimed]) -> tuple[str, str, str]:
    """The parameters of `HELD` and `SETTLED`."""
    ids, attempts = _array(row.id for row in rows), _array(row.attempt for row in rows)
    return ids, attempts, ids


async def claim(
    connection: Connection,
    queue: str,
    *,
    limit: int,
    lease_seconds: float,
    lane_limit: int | None = None,
    room: Mapping[str, int] | None = None,
    full_lanes: Iterable[str] = (),
    after_lane: str = "",
) -> list[Claimed]:
    """Take up to `limit` due rows, oldest first, at most `lane_limit` of a lane, for `lease_seconds`.

    `room` names the lanes that may get fewer than `lane_limit`, `full_lanes` those that get nothing. While there is a full one,
    lanes are visited by name beginning behind `after_lane`, so that no amount of waiting rows of the full ones is read.
    """
    rooms = dict(room or {})
    rooms.update(dict.fromkeys(full_lanes, 0))
    lane_by_lane = any(left <= 0 for left in rooms.values())
    asked_at = time.monotonic()
    (records,) = await round_trip(
        connection,
        (
            CLAIM_LANE_BY_LANE if lane_by_lane else CLAIM_OLDEST,
            {
                "queue": queue,
                "limit": str(limit),
                "lease_seconds": str(float(lease_seconds)),
                "lane_limit": str(limit if lane_limit is None else lane_limit),
                "busy_lanes": array(rooms),
                "rooms": _array(max(0, left) for left in rooms.values()),
                "after_lane": after_lane,
            },
        ),
    )
    deadline = asked_at + lease_seconds / 2
    return [_claimed(record, deadline) for record in records]


def _claimed(record: Row, deadline: float) -> Claimed:
    id_, queue, lane, actor, subject, tenant, payload, traceparent, attempt, failures, returned = record
    return Claimed(
        id=int(id_ or 0),
        queue=queue or "",
        lane=lane or "",
        actor=actor or "",
        subject=subject,
        tenant=tenant,
        payload=payload or "",
        traceparent=traceparent,
        attempt=int(attempt or 0),
        failures=int(failures or 0),
        returned=int(returned or 0),
        deadline=deadline,
    )


async def send_hold(connection: Connection, rows: Sequence[Claimed]) -> AsyncCursor[Any]:
    return await connection.execute(HELD, tokens(rows))


async def send_settle(connection: Connection, rows: Sequence[Claimed]) -> AsyncCursor[Any]:
    return await connection.execute(f"{SETTLED} RETURNING id", tokens(rows))


async def read_ids(cursor: AsyncCursor[Any]) -> set[int]:
    return {record[0] for record in await cursor.fetchall()}


async def hold(connection: Connection, rows: Sequence[Claimed]) -> set[int]:
    """Lock the rows that are still ours until the transaction ends; the ids of the others are missing from the answer.

    A batch names a row under one attempt only, here and in `settle`: the answer could not say which of two is meant.
    """
    return await read_ids(await send_hold(connection, rows))


async def settle(connection: Connection, rows: Sequence[Claimed]) -> set[int]:
    """Delete rows under their attempt, in the transaction of their effects; a missing id was lost: do not commit its effects."""
    return await read_ids(await send_settle(connection, rows))


async def fail(connection: Connection, failed: Sequence[Failed]) -> set[int]:
    """Count an error per row; each comes back after its backoff or becomes a dead letter. Returns the ids that were ours."""
    again = [one for one in failed if one.retry_in_seconds is not None]
    dead = [one for one in failed if one.retry_in_seconds is None]
    ids: set[int] = set()
    if again:
        ids |= await read_ids(await connection.execute(FAIL, {**_counted(again), "retry_in": [one.retry_in_seconds for one in again]}))
    if dead:
        ids |= await read_ids(await connection.execute(BURY, _counted(dead)))
    return ids


async def defer(connection: Connection, rows: Sequence[Claimed], seconds: float | Sequence[float]) -> set[int]:
    """Move claimed rows on without counting anything; `seconds` for all of them or one for each, 0 hands them back."""
    each = [float(seconds)] * len(rows) if isinstance(seconds, int | float) else [float(one) for one in seconds]
    return await read_ids(await connection.execute(DEFER, {**_tokens(rows), "returned": [row.returned for row in rows], "seconds": each}))


async def defer_lane(connection: Connection, queue: str, *, lane: str, seconds: float, limit: int = 10_000) -> int:
    """Move the waiting rows of one lane on in one statement (its breaker is open); nothing is counted. Returns how many."""
    cursor = await connection.execute(DEFER_LANE, {"queue": queue, "lane": lane, "seconds": float(seconds), "limit": limit})
    return len(await cursor.fetchall())


async def restamp(connection: Connection, row: Claimed, *, lease_seconds: float) -> bool:
    """Begin a claimed row's lease anew, for a row that had to wait before it could start; False when it is no longer ours."""
    cursor = await connection.execute(RESTAMP, {"id": row.id, "attempt": row.attempt, "lease_seconds": float(lease_seconds)})
    return await cursor.fetchone() is not None


async def depth(connection: Connection) -> list[tuple[str, int, int, float]]:
    """Per queue: rows, rows that are due, age of the oldest in seconds."""
    cursor = await connection.execute(DEPTH)
    return await cursor.fetchall()


def _tokens(rows: Sequence[Claimed]) -> dict[str, Any]:
    return {"ids": _array(row.id for row in rows), "attempts": _array(row.attempt for row in rows)}


def _array(numbers: Iterable[int]) -> str:
    """As Postgres writes arrays: the driver would encode a list item by item, in Python."""
    return f"{{{','.join(map(str, numbers))}}}"


def _counted(failed: Sequence[Failed]) -> dict[str, Any]:
    rows = [one.row for one in failed]
    return {**_tokens(rows), "failures": [row.failures for row in rows], "errors": [one.error for one in failed]}
