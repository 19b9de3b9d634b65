"""What the routes of this capability share: the merchant's transaction, and the one place where a write meets its idempotency key."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from app.core.clock import now
from app.http import Answer, Call, answer
from app.infra.db import Connection, tenant
from app.infra.idempotency import key_row
from app.webhooks.actions import Asker
from app.webhooks.fan_out import QUEUE
from app.webhooks.once import Done, Told, once
from outbox.wake import Waker


async def write(call: Call[Any], act: Callable[[Connection, Asker], Awaitable[Done]], *, wakes: bool = False) -> Told:
    """Runs `act` once per idempotency key; `wakes` where it writes outbox rows."""
    caller = call.caller
    asker = Asker(caller.merchant_id, caller.livemode, f"key:{caller.key_id}", now())
    key = key_row(
        merchant_id=caller.merchant_id,
        livemode=caller.livemode,
        route=call.route,
        key=call.idempotency_key,
        fingerprint=call.fingerprint,
        now=asker.now,
    )
    told = await once(call.resources.pool, key, lambda connection: act(connection, asker), stored=call.idempotency_key is not None)
    waker = call.resources.find(Waker)
    if wakes and waker is not None and not told.replayed:
        waker.wake(QUEUE)
    return told


def told_answer(told: Told) -> Answer:
    return answer(told.status, told.body, replayed=told.replayed, idempotency_expires_at=told.expires_at)


def own_rows(call: Call[Any]) -> AbstractAsyncContextManager[Connection]:
    """A transaction that sees the caller's rows of the key's mode."""
    return tenant(call.resources.pool, merchant_id=call.caller.merchant_id, livemode=call.caller.livemode)
