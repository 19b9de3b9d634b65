"""The routes of payments and refunds."""

from typing import Annotated

import msgspec

from app.core.errors import (
    AmountExceedsAuthorized,
    AmountExceedsRefundable,
    Forbidden,
    IllegalTransition,
    OperationInProgress,
    PaymentDeclined,
)
from app.core.ids import Id, typeid
from app.http import Amount, Answer, Body, Call, Metadata, Query, Route, answer, choice, ident, instants, text
from app.payments import payment_actions, reads
from app.payments.answers import answer_waited, asking_of
from app.payments.model import PAYMENT, REFUND
from app.payments.present import PaymentView, RefundView, render
from app.payments.road import Road

Reason = Annotated[str, msgspec.Meta(max_length=255, description="Free text for the merchant's own books.")]


class CapturePayment(Body):
    amount: Amount | None = None


class RefundPayment(Body):
    amount: Amount | None = None
    reason: Reason | None = None
    metadata: Metadata | None = None


async def show_payment(call: Call[None]) -> Answer:
    """One payment: one attempt to move money."""
    row = await reads.payment(call.resources.of(Road).pool, call.caller, call.ids["payment_id"])
    return answer(200, render(row), etag=row.version)


async def list_payments(call: Call[None]) -> Answer:
    """Payments, newest first."""
    return await reads.list_payments(call.resources.of(Road).pool, call)


async def show_timeline(call: Call[None]) -> Answer:
    """Everything that happened to a payment: requests, events, provider calls, ledger entries, webhooks."""
    return answer(200, await reads.timeline(call.resources.of(Road).pool, call.caller, call.ids["payment_id"]))


async def capture_payment(call: Call[CapturePayment]) -> Answer:
    """Take an authorized amount, or less of it; final."""
    road, payment_id = call.resources.of(Road), call.ids["payment_id"]
    waited = await payment_actions.capture(road, asking_of(call), payment_id, amount=call.body.amount, wait_seconds=call.wait_seconds)
    return await answer_waited(road, call, waited, location=_location(payment_id))


async def void_payment(call: Call[Body]) -> Answer:
    """Let go of an authorization."""
    road, payment_id = call.resources.of(Road), call.ids["payment_id"]
    waited = await payment_actions.void(road, asking_of(call), payment_id, wait_seconds=call.wait_seconds)
    return await answer_waited(road, call, waited, location=_location(payment_id))


async def refund_payment(call: Call[RefundPayment]) -> Answer:
    """Give captured money back, all that is left by default."""
    road, body = call.resources.of(Road), call.body
    waited = await payment_actions.refund(
        road,
        asking_of(call),
        call.ids["payment_id"],
        amount=body.amount,
        reason=body.reason,
        metadata=body.metadata,
        wait_seconds=call.wait_seconds,
    )
    return await answer_waited(road, call, waited, location=f"/v1/refunds/{typeid('ref', waited.key.object_id or '0')}", done_status=201)


async def show_refund(call: Call[None]) -> Answer:
    """One refund."""
    row = await reads.refund(call.resources.of(Road).pool, call.caller, call.ids["refund_id"])
    return answer(200, render(row), etag=row.version)


async def list_refunds(call: Call[None]) -> Answer:
    """Refunds, newest first."""
    return await reads.list_refunds(call.resources.of(Road).pool, call)


def _location(payment_id: Id) -> str:
    return f"/v1/payments/{typeid('pay', payment_id)}"


_ASKING = (PaymentDeclined, IllegalTransition, OperationInProgress)
_PAYMENTS = Query(
    (choice("status", PAYMENT.statuses), text("reference"), ident("customer_id", "cus"), text("tenant"), *instants("created_at")),
    pages="pay",
)
_REFUNDS = Query((choice("status", REFUND.statuses), ident("payment_id", "pay"), *instants("created_at")), pages="ref")

ROUTES = (
    Route("GET", "/v1/payments", list_payments, query=_PAYMENTS, answers={200: reads.PaymentList}, errors=(Forbidden,)),
    Route("GET", "/v1/payments/{payment_id:pay}", show_payment, answers={200: PaymentView}),
    Route("GET", "/v1/payments/{payment_id:pay}/timeline", show_timeline, answers={200: reads.Timeline}),
    Route(
        "POST",
        "/v1/payments/{payment_id:pay}/capture",
        capture_payment,
        body=CapturePayment,
        answers={200: PaymentView, 202: PaymentView},
        errors=(*_ASKING, AmountExceedsAuthorized),
        waits=True,
        conditional=True,
    ),
    Route(
        "POST",
        "/v1/payments/{payment_id:pay}/void",
        void_payment,
        answers={200: PaymentView, 202: PaymentView},
        errors=_ASKING,
        waits=True,
        conditional=True,
    ),
    Route(
        "POST",
        "/v1/payments/{payment_id:pay}/refunds",
        refund_payment,
        body=RefundPayment,
        answers={201: RefundView, 202: RefundView},
        errors=(*_ASKING, AmountExceedsRefundable),
        waits=True,
        conditional=True,
    ),
    Route("GET", "/v1/refunds", list_refunds, query=_REFUNDS, answers={200: reads.RefundList}),
    Route("GET", "/v1/refunds/{refund_id:ref}", show_refund, answers={200: RefundView}),
)
