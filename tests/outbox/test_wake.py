import asyncio
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from outbox import Listener, Waker, channel_of
from outbox.wake import PAYLOAD_BYTES, payloads
from tests.outbox.engines import until


class Heard:
    """What a subscriber was told, in order; None where it was told to look at everything."""

    def __init__(self) -> None:
        self.told: list[Sequence[str] | None] = []

    def __call__(self, items: Sequence[str] | None) -> None:
        self.told.append(items)

    @property
    def items(self) -> list[str]:
        return [item for told in self.told for item in told or ()]

    async def until(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.told) >= count

        await until(enough, seconds=5)


async def cut(connection: psycopg.AsyncConnection[Any], name: str) -> None:
    """In this test's database: others run on the same server."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()", (name,)
    )


async def test_another_process_is_woken(any_database: str) -> None:
    """What one process says the listener of another hears, within milliseconds."""
    heard = Heard()
    listener = Listener(any_database)
    listener.on(channel_of("q"), heard)
    async with Waker(any_database) as waker, listener:
        await heard.until(1)
        began = time.monotonic()

        waker.wake("q")
        await heard.until(2)

        assert heard.told == [None, [""]]
        assert time.monotonic() - began < 0.2


async def test_many_wake_ups_are_one_notification(any_database: str) -> None:
    """Ten thousand wake-ups cost a handful of notifications; every item said arrives, in payloads that Postgres takes."""
    heard = Heard()
    listener = Listener(any_database)
    listener.on("done", heard)
    said = [f"{number:032x}" for number in range(2000)]
    async with Waker(any_database) as waker, listener:
        await heard.until(1)

        for item in said:
            waker.notify("done", item)
            for _ in range(5):
                waker.wake("q")

        async def all_heard() -> bool:
            return len(heard.items) >= len(said)

        await until(all_heard, seconds=5)
        assert heard.items == said
        assert waker.sent <= 15


async def test_the_own_process_hears_directly_and_once(any_database: str) -> None:
    """A subscriber in the same process is told before the call returns, and not again by the database."""
    heard, elsewhere = Heard(), Heard()
    async with Waker(any_database) as waker:
        own, other = Listener(any_database, waker=waker), Listener(any_database)
        own.on("done", heard)
        other.on("done", elsewhere)
        async with own, other:
            await heard.until(1)
            await elsewhere.until(1)

            waker.notify("done", "a")
            assert heard.told == [None, ("a",)]
            await elsewhere.until(2)
            await asyncio.sleep(0.1)

            assert heard.told == [None, ("a",)]


async def test_a_cut_listener_comes_back_and_wakes_everybody(any_database: str) -> None:
    """After its connection was cut the listener listens again, and tells every subscriber that something may have been missed."""
    heard = Heard()
    listener = Listener(any_database)
    listener.on("done", heard)
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as side, Waker(any_database) as waker, listener:
        await heard.until(1)
        await cut(side, "outbox listener")

        await heard.until(2)
        waker.notify("done", "after")
        await heard.until(3)

        assert heard.told == [None, None, ["after"]]


async def test_a_cut_waker_says_it_later(any_database: str) -> None:
    """What could not be sent because the connection was cut is sent over a new one."""
    heard = Heard()
    listener = Listener(any_database)
    listener.on("done", heard)
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as side, Waker(any_database) as waker, listener:
        await heard.until(1)
        waker.notify("done", "before")
        await heard.until(2)
        await cut(side, "outbox waker")

        waker.notify("done", "after")
        await heard.until(3)

        assert heard.items == ["before", "after"]


async def test_leaving_sends_what_is_pending(any_database: str) -> None:
    """A process that ends right after its commit has told the others."""
    heard = Heard()
    listener = Listener(any_database)
    listener.on("done", heard)
    async with listener:
        await heard.until(1)
        async with Waker(any_database) as waker:
            waker.notify("done", "last words")

        await heard.until(2)
        assert heard.items == ["last words"]


async def test_a_failing_subscriber_harms_nobody(any_database: str) -> None:
    """One subscriber that raises neither ends the listener nor keeps the next one from hearing."""

    def failing(items: Sequence[str] | None) -> None:
        raise RuntimeError("planted")

    heard = Heard()
    listener = Listener(any_database)
    listener.on("done", failing)
    listener.on("done", heard)
    async with Waker(any_database) as waker, listener:
        await heard.until(1)
        waker.notify("done", "a")
        await heard.until(2)

        assert heard.items == ["a"]


async def test_an_item_is_one_short_word(any_database: str) -> None:
    """An item with a comma, or longer than a payload, is refused where it is said."""
    waker = Waker(any_database)

    for item in ("a,b", "é" * 4000):
        with pytest.raises(ValueError, match="short word"):
            waker.notify("done", item)


def test_payloads_stay_below_the_limit() -> None:
    """Items are packed into as few payloads as fit, none longer than Postgres takes, none lost."""
    items = ["é" * (1 + number % 30) for number in range(3000)]

    packed = list(payloads(items))

    assert ",".join(packed).split(",") == items
    assert all(len(payload.encode()) <= PAYLOAD_BYTES for payload in packed)
    assert len(packed) == -(-sum(len(item.encode()) + 1 for item in items) // PAYLOAD_BYTES)
