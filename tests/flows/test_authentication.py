"""3-D Secure: the payer is sent to the issuer's page, and comes back or does not."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.flows.books import open_operations, rows
from tests.flows.shop import Json, Shop, method

BACK = "https://shop.example/back?order=7"


async def challenged(shop: Shop, card: str = "authentication_required", **members: Any) -> Json:
    """A confirmed intent that waits for its payer."""
    intent = await shop.intent(card, **members)
    reply = await shop.confirm(intent, {"return_url": BACK})
    assert (reply.status, reply.json["status"]) == (200, "requires_action"), reply
    return reply.json


def page_of(intent: Json) -> str:
    assert intent["next_action"]["type"] == "redirect_to_url"
    return str(intent["next_action"]["redirect_to_url"]["url"])


async def answer_challenge(shop: Shop, intent: Json, outcome: str) -> dict[str, list[str]]:
    """What the browser does on the issuer's page; the query with which it is sent back."""
    async with shop.session.get(page_of(intent)) as page:
        assert page.status == 200
        assert "<form" in await page.text()
    async with shop.session.post(page_of(intent), data={"outcome": outcome}, allow_redirects=False) as answered:
        assert answered.status == 303
        location = urlsplit(answered.headers["Location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == "https://shop.example/back"
    return parse_qs(location.query)


async def test_the_payer_is_sent_to_a_page(shop: Shop) -> None:
    """Nothing is held or charged yet, and the payment waits for its authentication."""
    intent = await challenged(shop)
    payment = await shop.payment_of(intent)

    assert (payment["status"], payment["pending_operation"]["type"]) == ("pending_auth", "sale")
    assert await rows(shop.system, "SELECT 1 FROM ledger_entries WHERE merchant_id = %s::uuid", shop.merchant.id) == []
    assert await shop.events(intent) == ["payment_intent.created", "payment_intent.processing", "payment_intent.requires_action"]


@pytest.mark.parametrize(("capture_method", "status"), [("automatic", "succeeded"), ("manual", "authorized")])
async def test_a_passed_challenge_takes_the_payment_on(shop: Shop, capture_method: str, status: str) -> None:
    """The browser comes back with the intent's id and a hint, never a secret; the provider's callback brings the truth."""
    intent = await challenged(shop, capture_method=capture_method)
    query = await answer_challenge(shop, intent, "approve")
    after = await shop.until_intent(intent, status=status)

    assert query == {"order": ["7"], "payment_intent": [intent["id"]], "redirect_status": ["succeeded"]}
    assert (after["next_action"], after["payment_id"]) == (None, intent["payment_id"])
    assert (await shop.payment_of(intent))["status"] == {"succeeded": "captured", "authorized": "authorized"}[status]


async def test_a_failed_challenge_asks_for_another_method(shop: Shop) -> None:
    """authentication_failed, back to requires_payment_method, and another card pays."""
    intent = await challenged(shop)
    query = await answer_challenge(shop, intent, "fail")
    after = await shop.until_intent(intent, status="requires_payment_method")
    payment = await shop.payment_of(intent)
    paid = await shop.confirm(intent, {"payment_method": method("approved")})

    assert query["redirect_status"] == ["failed"]
    assert (after["last_payment_error"]["code"], after["next_action"]) == ("authentication_failed", None)
    assert (payment["status"], payment["failure"]["code"]) == ("failed", "authentication_failed")
    assert (paid.status, paid.json["status"], paid.json["attempt_count"]) == (200, "succeeded", 2)


async def test_the_issuer_may_decline_after_the_challenge(shop: Shop) -> None:
    """Authenticated and refused all the same: an ordinary decline."""
    intent = await challenged(shop, "declined_after_authentication")
    await answer_challenge(shop, intent, "approve")
    after = await shop.until_intent(intent, status="requires_payment_method")

    assert after["last_payment_error"]["decline_code"] == "do_not_honor"


async def test_a_lost_callback_is_made_up_for(shop: Shop) -> None:
    """Without it the provider is asked, and says the same."""
    shop.system.be(callbacks="none")
    intent = await challenged(shop)
    await answer_challenge(shop, intent, "approve")
    after = await shop.until_intent(intent, status="succeeded")
    shop.system.be(callbacks="late")

    assert after["payment_id"] == intent["payment_id"]


async def test_two_answers_to_one_challenge_are_one(shop: Shop) -> None:
    """A browser that sends the form twice changes nothing the second time."""
    intent = await challenged(shop)
    await answer_challenge(shop, intent, "approve")
    async with shop.session.post(page_of(intent), data={"outcome": "fail"}, allow_redirects=False) as again:
        assert again.status in (200, 303)
    after = await shop.until_intent(intent, status="succeeded")

    assert (await shop.payment_of(after))["status"] == "captured"


async def test_the_success_url_stands_in_for_the_return_url(shop: Shop) -> None:
    """Where the confirmation names none, the payer comes back to where success would lead."""
    intent = await shop.intent("authentication_required", success_url="https://shop.example/back")
    reply = await shop.confirm(intent)
    query = await answer_challenge(shop, reply.json, "approve")
    await shop.until_intent(intent, status="succeeded")

    assert query == {"payment_intent": [intent["id"]], "redirect_status": ["succeeded"]}


async def test_a_challenged_intent_is_not_confirmed_again(shop: Shop) -> None:
    """One attempt at a time: first the payer has to answer."""
    intent = await challenged(shop)
    reply = await shop.confirm(intent, {"payment_method": method("approved")})
    await answer_challenge(shop, intent, "fail")
    await shop.until_intent(intent, status="requires_payment_method")

    assert (reply.status, reply.json["code"]) == (409, "illegal_transition")


async def test_a_repeated_confirm_is_told_what_became_of_it(shop: Shop) -> None:
    """While the payer is away the repeat shows the page again, afterwards the final state."""
    intent, key = await shop.intent("authentication_required"), "the same for both"
    first = await shop.confirm(intent, {"return_url": BACK}, key=key)
    second = await shop.confirm(intent, {"return_url": BACK}, key=key)
    await answer_challenge(shop, first.json, "approve")
    await shop.until_intent(intent, status="succeeded")
    third = await shop.confirm(intent, {"return_url": BACK}, key=key)

    assert first.json == second.json
    assert (third.status, third.json["status"], third.headers["idempotent-replayed"]) == (200, "succeeded", "true")


async def test_canceling_calls_the_challenge_off(shop: Shop) -> None:
    """The intent is canceled at once; the provider is told, its page asks for nothing any more, and the payment is voided."""
    intent = await challenged(shop)
    reply = await shop.cancel(intent)
    payment = await shop.until_payment({"id": intent["payment_id"]}, status="voided", pending_operation=None)
    async with shop.session.get(page_of(intent)) as page:
        assert "<form" not in await page.text()

    assert (reply.status, reply.json["status"], reply.json["next_action"]) == (200, "canceled", None)
    assert (payment["amount_captured"], payment["latest_operation"]["type"]) == (0, "void")
    assert await open_operations(shop.system, shop.merchant.id) == []


@pytest.mark.parametrize(("capture_method", "status"), [("automatic", "refunded"), ("manual", "voided")])
async def test_a_payer_who_was_quicker_than_the_cancellation_gets_the_money_back(shop: Shop, capture_method: str, status: str) -> None:
    """The challenge is passed before the provider hears that it is called off: what it took is found and undone."""
    intent = await challenged(shop, capture_method=capture_method)
    shop.system.strike("void", "delay", delay_ms=1500)
    await shop.cancel(intent)
    await answer_challenge(shop, intent, "approve")
    payment = await shop.until_payment({"id": intent["payment_id"]}, status=status, pending_operation=None)

    assert payment["amount_refunded"] == payment["amount_captured"]
    assert (await shop.read(f"/v1/payment_intents/{intent['id']}"))["status"] == "canceled"
    assert "payment_intent.succeeded" not in await shop.events(intent)
    assert await open_operations(shop.system, shop.merchant.id) == []


async def test_a_challenge_page_for_nobody_is_404(shop: Shop) -> None:
    """Its address cannot be guessed into being."""
    async with shop.session.get(f"{shop.system.sandbox_url}/3ds/ch_nobody") as page:
        assert page.status == 404
