"""Payment intents before the money: create, read, change, cancel in each status."""

import uuid

import pytest

from tests.flows.books import rows
from tests.flows.shop import Json, Shop, eventually, method
from tests.webhooks.receiver import running as receiving

OPTIONAL: Json = {
    "capture_method": "manual",
    "success_url": "https://shop.example/done?order=7",
    "cancel_url": "https://shop.example/basket",
    "reference": "order 7",
    "description": "Seven things",
    "metadata": {"basket": "7"},
    "provider": "sandbox",
    "setup_future_usage": "off_session",
}


async def test_an_intent_is_what_was_asked_for(shop: Shop) -> None:
    """The answer repeats what was sent and adds what is ours: ids, status, expiry, version, a secret."""
    intent = await shop.intent(amount=2599, currency="USD", **OPTIONAL)

    assert {name: intent[name] for name in OPTIONAL} == OPTIONAL
    assert (intent["object"], intent["status"], intent["livemode"]) == ("payment_intent", "requires_confirmation", False)
    assert (intent["amount"], intent["currency"], intent["attempt_count"], intent["version"]) == (2599, "USD", 0, 1)
    assert intent["payment_intent_id"] == intent["id"]
    assert intent["id"].startswith("pi_")
    assert intent["merchant_id"].startswith("mer_")
    assert intent["expires_at"] > intent["created_at"]
    assert intent["client_secret"].startswith(f"{intent['id']}_secret_")


async def test_an_intent_without_a_method_waits_for_one(shop: Shop) -> None:
    """It begins at requires_payment_method, cannot be confirmed, and takes the method in a PATCH or with the confirmation."""
    intent = await shop.intent(None)
    path = f"/v1/payment_intents/{intent['id']}"
    refused = await shop.confirm(intent)
    patched = await shop.ask("PATCH", path, {"payment_method": method("approved")})
    paid = await shop.confirm(intent)

    assert (intent["status"], refused.status, refused.json["code"]) == ("requires_payment_method", 422, "payment_method_required")
    assert (patched.status, patched.json["status"], patched.json["version"]) == (200, "requires_confirmation", 2)
    assert paid.json["status"] == "succeeded"


async def test_the_secret_is_in_create_and_get_and_nowhere_else(shop: Shop) -> None:
    """It is derived, so it is always the same; lists, changes, confirmations and events do not show it."""
    intent = await shop.intent()
    path = f"/v1/payment_intents/{intent['id']}"
    read = await shop.read(path)
    listed = (await shop.read("/v1/payment_intents"))["data"]
    changed = await shop.ask("PATCH", path, {"metadata": {"a": "1"}})
    confirmed = await shop.confirm(intent)
    events = await shop.read(f"/v1/events?object_id={intent['id']}")

    assert read["client_secret"] == intent["client_secret"]
    for shown in (listed, changed.json, confirmed.json, events):
        assert "_secret_" not in str(shown)


@pytest.mark.parametrize("card", ["approved", "slow", "declined", "authentication_required"])
async def test_create_with_confirm_is_create_and_confirm(shop: Shop, card: str) -> None:
    """201 with the final state, 202 when it is still open, 402 when it was declined; the secret is there each time."""
    wait = "wait=0" if card == "slow" else "wait=10"
    body = {"amount": 700, "currency": "EUR", "payment_method": method(card), "confirm": True, "return_url": "https://shop.example/back"}
    reply = await shop.post("/v1/payment_intents", body, prefer=wait)

    shown = reply.json.get("payment_intent", reply.json)
    expected = {
        "approved": (201, "succeeded"),
        "slow": (202, "processing"),
        "declined": (402, "requires_payment_method"),
        "authentication_required": (201, "requires_action"),
    }
    assert (reply.status, shown["status"]) == expected[card]
    assert shown["client_secret"] == (await shop.read(f"/v1/payment_intents/{shown['id']}"))["client_secret"]
    assert (reply.headers.get("location") == f"/v1/payment_intents/{shown['id']}") == (card == "slow")
    if card == "slow":
        await shop.until_intent(shown, status="succeeded")
    if card == "authentication_required":
        await shop.cancel(shown)


