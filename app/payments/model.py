"""Statuses, the four machines, the rows a payment is made of, and the arithmetic of its amounts."""

from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from app.core.machine import Edge, Machine

OperationType = Literal["sale", "authorize", "capture", "void", "refund"]
OPEN_OPERATION = ("requested", "unknown")

# An online authorization stands for 7 days with most issuers; letting go late is a void that fails. Source: requirements R011.
AUTHORIZATION_LIFETIME = timedelta(days=7)
# Source: requirements R029.
INTENT_LIFETIME = timedelta(hours=1)
# A card that is declined in the intent's last minute leaves the payer time for another one.
INTENT_GRACE = timedelta(minutes=5)
# The sources give no number (R030); API.md says 5.
MAX_ATTEMPTS = 5

REQUIRES = ("requires_payment_method", "requires_confirmation", "requires_action")


def _edges(event: str, sources: tuple[str, ...], target: str, *, announced: bool = True) -> tuple[Edge, ...]:
    return tuple(Edge(event, source, target, announced=announced) for source in sources)


def _loops(event: str, statuses: tuple[str, ...], *, announced: bool = False) -> tuple[Edge, ...]:
    """Changes that a merchant can see and that leave the status alone: a version step with its event."""
    return tuple(Edge(event, status, status, announced=announced) for status in statuses)


INTENT = Machine(
    "payment_intent",
    (
        Edge("created", "none", "requires_payment_method"),
        Edge("created", "none", "requires_confirmation"),
        *_edges("processing", ("requires_payment_method", "requires_confirmation"), "processing"),
        Edge("processing", "requires_action", "processing"),
        Edge("requires_action", "processing", "requires_action"),
        *_edges("payment_failed", ("processing", "requires_action"), "requires_payment_method"),
        *_edges("failed", ("processing", "requires_action"), "failed"),
        *_edges("authorized", ("processing", "requires_action"), "authorized", announced=False),
        *_edges("succeeded", ("processing", "requires_action", "authorized"), "succeeded"),
        *_edges("canceled", (*REQUIRES, "processing", "authorized"), "canceled"),
        *_edges("expired", REQUIRES, "expired"),
        *_edges("method_attached", ("requires_payment_method", "requires_confirmation"), "requires_confirmation", announced=False),
        *_loops("updated", (*REQUIRES, "processing", "authorized", "succeeded", "failed", "canceled", "expired")),
        *_loops("cancel_requested", ("processing", "authorized", "requires_action")),
    ),
)

_CAPTURED = ("captured", "partially_refunded", "refunded", "disputed", "won", "lost")
_REFUNDABLE = ("captured", "partially_refunded", "won")

PAYMENT = Machine(
    "payment",
    (
        Edge("created", "none", "created"),
        Edge("created", "none", "pending_auth"),
        Edge("submitted", "created", "pending_auth", announced=False),
        *_edges("authorized", ("pending_auth",), "authorized"),
        *_edges("captured", ("pending_auth", "authorized"), "captured"),
        *_edges("voided", ("pending_auth", "authorized"), "voided"),
        *_edges("expired", ("created", "pending_auth", "authorized"), "expired"),
        *_edges("failed", ("created", "pending_auth"), "failed"),
        *_edges("partially_refunded", ("captured", "partially_refunded", "won"), "partially_refunded"),
        *_edges("refunded", ("captured", "partially_refunded", "won"), "refunded"),
        Edge("refund_failed", "refunded", "partially_refunded", announced=False),
        Edge("refund_failed", "refunded", "captured", announced=False),
        Edge("refund_failed", "partially_refunded", "captured", announced=False),
        *_edges("disputed", ("captured", "partially_refunded", "refunded", "won"), "disputed"),
        *_edges("won", ("disputed", "lost"), "won"),
        *_edges("lost", ("disputed",), "lost"),
        *_loops("capture_failed", ("authorized",), announced=True),
        *_loops("operation_requested", ("pending_auth", "authorized", *_CAPTURED)),
        *_loops("operation_unknown", ("pending_auth", "authorized", *_CAPTURED)),
        *_loops("operation_updated", ("pending_auth", "authorized", *_CAPTURED)),
        *_loops("operation_closed", ("pending_auth", "authorized", "voided", "expired", "failed", *_CAPTURED)),
    ),
)

