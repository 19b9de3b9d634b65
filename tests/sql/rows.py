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
# A verb ("insert" or "update"), a table, and the columns of one row.
Part = tuple[str, str, Row]

MERCHANT = "0190a5dac0007000800000000000000a"
OTHER_MERCHANT = "0190a5dac0007000800000000000000b"
MACHINE_OF: dict[str, Machine] = {"payment_intents": INTENT, "payments": PAYMENT, "refunds": REFUND, "webhook_endpoints": ENDPOINT}
AT = rfc3339(now())
CAPTURED = ("captured", "partially_refunded", "refunded", "disputed", "won", "lost")

# A change of a captured payment that leaves its status.
LOOP = Edge("operation_updated", "captured", "captured")

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
    """A row of `table` with an id of its own; an exception gets an operation of its own, that of a payment is `asked`."""
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


async def together(connection: Connection, *parts: Part) -> int:
    """Several rows as one statement, as the road writes a move and its event; how many rows there were."""
    given = {f"row_{number}": json.dumps(fields) for number, (_, _, fields) in enumerate(parts)}
    written = [f"part_{number} AS ({_statement(verb, table, fields, number)})" for number, (verb, table, fields) in enumerate(parts)]
    counts = " + ".join(f"(SELECT count(*) FROM part_{number})" for number in range(len(parts)))
    found = await (await connection.execute(f"WITH {', '.join(written)} SELECT {counts}".encode(), given)).fetchone()
    assert found is not None
    return int(found[0])


def _statement(verb: str, table: str, fields: Row, number: int) -> str:
    source = f"json_populate_record(NULL::{table}, %(row_{number})s::json)"
    if verb == "insert":
        columns = ", ".join(fields)
        return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {source} RETURNING 1"
    columns = ", ".join(f"{name} = s.{name}" for name in fields if name != "id")
    return f"UPDATE {table} t SET {columns} FROM {source} s WHERE t.id = s.id RETURNING 1"


async def born(connection: Connection, table: str, edge: Edge | None = None, **changes: Any) -> Row:
    """A row with the event of its birth; a refund with a payment that has reserved it."""
    machine = MACHINE_OF[table]
    first = edge or next(one for one in machine.edges if one.source == NONE)
    if table == "refunds" and "payment_id" not in changes:
        changes["payment_id"] = (await reserved(connection, changes))["id"]
    subject = row(table, **changes)
    told = event(machine, subject, first)
    subject |= {"status": first.target, "version": 1, "last_event_id": told["id"]}
    await together(connection, ("insert", "events", told), ("insert", table, subject))
    return subject


async def moved(connection: Connection, table: str, subject: Row, edge: Edge, **changes: Any) -> Row:
    """The row one edge further, with its event; a payment's capture is booked, a refund's end is told to its payment."""
    others = await refunds_end(connection, subject, edge) if table == "refunds" and edge.source != edge.target else []
    async with connection.transaction():
        after = await step(connection, table, subject, edge, *others, **{**facts(table, edge.target), **changes})
        if edge.event == "captured":
            await booked(connection, subject)
    return after


async def step(connection: Connection, table: str, subject: Row, edge: Edge, *others: Part, **changes: Any) -> Row:
    """The row with its next version and these changes, and its event, in one statement with the others."""
    told = event(MACHINE_OF[table], subject, edge)
    after = {"status": edge.target, "version": subject["version"] + 1, "last_event_id": told["id"], **changes}
    parts = [("insert", "events", told), ("update", table, {"id": subject["id"], **after}), *others]
    assert await together(connection, *parts) == len(parts)
    return subject | after


async def booked(connection: Connection, payment: Row) -> None:
    """The least that the ledger must say of a captured payment; only the writer may say it."""
    owned = {"merchant_id": payment["merchant_id"], "livemode": payment["livemode"], "created_at": AT}
    posted = {**owned, "transaction_id": new_id(), "type": "capture", "reference_id": new_id(), "payment_id": payment["id"]}
    posted |= {"status": "posted", "first_entry_id": new_id()}
    entry = {**owned, "transaction_id": posted["transaction_id"], "amount": 10000, "currency": "EUR"}
    debit = {**entry, "entry_id": posted["first_entry_id"], "account_id": "customer_payment_clearing", "direction": "debit"}
    credit = {**entry, "entry_id": new_id(), "account_id": "merchant_pending", "direction": "credit"}
    await connection.execute("SELECT set_config('tollgate.role_before', current_user, true), set_config('role', 'tollgate_writer', true)")
    await insert_posted(connection, posted, debit, credit)
    await connection.execute("SELECT set_config('role', current_setting('tollgate.role_before'), true)")


async def insert_posted(connection: Connection, posted: Row, *entries: Row) -> None:
    columns, entry = ", ".join(posted), ", ".join(entries[0])
    statement = f"""
        WITH p AS (INSERT INTO ledger_transactions ({columns})
                   SELECT {columns} FROM json_populate_record(NULL::ledger_transactions, %s::json))
        INSERT INTO ledger_entries ({entry}) SELECT {entry} FROM json_populate_recordset(NULL::ledger_entries, %s::json)"""
    await connection.execute(statement.encode(), (json.dumps(posted), json.dumps(entries)))


async def reserved(connection: Connection, owned: Row) -> Row:
    """A captured payment that has reserved all of it for refunds."""
    payment = await walked(
        connection, "payments", "captured", **{name: owned[name] for name in ("merchant_id", "livemode") if name in owned}
    )
    return await moved(connection, "payments", payment, LOOP, refund_reserved=10000)


async def refunds_end(connection: Connection, refund: Row, edge: Edge) -> list[Part]:
    """The payment's share of a refund's move, in the same statement."""
    columns = ("id", "merchant_id", "livemode", "status", "version", "refund_reserved", "amount_refunded")
    statement = f"SELECT {', '.join(columns)} FROM payments WHERE id = %s::uuid"
    found = await (await connection.execute(statement.encode(), (refund["payment_id"],))).fetchone()
    assert found is not None
    payment = dict(zip(columns, found, strict=True))
    after = {"version": payment["version"] + 1, "last_event_id": new_id()}
    for column, status in (("refund_reserved", "pending"), ("amount_refunded", "succeeded")):
        after[column] = payment[column] + refund["amount"] * ((edge.target == status) - (edge.source == status))
    told = event(PAYMENT, payment, LOOP, id=after["last_event_id"])
    return [("insert", "events", told), ("update", "payments", {"id": payment["id"], **after})]


async def asked(connection: Connection, **changes: Any) -> Row:
    """An operation of a payment that stands where such an operation is asked for."""
    type_ = changes.get("type", "capture")
    owned = {name: changes[name] for name in ("merchant_id", "livemode") if name in changes}
    if type_ == "refund" and "refund_id" not in changes:
        refund = await born(connection, "refunds", **owned)
        changes = {"payment_id": refund["payment_id"], "refund_id": refund["id"], **changes}
    elif "payment_id" not in changes:
        status = "pending_auth" if type_ in ("sale", "authorize") else "authorized"
        changes = {"payment_id": (await walked(connection, "payments", status, **owned))["id"], **changes}
    operation = row("operations", **changes)
    await insert(connection, "operations", operation)
    return operation


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
