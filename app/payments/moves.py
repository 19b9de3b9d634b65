"""What one use case writes: rows moved and born, their events, ledger postings and next outbox rows, gathered before any is sent."""

from copy import copy
from datetime import datetime, timedelta
from typing import Any

import msgspec

from app.core.ids import Id, new_id, typeid
from app.core.machine import Machine
from app.ledger.store import Posting
from app.payments.model import OPERATION, PAYMENT, REFUND, Intent, Operation, OperationType, Payment, Refund
from app.payments.present import render
from app.payments.store import Event, ExceptionRow
from app.providers.base import PspRequest
from app.webhooks.fan_out import Announcement, announcement
from outbox import NewRow

PSP_QUEUE = "psp"
# The purpose of an operation that gives back what nobody wanted any more.
COMPENSATION = "compensation"
SEND = "psp.send"
LOOK_UP = "psp.look_up"

# How long a provider keeps our key is the adapter's to say; this is what we promise at most before a look-up must come first.
KEY_LIFETIME = timedelta(hours=24)


# The first look-up after an unknown outcome waits for what may still be on its way; each later one waits twice as long.
FIRST_LOOK_UP = timedelta(seconds=2)
LONGEST_LOOK_UP = timedelta(minutes=10)
# More doublings than that reach the longest wait anyway.
_MOST_LOOK_UPS = 1000


class PspTask(msgspec.Struct):
    """The payload of a `psp.send` row: all that the worker needs to ask, and the rows to lock when the answer comes."""

    provider: str
    request: PspRequest
    operation_id: Id
    payment_id: Id
    payment_intent_id: Id
    refund_id: Id | None = None
    requested_at: datetime | None = None


class LookUpTask(msgspec.Struct):
    """The payload of a `psp.look_up` row."""

    provider: str
    operation_id: Id
    payment_id: Id
    payment_intent_id: Id
    refund_id: Id | None = None


class Moves(msgspec.Struct):
    """Rows are snapshots in the order of their moves: a row that moves twice is there twice, a version apart."""

    now: datetime
    actor: str
    traceparent: str | None = None
    events: list[Event] = []
    intents: list[Intent] = []
    payments: list[Payment] = []
    refunds: list[Refund] = []
    operations: list[Operation] = []
    new_intents: list[Intent] = []
    new_payments: list[Payment] = []
    new_refunds: list[Refund] = []
    new_operations: list[Operation] = []
    exceptions: list[ExceptionRow] = []
    # Payments whose charge has to be looked up, because giving it up was refused.
    charges_to_look_up: list[Id] = []
    postings: list[Posting] = []
    announcements: list[Announcement] = []
    outbox: list[NewRow] = []


def record(
    moves: Moves,
    machine: Machine,
    row: Intent | Payment | Refund,
    event: str,
    target: str,
    *,
    operation_id: Id | None,
    detail: dict[str, Any] | None = None,
) -> Event:
    """Set the row's status, version and event, and keep the event with the object as it now looks. Raises IllegalTransition."""
    born = row.version == 0
    source = "none" if born else row.status
    edge = machine.require(event, source, target)
    row.status = target
    row.version += 1
    row.last_event_id = new_id()
    row.updated_at = moves.now
    event_row = Event(
        id=row.last_event_id,
        merchant_id=row.merchant_id,
        livemode=row.livemode,
        object_type=machine.name,
        object_id=row.id,
        sequence=row.version,
        event=event,
        from_status=source,
        to_status=target,
        announced=edge.announced,
        payment_id=_payment_of(row),
        operation_id=operation_id,
        actor=moves.actor,
        detail=detail,
        data=msgspec.Raw(render(row)),
        occurred_at=moves.now,
    )
    moves.events.append(event_row)
    if edge.announced:
        moves.announcements.append(
            announcement(
                event_id=event_row.id,
                merchant_id=row.merchant_id,
                livemode=row.livemode,
                object_type=machine.name,
                event=event,
                traceparent=moves.traceparent,
            )
        )
    _snapshots(moves, row, born=born).append(copy(row))
    return event_row


def open_operation(
    moves: Moves,
    payment: Payment,
    type_: OperationType,
    *,
    amount: int,
    refund: Refund | None = None,
    purpose: str | None = None,
    return_url: str = "",
    announce: bool = True,
    operation_id: Id | None = None,
) -> Operation:
    """Write down what a PSP is asked, show it on the payment, and put the asking into the outbox.

    With `announce` the payment gets a version step of its own for it; a payment that is being born shows it from the start.
    """
    operation = Operation(
        id=operation_id or new_id(),
        payment_id=payment.id,
        payment_intent_id=payment.payment_intent_id,
        refund_id=refund.id if refund else None,
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        type=type_,
        status="requested",
        amount=amount,
        currency=payment.currency,
        provider=payment.provider,
        provider_ref=None,
        purpose=purpose,
        actor=moves.actor,
        outcome=None,
        answer_event_id=None,
        next_lookup_at=None,
        lookups=0,
        key_expires_at=moves.now + KEY_LIFETIME,
        requested_at=moves.now,
        closed_at=None,
    )
    moves.new_operations.append(operation)
    show_operation(payment, operation)
    if announce:
        record(moves, PAYMENT, payment, "operation_requested", payment.status, operation_id=operation.id, detail={"operation": type_})
    task = PspTask(
        provider=payment.provider,
        request=psp_request(operation, payment, return_url=return_url),
        operation_id=operation.id,
        payment_id=payment.id,
        payment_intent_id=payment.payment_intent_id,
        refund_id=operation.refund_id,
        requested_at=operation.requested_at,
    )
    moves.outbox.append(psp_row(moves, SEND, task, operation))
    return operation


