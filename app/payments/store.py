"""Rows and statements of intents, payments, operations, refunds and their events; no decisions.

Every hot statement takes one JSON array of rows: encoding it costs 2 µs a row where lists of arrays cost 50 (docs/decisions/0002).
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec

from app.core.ids import Id
from app.infra.db import Connection, array
from app.payments.model import Intent, Operation, Payment, Refund
from outbox.round_trip import Statement

_encode = msgspec.json.Encoder().encode


class Event(msgspec.Struct):
    """A row of `events`; `data` is the object as the API shows it after the change."""

    id: Id
    merchant_id: Id
    livemode: bool
    object_type: str
    object_id: Id
    sequence: int
    event: str
    from_status: str
    to_status: str
    announced: bool
    payment_id: Id | None
    operation_id: Id | None
    actor: str
    detail: dict[str, Any] | None
    data: msgspec.Raw
    occurred_at: datetime

    @property
    def type(self) -> str:
        return f"{self.object_type}.{self.event}"


class ExceptionRow(msgspec.Struct):
    """A row of `exceptions` as it is opened."""

    id: Id
    merchant_id: Id
    livemode: bool
    payment_id: Id
    operation_id: Id
    kind: str
    amount: int
    currency: str
    detail: dict[str, Any]
    opened_at: datetime


def _columns(row: type[msgspec.Struct]) -> str:
    return ", ".join(row.__struct_fields__)


def _json(rows: Sequence[msgspec.Struct]) -> str:
    return _encode(rows).decode()


def _insert(table: str, row: type[msgspec.Struct], *, tail: str = "") -> str:
    columns = _columns(row)
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s::json) ORDER BY id {tail}"


INSERT_EVENTS = _insert("events", Event)
INSERT_INTENTS = _insert("payment_intents", Intent)
INSERT_PAYMENTS = _insert("payments", Payment)
INSERT_OPERATIONS = _insert("operations", Operation)
INSERT_REFUNDS = _insert("refunds", Refund)
INSERT_EXCEPTIONS = _insert("exceptions", ExceptionRow, tail="ON CONFLICT ON CONSTRAINT one_exception_per_operation_and_kind DO NOTHING")

LOCK_INTENT = f"SELECT {_columns(Intent)} FROM payment_intents WHERE id = %s::uuid FOR UPDATE"
LOCK_PAYMENT = f"SELECT {_columns(Payment)} FROM payments WHERE id = %s::uuid FOR UPDATE"

LOOK_UP_CHARGES = """
UPDATE operations
   SET next_lookup_at = %s::timestamptz
 WHERE payment_id = ANY(ARRAY(SELECT unnest(%s::uuid[]))) AND type IN ('sale', 'authorize')"""

# `= ANY` keeps these on the primary key: from a table that was analyzed while it was empty, the planner would otherwise walk all
# of it and look each row up among the given ones, and a prepared plan stays.
MOVE_INTENTS = """
WITH s AS MATERIALIZED (SELECT * FROM json_populate_recordset(NULL::payment_intents, %s::json))
UPDATE payment_intents i
   SET status = s.status,
       version = s.version,
       last_event_id = s.last_event_id,
       customer_id = s.customer_id,
       reference = s.reference,
       amount = s.amount,
       currency = s.currency,
       capture_method = s.capture_method,
       payment_method = s.payment_method,
       success_url = s.success_url,
       cancel_url = s.cancel_url,
       return_url = s.return_url,
       description = s.description,
       metadata = s.metadata,
       attempt_count = s.attempt_count,
       latest_payment_id = s.latest_payment_id,
       authorization_id = s.authorization_id,
       next_action = s.next_action,
       last_payment_error = s.last_payment_error,
       cancel_requested = s.cancel_requested,
       cancellation_reason = s.cancellation_reason,
       expires_at = s.expires_at,
       updated_at = s.updated_at
  FROM s
 WHERE i.id = ANY(ARRAY(SELECT id FROM s)) AND i.id = s.id AND i.version = s.version - 1 AND i.merchant_id = s.merchant_id"""

MOVE_PAYMENTS = """
WITH s AS MATERIALIZED (SELECT * FROM json_populate_recordset(NULL::payments, %s::json))
UPDATE payments p
   SET status = s.status,
       version = s.version,
       last_event_id = s.last_event_id,
       amount_captured = s.amount_captured,
       amount_refunded = s.amount_refunded,
       refund_reserved = s.refund_reserved,
       provider_ref = s.provider_ref,
       provider_status = s.provider_status,
       authorization_id = s.authorization_id,
       authorization_code = s.authorization_code,
       payment_method = s.payment_method,
       fee = s.fee,
       failure = s.failure,
       pending_operation = s.pending_operation,
       latest_operation = s.latest_operation,
       updated_at = s.updated_at,
       authorized_at = s.authorized_at,
       captured_at = s.captured_at,
       authorization_expires_at = s.authorization_expires_at
  FROM s
 WHERE p.id = ANY(ARRAY(SELECT id FROM s)) AND p.id = s.id AND p.version = s.version - 1 AND p.merchant_id = s.merchant_id"""

MOVE_OPERATIONS = """
WITH s AS MATERIALIZED (SELECT * FROM json_populate_recordset(NULL::operations, %s::json))
UPDATE operations o
   SET status = s.status,
       provider_ref = s.provider_ref,
       outcome = s.outcome,
       answer_event_id = s.answer_event_id,
       next_lookup_at = s.next_lookup_at,
       lookups = s.lookups,
       closed_at = s.closed_at
  FROM s
 WHERE o.id = ANY(ARRAY(SELECT id FROM s)) AND o.id = s.id AND o.merchant_id = s.merchant_id"""

MOVE_REFUNDS = """
WITH s AS MATERIALIZED (SELECT * FROM json_populate_recordset(NULL::refunds, %s::json))
UPDATE refunds r
   SET status = s.status,
       version = s.version,
       last_event_id = s.last_event_id,
       failure = s.failure,
       provider_ref = s.provider_ref,
       updated_at = s.updated_at
  FROM s
 WHERE r.id = ANY(ARRAY(SELECT id FROM s)) AND r.id = s.id AND r.version = s.version - 1 AND r.merchant_id = s.merchant_id"""


class Part(NamedTuple):
    """An INSERT, UPDATE or DELETE without RETURNING; `given` is how many rows it must touch, None where it finds them itself."""

    text: str
    parameters: tuple[str, ...]
    given: int | None


def part(text: str, rows: Sequence[msgspec.Struct]) -> Part:
    """A statement that takes its rows as one JSON array."""
    return Part(text, (_json(rows),), len(rows))


def fused(parts: Sequence[Part]) -> Statement:
    """Several statements as one, so that a move and its event are one; its row says how many rows the parts without `given` touched.

    No row may be in two parts: a statement sees neither what its other parts inserted nor updated. The server raises
    `every_locked_row_moves` when a part touched fewer rows than it was given.
    """
    text = _fused(tuple((one.text, one.given is None) for one in parts))
    parameters = [parameter for one in parts for parameter in one.parameters]
    return text, (*parameters, array(one.given for one in parts if one.given is not None))


@cache
def _fused(statements: tuple[tuple[str, bool], ...]) -> str:
    named = [(f"part_{number}", text, free) for number, (text, free) in enumerate(statements)]
    parts = ",\n".join(f"{name} AS ({text} RETURNING 1)" for name, text, _ in named)
    given = ", ".join(f"(SELECT count(*) FROM {name})" for name, _, free in named if not free)
    found = " + ".join(f"(SELECT count(*) FROM {name})" for name, _, free in named if free) or "0"
    return f"WITH {parts}\nSELECT require_all_moved(ARRAY[{given}]::bigint[], %s::bigint[])::text, {found}"


def exceptions_opened(rows: Sequence[ExceptionRow]) -> Statement:
    """One per operation and kind: the same late truth told twice is one exception."""
    return INSERT_EXCEPTIONS, (_json(rows),)


def charges_looked_up(payment_ids: Sequence[Id], *, at: datetime) -> Statement:
    """Have the clock ask what became of charges that were given up."""
    return LOOK_UP_CHARGES, (at.isoformat(), array(payment_ids))


async def lock_intent(connection: Connection, intent_id: Id) -> Intent | None:
    row = await (await connection.execute(LOCK_INTENT, (intent_id,))).fetchone()
    return Intent(*row) if row else None


async def lock_payment(connection: Connection, payment_id: Id) -> Payment | None:
    row = await (await connection.execute(LOCK_PAYMENT, (payment_id,))).fetchone()
    return Payment(*row) if row else None


async def read_intent(connection: Connection, intent_id: Id) -> Intent | None:
    row = await (await connection.execute(f"SELECT {_columns(Intent)} FROM payment_intents WHERE id = %s::uuid", (intent_id,))).fetchone()
    return Intent(*row) if row else None


async def read_payment(connection: Connection, payment_id: Id) -> Payment | None:
    row = await (await connection.execute(f"SELECT {_columns(Payment)} FROM payments WHERE id = %s::uuid", (payment_id,))).fetchone()
    return Payment(*row) if row else None


async def read_refund(connection: Connection, refund_id: Id) -> Refund | None:
    row = await (await connection.execute(f"SELECT {_columns(Refund)} FROM refunds WHERE id = %s::uuid", (refund_id,))).fetchone()
    return Refund(*row) if row else None


async def read_operation(connection: Connection, operation_id: Id) -> Operation | None:
    row = await (await connection.execute(f"SELECT {_columns(Operation)} FROM operations WHERE id = %s::uuid", (operation_id,))).fetchone()
    return Operation(*row) if row else None


async def read_operations_of(connection: Connection, payment_id: Id) -> list[Operation]:
    cursor = await connection.execute(
        f"SELECT {_columns(Operation)} FROM operations WHERE payment_id = %s::uuid ORDER BY requested_at, id", (payment_id,)
    )
    return [Operation(*row) for row in await cursor.fetchall()]
