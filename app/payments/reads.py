"""What merchants read: one object, lists, and everything that happened to a payment."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from app.core.clock import rfc3339
from app.core.errors import Forbidden, NotFound
from app.core.ids import Id, typeid
from app.http import Answer, Call, answer_list
from app.http.answers import list_of
from app.identity.model import Caller
from app.infra.compose import page_of, table
from app.infra.db import Connection, Pool, tenant
from app.ledger.store import entries_of_payment
from app.payments import store
from app.payments.model import Intent, Operation, Payment, Refund
from app.payments.present import PaymentIntentView, PaymentView, RefundView, intent_view, render
from app.webhooks import deliveries

PaymentIntentList = list_of(PaymentIntentView)
PaymentList = list_of(PaymentView)
RefundList = list_of(RefundView)

_INTENTS = table("payment_intents", Intent.__struct_fields__)
_PAYMENTS = table("payments", Payment.__struct_fields__)
_REFUNDS = table("refunds", Refund.__struct_fields__)
_BOUNDS = ("gte", "gt", "lte", "lt")

EVENTS_OF_PAYMENT = """
SELECT id, object_type, object_id, sequence, event, from_status, to_status, actor, detail, occurred_at
  FROM events
 WHERE object_id = ANY(%s::uuid[])
 ORDER BY occurred_at, id"""

Row = TypeVar("Row")


class TimelineEntry(msgspec.Struct, omit_defaults=True):
    """`kind`: event, provider_call, ledger or webhook; `what` says it in a word, `detail` in full."""

    at: str
    kind: str
    what: str
    actor: str | None
    object_id: str
    detail: dict[str, Any]


class Timeline(msgspec.Struct):
    object: str
    payment_id: str
    data: list[TimelineEntry]


async def intent(pool: Pool, caller: Caller, intent_id: Id) -> Intent:
    """Raises NotFound."""
    async with tenant(pool, merchant_id=caller.merchant_id, livemode=caller.livemode) as connection:
        return _found(await store.read_intent(connection, intent_id))


async def payment(pool: Pool, caller: Caller, payment_id: Id) -> Payment:
    """Raises NotFound."""
    async with tenant(pool, merchant_id=caller.merchant_id, livemode=caller.livemode) as connection:
        return _found(await store.read_payment(connection, payment_id))


async def refund(pool: Pool, caller: Caller, refund_id: Id) -> Refund:
    """Raises NotFound."""
    async with tenant(pool, merchant_id=caller.merchant_id, livemode=caller.livemode) as connection:
        return _found(await store.read_refund(connection, refund_id))


def intent_json(row: Intent, *, secret: str) -> bytes:
    return msgspec.json.encode(intent_view(row, client_secret=secret))


async def list_intents(pool: Pool, call: Call[Any]) -> Answer:
    return await _list(pool, call, _INTENTS, lambda row: render(Intent(*row)))


async def list_payments(pool: Pool, call: Call[Any]) -> Answer:
    return await _list(pool, call, _PAYMENTS, lambda row: render(Payment(*row)))


async def list_refunds(pool: Pool, call: Call[Any]) -> Answer:
    return await _list(pool, call, _REFUNDS, lambda row: render(Refund(*row)))


async def _list(pool: Pool, call: Call[Any], source: Any, show: Callable[[tuple[Any, ...]], bytes]) -> Answer:
    caller, page = call.caller, call.page
    require_tenant(caller, page.filters)
    created = {bound: page.filters[f"created_at[{bound}]"] for bound in _BOUNDS if f"created_at[{bound}]" in page.filters}
    equal = {name: value for name, value in page.filters.items() if not name.startswith("created_at[") and name != "tenant"}
    async with tenant(pool, merchant_id=caller.merchant_id, livemode=caller.livemode) as connection:
        rows, more = await page_of(
            connection,
            source,
            equal={"merchant_id": caller.merchant_id, **equal},
            created=created,
            limit=page.limit,
            starting_after=page.starting_after,
            ending_before=page.ending_before,
        )
    return answer_list(call.path, [show(row) for row in rows], has_more=more)


def require_tenant(caller: Caller, filters: Mapping[str, Any]) -> None:
    """`tenant` names the merchant, by id or name; a merchant's key sees no other. Raises Forbidden."""
    asked = filters.get("tenant")
    if asked is not None and asked not in (caller.public_merchant_id, caller.merchant_name):
        raise Forbidden("This key belongs to another tenant.", param="tenant")


