"""The same key is the same request: replays, joins, refusals, expiry."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from app.core.clock import now, parse_rfc3339
from tests.flows.books import as_owner, open_operations
from tests.flows.shop import Json, Reply, Shop, method
from tests.flows.test_clock import tick

# What a repeat is told in headers and no first answer is.
REPLAYED = "idempotent-replayed"
A_DAY_LATER = """
UPDATE idempotency_keys SET created_at = created_at - interval '25 h', expires_at = expires_at - interval '25 h' WHERE key = %s"""


def fresh_key() -> str:
    return f"order-{uuid.uuid4()}"


def assert_repeats(first: Reply, second: Reply) -> None:
    """Same status, same body; only the second says that it is a repeat, and both say until when there will be one."""
    own = {"request_id"}
    assert (second.status, without(second.json, own)) == (first.status, without(first.json, own))
    assert (first.headers.get(REPLAYED), second.headers.get(REPLAYED)) == (None, "true")
    assert first.headers["idempotency-expires"] == second.headers["idempotency-expires"]


def without(members: Json, names: set[str]) -> Json:
    return {name: value for name, value in members.items() if name not in names}


@pytest.mark.parametrize("confirm", [False, True])
async def test_a_create_is_made_once(shop: Shop, confirm: bool) -> None:  # noqa: FBT001 - one of two requests
    """The repeat gets the first answer, secret included, even when the intent has moved on."""
    body = {"amount": 500, "currency": "EUR", "payment_method": method("approved"), "confirm": confirm}
    key = fresh_key()
    first = await shop.post("/v1/payment_intents", body, key=key)
    await shop.ask("PATCH", f"/v1/payment_intents/{first.json['id']}", {"description": "changed since"})
    second = await shop.post("/v1/payment_intents", body, key=key)

    assert first.status == 201
    assert "client_secret" in first.json
    assert_repeats(first, second)
    assert len((await shop.read("/v1/payment_intents"))["data"]) == 1


async def test_a_confirm_is_repeated_from_what_closed_it(shop: Shop) -> None:
    """200 again with the same body, after the payment was refunded too; nothing more is charged."""
    intent, key = await shop.intent(), fresh_key()
    first = await shop.confirm(intent, key=key)
    await shop.refund(await shop.payment_of(intent))
    second = await shop.confirm(intent, key=key)

    assert (first.status, first.json["status"]) == (200, "succeeded")
    assert_repeats(first, second)
    assert len((await shop.read("/v1/payments"))["data"]) == 1


async def test_a_decline_is_repeated(shop: Shop) -> None:
    """A 402 is an answer and is stored: the same key is never asked of the provider again."""
    intent, key = await shop.intent("declined"), fresh_key()
    first = await shop.confirm(intent, key=key)
    second = await shop.confirm(intent, key=key)

    assert first.status == 402
    assert_repeats(first, second)
    assert (await shop.read(f"/v1/payment_intents/{intent['id']}"))["attempt_count"] == 1


async def test_a_declined_create_is_repeated(shop: Shop) -> None:
    """Also when the confirmation came with the creation."""
    body, key = {"amount": 500, "currency": "EUR", "payment_method": method("insufficient_funds"), "confirm": True}, fresh_key()
    first = await shop.post("/v1/payment_intents", body, key=key)
    second = await shop.post("/v1/payment_intents", body, key=key)

    assert (first.status, first.json["decline_code"]) == (402, "insufficient_funds")
    assert_repeats(first, second)


@pytest.mark.parametrize("act", ["capture", "void", "refund"])
async def test_capture_void_and_refund_are_done_once(shop: Shop, act: str) -> None:
    """The repeat is answered, whatever the payment's status is by then."""
    payment = await shop.pay() if act == "refund" else await shop.authorize()
    how: dict[str, Any] = {"key": fresh_key()}
    ask = getattr(shop, act)
    first = await ask(payment, **how)
    second = await ask(payment, **how)

    assert first.status == (201 if act == "refund" else 200)
    assert_repeats(first, second)
    lines = [line for line in shop.system.journal() if line["reference"] == (await shop.payment(payment))["latest_operation"]["id"]]
    assert len(lines) == 1


