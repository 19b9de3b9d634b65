"""What arrives after an operation was closed: nothing new, or a truth that no edge admits and that is booked all the same."""

from app.core.ids import new_id, typeid
from app.payments.affected import Affected, answer, failure_of, post, refund_of, told
from app.payments.model import PAYMENT, REFUND, status_after_refunds
from app.payments.moves import Moves, move_operation, record, show_closed
from app.payments.store import ExceptionRow
from app.providers.base import Approved, Declined, Outcome

# The member of an operation's `outcome` that holds what was told after it had been closed.
LATE = "late"


def apply_late(moves: Moves, affected: Affected, outcome: Outcome) -> bool:
    """The operation is closed. The same again changes nothing; a success after a failure, or a refund taken back, is booked."""
    operation = affected.operation
    if isinstance(outcome, Approved) and operation.status in ("declined", "failed"):
        if LATE in (operation.outcome or {}):
            return False
        _book_exception(moves, affected, outcome)
        return True
    if isinstance(outcome, Declined) and operation.type == "refund" and operation.status == "succeeded":
        _refund_came_back(moves, affected, outcome)
        return True
    return False


def _book_exception(moves: Moves, affected: Affected, approved: Approved) -> None:
    operation = affected.operation
    # A look-up and a callback bring the same truth: beside the answer that closed it, the operation remembers the one that came late.
    operation.outcome = {**(operation.outcome or {}), LATE: told(approved)}
    moves.operations.append(operation)
    moves.exceptions.append(
        ExceptionRow(
            id=new_id(),
            merchant_id=operation.merchant_id,
            livemode=operation.livemode,
            payment_id=operation.payment_id,
            operation_id=operation.id,
            kind=f"late_{operation.type}",
            amount=approved.amount,
            currency=approved.currency,
            detail={"operation": typeid("op", operation.id), "was": operation.status, "told": told(approved)},
            opened_at=moves.now,
        )
    )
    # An authorization that came late holds money and moves none; a void gives some back that was never taken.
    if operation.type not in ("void", "authorize"):
        post(moves, affected, "suspense_returned" if operation.type == "refund" else "suspense_received", amount=approved.amount)


def _refund_came_back(moves: Moves, affected: Affected, declined: Declined) -> None:
    operation, payment, refund = affected.operation, affected.payment, refund_of(affected)
    failure = failure_of(declined)
    move_operation(moves, operation, "reversed", "failed")
    operation.outcome = told(declined)
    refund.failure = failure
    payment.amount_refunded -= refund.amount
    show_closed(payment, operation, failure)
    target = status_after_refunds(payment, amount_refunded=payment.amount_refunded)
    if target in PAYMENT.targets("refund_failed", payment.status):
        record(moves, PAYMENT, payment, "refund_failed", target, operation_id=operation.id)
    else:
        record(moves, PAYMENT, payment, "operation_closed", payment.status, operation_id=operation.id)
    post(moves, affected, "refund_reversed", amount=refund.amount)
    answer(operation, record(moves, REFUND, refund, "failed", "failed", operation_id=operation.id))
