"""`/openapi.json`: OpenAPI 3.1 built from the routes themselves, so that it cannot promise what is not there."""

from collections.abc import Sequence
from typing import Any

import msgspec

from app.core.errors import (
    ERRORS,
    DomainError,
    Forbidden,
    IdempotencyInProgress,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    InternalError,
    InvalidAmount,
    InvalidCurrency,
    InvalidCursor,
    InvalidRequest,
    InvalidValue,
    MalformedJson,
    MissingField,
    NotAcceptable,
    NotFound,
    PayloadTooLarge,
    ServiceUnavailable,
    Unauthenticated,
    UnknownField,
    UnknownFilter,
    UnknownVersion,
    UnsupportedMediaType,
    VersionConflict,
)
from app.http.answers import Answer
from app.http.call import Call
from app.http.lists import DEFAULT_LIMIT, MAX_LIMIT, id_schema
from app.http.routes import Route
from app.identity.model import API_VERSIONS

_REF = "#/components/schemas/{name}"
_STATUS_TEXT = {200: "Done.", 201: "Created.", 202: "Accepted; the outcome is not known yet.", 204: "Done, nothing to say."}
_BODY_ERRORS = (
    MalformedJson,
    MissingField,
    UnknownField,
    InvalidAmount,
    InvalidCurrency,
    InvalidValue,
    PayloadTooLarge,
    UnsupportedMediaType,
)
_KEY_ERRORS = (IdempotencyKeyInvalid, IdempotencyKeyReused, IdempotencyInProgress)
# As `headers` reads them: bare or an RFC 8941 string; entity tags as RFC 9110 has them, of which only versions can match.
_KEY = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~][ -~]{0,254})$'
_ENTITY_TAGS = r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$'

Json = dict[str, Any]


class OneError(msgspec.Struct):
    param: str
    code: str
    detail: str


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457, with our own members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    request_id: str
    param: str | None = None
    errors: list[OneError] = []  # msgspec copies it for each
    decline_code: str | None = None
    payment_intent_id: str | None = None
    payment_id: str | None = None
    refund_id: str | None = None
    # What a refusal is about, as the refusal left it.
    payment_intent: dict[str, Any] | None = None
    payment: dict[str, Any] | None = None
    refund: dict[str, Any] | None = None
    pending_operation: dict[str, Any] | None = None


def routes_for(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The route of the document about `routes` and itself."""
    document = b""

    async def openapi_document(_call: Call[None]) -> Answer:
        """This document"""
        return Answer(200, document, [(b"content-type", b"application/json")])

    own = (Route("GET", "/openapi.json", openapi_document, access="nobody", answers={200: "application/json"}),)
    document = msgspec.json.encode(describe((*routes, *own)))
    return own


def describe(routes: Sequence[Route]) -> Json:
    kinds = [Problem]
    for route in routes:
        kinds += [kind for kind in (route.body, *route.answers.values()) if kind is not None and not isinstance(kind, str)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(map(id, kinds), schemas, strict=True))
    components["Problem"]["properties"]["code"]["enum"] = [error.code for error in ERRORS]
    paths: Json = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate",
            "version": API_VERSIONS[-1],
            "description": "Take, capture, refund money. Every error is a problem document.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
    }


_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `sk_test_…`, `sk_live_…`; for /v1/ops `ops_…`."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "client_secret": {"type": "apiKey", "in": "header", "name": "X-Client-Secret", "description": "A payment intent's `client_secret`."},
}


def errors_of(route: Route) -> tuple[type[DomainError], ...]:
    """What this route can refuse: its own codes and those that come with what it takes."""
    found: list[type[DomainError]] = [*route.errors, InvalidRequest, UnknownVersion, NotAcceptable, InternalError, ServiceUnavailable]
    if route.access == "operator":
        found.append(NotFound)
    elif route.access != "nobody":
        found += [Unauthenticated, Forbidden]
    if route.parameters:
        found.append(NotFound)
    if route.access != "nobody":
        found.append(UnknownFilter)
    if route.query is not None and route.query.pages is not None:
        found.append(InvalidCursor)
    if route.writes:
        found += [PayloadTooLarge, UnsupportedMediaType]
    if route.body is not None:
        # Every body may name the merchant, and not another one.
        found += [*_BODY_ERRORS, *_KEY_ERRORS, Forbidden]
    if route.conditional:
        found.append(VersionConflict)
    return tuple(dict.fromkeys(found))


def _operation(route: Route, by_kind: dict[int, Any]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route, by_kind),
        "security": _security(route),
    }
    if route.body is not None:
        required = any(field.required for field in msgspec.structs.fields(route.body))
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": by_kind[id(route.body)]}}}
    return operation


def _security(route: Route) -> list[Json]:
    if route.access != "nobody":
        return [{"bearer": []}, {"api_key": []}]
    return [{"client_secret": []}] if route.for_payers else []


def _responses(route: Route, by_kind: dict[int, Any]) -> Json:
    responses: Json = {}
    for status, kind in route.answers.items():
        responses[str(status)] = one = {"description": _STATUS_TEXT.get(status, "Answered.")}
        if isinstance(kind, str):
            one["content"] = {kind: {"schema": {} if kind == "application/json" else {"type": "string"}}}  # type: ignore[assignment]
        elif kind is not None:
            one["content"] = {"application/json": {"schema": by_kind[id(kind)]}}  # type: ignore[assignment]
    by_status: dict[int, list[str]] = {}
    for error in errors_of(route):
        by_status.setdefault(error.http_status, []).append(error.code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in sorted(codes)),
            "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
    return responses


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": id_schema(prefix) if prefix else {"type": "string", "maxLength": 255}}
        for name, prefix in route.parameters.items()
    ]


def _query_parameters(route: Route) -> list[Json]:
    if route.query is None:
        return []
    schemas: dict[str, Any] = {name: dict(one.schema) for name, one in route.filters.items()}
    if route.query.limited:
        schemas["limit"] = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    if route.query.pages is not None:
        schemas["starting_after"] = id_schema(route.query.pages)
    if route.query.pages is not None and route.query.both_ways:
        schemas["ending_before"] = id_schema(route.query.pages)
    return [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]


def _header_parameters(route: Route) -> list[Json]:
    headers: dict[str, Json] = {}
    if route.access != "nobody":
        headers["Tollgate-Version"] = {"type": "string", "enum": list(API_VERSIONS)}
    if route.body is not None:
        headers["Idempotency-Key"] = {"type": "string", "pattern": _KEY, "examples": ["order-1001", '"order-1001"']}
    if route.waits:
        headers["Prefer"] = {"type": "string", "examples": ["wait=5", "respond-async"]}
    if route.conditional:
        headers["If-Match"] = {"type": "string", "pattern": _ENTITY_TAGS, "examples": ["*", '"3"']}
    return [{"name": name, "in": "header", "schema": schema} for name, schema in headers.items()]