async def test_a_cancel_and_a_patch_are_done_once(shop: Shop) -> None:
    """What is done at once is repeated from its event, before the version is looked at."""
    intent = await shop.intent()
    path = f"/v1/payment_intents/{intent['id']}"
    patch_key, cancel_key = fresh_key(), fresh_key()
    patched = await shop.ask("PATCH", path, {"metadata": {"a": "1"}}, key=patch_key, if_match='"1"')
    patched_again = await shop.ask("PATCH", path, {"metadata": {"a": "1"}}, key=patch_key, if_match='"1"')
    canceled = await shop.cancel(intent, key=cancel_key)
    canceled_again = await shop.cancel(intent, key=cancel_key)

    assert (patched.status, patched.json["version"], canceled.json["status"]) == (200, 2, "canceled")
    assert_repeats(patched, patched_again)
    # The answer to a cancel is how the intent stands.
    assert (canceled_again.status, canceled_again.json, canceled_again.headers[REPLAYED]) == (200, canceled.json, "true")


async def test_a_repeat_joins_what_is_still_open(shop: Shop) -> None:
    """The first caller gave up at once; the second waits for the same outcome, and one that does not wait is told how it stands."""
    intent, key = await shop.intent("slow"), fresh_key()
    first = await shop.confirm(intent, key=key, prefer="wait=0")
    impatient = await shop.confirm(intent, key=key, prefer="respond-async")
    patient = await shop.confirm(intent, key=key)

    assert (first.status, first.json["status"]) == (202, "processing")
    assert (impatient.status, impatient.json["status"], impatient.json["id"]) == (202, "processing", intent["id"])
    assert (patient.status, patient.json["status"], patient.headers[REPLAYED]) == (200, "succeeded", "true")


async def test_a_refund_that_is_still_open_is_joined(shop: Shop) -> None:
    """A 202 is never stored: the same key gives 202 while it is open and 201 once it is done."""
    payment, key = await shop.pay("refund_pending"), fresh_key()
    shop.system.be(later_seconds=1.5)
    first = await shop.refund(payment, 100, key=key, prefer="wait=0")
    second = await shop.refund(payment, 100, key=key, prefer="wait=0")
    third = await shop.refund(payment, 100, key=key)

    assert (first.status, second.status, third.status) == (202, 202, 201)
    assert first.json["id"] == second.json["id"] == third.json["id"]
    assert second.headers["location"] == f"/v1/refunds/{first.json['id']}"
    assert third.json["status"] == "succeeded"


async def test_another_body_under_the_same_key_is_refused(shop: Shop) -> None:
    """422, and nothing moves; another order of the members is the same body."""
    key = fresh_key()
    first = await shop.post("/v1/payment_intents", {"amount": 500, "currency": "EUR"}, key=key)
    other = await shop.post("/v1/payment_intents", {"amount": 501, "currency": "EUR"}, key=key)
    same = await shop.post("/v1/payment_intents", {"currency": "EUR", "amount": 500}, key=key)

    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert_repeats(first, same)


async def test_a_key_belongs_to_its_route_object_mode_and_merchant(shop: Shop, neighbour: Shop) -> None:
    """On another route, in another mode and for another merchant it is another key; on another object of the route it is refused."""
    key = fresh_key()
    body = {"amount": 500, "currency": "EUR"}
    ours = await shop.post("/v1/payment_intents", body, key=key)
    live = await shop.post("/v1/payment_intents", body, key=key, token=shop.merchant.live)
    theirs = await neighbour.post("/v1/payment_intents", body, key=key)
    one, two = await shop.pay(), await shop.pay()
    refunded = await shop.refund(one, 10, key=key)
    elsewhere = await shop.refund(two, 10, key=key)

    assert {ours.status, live.status, theirs.status, refunded.status} == {201}
    assert len({ours.json["id"], live.json["id"], theirs.json["id"]}) == 3
    assert (elsewhere.status, elsewhere.json["code"]) == (422, "idempotency_key_reused")


async def test_one_key_raced_on_two_payments_moves_one(shop: Shop) -> None:
    """Whoever comes second is refused, with no fault of ours."""
    one, two, key = await shop.authorize(), await shop.authorize(), fresh_key()
    replies = await asyncio.gather(*(shop.capture(payment, key=key) for payment in (one, two)))

    assert sorted(reply.status for reply in replies) == [200, 422]
    assert sorted([(await shop.payment(one))["status"], (await shop.payment(two))["status"]]) == ["authorized", "captured"]


