"""Many callers at once, through two web processes."""

import asyncio

from tests.flows.shop import Json, Shop, method


async def test_fifty_equal_creates_are_one_intent(shop: Shop) -> None:
    """Every answer is 201 with the same id, or a 409 whose retry is."""
    body = {"amount": 700, "currency": "EUR", "payment_method": method("approved")}

    async def create() -> str:
        for _ in range(10):
            reply = await shop.post("/v1/payment_intents", body, key="the same")
            if reply.status == 201:
                return str(reply.json["id"])
            assert (reply.status, reply.json["code"]) == (409, "idempotency_in_progress")
            await asyncio.sleep(float(reply.headers["retry-after"]))
        raise AssertionError("409 for ever")

    assert len(set(await asyncio.gather(*(create() for _ in range(50))))) == 1
    assert len((await shop.read("/v1/payment_intents"))["data"]) == 1


async def test_fifty_equal_creates_with_confirm_are_one_charge(shop: Shop) -> None:
    """Created and confirmed once, whoever came first."""
    body = {"amount": 700, "currency": "EUR", "payment_method": method("approved"), "confirm": True}
    replies = await asyncio.gather(*(shop.post("/v1/payment_intents", body, key="the same") for _ in range(50)))

    assert {(reply.status, reply.json["status"]) for reply in replies} == {(201, "succeeded")}
    assert len({reply.json["payment_id"] for reply in replies}) == 1
    assert len(await charges(shop)) == 1


async def test_thirty_confirms_are_one_charge(shop: Shop) -> None:
    """Without keys: one is carried out, the others are told that it is under way or over."""
    intent = await shop.intent()
    replies = await asyncio.gather(*(shop.confirm(intent) for _ in range(30)))

    assert [reply.status for reply in replies].count(200) == 1
    assert {reply.json["code"] for reply in replies if reply.status != 200} <= {"operation_in_progress", "illegal_transition"}
    assert len(await charges(shop)) == 1


async def test_thirty_confirms_under_one_key_are_one_charge(shop: Shop) -> None:
    """With a key all of them get the answer."""
    intent = await shop.intent("slow")
    replies = await asyncio.gather(*(shop.confirm(intent, key="the same") for _ in range(30)))

    assert {(reply.status, reply.json["status"]) for reply in replies} == {(200, "succeeded")}
    assert [reply.headers.get("idempotent-replayed") for reply in replies].count(None) == 1
    assert len(await charges(shop)) == 1


async def test_thirty_refunds_under_one_key_are_one(shop: Shop) -> None:
    """One refund, told thirty times."""
    payment = await shop.pay()
    replies = await asyncio.gather(*(shop.refund(payment, 100, key="the same") for _ in range(30)))

    assert {reply.status for reply in replies} == {201}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert (await shop.payment(payment))["amount_refunded"] == 100


async def test_confirm_and_cancel_at_once_end_in_one_of_both(shop: Shop) -> None:
    """Paid, or canceled with nothing kept; never both."""
    intents = [await shop.intent() for _ in range(8)]
    await asyncio.gather(*(act for intent in intents for act in (shop.confirm(intent), shop.cancel(intent))))

    for intent in intents:
        after = await settled(shop, intent["id"])
        if after["latest_payment"] is None:
            assert after["status"] == "canceled"
            continue
        payment = await shop.until_payment({"id": after["latest_payment"]}, amount_refund_pending=0)
        kept = payment["amount_captured"] - payment["amount_refunded"]
        assert (after["status"], kept) in (("succeeded", 10000), ("canceled", 0))


async def test_changes_under_one_version_are_one(shop: Shop) -> None:
    """Of twenty PATCHes that name the same version one is made, the others are stale."""
    intent = await shop.intent()
    path = f"/v1/payment_intents/{intent['id']}"
    replies = await asyncio.gather(*(shop.ask("PATCH", path, {"metadata": {"n": str(n)}}, if_match='"1"') for n in range(20)))

    assert sorted(reply.status for reply in replies) == [200] + [412] * 19
    assert (await shop.read(path))["version"] == 2


async def test_many_payments_at_once_are_each_their_own(shop: Shop) -> None:
    """Forty payments of different amounts: each is captured with its own, and the provider's book agrees."""
    amounts = [100 + n for n in range(40)]

    async def pay(amount: int) -> int:
        return int((await shop.pay(amount=amount))["amount_captured"])

    assert await asyncio.gather(*(pay(amount) for amount in amounts)) == amounts
    assert sorted(line["amount"] for line in await charges(shop)) == amounts


async def charges(shop: Shop) -> list[Json]:
    """What the provider has charged for this merchant."""
    page = await shop.read("/v1/payments?limit=100")
    operations = {payment["latest_operation"]["id"] for payment in page["data"]}
    return [line for line in shop.system.journal() if line["reference"] in operations]


async def settled(shop: Shop, intent_id: str) -> Json:
    for _ in range(200):
        intent = await shop.read(f"/v1/payment_intents/{intent_id}")
        if intent["status"] in ("succeeded", "canceled"):
            return intent
        await asyncio.sleep(0.05)
    raise AssertionError("neither paid nor canceled")
