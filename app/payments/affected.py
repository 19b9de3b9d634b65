"""The rows that an outcome may move, and the small facts that every kind of move needs of them."""

from typing import Any

import msgspec

from app.ledger.rules import Event as LedgerEvent
from app.ledger.store import Posting
from app.payments.model import Intent, Operation, Payment, Refund
from app.payments.moves import Moves
from app.payments.store import Event
from app.providers.base import Declined, Outcome
from app.providers.codes import reason_of


class Affected(msgspec.Struct):
    """The rows an outcome may move, all locked by the caller."""

    operation: Operation
    payment: Payment
    intent: Intent
    refund: Refund | None


def failure_of(declined: Declined) -> dict[str, Any]:
    """The `failure` that payments, refunds and intents carry."""
    code = "authentication_failed" if declined.reason == "authentication_failed" else "payment_declined"
    return {"code": code, "decline_code": declined.reason, "message": declined.message, "retryable": reason_of(declined.reason).retryable}


def answer(operation: Operation, event: Event | None) -> None:
    """The event from which a repeat of the request is answered."""
    if event is not None:
        operation.answer_event_id = event.id


def refund_of(affected: Affected) -> Refund:
    if affected.refund is None:
        raise AssertionError(f"refund operation {affected.operation.id} came without its refund")
    return affected.refund


def post(moves: Moves, affected: Affected, event: LedgerEvent, *, amount: int = 0, fee: int = 0, hold: int = 0) -> None:
    """Book a fact under the operation that made it, in the operation's currency."""
    operation = affected.operation
    moves.postings.append(
        Posting(
            event=event,
            merchant_id=operation.merchant_id,
            livemode=operation.livemode,
            payment_id=operation.payment_id,
            reference_id=operation.id,
            currency=operation.currency,
            booked_at=moves.now,
            amount=amount,
            fee=fee,
            hold=hold,
        )
    )


def told(outcome: Outcome) -> dict[str, Any]:
    return {"outcome": type(outcome).__name__.lower(), **msgspec.to_builtins(outcome)}
