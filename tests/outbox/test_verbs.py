import asyncio
import math
from collections import Counter
from typing import Any
from uuid import UUID

import psycopg
import pytest

import outbox
from outbox import Claimed, Failed, NewRow
from outbox.connection import connect

Connection = psycopg.AsyncConnection[Any]
SUBJECT = "0190a1b2c3d47e5f8a9b0c1d2e3f4a5b"


async def write(connection: Connection, *lanes: str) -> None:
    await outbox.write(connection, [NewRow("q", lane, "act", str(number)) for number, lane in enumerate(lanes)])


async def claim(connection: Connection, *, limit: int = 100, lease_seconds: float = 60.0, **more: Any) -> list[Claimed]:
    return await outbox.claim(connection, "q", limit=limit, lease_seconds=lease_seconds, **more)


async def test_a_row_arrives_as_it_was_written(connection: Connection) -> None:
    """What was written is what is claimed; ids are 32 hex digits whether they came as text or as UUID."""
    await outbox.write(
        connection,
        [
            NewRow("q", "psp", "send", '{"a": "é"}', subject=SUBJECT, tenant=UUID(SUBJECT), traceparent="00-1-2-01"),
            NewRow("q", "psp", "send", "[]"),
        ],
    )

    full, bare = sorted(await claim(connection), key=lambda row: row.id)

    assert (full.queue, full.lane, full.actor, full.payload, full.traceparent) == ("q", "psp", "send", '{"a": "é"}', "00-1-2-01")
    assert (full.subject, full.tenant) == (SUBJECT, SUBJECT)
    assert (bare.subject, bare.tenant, bare.traceparent) == (None, None, None)


async def test_a_row_is_due_when_it_says(connection: Connection) -> None:
    """A row that is due later is not claimed before."""
    await outbox.write(connection, [NewRow("q", "l", "a", "{}", due_in_seconds=0.3)])

    assert await claim(connection) == []
    await asyncio.sleep(0.35)
    assert len(await claim(connection)) == 1


async def test_a_claim_is_a_lease(connection: Connection) -> None:
    """A claimed row is nobody else's until its lease ends; then it is claimed under the next attempt and maybe sent."""
    await write(connection, "l")

    (first,) = await claim(connection, lease_seconds=0.2)
    assert await claim(connection) == []
    await asyncio.sleep(0.25)
    (second,) = await claim(connection)

    assert (first.attempt, first.maybe_sent, first.first_attempt) == (1, False, True)
    assert (second.attempt, second.maybe_sent, second.first_attempt) == (2, True, False)
    assert first.past_deadline()
    assert not second.past_deadline()


async def test_claims_do_not_wait_for_each_other(any_database: str, connection: Connection) -> None:
    """Two claims at once take different rows, the oldest first, and neither waits for the other's transaction."""
    await write(connection, *["l"] * 10)
    async with await psycopg.AsyncConnection.connect(any_database) as other:
        theirs = await claim(other, limit=6)
        ours = await asyncio.wait_for(claim(connection, limit=6), 2)

    assert sorted(row.payload for row in theirs) == ["0", "1", "2", "3", "4", "5"]
    assert sorted(row.payload for row in ours) == ["6", "7", "8", "9"]


async def test_a_claim_takes_of_a_lane_what_it_has_room_for(connection: Connection) -> None:
    """No lane gets more than its limit in one claim, nor more than the room that is left in it."""
    await write(connection, *["a"] * 9, *["b"] * 9, *["c"] * 9)

    rows = await claim(connection, lane_limit=4, room={"b": 1})

    assert Counter(row.lane for row in rows) == {"a": 4, "b": 1, "c": 4}


async def test_full_lanes_are_left_out(connection: Connection) -> None:
    """A lane that is full gets nothing, the others get their share, beginning behind the lane that was visited last."""
    await write(connection, *["a"] * 9, *["b"] * 9, *["c"] * 9, *["d"] * 9)

    first = await claim(connection, limit=4, lane_limit=3, full_lanes=["a"])
    second = await claim(connection, limit=4, lane_limit=3, full_lanes=["a"], after_lane="c")
    third = await claim(connection, limit=100, lane_limit=3, full_lanes=["a"], room={"c": 0, "d": 2})

    assert Counter(row.lane for row in first) == {"b": 3, "c": 1}
    assert Counter(row.lane for row in second) == {"d": 3}
    assert Counter(row.lane for row in third) == {"b": 3, "d": 2}


async def test_a_lost_lease_drops_its_own_row_only(connection: Connection) -> None:
    """hold answers with the rows that are still ours, and settle deletes them and not the one that somebody else claimed."""
    await write(connection, "a", "b", "c")
    rows = await claim(connection, lease_seconds=0.05)
    await asyncio.sleep(0.1)
    (retaken,) = await claim(connection, limit=1)

    async with connection.transaction():
        held = await outbox.hold(connection, rows)
        settled = await outbox.settle(connection, rows)

    ours = {row.id for row in rows} - {retaken.id}
    assert (held, settled) == (ours, ours)
    assert await outbox.settle(connection, [retaken]) == {retaken.id}


async def test_settling_twice_changes_nothing(connection: Connection) -> None:
    """A second settlement of a row, or the same row twice in one, finds nothing to delete and refuses nothing."""
    await write(connection, "a")
    (row,) = await claim(connection)

    assert await outbox.settle(connection, [row, row]) == {row.id}
    assert await outbox.settle(connection, [row]) == set()
    assert await outbox.hold(connection, [row]) == set()


