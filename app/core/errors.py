"""The closed table of refusals: code, HTTP status, whether the same request may succeed later, what to do.

An error class's docstring is its message to the caller; `detail` says more where more is known. `docs/errors.md` is printed from here.
400 is malformed, 409 "not now or not any more", 422 "never like this". Nothing outside this module adds a code.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypedDict, Unpack


class FieldError(NamedTuple):
    """One of several things wrong with a request."""

    param: str
    code: str
    detail: str


class Extra(TypedDict, total=False):
    """Members of a problem document that some codes carry beside the common ones."""

    decline_code: str
    payment_intent_id: str
    payment_id: str
    refund_id: str
    payment_intent: object
    payment: object
    refund: object
    pending_operation: object
    allowed_methods: tuple[str, ...]


class DomainError(Exception):
    """Something the caller can mend; becomes problem+json and is never retried by us."""

    code: ClassVar[str]
    http_status: ClassVar[int]
    title: ClassVar[str]
    remedy: ClassVar[str]
    retryable: bool = False

    def __init_subclass__(cls, *, code: str, status: int, remedy: str, retryable: bool = False) -> None:
        super().__init_subclass__()
        cls.code, cls.http_status, cls.remedy, cls.retryable = code, status, remedy, retryable
        cls.title = code.replace("_", " ").capitalize()

    def __init__(
        self,
        detail: str = "",
        *,
        param: str | None = None,
        errors: Sequence[FieldError] = (),
        retryable: bool | None = None,
        retry_after_seconds: int | None = None,
        **extra: Unpack[Extra],
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "")
        super().__init__(self.detail)
        self.param = param
        self.errors = tuple(errors)
        self.extra = extra
        self.retry_after_seconds = retry_after_seconds
        if retryable is not None:
            # The issuer decides this for a decline; for all other codes the class has said it.
            self.retryable = retryable


# --- 400: malformed -----------------------------------------------------------------------------------------------------------


class MalformedJson(DomainError, code="malformed_json", status=400, remedy="Send one JSON object in UTF-8, without duplicate keys."):
    """The body is not a JSON object that can be read safely."""


class InvalidRequest(DomainError, code="invalid_request", status=400, remedy="Mend the member named in `param` and send it again."):
    """A part of the request has the wrong type or form."""


class MissingField(DomainError, code="missing_field", status=400, remedy="Add the member named in `param`."):
    """A required member of the body is absent."""


class UnknownField(DomainError, code="unknown_field", status=400, remedy="Remove the member named in `param`, or correct its spelling."):
    """The body has a member that this route does not know."""


class UnknownFilter(DomainError, code="unknown_filter", status=400, remedy="Use only the query parameters that the route documents."):
    """The query has a parameter that this route does not know."""


class UnknownVersion(DomainError, code="unknown_version", status=400, remedy="Send a version from the change log, or none."):
    """There is no API version of this date."""


class InvalidCursor(
    DomainError, code="invalid_cursor", status=400, remedy="Pass a cursor exactly as an answer gave it, or start again without."
):
    """This cursor was not issued by this route."""


class IdempotencyKeyInvalid(
    DomainError, code="idempotency_key_invalid", status=400, remedy="Send one key of 1 to 255 characters, in the header or in the body."
):
    """The idempotency key is empty, too long, or differs between header and body."""


class SignatureInvalid(
    DomainError,
    code="signature_invalid",
    status=400,
    remedy="Sign the raw body with the secret that both sides hold, with a fresh timestamp.",
):
    """The callback's signature does not verify."""


# --- 401 to 415: who asks, and what for ---------------------------------------------------------------------------------------


class Unauthenticated(DomainError, code="unauthenticated", status=401, remedy="Send a valid API key as `Authorization: Bearer sk_…`."):
    """There is no API key, or it is not valid any more."""


class PaymentDeclined(
    DomainError, code="payment_declined", status=402, remedy="Read `decline_code` and `retryable`; ask the payer for another method."
):
    """The payment was declined."""


class AuthenticationFailed(
    DomainError, code="authentication_failed", status=402, remedy="Confirm again; the payer has to pass the issuer's challenge."
):
    """The payer was not authenticated by the issuer."""


class Forbidden(DomainError, code="forbidden", status=403, remedy="Use a key that has this permission."):
    """This key may not do this."""


class NotFound(DomainError, code="not_found", status=404, remedy="Check the id, and that the key is of the same merchant and mode."):
    """There is no such object for this key."""


class MethodNotAllowed(DomainError, code="method_not_allowed", status=405, remedy="Use one of the methods in the `Allow` header."):
    """This route does not take this method."""


class NotAcceptable(DomainError, code="not_acceptable", status=406, remedy="Accept `application/json`."):
    """The answer cannot be given in a form that the request accepts."""


class PayloadTooLarge(DomainError, code="payload_too_large", status=413, remedy="Send a body within the limit."):
    """The body is larger than this route takes."""


