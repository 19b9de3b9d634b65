"""The batch that confirms intents: lock them, look for the keys, decide, then open payment, operation and outbox row together."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from app.core.errors import (
    DomainError,
    IllegalTransition,
    IntentExpired,
    NoRoute,
    NotFound,
    OperationInProgress,
    PaymentMethodRequired,
    TestCardRequired,
    TooManyAttempts,
    VersionConflict,
)
from app.core.ids import Id, new_id
from app.infra import idempotency
from app.infra.db import Connection
from app.infra.idempotency import KeyRow
from app.payments.keys import key_part, require_same
from app.payments.locks import Locked, confirm_locks, read_locked
from app.payments.model import INTENT, PAYMENT, REQUIRES, Intent, Payment
from app.payments.moves import Moves, browser_url, open_operation, record
from app.payments.write import merged, writing
from app.providers.base import Adapter
from app.providers.registry import NoRoute as NoRouteFound
from app.providers.registry import Registry
from app.risk.model import Attempt, assess
from outbox.round_trip import BEGIN, COMMIT, ROLLBACK, round_trip


class Confirm(msgspec.Struct):
    """`payment_method` None: the one the intent has. `operation_id` is chosen by the caller, who waits for it already."""

    intent_id: Id
    key: KeyRow
    operation_id: Id
    payment_method: dict[str, Any] | None
    return_url: str | None
    if_match: frozenset[int] | None
    now: datetime
    actor: str
    traceparent: str | None
    idempotency_key: str | None = None


class Confirmed(msgspec.Struct):
    """Exactly one of the two: a refusal that wrote nothing, or the operation to wait for (`replayed`: of an earlier request, whose
    `key` it is).
    """

    refusal: DomainError | None = None
    operation_id: Id = ""
    replayed: bool = False
    key: KeyRow | None = None


# The answer, and what is to be written.
Decision = tuple[Confirmed, Moves | None]
Batch = Callable[[Connection, list[Confirm]], Awaitable[tuple[Sequence[Confirmed], frozenset[str]]]]


def touched(confirm: Confirm) -> Iterable[Hashable]:
    return (confirm.intent_id, confirm.key.scope)


def confirm_batch(registry: Registry) -> Batch:
    async def batch(connection: Connection, confirms: list[Confirm]) -> tuple[Sequence[Confirmed], frozenset[str]]:
        """The answers in order, and the queues that are still to be woken now that it is committed."""
        locks = confirm_locks([one.intent_id for one in confirms], [one.key for one in confirms])
        _, rows = await round_trip(connection, BEGIN, locks)
        locked = read_locked(rows)
        decided = [_decide(registry, one, locked) for one in confirms]
        await _look_again(connection, confirms, decided)
        answers = [answer for answer, _ in decided]
        fresh = [(one.key, moves) for one, (_, moves) in zip(confirms, decided, strict=True) if moves is not None]
        if not fresh:
            await round_trip(connection, ROLLBACK)
            return answers, frozenset()
        written = writing(merged([moves for _, moves in fresh]), also=[key_part([key for key, _ in fresh])])
        return answers, written.webhooks(await round_trip(connection, *written.statements, COMMIT, *written.told()))

    return batch


async def _look_again(connection: Connection, confirms: Sequence[Confirm], decided: list[Decision]) -> None:
    """For what was refused: a request under the same key may have committed while we waited for its lock."""
    refused = [position for position, (answer, _) in enumerate(decided) if answer.refusal is not None]
    if not refused:
        return
    (rows,) = await round_trip(connection, idempotency.finding([confirms[position].key for position in refused]))
    found = read_locked(rows).keys
    for position in refused:
        stored = found.get(confirms[position].key.scope)
        if stored is not None:
            decided[position] = _repeated(confirms[position], stored), None


def _repeated(confirm: Confirm, stored: KeyRow) -> Confirmed:
    try:
        earlier = require_same(stored, confirm.key).operation_id or ""
    except DomainError as refusal:
        return Confirmed(refusal=refusal)
    return Confirmed(operation_id=earlier, replayed=earlier != confirm.operation_id, key=stored)


def _decide(registry: Registry, confirm: Confirm, locked: Locked) -> Decision:
    """The answer, and what is to be written; a batch that is run again decides anew from the rows as they are then."""
    stored, intent = locked.keys.get(confirm.key.scope), locked.intents.get(confirm.intent_id)
    if stored is not None:
        return _repeated(confirm, stored), None
    try:
        if intent is None or intent.merchant_id != confirm.key.merchant_id or intent.livemode != confirm.key.livemode:
            raise NotFound
        _require_confirmable(intent, confirm)
        return Confirmed(operation_id=confirm.operation_id), _open(registry, confirm, intent)
    except DomainError as refusal:
        return Confirmed(refusal=refusal), None


def _require_confirmable(intent: Intent, confirm: Confirm) -> None:
    if confirm.if_match is not None and intent.version not in confirm.if_match:
        raise VersionConflict
    if intent.status == "processing":
        raise OperationInProgress("Another confirmation of this intent is under way.")
    if intent.status == "expired" or (intent.status in REQUIRES and intent.expires_at <= confirm.now):
        raise IntentExpired
    if intent.attempt_count >= intent.max_attempts:
        raise TooManyAttempts
    if intent.status not in ("requires_payment_method", "requires_confirmation"):
        raise IllegalTransition(f"An intent that is {intent.status} cannot be confirmed.")
    if confirm.payment_method is None and intent.payment_method is None:
        raise PaymentMethodRequired


def _open(registry: Registry, confirm: Confirm, intent: Intent) -> Moves:
    method = confirm.payment_method or intent.payment_method or {}
    require_test_card(registry, method, livemode=intent.livemode)
    adapter = route(registry, intent, method)
    assess(
        Attempt(
            merchant_id=intent.merchant_id,
            livemode=intent.livemode,
            amount=intent.amount,
            currency=intent.currency,
            method_type=method["type"],
            attempt_count=intent.attempt_count,
            customer_id=intent.customer_id,
        )
    )
    moves = Moves(now=confirm.now, actor=confirm.actor, traceparent=confirm.traceparent)
    payment = _payment(confirm, intent, method, adapter)
    sale = intent.capture_method == "automatic" and adapter.capabilities.sale
    intent.attempt_count += 1
    intent.latest_payment_id = payment.id
    intent.payment_method = method
    intent.return_url = confirm.return_url or intent.return_url or intent.success_url
    record(moves, INTENT, intent, "processing", "processing", operation_id=confirm.operation_id)
    open_operation(
        moves,
        payment,
        "sale" if sale else "authorize",
        amount=intent.amount,
        return_url=browser_url(intent),
        announce=False,
        operation_id=confirm.operation_id,
    )
    record(moves, PAYMENT, payment, "created", "pending_auth", operation_id=confirm.operation_id)
    confirm.key.object_id = intent.id
    confirm.key.operation_id = confirm.operation_id
    return moves


def require_test_card(registry: Registry, method: dict[str, Any], *, livemode: bool) -> None:
    """Raises TestCardRequired."""
    if not livemode and method["type"] == "card" and method["token"] not in registry.test_tokens:
        raise TestCardRequired(param="payment_method.token")


def route(registry: Registry, intent: Intent, method: dict[str, Any]) -> Adapter:
    """The adapter that takes this payment. Raises NoRoute."""
    try:
        return registry.route(livemode=intent.livemode, currency=intent.currency, method=method["type"], provider=intent.provider or "")
    except NoRouteFound as error:
        raise NoRoute(f"{str(error).capitalize()}.") from error


def _payment(confirm: Confirm, intent: Intent, method: dict[str, Any], adapter: Adapter) -> Payment:
    return Payment(
        id=new_id(),
        payment_intent_id=intent.id,
        merchant_id=intent.merchant_id,
        livemode=intent.livemode,
        customer_id=intent.customer_id,
        reference=intent.reference,
        idempotency_key=confirm.idempotency_key,
        amount=intent.amount,
        amount_captured=0,
        amount_refunded=0,
        refund_reserved=0,
        amount_disputed=0,
        currency=intent.currency,
        capture_method=intent.capture_method,
        status="none",
        version=0,
        last_event_id="",
        provider=adapter.name,
        provider_ref=None,
        provider_status=None,
        authorization_id=None,
        authorization_code=None,
        payment_method=method,
        fee=0,
        failure=None,
        pending_operation=None,
        latest_operation=None,
        metadata={},
        created_at=confirm.now,
        updated_at=confirm.now,
        authorized_at=None,
        captured_at=None,
        authorization_expires_at=None,
    )
