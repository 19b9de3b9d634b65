"""What a merchant asks for once money is held or taken: capture, void, refund, cancel. Workers carry it out."""

from collections.abc import Callable

from app.core.errors import AmountExceedsAuthorized, AmountExceedsRefundable, IllegalTransition, OperationInProgress
from app.core.ids import Id, new_id, parse_typeid
from app.infra.db import Connection
from app.infra.idempotency import KeyRow
from app.payments import store
from app.payments.asking import (
    Asking,
    Shown,
    Waited,
    asking_transaction,
    begin,
    earlier_key,
    locked_intent,
    locked_payment,
    require_version,
    shown,
    unless_key_raced,
)
from app.payments.keys import key_part
from app.payments.model import INTENT, REQUIRES, Intent, Operation, Payment, refundable
from app.payments.moves import Moves, call_off, open_operation, open_refund, record
from app.payments.present import render
from app.payments.road import Road
from app.payments.write import write

BY_MERCHANT = "requested_by_merchant"

Ask = Callable[[Moves, Payment, Id], None]
NOTHING_TO_WAKE: frozenset[str] = frozenset()


async def capture(road: Road, asking: Asking, payment_id: Id, *, amount: int | None, wait_seconds: float) -> Waited:
    """Ask the PSP to take an authorized amount, all of it by default; less is allowed, a capture is final.

    Raises NotFound, IllegalTransition, OperationInProgress, AmountExceedsAuthorized, VersionConflict.
    """

    def ask(moves: Moves, payment: Payment, operation_id: Id) -> None:
        require_no_open_operation(payment)
        if payment.status != "authorized":
            raise IllegalTransition(f"A payment that is {payment.status} cannot be captured.")
        taken = payment.amount if amount is None else amount
        if taken > payment.amount:
            raise AmountExceedsAuthorized(f"{taken} is more than the authorized {payment.amount}.", param="amount")
        open_operation(moves, payment, "capture", amount=taken, operation_id=operation_id)

    return await unless_key_raced(lambda: _ask(road, asking, payment_id, ask, wait_seconds=wait_seconds))


async def void(road: Road, asking: Asking, payment_id: Id, *, wait_seconds: float) -> Waited:
    """Ask the PSP to let go of an authorization. Raises NotFound, IllegalTransition, OperationInProgress, VersionConflict."""

    def ask(moves: Moves, payment: Payment, operation_id: Id) -> None:
        require_no_open_operation(payment)
        if payment.status != "authorized":
            hint = " Refund it instead." if payment.amount_captured else ""
            raise IllegalTransition(f"A payment that is {payment.status} cannot be voided.{hint}")
        open_operation(moves, payment, "void", amount=payment.amount, purpose="voided", operation_id=operation_id)

    return await unless_key_raced(lambda: _ask(road, asking, payment_id, ask, wait_seconds=wait_seconds))


async def refund(
    road: Road,
    asking: Asking,
    payment_id: Id,
    *,
    amount: int | None,
    reason: str | None,
    metadata: dict[str, str] | None,
    wait_seconds: float,
) -> Waited:
    """Ask the PSP to give money back, all that is left by default. Refunds may overlap; each reserves its amount at once.

    Raises NotFound, IllegalTransition, AmountExceedsRefundable, VersionConflict.
    """

    def ask(moves: Moves, payment: Payment, operation_id: Id) -> None:
        left = refundable(payment)
        if payment.status not in ("captured", "partially_refunded", "refunded", "won"):
            raise IllegalTransition(f"A payment that is {payment.status} cannot be refunded.")
        wanted = left if amount is None else amount
        if wanted > left or left == 0:
            raise AmountExceedsRefundable(f"{left} can still be refunded.", param="amount")
        open_refund(moves, payment, amount=wanted, reason=reason, metadata=metadata, operation_id=operation_id)

    return await unless_key_raced(lambda: _ask(road, asking, payment_id, ask, wait_seconds=wait_seconds))