async def timeline(pool: Pool, caller: Caller, payment_id: Id) -> Timeline:
    """Who asked, every event, PSP call, ledger entry and webhook delivery, in order. Raises NotFound."""
    async with tenant(pool, merchant_id=caller.merchant_id, livemode=caller.livemode) as connection:
        row = _found(await store.read_payment(connection, payment_id))
        refunds = await (await connection.execute("SELECT id FROM refunds WHERE payment_id = %s::uuid", (payment_id,))).fetchall()
        events = await (
            await connection.execute(EVENTS_OF_PAYMENT, ([row.payment_intent_id, row.id, *(one[0] for one in refunds)],))
        ).fetchall()
        entries = [
            *[_event_entry(event) for event in events],
            *[_call_entry(operation) for operation in await store.read_operations_of(connection, payment_id)],
            *await _ledger_entries(connection, caller, payment_id),
            *await _webhook_entries(connection, [event[0] for event in events]),
        ]
    entries.sort(key=lambda entry: (entry.at, _ORDER[entry.kind]))
    return Timeline(object="timeline", payment_id=typeid("pay", payment_id), data=entries)


_ORDER = {"event": 0, "provider_call": 1, "ledger": 2, "webhook": 3}
_PREFIXES = {"payment_intent": "pi", "payment": "pay", "refund": "ref"}


def _event_entry(event: tuple[Any, ...]) -> TimelineEntry:
    id_, object_type, object_id, sequence, name, source, target, actor, detail, occurred_at = event
    return TimelineEntry(
        at=rfc3339(occurred_at),
        kind="event",
        what=f"{object_type}.{name}",
        actor=actor,
        object_id=typeid(_PREFIXES[object_type], object_id),
        detail={"event_id": typeid("evt", id_), "sequence": sequence, "from": source, "to": target, **(detail or {})},
    )


def _call_entry(operation: Operation) -> TimelineEntry:
    end = operation.closed_at
    latency = None if end is None else round((end - operation.requested_at).total_seconds() * 1000, 1)
    return TimelineEntry(
        at=rfc3339(end or operation.requested_at),
        kind="provider_call",
        what=f"{operation.type} {operation.status}",
        actor=operation.actor,
        object_id=typeid("op", operation.id),
        detail={
            "provider": operation.provider,
            "amount": operation.amount,
            "currency": operation.currency,
            "requested_at": rfc3339(operation.requested_at),
            "latency_ms": latency,
            "outcome": operation.outcome,
        },
    )


async def _ledger_entries(connection: Connection, caller: Caller, payment_id: Id) -> list[TimelineEntry]:
    entries = await entries_of_payment(connection, payment_id=payment_id, merchant_id=caller.merchant_id, livemode=caller.livemode)
    return [
        TimelineEntry(
            at=rfc3339(entry.created_at),
            kind="ledger",
            what=f"{entry.direction} {entry.account_id}",
            actor=None,
            object_id=typeid("txn", entry.transaction_id),
            detail={"type": entry.type, "amount": entry.amount, "currency": entry.currency},
        )
        for entry in entries
    ]


async def _webhook_entries(connection: Connection, event_ids: list[Id]) -> list[TimelineEntry]:
    return [
        TimelineEntry(
            at=rfc3339(one.created_at),
            kind="webhook",
            what=f"webhook {one.status}",
            actor=None,
            object_id=typeid("whd", one.id),
            detail={
                "event_id": typeid("evt", one.event_id),
                "endpoint_id": typeid("we", one.endpoint_id),
                "attempts": one.attempts,
                "status_code": one.last_status_code,
                "latency_ms": one.latency_ms,
            },
        )
        for one in await deliveries.of_events(connection, event_ids)
    ]


def _found(row: Row | None) -> Row:
    if row is None:
        raise NotFound
    return row
