"""The loop's side of a worker by itself, where a real process would hit the moment too rarely."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest

import outbox
from outbox import Actor, Claimed, Queue, Times
from outbox.engine import Engine
from tests.outbox.engines import Ground, new_row


@asynccontextmanager
async def engine_over(ground: Ground, ran: list[int]) -> AsyncIterator[Engine]:
    async def run(row: Claimed) -> None:
        ran.append(row.id)
        await outbox.settle(ground.connection, [row])

    @asynccontextmanager
    async def open_actors(_waker: outbox.Waker) -> AsyncIterator[Sequence[Actor]]:
        yield [Actor("record", run)]

    engine = Engine(ground.worker_url, queues=[Queue("q")], open_actors=open_actors, times=Times())
    async with engine.open():
        yield engine


async def test_rows_that_arrive_after_the_drain_began_are_handed_back(ground: Ground) -> None:
    """A row that was claimed just before the drain and would start just after it is due again and counts as never claimed."""
    ran: list[int] = []
    ids = await ground.write(new_row("record"), new_row("record"))

    async with engine_over(ground, ran) as engine:
        rows = await engine.intakes["q"].next_batch(1.0)
        engine.drain()
        await engine.start("q", rows)

    again = await outbox.claim(ground.connection, "q", limit=10, lease_seconds=60)
    assert ran == []
    assert sorted(row.id for row in again) == ids
    assert all(row.first_attempt and not row.maybe_sent for row in again)


async def test_a_claim_that_comes_back_into_a_drain_is_handed_back(ground: Ground) -> None:
    """A claim whose answer arrives when the drain has begun is given back by the intake itself, and no other is made."""
    ids = await ground.write(new_row("record"))

    async with engine_over(ground, []) as engine:
        batch = asyncio.create_task(engine.intakes["q"].next_batch(5.0))
        await asyncio.sleep(0)
        engine.drain()
        assert await batch == []

    assert [row.id for row in await outbox.claim(ground.connection, "q", limit=10, lease_seconds=60)] == ids


async def test_a_row_past_its_deadline_does_not_start(ground: Ground) -> None:
    """A process that was paused between the claim and the start gives the row back instead of running it."""
    ran: list[int] = []
    await ground.write(new_row("record"))

    async with engine_over(ground, ran) as engine:
        (row,) = await engine.intakes["q"].next_batch(1.0)
        await engine.start("q", [replace(row, deadline=time.monotonic() - 0.001)])

    (again,) = await outbox.claim(ground.connection, "q", limit=10, lease_seconds=60)
    assert ran == []
    assert again.first_attempt


async def test_a_wake_up_during_a_claim_is_not_lost(ground: Ground, any_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row committed while a claim is under way that no longer sees it is claimed by the wake-up: no poll comes to help."""
    async with engine_over(ground, []) as engine:
        intake = engine.intakes["q"]
        # Lets the listener connect, which wakes everybody once.
        assert await intake.next_batch(0.2) == []
        # Longer than the patience below: who needs the poll comes back with nothing.
        monkeypatch.setattr(outbox.intake, "POLL_SECONDS", 8.0)
        with psycopg.connect(any_database) as other:
            other.execute("INSERT INTO outbox (queue, lane, actor, payload) VALUES ('q', 'lane', 'record', '{}')")
            batch = asyncio.create_task(intake.next_batch(5.0))
            while not intake.claiming:  # noqa: ASYNC110 - the very moment, which nobody announces
                await asyncio.sleep(0)

            # The loop stands still: the claim has been answered without the row, and nobody has looked at the answer yet.
            time.sleep(0.1)  # noqa: ASYNC251 - that is the point
            other.commit()
            intake.wake()

            assert len(await batch) == 1
