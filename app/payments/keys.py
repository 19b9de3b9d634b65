"""What a repeated key leads to: the routes of this capability say what kind of object it is."""

from collections.abc import Sequence

from app.core.errors import Extra, IdempotencyKeyExpired
from app.core.ids import typeid
from app.infra import idempotency
from app.infra.idempotency import KeyRow
from app.payments.store import Part


def key_part(rows: Sequence[KeyRow]) -> Part:
    """The keys, in the statement of what was done under them; raises as `idempotency.insert`."""
    return Part(idempotency.INSERT, (idempotency.encoded(rows),), len(rows))


def require_same(stored: KeyRow, asked: KeyRow) -> KeyRow:
    """As `idempotency.require_same`; a key that has expired names what it moved, so that the caller can read it."""
    try:
        return idempotency.require_same(stored, asked)
    except IdempotencyKeyExpired as error:
        error.extra |= _named(stored)
        raise


def _named(stored: KeyRow) -> Extra:
    if stored.object_id is None:
        return {}
    if stored.route.endswith("/refunds"):
        return {"refund_id": typeid("ref", stored.object_id)}
    if "/v1/payments/" in stored.route:
        return {"payment_id": typeid("pay", stored.object_id)}
    return {"payment_intent_id": typeid("pi", stored.object_id)}
