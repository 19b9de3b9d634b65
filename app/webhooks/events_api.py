"""The routes of events: the feed, one event, and sending one again."""

from typing import Literal

import msgspec

from app.core.clock import now
from app.core.errors import IllegalTransition, InvalidCursor, InvalidValue, NotFound
from app.core.ids import Id, MalformedId, parse_typeid, typeid
from app.http import Answer, Body, Call, Query, Route, answer, body_id
from app.http.lists import Filter, id_schema
from app.infra.db import Connection
from app.webhooks import actions, feed
from app.webhooks.actions import Asker
from app.webhooks.calls import own_rows, told_answer, write
from app.webhooks.model import PREFIXES, is_type
from app.webhooks.once import Done
from app.webhooks.present import EventView, event_json

_encode = msgspec.json.Encoder().encode


class Redeliver(Body):
    webhook_endpoint_id: str | None = None


class EventRedelivery(msgspec.Struct):
    object: Literal["event_redelivery"]
    event_id: str
    webhook_endpoint_ids: list[str]


class EventList(msgspec.Struct, kw_only=True):
    """Ascending; `next_cursor` goes into the next request, also when there is nothing more yet."""

    object: Literal["list"]
    data: list[EventView]
    has_more: bool
    url: str
    next_cursor: str


class _EventListing(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[msgspec.Raw]
    has_more: bool
    url: str
    next_cursor: str


async def redeliver_event(call: Call[Redeliver]) -> Answer:
    """Send an event again, to one endpoint or to all that listen to its type"""
    given = call.body.webhook_endpoint_id
    endpoint_id = None if given is None else body_id("we", given, param="webhook_endpoint_id")

    async def act(connection: Connection, asker: Asker) -> Done:
        event_id = call.ids["event_id"]
        targets = await actions.redeliver(connection, asker, event_id, endpoint_id=endpoint_id)
        told = EventRedelivery("event_redelivery", typeid("evt", event_id), [typeid("we", one.id) for one in targets])
        return Done(event_id, 200, _encode(told))

    return told_answer(await write(call, act, wakes=True))


async def list_events(call: Call[None]) -> Answer:
    """What happened, ascending in the order of commits, for 30 days"""
    page = call.page
    after = page.filters.get("cursor") or feed.START
    event_type = page.filters.get("type")
    object_type, object_id = page.filters.get("object_id") or (None, None)
    family, _, event = (event_type or "").partition(".")
    async with own_rows(call) as connection:
        found = await feed.read(
            connection,
            merchant_id=call.caller.merchant_id,
            livemode=call.caller.livemode,
            after=after,
            now=now(),
            limit=page.limit + 1,
            wanted=feed.Wanted(family or object_type, event or None, object_id),
        )
    kept = found[: page.limit]
    if object_type is not None and family and family != object_type:
        kept = found = []
    listing = _EventListing(
        data=[msgspec.Raw(event_json(one.event)) for one in kept],
        has_more=len(found) > page.limit,
        url=call.path,
        next_cursor=feed.cursor_text(kept[-1].cursor if kept else after),
    )
    return answer(200, listing)


async def show_event(call: Call[None]) -> Answer:
    """One event"""
    async with own_rows(call) as connection:
        event = await feed.read_event(connection, call.ids["event_id"], merchant_id=call.caller.merchant_id, livemode=call.caller.livemode)
    if event is None:
        raise NotFound("There is no such event for this key.")
    return answer(200, event_json(event))


def _read_type(value: str) -> str:
    if not is_type(value):
        raise ValueError("expected a type such as payment.captured")
    return value


def _read_object_id(value: str) -> tuple[str, Id]:
    prefix = value.rpartition("_")[0]
    for object_type, known in PREFIXES.items():
        if known == prefix:
            return object_type, parse_typeid(prefix, value)
    raise MalformedId("expected the id of an object that has events")


_CURSOR = Filter("cursor", feed.parse_cursor, {"type": "string", "minLength": 1, "maxLength": 200})
_TYPE = Filter("type", _read_type, {"type": "string", "pattern": "^[a-z_]{1,40}\\.[a-z_]{1,40}$"})
_OBJECT_ID = Filter("object_id", _read_object_id, {"anyOf": [id_schema(prefix) for prefix in PREFIXES.values()]})

ROUTES = (
    Route(
        "GET",
        "/v1/events",
        list_events,
        query=Query(filters=(_CURSOR, _TYPE, _OBJECT_ID)),
        answers={200: EventList},
        errors=(InvalidCursor,),
    ),
    Route("GET", "/v1/events/{event_id:evt}", show_event, answers={200: EventView}),
    Route(
        "POST",
        "/v1/events/{event_id:evt}/redeliver",
        redeliver_event,
        body=Redeliver,
        answers={200: EventRedelivery},
        errors=(InvalidValue, IllegalTransition),
    ),
)
