"""What a route's function is given: one request, understood."""

from typing import TYPE_CHECKING, Generic, TypeVar

from app.core.errors import VersionConflict
from app.core.ids import Id
from app.http.lists import Page
from app.http.resources import Resources
from app.identity.model import Caller
from app.infra.logs import Fields
from app.infra.telemetry import spans

if TYPE_CHECKING:
    from app.http.answers import Answer

B = TypeVar("B")

# What a log line calls the object that a path or an answer is about.
_NAMES = {"pi": "payment_intent_id", "pay": "payment_id", "re": "refund_id", "evt": "event_id", "we": "endpoint_id"}
_OBJECT = b'{"id":"'
_PAYMENT = b'"payment_id":'


class Call(Generic[B]):
    """Filled by the exchange before the route's function runs."""

    __slots__ = (
        "answered",
        "api_version",
        "body",
        "caller",
        "fingerprint",
        "headers",
        "idempotency_key",
        "ids",
        "if_match",
        "page",
        "path",
        "preference_applied",
        "raw_body",
        "request_id",
        "resources",
        "route",
        "traceparent",
        "wait_seconds",
    )

    caller: Caller
    request_id: str
    # Of this request's span: what its outbox rows and everything that follows from them belong to.
    traceparent: str
    api_version: str
    # `POST /v1/payments/{payment_id}/capture`: the scope of an idempotency key, and the label of metrics and spans.
    route: str
    path: str
    # Path ids without their prefix, and other path parts as they are.
    ids: dict[str, Id]
    headers: dict[bytes, bytes]
    body: B
    raw_body: bytes
    idempotency_key: str | None
    # Over route, path ids and the parsed body; empty without an idempotency key.
    fingerprint: bytes
    # How long the caller is ready to wait for an outcome.
    wait_seconds: float
    preference_applied: bytes | None
    # The versions that `If-Match` names; None when any will do.
    if_match: frozenset[int] | None
    page: Page
    resources: Resources
    # Once there is one.
    answered: "Answer | None"

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def require_version(self, version: int) -> None:
        """Raises VersionConflict when `If-Match` names other versions."""
        if self.if_match is not None and version not in self.if_match:
            raise VersionConflict

    def log_fields(self) -> Fields:
        """What lines and spans say of this request; asked when one is written."""
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "trace_id": spans.trace_id(self.traceparent),
            "merchant_id": self.caller.public_merchant_id or None,
            "idempotency_key": self.idempotency_key,
        }
        if self.ids:
            _name(fields, self.path.split("/", 4)[3])
        if self.answered is not None:
            _name_answered(fields, self.answered.body)
        return fields


def _name(fields: dict[str, object], id_: str) -> None:
    name = _NAMES.get(id_.partition("_")[0])
    if name is not None:
        fields[name] = id_


def _name_answered(fields: dict[str, object], body: bytes) -> None:
    """Objects begin with their id. The payment is the last to be named, behind everything that a merchant may have written."""
    if body.startswith(_OBJECT):
        _name(fields, body[7 : body.index(b'"', 7)].decode())
    elif not body.startswith(b'{"type"'):
        return
    if "payment_id" not in fields:
        at = body.rfind(_PAYMENT) + 13
        if body.startswith(b'"pay_', at):
            fields["payment_id"] = body[at + 1 : at + 31].decode(errors="replace")
