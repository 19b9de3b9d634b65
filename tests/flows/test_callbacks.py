"""The provider's callbacks: a hint to ask, never a fact by themselves."""

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

from tests.flows.books import rows
from tests.flows.running import CALLBACK_SECRET
from tests.flows.shop import Json, Reply, Shop

PATH = "/v1/providers/sandbox/events"


def callback(payment: Json, *, status: str = "captured", **changes: Any) -> bytes:
    """What the provider would say about a payment's latest operation."""
    operation = payment["latest_operation"]
    about = {
        "id": "sbop_x",
        "charge": payment["provider_ref"] or "ch_x",
        "reference": operation["id"],
        "operation": operation["type"],
        "status": status,
        "amount": operation["amount"],
        "currency": payment["currency"],
        **changes,
    }
    told = {"id": f"sbevt_{uuid.uuid4().hex}", "type": "operation.updated", "created_at": "2026-11-20T12:00:00Z", "data": about}
    return json.dumps(told).encode()


async def send(shop: Shop, body: bytes, *, secret: str = CALLBACK_SECRET, at: float | None = None, path: str = PATH) -> Reply:
    stamp = str(int(time.time() if at is None else at))
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "Sandbox-Signature": f"t={stamp},v1={mac}"}
    async with shop.session.post(shop.system.url + path, data=body, headers=headers) as response:
        return Reply(response.status, await response.json(content_type=None), {})


async def test_a_callback_is_taken_once(shop: Shop) -> None:
    """The second of two equal ones is told that it is a duplicate, and neither moves what has moved already."""
    payment = await shop.pay()
    body = callback(payment)
    first, second = await send(shop, body), await send(shop, body)

    assert (first.status, first.json) == (200, {"received": True, "duplicate": False})
    assert (second.status, second.json) == (200, {"received": True, "duplicate": True})
    assert await rows(shop.system, "SELECT count(*) FROM refunds WHERE merchant_id = %s::uuid", shop.merchant.id) == [(0,)]
    assert (await shop.payment(payment))["version"] == payment["version"]


async def test_a_forged_callback_is_refused(shop: Shop) -> None:
    """Signed with another secret, too old, from the future or not at all: 400, and nothing is stored."""
    body = callback(await shop.pay())
    forged = [
        await send(shop, body, secret="another"),
        await send(shop, body, at=time.time() - 3600),
        await send(shop, body, at=time.time() + 3600),
        await shop.post(PATH, json.loads(body)),
    ]

    assert {(reply.status, reply.json["code"]) for reply in forged} == {(400, "signature_invalid")}
    assert (await send(shop, body)).json["duplicate"] is False


async def test_a_callback_that_lies_changes_nothing(shop: Shop) -> None:
    """What it says is asked for at the provider, whose own book decides: a captured payment is not declined, nor more captured."""
    payment = await shop.authorize()
    for body in (callback(payment, status="declined"), callback(payment, amount=99), callback(payment, operation="refund")):
        assert (await send(shop, body)).status == 200
    captured = await shop.capture(payment)

    assert (captured.json["status"], captured.json["amount_captured"]) == ("captured", 10000)
    assert (await shop.payment(payment))["version"] == captured.json["version"]


async def test_a_callback_about_nothing_of_ours_is_taken_and_forgotten(shop: Shop) -> None:
    """The provider need not repeat it, and nothing breaks."""
    payment = await shop.pay()
    for reference in ("op_01h455vb4pex5vsknk084sn02q", "somebody_elses", ""):
        reply = await send(shop, callback(payment, reference=reference))
        assert (reply.status, reply.json["received"]) == (200, True)


async def test_a_callback_that_cannot_be_read_is_400(shop: Shop) -> None:
    """A right signature makes no event of it."""
    for body in (b"", b"[]", b'{"id": 5}', b"\xff\xfe"):
        reply = await send(shop, body)
        assert (reply.status, reply.json["code"]) == (400, "signature_invalid"), body


async def test_an_unknown_provider_is_404(shop: Shop) -> None:
    """There is nothing at its address."""
    reply = await send(shop, callback(await shop.pay()), path="/v1/providers/nobody/events")

    assert (reply.status, reply.json["code"]) == (404, "not_found")


async def test_callbacks_for_everything_change_nothing(shop: Shop) -> None:
    """A provider that also announces what it has answered, before the answer or after it, is heard twice and believed once."""
    shop.system.be(callbacks="all")
    payments = [await shop.pay() for _ in range(5)]
    for payment in payments:
        await shop.refund(payment, 100)
    shop.system.be(callbacks="late")

    for payment in payments:
        after = await shop.payment(payment)
        assert (after["amount_captured"], after["amount_refunded"]) == (10000, 100)
