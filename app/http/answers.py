"""Answers: raw bytes with prebuilt headers, problem documents and list envelopes."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec

from app.core.clock import rfc3339
from app.core.errors import DomainError

Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")
_PROBLEM: Header = (b"content-type", b"application/problem+json")
_REPLAYED: Header = (b"idempotent-replayed", b"true")
_NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
_NO_STORE: Header = (b"cache-control", b"no-store")
# Two years, as the preload lists ask for.
_HSTS: Header = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")

_encode = msgspec.json.Encoder().encode


class Answer:
    """A status, a body of finished bytes and the headers that are this route's own."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[Header]) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class _Listing(msgspec.Struct, kw_only=True):
    """The envelope of every list, newest first."""

    object: str = "list"
    data: list[msgspec.Raw]
    has_more: bool
    url: str


def list_of(kind: type) -> type[msgspec.Struct]:
    """The shape of a list of `kind`, for a route's `answers`."""
    members = [("object", Literal["list"]), ("data", list[kind]), ("has_more", bool), ("url", str)]  # type: ignore[valid-type]
    return msgspec.defstruct(f"{kind.__name__}List", members)


def answer(
    status: int,
    body: object = b"",
    *,
    etag: int | None = None,
    location: str | None = None,
    retry_after_seconds: int | None = None,
    replayed: bool = False,
    idempotency_expires_at: datetime | None = None,
    content_type: str | None = None,
) -> Answer:
    """`body` is JSON bytes as they go out, or a struct or dict to encode; `etag` is the object's version."""
    headers = [_JSON if content_type is None else (b"content-type", content_type.encode())]
    if etag is not None:
        headers.append((b"etag", b'"%d"' % etag))
    if location is not None:
        headers.append((b"location", location.encode()))
    if retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % retry_after_seconds))
    if replayed:
        headers.append(_REPLAYED)
    if idempotency_expires_at is not None:
        headers.append((b"idempotency-expires", rfc3339(idempotency_expires_at).encode()))
    return Answer(status, body if isinstance(body, bytes) else _encode(body), headers)


def answer_list(url: str, items: Iterable[object], *, has_more: bool) -> Answer:
    """`items` are JSON bytes or structs, newest first; `url` is the list's path (`call.path`)."""
    data = [msgspec.Raw(item if isinstance(item, bytes) else _encode(item)) for item in items]
    return Answer(200, _encode(_Listing(data=data, has_more=has_more, url=url)), [_JSON])


def problem(
    error: DomainError, *, instance: str, request_id: str, replayed: bool = False, idempotency_expires_at: datetime | None = None
) -> Answer:
    """RFC 9457. Members that do not apply are left out. The last two are for a refusal that is stored under a key: a decline."""
    document: dict[str, Any] = {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": error.http_status,
        "detail": error.detail if error.detail.endswith(error.remedy) else f"{error.detail} {error.remedy}",
        "instance": instance,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if error.param is not None:
        document["param"] = error.param
    if error.errors:
        document["errors"] = [one._asdict() for one in error.errors]
    document.update(error.extra)
    headers = [_PROBLEM]
    if replayed:
        headers.append(_REPLAYED)
    if idempotency_expires_at is not None:
        headers.append((b"idempotency-expires", rfc3339(idempotency_expires_at).encode()))
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    elif error.http_status == 503:
        headers.append((b"retry-after", b"1"))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="tollgate"'))
    if "allowed_methods" in error.extra:
        headers.append((b"allow", ", ".join(error.extra["allowed_methods"]).encode()))
        del document["allowed_methods"]
    return Answer(error.http_status, _encode(document), headers)


def complete(
    result: Answer, *, request_id: str, api_version: str = "", preference_applied: bytes | None = None, secure: bool
) -> list[Header]:
    """The answer's own headers with those that every answer has."""
    headers = result.headers
    if result.status != 204:
        headers.append((b"content-length", b"%d" % len(result.body)))
    headers.append((b"x-request-id", request_id.encode()))
    headers.append(_NOSNIFF)
    headers.append(_NO_STORE)
    if api_version:
        headers.append((b"tollgate-version", api_version.encode()))
    if preference_applied is not None:
        headers.append((b"preference-applied", preference_applied))
    if secure:
        headers.append(_HSTS)
    return headers


def is_secure(scheme: str, forwarded_proto: bytes | None) -> bool:
    """TLS ends here or at the router in front of us; a header that a caller made up binds that caller alone."""
    return scheme == "https" or forwarded_proto == b"https"
