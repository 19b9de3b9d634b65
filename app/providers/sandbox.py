"""The adapter of the sandbox provider.

What its answers mean here:

| answer | outcome |
|---|---|
| no connection, or none within 5 s | Unavailable: nothing was written |
| 4xx with a decline | Declined |
| 401, 403, 429 in the provider's own words, first attempt | Unavailable: turned away at the door; our key or our rate is wrong |
| 400, 413, 422 in the provider's own words, first attempt | Declined `invalid_request`: these bytes will never be accepted |
| either of them on a later attempt | Unknown: this request was refused, an earlier one under the reference may not have been |
| any other 4xx | Unknown: 409 speaks of another request, and a 404 or 408 may be somebody else's on the way |
| 2xx that repeats what we asked | Approved, ActionRequired or Pending |
| 2xx that does not, or cannot be read; 3xx, 5xx; timeout or reset after the write | Unknown |
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from app.core import clock
from app.providers.base import (
    CHARGE_TYPES,
    ActionRequired,
    Approved,
    BadSignature,
    Capabilities,
    CardFacts,
    Declined,
    NotFound,
    OperationType,
    Outcome,
    Pending,
    ProviderEvent,
    PspRequest,
    Unavailable,
    Unknown,
)
from app.providers.codes import reason_of
from app.providers.exchange import TOTAL_TIMEOUT_SECONDS, Exchange, Reply

# A callback older or newer than this is a replay or a broken clock.
SIGNATURE_TOLERANCE_SECONDS: Final = 300
# The sandbox keeps keys as long as its book; a day is what providers commonly promise, and all that is relied on.
KEY_LIFETIME_SECONDS: Final = 24 * 3600
# Its slowest card takes 5 s and its late effects 3 s; what has not landed after this will not.
SETTLE_WINDOW_SECONDS: Final = 10.0

_TURNED_AWAY: Final = frozenset({401, 403, 429})
_ILL_FORMED: Final = frozenset({400, 413, 422})
_DONE: Final[dict[OperationType, str]] = {
    "sale": "captured",
    "authorize": "authorized",
    "capture": "succeeded",
    "void": "succeeded",
    "refund": "succeeded",
}


class _Card(msgspec.Struct, frozen=True):
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    funding: str = ""


class _Capture(msgspec.Struct, frozen=True):
    status: str
    decline_code: str | None = None
    network_code: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    charge: str
    reference: str
    operation: OperationType
    status: str
    amount: int
    currency: str
    authorization_code: str | None = None
    decline_code: str | None = None
    network_code: str | None = None
    card: _Card | None = None
    redirect_url: str | None = None
    capture: _Capture | None = None


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    created_at: str
    data: _Answer


class _Problem(msgspec.Struct, frozen=True):
    code: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Problem


_read_answer = msgspec.json.Decoder(_Answer)
_read_event = msgspec.json.Decoder(_Event)
_read_refusal = msgspec.json.Decoder(_Refusal)


class SandboxAdapter:
    name = "sandbox"

    def __init__(
        self,
        *,
        url: str,
        key: str,
        callback_secret: str,
        honours_keys: bool = True,
        total_timeout_seconds: float = TOTAL_TIMEOUT_SECONDS,
    ) -> None:
        self._exchange = Exchange(url, {"Authorization": f"Bearer {key}"}, total_timeout_seconds=total_timeout_seconds)
        self._callback_secret = callback_secret.encode()
        self.capabilities = Capabilities(
            sale=True,
            honours_keys=honours_keys,
            key_lifetime_seconds=KEY_LIFETIME_SECONDS,
            can_look_up=True,
            settle_window_seconds=SETTLE_WINDOW_SECONDS,
            methods=frozenset({"card"}),
        )

    async def send(self, request: PspRequest) -> Outcome:
        reply = await self._exchange.post(f"/v1/{request.type}", _body(request), {"Idempotency-Key": request.reference})
        if isinstance(reply, Unknown):
            return reply
        if 200 <= reply.status < 300:
            return _accepted(request, reply)
        if 400 <= reply.status < 500:
            return self._refused(request, reply)
        return Unknown(why=f"answered with status {reply.status}")

    async def look_up(self, reference: str) -> Outcome | NotFound:
        reply = await self._exchange.get(f"/v1/operations/{quote(reference, safe='')}")
        if isinstance(reply, Unknown):
            return reply
        if reply.status == 200:
            answer = _decoded(reply.body)
            if isinstance(answer, Unknown) or answer.reference == reference:
                return answer if isinstance(answer, Unknown) else _outcome(answer)
            return Unknown(why="look-up answered about another reference")
        if reply.status in _TURNED_AWAY:
            raise Unavailable(f"turned away with status {reply.status}")
        if reply.status == 404 and _problem_code(reply.body) == "operation_not_found":
            return NotFound()
        # A 404 without that code is some other server's, or a wrong address: it says nothing about the operation.
        return Unknown(why=f"look-up answered with status {reply.status}")

    def verify_event(self, headers: Mapping[str, str], raw_body: bytes) -> ProviderEvent:
        self._check_signature(next((value for name, value in headers.items() if name.lower() == "sandbox-signature"), ""), raw_body)
        try:
            event = _read_event.decode(raw_body)
            occurred_at = clock.parse_rfc3339(event.created_at)
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadSignature("signed, but not an event of this provider") from error
        return ProviderEvent(event_id=event.id, reference=event.data.reference, outcome=_outcome(event.data), occurred_at=occurred_at)

    async def close(self) -> None:
        await self._exchange.close()

    def _refused(self, request: PspRequest, reply: Reply) -> Outcome:
        answer = _decoded(reply.body)
        proves_nothing = not request.first_attempt and not self.capabilities.honours_keys
        if not isinstance(answer, Unknown) and answer.status == "declined":
            if (answer.reference, answer.operation) != (request.reference, request.type):
                return Unknown(why="declined, but about another operation")
            if proves_nothing:
                return Unknown(why="declined this time; an earlier request under the reference may have gone through")
            return _declined(answer)
        code = _problem_code(reply.body)
        if request.first_attempt and code and reply.status in _TURNED_AWAY:
            raise Unavailable(f"turned away with status {reply.status}: {code[:40]}")
        if request.first_attempt and code and reply.status in _ILL_FORMED:
            return _decline("invalid_request", None, charge="")
        return Unknown(why=f"refused with status {reply.status}, which does not say what became of the operation")

    def _check_signature(self, header: str, raw_body: bytes) -> None:
        if not self._callback_secret:
            raise BadSignature("no callback secret is configured")
        parts = [part.strip().partition("=") for part in header.split(",")]
        stamp = next((value for name, _, value in parts if name == "t"), "")
        # Digits only, and few: int() would also take "1_0", "+1" and other scripts' digits.
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
            raise BadSignature("no time in the signature")
        if abs(clock.now().timestamp() - int(stamp)) > SIGNATURE_TOLERANCE_SECONDS:
            raise BadSignature("the signature is too old or from the future")
        expected = hmac.new(self._callback_secret, stamp.encode() + b"." + raw_body, hashlib.sha256).hexdigest().encode()
        # Several may be given while the secret is rotated; each is compared in constant time.
        given = [hmac.compare_digest(value.encode(errors="replace"), expected) for name, _, value in parts if name == "v1"]
        if not any(given):
            raise BadSignature("the signature does not match")


def _body(request: PspRequest) -> bytes:
    members: dict[str, object] = {"reference": request.reference}
    if request.type in CHARGE_TYPES:
        members |= {"amount": request.amount, "currency": request.currency, "payment_method": request.token}
        members |= {"merchant_reference": request.merchant_reference, "return_url": request.return_url}
    elif request.type == "void":
        members |= {"charge": request.provider_ref}
    else:
        members |= {"charge": request.provider_ref, "amount": request.amount, "currency": request.currency}
    return msgspec.json.encode(members)


def _accepted(request: PspRequest, reply: Reply) -> Outcome:
    answer = _decoded(reply.body)
    if isinstance(answer, Unknown):
        return answer
    if (answer.reference, answer.operation) != (request.reference, request.type):
        return Unknown(why="answered about another operation")
    # A void is always of the whole authorization, whatever amount the caller filled in.
    if request.type != "void" and (answer.amount, answer.currency) != (request.amount, request.currency):
        return Unknown(why=f"answered {answer.amount} {answer.currency} when asked for {request.amount} {request.currency}")
    if request.type not in CHARGE_TYPES and answer.charge != request.provider_ref:
        return Unknown(why="answered about another charge")
    return _outcome(answer)


def _outcome(answer: _Answer) -> Outcome:
    if not answer.charge:
        return Unknown(why="answer names no charge")
    if answer.status == "declined":
        return _declined(answer)
    if answer.status == "pending":
        return Pending(provider_ref=answer.charge)
    if answer.status == "requires_action" and answer.redirect_url:
        return ActionRequired(provider_ref=answer.charge, redirect_url=answer.redirect_url)
    refused = _capture_declined(answer)
    if answer.status == _DONE[answer.operation] or refused is not None:
        return Approved(
            provider_ref=answer.charge,
            amount=answer.amount,
            currency=answer.currency,
            authorization_code=answer.authorization_code or "",
            card=CardFacts(**msgspec.structs.asdict(answer.card)) if answer.card is not None else None,
            capture_declined=refused,
        )
    return Unknown(why=f"status {answer.status[:40]!r} is not one of a {answer.operation}")


def _capture_declined(answer: _Answer) -> Declined | None:
    """A sale of which only the authorization stands."""
    capture = answer.capture
    if answer.operation != "sale" or answer.status != "authorized" or capture is None or capture.status != "declined":
        return None
    return _decline(capture.decline_code, capture.network_code, charge=answer.charge)


def _declined(answer: _Answer) -> Declined:
    return _decline(answer.decline_code, answer.network_code, charge=answer.charge)


def _decline(code: str | None, network_code: str | None, *, charge: str) -> Declined:
    row = reason_of(code or "", network_code=network_code or "")
    return Declined(reason=row.reason, network_code=network_code or "", message=row.message, provider_ref=charge)


def _decoded(body: bytes) -> _Answer | Unknown:
    try:
        return _read_answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Unknown(why="answer cannot be read")


def _problem_code(body: bytes) -> str:
    try:
        return _read_refusal.decode(body).error.code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
