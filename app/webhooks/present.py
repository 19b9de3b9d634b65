"""How endpoints, deliveries and events look outside: in answers, in the feed and in the bodies that merchants receive."""

from datetime import datetime
from typing import Any

import msgspec

from app.core.clock import rfc3339
from app.core.ids import Id, typeid
from app.webhooks.model import PREFIXES, Delivery, Endpoint, Event, Health

# Of the shape of event bodies; a test holds it to the newest version that keys are born with.
API_VERSION = "2026-11-20"
# Source: API.md, "Body, under 20 kB"; merchants' frameworks and gateways take that without being told to.
BODY_BYTES = 20_000

_encode = msgspec.json.Encoder().encode
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class HealthView(msgspec.Struct):
    last_success_at: str | None
    failing_since: str | None
    consecutive_failures: int
    paused_until: str | None


class WebhookEndpointView(msgspec.Struct, kw_only=True):
    id: str
    object: str
    livemode: bool
    merchant_id: str
    status: str
    url: str
    enabled_events: list[str]
    description: str | None
    disabled_at: str | None
    disabled_reason: str | None
    previous_secret_expires_at: str | None
    metadata: dict[str, str]
    created_at: str
    updated_at: str
    version: int
    # Absent in events: counting is not a change of the object.
    health: HealthView | Unset = UNSET
    # In the answers of create and rotate_secret only.
    secret: str | Unset = UNSET


class DeliveryView(msgspec.Struct, kw_only=True):
    id: str
    object: str
    livemode: bool
    event_id: str
    endpoint_id: str
    status: str
    attempts: int
    last_status_code: int | None
    last_error: str | None
    latency_ms: int | None
    next_at: str | None
    log: list[dict[str, Any]]
    created_at: str
    delivered_at: str | None


class EventView(msgspec.Struct, kw_only=True):
    """What a webhook's body holds and what `GET /v1/events` lists. `truncated`: `data` was cut to keep the body under 20 kB; read the object."""

    id: str
    event_id: str
    object: str
    type: str
    object_type: str
    object_id: str
    payment_id: str | None
    merchant_id: str
    livemode: bool
    occurred_at: str
    sequence: int
    api_version: str
    data: msgspec.Raw
    truncated: bool | Unset = UNSET


def endpoint_view(endpoint: Endpoint, *, health: Health | None = None, secret: str | None = None) -> WebhookEndpointView:
    return WebhookEndpointView(
        id=typeid("we", endpoint.id),
        object="webhook_endpoint",
        livemode=endpoint.livemode,
        merchant_id=typeid("mer", endpoint.merchant_id),
        status=endpoint.status,
        url=endpoint.url,
        enabled_events=endpoint.enabled_events,
        description=endpoint.description,
        disabled_at=_maybe(endpoint.disabled_at),
        disabled_reason=endpoint.disabled_reason,
        previous_secret_expires_at=_maybe(endpoint.previous_salt_expires_at),
        metadata=endpoint.metadata,
        created_at=rfc3339(endpoint.created_at),
        updated_at=rfc3339(endpoint.updated_at),
        version=endpoint.version,
        health=UNSET if health is None else _health_view(health),
        secret=UNSET if secret is None else secret,
    )


def delivery_view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        id=typeid("whd", delivery.id),
        object="webhook_delivery",
        livemode=delivery.livemode,
        event_id=typeid("evt", delivery.event_id),
        endpoint_id=typeid("we", delivery.endpoint_id),
        status=delivery.status,
        attempts=delivery.attempts,
        last_status_code=delivery.last_status_code,
        last_error=delivery.last_error,
        latency_ms=delivery.latency_ms,
        next_at=_maybe(delivery.next_at),
        log=delivery.log,
        created_at=rfc3339(delivery.created_at),
        delivered_at=_maybe(delivery.delivered_at),
    )


def event_json(event: Event) -> bytes:
    """The event as merchants get it, by webhook and by polling alike."""
    view = _event_view(event, data=b"null" if event.data is None else event.data.encode())
    body = _encode(view)
    if len(body) < BODY_BYTES:
        return body
    view.truncated = True
    for cut in (_without_metadata, _identity_only):
        view.data = msgspec.Raw(cut(event))
        body = _encode(view)
        if len(body) < BODY_BYTES:
            break
    return body


def object_typeid(object_type: str, object_id: Id) -> str:
    return typeid(PREFIXES[object_type], object_id)


def _event_view(event: Event, *, data: bytes) -> EventView:
    own = typeid("evt", event.id)
    return EventView(
        id=own,
        event_id=own,
        object="event",
        type=event.type,
        object_type=event.object_type,
        object_id=object_typeid(event.object_type, event.object_id),
        payment_id=None if event.payment_id is None else typeid("pay", event.payment_id),
        merchant_id=typeid("mer", event.merchant_id),
        livemode=event.livemode,
        occurred_at=rfc3339(event.occurred_at),
        sequence=event.sequence,
        api_version=API_VERSION,
        data=msgspec.Raw(data),
    )


def _without_metadata(event: Event) -> bytes:
    # Metadata is all that a merchant can make large: 50 pairs of 540 characters.
    members = msgspec.json.decode(event.data or "{}", type=dict[str, msgspec.Raw])
    return _encode({name: value for name, value in members.items() if name != "metadata"})


def _identity_only(event: Event) -> bytes:
    return _encode({"id": object_typeid(event.object_type, event.object_id), "object": event.object_type, "version": event.sequence})


def _health_view(health: Health) -> HealthView:
    return HealthView(
        last_success_at=_maybe(health.last_success_at),
        failing_since=_maybe(health.failing_since),
        consecutive_failures=health.consecutive_failures,
        paused_until=_maybe(health.paused_until),
    )


def _maybe(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
