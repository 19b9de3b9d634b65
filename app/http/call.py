"""What a route's function is given: one request, understood."""

from typing import Generic, TypeVar

from app.core.errors import VersionConflict
from app.core.ids import Id
from app.http.lists import Page
from app.http.resources import Resources
from app.identity.model import Caller

B = TypeVar("B")


class Call(Generic[B]):
    """Filled by the exchange before the route's function runs."""

    __slots__ = (
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
        "wait_seconds",
    )

    caller: Caller
    request_id: str
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

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def require_version(self, version: int) -> None:
        """Raises VersionConflict when `If-Match` names other versions."""
        if self.if_match is not None and version not in self.if_match:
            raise VersionConflict
