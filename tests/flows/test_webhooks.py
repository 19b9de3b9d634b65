"""From the request to the webhook that verifies: what a merchant's server hears of its payments."""

import asyncio
import json
from typing import Any

from standardwebhooks import Webhook

from tests.flows.shop import Json, Shop, eventually
from tests.webhooks.receiver import Receiver, running


async def listening(shop: Shop, receiver: Receiver, *types: str) -> Json:
    reply = await shop.post("/v1/webhook_endpoints", {"url": f"{receiver.url}/hook", "enabled_events": list(types) or ["*"]})
    assert reply.status == 201, reply
    return reply.json


async def heard(receiver: Receiver, count: int) -> list[Json]:
    """The deliveries, once there are so many."""

    async def look() -> list[Json] | None:
        return receiver.got("/hook") if len(receiver.got("/hook")) >= count else None

    return await eventually(look, what=f"{count} deliveries")


def verified(endpoint: Json, delivery: Json) -> Json:
    told: Any = Webhook(endpoint["secret"]).verify(delivery["body"], {name.lower(): value for name, value in delivery["headers"].items()})
    assert told == json.loads(delivery["body"])
    assert told["id"] == {name.lower(): value for name, value in delivery["headers"].items()}["webhook-id"]
    event: Json = told
    return event


async def test_every_announced_event_arrives_signed_once(shop: Shop) -> None:
    """Authorized, captured, refunded: what the feed lists is what was delivered, each with the object as it was then."""
    async with running() as receiver:
        endpoint = await listening(shop, receiver)
        payment = await shop.authorize()
        await shop.capture(payment, 6000)
        await shop.refund(payment, 1000)
        deliveries = await heard(receiver, 9)
        feed = await eventually(lambda: whole_feed(shop, 9), what="nine events")

        told = {event["id"]: event for event in (verified(endpoint, delivery) for delivery in deliveries)}
        assert len(deliveries) == len(told)
        assert [told[event["id"]] for event in feed] == feed
        assert sorted(event["type"] for event in feed) == [
            *("payment.authorized", "payment.captured", "payment.created", "payment.partially_refunded"),
            *("payment_intent.created", "payment_intent.processing", "payment_intent.succeeded"),
            *("refund.created", "refund.succeeded"),
        ]
        captured = next(event for event in feed if event["type"] == "payment.captured")
        assert (captured["data"]["amount_captured"], captured["data"]["amount_refunded"]) == (6000, 0)
        assert captured["object_id"] == captured["payment_id"] == payment["id"]


async def whole_feed(shop: Shop, count: int) -> list[Json] | None:
    """All events by pages of two, once there are so many."""
    events: list[Json] = []
    cursor = ""
    while True:
        page = await shop.read(f"/v1/events?limit=2{cursor}")
        events += page["data"]
        cursor = f"&cursor={page['next_cursor']}"
        if not page["has_more"]:
            return events if len(events) >= count else None


async def test_the_sequence_of_an_object_rises(shop: Shop) -> None:
    """A receiver can put what it heard into order."""
    async with running() as receiver:
        endpoint = await listening(shop, receiver, "payment.*")
        payment = await shop.pay()
        for _ in range(3):
            await shop.refund(payment, 100)
        events = [verified(endpoint, delivery) for delivery in await heard(receiver, 5)]

    in_order = sorted(events, key=lambda event: event["sequence"])
    assert [event["type"] for event in in_order] == ["payment.created", "payment.captured", *["payment.partially_refunded"] * 3]
    assert len({event["sequence"] for event in events}) == 5
    assert [event["data"]["version"] for event in in_order] == [event["sequence"] for event in in_order]
    assert [event["data"]["amount_refunded"] for event in in_order] == [0, 0, 100, 200, 300]


async def test_a_payments_timeline_shows_its_deliveries(shop: Shop) -> None:
    """With the status that the merchant's server answered."""
    async with running() as receiver:
        endpoint = await listening(shop, receiver, "payment.captured")
        payment = await shop.pay()
        await heard(receiver, 1)

        async def delivered() -> list[Json] | None:
            timeline = await shop.read(f"/v1/payments/{payment['id']}/timeline")
            found = [entry for entry in timeline["data"] if entry["kind"] == "webhook"]
            return found if found and found[0]["what"] == "webhook delivered" else None

        (entry,) = await eventually(delivered, what="a delivery in the timeline")
    assert (entry["detail"]["status_code"], entry["detail"]["attempts"], entry["detail"]["endpoint_id"]) == (200, 1, endpoint["id"])


async def test_nobody_waits_for_a_slow_receiver(shop: Shop) -> None:
    """Payments are answered while deliveries hang, and everything arrives in the end."""
    async with running() as receiver:
        receiver.answer_with(200, delay_ms=700)
        await listening(shop, receiver, "payment.captured")
        payments = await asyncio.wait_for(asyncio.gather(*(shop.pay() for _ in range(5))), timeout=10)
        deliveries = await heard(receiver, 5)

    assert {payment["status"] for payment in payments} == {"captured"}
    assert {json.loads(delivery["body"])["object_id"] for delivery in deliveries} == {payment["id"] for payment in payments}


async def test_a_neighbour_hears_nothing(shop: Shop, neighbour: Shop) -> None:
    """Nor does the other mode."""
    async with running() as receiver:
        await listening(neighbour, receiver)
        live = {"url": f"{receiver.url}/hook", "enabled_events": ["*"]}
        assert (await shop.post("/v1/webhook_endpoints", live, token=shop.merchant.live)).status == 201
        await shop.pay()
        own = await neighbour.intent()
        (delivery,) = await heard(receiver, 1)

    assert json.loads(delivery["body"])["object_id"] == own["id"]
