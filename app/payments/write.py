"""Moves to rows: each capability contributes its own statement to the transaction of the caller."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

import outbox
from app.core.ids import Id
from app.infra.db import Connection
from app.ledger.store import INSERT_ENTRIES, INSERT_TRANSACTIONS, booked_rows
from app.payments import store
from app.payments.model import Intent, Payment, Refund
from app.payments.moves import Moves
from app.payments.store import Part
from app.webhooks import fan_out
from app.webhooks.fan_out import QUEUE as WEBHOOKS
from outbox.round_trip import Statement
from outbox.wake import channel_of, notification

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


class Writing(NamedTuple):
    """The statements that write some moves, and what their answers will say."""

    statements: list[Statement]
    rows: frozenset[str]
    # Which of the statements says how many webhooks there are to deliver.
    fanned: int | None

    def told(self) -> list[Statement]:
        """Wakes the queues of `rows`, for a batch that sends it behind its COMMIT."""
        return [notification(channel_of(queue), [""]) for queue in sorted(self.rows)]

    def webhooks(self, answers: Sequence[Sequence[Sequence[Any]]]) -> frozenset[str]:
        """The queue of webhooks when there are any; `answers` are the rows of `statements`, in order."""
        return frozenset({WEBHOOKS}) if self.fanned is not None and int(answers[self.fanned][0][1]) else frozenset()


def writing(moves: Moves, *, also: Sequence[Part] = ()) -> Writing:
    """Births and moves with their events, ledger, webhooks and outbox as one statement, `also` with it; more where a row moves twice."""
    *before, last = _statements(moves)
    statements = [store.fused(parts) for parts in before]
    last = [*last, *_consequences(moves), *also]
    fanned = len(statements) if moves.announcements else None
    if last:
        statements.append(store.fused(last))
    if moves.exceptions:
        statements.append(store.exceptions_opened(moves.exceptions))
    if moves.charges_to_look_up:
        statements.append(store.charges_looked_up(moves.charges_to_look_up, at=moves.now))
    return Writing(statements, frozenset(row.queue for row in moves.outbox), fanned)


async def write(connection: Connection, moves: Moves, *, also: Sequence[Part] = ()) -> frozenset[str]:
    """In a transaction of the driver's. Returns the queues to wake after the commit."""
    written = writing(moves, also=also)
    async with connection.pipeline():
        cursors = [await connection.execute(text, parameters, prepare=True) for text, parameters in written.statements]
    return written.rows | written.webhooks([await cursor.fetchall() if cursor.description else [] for cursor in cursors])


def _consequences(moves: Moves) -> list[Part]:
    parts: list[Part] = []
    if moves.postings:
        transactions, entries = booked_rows(moves.postings)
        parts += [store.part(INSERT_TRANSACTIONS, transactions), store.part(INSERT_ENTRIES, entries)]
    if moves.announcements:
        parts.append(Part(fan_out.FAN_OUT, (fan_out.encoded(moves.announcements),), None))
    if moves.outbox:
        parts.append(Part(outbox.WRITE, (outbox.encoded(moves.outbox),), len(moves.outbox)))
    return parts


def _statements(moves: Moves) -> list[list[Part]]:
    """An UPDATE moves a row once, so the second move of a row goes with a second statement; each event goes with its move.

    What is opened by moves (operations, refunds) comes with the last of them: then what was closed before is closed, and what has to
    be reserved is reserved.
    """
    payments, intents, refunds = _steps(moves.payments), _steps(moves.intents), _steps(moves.refunds)
    statements: list[list[Part]] = []
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
        rows: list[tuple[str, Sequence[msgspec.Struct]]] = [
            (store.INSERT_EVENTS, moves.events if count == 1 else _events_of(moves, told)),
            (store.MOVE_OPERATIONS, moves.operations if first else []),
            *told,
            (store.INSERT_OPERATIONS, moves.new_operations if last else []),
        ]
        statements.append([store.part(text, given) for text, given in rows if given])
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
