"""Every sandbox card of the API's table does what the table says, in one step and in two."""

import asyncio

import pytest

from tests.flows.shop import Shop, method

# Card -> decline code, may the same card be tried again.
DECLINED = {
    "declined": ("do_not_honor", False),
    "insufficient_funds": ("insufficient_funds", False),
    "expired_card": ("expired_card", False),
    "lost_card": ("lost_card", False),
    "incorrect_cvc": ("incorrect_cvc", False),
    "processing_error": ("processing_error", True),
}


@pytest.mark.parametrize("card", ["approved", "disputed", "refund_pending", "refund_fails_later", "slow"])
async def test_an_approved_card_is_charged(shop: Shop, card: str) -> None:
    """Create and confirm: the intent has succeeded, the payment is captured, the card is known by its last four digits."""
    intent = await shop.intent(card, amount=2599, currency="USD")
    reply = await shop.confirm(intent)
    payment = await shop.payment_of(intent)

    assert (reply.status, reply.json["status"], reply.json["payment_id"]) == (200, "succeeded", payment["id"])
    assert reply.json["authorization_id"] == payment["authorization_id"]
    assert (payment["status"], payment["amount_captured"], payment["fee"], payment["net"]) == ("captured", 2599, 105, 2494)
    assert payment["payment_method"]["brand"] == "visa"
    assert len(payment["payment_method"]["last4"]) == 4
    assert (payment["failure"], payment["pending_operation"], payment["latest_operation"]["type"]) == (None, None, "sale")


@pytest.mark.parametrize("capture_method", ["automatic", "manual"])
@pytest.mark.parametrize("card", DECLINED)
async def test_a_declined_card_is_402_with_its_reason(shop: Shop, card: str, capture_method: str) -> None:
    """The refusal carries code, retryability and the whole intent, which takes another card."""
    intent = await shop.intent(card, capture_method=capture_method)
    reply = await shop.confirm(intent)
    payment = await shop.payment_of(intent)

    code, retryable = DECLINED[card]
    assert (reply.status, reply.json["code"], reply.json["decline_code"]) == (402, "payment_declined", code)
    assert (reply.json["retryable"], reply.json["payment_id"]) == (retryable, payment["id"])
    shown = reply.json["payment_intent"]
    assert (shown["id"], shown["status"], shown["attempt_count"]) == (intent["id"], "requires_payment_method", 1)
    assert shown["last_payment_error"]["decline_code"] == code
    assert (payment["status"], payment["failure"]["decline_code"], payment["failure"]["retryable"]) == ("failed", code, retryable)
    assert payment["latest_operation"]["status"] == "declined"


async def test_another_card_pays_the_same_intent(shop: Shop) -> None:
    """A declined attempt leaves the intent; the next one is a payment of its own."""
    intent = await shop.intent("declined")
    first = await shop.confirm(intent)
    second = await shop.confirm(intent, {"payment_method": method("approved")})

    assert (first.status, second.status, second.json["status"], second.json["attempt_count"]) == (402, 200, "succeeded", 2)
    assert second.json["payment_id"] != first.json["payment_id"]
    assert second.json["last_payment_error"] is None
    assert (await shop.read(f"/v1/payments/{first.json['payment_id']}"))["status"] == "failed"


async def test_the_declined_card_is_forgotten(shop: Shop) -> None:
    """Confirming again without naming a method is refused, or the same refused card would be tried over and over."""
    intent = await shop.intent("declined")
    await shop.confirm(intent)
    again = await shop.confirm(intent)

    assert (again.status, again.json["code"]) == (422, "payment_method_required")


async def test_five_declines_end_an_intent(shop: Shop) -> None:
    """The fifth refusal makes the intent failed, and there is no sixth attempt."""
    intent = await shop.intent("declined")
    statuses = []
    for _ in range(5):
        reply = await shop.confirm(intent, {"payment_method": method("declined")})
        statuses.append((reply.status, reply.json["payment_intent"]["status"]))
    sixth = await shop.confirm(intent, {"payment_method": method("approved")})

    assert statuses == [(402, "requires_payment_method")] * 4 + [(402, "failed")]
    assert (sixth.status, sixth.json["code"]) == (409, "too_many_attempts")
    assert len([line for line in shop.system.journal() if line["reference"] == intent["id"]]) == 0


async def test_a_refused_capture_leaves_an_automatic_payment_authorized(shop: Shop) -> None:
    """The sale's authorization stands, nothing is captured, and the intent says so; voiding it lets go."""
    intent = await shop.intent("capture_declined")
    reply = await shop.confirm(intent)
    payment = await shop.payment_of(intent)

    assert (reply.status, reply.json["status"]) == (200, "authorized")
    assert reply.json["last_payment_error"]["decline_code"] == "capture_declined"
    assert (payment["status"], payment["amount_captured"], payment["amount_capturable"]) == ("authorized", 0, 10000)
    assert payment["failure"]["decline_code"] == "capture_declined"
    assert "payment.capture_failed" in await shop.events(payment)
    voided = await shop.void(payment)
    assert (voided.status, voided.json["status"]) == (200, "voided")


