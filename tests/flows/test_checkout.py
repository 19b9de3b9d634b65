"""The payer's browser: the client secret opens one intent, shows little, and pays."""

import uuid

import pytest

from tests.flows.shop import Json, Reply, Shop, method

SHOWN = {"amount", "currency", "status", "merchant_name", "next_action"}


async def browse(shop: Shop, verb: str, path: str, secret: str | None, body: Json | None = None, *, key: str | None = None) -> Reply:
    given = {"X-Client-Secret": secret, "Idempotency-Key": key}
    headers = {name: value for name, value in given.items() if value is not None}
    async with shop.session.request(verb, f"{shop.system.url}/v1/checkout/{path}", json=body, headers=headers) as response:
        return Reply(response.status, await response.json(content_type=None), {k.lower(): v for k, v in response.headers.items()})


async def test_a_browser_sees_what_there_is_to_pay(shop: Shop) -> None:
    """Amount, currency, status, the merchant's name and what to do next; nothing else."""
    intent = await shop.intent(None, amount=2599, reference="order 7", metadata={"private": "yes"})
    reply = await browse(shop, "GET", intent["id"], intent["client_secret"])

    assert reply.status == 200
    assert set(reply.json) == SHOWN
    assert (reply.json["amount"], reply.json["status"]) == (2599, "requires_payment_method")
    assert reply.json["merchant_name"] == shop.merchant.name


async def test_a_browser_pays(shop: Shop) -> None:
    """Declined with one card, paid with another; the page learns how it ended and no more."""
    intent = await shop.intent(None)
    declined = await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], {"payment_method": method("lost_card")})
    paid = await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], {"payment_method": method("approved")})
    after = await shop.read(f"/v1/payment_intents/{intent['id']}")

    assert (declined.status, declined.json["code"]) == (402, "payment_declined")
    assert "lost" not in str(declined.json)
    assert (paid.status, paid.json["status"], set(paid.json)) == (200, "succeeded", SHOWN)
    assert (after["status"], after["attempt_count"]) == ("succeeded", 2)


async def test_a_browser_is_sent_to_the_challenge(shop: Shop) -> None:
    """`next_action` stands in the answer."""
    intent = await shop.intent(None)
    body = {"payment_method": method("authentication_required"), "return_url": "https://shop.example/back"}
    reply = await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], body)
    await shop.cancel(intent)

    assert (reply.status, reply.json["status"]) == (200, "requires_action")
    assert reply.json["next_action"]["redirect_to_url"]["url"].startswith(shop.system.sandbox_url)


async def test_the_same_key_of_two_payers_is_two_keys(shop: Shop) -> None:
    """A page numbers its attempts as it likes: each intent is charged once, and each payer's repeat is told of the own one."""
    one, two = await shop.intent(amount=1000), await shop.intent(amount=2000)
    key = f"attempt-1-{uuid.uuid4()}"

    async def pay(intent: Json) -> Reply:
        return await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], {}, key=key)

    first = [await pay(one), await pay(two)]
    repeated = [await pay(one), await pay(two)]

    for replies in (first, repeated):
        assert [(reply.status, reply.json.get("status"), reply.json.get("amount")) for reply in replies] == [
            (200, "succeeded", 1000),
            (200, "succeeded", 2000),
        ]
    assert [reply.headers.get("idempotent-replayed") for reply in (*first, *repeated)] == [None, None, "true", "true"]
    assert sorted(payment["amount_captured"] for payment in (await shop.read("/v1/payments"))["data"]) == [1000, 2000]


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_only_its_own_secret_opens_an_intent(shop: Shop, verb: str) -> None:
    """Without one, with another intent's, with one character changed, or with an API key: 401."""
    intent, other = await shop.intent(), await shop.intent()
    right = intent["client_secret"]
    path = intent["id"] if verb == "GET" else f"{intent['id']}/confirm"

    for wrong in (None, "", other["client_secret"], right[:-1] + ("A" if right[-1] != "A" else "B"), shop.merchant.secret):
        reply = await browse(shop, verb, path, wrong, None if verb == "GET" else {})
        assert (reply.status, reply.json["code"]) == (401, "unauthenticated")
    assert (await shop.read(f"/v1/payment_intents/{intent['id']}"))["status"] == "requires_confirmation"


async def test_a_browser_changes_no_amount(shop: Shop) -> None:
    """What is to be paid is the merchant's to say."""
    intent = await shop.intent()
    reply = await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], {"amount": 1})

    assert (reply.status, reply.json["code"], reply.json["param"]) == (400, "unknown_field", "amount")


async def test_a_real_card_is_no_test_card(shop: Shop) -> None:
    """The page's answer is the same problem document, and documented."""
    intent = await shop.intent(None)
    body = {"payment_method": {"type": "card", "token": "tok_01h455vb4pex5vsknk084sn02q"}}
    reply = await browse(shop, "POST", f"{intent['id']}/confirm", intent["client_secret"], body)
    document = (await shop.get("/openapi.json")).json["paths"]["/v1/checkout/{payment_intent_id}/confirm"]["post"]

    assert (reply.status, reply.json["code"]) == (422, "test_card_required")
    assert "test_card_required" in document["responses"]["422"]["description"]
