"""Giving back: all, parts, several at once, more than there is."""

import asyncio

import pytest

from tests.flows.books import rows
from tests.flows.shop import Shop

WALLET = "SELECT pending_balance FROM wallets WHERE merchant_id = %s::uuid AND currency = 'EUR'"


async def test_a_full_refund(shop: Shop) -> None:
    """Without an amount everything goes back; the fee is kept."""
    payment = await shop.pay()
    reply = await shop.refund(payment)
    after = await shop.payment(payment)
    ((balance,),) = await rows(shop.system, WALLET, shop.merchant.id)

    assert (reply.status, reply.json["status"], reply.json["amount"], reply.json["currency"]) == (201, "succeeded", 10000, "EUR")
    assert reply.json["refund_id"] == reply.json["id"]
    assert reply.json["payment_id"] == payment["id"]
    assert (after["status"], after["amount_refunded"], after["amount_refundable"], after["fee"]) == ("refunded", 10000, 0, 320)
    assert balance == -320


async def test_parts_until_nothing_is_left(shop: Shop) -> None:
    """Partially refunded again and again, then refunded; the intent stays succeeded."""
    payment = await shop.pay()
    statuses = []
    for amount in (1, 2999, None):
        reply = await shop.refund(payment, amount)
        statuses.append((reply.json["amount"], (await shop.payment(payment))["status"]))
    more = await shop.refund(payment)

    assert statuses == [(1, "partially_refunded"), (2999, "partially_refunded"), (7000, "refunded")]
    assert (more.status, more.json["code"]) == (422, "amount_exceeds_refundable")
    assert (await shop.read(f"/v1/payment_intents/{payment['payment_intent_id']}"))["status"] == "succeeded"
    assert await shop.events(payment) == [
        "payment.created",
        "payment.captured",
        "payment.partially_refunded",
        "payment.partially_refunded",
        "payment.refunded",
    ]


async def test_a_refund_carries_what_the_merchant_wrote(shop: Shop) -> None:
    """Reason and metadata are kept, and the refund is found by its id and by its payment."""
    payment = await shop.pay()
    body = {"amount": 5, "reason": "broken, très cassé", "metadata": {"ticket": "7"}}
    refund = (await shop.post(f"/v1/payments/{payment['id']}/refunds", body)).json
    other = await shop.pay()
    await shop.refund(other)

    assert {name: refund[name] for name in body} == body
    assert await shop.read(f"/v1/refunds/{refund['id']}") == refund
    assert (await shop.read(f"/v1/refunds?payment_id={payment['id']}"))["data"] == [refund]
    assert len((await shop.read("/v1/refunds"))["data"]) == 2


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"amount": 10001}, "amount_exceeds_refundable", "amount"),
        ({"amount": 0}, "invalid_amount", "amount"),
        ({"reason": "x" * 256}, "invalid_value", "reason"),
    ],
)
async def test_a_wrong_refund_is_422(shop: Shop, body: dict[str, object], code: str, param: str) -> None:
    """Nothing is reserved for it."""
    payment = await shop.pay()
    reply = await shop.post(f"/v1/payments/{payment['id']}/refunds", body)

    assert (reply.status, reply.json["code"], reply.json["param"]) == (422, code, param)
    assert (await shop.payment(payment))["amount_refundable"] == 10000


async def test_refunds_overlap(shop: Shop) -> None:
    """Several may be under way at once; each reserves its amount, and all of them count."""
    payment = await shop.pay()
    shop.system.strike("refund", "delay", times=2, delay_ms=1500)
    first = await shop.refund(payment, 3000, prefer="wait=0")
    second = await shop.refund(payment, 4000, prefer="wait=0")
    both = await shop.payment(payment)
    third = await shop.refund(payment, 3001, prefer="wait=0")
    fourth = await shop.refund(payment, 3000)
    after = await shop.until_payment(payment, amount_refunded=10000)

    assert (first.status, second.status, fourth.status) == (202, 202, 201)
    assert (both["amount_refund_pending"], both["amount_refundable"], both["pending_operation"]) == (7000, 3000, None)
    assert (third.status, third.json["code"]) == (422, "amount_exceeds_refundable")
    assert (after["status"], after["amount_refund_pending"]) == ("refunded", 0)


async def test_a_refused_refund_is_402_and_gives_its_reservation_back(shop: Shop) -> None:
    """The provider has less left than we know of: the refund fails with its reason, and the payment is as before."""
    payment = await shop.pay()
    shop.system.strike("refund", "error_before_effect", status=422)
    reply = await shop.refund(payment, 4000)
    after = await shop.payment(payment)

    assert (reply.status, reply.json["code"], reply.json["refund"]["status"]) == (402, "payment_declined", "failed")
    assert reply.json["refund"]["failure"]["decline_code"] == "invalid_request"
    assert (after["status"], after["amount_refundable"], after["amount_refund_pending"]) == ("captured", 10000, 0)
    assert await shop.events(reply.json["refund"]) == ["refund.created", "refund.failed"]


async def test_fifty_refunds_of_60_of_100_at_once_are_one(shop: Shop) -> None:
    """Exactly one is accepted, whatever the order in which they arrive."""
    payment = await shop.pay()
    replies = await asyncio.gather(*(shop.refund(payment, 6000) for _ in range(50)))
    after = await shop.payment(payment)

    assert sorted(reply.status for reply in replies) == [201] + [422] * 49
    assert {reply.json["code"] for reply in replies if reply.status == 422} == {"amount_exceeds_refundable"}
    assert (after["amount_refunded"], after["amount_refund_pending"], after["status"]) == (6000, 0, "partially_refunded")


async def test_small_refunds_at_once_add_up(shop: Shop) -> None:
    """Thirty of a fortieth each: all are carried out, none is lost and none counted twice."""
    payment = await shop.pay()
    replies = await asyncio.gather(*(shop.refund(payment, 250) for _ in range(30)))
    after = await shop.payment(payment)

    assert {reply.status for reply in replies} == {201}
    assert len({reply.json["id"] for reply in replies}) == 30
    assert (after["amount_refunded"], after["amount_refundable"]) == (7500, 2500)


async def test_a_partly_captured_payment_gives_back_what_was_captured(shop: Shop) -> None:
    """What was authorized and let go is nobody's to refund."""
    payment = await shop.authorize()
    await shop.capture(payment, 6000)
    too_much = await shop.refund(payment, 6001)
    reply = await shop.refund(payment)

    assert too_much.status == 422
    assert (reply.json["amount"], (await shop.payment(payment))["status"]) == (6000, "refunded")
