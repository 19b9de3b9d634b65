"""One request from its first ASGI message to the last of its answer. Every bad input ends here as a problem document."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from litestar.types import HTTPScope, Receive, Send

from app.core.errors import DomainError, Forbidden, InternalError, MethodNotAllowed, NotFound, ServiceUnavailable, Unauthenticated
from app.http.answers import Answer, complete, is_secure, problem
from app.http.bodies import Body, announced_size, require_json, require_uncompressed, too_large
from app.http.call import Call
from app.http.headers import idempotency_key_of, if_match_of, read_headers, request_id_of, require_acceptable, version_of, waiting_of
from app.http.lists import NOTHING, read_page
from app.http.resources import Resources
from app.identity.model import NOBODY, Caller
from app.identity.tokens import token_of
from app.infra.logs import about
from app.infra.telemetry import spans

if TYPE_CHECKING:
    from app.http.routes import Route

log = logging.getLogger(__name__)

# Sorted keys, so that two spellings of one body have one fingerprint.
_canonical = msgspec.json.Encoder(order="deterministic").encode
_NO_IDS: dict[str, str] = {}


class Disconnected(Exception):
    """The caller went away before the request was complete; nobody is there to answer."""


class Exchange:
    """The methods of one path."""

    __slots__ = ("allowed", "resources", "routes")

    def __init__(self, routes: "Mapping[str, Route]", resources: Resources) -> None:
        self.routes = dict(routes)
        self.resources = resources
        if "GET" in self.routes:
            self.routes["HEAD"] = self.routes["GET"]
        self.allowed = (*sorted(self.routes), "OPTIONS")

    async def serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started_at = time.perf_counter()
        call: Call[Any] = Call()
        route = self.routes.get(scope["method"])
        call.headers, call.request_id, call.api_version, call.path, call.preference_applied = {}, "", "", scope["path"], None
        call.traceparent, call.caller, call.idempotency_key, call.ids, call.answered = "", NOBODY, None, _NO_IDS, None
        about.set(call)
        try:
            call.headers = read_headers(scope["headers"])  # type: ignore[arg-type]
            call.request_id = request_id_of(call.headers.get(b"x-request-id"))
            call.traceparent = spans.begin(spans.accepted(call.headers.get(b"traceparent")))
            if route is None:
                result = self._without_route(scope["method"])
            else:
                await _understand(call, route, scope, receive, self.resources)
                result = await route.act(call)
        except DomainError as error:
            result = problem(error, instance=call.path, request_id=call.request_id)
        except Disconnected:
            return
        except asyncio.CancelledError:
            # The drain's time is over. The caller is told to come again, to another process.
            if not self.resources.draining:
                raise
            result = problem(ServiceUnavailable("This process ends."), instance=call.path, request_id=call.request_id)
        except Exception as error:  # noqa: BLE001 - the last resort; it logs
            result = problem(_unexpected(error, call), instance=call.path, request_id=call.request_id)
        await _send(result, call, scope, send)
        call.answered = result
        for told in self.resources.on_answer:
            told(call, route.label if route is not None else "unrouted", result.status, time.perf_counter() - started_at)

    def _without_route(self, method: str) -> Answer:
        if method == "OPTIONS":
            return Answer(204, b"", [(b"allow", ", ".join(self.allowed).encode())])
        raise MethodNotAllowed(allowed_methods=self.allowed)


async def _understand(call: Call[Any], route: "Route", scope: HTTPScope, receive: Receive, resources: Resources) -> None:
    """Fill `call` in the order in which refusals are told: who, what version, what object, what body."""
    headers = call.headers
    call.resources = resources
    call.route = route.label
    call.caller = NOBODY if route.access == "nobody" else await _authenticate(headers, route, resources)
    call.api_version = version_of(headers.get(b"tollgate-version"), call.caller.api_version)
    require_acceptable(headers.get(b"accept"))
    call.ids = route.read_ids(scope["path_params"]) if route.parameters else {}
    call.wait_seconds, call.preference_applied = waiting_of(headers.get(b"prefer")) if route.waits else (0.0, None)
    call.if_match = if_match_of(headers.get(b"if-match")) if route.conditional else None
    query_string = scope["query_string"]
    call.page = read_page(query_string, route.query, route.filters) if query_string and route.access != "nobody" else NOTHING
    call.idempotency_key, call.fingerprint, call.raw_body, call.body = None, b"", b"", None
    if route.writes:
        await _read_body(call, route, receive)


async def _authenticate(headers: dict[bytes, bytes], route: "Route", resources: Resources) -> Caller:
    token = token_of(headers.get(b"authorization"), headers.get(b"x-api-key"))
    if route.access == "operator":
        caller = await resources.keys.find(token) if token is not None else None
        if caller is None or caller.kind != "operator":
            # Whoever may not be here is not told that there is something.
            raise NotFound("There is nothing here.")
        return caller
    caller = await resources.keys.find(token) if token is not None else None
    if caller is None:
        raise Unauthenticated
    if caller.kind in ("secret", route.access):
        return caller
    if caller.kind == "publishable":
        raise Forbidden("A publishable key may only exchange cards for tokens.")
    raise Forbidden("An operator key opens /v1/ops only.")


async def _read_body(call: Call[Any], route: "Route", receive: Receive) -> None:
    headers = call.headers
    announced_size(headers, route.max_body_bytes)
    raw = await _receive_all(receive, route.max_body_bytes)
    call.raw_body = raw
    if route.decode is None:
        require_uncompressed(headers)
        return
    if raw:
        require_json(headers)
    body: Body = route.decode(raw or b"{}")
    call.body = body
    if body.merchant_id is not None:
        _require_own_merchant(body, call.caller)
    header = headers.get(b"idempotency-key")
    if header is None and body.idempotency_key is None:
        return
    call.idempotency_key = idempotency_key_of(header, body.idempotency_key)
    # The key is no part of what it stands for: once in the header and once in the body is the same request.
    body.idempotency_key = None
    call.fingerprint = fingerprint(call.route, call.ids, body)


def fingerprint(route: str, ids: Mapping[str, str], body: Body) -> bytes:
    """SHA-256 over the route template, the path's ids and the parsed body."""
    return hashlib.sha256(b"\0".join((route.encode(), *(one.encode() for one in ids.values()), _canonical(body)))).digest()


