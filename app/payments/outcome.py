"""What an answer means: the one place that decides how a payment moves, whoever brought the answer.

A PSP's answer, a look-up, a callback, a settlement line and an operator all come here. Limits bind requests, never facts: what
a PSP says happened is booked even when no edge admits it.
"""

from datetime import timedelta
from typing import Any, assert_never

import msgspec

from app.core.ids import typeid
from app.ledger import rules
from app.payments.affected import (
    Affected,
    answer,
    book_against_suspense,
    failure_of,
    open_exception,
    post,
    refund_of,
    remember,
    unwanted,
)
from app.payments.late import apply_late, is_younger
from app.payments.model import (
    AUTHORIZATION_LIFETIME,
    INTENT,
    INTENT_GRACE,
    PAYMENT,
    REFUND,
    Intent,
    Operation,
    status_after_refunds,
)
from app.payments.moves import (
    COMPENSATION,
    Moves,
    call_off,
    move_operation,
    open_operation,
    open_refund,
    record,
    schedule_look_up,
    show_closed,
)
from app.payments.store import Event
from app.providers.base import CHARGE_TYPES, ActionRequired, Approved, Declined, Outcome, Pending, Unknown

# The purpose of a void that calls off a challenge for which the payer never came back.
INTENT_EXPIRED = "intent_expired"


def apply(moves: Moves, affected: Affected, outcome: Outcome) -> bool:
    """Move everything that follows from `outcome`; False when it had been applied already and nothing moved."""
    operation = affected.operation
    if isinstance(outcome, Approved) and not _is_what_was_asked(operation, outcome):
        outcome = _other_amount(moves, affected, outcome)
    if not operation.is_open and not _is_found(affected, outcome):
        return apply_late(moves, affected, outcome)
    remember(operation, outcome)
    match outcome:
        case Approved():
            operation.provider_ref = outcome.provider_ref
            _approved(moves, affected, outcome)
        case Declined():
            _declined(moves, affected, outcome)
        case ActionRequired():
            _action_required(moves, affected, outcome)
        case Pending():
            _wait_for_later(moves, affected, provider_ref=outcome.provider_ref)
        case Unknown():
            _unknown(moves, affected)
        case _:
            assert_never(outcome)
    return True


def _is_what_was_asked(operation: Operation, approved: Approved) -> bool:
    # A void is always of the whole authorization, whatever amount a provider names with it.
    return operation.type == "void" or (approved.amount, approved.currency) == (operation.amount, operation.currency)


def _is_found(affected: Affected, outcome: Outcome) -> bool:
    """A charge that was given up went through, and its payment still waits: it is booked as if it had never been given up."""
    operation = affected.operation
    charged = isinstance(outcome, Approved) and operation.type in CHARGE_TYPES and operation.status in ("failed", "declined")
    return charged and affected.payment.status == "pending_auth" and affected.payment.pending_operation is None and is_younger(affected)


def _other_amount(moves: Moves, affected: Affected, approved: Approved) -> Unknown:
    """What an answer echoes may be garbled, so it is looked up; what a look-up finds has happened, and somebody has to see it."""
    operation = affected.operation
    told_of = f"{approved.amount} {approved.currency}"
    first = "other_amount" not in (operation.outcome or {}).get("why", "")
    if affected.looked_up and first:
        book_against_suspense(moves, affected, "other_amount", approved, detail={})
    mark = "other_amount: " if affected.looked_up else ""
    return Unknown(why=f"{mark}the provider speaks of {told_of}, asked were {operation.amount} {operation.currency}")


# --- approved -----------------------------------------------------------------------------------------------------------------


def _approved(moves: Moves, affected: Affected, approved: Approved) -> None:
    match affected.operation.type:
        case "sale" | "authorize":
            _charge_approved(moves, affected, approved)
        case "capture":
            _captured(moves, affected, approved.amount)
        case "void":
            _voided(moves, affected)
        case "refund":
            _refunded(moves, affected)
        case other:
            assert_never(other)


