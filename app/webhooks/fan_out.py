"""Which outbox rows an event makes: one per endpoint that listens, written by the transaction of the event."""

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import AsyncCursor

import outbox
from app.core.ids import Id
from app.infra.db import Connection

QUEUE = "webhooks"
DELIVER = "webhook.deliver"
RECOVER = "webhook.recover"

_encode = msgspec.json.Encoder().encode

# One probe of the partial index per event, whatever the planner believes about empty tables. `try` is the position in the
# schedule of retries. Ids are written as 32 hex digits, as they are everywhere in the code.
DELIVERIES = """
SELECT 'webhooks' AS queue,
       replace(w.id::text, '-', '') AS lane,
       'webhook.deliver' AS actor,
       e.event_id AS subject,
       e.merchant_id AS tenant,
       '{"event_id":"' || replace(e.event_id::text, '-', '') || '","endpoint_id":"' || replace(w.id::text, '-', '') || '","try":0}',
       e.traceparent
  FROM json_to_recordset(%s::json) AS e(event_id uuid, merchant_id uuid, livemode boolean, wanted text[], traceparent text)
 CROSS JOIN LATERAL (
       SELECT p.id
         FROM webhook_endpoints p
        WHERE p.merchant_id = e.merchant_id
          AND p.livemode = e.livemode
          AND p.status = 'enabled'
          AND p.enabled_events && e.wanted
       OFFSET 0) w"""

FAN_OUT = f"INSERT INTO outbox (queue, lane, actor, subject, tenant, payload, traceparent) {DELIVERIES}"


class Announcement(msgspec.Struct):
    """An announced event on its way to those who listen; `wanted` is what a listener may have written for it."""

    event_id: Id
    merchant_id: Id
    livemode: bool
    wanted: tuple[str, str, str]
    traceparent: str | None = None


def announcement(
    *, event_id: Id, merchant_id: Id, livemode: bool, object_type: str, event: str, traceparent: str | None = None
) -> Announcement:
    return Announcement(event_id, merchant_id, livemode, ("*", f"{object_type}.*", f"{object_type}.{event}"), traceparent)


def deliver_row(*, event_id: Id, endpoint_id: Id, merchant_id: Id, traceparent: str | None = None) -> outbox.NewRow:
    """The row of one event for one endpoint, whoever asks for it, at the beginning of the schedule of retries."""
    return outbox.NewRow(
        queue=QUEUE,
        lane=endpoint_id,
        actor=DELIVER,
        payload=f'{{"event_id":"{event_id}","endpoint_id":"{endpoint_id}","try":0}}',
        subject=event_id,
        tenant=merchant_id,
        traceparent=traceparent,
    )


async def fan_out(connection: Connection, announcements: Sequence[Announcement]) -> AsyncCursor[tuple[Any, ...]]:
    """Only for announced events, and after none of them was written twice: each call adds rows.

    The cursor's `rowcount` says how many rows there are to wake somebody for; in pipeline mode it is known after the sync.
    """
    return await connection.execute(FAN_OUT, (encoded(announcements),), prepare=True)


def encoded(announcements: Sequence[Announcement]) -> str:
    """The parameter of `FAN_OUT`."""
    return _encode(announcements).decode()
