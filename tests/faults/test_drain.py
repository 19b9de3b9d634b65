"""SIGTERM under load: processes end with 0 in time, whoever waits is answered, and nothing is lost."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.stage import Stage, shopping, staged
from tests.flows.books import assert_books_agree, open_operations, rows
from tests.flows.shop import Json, Shop, eventually

pytestmark = pytest.mark.xdist_group("processes")

# What a platform gives a process between SIGTERM and SIGKILL.
DRAIN_SECONDS = 25.0
# Some wait for the slow card, which takes five seconds; the others come and go.
CARDS = ("slow", "approved", "slow", "declined")
PAYMENTS = 24


class Scene(NamedTuple):
    stage: Stage
    shop: Shop


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """Two web processes on one port, one worker, a clock."""
    with staged(database, tmp_path / "stage") as stage:
        async with shopping(stage.system) as shop:
            await stage.start("sandbox", "web-1", "web-2", "worker-1", "clock")
            yield Scene(stage, shop)


async def under_load(scene: Scene) -> tuple[list[Json], list["asyncio.Task[int]"]]:
    """Intents that are being confirmed, each by a request that waits for its outcome."""
    intents = [await scene.shop.intent(CARDS[n % len(CARDS)]) for n in range(PAYMENTS)]
    waiting = [asyncio.create_task(confirm(scene.shop, intent)) for intent in intents]

    async def slow_ones_wait() -> bool | None:
        ((asked, at_the_provider),) = await rows(
            scene.stage.system, "SELECT (SELECT count(*) FROM operations), (SELECT count(*) FROM outbox WHERE attempt > 0)"
        )
        return True if asked == PAYMENTS and at_the_provider > 0 else None

    await eventually(slow_ones_wait, what="slow cards at the provider")
    return intents, waiting


async def confirm(shop: Shop, intent: Json) -> int:
    return (await shop.confirm(intent, key=intent["id"], prefer="wait=20")).status


async def everything_is_told(scene: Scene, intents: list[Json]) -> list[int]:
    """What the same requests are answered in the end; by then no operation is open and both books agree."""
    final = [(await scene.shop.confirm(intent, key=intent["id"], prefer="wait=20")).status for intent in intents]
    assert await open_operations(scene.stage.system, scene.shop.merchant.id) == []
    assert await rows(scene.stage.system, "SELECT 1 FROM dead_letters") == []
    await assert_books_agree(scene.stage.system, scene.shop.merchant.id)
    return final


FINAL = [402 if CARDS[n % len(CARDS)] == "declined" else 200 for n in range(PAYMENTS)]


async def test_a_web_process_that_ends_answers_those_who_wait(scene: Scene) -> None:
    """Both get SIGTERM: every request has its answer, 202 where the outcome is open, and a new process tells the rest."""
    intents, waiting = await under_load(scene)
    begun_at = time.monotonic()
    for name in ("web-1", "web-2"):
        scene.stage.signal(name, signal.SIGTERM)
    statuses = await asyncio.gather(*waiting)
    ended = [await scene.stage.ended(name, within=DRAIN_SECONDS) for name in ("web-1", "web-2")]
    took_seconds = time.monotonic() - begun_at
    await scene.stage.start("web-1")
    final = await everything_is_told(scene, intents)

    assert (ended, took_seconds < DRAIN_SECONDS) == ([0, 0], True)
    assert set(statuses) <= {200, 202, 402}
    assert 202 in statuses
    assert final == FINAL


async def test_a_worker_that_ends_finishes_what_it_has_begun(scene: Scene) -> None:
    """The slow cards that it holds are booked before it goes; what came meanwhile is another worker's; nobody is told less than the truth."""
    intents, waiting = await under_load(scene)
    begun_at = time.monotonic()
    scene.stage.signal("worker-1", signal.SIGTERM)
    late = [await scene.shop.intent() for _ in range(4)]
    waiting += [asyncio.create_task(confirm(scene.shop, intent)) for intent in late]
    ended = await scene.stage.ended("worker-1", within=DRAIN_SECONDS)
    took_seconds = time.monotonic() - begun_at
    held = await rows(scene.stage.system, "SELECT 1 FROM outbox WHERE queue = 'psp' AND attempt > returned")
    await scene.stage.start("worker-2")
    statuses = await asyncio.gather(*waiting)
    final = await everything_is_told(scene, [*intents, *late])

    assert (ended, took_seconds < DRAIN_SECONDS) == (0, True)
    # Nothing that it had claimed is left to its lease.
    assert held == []
    assert (statuses, final) == ([*FINAL, *[200] * 4], [*FINAL, *[200] * 4])


async def test_all_of_it_ends_at_once_and_goes_on_where_it_was(scene: Scene) -> None:
    """A deployment that stops everything: 0 from everybody in time, and the next start finishes what was open."""
    intents, waiting = await under_load(scene)
    everybody = ("web-1", "web-2", "worker-1", "clock")
    begun_at = time.monotonic()
    for name in everybody:
        scene.stage.signal(name, signal.SIGTERM)
    statuses = await asyncio.gather(*waiting)
    ended = [await scene.stage.ended(name, within=DRAIN_SECONDS) for name in everybody]
    took_seconds = time.monotonic() - begun_at
    await scene.stage.start("web-2", "worker-2", "clock")
    final = await everything_is_told(scene, intents)

    assert (ended, took_seconds < DRAIN_SECONDS) == ([0] * 4, True)
    assert set(statuses) <= {200, 202, 402}
    assert final == FINAL
