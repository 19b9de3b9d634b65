"""The routes of payment intents, for merchants and for the payer's browser."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from app.core.errors import (
    AuthenticationFailed,
    IllegalTransition,
    IntentExpired,
    InvalidCurrency,
    InvalidValue,
    NoRoute,
    OperationInProgress,
    PaymentDeclined,
    PaymentMethodRequired,
    TestCardRequired,
    TooManyAttempts,
)
from app.core.ids import typeid
from app.core.money import EXPONENTS
from app.http import (
    Amount,
    Answer,
    Body,
    Call,
    Currency,
    Description,
    Metadata,
    PatchMetadata,
    Query,
    Reference,
    Route,
    answer,
    body_id,
    choice,
    ident,
    instants,
    text,
)
from app.payments import intent_actions, payment_actions, reads
from app.payments.answers import answer_shown, answer_waited, asking_of
from app.payments.asking import Shown, unless_key_raced
from app.payments.methods import Method, SavedMethod, as_stored
from app.payments.model import INTENT
from app.payments.present import PaymentIntentView
from app.payments.road import Road
from app.payments.secrets import client_secret

Url = Annotated[str, msgspec.Meta(pattern="^https?://[^\\s]+$", max_length=2048, description="Where the payer's browser goes.")]
CaptureMethod = Literal["automatic", "manual"]
Provider = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]{1,40}$")]
_UNSET = msgspec.UNSET
_Unset = msgspec.UnsetType


class CreateIntent(Body):
    amount: Amount
    currency: Currency
    capture_method: CaptureMethod = "automatic"
    customer_id: str | None = None
    payment_method: Method | SavedMethod | None = None
    confirm: bool = False
    success_url: Url | None = None
    cancel_url: Url | None = None
    return_url: Url | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    provider: Provider | None = None
    setup_future_usage: Literal["on_session", "off_session"] | None = None


class UpdateIntent(Body):
    amount: Amount | _Unset = _UNSET
    currency: Currency | _Unset = _UNSET
    capture_method: CaptureMethod | _Unset = _UNSET
    customer_id: str | _Unset | None = _UNSET
    payment_method: Method | SavedMethod | _Unset = _UNSET
    success_url: Url | _Unset | None = _UNSET
    cancel_url: Url | _Unset | None = _UNSET
    reference: Reference | _Unset | None = _UNSET
    description: Description | _Unset | None = _UNSET
    metadata: PatchMetadata | _Unset = _UNSET


class ConfirmIntent(Body):
    payment_method: Method | SavedMethod | None = None
    return_url: Url | None = None


def require_currency(code: str) -> str:
    """Raises InvalidCurrency."""
    if code not in EXPONENTS:
        raise InvalidCurrency(f"`{code}` is not an active ISO 4217 code.", param="currency")
    return code


async def create_intent(call: Call[CreateIntent]) -> Answer:
    """Begin a payment: what is to be paid, and how."""
    road, body = call.resources.of(Road), call.body
    require_currency(body.currency)
    fields: dict[str, Any] = {
        "amount": body.amount,
        "currency": body.currency,
        "capture_method": body.capture_method,
        "customer_id": None if body.customer_id is None else body_id("cus", body.customer_id, param="customer_id"),
        "payment_method": as_stored(body.payment_method),
        "success_url": body.success_url,
        "cancel_url": body.cancel_url,
        "reference": body.reference,
        "description": body.description,
        "metadata": body.metadata,
        "provider": body.provider,
        "setup_future_usage": body.setup_future_usage,
        "confirm": body.confirm,
    }
    if body.confirm and fields["payment_method"] is None:
        raise PaymentMethodRequired(param="payment_method")
    asking = asking_of(call)
    intent_id, shown = await intent_actions.create(road, asking, fields)
    show = _secretly(road, intent_id)
    if not body.confirm:
        shown.data = show(shown.data)
        return answer_shown(call, shown, status=201)
    waited = await intent_actions.confirm(
        road,
        asking,
        intent_id,
        payment_method=None,
        return_url=body.return_url,
        wait_seconds=call.wait_seconds,
        part="#confirm",
    )
    return await answer_waited(road, call, waited, location=_location(intent_id), done_status=201, show=show)


async def show_intent(call: Call[None]) -> Answer:
    """One payment intent, with its client secret."""
    road = call.resources.of(Road)
    intent = await reads.intent(road.pool, call.caller, call.ids["payment_intent_id"])
    secret = client_secret(road.settings.server_key, intent.id)
    return answer(200, reads.intent_json(intent, secret=secret), etag=intent.version)


async def list_intents(call: Call[None]) -> Answer:
    """Payment intents, newest first."""
    return await reads.list_intents(call.resources.of(Road).pool, call)


async def update_intent(call: Call[UpdateIntent]) -> Answer:
    """Metadata and description at any time, the rest before the confirmation."""
    changes = {name: getattr(call.body, name) for name in _CHANGEABLE if getattr(call.body, name) is not _UNSET}
    if "currency" in changes:
        require_currency(changes["currency"])
    if changes.get("customer_id") is not None:
        changes["customer_id"] = body_id("cus", changes["customer_id"], param="customer_id")
    if "payment_method" in changes:
        changes["payment_method"] = as_stored(changes["payment_method"])
    road, intent_id = call.resources.of(Road), call.ids["payment_intent_id"]
    return answer_shown(call, await unless_key_raced(lambda: intent_actions.update(road, asking_of(call), intent_id, changes)))


async def confirm_intent(call: Call[ConfirmIntent]) -> Answer:
    """Take the money: a worker asks the provider, and the answer comes within the wait or later."""
    road, intent_id = call.resources.of(Road), call.ids["payment_intent_id"]
    waited = await intent_actions.confirm(
        road,
        asking_of(call),
        intent_id,
        payment_method=as_stored(call.body.payment_method),
        return_url=call.body.return_url,
        wait_seconds=call.wait_seconds,
    )
    return await answer_waited(road, call, waited, location=_location(intent_id))


async def cancel_intent(call: Call[Body]) -> Answer:
    """Give up a payment: at once before the confirmation, by a void afterwards."""
    road, intent_id = call.resources.of(Road), call.ids["payment_intent_id"]
    result = await unless_key_raced(lambda: payment_actions.cancel(road, asking_of(call), intent_id, wait_seconds=call.wait_seconds))
    if isinstance(result, Shown):
        still_open = b'"status":"processing"' in result.data or b'"status":"authorized"' in result.data
        return answer_shown(call, result, status=202 if still_open else 200)
    return await answer_waited(road, call, result, location=_location(intent_id))


def _secretly(road: Road, intent_id: str) -> Callable[[bytes], bytes]:
    """The creation's answer, first or repeated, is where a merchant's server gets the secret for the browser."""
    secret = client_secret(road.settings.server_key, intent_id).encode()
    return lambda data: data[:-1] + b',"client_secret":"' + secret + b'"}'


def _location(intent_id: str) -> str:
    return f"/v1/payment_intents/{typeid('pi', intent_id)}"


_CHANGEABLE = (
    "amount",
    "currency",
    "capture_method",
    "customer_id",
    "payment_method",
    "success_url",
    "cancel_url",
    "reference",
    "description",
    "metadata",
)
_CONFIRMING = (
    PaymentDeclined,
    AuthenticationFailed,
    NoRoute,
    TestCardRequired,
    PaymentMethodRequired,
    IllegalTransition,
    IntentExpired,
    OperationInProgress,
    TooManyAttempts,
)
_LISTED = Query(
    (choice("status", INTENT.statuses), text("reference"), ident("customer_id", "cus"), text("tenant"), *instants("created_at")), pages="pi"
)

ROUTES = (
    Route(
        "POST",
        "/v1/payment_intents",
        create_intent,
        body=CreateIntent,
        answers={201: PaymentIntentView, 202: PaymentIntentView},
        errors=(InvalidCurrency, InvalidValue, *_CONFIRMING),
        waits=True,
    ),
    Route("GET", "/v1/payment_intents", list_intents, query=_LISTED, answers={200: reads.PaymentIntentList}),
    Route("GET", "/v1/payment_intents/{payment_intent_id:pi}", show_intent, answers={200: PaymentIntentView}),
    Route(
        "PATCH",
        "/v1/payment_intents/{payment_intent_id:pi}",
        update_intent,
        body=UpdateIntent,
        answers={200: PaymentIntentView},
        errors=(IllegalTransition, IntentExpired, InvalidCurrency, InvalidValue, TestCardRequired),
        conditional=True,
    ),
    Route(
        "POST",
        "/v1/payment_intents/{payment_intent_id:pi}/confirm",
        confirm_intent,
        body=ConfirmIntent,
        answers={200: PaymentIntentView, 202: PaymentIntentView},
        errors=(*_CONFIRMING, InvalidValue),
        waits=True,
        conditional=True,
    ),
    Route(
        "POST",
        "/v1/payment_intents/{payment_intent_id:pi}/cancel",
        cancel_intent,
        answers={200: PaymentIntentView, 202: PaymentIntentView},
        errors=(IllegalTransition, OperationInProgress, PaymentDeclined),
        waits=True,
        conditional=True,
    ),
)
