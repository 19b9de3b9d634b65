"""Who asks for a change and under which key, and what they get back: the shape all actions of the capability share."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

import msgspec
import psycopg

from app.core.clock import now
from app.core.errors import NotFound, VersionConflict
from app.core.ids import Id
from app.infra import idempotency
from app.infra.db import Connection, tenant
from app.infra.idempotency import KeyRow
from app.payments import store
from app.payments.keys import require_same
from app.payments.model import Intent, Payment, Refund
from app.payments.moves import Moves
from app.payments.present import render
from app.payments.road import Road
from app.payments.waiting import Answered

T = TypeVar("T")


class Asking(msgspec.Struct):
    """Who asks, and under which key; `actor` is how the timeline names them."""

    merchant_id: Id
    livemode: bool
    actor: str
    route: str
    idempotency_key: str | None
    fingerprint: bytes
    if_match: frozenset[int] | None = None
    traceparent: str | None = None

    def key(self, moment: datetime, *, moves_money: bool = False, part: str = "") -> KeyRow:
        """`part` names a second step of the same request that needs a key of its own."""
        return idempotency.key_row(
            merchant_id=self.merchant_id,
            livemode=self.livemode,
            route=self.route + part,
            key=self.idempotency_key,
            fingerprint=self.fingerprint,
            now=moment,
            moves_money=moves_money,
        )


class Shown(msgspec.Struct):
    """An object as JSON, with its version: the answer of what is done at once."""

    data: bytes
    version: int
    key: KeyRow
    replayed: bool = False


class Waited(msgspec.Struct):
    """What became of a request that a worker carries out; `answered` is None while it is open."""

    operation_id: Id
    answered: Answered | None
    key: KeyRow
    replayed: bool = False


async def unless_key_raced(act: Callable[[], Awaitable[T]]) -> T:
    """Run `act`; once more when another request wrote the same key on another object between our look and our insert.

    The second run finds that key, and says so.
    """
    try:
        return await act()
    except psycopg.errors.UniqueViolation as error:
        if error.diag.table_name != "idempotency_keys":
            raise
        return await act()


def begin(asking: Asking) -> Moves:
    return Moves(now=now(), actor=asking.actor, traceparent=asking.traceparent)


@asynccontextmanager
async def asking_transaction(road: Road, asking: Asking) -> AsyncIterator[Connection]:
    """The use case's transaction, in which row-level security shows only what is the caller's."""
    async with tenant(road.pool, merchant_id=asking.merchant_id, livemode=asking.livemode) as connection:
        yield connection


async def earlier_key(connection: Connection, asking: Asking, *, part: str = "") -> KeyRow | None:
    """The key of an earlier request in the same scope; looked for after the lock, so that a concurrent one has committed.

    Raises IdempotencyKeyReused, IdempotencyKeyExpired.
    """
    if asking.idempotency_key is None:
        return None
    asked = asking.key(now(), part=part)
    stored = (await idempotency.find(connection, [asked])).get(asked.scope)
    return None if stored is None else require_same(stored, asked)


async def replayed(connection: Connection, key: KeyRow) -> Shown:
    """The answer of an earlier request: the object as it was when that request had changed it."""
    row = await (await connection.execute("SELECT data::text, sequence FROM events WHERE id = %s::uuid", (key.event_id,))).fetchone()
    if row is None:
        raise NotFound
    return Shown(row[0].encode(), row[1], key, replayed=True)


def shown(row: Intent | Payment | Refund, key: KeyRow) -> Shown:
    return Shown(render(row), row.version, key)


async def locked_intent(connection: Connection, intent_id: Id) -> Intent:
    """Raises NotFound."""
    intent = await store.lock_intent(connection, intent_id)
    if intent is None:
        raise NotFound
    return intent


async def locked_payment(connection: Connection, payment_id: Id) -> Payment:
    """Raises NotFound."""
    payment = await store.lock_payment(connection, payment_id)
    if payment is None:
        raise NotFound
    return payment


def require_version(row: Intent | Payment, asking: Asking) -> None:
    """Raises VersionConflict."""
    if asking.if_match is not None and row.version not in asking.if_match:
        raise VersionConflict