async def _receive_all(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] != "http.request":
        raise Disconnected
    raw: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(raw) > limit:
            raise too_large(limit)
        return raw
    parts, size = [raw], len(raw)
    while message.get("more_body", False):
        if size > limit:
            raise too_large(limit)
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise too_large(limit)
    return b"".join(parts)


def _require_own_merchant(body: Body, caller: Caller) -> None:
    if body.merchant_id != caller.public_merchant_id:
        raise Forbidden("`merchant_id` is not the merchant of this key.", param="merchant_id")
    # Saying who one is adds nothing to the request.
    body.merchant_id = None


def _unexpected(error: Exception, call: Call[Any]) -> DomainError:
    """The last resort: what is the database's absence is told as such, everything else is our fault and is logged."""
    if isinstance(error, (psycopg.OperationalError, TimeoutError)):
        log.warning("unavailable: %s", error, extra={"request_id": call.request_id})
        return ServiceUnavailable()
    log.error("a request failed", exc_info=error, extra={"request_id": call.request_id, "path": call.path})
    return InternalError()


async def _send(result: Answer, call: Call[Any], scope: HTTPScope, send: Send) -> None:
    headers = complete(
        result,
        request_id=call.request_id or request_id_of(None),
        api_version=call.api_version,
        preference_applied=call.preference_applied,
        secure=is_secure(scope["scheme"], call.headers.get(b"x-forwarded-proto")),
    )
    await send({"type": "http.response.start", "status": result.status, "headers": headers})
    await send({"type": "http.response.body", "body": result.body, "more_body": False})
