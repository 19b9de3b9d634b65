"""Callbacks of providers: verified over the raw bytes, stored once, and taken as a hint to look the operation up.

What a callback says is not booked from it: the look-up asks the provider over our own connection, and applies what it answers
through the one function that every outcome goes through. A forged or replayed callback costs a question and nothing else.
"""

from typing import Any

import msgspec

import outbox
from app.core.errors import NotFound, SignatureInvalid
from app.core.ids import MalformedId, parse_typeid
from app.http import Answer, Call, Route, answer
from app.infra.db import transaction
from app.payments import store
from app.payments.due import look_up_row
from app.payments.moves import PSP_QUEUE
from app.payments.road import Road
from app.providers.base import BadSignature
from app.providers.registry import UnknownProvider


class Received(msgspec.Struct):
    received: bool
    duplicate: bool


async def receive_event(call: Call[Any]) -> Answer:
    """Take a provider's event: stored once per event id, applied by a worker."""
    road, name = call.resources.of(Road), call.ids["name"]
    try:
        adapter = road.registry.adapter(name)
        event = adapter.verify_event({key.decode("latin-1"): value.decode("latin-1") for key, value in call.headers.items()}, call.raw_body)
    except UnknownProvider as error:
        raise NotFound from error
    except BadSignature as error:
        raise SignatureInvalid(f"{str(error).capitalize()}.") from error
    if not 1 <= len(event.event_id) <= 255 or "\x00" in event.event_id:
        raise SignatureInvalid("The event's id is not one that can be kept.")
    async with transaction(call.resources.writer_pool) as connection:
        fresh = await outbox.inbox.receive(connection, name, event.event_id, call.raw_body)
        operation = await store.read_operation(connection, _operation_id(event.reference)) if fresh else None
        if operation is not None and operation.provider == name:
            await outbox.write(connection, [look_up_row(operation, traceparent=call.traceparent)])
            await outbox.inbox.mark_applied(connection, name, [event.event_id])
    if operation is not None:
        road.wake({PSP_QUEUE})
    return answer(200, Received(received=True, duplicate=not fresh))


def _operation_id(reference: str) -> str:
    try:
        return parse_typeid("op", reference)
    except MalformedId:
        return "0" * 32


ROUTES = (
    Route("POST", "/v1/providers/{name}/events", receive_event, access="nobody", answers={200: Received}, errors=(SignatureInvalid,)),
)
