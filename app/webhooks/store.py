"""Rows and statements of endpoints and their health; no decisions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import AsyncCursor

from app.core.ids import Id
from app.infra.db import Connection
from app.webhooks.model import Endpoint, Health

_encode = msgspec.json.Encoder().encode

_COLUMNS = ", ".join(Endpoint.__struct_fields__)

# Both in one statement: the trigger wants to see the row and the event that says why.
_EVENT = """
    INSERT INTO events (
        id, merchant_id, livemode, object_type, object_id, sequence, event, from_status, to_status, announced, actor, detail, data, occurred_at)
    SELECT last_event_id, merchant_id, livemode, 'webhook_endpoint', id, version, %(event)s, %(from_status)s, status, %(announced)s,
           %(actor)s, %(detail)s::json, %(data)s::json, updated_at
      FROM moved"""

INSERT = f"""
WITH moved AS (
    INSERT INTO webhook_endpoints ({_COLUMNS})
    SELECT {_COLUMNS} FROM json_populate_record(NULL::webhook_endpoints, %(row)s::json)
    RETURNING *
)
{_EVENT}"""

MOVE = f"""
WITH moved AS (
    UPDATE webhook_endpoints w
       SET status = s.status,
           version = s.version,
           last_event_id = s.last_event_id,
           url = s.url,
           enabled_events = s.enabled_events,
           description = s.description,
           salt = s.salt,
           previous_salt = s.previous_salt,
           previous_salt_expires_at = s.previous_salt_expires_at,
           disabled_at = s.disabled_at,
           disabled_reason = s.disabled_reason,
           metadata = s.metadata,
           updated_at = s.updated_at
      FROM json_populate_record(NULL::webhook_endpoints, %(row)s::json) s
     WHERE w.id = s.id AND w.version = s.version - 1 AND w.merchant_id = s.merchant_id
    RETURNING w.*
)
{_EVENT}"""

READ = f"""
SELECT {_COLUMNS}
  FROM webhook_endpoints
 WHERE id = ANY(%(ids)s::uuid[]) AND merchant_id = %(merchant_id)s::uuid AND livemode = %(livemode)s AND status <> 'deleted'
 ORDER BY id"""

LOCK_MANY = f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE id = ANY(%s::uuid[]) AND status <> 'deleted' ORDER BY id FOR UPDATE"

LIST = f"""
SELECT {_COLUMNS}
  FROM webhook_endpoints
 WHERE merchant_id = %(merchant_id)s::uuid
   AND livemode = %(livemode)s
   AND status <> 'deleted'
   AND (%(status)s::text IS NULL OR status = %(status)s::text)
   AND id < %(before)s::uuid
   AND id > %(after)s::uuid"""

COUNT = "SELECT count(*) FROM webhook_endpoints WHERE merchant_id = %s::uuid AND livemode = %s AND status <> 'deleted'"

# A success ends a row of failures even when failures came home with it.
TELL_HEALTH = """
INSERT INTO webhook_endpoint_health AS h (endpoint_id, merchant_id, livemode, last_success_at, failing_since, consecutive_failures, paused_until)
SELECT endpoint_id, merchant_id, livemode, last_success_at, failing_since, consecutive_failures, paused_until
  FROM json_to_recordset(%s::json) AS s(endpoint_id uuid, merchant_id uuid, livemode boolean, last_success_at timestamptz,
       failing_since timestamptz, consecutive_failures integer, paused_until timestamptz)
 ORDER BY endpoint_id
    ON CONFLICT (endpoint_id) DO UPDATE
   SET last_success_at = greatest(h.last_success_at, excluded.last_success_at),
       failing_since = CASE WHEN excluded.last_success_at IS NULL THEN coalesce(h.failing_since, excluded.failing_since) END,
       consecutive_failures = CASE WHEN excluded.last_success_at IS NULL THEN h.consecutive_failures + excluded.consecutive_failures ELSE 0 END,
       paused_until = greatest(h.paused_until, excluded.paused_until)
