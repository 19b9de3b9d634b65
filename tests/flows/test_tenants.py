"""What belongs to somebody else is not there: by its id on every route, in every list, and in the other mode."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from app.core.clock import now, rfc3339
from tests.flows.shop import Json, Shop, eventually

# Bodies for routes that would otherwise be refused before anybody looks for the object.
BODIES: dict[str, Json] = {"POST /v1/webhook_endpoints/{webhook_endpoint_id}/recover": {"since": rfc3339(now() - timedelta(hours=1))}}


class Walk(NamedTuple):
    """A route of the OpenAPI document that takes ids; `prefixes` by parameter."""

    method: str
    template: str
    prefixes: dict[str, str]

    def path(self, ids: dict[str, str]) -> str:
        path = self.template
        for name, prefix in self.prefixes.items():
            path = path.replace("{" + name + "}", ids[prefix])
        return path


def routes_with_ids(document: Json) -> Iterator[Walk]:
    """Those a secret key opens; operators' routes have tests of their own."""
    for template, methods in document["paths"].items():
        for verb, operation in methods.items():
            prefixes = {
                one["name"]: found.group(1)
                for one in operation["parameters"]
                if one["in"] == "path" and (found := re.match(r"\^(\w+)_\[", one["schema"].get("pattern", "")))
            }
            if prefixes and {"bearer": []} in operation["security"] and not template.startswith("/v1/ops"):
                yield Walk(verb.upper(), template, prefixes)


async def belongings(shop: Shop) -> dict[str, str]:
    """One object of each kind that a merchant has, by prefix."""
    hook = await shop.post("/v1/webhook_endpoints", {"url": f"{shop.system.sandbox_url}/hook", "enabled_events": ["*"]})
    assert hook.status == 201, hook
    payment = await shop.authorize()
    await shop.capture(payment)
    refund = (await shop.refund(payment, 10)).json

    async def first_event() -> Any:
        page = await shop.read("/v1/events")
        return page["data"][0]["id"] if page["data"] else None

    event = await eventually(first_event, what="an event")
    return {"pi": payment["payment_intent_id"], "pay": payment["id"], "ref": refund["id"], "we": hook.json["id"], "evt": event}


async def test_every_route_answers_404_for_what_is_somebody_elses(shop: Shop, neighbour: Shop) -> None:
    """Another merchant's ids on every route of the document: never 200, never 403, never a fault, and nothing moves."""
    theirs = await belongings(neighbour)
    before = await state(neighbour, theirs)
    document = (await shop.get("/openapi.json")).json
    walks = list(routes_with_ids(document))

    assert {prefix for walk in walks for prefix in walk.prefixes.values()} == set(theirs)
    assert len(walks) >= 15
    for walk in walks:
        body = None if walk.method == "GET" else BODIES.get(f"{walk.method} {walk.template}", {})
        for token in (shop.merchant.secret, neighbour.merchant.live):
            reply = await shop.ask(walk.method, walk.path(theirs), body, token=token)
            assert (reply.status, reply.json["code"]) == (404, "not_found"), (walk, reply)
    assert await state(neighbour, theirs) == before


async def state(shop: Shop, ids: dict[str, str]) -> list[Json]:
    """The objects; how an endpoint fares is left out, because deliveries go on by themselves."""
    return [{name: value for name, value in (await shop.read(path)).items() if name != "health"} for path in paths_of(ids)]


def paths_of(ids: dict[str, str]) -> list[str]:
    kinds = {"pi": "payment_intents", "pay": "payments", "ref": "refunds", "we": "webhook_endpoints", "evt": "events"}
    return [f"/v1/{kinds[prefix]}/{id_}" for prefix, id_ in ids.items()]


async def test_lists_show_ones_own(shop: Shop, neighbour: Shop) -> None:
    """Every list of the document, of another merchant and of the other mode: empty, also when it is asked for by id."""
    theirs = await belongings(neighbour)
    lists = [
        template
        for template, methods in (await shop.get("/openapi.json")).json["paths"].items()
        if "get" in methods and "{" not in template and template.startswith("/v1/") and not template.startswith("/v1/ops")
    ]

    assert len(lists) >= 5
    for path in lists:
        for token in (shop.merchant.secret, neighbour.merchant.live):
            reply = await shop.get(path, token=token)
            assert (reply.status, reply.json["data"]) == (200, []), path
    assert (await shop.read(f"/v1/refunds?payment_id={theirs['pay']}"))["data"] == []
    assert (await shop.read(f"/v1/events?object_id={theirs['pay']}"))["data"] == []
    assert (await shop.read(f"/v1/payments?starting_after={theirs['pay']}"))["data"] == []


async def test_without_a_valid_key_there_is_nothing(shop: Shop) -> None:
    """401 on every route that asks for a key, whatever the id."""
    document = (await shop.get("/openapi.json")).json
    mine = await belongings(shop)

    for walk in routes_with_ids(document):
        body = None if walk.method == "GET" else BODIES.get(f"{walk.method} {walk.template}", {})
        reply = await shop.ask(walk.method, walk.path(mine), body, token="sk_test_guessed")
        assert (reply.status, reply.json["code"]) == (401, "unauthenticated"), walk


async def test_ids_of_another_kind_are_404(shop: Shop) -> None:
    """A payment's id is no intent, and a malformed one is nobody's."""
    payment = await shop.pay()

    for path in (
        f"/v1/payment_intents/{payment['id']}",
        f"/v1/payment_intents/{payment['id'].replace('pay_', 'pi_')}",
        f"/v1/payments/{payment['id'].upper()}",
        "/v1/payments/1",
        f"/v1/refunds/ref_{'z' * 26}",
    ):
        assert (await shop.get(path)).status == 404, path
