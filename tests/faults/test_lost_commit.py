"""The connection to PostgreSQL is cut at a COMMIT: before it arrives, or when it is done and nobody hears of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from app.core.ids import parse_typeid
from tests.conftest import _cloned
from tests.faults.proxy import Proxy, When, proxied
from tests.faults.stage import SHORT, shopping, staged
from tests.flows.books import assert_books_agree, open_operations, rows
from tests.flows.shop import Json, Reply, Shop, eventually
from tests.webhooks.receiver import running as receiving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("processes")]

POSTINGS = "SELECT type FROM ledger_transactions WHERE payment_id = %s::uuid"
BOTH = pytest.mark.parametrize("when", ["before", "after"])


class Wires(NamedTuple):
    """A shop, and the proxies before the database of its web process and of its worker."""

    shop: Shop
    web: Proxy
    worker: Proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wires(database_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wires]:
    with _cloned(database_server, template) as url, staged(url, tmp_path_factory.mktemp("lost") / "stage", **SHORT) as stage:
        async with proxied(url) as web, proxied(url) as worker, shopping(stage.system) as shop:
            await stage.start("sandbox", "clock")
            await stage.start("worker-1", DATABASE_URL=worker.url)
            await stage.start("web-1", DATABASE_URL=web.url)
            yield Wires(shop, web, worker)
            await eventually(lambda: nothing_asked(shop), what="an end of all operations")
            await assert_books_agree(stage.system, shop.merchant.id)


async def until_final(shop: Shop, path: str, body: Json, *, key: str, first: Reply) -> Reply:
    """The answer of the same request again, as often as the answers say that it may come; none of them may be a fault of ours."""
    reply = first
    for _ in range(20):
        if reply.status not in (202, 503):
            break
        assert "retry-after" in reply.headers, reply
        reply = await shop.post(path, body, key=key)
    return reply


async def charged(shop: Shop, payment: Json) -> list[str]:
    """What the provider did for a payment."""
    timeline = await shop.read(f"/v1/payments/{payment['id']}/timeline")
    calls = {entry["object_id"] for entry in timeline["data"] if entry["kind"] == "provider_call"}
    return sorted(line["kind"] for line in shop.system.journal() if line["reference"] in calls)


@BOTH
@pytest.mark.parametrize("keyed", [True, False])
async def test_a_create_whose_commit_is_lost_makes_one_intent(wires: Wires, when: When, keyed: bool) -> None:  # noqa: FBT001 - one of two requests
    """The lane finds out by itself whether it was committed; without an idempotency key too."""
    key = f"create-{when}" if keyed else None
    cuts = wires.web.cuts
    wires.web.cut(when, "INSERT INTO payment_intents")
    reply = await wires.shop.post("/v1/payment_intents", {"amount": 700, "currency": "EUR", "reference": f"{when}-{keyed}"}, key=key)

    assert (reply.status, wires.web.cuts) == (201, cuts + 1)
    listed = await wires.shop.read(f"/v1/payment_intents?reference={when}-{keyed}")
    assert [one["id"] for one in listed["data"]] == [reply.json["id"]]


@BOTH
async def test_a_confirm_whose_commit_is_lost_charges_once(wires: Wires, when: When) -> None:
    """The client is told the truth at once, and the same key again is told the same."""
    intent = await wires.shop.intent()
    cuts = wires.web.cuts
    wires.web.cut(when, "INSERT INTO operations")
    first = await wires.shop.confirm(intent, key=f"confirm-{when}")
    again = await wires.shop.confirm(intent, key=f"confirm-{when}")

    assert wires.web.cuts == cuts + 1
    assert (first.status, again.status, again.json) == (200, 200, first.json)
    assert await charged(wires.shop, await wires.shop.payment_of(intent)) == ["sale"]


@BOTH
@pytest.mark.parametrize("act", ["capture", "void", "refund", "cancel"])
async def test_an_act_whose_commit_is_lost_is_done_once(wires: Wires, when: When, act: str) -> None:
    """What is not known is called unavailable, never done or failed; the same key again does it, once."""
    payment = await (wires.shop.pay() if act == "refund" else wires.shop.authorize())
    path = {
        "capture": f"/v1/payments/{payment['id']}/capture",
        "void": f"/v1/payments/{payment['id']}/void",
        "refund": f"/v1/payments/{payment['id']}/refunds",
        "cancel": f"/v1/payment_intents/{payment['payment_intent_id']}/cancel",
    }[act]
    cuts = wires.web.cuts
    wires.web.cut(when, "INSERT INTO operations")
    first = await wires.shop.post(path, key=f"{act}-{when}")
    final = await until_final(wires.shop, path, {}, key=f"{act}-{when}", first=first)

    assert wires.web.cuts == cuts + 1
    assert (first.status, first.json.get("retryable")) == (503, True)
    assert final.status == (201 if act == "refund" else 200)
    done = {"capture": ["authorize", "capture"], "refund": ["refund", "sale"]}.get(act, ["authorize", "void"])
    assert await charged(wires.shop, payment) == done


@BOTH
async def test_a_delivery_whose_commit_is_lost_is_sent_and_recorded_once(wires: Wires, when: When) -> None:
    """The answer of the merchant's server is written down, whether or not the worker hears that it was."""
    shop = wires.shop
    async with receiving() as receiver:
        endpoint = {"url": f"{receiver.url}/hook", "enabled_events": ["payment.captured"]}
        hook = (await shop.post("/v1/webhook_endpoints", endpoint)).json

        async def delivered(count: int) -> list[Json] | None:
            listed = (await shop.read(f"/v1/webhook_endpoints/{hook['id']}/deliveries"))["data"]
            waiting = await rows(shop.system, "SELECT 1 FROM outbox WHERE queue = 'webhooks'")
            return listed if len(listed) == count and not waiting else None

        # The first success of an endpoint is written down in another way than those that follow.
        await shop.pay()
        await eventually(lambda: delivered(1), what="a first delivery")
        cuts = wires.worker.cuts
        wires.worker.cut(when, "INSERT INTO webhook_deliveries")
        await shop.pay()
        deliveries = await eventually(lambda: delivered(2), what="a second delivery")

        assert wires.worker.cuts == cuts + 1
        assert [(one["status"], one["attempts"]) for one in deliveries] == [("delivered", 1), ("delivered", 1)]
        assert len(receiver.got("/hook")) == 2
        await shop.ask("DELETE", f"/v1/webhook_endpoints/{hook['id']}")