def _charge_approved(moves: Moves, affected: Affected, approved: Approved) -> None:
    operation, payment = affected.operation, affected.payment
    payment.provider_ref = approved.provider_ref
    payment.authorization_id = operation.id
    payment.authorization_code = approved.authorization_code or None
    payment.authorized_at = moves.now
    if approved.card is not None:
        payment.payment_method = {**payment.payment_method, **msgspec.to_builtins(approved.card)}
    affected.intent.authorization_id = operation.id
    if operation.type == "sale" and approved.capture_declined is None:
        _captured(moves, affected, approved.amount)
    else:
        _authorized(moves, affected, approved.capture_declined)


def _authorized(moves: Moves, affected: Affected, capture_declined: Declined | None) -> None:
    operation, payment, intent = affected.operation, affected.payment, affected.intent
    _succeed(moves, operation)
    payment.authorization_expires_at = moves.now + AUTHORIZATION_LIFETIME
    payment.provider_status = "authorized"
    show_closed(payment, operation, None)
    record(moves, PAYMENT, payment, "authorized", "authorized", operation_id=operation.id)
    post(moves, affected, "authorized", hold=payment.amount)
    if capture_declined is not None:
        payment.failure = failure_of(capture_declined)
        show_closed(payment, operation, payment.failure)
        record(moves, PAYMENT, payment, "capture_failed", "authorized", operation_id=operation.id)
        intent.last_payment_error = payment.failure
    answer(operation, _intent_follows(moves, affected, "authorized", "authorized") or _intent_told(moves, affected))
    if unwanted(intent):
        open_operation(moves, payment, "void", amount=payment.amount, purpose=_purpose(intent))
    elif operation.type == "authorize" and payment.capture_method == "automatic":
        # The provider takes no sale in one message.
        open_operation(moves, payment, "capture", amount=payment.amount)


def _captured(moves: Moves, affected: Affected, amount: int) -> None:
    operation, payment = affected.operation, affected.payment
    held = payment.amount if payment.status == "authorized" else 0
    _succeed(moves, operation)
    payment.amount_captured = amount
    payment.fee = rules.fee(amount)
    payment.captured_at = moves.now
    payment.authorization_expires_at = None
    payment.failure = None
    payment.provider_status = "captured"
    show_closed(payment, operation, None)
    moved = record(moves, PAYMENT, payment, "captured", "captured", operation_id=operation.id)
    post(moves, affected, "captured", amount=amount, fee=payment.fee, hold=held)
    affected.intent.last_payment_error = None
    if operation.type == "sale" and unwanted(affected.intent):
        # Nobody may ship goods for it: the intent never says that it has succeeded.
        answer(operation, _intent_canceled(moves, affected) or _intent_told(moves, affected))
        open_refund(moves, payment, amount=amount, reason=_purpose(affected.intent), purpose=COMPENSATION)
        return
    followed = _intent_follows(moves, affected, "succeeded", "succeeded")
    answer(operation, moved if operation.type == "capture" else followed or _intent_told(moves, affected))


def _voided(moves: Moves, affected: Affected) -> None:
    operation, payment = affected.operation, affected.payment
    held = payment.status == "authorized"
    move_operation(moves, operation, "succeeded", "succeeded")
    payment.authorization_expires_at = None
    payment.provider_status = "voided"
    show_closed(payment, operation, None)
    target = "expired" if operation.purpose in ("authorization_expired", INTENT_EXPIRED) else "voided"
    moved = record(moves, PAYMENT, payment, target, target, operation_id=operation.id)
    if held:
        post(moves, affected, "released", hold=payment.amount)
    followed = _intent_given_up(moves, affected)
    answer(operation, followed if followed is not None and operation.purpose == "requested_by_merchant" else moved)


def _intent_given_up(moves: Moves, affected: Affected) -> Event | None:
    operation, intent = affected.operation, affected.intent
    if not INTENT.targets("canceled", intent.status):
        return None
    intent.cancellation_reason = operation.purpose or "voided"
    intent.next_action = None
    return record(moves, INTENT, intent, "canceled", "canceled", operation_id=operation.id)