@pytest.mark.parametrize(
    ("member", "value", "status", "code"),
    [
        ("amount", 0, 422, "invalid_amount"),
        ("amount", 1_000_000_000_000, 422, "invalid_amount"),
        ("amount", 2599.0, 422, "invalid_amount"),
        ("amount", "2599", 422, "invalid_amount"),
        ("currency", "usd", 422, "invalid_currency"),
        ("currency", "XXQ", 422, "invalid_currency"),
        ("amout", 5, 400, "unknown_field"),
        ("merchant_id", "mer_01h455vb4pex5vsknk084sn02q", 403, "forbidden"),
        ("customer_id", "cus_01h455vb4pex5vsknk084sn02q", 422, "invalid_value"),
        ("payment_method", "pm_01h455vb4pex5vsknk084sn02q", 422, "invalid_value"),
    ],
)
async def test_a_wrong_intent_is_refused(shop: Shop, member: str, value: object, status: int, code: str) -> None:
    """The problem document names the member, and nothing was made."""
    reply = await shop.post("/v1/payment_intents", {"amount": 2599, "currency": "USD", member: value})

    assert (reply.status, reply.json["code"], reply.json["param"]) == (status, code, member)
    assert (await shop.read("/v1/payment_intents"))["data"] == []


async def test_confirm_true_needs_a_method(shop: Shop) -> None:
    """Nothing is made of a request that cannot be confirmed."""
    reply = await shop.post("/v1/payment_intents", {"amount": 2599, "currency": "USD", "confirm": True})

    assert (reply.status, reply.json["code"]) == (422, "payment_method_required")
    assert (await shop.read("/v1/payment_intents"))["data"] == []


async def test_everything_can_be_changed_before_the_confirmation(shop: Shop) -> None:
    """Amount, currency and method included; what is confirmed is what stands last."""
    intent = await shop.intent("declined", amount=100, metadata={"a": "1", "b": "2"})
    path = f"/v1/payment_intents/{intent['id']}"
    changes = {
        "amount": 2599,
        "currency": "USD",
        "payment_method": method("approved"),
        "reference": "r",
        "success_url": "https://a.example",
    }
    changed = await shop.ask("PATCH", path, {**changes, "metadata": {"a": None, "c": "3"}})
    await shop.confirm(intent)
    payment = await shop.payment_of(intent)

    assert changed.status == 200
    assert {name: changed.json[name] for name in changes} == changes
    assert changed.json["metadata"] == {"b": "2", "c": "3"}
    assert (payment["amount_captured"], payment["currency"], payment["reference"]) == (2599, "USD", "r")


async def test_after_the_confirmation_only_words_can_be_changed(shop: Shop) -> None:
    """Metadata and description always; the rest is 409."""
    intent = await shop.intent()
    await shop.confirm(intent)
    path = f"/v1/payment_intents/{intent['id']}"
    words = await shop.ask("PATCH", path, {"metadata": {"sent": "yes"}, "description": "done"})
    amount = await shop.ask("PATCH", path, {"amount": 5})

    assert (words.status, words.json["metadata"], words.json["description"]) == (200, {"sent": "yes"}, "done")
    assert (amount.status, amount.json["code"], amount.json["param"]) == (409, "illegal_transition", "amount")


async def test_metadata_stays_within_fifty_pairs(shop: Shop) -> None:
    """Also when they come one by one; a pair that is taken away makes room."""
    intent = await shop.intent(metadata={str(n): "x" for n in range(50)})
    path = f"/v1/payment_intents/{intent['id']}"
    more = await shop.ask("PATCH", path, {"metadata": {"50": "x"}})
    other = await shop.ask("PATCH", path, {"metadata": {"50": "x", "0": None}})

    assert (more.status, more.json["code"], more.json["param"]) == (422, "invalid_value", "metadata")
    assert (other.status, len(other.json["metadata"])) == (200, 50)


