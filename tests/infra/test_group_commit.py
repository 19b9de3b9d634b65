"""A lane over real rows: what gathers goes together, what fails fails alone, and nobody waits for somebody else's lock."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial

import psycopg
import pytest

from app.infra.db import Connection, connect
from app.infra.group_commit import Lane
from outbox.connection import connect as outbox_connect
from outbox.round_trip import round_trip
from tests.faults.proxy import proxied

# There is no such row, so the batch finds no answer for it.
UNREADABLE = 1000


async def count_up(connection: Connection, ids: list[int]) -> Sequence[int]:
    """Adds one to each row under its lock; a negative id is refused by the table."""
    async with connection.transaction():
        await connection.execute("INSERT INTO marks SELECT unnest(%s::int[])", ([one for one in ids if one < 0],))
        await connection.execute("SELECT FROM counts WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (ids,))
        rows = await (await connection.execute("UPDATE counts SET n = n + 1 WHERE id = ANY(%s) RETURNING id, n", (ids,))).fetchall()
        found: dict[int, int] = dict(rows)
        return [found[one] for one in ids]


@pytest.fixture
async def lane(database: str) -> AsyncIterator[Lane[int, int]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute("CREATE TABLE marks (id int CONSTRAINT mark_is_positive CHECK (id > 0))")
        await owner.execute("CREATE TABLE counts (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        await owner.execute("INSERT INTO counts (id) SELECT generate_series(-1, 100)")
    opened: Lane[int, int] = Lane("count", partial(connect, database, role=None, lane=True), count_up, keys=lambda one: (one,))
    await opened.start()
    yield opened
    await opened.stop()


async def test_what_gathers_goes_together(lane: Lane[int, int]) -> None:
    """A hundred rows that come in one moment are one batch or two, never a hundred."""
    answers = await asyncio.gather(*(lane.submit(number) for number in range(1, 101)))

    assert answers == [1] * 100
    assert lane.batches <= 2


async def test_rows_of_one_thing_never_ride_together(lane: Lane[int, int]) -> None:
    """An UPDATE moves a row once: ten changes of it are ten batches, in order."""
    assert await asyncio.gather(*(lane.submit(7) for _ in range(10))) == list(range(1, 11))


async def test_a_row_that_is_refused_fails_alone(lane: Lane[int, int]) -> None:
    """Its neighbours are carried in the halves that it is not in."""
    answers = await asyncio.gather(*(lane.submit(number) for number in (1, 2, -1, 3, 4)), return_exceptions=True)

    assert isinstance(answers[2], psycopg.errors.CheckViolation)
    assert [one for one in answers if not isinstance(one, BaseException)] == [1, 1, 1, 1]


async def test_a_row_that_our_own_code_stumbles_over_fails_alone(lane: Lane[int, int]) -> None:
    """An error that is not the database's, as of a stored row that cannot be read, is as little its neighbors' as one that is."""
    answers = await asyncio.gather(*(lane.submit(number) for number in (1, 2, UNREADABLE, 3, 4)), return_exceptions=True)

    assert isinstance(answers[2], KeyError)
    assert [one for one in answers if not isinstance(one, BaseException)] == [1, 1, 1, 1]


async def test_a_locked_row_does_not_hold_up_the_rest(lane: Lane[int, int], database: str) -> None:
    """Who shares a batch with a row that somebody holds is answered while it is still held; the row itself when it is let go."""
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute("SELECT FROM counts WHERE id = 50 FOR UPDATE")
        submitted = {number: asyncio.create_task(lane.submit(number)) for number in range(1, 65)}
        await asyncio.wait([task for number, task in submitted.items() if number != 50])
        held = not submitted[50].done()
        await holder.rollback()

    assert held
    assert await submitted[50] == 1


async def test_statements_that_the_server_forgot_cost_one_more_try(database: str) -> None:
    """Those of the driver, which would ask for them for ever, as well as those of a round trip."""

    async def both(connection: Connection, ids: list[int]) -> Sequence[int]:
        await connection.execute("SELECT 1", prepare=True)
        await round_trip(connection, ("SELECT 1", []))
        return ids

    lane: Lane[int, int] = Lane("both", partial(connect, database, role=None, lane=True), both, keys=lambda one: (one,))
    await lane.start()
    await lane.submit(1)
    assert lane._connection is not None
    await round_trip(lane._connection, ("DEALLOCATE ALL", []))

    assert await lane.submit(2) == 2
    await lane.stop()


async def test_a_lost_connection_is_opened_again(lane: Lane[int, int], database: str) -> None:
    """The next batch goes over a fresh one."""
    await lane.submit(1)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert await lane.submit(2) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the names of these options are Linux's")
async def test_a_server_that_went_without_a_word_is_given_up(database: str) -> None:
    """A machine that is gone answers nothing, and nothing says so but the kernel: a lane must not wait for it for a quarter of an hour."""
    async with proxied(database) as proxy:
        for opened in (await connect(proxy.url, role=None, lane=True), await outbox_connect(proxy.url)):
            with socket.socket(fileno=os.dup(opened.fileno())) as wire:
                assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            await opened.close()
