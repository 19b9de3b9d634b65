"""How long a caller waits for a worker, and what it is told meanwhile."""

import asyncio
import time

import pytest

from tests.flows.shop import Shop, method


@pytest.mark.parametrize(("prefer", "applied"), [("wait=0", "wait=0"), ("respond-async", "respond-async")])
async def test_whoever_does_not_wait_is_told_where_to_look(shop: Shop, prefer: str, applied: str) -> None:
    """202 with the present state, `Location` and `Retry-After`."""
    intent = await shop.intent("slow")
    reply = await shop.confirm(intent, prefer=prefer)
    done = await shop.until(reply.headers["location"], status="succeeded")

    assert (reply.status, reply.json["status"], reply.headers["preference-applied"]) == (202, "processing", applied)
    assert (done["id"], int(reply.headers["retry-after"]) >= 1) == (intent["id"], True)
    assert reply.headers["etag"] == f'"{reply.json["version"]}"'


async def test_a_bounded_wait_ends_when_it_said(shop: Shop) -> None:
    """wait=1 for something that takes three seconds is answered after one, while it is still open."""
    shop.system.be(slow_seconds=3.0)
    intent = await shop.intent("slow")
    begun_at = time.monotonic()
    reply = await shop.confirm(intent, prefer="wait=1")
    took = time.monotonic() - begun_at
    joined = await shop.until_intent(intent, status="succeeded")

    assert (reply.status, reply.headers["preference-applied"], joined["status"]) == (202, "wait=1", "succeeded")
    assert took > 0.9


async def test_a_wait_ends_with_the_outcome(shop: Shop) -> None:
    """Nobody waits longer than it takes: the worker's word wakes the request."""
    begun_at = time.monotonic()
    reply = await shop.confirm(await shop.intent(), prefer="wait=25")

    assert (reply.status, reply.headers["preference-applied"]) == (200, "wait=25")
    assert time.monotonic() - begun_at < 5


async def test_a_longer_wait_than_granted_is_shortened(shop: Shop) -> None:
    """At most 25 s, and the answer says so; what is not understood is passed over."""
    long = await shop.confirm(await shop.intent(), prefer="wait=3600")
    strange = await shop.confirm(await shop.intent(), prefer="handling=lenient, wait=abc")

    assert (long.status, long.headers["preference-applied"]) == (200, "wait=25")
    assert (strange.status, strange.headers.get("preference-applied")) == (200, None)


@pytest.mark.parametrize("act", ["capture", "void", "refund"])
async def test_every_operation_can_be_left_alone(shop: Shop, act: str) -> None:
    """202 with `pending_operation`, or with the pending refund; later it is done."""
    payment = await (shop.pay() if act == "refund" else shop.authorize())
    shop.system.strike(act, "delay", delay_ms=1000)
    reply = await getattr(shop, act)(payment, prefer="wait=0")
    done = await shop.until(reply.headers["location"], status={"capture": "captured", "void": "voided", "refund": "succeeded"}[act])

    assert (reply.status, done["id"]) == (202, reply.json["id"])
    if act == "refund":
        assert reply.json["status"] == "pending"
    else:
        assert reply.json["latest_operation"]["status"] == "requested"
        assert reply.json["latest_operation"]["id"] == reply.json["pending_operation"]["id"]


async def test_nothing_depends_on_the_caller_staying(shop: Shop) -> None:
    """A client that hangs up has paid all the same."""
    intent = await shop.intent("slow")
    hasty = asyncio.create_task(shop.confirm(intent))
    await shop.until_intent(intent, status="processing")
    hasty.cancel()

    assert (await shop.until_intent(intent, status="succeeded"))["attempt_count"] == 1


async def test_cancel_waits_like_the_others(shop: Shop) -> None:
    """The void behind it may be left alone too."""
    intent = await shop.intent(capture_method="manual")
    await shop.confirm(intent)
    shop.system.strike("void", "delay", delay_ms=1000)
    reply = await shop.cancel(intent, prefer="wait=0")
    done = await shop.until(reply.headers["location"], status="canceled")

    assert (reply.status, reply.json["status"], done["id"]) == (202, "authorized", intent["id"])


async def test_a_create_that_does_not_wait_leads_to_its_intent(shop: Shop) -> None:
    """202 is for create with confirm too."""
    body = {"amount": 100, "currency": "EUR", "payment_method": method("slow"), "confirm": True}
    reply = await shop.post("/v1/payment_intents", body, prefer="respond-async")

    assert (reply.status, reply.headers["location"]) == (202, f"/v1/payment_intents/{reply.json['id']}")
    await shop.until(reply.headers["location"], status="succeeded")
