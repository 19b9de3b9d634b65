"""The delivery log: what a worker needs for an attempt, what it has to write down afterwards, what is due again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import AsyncCursor

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.infra.json_rows import from_json
from app.webhooks.model import Delivery, DeliveryStatus, Event
from outbox.round_trip import round_trip

# An endless row of redeliveries must not make a row endless.
_LOG_ENTRIES = 30

_encode = msgspec.json.Encoder().encode

EVENT_COLUMNS = (
    "e.id, e.merchant_id, e.livemode, e.object_type, e.object_id, e.sequence, e.event, e.payment_id, e.data::text, e.occurred_at"
)

# Endpoint and event must be one merchant's and of one mode: the second guard behind the fan-out.
READ_TASKS = """
SELECT s.position,
       (SELECT row_to_json(r)::text
          FROM (SELECT e.id, e.merchant_id, e.livemode, e.object_type, e.object_id, e.sequence, e.event, e.payment_id, NULL AS data,
                       e.occurred_at) r),
       e.data::text,
       (SELECT row_to_json(r)::text
          FROM (SELECT w.id, w.status, w.url, w.salt, w.previous_salt, w.previous_salt_expires_at, h.last_success_at,
                       coalesce(h.consecutive_failures, 0) AS consecutive_failures, h.paused_until) r)
  FROM json_to_recordset(%s::json) AS s(position integer, event_id uuid, endpoint_id uuid)
 CROSS JOIN LATERAL (SELECT * FROM events WHERE id = s.event_id LIMIT 1) e
 CROSS JOIN LATERAL (
       SELECT * FROM webhook_endpoints WHERE id = s.endpoint_id AND merchant_id = e.merchant_id AND livemode = e.livemode LIMIT 1) w
  LEFT JOIN LATERAL (SELECT * FROM webhook_endpoint_health WHERE endpoint_id = w.id LIMIT 1) h ON true"""

# What was delivered stays delivered: an attempt that set out earlier may come home later.
_RECORDED = f"""
INSERT INTO webhook_deliveries AS d (
    id, merchant_id, livemode, event_id, endpoint_id, status, attempts, tries, last_status_code, last_error, latency_ms, next_at,
    log, traceparent, created_at, delivered_at)
SELECT webhook_delivery_id(s.event_id, s.endpoint_id), s.merchant_id, s.livemode, s.event_id, s.endpoint_id, s.status, s.attempts, s.tries,
       s.last_status_code, s.last_error, s.latency_ms, s.next_at, s.log, s.traceparent, s.at,
       CASE WHEN s.status = 'delivered' THEN s.at END
  FROM json_to_recordset(%s::json) AS s(
       event_id uuid, endpoint_id uuid, merchant_id uuid, livemode boolean, status text, attempts integer, tries smallint,
       last_status_code smallint, last_error text, latency_ms integer, next_at timestamptz, log jsonb, traceparent text, at timestamptz,
       outbox_id bigint)
 WHERE {{condition}}
 ORDER BY 1
    ON CONFLICT (id) DO UPDATE
   SET status = CASE WHEN d.status = 'delivered' THEN d.status ELSE excluded.status END,
       next_at = CASE WHEN d.status = 'delivered' THEN NULL ELSE excluded.next_at END,
       delivered_at = coalesce(d.delivered_at, excluded.delivered_at),
       attempts = d.attempts + excluded.attempts,
       tries = excluded.tries,
       last_status_code = CASE WHEN excluded.attempts = 0 THEN d.last_status_code ELSE excluded.last_status_code END,
       last_error = excluded.last_error,
       latency_ms = coalesce(excluded.latency_ms, d.latency_ms),
       traceparent = coalesce(d.traceparent, excluded.traceparent),
       log = CASE WHEN jsonb_array_length(d.log) < {_LOG_ENTRIES} THEN d.log ELSE d.log - 0 END || excluded.log"""  # noqa: S608 - a constant

RECORD = _RECORDED.format(condition="true")

# The hot road: what was still ours ends and is recorded, and nothing else.
RECORD_SETTLED = f"""
WITH settled AS ({outbox.SETTLED} RETURNING id),
     recorded AS ({_RECORDED.format(condition="s.outbox_id = ANY(ARRAY(SELECT id FROM settled))")})