def _refunded(moves: Moves, affected: Affected) -> None:
    operation, payment, refund = affected.operation, affected.payment, refund_of(affected)
    move_operation(moves, operation, "succeeded", "succeeded")
    refund.provider_ref = operation.provider_ref
    payment.refund_reserved -= refund.amount
    payment.amount_refunded += refund.amount
    show_closed(payment, operation, None)
    target = status_after_refunds(payment, amount_refunded=payment.amount_refunded)
    if target in PAYMENT.targets(target, payment.status):
        record(moves, PAYMENT, payment, target, target, operation_id=operation.id)
    else:
        # It went back while the payment was disputed: the status is the latest chapter, the amounts are the truth.
        record(moves, PAYMENT, payment, "operation_closed", payment.status, operation_id=operation.id)
    post(moves, affected, "refunded", amount=refund.amount)
    answer(operation, record(moves, REFUND, refund, "succeeded", "succeeded", operation_id=operation.id))


def _succeed(moves: Moves, operation: Operation) -> None:
    move_operation(moves, operation, "succeeded" if operation.is_open else "found", "succeeded")


# --- declined -----------------------------------------------------------------------------------------------------------------


def _declined(moves: Moves, affected: Affected, declined: Declined) -> None:
    operation, payment = affected.operation, affected.payment
    failure = failure_of(declined)
    move_operation(moves, operation, "declined", "declined")
    show_closed(payment, operation, failure)
    match operation.type:
        case "sale" | "authorize":
            payment.failure = failure
            payment.provider_ref = declined.provider_ref or payment.provider_ref
            payment.provider_status = "declined"
            moved = record(moves, PAYMENT, payment, "failed", "failed", operation_id=operation.id)
            answer(operation, _intent_failed(moves, affected, failure) or moved)
        case "capture":
            payment.failure = failure
            answer(operation, record(moves, PAYMENT, payment, "capture_failed", payment.status, operation_id=operation.id))
        case "void":
            if payment.status == "authorized" and operation.purpose == "authorization_expired":
                # The issuer let go by itself: asking again daily until the look-up or the merchant says otherwise.
                payment.authorization_expires_at = moves.now + timedelta(days=1)
            answer(operation, record(moves, PAYMENT, payment, "operation_closed", payment.status, operation_id=operation.id))
            _not_given_up(moves, affected, failure)
        case "refund":
            refund = refund_of(affected)
            refund.failure = failure
            payment.refund_reserved -= refund.amount
            record(moves, PAYMENT, payment, "operation_closed", payment.status, operation_id=operation.id)
            answer(operation, record(moves, REFUND, refund, "failed", "failed", operation_id=operation.id))
            if operation.purpose == COMPENSATION:
                _compensation_refused(moves, affected, failure)
        case other:
            assert_never(other)


def _not_given_up(moves: Moves, affected: Affected, failure: dict[str, Any]) -> None:
    """A void was refused. The payer may have passed the challenge meanwhile; an authorization that nobody wants still stands."""
    payment = affected.payment
    if payment.status == "pending_auth":
        moves.charges_to_look_up.append(payment.id)
    elif payment.status == "authorized" and unwanted(affected.intent):
        _compensation_refused(moves, affected, failure)


def _compensation_refused(moves: Moves, affected: Affected, failure: dict[str, Any]) -> None:
    operation = affected.operation
    open_exception(
        moves, affected, "compensation_refused", amount=operation.amount, currency=operation.currency, detail={"failure": failure}
    )