REFUND = Machine(
    "refund",
    (
        Edge("created", "none", "pending"),
        *_edges("succeeded", ("pending",), "succeeded"),
        *_edges("failed", ("pending", "succeeded"), "failed"),
    ),
)

OPERATION = Machine(
    "operation",
    (
        Edge("requested", "none", "requested", announced=False),
        *_edges("unknown", ("requested",), "unknown", announced=False),
        *_edges("succeeded", OPEN_OPERATION, "succeeded", announced=False),
        *_edges("declined", OPEN_OPERATION, "declined", announced=False),
        *_edges("failed", OPEN_OPERATION, "failed", announced=False),
        # The truth of a challenge that was given up and passed all the same, while the payment still waited.
        *_edges("found", ("failed", "declined"), "succeeded", announced=False),
        # A refund that the PSP takes back after it had succeeded.
        *_edges("reversed", ("succeeded",), "failed", announced=False),
    ),
)

MACHINES = (INTENT, PAYMENT, REFUND, OPERATION)


class Intent(msgspec.Struct):
    """A row of `payment_intents`, in the order of the fields; json columns are parsed."""

    id: str
    merchant_id: str
    livemode: bool
    customer_id: str | None
    reference: str | None
    amount: int
    currency: str
    capture_method: str
    status: str
    version: int
    last_event_id: str
    payment_method: dict[str, Any] | None
    success_url: str | None
    cancel_url: str | None
    return_url: str | None
    description: str | None
    metadata: dict[str, str]
    provider: str | None
    setup_future_usage: str | None
    attempt_count: int
    max_attempts: int
    latest_payment_id: str | None
    authorization_id: str | None
    next_action: dict[str, Any] | None
    last_payment_error: dict[str, Any] | None
    cancel_requested: str | None
    cancellation_reason: str | None
    expires_at: datetime
    created_at: datetime
    updated_at: datetime


class Payment(msgspec.Struct):
    """A row of `payments`; json columns are parsed."""

    id: str
    payment_intent_id: str
    merchant_id: str
    livemode: bool
    customer_id: str | None
    reference: str | None
    idempotency_key: str | None
    amount: int
    amount_captured: int
    amount_refunded: int
    refund_reserved: int
    amount_disputed: int
    currency: str
    capture_method: str
    status: str
    version: int
    last_event_id: str
    provider: str
    provider_ref: str | None
    provider_status: str | None
    authorization_id: str | None
    authorization_code: str | None
    payment_method: dict[str, Any]
    fee: int
    failure: dict[str, Any] | None
    pending_operation: dict[str, Any] | None
    latest_operation: dict[str, Any] | None
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    authorized_at: datetime | None
    captured_at: datetime | None
    authorization_expires_at: datetime | None


class Refund(msgspec.Struct):
    """A row of `refunds`."""

    id: str
    payment_id: str
    merchant_id: str
    livemode: bool
    amount: int
    currency: str
    reason: str | None
    status: str
    version: int
    last_event_id: str
    failure: dict[str, Any] | None
    provider_ref: str | None
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class Operation(msgspec.Struct):
    """A row of `operations`: what a PSP has been asked, under our reference, which is its id."""

    id: str
    payment_id: str
    payment_intent_id: str
    refund_id: str | None
    merchant_id: str
    livemode: bool
    type: OperationType
    status: str
    amount: int
    currency: str
    provider: str
    provider_ref: str | None
    purpose: str | None
    actor: str
    outcome: dict[str, Any] | None
    answer_event_id: str | None
    next_lookup_at: datetime | None
    lookups: int
    key_expires_at: datetime
    requested_at: datetime
    closed_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_OPERATION


def capturable(payment: Payment) -> int:
    """What an authorization still allows to be captured; a capture is final."""
    return payment.amount if payment.status == "authorized" else 0


def refundable(payment: Payment) -> int:
    """What refunds have neither returned nor reserved."""
    if payment.status not in _REFUNDABLE:
        return 0
    return payment.amount_captured - payment.amount_refunded - payment.refund_reserved


def status_after_refunds(payment: Payment, *, amount_refunded: int) -> str:
    """`captured`, `partially_refunded` or `refunded`, by how much has been returned."""
    if amount_refunded == 0:
        return "captured"
    return "refunded" if amount_refunded >= payment.amount_captured else "partially_refunded"