async def cancel(road: Road, asking: Asking, intent_id: Id, *, wait_seconds: float) -> Shown | Waited:
    """`requires_*` at once; `authorized` is voided; `processing` is voided, or refunded, when the truth arrives.

    An intent that comes back as `processing` is not canceled yet.

    Raises NotFound, IllegalTransition, OperationInProgress, VersionConflict.
    """
    async with asking_transaction(road, asking) as connection:
        # Everybody locks the payment first; which one it is can only be read before, so it is compared afterwards.
        seen = await store.read_intent(connection, intent_id)
        payment = await store.lock_payment(connection, seen.latest_payment_id) if seen and seen.latest_payment_id else None
        intent = await locked_intent(connection, intent_id)
        key = await earlier_key(connection, asking)
        was_there, queues = key is not None, NOTHING_TO_WAKE
        if key is not None and key.operation_id is None:
            # `processing` was no final answer: the repeat is told how it stands now.
            return Shown(render(intent), intent.version, key, replayed=True)
        if key is None:
            require_version(intent, asking)
            if payment is not None and payment.id != intent.latest_payment_id:
                raise OperationInProgress("The intent is being confirmed.")
            moves = begin(asking)
            key = asking.key(moves.now)
            key.object_id, key.operation_id = intent.id, _cancel(moves, intent, payment, await _pending(connection, payment))
            key.event_id = intent.last_event_id
            queues = await write(connection, moves, also=[key_part([key])])
    road.wake(queues)
    if key.operation_id is None:
        return shown(intent, key)
    answered = await road.waiters.join(key.operation_id, seconds=wait_seconds)
    return Waited(key.operation_id, answered, key, replayed=was_there)


def _cancel(moves: Moves, intent: Intent, payment: Payment | None, charge: Operation | None) -> Id | None:
    """The void to wait for; None when the intent is canceled already, or has to wait for what was asked before."""
    if intent.status in REQUIRES:
        intent.cancellation_reason = BY_MERCHANT
        intent.next_action = None
        event = record(moves, INTENT, intent, "canceled", "canceled", operation_id=None)
        if charge is not None and charge.is_open and payment is not None:
            charge.answer_event_id = event.id
            call_off(moves, charge, payment, purpose=BY_MERCHANT)
        return None
    if intent.status not in ("processing", "authorized") or payment is None:
        hint = " Refund the payment instead." if intent.status == "succeeded" else ""
        raise IllegalTransition(f"An intent that is {intent.status} cannot be canceled.{hint}")
    if intent.status == "authorized":
        require_no_open_operation(payment)
    intent.cancel_requested = BY_MERCHANT
    if payment.pending_operation is not None:
        record(moves, INTENT, intent, "cancel_requested", intent.status, operation_id=None)
        return None
    operation = open_operation(moves, payment, "void", amount=payment.amount, purpose=BY_MERCHANT)
    record(moves, INTENT, intent, "cancel_requested", intent.status, operation_id=operation.id)
    return operation.id


async def _pending(connection: Connection, payment: Payment | None) -> Operation | None:
    if payment is None or payment.pending_operation is None:
        return None
    return await store.read_operation(connection, parse_typeid("op", payment.pending_operation["id"]))


def require_no_open_operation(payment: Payment) -> None:
    """Raises OperationInProgress with the one that is open."""
    if payment.pending_operation is not None:
        raise OperationInProgress(pending_operation=payment.pending_operation)


async def _ask(road: Road, asking: Asking, payment_id: Id, ask: Ask, *, wait_seconds: float) -> Waited:
    """The transaction that writes down what is asked, then the bounded wait. A repeat under the same key joins the wait."""
    operation_id = new_id()
    with road.waiters.expecting(operation_id) as flag:
        async with asking_transaction(road, asking) as connection:
            payment = await locked_payment(connection, payment_id)
            key, queues = await earlier_key(connection, asking), NOTHING_TO_WAKE
            if key is None:
                require_version(payment, asking)
                moves = begin(asking)
                ask(moves, payment, operation_id)
                key = _key(asking, moves, payment, operation_id)
                queues = await write(connection, moves, also=[key_part([key])])
        road.wake(queues)
        if key.operation_id == operation_id:
            return Waited(operation_id, await road.waiters.wait(operation_id, flag, seconds=wait_seconds), key)
    joined = key.operation_id or ""
    return Waited(joined, await road.waiters.join(joined, seconds=wait_seconds), key, replayed=True)


def _key(asking: Asking, moves: Moves, payment: Payment, operation_id: Id) -> KeyRow:
    key = asking.key(moves.now, moves_money=True)
    key.object_id = moves.new_refunds[0].id if moves.new_refunds else payment.id
    key.operation_id = operation_id
    return key
