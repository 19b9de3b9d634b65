"""The payer's browser: two routes that the client secret opens, and that show what a payer may see."""

from datetime import timedelta
from typing import Any

import msgspec

from app.core.clock import now
from app.core.errors import (
    AuthenticationFailed,
    DomainError,
    IllegalTransition,
    IntentExpired,
    NoRoute,
    NotFound,
    OperationInProgress,
    PaymentDeclined,
    PaymentMethodRequired,
    TestCardRequired,
    TooManyAttempts,
    Unauthenticated,
)
from app.core.ids import Id, typeid
from app.http import Answer, Body, Call, Route, answer
from app.infra.db import transaction
from app.payments import intent_actions, store
from app.payments.answers import is_refusal
from app.payments.asking import Asking
from app.payments.intent_api import Url
from app.payments.methods import Method, as_stored
from app.payments.model import Intent
from app.payments.road import Road
from app.payments.secrets import is_client_secret

# The page that says thank you is still shown; afterwards the secret opens nothing.
SHOWN_AFTER_THE_END = timedelta(hours=1)
_ENDED = ("succeeded", "failed", "canceled", "expired", "authorized")


class CheckoutConfirm(Body):
    payment_method: Method | None = None
    return_url: Url | None = None


class CheckoutView(msgspec.Struct):
    amount: int
    currency: str
    status: str
    merchant_name: str
    next_action: dict[str, Any] | None


async def show_checkout(call: Call[None]) -> Answer:
    """What a payer is asked to pay, and how it stands."""
    road = call.resources.of(Road)
    intent, merchant_name = await _opened(road, call)
    return answer(200, _view(intent, merchant_name))


async def confirm_checkout(call: Call[CheckoutConfirm]) -> Answer:
    """Pay. The amount is the intent's; nothing that a browser says changes it."""
    road = call.resources.of(Road)
    intent, merchant_name = await _opened(road, call)
    asking = Asking(
        merchant_id=intent.merchant_id,
        livemode=intent.livemode,
        actor="payer",
        # The same key of two payers is two keys.
        route=f"{call.route}#{intent.id}",
        idempotency_key=call.idempotency_key,
        fingerprint=call.fingerprint,
        traceparent=call.traceparent,
    )
    waited = await intent_actions.confirm(
        road,
        asking,
        intent.id,
        payment_method=as_stored(call.body.payment_method),
        return_url=call.body.return_url,
        wait_seconds=call.wait_seconds,
    )
    after, _ = await _read(call, intent.id)
    if waited.answered is None:
        return answer(202, _view(after, merchant_name), location=f"/v1/checkout/{typeid('pi', intent.id)}", retry_after_seconds=1)
    if is_refusal(waited.answered):
        raise _refused(after)
    return answer(200, _view(after, merchant_name), replayed=waited.replayed)


def _refused(intent: Intent) -> DomainError:
    """A payer is told to take another card, not which rule of the issuer's spoke."""
    failed = intent.last_payment_error or {}
    kind = AuthenticationFailed if failed.get("code") == "authentication_failed" else PaymentDeclined
    return kind(retryable=bool(failed.get("retryable")))


async def _opened(road: Road, call: Call[Any]) -> tuple[Intent, str]:
    """The intent that the client secret opens. Raises Unauthenticated; NotFound once it has been over for a while."""
    intent_id, given = call.ids["payment_intent_id"], call.header("x-client-secret")
    if given is None or not is_client_secret(road.settings.server_key, intent_id, given):
        raise Unauthenticated("The header X-Client-Secret does not open this payment.")
    intent, merchant_name = await _read(call, intent_id)
    if intent.status in _ENDED and intent.updated_at + SHOWN_AFTER_THE_END < now():
        raise NotFound
    return intent, merchant_name


async def _read(call: Call[Any], intent_id: Id) -> tuple[Intent, str]:
    # The secret was checked, and it names one intent: whose it is can only be read across merchants.
    async with transaction(call.resources.writer_pool) as connection:
        intent = await store.read_intent(connection, intent_id)
        if intent is None:
            raise NotFound
        row = await (await connection.execute("SELECT name FROM merchants WHERE id = %s::uuid", (intent.merchant_id,))).fetchone()
    return intent, "" if row is None else row[0]


def _view(intent: Intent, merchant_name: str) -> CheckoutView:
    return CheckoutView(intent.amount, intent.currency, intent.status, merchant_name, intent.next_action)


ROUTES = (
    Route(
        "GET",
        "/v1/checkout/{payment_intent_id:pi}",
        show_checkout,
        access="nobody",
        for_payers=True,
        answers={200: CheckoutView},
        errors=(Unauthenticated,),
    ),
    Route(
        "POST",
        "/v1/checkout/{payment_intent_id:pi}/confirm",
        confirm_checkout,
        access="nobody",
        for_payers=True,
        body=CheckoutConfirm,
        waits=True,
        answers={200: CheckoutView, 202: CheckoutView},
        errors=(
            Unauthenticated,
            PaymentDeclined,
            AuthenticationFailed,
            PaymentMethodRequired,
            TestCardRequired,
            NoRoute,
            IllegalTransition,
            IntentExpired,
            OperationInProgress,
            TooManyAttempts,
        ),
    ),
)
