"""Endpoints through the actions, events through the payments' own statement, deliveries through the worker's actors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import psycopg

import outbox
from app.core.clock import now
from app.core.ids import Id, new_id, typeid
from app.infra.db import Connection, Pool, tenant
from app.payments.model import Payment
from app.payments.store import INSERT_EVENTS, INSERT_PAYMENTS, fused, part
from app.payments.store import Event as EventRow
from app.webhooks import actions
from app.webhooks.actions import Asker
from app.webhooks.deliveries import emit_due
from app.webhooks.fan_out import QUEUE, announcement, fan_out
from app.webhooks.model import Endpoint
from outbox.wake import Waker
from workers import webhooks

MERCHANT = "0190a5dac0007000800000000000000a"
OTHER_MERCHANT = "0190a5dac0007000800000000000000b"
SERVER_KEY = b"a server key for tests, 32 bytes"


def asker(merchant_id: Id = MERCHANT, *, livemode: bool = False, at: datetime | None = None) -> Asker:
    return Asker(merchant_id, livemode, "key:test", at or now())


async def endpoint(
    pool: Pool, url: str, *enabled_events: str, merchant_id: Id = MERCHANT, livemode: bool = False, at: datetime | None = None
) -> Endpoint:
    async with tenant(pool, merchant_id=merchant_id, livemode=livemode) as connection:
        return await actions.create(
            connection,
            asker(merchant_id, livemode=livemode, at=at),
            url=url,
            enabled_events=enabled_events or ["*"],
            description=None,
            metadata={},
            allow_loopback=True,
        )


async def change(pool: Pool, endpoint_id: Id, **wish: Any) -> Endpoint:
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        return await actions.update(
            connection, asker(), endpoint_id, actions.Wish(**wish), require_version=lambda _: None, allow_loopback=True
        )


def event_row(
    event: str = "created", *, merchant_id: Id = MERCHANT, livemode: bool = False, data: Any = None, at: datetime | None = None
) -> EventRow:
    """A payment's first event, which every payment has; the object's data is whatever the test needs."""
    payment_id = new_id()
    shown = data if data is not None else {"id": typeid("pay", payment_id), "object": "payment", "amount": 2599, "version": 1}
    return EventRow(
        id=new_id(),
        merchant_id=merchant_id,
        livemode=livemode,
        object_type="payment",
        object_id=payment_id,
        sequence=1,
        event=event,
        from_status="none",
        to_status="pending_auth",
        announced=True,
        payment_id=payment_id,
        operation_id=None,
        actor="test",
        detail=None,
        data=msgspec.Raw(msgspec.json.encode(shown)),
        occurred_at=at or now(),
    )


async def announce(writer: Connection, *rows: EventRow, traceparent: str | None = None) -> list[EventRow]:
    """As a settlement does it: events and fan-out in one transaction."""
    written = list(rows) or [event_row()]
    async with writer.transaction():
        await writer.execute(*fused([part(INSERT_EVENTS, written), part(INSERT_PAYMENTS, [_told_of(one) for one in written])]))
        await fan_out(
            writer,
            [
                announcement(
                    event_id=one.id,
                    merchant_id=one.merchant_id,
                    livemode=one.livemode,
                    object_type=one.object_type,
                    event=one.event,
                    traceparent=traceparent,
                )
                for one in written
            ],
        )
    return written


def _told_of(event: EventRow) -> Payment:
    """An event comes in the statement that makes or moves its object."""
    nothing: dict[str, Any] = dict.fromkeys(Payment.__struct_fields__)
    amounts = dict.fromkeys(("amount_captured", "amount_refunded", "refund_reserved", "amount_disputed", "fee"), 0)
    return Payment(
        **nothing
        | amounts
        | {name: getattr(event, name) for name in ("merchant_id", "livemode")}
        | {"id": event.object_id, "payment_intent_id": new_id(), "amount": 2599, "currency": "EUR", "capture_method": "automatic"}
        | {"status": event.to_status, "version": event.sequence, "last_event_id": event.id, "provider": "sandbox"}
        | {"payment_method": {}, "metadata": {}, "created_at": event.occurred_at, "updated_at": event.occurred_at}
    )


async def waiting(writer: Connection) -> list[tuple[str, str]]:
    """(event, endpoint) of every row in the outbox, oldest first."""
    cursor = await writer.execute("SELECT encode(uuid_send(subject), 'hex'), lane FROM outbox ORDER BY id")
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def log_of(writer: Connection, *columns: str) -> list[Any]:
    """Columns of the delivery log, by event; the bare value for a single one."""
    cursor = await writer.execute(f"SELECT {', '.join(columns)} FROM webhook_deliveries ORDER BY id")
    rows = await cursor.fetchall()
    return [row[0] for row in rows] if len(columns) == 1 else rows


class Deliveries:
    """The worker's actors, run over what is due until nothing is."""

    def __init__(self, writer: Connection, actors: Sequence[outbox.Actor]) -> None:
        self.writer = writer
        self.actors = {actor.name: actor.run for actor in actors}
        self.errors: list[BaseException] = []

    async def run(self) -> int:
        """How many rows were handled."""
        handled = 0
        while rows := await outbox.claim(self.writer, QUEUE, limit=100, lease_seconds=60):
            results = await asyncio.gather(*(self.actors[row.actor](row) for row in rows), return_exceptions=True)
            for row, result in zip(rows, results, strict=True):
                if isinstance(result, outbox.Postpone):
                    await outbox.defer(self.writer, [row], result.seconds)
                elif result is not None:
                    self.errors.append(result)
                    await outbox.fail(self.writer, [outbox.Failed(row, outbox.error_text(result), 60.0)])
            handled += len(rows)
        return handled

    async def retry(self, at: datetime) -> int:
        """What the clock does at that moment, and then the worker."""
        await emit_due(self.writer, now=at, limit=1000)
        return await self.run()


@asynccontextmanager
async def opened(
    database: str, writer: Connection, *, timeout_seconds: float = 2.0, allow_loopback: bool = True
) -> AsyncIterator[Deliveries]:
    async with (
        Waker(database) as waker,
        webhooks.open_actors(
            database, waker, server_key=SERVER_KEY, allow_loopback=allow_loopback, timeout_seconds=timeout_seconds
        ) as actors,
    ):
        yield Deliveries(writer, actors)


async def owner(database: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(database, autocommit=True)
