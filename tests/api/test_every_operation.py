"""Every operation of the document with valid requests: each succeeds, and each answer is what the document promises."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from app.core.clock import now, rfc3339
from tests.api.conftest import Installation
from tests.api.feed import provider_event
from tests.api.truth import Document

pytestmark = pytest.mark.xdist_group("openapi")

Json = dict[str, Any]
CARD = {"payment_method": {"type": "card", "token": "tok_sandbox_approved"}}
PAYMENT = {"amount": 2599, "currency": "USD", **CARD}
INTENT, REFUNDS = "/v1/payment_intents/{payment_intent_id}", "/v1/payments/{payment_id}/refunds"
CHECKOUT, ENDPOINT = "/v1/checkout/{payment_intent_id}", "/v1/webhook_endpoints/{webhook_endpoint_id}"
LETTER = "/v1/ops/dead-letters/{dead_letter_id}"


class Caller:
    """Asks by the document's paths and keeps what came of each operation."""

    def __init__(self, installation: Installation, document: Document, session: aiohttp.ClientSession, *, key: str) -> None:
        self.installation = installation
        self.document = document
        self.broken: list[str] = []
        self.succeeded: set[str] = set()
        self._session = session
        self._key = key

    async def ask(
        self, method: str, path: str, body: object = None, *, ids: Json | None = None, headers: Json | None = None, raw: bytes | None = None
    ) -> Any:
        operation = f"{method} {path.partition('?')[0]}"
        key = self.installation.operator_key if path.startswith("/v1/ops") else self._key
        sent = {"Authorization": f"Bearer {key}"} if headers is None else headers
        url = self.installation.system.url + path.format(**(ids or {}))
        if raw is None and body is not None:
            raw, sent = json.dumps(body).encode(), {**sent, "Content-Type": "application/json"}
        async with self._session.request(method, url, data=raw, headers=sent) as response:
            kind = response.headers.get("Content-Type", "")
            shown = await (response.json(content_type=None) if "json" in kind else response.text())
            broken = self.document.broken_by(operation, status=response.status, content_type=kind, body=shown)
            self.broken += [] if broken is None else [broken]
            if response.status < 300:
                self.succeeded.add(operation)
            return shown

    async def intent(self, **members: Any) -> Json:
        shown: Json = await self.ask("POST", "/v1/payment_intents", {**PAYMENT, **members})
        return shown


@pytest.fixture
async def caller(installation: Installation) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        merchant = await installation.merchant("every operation")
        yield Caller(installation, Document(installation.document()), session, key=merchant.secret)


async def _take_payments(caller: Caller) -> Json:
    """Intents, payments and refunds; the payment that was captured."""
    first = await caller.intent(metadata={"order": "1"}, reference="order-1")
    ids = {"payment_intent_id": first["id"]}
    await caller.ask("GET", INTENT, ids=ids)
    await caller.ask("PATCH", INTENT, {"description": "tea", "metadata": {"order": None}}, ids=ids)
    paid = await caller.ask("POST", f"{INTENT}/confirm", {}, ids=ids)
    await caller.ask("POST", f"{INTENT}/cancel", {}, ids={"payment_intent_id": (await caller.intent())["id"]})
    await caller.ask("GET", "/v1/payment_intents")
    captured = {"payment_id": paid["payment_id"]}
    refund = await caller.ask("POST", REFUNDS, {"amount": 100, "reason": "one cup"}, ids=captured)
    for act in ("capture", "void"):
        authorized = await caller.intent(capture_method="manual", confirm=True)
        await caller.ask("POST", f"/v1/payments/{{payment_id}}/{act}", {}, ids={"payment_id": authorized["payment_id"]})
    await caller.ask("GET", "/v1/refunds/{refund_id}", ids={"refund_id": refund["id"]})
    for path in ("/v1/refunds", "/v1/payments"):
        await caller.ask("GET", path)
    for path in ("/v1/payments/{payment_id}", "/v1/payments/{payment_id}/timeline"):
        await caller.ask("GET", path, ids=captured)
    return captured


async def _meet_refusals(caller: Caller, captured: Json) -> None:
    """The answers of the road that are neither success nor malformed: declined, open, in the wrong state, too much, replayed."""
    declined = {"type": "card", "token": "tok_sandbox_declined"}
    await caller.intent(payment_method=declined, confirm=True)
    waiting = await caller.intent(payment_method={"type": "card", "token": "tok_sandbox_authentication_required"}, confirm=True)
    await caller.ask("GET", INTENT, ids={"payment_intent_id": waiting["id"]})
    slow = await caller.intent(payment_method={"type": "card", "token": "tok_sandbox_slow"})
    at_once = {"Authorization": f"Bearer {caller._key}", "Prefer": "respond-async"}
    for _ in range(2):
        await caller.ask("POST", f"{INTENT}/confirm", {}, ids={"payment_intent_id": slow["id"]}, headers=at_once)
    await caller.ask("POST", "/v1/payments/{payment_id}/void", {}, ids=captured)
    await caller.ask("POST", REFUNDS, {"amount": 999_999}, ids=captured)
    await caller.ask("POST", REFUNDS, {"amount": 10, "idempotency_key": "twice"}, ids=captured)
    await caller.ask("POST", REFUNDS, {"amount": 11, "idempotency_key": "twice"}, ids=captured)


