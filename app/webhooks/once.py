"""A write of the API with its idempotency key: the effect and its answer are stored by one transaction, a repeat gets that answer."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

import psycopg

from app.core.errors import IdempotencyInProgress
from app.core.ids import Id
from app.infra import idempotency
from app.infra.db import Connection, Pool, tenant
from app.infra.idempotency import KeyRow

# A repeat that lost the race finds the winner's answer in its second run; more would be somebody who deletes keys.
_RUNS = 3


class Done(NamedTuple):
    """What an act answers: the object it was about, the status, and JSON without any secret."""

    object_id: Id | None
    status: int
    body: bytes


class Told(NamedTuple):
    status: int
    body: bytes
    replayed: bool = False
    expires_at: datetime | None = None


async def once(pool: Pool, key: KeyRow, act: Callable[[Connection], Awaitable[Done]], *, stored: bool = True) -> Told:
    """Run `act` in the merchant's transaction; `stored` is False for a request that named no key, which is never a repeat.

    Raises what `act` raises (nothing is stored then), IdempotencyKeyReused, IdempotencyInProgress.
    """
    for _ in range(_RUNS):
        try:
            async with tenant(pool, merchant_id=key.merchant_id, livemode=key.livemode) as connection:
                return await _run(connection, key, act, stored=stored)
        except psycopg.errors.UniqueViolation as error:
            if error.diag.table_name != "idempotency_keys":
                raise
        except psycopg.errors.LockNotAvailable as error:
            if not stored:
                raise
            raise IdempotencyInProgress(retry_after_seconds=1) from error
    raise IdempotencyInProgress(retry_after_seconds=1)


async def _run(connection: Connection, key: KeyRow, act: Callable[[Connection], Awaitable[Done]], *, stored: bool) -> Told:
    if not stored:
        done = await act(connection)
        return Told(done.status, done.body)
    before = (await idempotency.find(connection, [key])).get(key.scope)
    if before is not None:
        idempotency.require_same(before, key)
        return Told(before.answer_status or 200, (before.answer or "").encode(), True, before.expires_at)
    done = await act(connection)
    key.object_id, key.answer_status, key.answer = done.object_id, done.status, done.body.decode()
    await idempotency.insert(connection, [key])
    return Told(done.status, done.body, False, key.expires_at)
