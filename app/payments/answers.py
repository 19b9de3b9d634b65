"""Results of the road as HTTP answers: final, refused by the PSP, or still open."""

from collections.abc import Callable
from typing import Any

import msgspec

from app.core.errors import AuthenticationFailed, DomainError, PaymentDeclined
from app.core.ids import Id, typeid
from app.http import Answer, Call, answer
from app.http.answers import problem
from app.payments import store
from app.payments.asking import Asking, Shown, Waited, asking_transaction
from app.payments.present import render
from app.payments.road import Road
from app.payments.waiting import Answered
from app.providers.codes import reason_of

# How soon a caller that did not want to wait should look again.
LOOK_AGAIN_SECONDS = 1


def asking_of(call: Call[Any]) -> Asking:
    caller = call.caller
    return Asking(
        merchant_id=caller.merchant_id,
        livemode=caller.livemode,
        actor=f"api_key:{typeid('key', caller.key_id)}",
        route=call.route,
        idempotency_key=call.idempotency_key,
        fingerprint=call.fingerprint,
        if_match=call.if_match,
        traceparent=call.traceparent,
    )


def answer_shown(call: Call[Any], shown: Shown, *, status: int = 200) -> Answer:
    """What was done at once."""
    expires_at = shown.key.expires_at if call.idempotency_key is not None else None
    return answer(status, shown.data, etag=shown.version, replayed=shown.replayed, idempotency_expires_at=expires_at)


def as_it_is(data: bytes) -> bytes:
    return data


async def answer_waited(
    road: Road,
    call: Call[Any],
    waited: Waited,
    *,
    location: str,
    done_status: int = 200,
    show: Callable[[bytes], bytes] = as_it_is,
) -> Answer:
    """200 (201) with the final state, 402 with the whole object, or 202 with the present state; `show` adds what no event keeps."""
    expires_at = waited.key.expires_at if call.idempotency_key is not None else None
    answered = waited.answered
    if answered is None:
        data, version = await _present(road, asking_of(call), waited)
        return answer(202, show(data), etag=version, location=location, retry_after_seconds=LOOK_AGAIN_SECONDS)
    data = show(answered.data.encode())
    if is_refusal(answered):
        return problem(
            refused(answered, data),
            instance=call.path,
            request_id=call.request_id,
            replayed=waited.replayed,
            idempotency_expires_at=expires_at,
        )
    return answer(done_status, data, etag=answered.version, replayed=waited.replayed, idempotency_expires_at=expires_at)


_REFUSALS = frozenset({"payment_failed", "failed", "capture_failed", "operation_closed"})


def is_refusal(answered: Answered) -> bool:
    """Whether a PSP said no. What ended without its word, as a challenge that nobody answered, is told as it stands.

    Read from the event that answered and not from what became of the operation later: a final answer stays.
    """
    return answered.event in _REFUSALS or (answered.event == "canceled" and "reason" in (answered.outcome or {}))


def refused(answered: Answered, data: bytes) -> DomainError:
    """402 with the object as the refusal left it; stored, and so the same when it is asked again."""
    told = answered.outcome or {}
    reason = told.get("reason") or "processing_error"
    shown = msgspec.Raw(data)
    kind = AuthenticationFailed if reason == "authentication_failed" else PaymentDeclined
    error = kind(told.get("message") or "", retryable=reason_of(reason).retryable, decline_code=reason)
    if answered.object_type == "payment_intent":
        error.extra["payment_intent"] = shown
    elif answered.object_type == "refund":
        error.extra["refund"] = shown
    else:
        error.extra["payment"] = shown
    payment_id = _payment_id(answered.data)
    if payment_id is not None:
        error.extra["payment_id"] = payment_id
    return error


class _Facts(msgspec.Struct):
    payment_id: str | None = None


_read_facts = msgspec.json.Decoder(_Facts).decode


def _payment_id(data: str) -> str | None:
    return _read_facts(data).payment_id


async def _present(road: Road, asking: Asking, waited: Waited) -> tuple[bytes, int]:
    """The object as it is now: the refund or payment that the key leads to, else the intent."""
    async with asking_transaction(road, asking) as connection:
        object_id: Id = waited.key.object_id or ""
        row = (
            await store.read_refund(connection, object_id)
            or await store.read_payment(connection, object_id)
            or await store.read_intent(connection, object_id)
        )
    if row is None:
        raise LookupError(f"the key of operation {waited.operation_id} leads nowhere")
    return render(row), row.version
