"""Moves to rows: each capability contributes its own statement to the transaction of the caller."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import AsyncCursor

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.ledger.store import post
from app.payments import store
from app.payments.model import Intent, Payment, Refund
from app.payments.moves import Moves
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from app.webhooks.fan_out import fan_out

Versioned = Intent | Payment | Refund


def merged(parts: Sequence[Moves]) -> Moves:
    """The moves of a batch as one; each part has decided for itself."""
    whole = Moves(now=parts[0].now, actor=parts[0].actor)
    for part in parts:
        for name in _LISTS:
            rows = getattr(part, name)
            if rows:
                getattr(whole, name).extend(rows)
    return whole


_LISTS = tuple(field for field in Moves.__struct_fields__ if field not in ("now", "actor", "traceparent"))


async def write(connection: Connection, moves: Moves) -> frozenset[str]:
    """Sends everything in the order that triggers and locks ask for: events, births, moves, ledger, webhooks, outbox.

    The statements travel together; before it returns all their answers have been checked. Returns the queues that have to be
    woken once this has been committed. Raises MoveLost.
    """
    sent: list[tuple[AsyncCursor[Any], Sequence[msgspec.Struct]]] = []

    async def send(statement: str, rows: Sequence[msgspec.Struct]) -> None:
        if rows:
            sent.append((await store.execute_rows(connection, statement, rows), rows))

    async with connection.pipeline() as pipeline:
        await send(store.INSERT_EVENTS, moves.events)
        await send(store.INSERT_INTENTS, moves.new_intents)
        await send(store.INSERT_PAYMENTS, moves.new_payments)
        await send(store.INSERT_REFUNDS, moves.new_refunds)
        await send(store.MOVE_OPERATIONS, moves.operations)
        await send(store.INSERT_OPERATIONS, moves.new_operations)
        for payments in _steps(moves.payments):
            await send(store.MOVE_PAYMENTS, payments)
        for intents in _steps(moves.intents):
            await send(store.MOVE_INTENTS, intents)
        for refunds in _steps(moves.refunds):
            await send(store.MOVE_REFUNDS, refunds)
        if moves.exceptions:
            await store.execute_rows(connection, store.INSERT_EXCEPTIONS, moves.exceptions)
        await post(connection, moves.postings)
        fanned = await fan_out(connection, moves.announcements) if moves.announcements else None
        await outbox.write(connection, moves.outbox)
        await pipeline.sync()
    for cursor, rows in sent:
        store.require_moved(cursor, rows)
    queues = {row.queue for row in moves.outbox}
    if fanned is not None and fanned.rowcount:
        queues.add(WEBHOOKS)
    return frozenset(queues)


def _steps(rows: Iterable[Versioned]) -> list[list[Versioned]]:
    """An UPDATE moves a row once, so the second move of a row goes with a statement of its own."""
    steps: dict[Id, int] = defaultdict(int)
    sorted_out: list[list[Versioned]] = []
    for row in rows:
        step = steps[row.id]
        steps[row.id] += 1
        if step == len(sorted_out):
            sorted_out.append([])
        sorted_out[step].append(row)
    return sorted_out
