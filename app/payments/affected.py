"""The rows that an outcome may move, and the small facts that every kind of move needs of them."""

from datetime import datetime
from typing import Any

import msgspec

from app.core.ids import new_id, typeid
from app.ledger.rules import Event as LedgerEvent
from app.ledger.store import Posting
from app.payments.model import Intent, Operation, Payment, Refund
from app.payments.moves import Moves
from app.payments.store import Event, ExceptionRow
from app.providers.base import Declined, Outcome
from app.providers.codes import reason_of


class Affected(msgspec.Struct):
    """The rows an outcome may move, all locked by the caller.

    `asked_at` is when the provider was asked for it: an answer that is older than what closed the operation says nothing new.
    None: the teller knows how it stands now.
    """

    operation: Operation
    payment: Payment
    intent: Intent
    refund: Refund | None
    asked_at: datetime | None = None
    looked_up: bool = False


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


def post(moves: Moves, affected: Affected, event: LedgerEvent, *, amount: int = 0, fee: int = 0, hold: int = 0, currency: str = "") -> None:
    """Book a fact under the operation that made it, in the operation's currency unless the provider named another."""
    operation = affected.operation
    moves.postings.append(
        Posting(
            event=event,
            merchant_id=operation.merchant_id,
            livemode=operation.livemode,
            payment_id=operation.payment_id,
            reference_id=operation.id,
            currency=currency or operation.currency,
            booked_at=moves.now,
            amount=amount,
            fee=fee,
            hold=hold,
        )
    )


def told(outcome: Outcome) -> dict[str, Any]:
    return {"outcome": type(outcome).__name__.lower(), **msgspec.to_builtins(outcome)}


def open_exception(moves: Moves, affected: Affected, kind: str, *, amount: int, currency: str, detail: dict[str, Any]) -> None:
    """Something that happened and that no rule of ours admits: somebody has to look at it. Once per operation and kind."""
    operation = affected.operation
    moves.exceptions.append(
        ExceptionRow(
            id=new_id(),
            merchant_id=operation.merchant_id,
            livemode=operation.livemode,
            payment_id=operation.payment_id,
            operation_id=operation.id,
            kind=kind,
            amount=amount,
            currency=currency,
            detail={"operation": typeid("op", operation.id), **detail},
            opened_at=moves.now,
        )
    )


def unwanted(intent: Intent) -> bool:
    """Canceled or expired, or about to be: money that comes all the same has to go back."""
    return intent.cancel_requested is not None or intent.status in ("canceled", "expired")