async def _pay_in_the_browser(caller: Caller) -> None:
    intent = await caller.intent()
    ids, opened = {"payment_intent_id": intent["id"]}, {"X-Client-Secret": intent["client_secret"]}
    await caller.ask("GET", CHECKOUT, ids=ids, headers=opened)
    await caller.ask("POST", f"{CHECKOUT}/confirm", {}, ids=ids, headers=opened)


async def _listen(caller: Caller) -> None:
    """Webhook endpoints, deliveries and events; the endpoint is a port where nobody listens."""
    made = await caller.ask("POST", "/v1/webhook_endpoints", {"url": "http://127.0.0.1:9/hook", "enabled_events": ["payment.*"]})
    ids = {"webhook_endpoint_id": made["id"]}
    await caller.intent(confirm=True)
    await caller.ask("GET", "/v1/webhook_endpoints")
    await caller.ask("GET", ENDPOINT, ids=ids)
    await caller.ask("PATCH", ENDPOINT, {"description": "the shop", "enabled_events": ["*"]}, ids=ids)
    await caller.ask("POST", f"{ENDPOINT}/rotate_secret", {}, ids=ids)
    await caller.ask("POST", f"{ENDPOINT}/test", {}, ids=ids)
    await caller.ask("GET", f"{ENDPOINT}/deliveries", ids=ids)
    await caller.ask("POST", f"{ENDPOINT}/recover", {"since": rfc3339(now())}, ids=ids)
    feed = await caller.ask("GET", "/v1/events")
    event = {"event_id": feed["data"][0]["id"]}
    await caller.ask("GET", "/v1/events/{event_id}", ids=event)
    await caller.ask("POST", "/v1/events/{event_id}/redeliver", {"webhook_endpoint_id": made["id"]}, ids=event)
    await caller.ask("DELETE", ENDPOINT, ids=ids)


async def _operate(caller: Caller) -> None:
    first, second, _third = await caller.installation.bury(3)
    why = {"reason": "its cause is gone"}
    await caller.ask("GET", "/v1/ops/dead-letters")
    await caller.ask("GET", LETTER, ids={"dead_letter_id": first})
    await caller.ask("POST", f"{LETTER}/replay", why, ids={"dead_letter_id": first})
    await caller.ask("POST", f"{LETTER}/discard", why, ids={"dead_letter_id": second})
    await caller.ask("POST", f"{LETTER}/replay", why, ids={"dead_letter_id": second})
    await caller.ask("POST", "/v1/ops/dead-letters/replay", {**why, "filter": {}, "dry_run": True})
    await caller.ask("GET", "/v1/ops/queues")


async def _call_back(caller: Caller) -> None:
    """A provider's event, signed as the sandbox signs."""
    raw, signed = provider_event("sbevt_every")
    await caller.ask("POST", "/v1/providers/{name}/events", ids={"name": "sandbox"}, headers=signed, raw=raw)


async def test_every_operation_succeeds_as_documented(caller: Caller) -> None:
    """With valid requests each operation gives a success at least once, and no answer breaks the document."""
    captured = await _take_payments(caller)
    await _meet_refusals(caller, captured)
    await _pay_in_the_browser(caller)
    await _listen(caller)
    await _operate(caller)
    await _call_back(caller)
    for path in ("/healthz", "/readyz", "/metrics", "/docs/errors", "/openapi.json"):
        await caller.ask("GET", path)

    assert caller.broken == []
    assert caller.document.operations - caller.succeeded == set()


def test_an_answer_that_breaks_the_document_is_found() -> None:
    """A status, a media type, a member too few and a member too many."""
    document = Document(
        {
            "paths": {
                "/one": {"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/One"}}}}}}}
            },
            "components": {"schemas": {"One": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}}},
        }
    )

    def broken(status: int, kind: str, body: object) -> bool:
        return document.broken_by("GET /one", status=status, content_type=kind, body=body) is not None

    assert not broken(200, "application/json; charset=utf-8", {"id": "1"})
    assert broken(201, "application/json", {"id": "1"})
    assert broken(200, "text/html", "<p>")
    assert broken(200, "application/json", {})
    assert broken(200, "application/json", {"id": "1", "secret": "2"})
