"""Raw rows as an attacker writes them: each is accepted as it is, for a test to spoil one thing of it."""

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from app.core.clock import now, rfc3339
from app.core.ids import new_id
from app.core.machine import NONE, Edge, Machine
from app.infra.db import Connection
from app.payments.model import INTENT, PAYMENT, REFUND
from app.webhooks.model import ENDPOINT

Row = dict[str, Any]

MERCHANT = "0190a5dac0007000800000000000000a"
OTHER_MERCHANT = "0190a5dac0007000800000000000000b"
MACHINE_OF: dict[str, Machine] = {"payment_intents": INTENT, "payments": PAYMENT, "refunds": REFUND, "webhook_endpoints": ENDPOINT}
AT = rfc3339(now())
CAPTURED = ("captured", "partially_refunded", "refunded", "disputed", "won", "lost")

_OWNED: Row = {"merchant_id": MERCHANT, "livemode": False}
_VERSIONED: Row = {**_OWNED, "created_at": AT, "updated_at": AT}
_MONEY: Row = {"amount": 10000, "currency": "EUR"}
_ROWS: dict[str, Row] = {
    "payment_intents": {**_VERSIONED, **_MONEY, "capture_method": "automatic", "attempt_count": 0, "max_attempts": 5, "expires_at": AT},
    "payments": {
        **_VERSIONED,
        **_MONEY,
        "payment_intent_id": MERCHANT,
        "capture_method": "automatic",
        "provider": "sandbox",
        "payment_method": {},
    },
    "refunds": {**_VERSIONED, **_MONEY, "payment_id": MERCHANT},
    "webhook_endpoints": {**_VERSIONED, "url": "https://example.com/", "enabled_events": ["*"], "salt": "0" * 32},
    "operations": {
        **_OWNED,
        **_MONEY,
        "payment_intent_id": MERCHANT,
        "type": "capture",
        "status": "requested",
        "provider": "sandbox",
        "actor": "test",
        "requested_at": AT,
        "key_expires_at": AT,
    },
    "exceptions": {**_OWNED, **_MONEY, "payment_id": MERCHANT, "kind": "late_sale", "detail": {}, "opened_at": AT},
    "customers": {**_OWNED, "created_at": AT},
}


def row(table: str, **changes: Any) -> Row:
    """A row of `table` with an id of its own; operations and exceptions get a payment, or an operation, of their own too."""
    fresh: Row = {"id": new_id(), **_ROWS[table]}
    if table == "operations":
        fresh["payment_id"] = new_id()
    if table == "exceptions":
        fresh["operation_id"] = new_id()
    return fresh | changes


def key(**changes: Any) -> Row:
    """A row of `idempotency_keys` that lives a day."""
    fresh = {**_OWNED, "route": "POST /v1/x", "key": new_id(), "fingerprint": "\\x00", "event_id": new_id(), "created_at": AT}
    return {**fresh, "expires_at": "2126-01-01T00:00:00Z", **changes}


def event(machine: Machine, subject: Row, edge: Edge, **changes: Any) -> Row:
    """The event that takes `subject` along `edge` with its next version."""
    fresh = {
        "id": new_id(),
        "merchant_id": subject["merchant_id"],
        "livemode": subject["livemode"],
        "object_type": machine.name,
        "object_id": subject["id"],
        "sequence": subject.get("version", 0) + 1,
        "event": edge.event,
        "from_status": edge.source,
        "to_status": edge.target,
        "announced": edge.announced,
        "actor": "test",
        "occurred_at": AT,
    }
    return fresh | changes


def facts(table: str, status: str) -> Row:
    """The other columns that a row has in this status, whatever road led there."""
    if table == "payment_intents":
        return {
            "next_action": {"type": "redirect_to_url"} if status == "requires_action" else None,
            "cancellation_reason": "tired" if status == "canceled" else None,
        }
    if table == "refunds":
        return {"failure": {"code": "x"} if status == "failed" else None}
    if table == "webhook_endpoints":
        disabled = status == "disabled"
        return {"disabled_at": AT if disabled else None, "disabled_reason": "merchant" if disabled else None}
    captured = status in CAPTURED
    return {
        "amount_captured": 10000 if captured else 0,
        "amount_refunded": {"refunded": 10000, "partially_refunded": 4000}.get(status, 0),
        "captured_at": AT if captured else None,
        "authorized_at": AT,
        "authorization_expires_at": AT if status == "authorized" else None,
        "failure": {"code": "x"} if status == "failed" else None,
    }


async def insert(connection: Connection, table: str, *rows: Row) -> None:
    """One statement for all; they have the same columns."""
    columns = ", ".join(rows[0])
    statement = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s::json)"
    await connection.execute(statement.encode(), (json.dumps(rows),))


async def update(connection: Connection, table: str, subject: Row, **changes: Any) -> int:
    """Set columns of one row; how many rows there were."""
    columns = ", ".join(f"{name} = s.{name}" for name in changes)
    statement = f"UPDATE {table} t SET {columns} FROM json_populate_record(NULL::{table}, %s::json) s WHERE t.id = s.id"
    return (await connection.execute(statement.encode(), (json.dumps({"id": subject["id"], **changes}),))).rowcount


async def born(connection: Connection, table: str, edge: Edge | None = None, **changes: Any) -> Row:
    """A row with the event of its birth."""
    machine = MACHINE_OF[table]
    first = edge or next(one for one in machine.edges if one.source == NONE)
    subject = row(table, **changes)
    told = event(machine, subject, first)
    subject |= {"status": first.target, "version": 1, "last_event_id": told["id"]}
    async with connection.transaction():
        await insert(connection, "events", told)
        await insert(connection, table, subject)
    return subject


async def moved(connection: Connection, table: str, subject: Row, edge: Edge, **changes: Any) -> Row:
    """The row one edge further, with its event."""
    told = event(MACHINE_OF[table], subject, edge)
    after = {"status": edge.target, "version": subject["version"] + 1, "last_event_id": told["id"], **facts(table, edge.target), **changes}
    async with connection.transaction():
        await insert(connection, "events", told)
        assert await update(connection, table, subject, **after) == 1
    return subject | after


async def walked(connection: Connection, table: str, status: str, **changes: Any) -> Row:
    """A row that has come to `status` by the shortest legal way."""
    first, *rest = way_to(MACHINE_OF[table], status)
    subject = await born(connection, table, first, **changes)
    for edge in rest:
        subject = await moved(connection, table, subject, edge)
    return subject


def way_to(machine: Machine, status: str) -> Sequence[Edge]:
    ways: deque[tuple[Edge, ...]] = deque((edge,) for edge in machine.edges if edge.source == NONE)
    seen: set[str] = set()
    while ways:
        way = ways.popleft()
        reached = way[-1].target
        if reached == status:
            return way
        if reached not in seen:
            seen.add(reached)
            ways.extend((*way, edge) for edge in machine.edges if edge.source == reached)
    raise LookupError(f"nothing leads to {status}")
