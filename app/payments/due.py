"""What time makes due: look-ups, lapsed authorizations, expired intents. The clock calls these; each call claims its own rows."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.payments import store
from app.payments.model import INTENT, Operation
from app.payments.moves import LOOK_UP, PSP_QUEUE, LookUpTask, Moves, open_operation, record
from app.payments.write import write
from outbox import NewRow

ACTOR = "clock"
EXPIRY_MARK = "intent_expiry"
# Two clocks may differ and a commit may come late: the walk always begins a little before where the last one ended.
OVERLAP = timedelta(minutes=5)

# `next_lookup_at` is taken away with the claim; the look-up's own answer sets the next one.
CLAIM_LOOK_UPS = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM operations
     WHERE next_lookup_at <= %s
     ORDER BY next_lookup_at
     LIMIT %s
       FOR UPDATE SKIP LOCKED
)
UPDATE operations o SET next_lookup_at = NULL WHERE o.id = ANY(ARRAY(SELECT id FROM due))
RETURNING {", ".join("o." + name for name in Operation.__struct_fields__)}"""  # noqa: S608 - made of our own struct's field names

# Those that are being voided or captured already would stay at the head and starve the rest.
DUE_AUTHORIZATIONS = """
SELECT id FROM payments
 WHERE authorization_expires_at <= %s AND pending_operation IS NULL
 ORDER BY authorization_expires_at
 LIMIT %s
   FOR UPDATE SKIP LOCKED"""

# The mark is set by the database's clock, not by ours: one that is ahead would pass over intents that are given more time later.
# For the same reason it may go back.
MOVE_MARK = """
INSERT INTO clock_marks (name, at) VALUES (%s, least(%s, statement_timestamp()) - %s)
ON CONFLICT (name) DO UPDATE SET at = excluded.at"""

READ_MARK = "SELECT least(at, statement_timestamp() - %s) FROM clock_marks WHERE name = %s"

DUE_INTENTS = """
SELECT id FROM payment_intents
 WHERE expires_at > %s AND expires_at <= %s AND status IN ('requires_payment_method', 'requires_confirmation')
 ORDER BY expires_at
 LIMIT %s
   FOR UPDATE SKIP LOCKED"""


def look_up_row(operation: Operation, *, traceparent: str | None = None) -> NewRow:
    """Ask the provider what became of the operation."""
    task = LookUpTask(
        provider=operation.provider,
        operation_id=operation.id,
        payment_id=operation.payment_id,
        payment_intent_id=operation.payment_intent_id,
        refund_id=operation.refund_id,
    )
    return NewRow(
        queue=PSP_QUEUE,
        lane=operation.provider,
        actor=LOOK_UP,
        subject=operation.id,
        tenant=operation.merchant_id,
        payload=msgspec.json.encode(task).decode(),
        traceparent=traceparent,
    )


async def emit_look_ups(connection: Connection, *, now: datetime, limit: int) -> int:
    """Returns how many operations will be looked up."""
    rows = await (await connection.execute(CLAIM_LOOK_UPS, (now, limit), prepare=True)).fetchall()
    await outbox.write(connection, [look_up_row(Operation(*row)) for row in rows])
    return len(rows)


async def let_go_of_lapsed(connection: Connection, *, now: datetime, limit: int) -> frozenset[str]:
    """Open a void for each lapsed authorization that has no open operation. Returns the queues to wake."""
    ids = [row[0] for row in await (await connection.execute(DUE_AUTHORIZATIONS, (now, limit), prepare=True)).fetchall()]
    moves = Moves(now=now, actor=ACTOR)
    for payment_id in ids:
        payment = await store.lock_payment(connection, payment_id)
        if payment is None or payment.status != "authorized" or payment.pending_operation is not None:
            continue
        open_operation(moves, payment, "void", amount=payment.amount, purpose="authorization_expired")
    return await write(connection, moves)


async def expire_intents(connection: Connection, *, now: datetime, limit: int) -> tuple[int, frozenset[str]]:
    """Expire intents that nobody confirmed in time; how many, and the queues to wake. The mark moves on when no more are due."""
    mark = await _mark(connection, now)
    ids = [row[0] for row in await (await connection.execute(DUE_INTENTS, (mark, now, limit), prepare=True)).fetchall()]
    moves = Moves(now=now, actor=ACTOR)
    await _expire(connection, moves, ids)
    queues = await write(connection, moves)
    if len(ids) < limit:
        await connection.execute(MOVE_MARK, (EXPIRY_MARK, now, OVERLAP))
    return len(ids), queues


async def _expire(connection: Connection, moves: Moves, ids: Sequence[Id]) -> None:
    for intent_id in ids:
        intent = await store.lock_intent(connection, intent_id)
        if intent is not None and intent.status in ("requires_payment_method", "requires_confirmation"):
            record(moves, INTENT, intent, "expired", "expired", operation_id=None)


async def _mark(connection: Connection, now: datetime) -> datetime:
    row = await (await connection.execute(READ_MARK, (OVERLAP, EXPIRY_MARK))).fetchone()
    # The first walk of an installation looks at everything there is.
    return row[0] if row is not None else now - timedelta(days=3650)
