"""Authorize, then capture all or a part of it, or let go."""

import asyncio

import pytest

from tests.flows.books import rows
from tests.flows.shop import Shop

ENTRIES = """
SELECT t.type, e.direction, e.account_id, e.amount
  FROM ledger_transactions t
  JOIN ledger_entries e ON e.transaction_id = t.transaction_id
 WHERE t.merchant_id = %s::uuid
 ORDER BY t.created_at, e.entry_id"""


async def test_an_authorization_holds_and_a_capture_takes(shop: Shop) -> None:
    """The hold is booked, then reversed by the capture with its four entries; 25.99 costs 1.05."""
    payment = await shop.authorize(amount=2599, currency="USD")
    reply = await shop.capture(payment)

    assert (payment["status"], payment["amount_capturable"], payment["captured_at"]) == ("authorized", 2599, None)
    assert (reply.status, reply.json["status"], reply.json["amount_captured"]) == (200, "captured", 2599)
    assert (reply.json["fee"], reply.json["net"], reply.json["amount_capturable"]) == (105, 2494, 0)
    assert await rows(shop.system, ENTRIES, shop.merchant.id) == [
        ("auth", "debit", "authorization_holds", 2599),
        ("auth", "credit", "authorization_holds_contra", 2599),
        ("capture", "debit", "authorization_holds_contra", 2599),
        ("capture", "credit", "authorization_holds", 2599),
        ("capture", "debit", "customer_payment_clearing", 2599),
        ("capture", "credit", "merchant_pending", 2599),
        ("capture", "debit", "merchant_fee_expense", 105),
        ("capture", "credit", "platform_revenue", 105),
    ]


async def test_a_captured_intent_has_succeeded(shop: Shop) -> None:
    """Authorized, then succeeded; the merchant is told both of the payment and of the intent."""
    intent = await shop.intent(capture_method="manual")
    confirmed = await shop.confirm(intent)
    payment = await shop.payment_of(intent)
    await shop.capture(payment)

    assert (confirmed.json["status"], confirmed.json["authorization_id"]) == ("authorized", payment["authorization_id"])
    assert (await shop.read(f"/v1/payment_intents/{intent['id']}"))["status"] == "succeeded"
    assert await shop.events(payment) == ["payment.created", "payment.authorized", "payment.captured"]


async def test_a_partial_capture_is_final(shop: Shop) -> None:
    """Less than authorized is allowed, the rest is let go, and there is no second capture."""
    payment = await shop.authorize()
    reply = await shop.capture(payment, 6000)
    again = await shop.capture(payment, 1)

    assert (reply.status, reply.json["amount"], reply.json["amount_captured"], reply.json["fee"]) == (200, 10000, 6000, 204)
    assert (reply.json["amount_capturable"], reply.json["amount_refundable"]) == (0, 6000)
    assert (again.status, again.json["code"]) == (409, "illegal_transition")


@pytest.mark.parametrize(("amount", "code"), [(10001, "amount_exceeds_authorized"), (0, "invalid_amount"), (-1, "invalid_amount")])
async def test_a_capture_of_a_wrong_amount_is_422(shop: Shop, amount: int, code: str) -> None:
    """Nothing is asked of the provider, and the right amount can still be captured."""
    payment = await shop.authorize()
    reply = await shop.capture(payment, amount)

    assert (reply.status, reply.json["code"], reply.json["param"]) == (422, code, "amount")
    assert (await shop.payment(payment))["version"] == payment["version"]
    assert (await shop.capture(payment, 10000)).status == 200


async def test_a_void_lets_go(shop: Shop) -> None:
    """The payment is voided, the intent canceled with its reason, the hold is gone."""
    payment = await shop.authorize()
    reply = await shop.void(payment)
    intent = await shop.read(f"/v1/payment_intents/{payment['payment_intent_id']}")

    assert (reply.status, reply.json["status"], reply.json["amount_captured"]) == (200, "voided", 0)
    assert (intent["status"], intent["cancellation_reason"]) == ("canceled", "voided")
    assert await shop.events(payment) == ["payment.created", "payment.authorized", "payment.voided"]