@BOTH
@pytest.mark.parametrize("card", ["approved", "declined"])
async def test_an_outcome_whose_commit_is_lost_is_booked_once(wires: Wires, when: When, card: str) -> None:
    """The worker books again what it still holds, and leaves alone what it has booked: one charge, one posting, one answer."""
    intent = await wires.shop.intent(card)
    cuts = wires.worker.cuts
    wires.worker.cut(when, "DELETE FROM outbox")
    reply = await wires.shop.confirm(intent)
    payment = await wires.shop.payment_of(intent)
    postings = await rows(wires.shop.system, POSTINGS, parse_typeid("pay", payment["id"]))

    assert wires.worker.cuts == cuts + 1
    assert reply.status == (200 if card == "approved" else 402)
    assert (await charged(wires.shop, payment), postings) == ((["sale"], [("capture",)]) if card == "approved" else ([], []))


@pytest.mark.parametrize("act", ["confirm", "refund"])
async def test_a_wait_outlasts_a_short_absence_of_the_database(wires: Wires, act: str) -> None:
    """What was asked for has been written down; a request that waits for it is not told that it may not have been."""
    payment = await wires.shop.pay()
    intent = await wires.shop.intent()
    # Less than a handler's time, more than the time for which a lane tries by itself.
    wires.shop.system.strike("sale" if act == "confirm" else "refund", "delay", delay_ms=1700)
    waiting = asyncio.create_task(wires.shop.confirm(intent) if act == "confirm" else wires.shop.refund(payment))
    await eventually(lambda: asked(wires.shop, "sale" if act == "confirm" else "refund"), what="an open operation")
    # The commit is seen here a moment before the web process hears of it.
    await asyncio.sleep(0.2)
    wires.web.go_down()
    await asyncio.sleep(3.0)
    wires.web.come_up()
    reply = await waiting

    assert (reply.status, reply.json["status"]) == ((200 if act == "confirm" else 201), "succeeded")


async def asked(shop: Shop, kind: str) -> bool | None:
    return True if kind in [row[1] for row in await open_operations(shop.system, shop.merchant.id)] else None


async def nothing_asked(shop: Shop) -> bool | None:
    return True if await open_operations(shop.system, shop.merchant.id) == [] else None


async def test_without_a_database_all_who_wait_are_told_so_at_once(wires: Wires) -> None:
    """A full batch gets its 503 within seconds, each with when to come again; afterwards the same keys pay."""
    intents = [await wires.shop.intent() for _ in range(30)]
    wires.web.go_down()
    begun_at = time.monotonic()
    down = await asyncio.gather(*(wires.shop.confirm(intent, key=f"down-{n}") for n, intent in enumerate(intents)))
    took_seconds = time.monotonic() - begun_at
    wires.web.come_up()
    up = [
        await until_final(wires.shop, f"/v1/payment_intents/{intent['id']}/confirm", {}, key=f"down-{n}", first=down[n])
        for n, intent in enumerate(intents)
    ]

    assert {(reply.status, "retry-after" in reply.headers) for reply in down} == {(503, True)}
    assert took_seconds < 10
    assert [(reply.status, reply.json["status"]) for reply in up] == [(200, "succeeded")] * len(intents)