async def test_batches_in_opposite_order_do_not_deadlock(any_database: str, connection: Connection) -> None:
    """Two transactions that hold the same rows in reverse order wait for each other and never in a circle."""
    await write(connection, *["l"] * 50)
    rows = await claim(connection)

    async def hold_all(order: list[Claimed]) -> int:
        held = 0
        # With the engine's plans: a scan of the whole table would lock in the same order by itself.
        async with await connect(any_database) as other:
            for _ in range(20):
                async with other.transaction():
                    held += len(await outbox.hold(other, order))
        return held

    there, back = await asyncio.gather(hold_all(rows), hold_all(rows[::-1]))
    assert (there, back) == (1000, 1000)


async def test_a_pipeline_reads_later(connection: Connection) -> None:
    """In pipeline mode hold and settle are sent without waiting and their answers read together."""
    await write(connection, "a", "b")
    rows = await claim(connection)

    async with connection.pipeline(), connection.transaction():
        held = await outbox.send_hold(connection, rows)
        settled = await outbox.send_settle(connection, rows[:1])
        assert await outbox.read_ids(held) == {row.id for row in rows}
        assert await outbox.read_ids(settled) == {rows[0].id}


async def test_a_failure_counts_once(connection: Connection) -> None:
    """A failure keeps the first error and the last, moves the row on, and sent again after a lost answer counts nothing more."""
    await write(connection, "a")
    (row,) = await claim(connection)
    for _ in range(2):
        assert await outbox.fail(connection, [Failed(row, "first", 0.0)]) == {row.id}

    (again,) = await claim(connection)
    await outbox.fail(connection, [Failed(again, "second", 30.0)])

    assert (again.attempt, again.failures, again.maybe_sent) == (2, 1, False)
    record = await (
        await connection.execute("SELECT failures, first_error, last_error, due_at > statement_timestamp() + interval '25 s' FROM outbox")
    ).fetchone()
    assert record == (2, "first", "second", True)


async def test_a_stale_verdict_is_dropped(connection: Connection) -> None:
    """Who lost the row can neither fail, bury, nor defer it."""
    await write(connection, "a")
    (stale,) = await claim(connection, lease_seconds=0.01)
    await asyncio.sleep(0.05)
    (ours,) = await claim(connection)

    assert await outbox.fail(connection, [Failed(stale, "late", 0.0)]) == set()
    assert await outbox.fail(connection, [Failed(stale, "late")]) == set()
    assert await outbox.defer(connection, [stale], 0) == set()
    assert await outbox.settle(connection, [ours]) == {ours.id}


async def test_what_came_back_is_not_counted(connection: Connection) -> None:
    """A deferred row is claimed under a new attempt but neither failed nor maybe sent; a claim that vanished before stays known."""
    await write(connection, "a")
    (vanishing,) = await claim(connection, lease_seconds=0.01)
    await asyncio.sleep(0.05)
    (second,) = await claim(connection)
    for _ in range(2):
        assert await outbox.defer(connection, [second], 0.0) == {vanishing.id}

    (third,) = await claim(connection)

    assert (second.vanished, third.vanished) == (1, 1)
    assert (third.attempt, third.failures, third.returned) == (3, 0, 1)


async def test_a_lane_is_moved_on_in_one_statement(connection: Connection) -> None:
    """defer_lane moves the waiting rows of its lane and touches neither claimed rows, counts, nor other lanes."""
    await write(connection, "down", "down", "down", "up")
    (claimed,) = await claim(connection, limit=1)

    moved = await outbox.defer_lane(connection, "q", lane="down", seconds=30)

    assert moved == 2
    assert [row.lane for row in await claim(connection)] == ["up"]
    assert await outbox.settle(connection, [claimed]) == {claimed.id}
    record = await (await connection.execute("SELECT max(attempt), max(failures) FROM outbox WHERE lane = 'down'")).fetchone()
    assert record == (0, 0)


async def test_depth_says_how_much_waits(connection: Connection) -> None:
    """Per queue: all rows, those that are due, and the age of the oldest."""
    await write(connection, "a", "b", "c")
    await claim(connection, limit=1)
    await asyncio.sleep(0.05)

    ((queue, rows, due, oldest_seconds),) = await outbox.depth(connection)

    assert (queue, rows, due) == ("q", 3, 2)
    assert 0.05 <= oldest_seconds < 60


def test_backoff_is_full_jitter_below_a_doubling_cap() -> None:
    """Waits are spread from 0 to a bound that doubles with each failure and ends at a minute."""
    for failures, bound in ((0, 1.0), (1, 2.0), (3, 8.0), (6, 60.0), (10**6, 60.0)):
        waits = [outbox.backoff_seconds(failures) for _ in range(2000)]

        assert 0.0 <= min(waits) < bound / 10
        assert bound * 0.9 < max(waits) <= bound


def test_an_error_is_text_that_postgres_takes() -> None:
    """NUL bytes, lone surrogates and endless messages become something that can be stored and read."""
    text = outbox.error_text(ValueError("a\x00b\ud800" + "c" * 10_000))

    assert text.startswith("ValueError: a\ufffdb?")
    assert len(text) == 2000


def test_an_actor_that_never_dies_says_what_happens_instead() -> None:
    """never_dead_letter without on_exhausted, or the reverse, is refused when the actor is made."""

    async def run(row: Claimed) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="go together"):
        outbox.Actor("a", run, never_dead_letter=True)


def test_a_row_made_by_hand_has_no_deadline() -> None:
    """Without a claim there is no lease to respect."""
    row = Claimed(1, "q", "l", "a", None, None, "{}", None, 1, 0, 0)

    assert row.deadline == math.inf
    assert not row.past_deadline()
