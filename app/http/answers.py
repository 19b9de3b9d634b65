"""Answers: raw bytes with prebuilt headers, problem documents and list envelopes."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from app.core.clock import rfc3339
from app.core.errors import DomainError

Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")
_PROBLEM: Header = (b"content-type", b"application/problem+json")
_REPLAYED: Header = (b"idempotent-replayed", b"true")

_encode = msgspec.json.Encoder().encode


class Answer:
    """A status, a body of finished bytes and the headers that are this route's own."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[Header]) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class ListOf(msgspec.Struct, kw_only=True, tag_field="object", tag="list"):
    """The envelope of every list, newest first."""

    data: list[msgspec.Raw]
    has_more: bool
    url: str


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
    return Answer(200, _encode(ListOf(data=data, has_more=has_more, url=url)), [_JSON])


def problem(error: DomainError, *, instance: str, request_id: str) -> Answer:
    """RFC 9457. Members that do not apply are left out."""
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