def open_refund(
    moves: Moves,
    payment: Payment,
    *,
    amount: int,
    reason: str | None,
    metadata: dict[str, str] | None = None,
    operation_id: Id | None = None,
    purpose: str | None = None,
) -> Operation:
    """Reserve `amount` under the payment's lock and ask the PSP for it. The caller has checked that it is refundable."""
    refund = Refund(
        id=new_id(),
        payment_id=payment.id,
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        amount=amount,
        currency=payment.currency,
        reason=reason,
        status="none",
        version=0,
        last_event_id="",
        failure=None,
        provider_ref=None,
        metadata=metadata or {},
        created_at=moves.now,
        updated_at=moves.now,
    )
    record(moves, REFUND, refund, "created", "pending", operation_id=None)
    payment.refund_reserved += amount
    return open_operation(moves, payment, "refund", amount=amount, refund=refund, operation_id=operation_id, purpose=purpose)


def call_off(moves: Moves, operation: Operation, payment: Payment, *, purpose: str) -> Operation:
    """Give up a charge that waits for its payer: it is closed here and voided at the provider, whose answer ends the payment.

    The caller sets the answer of `operation`.
    """
    move_operation(moves, operation, "failed", "failed")
    show_closed(payment, operation, None)
    return open_operation(moves, payment, "void", amount=payment.amount, purpose=purpose)


def psp_request(operation: Operation, payment: Payment, *, return_url: str) -> PspRequest:
    """Equal for every repeat of the operation, because a PSP compares the body that comes under a key."""
    return PspRequest(
        reference=typeid("op", operation.id),
        type=operation.type,
        amount=operation.amount,
        currency=operation.currency,
        token=payment.payment_method.get("token", "") if operation.type in ("sale", "authorize") else "",
        provider_ref=(payment.provider_ref or "") if operation.type not in ("sale", "authorize") else "",
        merchant_reference=payment.reference or "",
        return_url=return_url,
    )


def browser_url(intent: Intent) -> str:
    """Where the payer's browser comes back to after a challenge, with the intent's id and never a secret."""
    if not intent.return_url:
        return ""
    glue = "&" if "?" in intent.return_url else "?"
    return f"{intent.return_url}{glue}payment_intent={typeid('pi', intent.id)}"


def psp_row(moves: Moves, actor: str, task: PspTask | LookUpTask, operation: Operation) -> NewRow:
    return NewRow(
        queue=PSP_QUEUE,
        lane=operation.provider,
        actor=actor,
        subject=operation.id,
        tenant=operation.merchant_id,
        payload=msgspec.json.encode(task).decode(),
        traceparent=moves.traceparent,
    )


def show_operation(payment: Payment, operation: Operation) -> None:
    """The payment shows what is being asked; refunds overlap, so they never stand as *the* pending operation."""
    shown = {"id": typeid("op", operation.id), "type": operation.type, "amount": operation.amount, "status": operation.status}
    payment.latest_operation = {**shown, "failure": None}
    if operation.type != "refund":
        payment.pending_operation = {**shown, "since": operation.requested_at}


def show_closed(payment: Payment, operation: Operation, failure: dict[str, Any] | None) -> None:
    payment.latest_operation = {
        "id": typeid("op", operation.id),
        "type": operation.type,
        "amount": operation.amount,
        "status": operation.status,
        "failure": failure,
    }
    if operation.type != "refund":
        payment.pending_operation = None


def move_operation(moves: Moves, operation: Operation, event: str, target: str) -> None:
    """The snapshot is taken when the moves are written: an operation's row moves once per use case."""
    OPERATION.require(event, operation.status, target)
    operation.status = target
    if target in ("succeeded", "declined", "failed"):
        operation.closed_at = moves.now
        operation.next_lookup_at = None
    if not any(known is operation for known in moves.operations):
        moves.operations.append(operation)


def schedule_look_up(moves: Moves, operation: Operation) -> None:
    """Have the clock ask the provider what became of it."""
    operation.next_lookup_at = moves.now + min(FIRST_LOOK_UP * 2 ** min(operation.lookups, 12), LONGEST_LOOK_UP)
    operation.lookups = min(operation.lookups + 1, _MOST_LOOK_UPS)
    if not any(known is operation for known in moves.operations):
        moves.operations.append(operation)


def _payment_of(row: Intent | Payment | Refund) -> Id | None:
    if isinstance(row, Payment):
        return row.id
    return row.payment_id if isinstance(row, Refund) else row.latest_payment_id


def _snapshots(moves: Moves, row: Intent | Payment | Refund, *, born: bool) -> list[Any]:
    if isinstance(row, Payment):
        return moves.new_payments if born else moves.payments
    if isinstance(row, Intent):
        return moves.new_intents if born else moves.intents
    return moves.new_refunds if born else moves.refunds
