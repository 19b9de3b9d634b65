"""The queue `psp`: ask a provider for what was written down, or look up what became of it, and book the answer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import msgspec
import structlog

import outbox
from app.core.clock import now
from app.core.ids import typeid
from app.infra.db import Connection, Pool, assert_no_transaction, connect, open_pool
from app.infra.group_commit import Lane
from app.payments import store
from app.payments.moves import KEY_LIFETIME, LOOK_UP, PSP_QUEUE, SEND, LookUpTask, PspTask, browser_url, psp_request
from app.payments.settle import OperationMissing, Settled, Settlement, settle_batch, touched
from app.providers.base import Adapter, Declined, NotFound, Outcome, Unavailable, Unknown
from app.providers.codes import reason_of
from app.providers.configured import configured
from app.providers.observed import observed
from app.providers.registry import Registry, UnknownProvider
from app.providers.storable import storable
from app.settings import Settings
from outbox.intake import Queue
from outbox.wake import Waker

INTAKE = Queue(PSP_QUEUE, slots=512, lane_limit=256)

# A provider that cannot be reached at all for this many tries (about two minutes with the backoff) was never asked, so the
# operation can honestly be closed as not done.
UNAVAILABLE_TRIES = 8

log = structlog.get_logger("workers.psp")

_read_send = msgspec.json.Decoder(PspTask)
_read_look_up = msgspec.json.Decoder(LookUpTask)


class Desk:
    """What the handlers share in a process: the adapters, and the lane that books."""

    def __init__(self, registry: Registry, settle: "Lane[Settlement, Settled]", pool: Pool) -> None:
        self._registry = registry
        self._settle = settle
        self._pool = pool

    async def send(self, row: outbox.Claimed) -> None:
        """Ask once. A row whose earlier claim vanished may have been sent: it is asked again under the same key, or looked up."""
        task = _read_send.decode(row.payload)
        adapter = self._registry.adapter(task.provider)
        assert_no_transaction()
        if row.past_deadline():
            raise outbox.Postpone(0.0)
        try:
            outcome = await _ask(adapter, task, again=row.maybe_sent)
            await self._book(row, task, outcome, actor=f"provider:{task.provider}")
        except (Unavailable, OperationMissing, outbox.LeaseLost):
            raise
        except BaseException as error:
            # The request is out. An error, or the end of the handler's time, must not count as an ordinary failure, after which
            # it would be sent as if for the first time: the row is left to its lease, and the next claim knows that one vanished.
            log.exception("outcome_not_booked", operation=task.operation_id)
            raise outbox.LeaseLost from error

    async def look_up(self, row: outbox.Claimed) -> None:
        """Ask what became of an operation; where the provider never heard of it, ask again under the same key."""
        task = _read_look_up.decode(row.payload)
        adapter = self._registry.adapter(task.provider)
        assert_no_transaction()
        if row.past_deadline():
            raise outbox.Postpone(0.0)
        asked_at = now()
        found = await adapter.look_up(typeid("op", task.operation_id)) if adapter.capabilities.can_look_up else NotFound()
        if isinstance(found, NotFound):
            # What comes of asking again is an answer like the first; and that nobody knows a closed operation is no news of it.
            await self._book(row, task, await self._not_found(adapter, task), actor=f"look-up:{task.provider}")
        else:
            await self._book(row, task, found, actor=f"look-up:{task.provider}", looked_up_at=asked_at)

    async def exhausted(self, row: outbox.Claimed, error: str) -> None:
        """The provider could not be reached for long. What was certainly never sent is closed; what may have been sent is unknown.

        A row that nobody can read, whose operation is not there, or whose provider nobody has known, was never sent by anybody: it
        becomes a dead letter.
        """
        try:
            task = _read_send.decode(row.payload)
            if not row.maybe_sent:
                # Whoever had the claim that vanished may have known the provider, and asked it.
                self._registry.adapter(task.provider)
        except (msgspec.MsgspecError, UnknownProvider) as unreadable:
            raise outbox.Bury from unreadable
        if row.maybe_sent or not error.startswith(Unavailable.__name__):
            outcome: Outcome = Unknown(why=f"gave up asking: {error[:200]}")
        else:
            outcome = Declined(reason="provider_unavailable", message=reason_of("provider_unavailable").message)
        try:
            await self._book(row, task, outcome, actor="tollgate")
        except OperationMissing as missing:
            raise outbox.Bury from missing

    async def look_up_exhausted(self, row: outbox.Claimed, error: str) -> None:
        """Nobody could be asked now: the operation stays as it is, and the clock asks again later."""
        try:
            task = _read_look_up.decode(row.payload)
            await self._book(row, task, Unknown(why=f"could not be looked up: {error[:200]}"), actor="tollgate")
        except (msgspec.MsgspecError, OperationMissing) as unreadable:
            raise outbox.Bury from unreadable

    async def _not_found(self, adapter: Adapter, task: LookUpTask) -> Outcome:
        async with self._pool.connection() as connection:
            operation = await store.read_operation(connection, task.operation_id)
            payment = await store.read_payment(connection, task.payment_id)
            intent = await store.read_intent(connection, task.payment_intent_id)
        if operation is None or payment is None or intent is None:
            raise LookupError(f"operation {task.operation_id} is not there")
        lifetime = min(KEY_LIFETIME, timedelta(seconds=adapter.capabilities.key_lifetime_seconds))
        if not (operation.is_open and adapter.capabilities.honours_keys and now() < operation.requested_at + lifetime):
            return Unknown(why="the provider does not know the reference (yet)")
        request = psp_request(operation, payment, return_url=browser_url(intent))
        return await adapter.send(msgspec.structs.replace(request, first_attempt=False))

    async def _book(
        self, row: outbox.Claimed, task: PspTask | LookUpTask, outcome: Outcome, *, actor: str, looked_up_at: datetime | None = None
    ) -> None:
        settled = await self._settle.submit(
            Settlement(row=row, task=task, outcome=storable(outcome), actor=actor, looked_up_at=looked_up_at)
        )
        if not settled.held:
            raise outbox.LeaseLost
        if settled.error is not None:
            raise settled.error


async def _ask(adapter: Adapter, task: PspTask, *, again: bool) -> Outcome:
    """Raises Unavailable when nothing was sent. A fault of the adapter itself says nothing about what the provider did."""
    try:
        return await (_again(adapter, task) if again else adapter.send(task.request))
    except Unavailable:
        raise
    except Exception as error:
        log.exception("adapter_failed", psp=task.provider, operation=task.operation_id)
        return Unknown(why=f"the adapter failed: {type(error).__name__}")


async def _again(adapter: Adapter, task: PspTask) -> Outcome:
    request = msgspec.structs.replace(task.request, first_attempt=False)
    # A key that has ended at the provider is a new one there: from then on only a look-up is safe.
    lifetime = min(KEY_LIFETIME, timedelta(seconds=adapter.capabilities.key_lifetime_seconds))
    if adapter.capabilities.honours_keys and task.requested_at is not None and now() < task.requested_at + lifetime:
        return await adapter.send(request)
    if not adapter.capabilities.can_look_up:
        return Unknown(why="an earlier request may have been sent, and the provider cannot be asked")
    found = await adapter.look_up(request.reference)
    return Unknown(why="an earlier request may still be on its way") if isinstance(found, NotFound) else found


@asynccontextmanager
async def open_actors(settings: Settings, waker: Waker) -> AsyncIterator[Sequence[outbox.Actor]]:
    """Everything the handlers need, on the worker's event loop, and the actors that use it."""

    async def batch(connection: Connection, settlements: list[Settlement]) -> Sequence[Settled]:
        answers, queues = await settle_batch(connection, settlements)
        for queue in queues:
            waker.wake(queue)
        return answers

    lane: Lane[Settlement, Settled] = Lane(
        "settle", partial(connect, settings.database_url, role="tollgate_writer", lane=True), batch, keys=touched
    )
    registry = observed(configured(settings))
    try:
        async with open_pool(settings.database_url, role="tollgate_writer", size=2) as pool:
            await lane.start()
            desk = Desk(registry, lane, pool)
            yield (
                outbox.Actor(SEND, desk.send, failures_limit=UNAVAILABLE_TRIES, never_dead_letter=True, on_exhausted=desk.exhausted),
                outbox.Actor(
                    LOOK_UP, desk.look_up, failures_limit=UNAVAILABLE_TRIES, never_dead_letter=True, on_exhausted=desk.look_up_exhausted
                ),
            )
    finally:
        await lane.stop()
        await registry.close()