async def test_a_provider_that_is_not_there_is_no_route(shop: Shop) -> None:
    """Whoever names one gets that one or none."""
    intent = await shop.intent(provider="nobody")
    reply = await shop.confirm(intent)

    assert (reply.status, reply.json["code"]) == (422, "no_route")


WRITTEN = """
SELECT (SELECT count(*) FROM payment_intents WHERE merchant_id = m.id),
       (SELECT count(*) FROM events WHERE merchant_id = m.id),
       (SELECT count(*) FROM outbox WHERE tenant = m.id)
  FROM merchants m
 WHERE m.id = %s::uuid"""


@pytest.mark.parametrize(
    "nobodys", [{"provider": "nobody"}, {"payment_method": {"type": "upi", "vpa": "name@bank"}}], ids=["provider", "method"]
)
async def test_a_create_with_confirm_that_finds_no_route_writes_nothing(shop: Shop, nobodys: Json) -> None:
    """No intent that nobody asked for is left behind, nobody is told of one, and the key is free for the request that is right."""
    body = {"amount": 500, "currency": "EUR", "payment_method": method("approved"), "confirm": True}
    key = f"order-{uuid.uuid4()}"
    async with receiving() as receiver:
        endpoint = {"url": f"{receiver.url}/hook", "enabled_events": ["*"]}
        assert (await shop.post("/v1/webhook_endpoints", endpoint)).status == 201
        before = await rows(shop.system, WRITTEN, shop.merchant.id)
        refused = await shop.post("/v1/payment_intents", {**body, **nobodys}, key=key)
        after = await rows(shop.system, WRITTEN, shop.merchant.id)
        paid = await shop.post("/v1/payment_intents", body, key=key)

    assert (refused.status, refused.json["code"]) == (422, "no_route")
    assert after == before
    assert (paid.status, paid.json["status"]) == (201, "succeeded")
    assert len((await shop.read("/v1/payment_intents"))["data"]) == 1


@pytest.mark.parametrize("currency", ["JPY", "EUR", "BHD", "CLF"])
async def test_amounts_are_minor_units_in_every_currency(shop: Shop, currency: str) -> None:
    """Whole yen, thousandths of a dinar: the same integers, up to the largest."""
    small = await shop.pay(amount=1, currency=currency)
    large = await shop.pay(amount=999_999_999_999, currency=currency)
    refund = await shop.refund(large)

    assert (small["amount_captured"], small["fee"], small["net"]) == (1, 30, -29)
    assert (large["amount_captured"], large["currency"], large["fee"]) == (999_999_999_999, currency, 29_000_000_030)
    assert refund.json["amount"] == 999_999_999_999


async def test_a_refused_cancellation_can_be_tried_again(shop: Shop) -> None:
    """The provider did not void: 402, the intent stays authorized, and the next attempt succeeds."""
    intent = await shop.intent(capture_method="manual")
    await shop.confirm(intent)
    shop.system.strike("void", "error_before_effect", status=422)
    refused = await shop.cancel(intent)
    between = await shop.read(f"/v1/payment_intents/{intent['id']}")
    again = await shop.cancel(intent)

    assert (refused.status, refused.json["code"], refused.json["payment"]["status"]) == (402, "payment_declined", "authorized")
    assert (between["status"], again.status, again.json["status"]) == ("authorized", 200, "canceled")


async def test_a_live_key_finds_no_provider(shop: Shop) -> None:
    """Live money has no route yet: the confirmation is 422, and no sandbox card is taken for real."""
    live = shop.merchant.live
    created = await shop.post("/v1/payment_intents", {"amount": 5, "currency": "EUR", "payment_method": method("approved")}, token=live)
    reply = await shop.confirm(created.json, token=live)
    at_once = await shop.post(
        "/v1/payment_intents", {"amount": 5, "currency": "EUR", "payment_method": method("approved"), "confirm": True}, token=live
    )

    assert (created.status, created.json["livemode"]) == (201, True)
    assert (reply.status, reply.json["code"]) == (422, "no_route")
    assert (at_once.status, at_once.json["code"]) == (422, "no_route")


