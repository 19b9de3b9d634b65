"""The rows that an outcome may move, and the small facts that every kind of move needs of them."""

import re
from datetime import datetime
from typing import Any

import msgspec

from app.core.ids import new_id, typeid
from app.ledger.rules import Event as LedgerEvent
from app.ledger.store import Posting
from app.payments.model import Intent, Operation, Payment, Refund
from app.payments.moves import Moves
from app.payments.store import Event, ExceptionRow
from app.providers.base import Approved, Declined, Outcome
from app.providers.codes import reason_of

# The member of an operation's `outcome` that says that the books hold it in suspense: they hold it there once.
SUSPENSE = "in_suspense"

# What a bigint holds, and with it the columns of exceptions and of the books.
_MOST_MINOR_UNITS = 2**63 - 1


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


def remember(operation: Operation, outcome: Outcome) -> None:
    """The last word on an operation; that money of it stands in suspense outlives every word."""
    kept = {SUSPENSE: True} if SUSPENSE in (operation.outcome or {}) else {}
    operation.outcome = {**told(outcome), **kept}


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


def book_against_suspense(moves: Moves, affected: Affected, kind: str, approved: Approved, *, detail: dict[str, Any]) -> None:
    """What a provider says has happened and no rule of ours admits: an exception, and the money in suspense until it is resolved.

    The caller writes the operation. An amount or currency that no book can hold is no reason to forget it: the exception is of what
    was asked then, and names in its detail what was told.
    """
    operation = affected.operation
    bookable = 0 < approved.amount <= _MOST_MINOR_UNITS and re.fullmatch("[A-Z]{3}", approved.currency) is not None
    amount, currency = (approved.amount, approved.currency) if bookable else (operation.amount, operation.currency)
    open_exception(moves, affected, kind, amount=amount, currency=currency, detail={**detail, "told": told(approved)})
    # An authorization holds money and moves none; a void gives some back that was never taken.
    if bookable and operation.type not in ("void", "authorize") and SUSPENSE not in (operation.outcome or {}):
        operation.outcome = {**(operation.outcome or {}), SUSPENSE: True}
        event: LedgerEvent = "suspense_returned" if operation.type == "refund" else "suspense_received"
        post(moves, affected, event, amount=amount, currency=currency)


def unwanted(intent: Intent) -> bool:
    """Canceled or expired, or about to be: money that comes all the same has to go back."""
    return intent.cancel_requested is not None or intent.status in ("canceled", "expired")
