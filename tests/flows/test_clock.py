"""What time makes of intents and authorizations: the clock's own tick, run for a later moment."""

from datetime import timedelta

import pytest

from app.core.clock import now
from app.infra.db import open_pool
from outbox.wake import Waker
from tests.flows.books import open_operations
from tests.flows.running import System
from tests.flows.shop import Shop, method
from workers import clock


async def tick(system: System, task: str, **later: float) -> None:
    """Run a task of the clock as if it were `later`, until there is no more to do."""
    async with open_pool(system.database_url, role="tollgate_writer", size=1) as pool, Waker(system.database_url) as waker:
        while await clock.run_once(pool, waker, task, moment=now() + timedelta(**later)):
            pass


@pytest.mark.parametrize("card", [None, "approved"])
async def test_an_unconfirmed_intent_expires_after_an_hour(shop: Shop, card: str | None) -> None:
    """Not before; then it is expired, said so once, and takes no confirmation any more."""
    intent = await shop.intent(card)
    await tick(shop.system, "expired_intents", minutes=59)
    early = await shop.read(f"/v1/payment_intents/{intent['id']}")
    await tick(shop.system, "expired_intents", minutes=61)
    await tick(shop.system, "expired_intents", minutes=61)
    late = await shop.read(f"/v1/payment_intents/{intent['id']}")
    confirmed = await shop.confirm(intent, {"payment_method": method("approved")})
    canceled = await shop.cancel(intent)

    assert early["status"] == intent["status"]
    assert (late["status"], late["version"]) == ("expired", 2)
    assert (confirmed.status, confirmed.json["code"]) == (409, "intent_expired")
    assert (canceled.status, canceled.json["code"]) == (409, "illegal_transition")
    assert await shop.events(intent) == ["payment_intent.created", "payment_intent.expired"]


async def test_a_declined_intent_expires_too(shop: Shop) -> None:
    """It requires another method, and nobody brought one."""
    intent = await shop.intent("declined")
    await shop.confirm(intent)
    await tick(shop.system, "expired_intents", minutes=61)

    assert (await shop.read(f"/v1/payment_intents/{intent['id']}"))["status"] == "expired"


async def test_what_is_under_way_or_over_does_not_expire(shop: Shop) -> None:
    """Only intents that require something do."""
    slow, paid = await shop.intent("slow"), await shop.intent()
    authorized, canceled = await shop.intent(capture_method="manual"), await shop.intent()
    await shop.confirm(slow, prefer="wait=0")
    await shop.confirm(paid)
    await shop.confirm(authorized)
    await shop.cancel(canceled)
    await tick(shop.system, "expired_intents", minutes=61)

    for intent, status in ((slow, "succeeded"), (paid, "succeeded"), (authorized, "authorized"), (canceled, "canceled")):
        await shop.until_intent(intent, status=status)
    await shop.cancel(authorized)


async def test_an_authorization_lapses_after_seven_days(shop: Shop) -> None:
    """Not before; then the provider is asked to let go, the payment is expired, the intent canceled, the hold gone."""
    payment = await shop.authorize()
    await tick(shop.system, "lapsed_authorizations", days=6, hours=23)
    early = await shop.payment(payment)
    await tick(shop.system, "lapsed_authorizations", days=7, minutes=1)
    late = await shop.until_payment(payment, status="expired")
    intent = await shop.read(f"/v1/payment_intents/{payment['payment_intent_id']}")

    assert (early["status"], early["version"]) == ("authorized", payment["version"])
    assert (late["amount_capturable"], late["latest_operation"]["type"], late["pending_operation"]) == (0, "void", None)
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "authorization_expired")
    assert await shop.events(payment) == ["payment.created", "payment.authorized", "payment.expired"]
    assert [line["kind"] for line in shop.system.journal() if line["reference"] == late["latest_operation"]["id"]] == ["void"]


async def test_a_payment_with_an_open_operation_does_not_lapse(shop: Shop) -> None:
    """The capture that is under way decides, not the calendar."""
    payment = await shop.authorize()
    shop.system.strike("capture", "delay", delay_ms=1500)
    await shop.capture(payment, prefer="wait=0")
    await tick(shop.system, "lapsed_authorizations", days=8)

    assert (await shop.until_payment(payment, pending_operation=None))["status"] == "captured"
    assert await open_operations(shop.system, shop.merchant.id) == []


async def test_a_captured_or_voided_authorization_does_not_lapse(shop: Shop) -> None:
    """It stands no more."""
    captured, voided = await shop.authorize(), await shop.authorize()
    await shop.capture(captured)
    await shop.void(voided)
    await tick(shop.system, "lapsed_authorizations", days=8)

    assert ((await shop.payment(captured))["status"], (await shop.payment(voided))["status"]) == ("captured", "voided")


async def test_stored_answers_are_purged_and_keys_that_moved_money_are_not(shop: Shop) -> None:
    """After a day a create's key is free again, and a confirm's still refuses."""
    body = {"amount": 5, "currency": "EUR", "payment_method": method("approved")}
    first = await shop.post("/v1/payment_intents", body, key="the same")
    paid = await shop.confirm(first.json, key="the same")
    await tick(shop.system, "purge", hours=25)
    second = await shop.post("/v1/payment_intents", body, key="the same")
    again = await shop.confirm(first.json, key="the same")

    assert second.json["id"] != first.json["id"]
    assert (paid.status, again.status, again.headers["idempotent-replayed"]) == (200, 200, "true")
