"""What Schemathesis is given so that it gets somewhere: objects that exist, and for what uses objects up, some of its own."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from app.core.clock import now, rfc3339
from tests.api.conftest import Installation, Json
from tests.flows.running import CALLBACK_SECRET
from tests.flows.shop import Shop

# How often a parameter is something that exists, and not only something that could.
KNOWN = 0.7
# Of each object that an operation uses up.
SUPPLY = 12
# A port where nobody listens: webhooks of whatever is made here go no further.
NOWHERE = "http://127.0.0.1:9/hook"
CARDS = ("approved", "declined", "authentication_required", "capture_declined", "refund_pending")

Values = list[str]
# By parameter, such as `path.payment_id`.
Parameters = dict[str, Values | list[int]]

# Of text the document knows only the form.
TEXTS: Parameters = {
    "body.amount": [1, 50, 100],
    "body.currency": ["USD", "EUR", "JPY", "KWD"],
    "body.payment_method.token": [f"tok_sandbox_{name}" for name in CARDS],
    "body.url": [NOWHERE],
    "body.enabled_events.[*]": ["*", "payment.*", "refund.succeeded"],
    "path.name": ["sandbox"],
    "query.type": ["payment.captured"],
}


class Feed:
    """`everywhere`, and by operation what is only its own: parameters, or one intent with the secret that opens it."""

    def __init__(self) -> None:
        self.everywhere: Parameters = dict(TEXTS)
        self.own: dict[str, Parameters] = {}
        self.opened: dict[str, Json] = {}

    def configuration(self) -> Json:
        """The members of a Schemathesis configuration that carry it."""
        dictionaries: Json = {}

        def bound(parameters: Parameters) -> Json:
            found = {}
            for name, values in parameters.items():
                dictionaries[f"list-{len(dictionaries)}"] = {"values": values}
                found[name] = {"dictionary": f"list-{len(dictionaries) - 1}", "probability": KNOWN}
            return found

        operations = [{"include-name": label, "parameters": bound(own)} for label, own in self.own.items()]
        operations += [
            {
                "include-name": label,
                "headers": {"X-Client-Secret": intent["client_secret"]},
                "parameters": {"path.payment_intent_id": intent["id"]},
            }
            for label, intent in self.opened.items()
        ]
        return {"parameters": bound(self.everywhere), "operations": operations, "dictionaries": dictionaries}


async def prepare(installation: Installation, shop: Shop) -> Feed:
    feed = Feed()
    captured = await _many(shop.pay)
    refunds = [(await shop.refund(payment, 1)).json for payment in captured[:3]]
    endpoints = await _many(lambda: _endpoint(shop))
    # Something to send again, now that somebody listens.
    await shop.refund(captured[0], 1)
    page = await shop.read("/v1/events?limit=10")
    letters = await installation.bury(3 * SUPPLY)
    feed.everywhere |= {
        "path.payment_intent_id": _ids(await _many(shop.intent)),
        "path.payment_id": _ids(captured),
        "path.refund_id": _ids(refunds),
        "path.webhook_endpoint_id": _ids(endpoints[3:]),
        "path.event_id": _ids(page["data"]),
        "path.dead_letter_id": letters[2 * SUPPLY :],
        "body.since": [rfc3339(now() - timedelta(hours=1))],
        "query.object_id": _ids(captured),
        "query.cursor": [page["next_cursor"]],
        "body.merchant_id": [captured[0]["merchant_id"]],
        "body.webhook_endpoint_id": _ids(endpoints[3:]),
    }
    for act in ("confirm", "cancel"):
        feed.own[f"POST /v1/payment_intents/{{payment_intent_id}}/{act}"] = {"path.payment_intent_id": _ids(await _many(shop.intent))}
    for act in ("capture", "void"):
        feed.own[f"POST /v1/payments/{{payment_id}}/{act}"] = {"path.payment_id": _ids(await _many(shop.authorize))}
    feed.own["DELETE /v1/webhook_endpoints/{webhook_endpoint_id}"] = {"path.webhook_endpoint_id": _ids(endpoints[:3])}
    feed.own["POST /v1/ops/dead-letters/{dead_letter_id}/replay"] = {"path.dead_letter_id": letters[:SUPPLY]}
    feed.own["POST /v1/ops/dead-letters/{dead_letter_id}/discard"] = {"path.dead_letter_id": letters[SUPPLY : 2 * SUPPLY]}
    feed.opened["GET /v1/checkout/{payment_intent_id}"] = await shop.intent()
    feed.opened["POST /v1/checkout/{payment_intent_id}/confirm"] = await shop.intent()
    return feed


def provider_event(event_id: str) -> tuple[bytes, dict[str, str]]:
    """An event of the sandbox provider about nothing of ours, with the headers that sign it."""
    about = {"charge": "ch_1", "reference": "op_1", "operation": "sale", "status": "approved", "amount": 1, "currency": "USD"}
    body = json.dumps({"id": event_id, "type": "operation.updated", "created_at": rfc3339(now()), "data": about}).encode()
    at = str(int(time.time()))
    mac = hmac.new(CALLBACK_SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return body, {"Sandbox-Signature": f"t={at},v1={mac}", "Content-Type": "application/json"}


async def _many(make: Callable[[], Awaitable[Json]]) -> list[Json]:
    return list(await asyncio.gather(*(make() for _ in range(SUPPLY))))


async def _endpoint(shop: Shop) -> Json:
    return (await shop.post("/v1/webhook_endpoints", {"url": NOWHERE, "enabled_events": ["*"]})).json


def _ids(objects: Iterable[Json]) -> Values:
    return [one["id"] for one in objects]