class UnsupportedMediaType(
    DomainError, code="unsupported_media_type", status=415, remedy="Send `Content-Type: application/json`, not compressed."
):
    """The body is not `application/json`."""


# --- 409 and 412: not now, or not any more ------------------------------------------------------------------------------------


class IllegalTransition(DomainError, code="illegal_transition", status=409, remedy="Read the object; its status decides what can be done."):
    """The object's status does not allow this."""


class OperationInProgress(
    DomainError,
    code="operation_in_progress",
    status=409,
    retryable=True,
    remedy="Wait until `pending_operation` is closed, then decide again.",
):
    """Another operation on this payment is still open."""


class IdempotencyInProgress(
    DomainError, code="idempotency_in_progress", status=409, retryable=True, remedy="Send the same request again after `Retry-After`."
):
    """The first request with this idempotency key is not committed yet."""


class IdempotencyKeyExpired(
    DomainError, code="idempotency_key_expired", status=409, remedy="Read the object named in the answer; use a new key for a new request."
):
    """This key moved money longer ago than its answer is kept; nothing was moved again."""


class IntentExpired(DomainError, code="intent_expired", status=409, remedy="Create a new payment intent."):
    """The payment intent has expired."""


class TooManyAttempts(DomainError, code="too_many_attempts", status=409, remedy="Create a new payment intent."):
    """The payment intent has used up its attempts."""


class SecretAlreadyShown(DomainError, code="secret_already_shown", status=409, remedy="Rotate the secret to get a new one."):
    """The secret was shown once and is not stored in readable form."""


class DeadLetterClosed(DomainError, code="dead_letter_closed", status=409, remedy="Read the dead letter; it names who acted and when."):
    """The dead letter was replayed or discarded before."""


class VersionConflict(DomainError, code="version_conflict", status=412, remedy="Read the object and decide again with its new `ETag`."):
    """The object has changed since the version named in `If-Match`."""


# --- 422: understood, and never like this -------------------------------------------------------------------------------------


class InvalidAmount(DomainError, code="invalid_amount", status=422, remedy="Send an integer of minor units from 1 to 999999999999."):
    """The amount is not a whole number of minor units within the limits."""


class InvalidCurrency(DomainError, code="invalid_currency", status=422, remedy="Send an active ISO 4217 code in upper case."):
    """The currency is not an active ISO 4217 code."""


class CurrencyUnsupported(
    DomainError, code="currency_unsupported", status=422, remedy="Use a currency that a provider of this mode takes."
):
    """No provider takes this currency."""


class InvalidValue(DomainError, code="invalid_value", status=422, remedy="Send a value that the reference allows for `param`."):
    """A value is well formed and not allowed here."""


class AmountExceedsAuthorized(DomainError, code="amount_exceeds_authorized", status=422, remedy="Capture at most `amount_capturable`."):
    """The amount is more than was authorized."""


class AmountExceedsRefundable(
    DomainError, code="amount_exceeds_refundable", status=422, remedy="Refund at most `amount_refundable`; pending refunds count."
):
    """The amount is more than is left to refund."""


class NoRoute(DomainError, code="no_route", status=422, remedy="Use a mode, currency and method that a provider is set up for."):
    """No provider takes this combination of mode, currency and payment method."""


class TestCardRequired(DomainError, code="test_card_required", status=422, remedy="Use one of the sandbox cards or tokens in test mode."):
    """Test mode takes sandbox cards only."""

    __test__ = False


class PaymentMethodRequired(DomainError, code="payment_method_required", status=422, remedy="Send `payment_method` with the confirmation."):
    """The payment intent has no payment method to confirm with."""


class WebhookUrlRefused(
    DomainError, code="webhook_url_refused", status=422, remedy="Use an https URL whose host resolves to public addresses only."
):
    """Webhooks are not sent to this URL."""


class IdempotencyKeyReused(
    DomainError, code="idempotency_key_reused", status=422, remedy="Use a new key, or send exactly the first request again."
):
    """This idempotency key was used with another request."""


# --- 429 and up: not the caller's request -------------------------------------------------------------------------------------


class RateLimited(DomainError, code="rate_limited", status=429, retryable=True, remedy="Wait for `Retry-After`, then slow down."):
    """Too many requests."""


class InternalError(
    DomainError,
    code="internal_error",
    status=500,
    retryable=True,
    remedy="Send it again with the same idempotency key; report `request_id`.",
):
    """Something broke on our side."""


class ServiceUnavailable(
    DomainError, code="service_unavailable", status=503, retryable=True, remedy="Send it again after `Retry-After`, with the same key."
):
    """The gateway cannot take this request at the moment."""


ERRORS: tuple[type[DomainError], ...] = tuple(sorted(DomainError.__subclasses__(), key=lambda error: (error.http_status, error.code)))
