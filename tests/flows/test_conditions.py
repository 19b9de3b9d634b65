"""Versions: the `ETag` rises with every visible change, and `If-Match` holds a caller to what it has read."""

from typing import Any

import pytest

from tests.flows.shop import Json, Reply, Shop, method

ACTS = ("patch", "confirm", "cancel", "capture", "void", "refund")


async def subject_of(shop: Shop, act: str) -> Json:
    """The object whose version the act looks at."""
    if act in ("patch", "confirm", "cancel"):
        return await shop.intent()
    return await (shop.pay() if act == "refund" else shop.authorize())


async def do(shop: Shop, act: str, subject: Json, **how: Any) -> Reply:
    if act == "patch":
        return await shop.ask("PATCH", f"/v1/payment_intents/{subject['id']}", {"description": "x"}, **how)
    reply: Reply = await getattr(shop, act)(subject, **how)
    return reply


@pytest.mark.parametrize("act", ACTS)
async def test_a_stale_version_is_412(shop: Shop, act: str) -> None:
    """Nothing moves for a caller that decided on an older state; weak tags and those of others match nothing."""
    subject = await subject_of(shop, act)
    for tag in (f'"{subject["version"] + 1}"', f'W/"{subject["version"]}"', '"x"'):
        reply = await do(shop, act, subject, if_match=tag)
        assert (reply.status, reply.json["code"]) == (412, "version_conflict"), tag

    current = await do(shop, act, subject, if_match=f'"0", "{subject["version"]}"')
    assert current.status in (200, 201)


@pytest.mark.parametrize("act", ACTS)
async def test_any_version_will_do_for_a_star(shop: Shop, act: str) -> None:
    """`*` says only that it is there."""
    reply = await do(shop, act, await subject_of(shop, act), if_match="*")

    assert reply.status in (200, 201)


async def test_the_etag_is_the_version_and_rises(shop: Shop) -> None:
    """Also when only `pending_operation` has changed."""
    payment = await shop.authorize()
    shop.system.strike("capture", "delay", delay_ms=800)
    pending = await shop.capture(payment, prefer="wait=0")
    read = await shop.get(f"/v1/payments/{payment['id']}")
    done = await shop.until_payment(payment, status="captured")

    assert pending.headers["etag"] == f'"{pending.json["version"]}"'
    assert read.headers["etag"] == f'"{read.json["version"]}"'
    assert payment["version"] < pending.json["version"] < done["version"]


async def test_a_replay_is_decided_before_the_version(shop: Shop) -> None:
    """A caller that did not hear the answer may send the same request, stale version and all."""
    payment = await shop.authorize()
    tag = f'"{payment["version"]}"'
    first = await shop.capture(payment, key="the same", if_match=tag)
    second = await shop.capture(payment, key="the same", if_match=tag)
    third = await shop.refund(payment, if_match=tag)

    assert (first.status, second.status, third.status) == (200, 200, 412)


async def test_an_ill_formed_condition_is_400(shop: Shop) -> None:
    """A bare number is no entity tag."""
    reply = await shop.confirm(await shop.intent(), if_match="1")

    assert (reply.status, reply.json["code"], reply.json["param"]) == (400, "invalid_request", "If-Match")


async def test_merchant_id_may_name_only_oneself(shop: Shop) -> None:
    """In a body it is a check: one's own is passed over, another's is 403."""
    own = {"merchant_id": (await shop.intent())["merchant_id"]}
    mine = await shop.post("/v1/payment_intents", {"amount": 1, "currency": "EUR", **own})
    theirs = await shop.post("/v1/payment_intents", {"amount": 1, "currency": "EUR", "merchant_id": "mer_01h455vb4pex5vsknk084sn02q"})

    assert (mine.status, theirs.status, theirs.json["param"]) == (201, 403, "merchant_id")


async def test_a_publishable_key_moves_nothing(shop: Shop) -> None:
    """It may stand in a page; it opens none of these routes."""
    body = {"amount": 1, "currency": "EUR", "payment_method": method("approved"), "confirm": True}
    reply = await shop.post("/v1/payment_intents", body, token=shop.merchant.publishable)

    assert (reply.status, reply.json["code"]) == (403, "forbidden")