RETURNING endpoint_id, failing_since"""

READ_HEALTH = """
SELECT endpoint_id, last_success_at, failing_since, consecutive_failures, paused_until
  FROM webhook_endpoint_health
 WHERE endpoint_id = ANY(%s::uuid[])"""

FORGET_FAILURES = """
UPDATE webhook_endpoint_health
   SET failing_since = NULL,
       consecutive_failures = 0,
       paused_until = NULL
 WHERE endpoint_id = %s::uuid"""


class MoveLost(RuntimeError):
    """An endpoint that this transaction holds locked did not move."""


class HealthRow(msgspec.Struct, kw_only=True):
    """What a batch of attempts showed of one endpoint; with `last_success_at` the failures do not count."""

    endpoint_id: Id
    merchant_id: Id
    livemode: bool
    last_success_at: datetime | None = None
    failing_since: datetime | None = None
    consecutive_failures: int = 0
    paused_until: datetime | None = None


class EndpointEvent(msgspec.Struct, kw_only=True):
    """How an endpoint's row came to be as it is."""

    event: str
    from_status: str
    announced: bool
    actor: str
    data: bytes
    detail: dict[str, object] | None = None


async def insert(connection: Connection, endpoint: Endpoint, event: EndpointEvent) -> None:
    await _write(connection, INSERT, endpoint, event)


async def move(connection: Connection, endpoint: Endpoint, event: EndpointEvent) -> None:
    """`endpoint` as it will be, with its next version and event id; the row must be locked by this transaction."""
    await _write(connection, MOVE, endpoint, event)


async def read(connection: Connection, endpoint_id: Id, *, merchant_id: Id, livemode: bool, lock: bool = False) -> Endpoint | None:
    cursor = await connection.execute(
        READ + (" FOR UPDATE" if lock else ""), {"ids": [endpoint_id], "merchant_id": merchant_id, "livemode": livemode}
    )
    row = await cursor.fetchone()
    return Endpoint(**_named(row)) if row else None


async def lock_many(connection: Connection, endpoint_ids: Sequence[Id]) -> list[Endpoint]:
    """Of any merchant, by id; deleted ones are left out."""
    cursor = await connection.execute(LOCK_MANY, (sorted(endpoint_ids),))
    return [Endpoint(**_named(row)) for row in await cursor.fetchall()]


async def list_endpoints(
    connection: Connection,
    *,
    merchant_id: Id,
    livemode: bool,
    status: str | None = None,
    starting_after: Id | None = None,
    ending_before: Id | None = None,
    limit: int,
) -> list[Endpoint]:
    """Newest first; with `ending_before` the page that ends there."""
    cursor = await connection.execute(
        f"{LIST} ORDER BY id {'ASC' if ending_before else 'DESC'} LIMIT %(limit)s",
        {
            "merchant_id": merchant_id,
            "livemode": livemode,
            "status": status,
            "before": starting_after or "f" * 32,
            "after": ending_before or "0" * 32,
            "limit": limit,
        },
    )
    rows = [Endpoint(**_named(row)) for row in await cursor.fetchall()]
    return rows[::-1] if ending_before else rows


async def count(connection: Connection, *, merchant_id: Id, livemode: bool) -> int:
    row = await (await connection.execute(COUNT, (merchant_id, livemode))).fetchone()
    return int(row[0]) if row else 0


async def send_health(connection: Connection, rows: Sequence[HealthRow]) -> AsyncCursor[tuple[Any, ...]]:
    """One row per endpoint: a row is touched once per statement. Reads nothing, for pipeline mode."""
    return await connection.execute(TELL_HEALTH, (_encode(rows).decode(),), prepare=True)


async def tell_health(connection: Connection, rows: Sequence[HealthRow]) -> dict[Id, datetime | None]:
    """Returns since when each endpoint has been failing, None for those that are well."""
    cursor = await send_health(connection, rows)
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def read_health(connection: Connection, endpoint_ids: Sequence[Id]) -> dict[Id, Health]:
    cursor = await connection.execute(READ_HEALTH, (list(endpoint_ids),))
    return {row[0]: Health(*row[1:]) for row in await cursor.fetchall()}


async def forget_failures(connection: Connection, endpoint_id: Id) -> None:
    await connection.execute(FORGET_FAILURES, (endpoint_id,))


async def _write(connection: Connection, statement: str, endpoint: Endpoint, event: EndpointEvent) -> None:
    cursor = await connection.execute(
        statement,
        {
            "row": _encode(endpoint).decode(),
            "event": event.event,
            "from_status": event.from_status,
            "announced": event.announced,
            "actor": event.actor,
            "detail": None if event.detail is None else _encode(event.detail).decode(),
            "data": event.data.decode(),
        },
    )
    if cursor.rowcount != 1:
        raise MoveLost(endpoint.id)


def _named(row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(Endpoint.__struct_fields__, row, strict=True))