async def test_the_key_may_stand_in_header_or_body(shop: Shop) -> None:
    """Quoted, bare or as a member it is the same key; two different ones are refused."""
    key = fresh_key()
    body = {"amount": 500, "currency": "EUR"}
    bare = await shop.post("/v1/payment_intents", body, key=key)
    quoted = await shop.post("/v1/payment_intents", body, key=f'"{key}"')
    member = await shop.post("/v1/payment_intents", {**body, "idempotency_key": key})
    both = await shop.post("/v1/payment_intents", {**body, "idempotency_key": "another"}, key=key)

    assert bare.json["id"] == quoted.json["id"] == member.json["id"]
    assert (both.status, both.json["code"]) == (400, "idempotency_key_invalid")


async def test_without_a_key_each_request_is_a_new_one(shop: Shop) -> None:
    """Keys are optional."""
    assert (await shop.intent())["id"] != (await shop.intent())["id"]


async def test_what_wrote_nothing_is_not_stored(shop: Shop) -> None:
    """A refusal of 409 or 422 leaves the key free for the request that is right."""
    intent, key = await shop.intent(None), fresh_key()
    refused = await shop.confirm(intent, key=key)
    paid = await shop.confirm(intent, {"payment_method": method("approved")}, key=key)
    payment = await shop.payment_of(intent)
    too_much = await shop.refund(payment, 10001, key=key)
    enough = await shop.refund(payment, 10000, key=key)

    assert (refused.status, paid.status) == (422, 200)
    assert (too_much.status, enough.status) == (422, 201)


@pytest.mark.parametrize("act", ["confirm", "capture", "refund"])
async def test_an_expired_key_that_moved_money_never_moves_it_again(shop: Shop, act: str) -> None:
    """After a day the answer is gone; the refusal names the object, and the provider is not asked."""
    key = fresh_key()
    intent = await shop.intent(capture_method="automatic" if act == "refund" else "manual")
    confirmed = await shop.confirm(intent, key=key if act == "confirm" else None)
    payment = {"id": confirmed.json["payment_id"]}
    asking: dict[str, Callable[[], Awaitable[Reply]]] = {
        "confirm": lambda: shop.confirm(intent, key=key),
        "capture": lambda: shop.capture(payment, key=key),
        "refund": lambda: shop.refund(payment, key=key),
    }
    ask = asking[act]
    first = confirmed if act == "confirm" else await ask()
    await as_owner(shop.system, A_DAY_LATER, key)
    late = await ask()

    name = {"confirm": "payment_intent_id", "capture": "payment_id", "refund": "refund_id"}[act]
    assert (late.status, late.json["code"], late.json[name]) == (409, "idempotency_key_expired", first.json["id"])
    assert await open_operations(shop.system, shop.merchant.id) == []


async def test_an_expired_key_that_created_and_confirmed_never_charges_again(shop: Shop) -> None:
    """Nor after the clock has swept old keys: a day later the same request makes no second intent of the same order."""
    body, key = {"amount": 500, "currency": "EUR", "payment_method": method("approved"), "confirm": True}, fresh_key()
    first = await shop.post("/v1/payment_intents", body, key=key)
    await as_owner(shop.system, A_DAY_LATER, key)
    await tick(shop.system, "purge")
    late = await shop.post("/v1/payment_intents", body, key=key)

    assert (first.status, first.json["status"]) == (201, "succeeded")
    assert (late.status, late.json["code"], late.json["payment_intent_id"]) == (409, "idempotency_key_expired", first.json["id"])
    assert len((await shop.read("/v1/payment_intents"))["data"]) == 1
    assert len((await shop.read("/v1/payments"))["data"]) == 1


async def test_answers_are_kept_for_a_day(shop: Shop) -> None:
    """The header says until when, and that is no shorter than promised."""
    asked_at = now()
    reply = await shop.post("/v1/payment_intents", {"amount": 5, "currency": "EUR"}, key=fresh_key())

    assert parse_rfc3339(reply.headers["idempotency-expires"]) >= asked_at + timedelta(hours=24)
