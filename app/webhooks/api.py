"""The routes of webhook endpoints and their deliveries; those of events are in `events_api`."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from app.core.clock import now, rfc3339
from app.core.errors import IllegalTransition, InvalidValue, NotFound, SecretAlreadyShown, WebhookUrlRefused
from app.core.ids import parse_typeid, typeid
from app.http import Answer, Body, Call, Description, Metadata, PatchMetadata, Query, Route, answer, answer_list, choice
from app.http.answers import list_of
from app.infra.db import Connection
from app.webhooks import actions, deliveries, events_api, store
from app.webhooks.actions import Asker, Wish
from app.webhooks.calls import own_rows, told_answer, write
from app.webhooks.model import Endpoint
from app.webhooks.once import Done, Told
from app.webhooks.present import DeliveryView, EventView, WebhookEndpointView, delivery_view, endpoint_view, event_json
from app.webhooks.signing import derive_secret, shown

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2048, description="https, without user name or fragment.")]
EventTypes = Annotated[list[str], msgspec.Meta(min_length=1, max_length=100, description="`family.event`, `family.*` or `*`.")]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]

_encode = msgspec.json.Encoder().encode
_decode_endpoint = msgspec.json.Decoder(WebhookEndpointView).decode


class CreateEndpoint(Body):
    url: Url
    enabled_events: EventTypes
    description: Description | None = None
    metadata: Metadata = msgspec.field(default_factory=dict)


class ChangeEndpoint(Body):
    url: Url | msgspec.UnsetType = msgspec.UNSET
    enabled_events: EventTypes | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType | None = msgspec.UNSET
    metadata: PatchMetadata | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class Recover(Body):
    since: Instant


class DeletedEndpoint(msgspec.Struct):
    id: str
    object: Literal["webhook_endpoint"]
    deleted: bool


class WebhookRecovery(msgspec.Struct):
    object: Literal["webhook_recovery"]
    webhook_endpoint_id: str
    since: str
    until: str


async def create_endpoint(call: Call[CreateEndpoint]) -> Answer:
    """Begin to be told of events at a URL; the answer holds the signing secret"""
    body = call.body

    async def act(connection: Connection, asker: Asker) -> Done:
        endpoint = await actions.create(
            connection,
            asker,
            url=body.url,
            enabled_events=body.enabled_events,
            description=body.description,
            metadata=body.metadata,
            allow_loopback=call.resources.settings.webhooks_allow_loopback,
        )
        return _done(endpoint, 201, with_secret=True)

    return _endpoint_answer(call, await write(call, act))


async def list_endpoints(call: Call[None]) -> Answer:
    """Webhook endpoints, newest first"""
    page = call.page
    async with own_rows(call) as connection:
        found = await store.list_endpoints(
            connection,
            merchant_id=call.caller.merchant_id,
            livemode=call.caller.livemode,
            status=page.filters.get("status"),
            starting_after=page.starting_after,
            ending_before=page.ending_before,
            limit=page.limit + 1,
        )
        health = await store.read_health(connection, [one.id for one in found])
    kept, has_more = _cut(found, page.limit, from_end=page.ending_before is not None)
    return answer_list(call.path, [endpoint_view(one, health=health.get(one.id)) for one in kept], has_more=has_more)


async def show_endpoint(call: Call[None]) -> Answer:
    """One webhook endpoint with its health"""
    async with own_rows(call) as connection:
        endpoint = await _read(call, connection)
        health = await store.read_health(connection, [endpoint.id])
    return answer(200, endpoint_view(endpoint, health=health.get(endpoint.id)), etag=endpoint.version)


async def change_endpoint(call: Call[ChangeEndpoint]) -> Answer:
    """Change a webhook endpoint; `disabled` stops and starts it"""
    body = call.body
    wish = Wish(
        url=_given(body.url), enabled_events=_given(body.enabled_events), description=body.description, metadata=_given(body.metadata), disabled=_given(body.disabled)
    )  # fmt: skip

    async def act(connection: Connection, asker: Asker) -> Done:
        allow_loopback = call.resources.settings.webhooks_allow_loopback
        endpoint = await actions.update(
            connection, asker, call.ids["webhook_endpoint_id"], wish, require_version=call.require_version, allow_loopback=allow_loopback
        )
        return _done(endpoint, 200)

    return _endpoint_answer(call, await write(call, act))


async def delete_endpoint(call: Call[Body]) -> Answer:
    """Stop for good"""

    async def act(connection: Connection, asker: Asker) -> Done:
        endpoint = await actions.delete(connection, asker, call.ids["webhook_endpoint_id"], require_version=call.require_version)
        return Done(endpoint.id, 200, _encode(DeletedEndpoint(typeid("we", endpoint.id), "webhook_endpoint", deleted=True)))

    return told_answer(await write(call, act))


async def rotate_secret(call: Call[Body]) -> Answer:
    """A new signing secret; the old one signs beside it for 24 hours"""

    async def act(connection: Connection, asker: Asker) -> Done:
        endpoint = await actions.rotate_secret(connection, asker, call.ids["webhook_endpoint_id"], require_version=call.require_version)
        return _done(endpoint, 200, with_secret=True)

    return _endpoint_answer(call, await write(call, act))


async def list_deliveries(call: Call[None]) -> Answer:
    """What was sent to an endpoint and what it answered, newest event first"""
    page = call.page
    async with own_rows(call) as connection:
        endpoint = await _read(call, connection)
        found = await deliveries.list_deliveries(
            connection,
            endpoint_id=endpoint.id,
            merchant_id=endpoint.merchant_id,
            livemode=endpoint.livemode,
            status=page.filters.get("status"),
            starting_after=page.starting_after,
            ending_before=page.ending_before,
            limit=page.limit + 1,
        )
    kept, has_more = _cut(found, page.limit, from_end=page.ending_before is not None)
    return answer_list(call.path, [delivery_view(one) for one in kept], has_more=has_more)


async def test_endpoint(call: Call[Body]) -> Answer:
    """Send a `webhook_endpoint.tested` event to this endpoint alone"""

    async def act(connection: Connection, asker: Asker) -> Done:
        event = await actions.send_test(connection, asker, call.ids["webhook_endpoint_id"])
        return Done(event.id, 200, event_json(event))

    return told_answer(await write(call, act, wakes=True))


async def recover_endpoint(call: Call[Recover]) -> Answer:
    """Send again what an endpoint has missed since an instant"""

    async def act(connection: Connection, asker: Asker) -> Done:
        recovery = await actions.recover(connection, asker, call.ids["webhook_endpoint_id"], since=call.body.since)
        own = typeid("we", recovery.endpoint_id)
        told = WebhookRecovery("webhook_recovery", own, rfc3339(recovery.since), rfc3339(recovery.until))
        return Done(recovery.endpoint_id, 200, _encode(told))

    return told_answer(await write(call, act, wakes=True))


def _done(endpoint: Endpoint, status: int, *, with_secret: bool = False) -> Done:
    """What is stored for repeats holds the salt in place of the secret."""
    return Done(endpoint.id, status, _encode(endpoint_view(endpoint, secret=endpoint.salt if with_secret else None)))


def _endpoint_answer(call: Call[Any], told: Told) -> Answer:
    view = _decode_endpoint(told.body)
    if isinstance(view.secret, str):
        if told.expires_at is not None and told.expires_at <= now():
            raise SecretAlreadyShown
        endpoint_id = parse_typeid("we", view.id)
        view.secret = shown(derive_secret(call.resources.settings.server_key, endpoint_id=endpoint_id, salt=view.secret))
    return answer(told.status, view, etag=view.version, replayed=told.replayed, idempotency_expires_at=told.expires_at)


async def _read(call: Call[Any], connection: Connection) -> Endpoint:
    endpoint_id = call.ids["webhook_endpoint_id"]
    endpoint = await store.read(connection, endpoint_id, merchant_id=call.caller.merchant_id, livemode=call.caller.livemode)
    if endpoint is None:
        raise NotFound("There is no such webhook endpoint for this key.")
    return endpoint


def _given(member: Any) -> Any:
    return None if member is msgspec.UNSET else member


def _cut(found: list[Any], limit: int, *, from_end: bool) -> tuple[list[Any], bool]:
    """A page was read with one row more; with `ending_before` the surplus row is the first."""
    return (found[-limit:] if from_end else found[:limit]), len(found) > limit


_DELIVERY_STATUSES = ("pending", "delivered", "retrying", "exhausted", "canceled")
_ONE = "/v1/webhook_endpoints/{webhook_endpoint_id:we}"
_URL_ERRORS = (WebhookUrlRefused, InvalidValue)

ROUTES = (
    Route(
        "POST",
        "/v1/webhook_endpoints",
        create_endpoint,
        body=CreateEndpoint,
        answers={201: WebhookEndpointView},
        errors=(*_URL_ERRORS, SecretAlreadyShown),
    ),
    Route(
        "GET",
        "/v1/webhook_endpoints",
        list_endpoints,
        query=Query(pages="we", filters=(choice("status", ("enabled", "disabled")),)),
        answers={200: list_of(WebhookEndpointView)},
    ),
    Route("GET", _ONE, show_endpoint, answers={200: WebhookEndpointView}),
    Route(
        "PATCH",
        _ONE,
        change_endpoint,
        body=ChangeEndpoint,
        answers={200: WebhookEndpointView},
        errors=_URL_ERRORS,
        conditional=True,
    ),
    Route("DELETE", _ONE, delete_endpoint, answers={200: DeletedEndpoint}, conditional=True),
    Route(
        "POST",
        f"{_ONE}/rotate_secret",
        rotate_secret,
        answers={200: WebhookEndpointView},
        errors=(SecretAlreadyShown,),
        conditional=True,
    ),
    Route(
        "GET",
        f"{_ONE}/deliveries",
        list_deliveries,
        query=Query(pages="whd", filters=(choice("status", _DELIVERY_STATUSES),)),
        answers={200: list_of(DeliveryView)},
    ),
    Route("POST", f"{_ONE}/test", test_endpoint, answers={200: EventView}, errors=(IllegalTransition,)),
    Route(
        "POST", f"{_ONE}/recover", recover_endpoint, body=Recover, answers={200: WebhookRecovery}, errors=(InvalidValue, IllegalTransition)
    ),
    *events_api.ROUTES,
)