async def test_a_refused_capture_of_an_authorization_is_402(shop: Shop) -> None:
    """The payment stays authorized and nothing is posted; it can still be voided."""
    payment = await shop.authorize("capture_declined")
    reply = await shop.capture(payment, 4000)

    assert (reply.status, reply.json["code"], reply.json["decline_code"]) == (402, "payment_declined", "capture_declined")
    assert (reply.json["payment"]["status"], reply.json["payment"]["amount_captured"]) == ("authorized", 0)
    assert reply.json["payment"]["latest_operation"]["failure"]["decline_code"] == "capture_declined"
    assert (await shop.void(payment)).json["status"] == "voided"


async def test_a_slow_card_keeps_its_caller_waiting(shop: Shop) -> None:
    """The request stays until the provider has answered, and others are served meanwhile."""
    intent = await shop.intent("slow")
    waiting = asyncio.create_task(shop.confirm(intent))
    assert (await shop.until_intent(intent, status="processing"))["latest_payment"]

    assert (await waiting).json["status"] == "succeeded"


async def test_a_pending_refund_succeeds_later(shop: Shop) -> None:
    """The request answers 202, the amount is reserved, and the callback brings the end."""
    payment = await shop.pay("refund_pending")
    shop.system.be(later_seconds=1.5)
    reply = await shop.refund(payment, 6000, prefer="wait=0")
    reserved = await shop.payment(payment)
    too_much = await shop.refund(payment, 4001)
    done = await shop.until(f"/v1/refunds/{reply.json['id']}", status="succeeded")
    after = await shop.payment(payment)

    assert (reply.status, reply.json["status"], reply.headers["location"]) == (202, "pending", f"/v1/refunds/{done['id']}")
    assert (reserved["status"], reserved["amount_refund_pending"], reserved["amount_refundable"]) == ("captured", 6000, 4000)
    assert (too_much.status, too_much.json["code"]) == (422, "amount_exceeds_refundable")
    assert (after["status"], after["amount_refunded"], after["amount_refund_pending"]) == ("partially_refunded", 6000, 0)


@pytest.mark.parametrize(("amount", "status"), [(None, "refunded"), (2500, "partially_refunded")])
async def test_a_refund_that_fails_later_moves_the_payment_back(shop: Shop, amount: int | None, status: str) -> None:
    """It succeeds, is taken back, and the money can be refunded again."""
    payment = await shop.pay("refund_fails_later")
    shop.system.be(later_seconds=1.5)
    reply = await shop.refund(payment, amount)
    refunded = await shop.payment(payment)
    failed = await shop.until(f"/v1/refunds/{reply.json['id']}", status="failed")
    after = await shop.payment(payment)

    assert (reply.status, reply.json["status"], refunded["status"]) == (201, "succeeded", status)
    assert failed["failure"]["decline_code"] == "refund_failed"
    assert (after["status"], after["amount_refunded"], after["amount_refundable"]) == ("captured", 0, 10000)
    assert await shop.events(reply.json) == ["refund.created", "refund.succeeded", "refund.failed"]


async def test_another_number_is_no_test_card(shop: Shop) -> None:
    """In test mode a token that is none of the sandbox's is refused wherever it is sent."""
    other = {"type": "card", "token": "tok_01h455vb4pex5vsknk084sn02q"}
    intent = await shop.intent(None)
    created = await shop.post("/v1/payment_intents", {"amount": 100, "currency": "EUR", "payment_method": other})
    changed = await shop.ask("PATCH", f"/v1/payment_intents/{intent['id']}", {"payment_method": other})
    confirmed = await shop.confirm(intent, {"payment_method": other})

    for reply in (created, changed, confirmed):
        assert (reply.status, reply.json["code"], reply.json["param"]) == (422, "test_card_required", "payment_method.token")


@pytest.mark.parametrize(
    "other",
    [
        {"type": "bank_transfer", "country": "DE"},
        {"type": "wallet", "wallet": "apple_pay", "token": "x"},
        {"type": "upi", "vpa": "name@bank"},
        {"type": "net_banking", "bank": "HDFC"},
    ],
)
async def test_methods_that_no_provider_takes_are_422(shop: Shop, other: dict[str, str]) -> None:
    """Their shapes exist; the confirmation finds no route, and the intent is as it was."""
    intent = await shop.intent(None)
    reply = await shop.confirm(intent, {"payment_method": other})
    after = await shop.read(f"/v1/payment_intents/{intent['id']}")

    assert (reply.status, reply.json["code"]) == (422, "no_route")
    assert (after["status"], after["version"], after["attempt_count"]) == ("requires_payment_method", intent["version"], 0)