@pytest.mark.parametrize("card", [None, "approved"])
async def test_an_unconfirmed_intent_is_canceled_at_once(shop: Shop, card: str | None) -> None:
    """Nobody has been asked for money, so nobody has to be asked to let go."""
    intent = await shop.intent(card)
    reply = await shop.cancel(intent)
    again = await shop.cancel(intent)
    confirmed = await shop.confirm(intent, {"payment_method": method("approved")})

    assert (reply.status, reply.json["status"], reply.json["cancellation_reason"]) == (200, "canceled", "requested_by_merchant")
    assert (again.status, again.json["code"]) == (409, "illegal_transition")
    assert (confirmed.status, confirmed.json["code"]) == (409, "illegal_transition")


async def test_canceling_an_authorized_intent_voids_its_payment(shop: Shop) -> None:
    """The answer waits for the void and shows the canceled intent."""
    intent = await shop.intent(capture_method="manual")
    await shop.confirm(intent)
    reply = await shop.cancel(intent)

    assert (reply.status, reply.json["status"], reply.json["cancellation_reason"]) == (200, "canceled", "requested_by_merchant")
    assert (await shop.payment_of(intent))["status"] == "voided"


async def test_a_succeeded_intent_is_not_canceled(shop: Shop) -> None:
    """409, and the answer points to the refund."""
    intent = await shop.intent()
    await shop.confirm(intent)
    reply = await shop.cancel(intent)

    assert (reply.status, reply.json["code"]) == (409, "illegal_transition")
    assert "efund" in reply.json["detail"]


@pytest.mark.parametrize("capture_method", ["manual", "automatic"])
async def test_canceling_while_it_is_processed_undoes_the_payment_when_the_truth_arrives(shop: Shop, capture_method: str) -> None:
    """202 at once; the authorization is voided or the sale refunded, the intent is canceled and never announced as paid."""
    intent = await shop.intent("slow", capture_method=capture_method)
    await shop.confirm(intent, prefer="respond-async")
    reply = await shop.cancel(intent)
    after = await shop.until_intent(intent, status="canceled")
    payment = await shop.until_payment(
        {"id": after["latest_payment"]}, status="voided" if capture_method == "manual" else "refunded", pending_operation=None
    )

    assert (reply.status, reply.json["status"]) == (202, "processing")
    assert after["cancellation_reason"] == "requested_by_merchant"
    assert payment["amount_captured"] == payment["amount_refunded"]
    assert "payment_intent.succeeded" not in await shop.events(intent)


async def test_canceling_during_a_capture_is_refused(shop: Shop) -> None:
    """One open authorize, capture or void at a time: the void would race the capture that was asked for."""
    payment = await shop.authorize()
    shop.system.strike("capture", "delay", delay_ms=1500)
    await shop.capture(payment, prefer="wait=0")
    reply = await shop.cancel({"id": payment["payment_intent_id"]})
    done = await shop.until_payment(payment, status="captured")

    assert (reply.status, reply.json["code"], reply.json["pending_operation"]["type"]) == (409, "operation_in_progress", "capture")
    assert done["amount_captured"] == 10000


async def test_an_intent_that_failed_is_not_canceled(shop: Shop) -> None:
    """What is over is over."""
    intent = await shop.intent("declined")
    for _ in range(5):
        await shop.confirm(intent, {"payment_method": method("declined")})
    reply = await shop.cancel(intent)

    assert (reply.status, reply.json["code"]) == (409, "illegal_transition")


async def test_each_change_is_told_once_and_in_order(shop: Shop) -> None:
    """The merchant's feed holds one event per announced edge."""
    intent = await shop.intent()
    await shop.confirm(intent)
    payment = await shop.payment_of(intent)

    async def told() -> tuple[list[str], list[str]] | None:
        found = await shop.events(intent), await shop.events(payment)
        return found if len(found[0]) == 3 else None

    assert await eventually(told, what="three events") == (
        ["payment_intent.created", "payment_intent.processing", "payment_intent.succeeded"],
        ["payment.created", "payment.captured"],
    )
