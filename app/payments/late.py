"""What arrives after an operation was closed: nothing new, or a truth that no edge admits and that is booked all the same."""

from app.payments.affected import Affected, answer, book_against_suspense, failure_of, open_exception, post, refund_of, remember, told
from app.payments.model import PAYMENT, REFUND, status_after_refunds
from app.payments.moves import COMPENSATION, Moves, move_operation, record, schedule_look_up, show_closed
from app.providers.base import CHARGE_TYPES, Approved, Declined, Outcome, Unknown

# The member of an operation's `outcome` that holds what was told after it had been closed.
LATE = "late"


def apply_late(moves: Moves, affected: Affected, outcome: Outcome) -> bool:
    """The operation is closed. The same again changes nothing; a success after a failure, or a refund taken back, is booked.

    Only from an answer that is younger than the closing: a provider that honours keys repeats its first answer to whoever sends
    again, and a look-up may have been overtaken. Whatever contradicts and may be old is looked up afresh.
    """
    operation = affected.operation
    news = (isinstance(outcome, Approved) and operation.status in ("declined", "failed")) or (
        isinstance(outcome, Declined) and operation.type == "refund" and operation.status == "succeeded"
    )
    # What was given up is being voided: how that ends decides what this means.
    too_early = news and operation.type in CHARGE_TYPES and affected.payment.status == "pending_auth"
    if (isinstance(outcome, Unknown) and affected.looked_up) or too_early or (news and not is_younger(affected)):
        schedule_look_up(moves, operation)
        return True
    if not news or LATE in (operation.outcome or {}):
        return False
    if isinstance(outcome, Approved):
        _book_exception(moves, affected, outcome)
    elif isinstance(outcome, Declined):
        _refund_came_back(moves, affected, outcome)
    return True


def is_younger(affected: Affected) -> bool:
    """Than what closed the operation."""
    closed_at, asked_at = affected.operation.closed_at, affected.asked_at
    return asked_at is None or closed_at is None or asked_at > closed_at


def _book_exception(moves: Moves, affected: Affected, approved: Approved) -> None:
    operation = affected.operation
    # A look-up and a callback bring the same truth: beside the answer that closed it, the operation remembers the one that came late.
    operation.outcome = {**(operation.outcome or {}), LATE: told(approved)}
    moves.operations.append(operation)
    book_against_suspense(moves, affected, f"late_{operation.type}", approved, detail={"was": operation.status})


def _refund_came_back(moves: Moves, affected: Affected, declined: Declined) -> None:
    operation, payment, refund = affected.operation, affected.payment, refund_of(affected)
    failure = failure_of(declined)
    move_operation(moves, operation, "reversed", "failed")
    remember(operation, declined)
    refund.failure = failure
    payment.amount_refunded -= refund.amount
    show_closed(payment, operation, failure)
    target = status_after_refunds(payment, amount_refunded=payment.amount_refunded)
    if target in PAYMENT.targets("refund_failed", payment.status):
        record(moves, PAYMENT, payment, "refund_failed", target, operation_id=operation.id)
    else:
        record(moves, PAYMENT, payment, "operation_closed", payment.status, operation_id=operation.id)
    post(moves, affected, "refund_reversed", amount=refund.amount)
    # The request was answered when the refund had succeeded, and its repeat still is: what came later is told by this event.
    failed = record(moves, REFUND, refund, "failed", "failed", operation_id=operation.id)
    if operation.answer_event_id is None:
        answer(operation, failed)
    if operation.purpose == COMPENSATION:
        open_exception(moves, affected, "compensation_refused", amount=refund.amount, currency=refund.currency, detail={"failure": failure})
