"""Sending again what an endpoint has missed since an instant, in pages, so that a month of events is no single transaction."""

from datetime import datetime

import msgspec

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.webhooks import feed
from app.webhooks.fan_out import QUEUE, RECOVER
from app.webhooks.model import wanted_by
from app.webhooks.store import lock_many

# A page is one short transaction of a worker; the next page is a row of its own.
PAGE = 500

_encode = msgspec.json.Encoder().encode

# What was delivered is not sent again, nor what stands in the outbox already.
SEND_MISSED = """
INSERT INTO outbox (queue, lane, actor, subject, tenant, payload)
SELECT 'webhooks',
       replace(s.endpoint_id::text, '-', ''),
       'webhook.deliver',
       s.event_id,
       s.merchant_id,
       '{"event_id":"' || replace(s.event_id::text, '-', '') || '","endpoint_id":"' || replace(s.endpoint_id::text, '-', '') || '","try":0}'
  FROM json_to_recordset(%s::json) AS s(event_id uuid, endpoint_id uuid, merchant_id uuid)
 WHERE (SELECT 1
          FROM webhook_deliveries d
         WHERE d.id = webhook_delivery_id(s.event_id, s.endpoint_id) AND d.status IN ('delivered', 'pending')
         LIMIT 1) IS NULL"""


class Recovery(msgspec.Struct, kw_only=True):
    """The payload of a row of `webhook.recover`: one page, and where it begins."""

    endpoint_id: Id
    since: datetime
    until: datetime
    cursor: str


def recovery_row(recovery: Recovery, *, merchant_id: Id, traceparent: str | None = None) -> outbox.NewRow:
    # A lane of its own: the pages must not wait behind what they themselves have written.
    return outbox.NewRow(
        queue=QUEUE,
        lane=f"recover-{recovery.endpoint_id}",
        actor=RECOVER,
        payload=_encode(recovery).decode(),
        subject=recovery.endpoint_id,
        tenant=merchant_id,
        traceparent=traceparent,
    )


async def recover_page(connection: Connection, row: outbox.Claimed, *, now: datetime) -> None:
    """One transaction: the missed events of a page into the outbox, the next page's row, the end of this one. Raises LeaseLost."""
    recovery = msgspec.json.decode(row.payload, type=Recovery)
    async with connection.transaction():
        if not await outbox.hold(connection, [row]):
            raise outbox.LeaseLost
        for endpoint in await lock_many(connection, [recovery.endpoint_id]):
            if endpoint.status == "enabled":
                page = await feed.read(
                    connection,
                    merchant_id=endpoint.merchant_id,
                    livemode=endpoint.livemode,
                    after=feed.parse_cursor(recovery.cursor),
                    now=now,
                    since=recovery.since,
                    limit=PAGE,
                )
                missed = [
                    {"event_id": one.event.id, "endpoint_id": endpoint.id, "merchant_id": endpoint.merchant_id}
                    for one in page
                    if one.event.occurred_at <= recovery.until and wanted_by(endpoint.enabled_events, one.event.type)
                ]
                await connection.execute(SEND_MISSED, (_encode(missed).decode(),))
                if len(page) == PAGE:
                    recovery.cursor = feed.cursor_text(page[-1].cursor)
                    await outbox.write(connection, [recovery_row(recovery, merchant_id=endpoint.merchant_id, traceparent=row.traceparent)])
        await outbox.settle(connection, [row])
