"""The batch that books outcomes: hold the outbox rows, lock the payments, decide, write, settle; one transaction."""

from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime

import msgspec

import outbox
from app.core.clock import now
from app.infra.db import Connection
from app.payments.affected import Affected
from app.payments.locks import Locked, read_locked, settlement_locks
from app.payments.moves import LookUpTask, Moves, PspTask
from app.payments.outcome import apply
from app.payments.store import Part, fused
from app.payments.write import merged, writing
from app.providers.base import Outcome
from outbox import Claimed
from outbox.round_trip import BEGIN, COMMIT, ROLLBACK, Statement, round_trip
from outbox.wake import notification

# Here it is said which operations have moved.
DONE = "operations.done"


class Settlement(msgspec.Struct):
    """An outcome and the outbox row under which it was brought; `actor` says by whom: the provider's answer, a look-up, a callback."""

    row: Claimed
    task: PspTask | LookUpTask
    outcome: Outcome
    actor: str
    # When a look-up was sent; None for an answer to the request itself, which may be the repeat of an old one.
    looked_up_at: datetime | None = None


class Settled(msgspec.Struct):
    """`held` is false when the lease was lost and nothing of this row was written. `error` leaves the row to be failed."""

    held: bool
    moved: bool = False
    error: Exception | None = None


class OperationMissing(LookupError):
    """The outbox row speaks of an operation, payment or intent that is not there."""


def touched(settlement: Settlement) -> Iterable[Hashable]:
    task = settlement.task
    return (task.payment_id, task.payment_intent_id, settlement.row.id)


async def settle_batch(connection: Connection, settlements: list[Settlement]) -> tuple[Sequence[Settled], frozenset[str]]:
    """The answers in the order of `settlements`, and the queues that are still to be woken now that it is committed."""
    locks = locks_of([one.row for one in settlements], [one.task for one in settlements])
    _, rows = await round_trip(connection, BEGIN, locks)
    answers, decided = _decide(settlements, read_locked(rows))
    done = [one.row for one, answer in zip(settlements, answers, strict=True) if answer.held and answer.error is None]
    if not done:
        await round_trip(connection, ROLLBACK)
        return answers, frozenset()
    settled = Part(outbox.SETTLED, outbox.tokens(done), len(done))
    # The payer waits, so who answers is told with the commit.
    answered = [one.task.operation_id for one, answer in zip(settlements, answers, strict=True) if answer.held and answer.error is None]
    told = notification(DONE, answered)
    if not decided:
        await round_trip(connection, fused([settled]), COMMIT, told)
        return answers, frozenset()
    written = writing(merged(decided), also=[settled])
    return answers, written.webhooks(await round_trip(connection, *written.statements, COMMIT, told, *written.told()))


def locks_of(rows: Sequence[Claimed], tasks: Sequence[PspTask | LookUpTask]) -> Statement:
    """The outbox rows, then what their tasks are about."""
    return settlement_locks(
        rows,
        payment_ids=[task.payment_id for task in tasks],
        intent_ids=[task.payment_intent_id for task in tasks],
        operation_ids=[task.operation_id for task in tasks],
        refund_ids=[task.refund_id for task in tasks if task.refund_id is not None],
    )


def _decide(settlements: Sequence[Settlement], locked: Locked) -> tuple[list[Settled], list[Moves]]:
    answers: list[Settled] = []
    decided: list[Moves] = []
    for one in settlements:
        if one.row.id not in locked.held:
            answers.append(Settled(held=False))
            continue
        moves = Moves(now=now(), actor=one.actor, traceparent=one.row.traceparent)
        try:
            moved = apply(moves, _affected(one, locked), one.outcome)
        except Exception as error:  # noqa: BLE001 - one row that cannot be booked must not keep its neighbours from being
            answers.append(Settled(held=True, error=error))
            continue
        if moved:
            decided.append(moves)
        answers.append(Settled(held=True, moved=moved))
    return answers, decided


def _affected(one: Settlement, locked: Locked) -> Affected:
    task = one.task
    operation = locked.operations.get(task.operation_id)
    payment = locked.payments.get(task.payment_id)
    intent = locked.intents.get(task.payment_intent_id)
    if operation is None or payment is None or intent is None:
        raise OperationMissing(f"operation {task.operation_id} or its payment or intent does not exist")
    return Affected(
        operation=operation,
        payment=payment,
        intent=intent,
        refund=locked.refunds.get(task.refund_id or ""),
        asked_at=one.looked_up_at or operation.requested_at,
        looked_up=one.looked_up_at is not None,
    )