def _intent_failed(moves: Moves, affected: Affected, failure: dict[str, Any]) -> Event | None:
    intent = affected.intent
    if not INTENT.targets("payment_failed", intent.status) or intent.latest_payment_id != affected.payment.id:
        return None
    intent.last_payment_error = failure
    intent.next_action = None
    if intent.cancel_requested:
        return _intent_canceled(moves, affected)
    if intent.attempt_count >= intent.max_attempts:
        return record(moves, INTENT, intent, "failed", "failed", operation_id=affected.operation.id)
    intent.payment_method = None
    intent.expires_at = max(intent.expires_at, moves.now + INTENT_GRACE)
    return record(moves, INTENT, intent, "payment_failed", "requires_payment_method", operation_id=affected.operation.id)


# --- not decided yet ----------------------------------------------------------------------------------------------------------


def _action_required(moves: Moves, affected: Affected, required: ActionRequired) -> None:
    operation, payment, intent = affected.operation, affected.payment, affected.intent
    late = intent.status == "requires_action" and intent.expires_at <= moves.now
    if late or unwanted(intent):
        payment.provider_ref = required.provider_ref
        call_off(moves, operation, payment, purpose=INTENT_EXPIRED if late else _purpose(intent))
        answer(operation, _intent_expired(moves, affected) if late else _intent_canceled(moves, affected) or _intent_told(moves, affected))
        return
    _wait_for_later(moves, affected, provider_ref=required.provider_ref)
    if "requires_action" in INTENT.targets("requires_action", intent.status):
        intent.next_action = {"type": "redirect_to_url", "redirect_to_url": {"url": required.redirect_url}}
        answer(operation, record(moves, INTENT, intent, "requires_action", "requires_action", operation_id=operation.id))


def _wait_for_later(moves: Moves, affected: Affected, *, provider_ref: str) -> None:
    operation, payment = affected.operation, affected.payment
    first = operation.provider_ref is None
    operation.provider_ref = provider_ref or operation.provider_ref
    schedule_look_up(moves, operation)
    if first and operation.type in CHARGE_TYPES:
        payment.provider_ref = operation.provider_ref
    if first:
        record(moves, PAYMENT, payment, "operation_updated", payment.status, operation_id=operation.id)


def _unknown(moves: Moves, affected: Affected) -> None:
    operation, payment = affected.operation, affected.payment
    schedule_look_up(moves, operation)
    if operation.status == "unknown":
        return
    move_operation(moves, operation, "unknown", "unknown")
    if payment.pending_operation is not None and payment.pending_operation["id"] == typeid("op", operation.id):
        payment.pending_operation = {**payment.pending_operation, "status": "unknown"}
    if payment.latest_operation is not None and payment.latest_operation["id"] == typeid("op", operation.id):
        payment.latest_operation = {**payment.latest_operation, "status": "unknown"}
    record(moves, PAYMENT, payment, "operation_unknown", payment.status, operation_id=operation.id, detail=operation.outcome)


# --- small parts --------------------------------------------------------------------------------------------------------------


def _intent_follows(moves: Moves, affected: Affected, event: str, target: str) -> Event | None:
    intent = affected.intent
    if target not in INTENT.targets(event, intent.status):
        return None  # it was canceled or has expired meanwhile: the payment's truth does not bring it back
    intent.next_action = None
    return record(moves, INTENT, intent, event, target, operation_id=affected.operation.id)


def _intent_expired(moves: Moves, affected: Affected) -> Event:
    affected.intent.next_action = None
    return record(moves, INTENT, affected.intent, "expired", "expired", operation_id=affected.operation.id)


def _intent_canceled(moves: Moves, affected: Affected) -> Event | None:
    intent = affected.intent
    if not INTENT.targets("canceled", intent.status):
        return None
    intent.cancellation_reason = _purpose(intent)
    intent.next_action = None
    return record(moves, INTENT, intent, "canceled", "canceled", operation_id=affected.operation.id)


def _intent_told(moves: Moves, affected: Affected) -> Event:
    """What was asked for was the intent's, so its answer is an event of the intent, also when that has ended meanwhile."""
    return record(moves, INTENT, affected.intent, "updated", affected.intent.status, operation_id=affected.operation.id)


def _purpose(intent: Intent) -> str:
    return intent.cancel_requested or intent.cancellation_reason or INTENT_EXPIRED