@pytest.mark.parametrize("act", ["capture", "void", "refund"])
async def test_what_a_voided_payment_allows(shop: Shop, act: str) -> None:
    """Nothing."""
    payment = await shop.authorize()
    await shop.void(payment)
    reply = await getattr(shop, act)(payment)

    assert (reply.status, reply.json["code"]) == (409, "illegal_transition")


async def test_a_captured_payment_is_refunded_and_not_voided(shop: Shop) -> None:
    """409 that points to the refund."""
    payment = await shop.pay()
    voided = await shop.void(payment)
    captured = await shop.capture(payment)

    assert (voided.status, voided.json["code"]) == (409, "illegal_transition")
    assert "efund" in voided.json["detail"]
    assert (captured.status, captured.json["code"]) == (409, "illegal_transition")


async def test_an_uncaptured_payment_is_not_refunded(shop: Shop) -> None:
    """There is nothing to give back yet."""
    payment = await shop.authorize()
    reply = await shop.refund(payment)

    assert (reply.status, reply.json["code"]) == (409, "illegal_transition")


@pytest.mark.parametrize("second", ["capture", "void"])
@pytest.mark.parametrize("first", ["capture", "void"])
async def test_one_operation_at_a_time(shop: Shop, first: str, second: str) -> None:
    """While a capture or void is open the next is 409 and shows which one is."""
    payment = await shop.authorize()
    shop.system.strike(first, "delay", delay_ms=1200)
    opened = await getattr(shop, first)(payment, prefer="wait=0")
    refused = await getattr(shop, second)(payment)
    done = await shop.until_payment(payment, pending_operation=None)

    assert (opened.status, opened.json["pending_operation"]["type"], opened.json["status"]) == (202, first, "authorized")
    assert (refused.status, refused.json["code"], refused.json["retryable"]) == (409, "operation_in_progress", True)
    assert refused.json["pending_operation"] == opened.json["pending_operation"]
    assert set(refused.json["pending_operation"]) == {"id", "type", "amount", "status", "since"}
    assert done["status"] == {"capture": "captured", "void": "voided"}[first]


async def test_a_capture_and_a_void_at_once_do_one_of_both(shop: Shop) -> None:
    """Whoever comes second is refused, and the books follow the first."""
    payment = await shop.authorize()
    replies = await asyncio.gather(shop.capture(payment), shop.void(payment))
    after = await shop.payment(payment)

    assert sorted(reply.status for reply in replies) == [200, 409]
    assert after["status"] in ("captured", "voided")


async def test_many_captures_at_once_take_once(shop: Shop) -> None:
    """Twenty requests without keys: one is carried out."""
    payment = await shop.authorize()
    replies = await asyncio.gather(*(shop.capture(payment, 3000) for _ in range(20)))

    assert sorted(reply.status for reply in replies) == [200] + [409] * 19
    assert (await shop.payment(payment))["amount_captured"] == 3000


async def test_the_timeline_tells_a_payment_from_first_to_last(shop: Shop) -> None:
    """Who asked, every event, what the provider was asked, and the entries, in order."""
    payment = await shop.authorize()
    await shop.capture(payment, 6000)
    refund = (await shop.refund(payment, 1000)).json
    timeline = await shop.read(f"/v1/payments/{payment['id']}/timeline")

    entries = timeline["data"]
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert [entry["what"] for entry in entries if entry["kind"] == "event" and entry["object_id"] == payment["id"]] == [
        "payment.created",
        "payment.authorized",
        "payment.operation_requested",
        "payment.captured",
        "payment.operation_requested",
        "payment.partially_refunded",
    ]
    calls = [entry for entry in entries if entry["kind"] == "provider_call"]
    assert [call["what"] for call in calls] == ["authorize succeeded", "capture succeeded", "refund succeeded"]
    assert all(call["detail"]["latency_ms"] > 0 and call["detail"]["outcome"]["outcome"] == "approved" for call in calls)
    assert all(call["actor"].startswith("api_key:key_") for call in calls)
    assert sum(entry["kind"] == "ledger" for entry in entries) == 2 + 6 + 2
    assert [entry["what"] for entry in entries if entry["object_id"] == refund["id"]] == ["refund.created", "refund.succeeded"]
    assert {entry["actor"] for entry in entries if entry["what"] == "payment.captured"} == {"provider:sandbox"}
