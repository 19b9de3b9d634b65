"""What a merchant does with an intent before and at its confirmation: create, change, confirm."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.core.clock import now
from app.core.errors import IllegalTransition, IntentExpired, InvalidValue
from app.core.ids import Id, new_id
from app.infra import idempotency
from app.infra.db import Connection
from app.payments.asking import (
    Asking,
    Shown,
    Waited,
    asking_transaction,
    begin,
    earlier_key,
    locked_intent,
    replayed,
    require_version,
    shown,
)
from app.payments.confirm import Confirm, require_test_card, route
from app.payments.create import NewIntent
from app.payments.keys import key_part, require_same
from app.payments.model import INTENT, INTENT_LIFETIME, MAX_ATTEMPTS, REQUIRES, Intent
from app.payments.moves import record
from app.payments.road import Road
from app.payments.write import write

ALWAYS_CHANGEABLE = ("metadata", "description")
# Source: API.md, "Conventions". What a request brings is counted where it is read; this is what it adds up to.
MOST_METADATA_PAIRS = 50


async def create(road: Road, asking: Asking, fields: Mapping[str, Any]) -> tuple[Id, Shown]:
    """A new intent from checked request `fields`, or the answer of the earlier request under the same key.

    Raises IdempotencyKeyReused, InvalidValue (customer_id), TestCardRequired; where it is to be confirmed at once, also NoRoute and
    IdempotencyKeyExpired.
    """
    if fields.get("payment_method") is not None:
        require_test_card(road.registry, fields["payment_method"], livemode=asking.livemode)
    if fields.get("customer_id") is not None:
        async with asking_transaction(road, asking) as connection:
            await _require_customer(connection, fields["customer_id"])
    moves = begin(asking)
    intent = _new_intent(asking, fields, moves.now)
    status = "requires_payment_method" if intent.payment_method is None else "requires_confirmation"
    if fields.get("confirm") and intent.payment_method is not None:
        # Refused before anything is written: what nobody takes leaves no intent behind.
        route(road.registry, intent, intent.payment_method)
    event = record(moves, INTENT, intent, "created", status, operation_id=None)
    # Its repeat must not make another intent of the same order once the key has ended: it goes on to confirm, which moves money.
    key = asking.key(moves.now, moves_money=bool(fields.get("confirm")))
    key.object_id, key.event_id, key.answer_status = intent.id, event.id, 201
    created = await road.create.submit(NewIntent(key, moves))
    if created.stored is None:
        return intent.id, Shown(bytes(event.data), intent.version, key)
    stored = require_same(created.stored, key)
    async with asking_transaction(road, asking) as connection:
        return stored.object_id or "", await replayed(connection, stored)


async def confirm(
    road: Road,
    asking: Asking,
    intent_id: Id,
    *,
    payment_method: dict[str, Any] | None,
    return_url: str | None,
    wait_seconds: float,
    part: str = "",
) -> Waited:
    """Ask the PSP for the money and wait for its answer, within bounds. A repeat under the same key joins the wait.

    Raises NotFound, IllegalTransition, OperationInProgress, IntentExpired, TooManyAttempts, PaymentMethodRequired, NoRoute,
    VersionConflict, IdempotencyKeyReused, IdempotencyKeyExpired.
    """
    moment = now()
    asked = Confirm(
        intent_id=intent_id,
        key=asking.key(moment, moves_money=True, part=part),
        operation_id=new_id(),
        payment_method=payment_method,
        return_url=return_url,
        if_match=asking.if_match,
        now=moment,
        actor=asking.actor,
        traceparent=asking.traceparent,
        idempotency_key=asking.idempotency_key,
    )
    with road.waiters.expecting(asked.operation_id) as flag:
        confirmed = await road.confirm.submit(asked)
        if confirmed.refusal is not None:
            raise confirmed.refusal
        if not confirmed.replayed:
            answered = await road.waiters.wait(asked.operation_id, flag, seconds=wait_seconds)
            return Waited(asked.operation_id, answered, asked.key)
    answered = await road.waiters.join(confirmed.operation_id, seconds=wait_seconds)
    return Waited(confirmed.operation_id, answered, confirmed.key or asked.key, replayed=True)


async def update(road: Road, asking: Asking, intent_id: Id, changes: Mapping[str, Any]) -> Shown:
    """Metadata and description always, the rest before the confirmation.

    Raises NotFound, IllegalTransition, IntentExpired, VersionConflict, InvalidValue (customer_id, metadata), TestCardRequired.
    """
    async with asking_transaction(road, asking) as connection:
        intent = await locked_intent(connection, intent_id)
        earlier = await earlier_key(connection, asking)
        if earlier is not None:
            return await replayed(connection, earlier)
        require_version(intent, asking)
        if changes.get("customer_id") is not None:
            await _require_customer(connection, changes["customer_id"])
        if changes.get("payment_method") is not None:
            require_test_card(road.registry, changes["payment_method"], livemode=asking.livemode)
        _require_changeable(intent, changes)
        moves = begin(asking)
        if not changes:
            key = asking.key(moves.now)
            key.object_id, key.event_id = intent.id, intent.last_event_id
            await idempotency.insert(connection, [key])
            return shown(intent, key)
        for name, value in changes.items():
            setattr(intent, name, _merged(intent.metadata, value) if name == "metadata" else value)
        attached = changes.get("payment_method") is not None
        event = record(
            moves,
            INTENT,
            intent,
            "method_attached" if attached else "updated",
            "requires_confirmation" if attached else intent.status,
            operation_id=None,
        )
        key = asking.key(moves.now)
        key.object_id, key.event_id = intent.id, event.id
        await write(connection, moves, also=[key_part([key])])
    return shown(intent, key)


def _require_changeable(intent: Intent, changes: Mapping[str, Any]) -> None:
    frozen = next((name for name in changes if name not in ALWAYS_CHANGEABLE), None)
    if frozen is None:
        return
    if intent.status not in ("requires_payment_method", "requires_confirmation"):
        raise IllegalTransition(f"`{frozen}` cannot be changed while the intent is {intent.status}.", param=frozen)
    if intent.status in REQUIRES and intent.expires_at <= now():
        raise IntentExpired


def _new_intent(asking: Asking, fields: Mapping[str, Any], moment: datetime) -> Intent:
    return Intent(
        id=new_id(),
        merchant_id=asking.merchant_id,
        livemode=asking.livemode,
        customer_id=fields.get("customer_id"),
        reference=fields.get("reference"),
        amount=fields["amount"],
        currency=fields["currency"],
        capture_method=fields["capture_method"],
        status="none",
        version=0,
        last_event_id="",
        payment_method=fields.get("payment_method"),
        success_url=fields.get("success_url"),
        cancel_url=fields.get("cancel_url"),
        return_url=None,
        description=fields.get("description"),
        metadata=fields.get("metadata") or {},
        provider=fields.get("provider"),
        setup_future_usage=fields.get("setup_future_usage"),
        attempt_count=0,
        max_attempts=MAX_ATTEMPTS,
        latest_payment_id=None,
        authorization_id=None,
        next_action=None,
        last_payment_error=None,
        cancel_requested=None,
        cancellation_reason=None,
        expires_at=moment + INTENT_LIFETIME,
        created_at=moment,
        updated_at=moment,
    )


async def _require_customer(connection: Connection, customer_id: Id) -> None:
    row = await (await connection.execute("SELECT 1 FROM customers WHERE id = %s::uuid", (customer_id,))).fetchone()
    if row is None:
        raise InvalidValue("There is no such customer.", param="customer_id")


def _merged(metadata: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Raises InvalidValue when there would be too many pairs."""
    merged = {name: value for name, value in {**metadata, **changes}.items() if value is not None}
    if len(merged) > MOST_METADATA_PAIRS:
        raise InvalidValue(f"There would be {len(merged)} pairs; {MOST_METADATA_PAIRS} are allowed.", param="metadata")
    return merged
