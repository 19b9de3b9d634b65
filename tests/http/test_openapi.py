"""The OpenAPI document is built from the routes and valid."""

from typing import Any

from jsonschema import Draft202012Validator

from app import main
from app.http.openapi import describe, errors_of
from tests.http.conftest import LAYER, ROUTES, Web


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


async def test_the_document_names_every_route_and_nothing_else(web: Web) -> None:
    """Each method of each path is there, with the paths as a reader writes them."""
    status, _, document = await web.ask("GET", "/openapi.json", token="")

    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert status == 200
    assert document["openapi"] == "3.1.0"
    assert described == {(route.method, route.template) for route in (*LAYER, *ROUTES)} | {("GET", "/openapi.json")}


def test_every_schema_is_valid_and_every_reference_leads_somewhere() -> None:
    """Schemas are JSON Schema 2020-12, as OpenAPI 3.1 says, and no `$ref` hangs in the air."""
    document = describe((*main.ROUTES, *ROUTES))
    schemas = document["components"]["schemas"]

    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    assert {reference.removeprefix("#/components/schemas/") for reference in _references(document)} <= set(schemas)


def test_operation_ids_are_unique() -> None:
    """Clients are generated from them."""
    document = describe((*main.ROUTES, *ROUTES))
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]

    assert len(names) == len(set(names))


def test_what_a_route_takes_decides_what_it_refuses() -> None:
    """Codes come with bodies, path ids, keys and `If-Match`, so that no route forgets one."""
    codes = {route.label: {error.code for error in errors_of(route)} for route in ROUTES}

    assert {"unknown_field", "idempotency_key_reused", "payload_too_large", "unauthenticated"} <= codes["POST /v1/echoes"]
    assert {"unknown_filter", "invalid_cursor"} <= codes["GET /v1/echoes"]
    assert {"not_found", "version_conflict"} <= codes["POST /v1/echoes/{payment_id}/capture"]
    assert "unauthenticated" not in codes["POST /v1/providers/{name}/events"]
    assert {error.code for route in main.ROUTES if route.access == "operator" for error in errors_of(route)} >= {"not_found"}


async def test_no_answer_is_undocumented(web: Web) -> None:
    """Statuses of refusals that the road can give stand in the document."""
    _, _, document = await web.ask("GET", "/openapi.json", token="")
    create = document["paths"]["/v1/echoes"]["post"]["responses"]

    for status, _, _ in (
        await web.ask("POST", "/v1/echoes", b'{"amount":5,"currency":"USD"}'),
        await web.ask("POST", "/v1/echoes", b"{"),
        await web.ask("POST", "/v1/echoes", b"{}", token=""),
        await web.ask("POST", "/v1/echoes", b"{}", token=web.keys.publishable),
        await web.ask("POST", "/v1/echoes", b"{}", headers={"Accept": "text/html"}),
        await web.ask("POST", "/v1/echoes", b"x" * 300_000),
        await web.ask("POST", "/v1/echoes", b"{}", headers={"Content-Type": "text/plain"}),
        await web.ask("POST", "/v1/echoes", b'{"amount":0,"currency":"USD"}'),
    ):
        assert str(status) in create