SELECT id FROM settled"""  # noqa: S608 - constants

EMIT_DUE = """
WITH due AS MATERIALIZED (
    SELECT id
      FROM webhook_deliveries
     WHERE status = 'retrying' AND next_at <= %(now)s
     ORDER BY next_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE webhook_deliveries d
       SET status = 'pending',
           next_at = NULL
      FROM due
     WHERE d.id = due.id
    RETURNING d.event_id, d.endpoint_id, d.merchant_id, d.tries, d.traceparent
)
INSERT INTO outbox (queue, lane, actor, subject, tenant, payload, traceparent)
SELECT 'webhooks',
       replace(endpoint_id::text, '-', ''),
       'webhook.deliver',
       event_id,
       merchant_id,
       '{"event_id":"' || replace(event_id::text, '-', '') || '","endpoint_id":"' || replace(endpoint_id::text, '-', '') || '","try":' || tries || '}',
       traceparent
  FROM moved"""

_COLUMNS = """d.id, d.merchant_id, d.livemode, d.event_id, d.endpoint_id, d.status, d.attempts, d.last_status_code, d.last_error, d.latency_ms,
       d.next_at, d.log, d.created_at, d.delivered_at"""

LIST = f"""
SELECT {_COLUMNS}
  FROM webhook_deliveries d
 WHERE d.endpoint_id = %(endpoint_id)s::uuid
   AND d.merchant_id = %(merchant_id)s::uuid
   AND d.livemode = %(livemode)s
   AND d.id < %(before)s::uuid
   AND d.id > %(after)s::uuid
   AND (%(status)s::text IS NULL OR d.status = %(status)s::text)"""  # noqa: S608 - this file's constants

OF_EVENTS = f"""
SELECT {_COLUMNS}
  FROM unnest(%s::uuid[]) AS s(event_id)
 CROSS JOIN LATERAL (SELECT * FROM events WHERE id = s.event_id LIMIT 1) e
 CROSS JOIN LATERAL (SELECT * FROM webhook_endpoints WHERE merchant_id = e.merchant_id AND livemode = e.livemode OFFSET 0) w
 CROSS JOIN LATERAL (SELECT * FROM webhook_deliveries WHERE id = webhook_delivery_id(e.id, w.id) LIMIT 1) d
 ORDER BY d.id"""  # noqa: S608 - this file's constants


class Destination(msgspec.Struct):
    """What of an endpoint and its health an attempt depends on."""

    id: Id
    status: str
    url: str
    salt: str
    previous_salt: str | None
    previous_salt_expires_at: datetime | None
    last_success_at: datetime | None
    consecutive_failures: int
    paused_until: datetime | None

    def salts(self, now: datetime) -> tuple[str, ...]:
        """Of all secrets that sign at this instant, newest first."""
        if self.previous_salt is None or self.previous_salt_expires_at is None or self.previous_salt_expires_at <= now:
            return (self.salt,)
        return self.salt, self.previous_salt


class Task(msgspec.Struct):
    event: Event
    destination: Destination


class Record(msgspec.Struct, kw_only=True):
    """One attempt as it goes into the log; `attempts` is 0 where none was made, `log` then empty."""

    event_id: Id
    endpoint_id: Id
    merchant_id: Id
    livemode: bool
    status: DeliveryStatus
    attempts: int
    tries: int
    last_status_code: int | None
    last_error: str | None
    latency_ms: int | None
    next_at: datetime | None
    log: list[dict[str, object]]
    traceparent: str | None
    at: datetime
    outbox_id: int


async def read_tasks(connection: Connection, pairs: Sequence[tuple[Id, Id]]) -> list[Task | None]:
    """Of (event, endpoint) pairs, in their order; None where one of the two is gone or they are not of one merchant."""
    asked = [
        {"position": position, "event_id": event_id, "endpoint_id": endpoint_id} for position, (event_id, endpoint_id) in enumerate(pairs)
    ]
    (rows,) = await round_trip(connection, (READ_TASKS, (_encode(asked).decode(),)))
    tasks: list[Task | None] = [None] * len(pairs)
    for position, event, data, destination in rows:
        task = Task(from_json(Event, event or ""), from_json(Destination, destination or ""))
        task.event.data = data
        tasks[int(position or 0)] = task
    return tasks


def event_of(row: Sequence[Any]) -> Event:
    """From `EVENT_COLUMNS`."""
    id_, merchant_id, livemode, object_type, object_id, sequence, event, payment_id, data, occurred_at = row
    return Event(
        id=id_,
        merchant_id=merchant_id,
        livemode=livemode,
        object_type=object_type,
        object_id=object_id,
        sequence=sequence,
        event=event,
        payment_id=payment_id,
        data=data,
        occurred_at=occurred_at,
    )


async def record(connection: Connection, records: Sequence[Record]) -> AsyncCursor[tuple[Any, ...]]:
    """At most one row per event and endpoint: a row is touched once per statement."""
    return await connection.execute(RECORD, (_encode(records).decode(),), prepare=True)


async def record_and_settle(connection: Connection, rows: Sequence[outbox.Claimed], records: Sequence[Record]) -> set[int]:
    """One statement, its own transaction; the outbox ids that were still ours, whose records alone are written."""
    (held,) = await round_trip(connection, (RECORD_SETTLED, (*outbox.tokens(rows), _encode(records).decode())))
    return {int(row[0] or 0) for row in held}


async def emit_due(connection: Connection, *, now: datetime, limit: int) -> int:
    """Write the outbox rows of retries whose time has come; wake the queue when it was not 0. Safe to run in several processes."""
    return (await connection.execute(EMIT_DUE, {"now": now, "limit": limit}, prepare=True)).rowcount


async def list_deliveries(
    connection: Connection,
    *,
    endpoint_id: Id,
    merchant_id: Id,
    livemode: bool,
    status: str | None = None,
    starting_after: Id | None = None,
    ending_before: Id | None = None,
    limit: int,
) -> list[Delivery]:
    """Newest event first; with `ending_before` the page that ends there."""
    cursor = await connection.execute(
        f"{LIST} ORDER BY d.id {'ASC' if ending_before else 'DESC'} LIMIT %(limit)s",
        {
            "endpoint_id": endpoint_id,
            "merchant_id": merchant_id,
            "livemode": livemode,
            "status": status,
            "before": starting_after or "f" * 32,
            "after": ending_before or "0" * 32,
            "limit": limit,
        },
    )
    rows = [delivery_of(row) for row in await cursor.fetchall()]
    return rows[::-1] if ending_before else rows


async def of_events(connection: Connection, event_ids: Sequence[Id]) -> list[Delivery]:
    """All deliveries of these events, for a timeline."""
    return [delivery_of(row) for row in await (await connection.execute(OF_EVENTS, (list(event_ids),))).fetchall()]


def delivery_of(row: Sequence[Any]) -> Delivery:
    return Delivery(**dict(zip(Delivery.__struct_fields__, row, strict=True)))
