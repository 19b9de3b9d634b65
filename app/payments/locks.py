"""Locking what a batch is about with one statement: payments before intents before refunds, each by id, as everybody locks.

The rows come as JSON, so that rows of several tables are one answer. A statement that waits for a lock sees the locked row as it
is then, and every other row as it was before: so whatever is decided upon is locked here, operations too.
"""

from collections.abc import Iterable, Sequence

import msgspec

import outbox
from app.core.ids import Id
from app.infra import idempotency
from app.infra.db import array
from app.infra.idempotency import KeyRow
from app.infra.json_rows import from_json
from app.payments.model import Intent, Operation, Payment, Refund
from outbox import Claimed
from outbox.round_trip import Row, Statement


def _locked(table: str, row: type[msgspec.Struct]) -> str:
    """`ARRAY(SELECT …)` and not the array itself: the planner would otherwise count its items and plan anew for every batch."""
    columns = ", ".join(row.__struct_fields__)
    return f"""
SELECT '{table}', row_to_json(r)::text
  FROM (SELECT {columns} FROM {table} WHERE id = ANY(ARRAY(SELECT unnest(%s::uuid[]))) ORDER BY id FOR UPDATE) r"""  # noqa: S608 - our own structs' fields


SETTLEMENT = "\nUNION ALL".join(
    (
        f"SELECT 'outbox' AS kind, r.id::text AS row FROM ({outbox.HELD}) r",  # noqa: S608 - the outbox's constant
        _locked("payments", Payment),
        _locked("payment_intents", Intent),
        _locked("operations", Operation),
        _locked("refunds", Refund),
    )
)

# The keys are read as they were before the locks: a refusal looks for its key once more.
CONFIRM = f"""{_locked("payment_intents", Intent)}
UNION ALL
{idempotency.FIND_AS_JSON}"""


class Locked(msgspec.Struct):
    """`held`: the outbox rows that are still the caller's."""

    held: set[int] = msgspec.field(default_factory=set)
    operations: dict[Id, Operation] = {}
    payments: dict[Id, Payment] = {}
    intents: dict[Id, Intent] = {}
    refunds: dict[Id, Refund] = {}
    keys: dict[tuple[Id, bool, str, str], KeyRow] = {}


def settlement_locks(
    rows: Sequence[Claimed], *, payment_ids: Iterable[Id], intent_ids: Iterable[Id], operation_ids: Iterable[Id], refund_ids: Iterable[Id]
) -> Statement:
    return SETTLEMENT, (*outbox.tokens(rows), array(payment_ids), array(intent_ids), array(operation_ids), array(refund_ids))


def confirm_locks(intent_ids: Iterable[Id], keys: Sequence[KeyRow]) -> Statement:
    return CONFIRM, (array(intent_ids), idempotency.encoded(keys))


def read_locked(rows: Sequence[Row]) -> Locked:
    locked = Locked()
    for kind, text in rows:
        assert text is not None  # rows, not nulls
        match kind:
            case "outbox":
                locked.held.add(int(text))
            case "payments":
                payment = from_json(Payment, text)
                locked.payments[payment.id] = payment
            case "payment_intents":
                intent = from_json(Intent, text)
                locked.intents[intent.id] = intent
            case "operations":
                operation = from_json(Operation, text)
                locked.operations[operation.id] = operation
            case "refunds":
                refund = from_json(Refund, text)
                locked.refunds[refund.id] = refund
            case _:
                key = from_json(KeyRow, text)
                locked.keys[key.scope] = key
    return locked
