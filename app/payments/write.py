"""Moves to rows: each capability contributes its own statement to the transaction of the caller."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

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


class Sent(NamedTuple):
    """What was sent and not answered yet; its queues are known when the pipeline has ended."""

    rows: frozenset[str]
    fanned: AsyncCursor[tuple[Any, ...]] | None

    def queues(self) -> frozenset[str]:
        """The queues that have to be woken once it has been committed."""
        return self.rows | {WEBHOOKS} if self.fanned is not None and self.fanned.rowcount else self.rows


async def send(connection: Connection, moves: Moves) -> Sent:
    """Each capability's statement: births and moves with their events, ledger, webhooks, outbox.

    For a caller in pipeline mode, who sends COMMIT behind it: a statement that is refused aborts the transaction, and that with it.
    """
    for parts in _statements(moves):
        await store.write_rows(connection, parts)
    await store.open_exceptions(connection, moves.exceptions)
    await store.look_up_charges(connection, moves.charges_to_look_up, at=moves.now)
    await post(connection, moves.postings)
    fanned = await fan_out(connection, moves.announcements) if moves.announcements else None
    await outbox.write(connection, moves.outbox)
    return Sent(frozenset(row.queue for row in moves.outbox), fanned)


async def write(connection: Connection, moves: Moves) -> frozenset[str]:
    """As `send`; when it returns all statements have been answered. Returns the queues to wake after the commit."""
    async with connection.pipeline():
        sent = await send(connection, moves)
    return sent.queues()


def _statements(moves: Moves) -> list[list[store.Part]]:
    """An UPDATE moves a row once, so the second move of a row goes with a second statement; each event goes with its move.

    What is opened by moves (operations, refunds) comes with the last of them: then what was closed before is closed, and what has to
    be reserved is reserved.
    """
    payments, intents, refunds = _steps(moves.payments), _steps(moves.intents), _steps(moves.refunds)
    statements: list[list[store.Part]] = []
    # One statement more where an operation closes while another opens: one open operation per payment is allowed.
    count = max(len(payments), len(intents), len(refunds), 2 if moves.operations and moves.new_operations else 1)
    for step in range(count):
        first, last = step == 0, step == count - 1
        told: list[tuple[str, Sequence[Versioned]]] = [
            (store.INSERT_INTENTS, moves.new_intents if first else []),
            (store.INSERT_PAYMENTS, moves.new_payments if first else []),
            (store.INSERT_REFUNDS, moves.new_refunds if last else []),
            (store.MOVE_PAYMENTS, payments[step] if step < len(payments) else []),
            (store.MOVE_INTENTS, intents[step] if step < len(intents) else []),
            (store.MOVE_REFUNDS, refunds[step] if step < len(refunds) else []),
        ]
        statements.append(
            [
                (store.INSERT_EVENTS, moves.events if count == 1 else _events_of(moves, told)),
                (store.MOVE_OPERATIONS, moves.operations if first else []),
                *told,
                (store.INSERT_OPERATIONS, moves.new_operations if last else []),
            ]
        )
    return statements


def _events_of(moves: Moves, told: Sequence[tuple[str, Sequence[Versioned]]]) -> list[store.Event]:
    ids = {row.last_event_id for _, rows in told for row in rows}
    return [event for event in moves.events if event.id in ids]


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
