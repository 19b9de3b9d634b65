"""How intents, payments and refunds look outside: in answers, in lists and in events."""

from datetime import datetime
from typing import Any

import msgspec

from app.core.clock import rfc3339
from app.core.ids import Id, typeid
from app.payments.model import Intent, Payment, Refund, capturable, refundable

_encode = msgspec.json.Encoder().encode
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class Failure(msgspec.Struct):
    """Why a PSP refused; `retryable` says whether the same card may be tried again."""

    code: str
    decline_code: str | None
    message: str
    retryable: bool


class NextActionRedirect(msgspec.Struct):
    url: str


class NextAction(msgspec.Struct):
    type: str
    redirect_to_url: NextActionRedirect


class OperationView(msgspec.Struct, omit_defaults=True):
    """What the PSP is being asked, or was asked last."""

    id: str
    type: str
    amount: int
    status: str
    since: str | None = None
    failure: Failure | None = None


class PaymentIntentView(msgspec.Struct, omit_defaults=True):
    id: str
    payment_intent_id: str
    object: str
    livemode: bool
    merchant_id: str
    status: str
    amount: int
    currency: str
    capture_method: str
    customer_id: str | None
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    payment_method: dict[str, Any] | None
    provider: str | None
    setup_future_usage: str | None
    success_url: str | None
    cancel_url: str | None
    attempt_count: int
    max_attempts: int
    latest_payment: str | None
    payment_id: str | None
    authorization_id: str | None
    next_action: dict[str, Any] | None
    last_payment_error: dict[str, Any] | None
    cancellation_reason: str | None
    expires_at: str
    created_at: str
    updated_at: str
    version: int
    client_secret: str | Unset = UNSET


class PaymentView(msgspec.Struct):
    id: str
    payment_id: str
    object: str
    livemode: bool
    merchant_id: str
    payment_intent_id: str
    customer_id: str | None
    reference: str | None
    status: str
    amount: int
    amount_capturable: int
    amount_captured: int
    amount_refunded: int
    amount_refund_pending: int
    amount_refundable: int
    amount_disputed: int
    currency: str
    capture_method: str
    failure: dict[str, Any] | None
    provider: str
    provider_ref: str | None
    provider_status: str | None
    authorization_id: str | None
    payment_method: dict[str, Any]
    fee: int
    net: int
    dispute_id: str | None
    pending_operation: dict[str, Any] | None
    latest_operation: dict[str, Any] | None
    metadata: dict[str, str]
    created_at: str
    updated_at: str
    authorized_at: str | None
    captured_at: str | None
    version: int


class RefundView(msgspec.Struct):
    id: str
    refund_id: str
    object: str
    livemode: bool
    merchant_id: str
    payment_id: str
    amount: int
    currency: str
    reason: str | None
    status: str
    failure: dict[str, Any] | None
    provider_ref: str | None
    metadata: dict[str, str]
    created_at: str
    updated_at: str
    version: int


def _maybe_instant(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _maybe_typeid(prefix: str, id_: Id | None) -> str | None:
    return None if id_ is None else typeid(prefix, id_)


def intent_view(intent: Intent, *, client_secret: str | Unset = UNSET) -> PaymentIntentView:
    own = typeid("pi", intent.id)
    latest = _maybe_typeid("pay", intent.latest_payment_id)
    return PaymentIntentView(
        id=own,
        payment_intent_id=own,
        object="payment_intent",
        livemode=intent.livemode,
        merchant_id=typeid("mer", intent.merchant_id),
        status=intent.status,
        amount=intent.amount,
        currency=intent.currency,
        capture_method=intent.capture_method,
        customer_id=_maybe_typeid("cus", intent.customer_id),
        reference=intent.reference,
        description=intent.description,
        metadata=intent.metadata,
        payment_method=intent.payment_method,
        provider=intent.provider,
        setup_future_usage=intent.setup_future_usage,
        success_url=intent.success_url,
        cancel_url=intent.cancel_url,
        attempt_count=intent.attempt_count,
        max_attempts=intent.max_attempts,
        latest_payment=latest,
        payment_id=latest,
        authorization_id=_maybe_typeid("auth", intent.authorization_id),
        next_action=intent.next_action,
        last_payment_error=intent.last_payment_error,
        cancellation_reason=intent.cancellation_reason,
        expires_at=rfc3339(intent.expires_at),
        created_at=rfc3339(intent.created_at),
        updated_at=rfc3339(intent.updated_at),
        version=intent.version,
        client_secret=client_secret,
    )


def payment_view(payment: Payment) -> PaymentView:
    own = typeid("pay", payment.id)
    return PaymentView(
        id=own,
        payment_id=own,
        object="payment",
        livemode=payment.livemode,
        merchant_id=typeid("mer", payment.merchant_id),
        payment_intent_id=typeid("pi", payment.payment_intent_id),
        customer_id=_maybe_typeid("cus", payment.customer_id),
        reference=payment.reference,
        status=payment.status,
        amount=payment.amount,
        amount_capturable=capturable(payment),
        amount_captured=payment.amount_captured,
        amount_refunded=payment.amount_refunded,
        amount_refund_pending=payment.refund_reserved,
        amount_refundable=refundable(payment),
        amount_disputed=payment.amount_disputed,
        currency=payment.currency,
        capture_method=payment.capture_method,
        failure=payment.failure,
        provider=payment.provider,
        provider_ref=payment.provider_ref,
        provider_status=payment.provider_status,
        authorization_id=_maybe_typeid("auth", payment.authorization_id),
        payment_method=payment.payment_method,
        fee=payment.fee,
        net=payment.amount_captured - payment.fee,
        dispute_id=None,
        pending_operation=payment.pending_operation,
        latest_operation=payment.latest_operation,
        metadata=payment.metadata,
        created_at=rfc3339(payment.created_at),
        updated_at=rfc3339(payment.updated_at),
        authorized_at=_maybe_instant(payment.authorized_at),
        captured_at=_maybe_instant(payment.captured_at),
        version=payment.version,
    )


def refund_view(refund: Refund) -> RefundView:
    own = typeid("ref", refund.id)
    return RefundView(
        id=own,
        refund_id=own,
        object="refund",
        livemode=refund.livemode,
        merchant_id=typeid("mer", refund.merchant_id),
        payment_id=typeid("pay", refund.payment_id),
        amount=refund.amount,
        currency=refund.currency,
        reason=refund.reason,
        status=refund.status,
        failure=refund.failure,
        provider_ref=refund.provider_ref,
        metadata=refund.metadata,
        created_at=rfc3339(refund.created_at),
        updated_at=rfc3339(refund.updated_at),
        version=refund.version,
    )


def render(row: Intent | Payment | Refund) -> bytes:
    """The object as JSON, without secrets: what events, lists and most answers carry."""
    if isinstance(row, Intent):
        return _encode(intent_view(row))
    if isinstance(row, Payment):
        return _encode(payment_view(row))
    return _encode(refund_view(row))
