"""Moves to rows: each capability contributes its own statement to the transaction of the caller."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.ledger.store import post
from app.payments import store
from app.payments.model import Intent, Payment, Refund
from app.payments.moves import Moves
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from app.webhooks.fan_out import fan_out

V = TypeVar("V", Intent, Payment, Refund)


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
    """Each capability's statement: births and moves with their events, ledger, webhooks, outbox.

    The statements travel together, and when it returns all of them have been answered. Returns the queues that have to be woken
    once this has been committed.
    """
    payments, intents, refunds = _steps(moves.payments), _steps(moves.intents), _steps(moves.refunds)
    async with connection.pipeline() as pipeline:
        await store.write_rows(
            connection,
            (
                (store.INSERT_EVENTS, moves.events),
                (store.INSERT_INTENTS, moves.new_intents),
                (store.INSERT_PAYMENTS, moves.new_payments),
                (store.INSERT_REFUNDS, moves.new_refunds),
                (store.MOVE_OPERATIONS, moves.operations),
                # The one that opens after another has closed waits for the next statement, for the index that allows one open.
                (store.INSERT_OPERATIONS, [] if moves.operations else moves.new_operations),
                *((store.MOVE_PAYMENTS, step) for step in payments[:1]),
                *((store.MOVE_INTENTS, step) for step in intents[:1]),
                *((store.MOVE_REFUNDS, step) for step in refunds[:1]),
            ),
        )
        await store.write_rows(connection, ((store.INSERT_OPERATIONS, moves.new_operations if moves.operations else []),))
        for statement, steps in ((store.MOVE_PAYMENTS, payments), (store.MOVE_INTENTS, intents), (store.MOVE_REFUNDS, refunds)):
            for step in steps[1:]:
                await store.write_rows(connection, ((statement, step),))
        await store.open_exceptions(connection, moves.exceptions)
        await post(connection, moves.postings)
        fanned = await fan_out(connection, moves.announcements) if moves.announcements else None
        await outbox.write(connection, moves.outbox)
        await pipeline.sync()
    queues = {row.queue for row in moves.outbox}
    if fanned is not None and fanned.rowcount:
        queues.add(WEBHOOKS)
    return frozenset(queues)


def _steps(rows: Iterable[V]) -> list[list[V]]:
    """An UPDATE moves a row once, so the second move of a row goes with a statement of its own."""
    steps: dict[Id, int] = defaultdict(int)
    sorted_out: list[list[V]] = []
    for row in rows:
        step = steps[row.id]
        steps[row.id] += 1
        if step == len(sorted_out):
            sorted_out.append([])
        sorted_out[step].append(row)
    return sorted_out
