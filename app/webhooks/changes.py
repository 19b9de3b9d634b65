"""An endpoint's move: the row, the event that says why, and the fan-out of that event where merchants hear of it."""

from datetime import datetime
from typing import Any

import msgspec

from app.core.ids import Id, new_id
from app.infra.db import Connection
from app.webhooks import store
from app.webhooks.fan_out import announcement, fan_out
from app.webhooks.model import ENDPOINT, Endpoint
from app.webhooks.present import endpoint_view

_encode = msgspec.json.Encoder().encode


async def begin(connection: Connection, endpoint: Endpoint, *, actor: str) -> None:
    """`endpoint` is at version 1 and names its first event."""
    edge = ENDPOINT.require("created", "none", endpoint.status)
    await store.insert(
        connection,
        endpoint,
        store.EndpointEvent(
            event="created", from_status="none", announced=edge.announced, actor=actor, data=_encode(endpoint_view(endpoint))
        ),
    )


async def change(
    connection: Connection,
    before: Endpoint,
    *,
    event: str,
    now: datetime,
    actor: str,
    said: dict[str, object] | None = None,
    event_id: Id | None = None,
    **fields: Any,
) -> Endpoint:
    """`before` is locked by this transaction. `said` are members that the event's data has beside the endpoint's. Raises IllegalTransition."""
    after = msgspec.structs.replace(before, version=before.version + 1, last_event_id=event_id or new_id(), updated_at=now, **fields)
    edge = ENDPOINT.require(event, before.status, after.status)
    data = _encode(msgspec.to_builtins(endpoint_view(after)) | (said or {}))
    await store.move(
        connection,
        after,
        store.EndpointEvent(event=event, from_status=before.status, announced=edge.announced, actor=actor, data=data, detail=said),
    )
    if edge.announced:
        told = announcement(
            event_id=after.last_event_id,
            merchant_id=after.merchant_id,
            livemode=after.livemode,
            object_type=ENDPOINT.name,
            event=event,
        )
        await fan_out(connection, [told])
    return after
