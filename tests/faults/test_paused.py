"""A worker whose time is over: stopped for longer than its lease as a suspended machine is, or waiting too long for a provider."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from app.core.ids import parse_typeid
from tests.faults.proxy import proxied
from tests.faults.stage import SHORT, Stage, shopping, staged
from tests.flows.books import assert_books_agree, rows
from tests.flows.shop import Shop, eventually
from tests.webhooks.receiver import running as receiving

pytestmark = pytest.mark.xdist_group("processes")

POSTINGS = "SELECT type FROM ledger_transactions WHERE payment_id = %s::uuid ORDER BY created_at"


class Scene(NamedTuple):
    stage: Stage
    shop: Shop


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    with staged(database, tmp_path / "stage", **SHORT) as stage:
        async with shopping(stage.system) as shop:
            await stage.start("sandbox", "web-1", "worker-1")
            yield Scene(stage, shop)


async def test_a_worker_that_wakes_after_its_lease_books_nothing_twice(scene: Scene) -> None:
    """Stopped while the provider works; another worker asks under the same key and books; the first one comes back too late."""
    system = scene.stage.system
    intent = await scene.shop.intent()
    system.strike("sale", "delay", delay_ms=700)
    waiting = asyncio.create_task(scene.shop.confirm(intent, prefer="wait=20"))
    await eventually(lambda: claimed(scene), what="a claimed row")
    await asyncio.sleep(0.2)
    scene.stage.signal("worker-1", signal.SIGSTOP)
    await scene.stage.start("worker-2")
    reply = await waiting
    scene.stage.signal("worker-1", signal.SIGCONT)
    await eventually(lambda: said(scene, "was lost to another claim"), what="the first worker's word")
    # What it does wrong, if anything, it does now.
    await asyncio.sleep(1.0)

    postings = await rows(system, POSTINGS, parse_typeid("pay", reply.json["payment_id"]))
    events = await scene.shop.events(reply.json)
    assert (reply.status, reply.json["status"]) == (200, "succeeded")
    assert [line["kind"] for line in system.journal()] == ["sale"]
    assert postings == [("capture",)]
    assert events.count("payment_intent.succeeded") == 1
    await assert_books_agree(system, scene.shop.merchant.id)


async def test_a_worker_that_gets_its_row_too_late_does_not_ask(scene: Scene) -> None:
    """The claim's answer comes after the lease; the provider honours no keys here, so a second request would be a second charge."""
    system = scene.stage.system
    system.be(honour_idempotency_keys=False)
    scene.stage.signal("worker-1", signal.SIGKILL)
    async with proxied(system.database_url) as proxy:
        await scene.stage.start("worker-1", DATABASE_URL=proxy.url)
        proxy.hold_back(float(SHORT["LEASE_SECONDS"]) + 2.0, b"psp.send")
        intent = await scene.shop.intent()
        waiting = asyncio.create_task(scene.shop.confirm(intent, prefer="wait=20"))
        await eventually(lambda: claimed(scene), what="a claimed row")
        await scene.stage.start("worker-2")
        reply = await waiting
        # The first worker hears of its claim about now.
        await asyncio.sleep(4.0)
        later = await scene.shop.pay()

    assert proxy.held == 1
    assert (reply.status, reply.json["status"], later["status"]) == (200, "succeeded", "captured")
    assert [line["kind"] for line in system.journal()] == ["sale", "sale"]
    assert await rows(system, "SELECT 1 FROM outbox") == []
    await assert_books_agree(system, scene.shop.merchant.id)


async def test_a_request_that_outlasts_its_handler_has_not_failed(scene: Scene) -> None:
    """It is out: counted as a failure it would be sent as if for the first time. The row waits for its lease and is asked about."""
    system = scene.stage.system
    intent = await scene.shop.intent()
    system.strike("sale", "delay", delay_ms=1000 * int(SHORT["HANDLER_DEADLINE_SECONDS"]) + 1500)
    waiting = asyncio.create_task(scene.shop.confirm(intent, prefer="wait=20"))

    async def claimed_again() -> tuple[int, str | None] | None:
        found = await rows(system, "SELECT failures, last_error FROM outbox WHERE queue = 'psp' AND attempt = 2")
        return (found[0][0], found[0][1]) if found else None

    system.strike("sale", "delay", delay_ms=500)
    again = await eventually(claimed_again, what="a second claim")
    reply = await waiting

    assert again == (0, None)
    assert (reply.status, reply.json["status"]) == (200, "succeeded")
    assert [line["kind"] for line in system.journal()] == ["sale"]
    await assert_books_agree(system, scene.shop.merchant.id)


async def test_a_delivery_in_a_stopped_workers_hand_is_made_by_another(scene: Scene) -> None:
    """The merchant may hear of an event twice, under one id; the log says delivered once."""
    system = scene.stage.system
    async with receiving() as receiver:
        endpoint = {"url": f"{receiver.url}/hook", "enabled_events": ["payment.captured"]}
        assert (await scene.shop.post("/v1/webhook_endpoints", endpoint)).status == 201
        receiver.answer_with(200, times=1, delay_ms=1000)
        await scene.shop.pay()
        await eventually(lambda: got(receiver.journal), what="a delivery")
        scene.stage.signal("worker-1", signal.SIGSTOP)
        await scene.stage.start("worker-2")
        await eventually(lambda: got(receiver.journal, 2), what="another delivery")
        await eventually(lambda: delivered(scene), what="the delivery log")
        scene.stage.signal("worker-1", signal.SIGCONT)
        await asyncio.sleep(1.0)

        assert len({one["headers"]["webhook-id"] for one in receiver.journal}) == 1
    assert await rows(system, "SELECT status, attempts FROM webhook_deliveries") == [("delivered", 1)]
    assert await rows(system, "SELECT 1 FROM outbox") == []


async def claimed(scene: Scene) -> bool | None:
    return True if await rows(scene.stage.system, "SELECT 1 FROM outbox WHERE attempt > 0 AND queue = 'psp'") else None


async def delivered(scene: Scene) -> bool | None:
    return True if await rows(scene.stage.system, "SELECT 1 FROM webhook_deliveries WHERE status = 'delivered'") else None


async def said(scene: Scene, words: str) -> bool | None:
    return True if words in scene.stage.log("worker-1") else None


async def got(journal: Sequence[object], count: int = 1) -> bool | None:
    return True if len(journal) >= count else None
