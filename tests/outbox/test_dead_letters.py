import asyncio
from typing import Any

import psycopg
import pytest

import outbox
from outbox import Failed, NewRow, dead_letters
from outbox.dead_letters import DeadLetter, LetterClosed, NoSuchLetter

Connection = psycopg.AsyncConnection[Any]
NOBODY = "0190a1b2c3d47e5f8a9b0c1d2e3f4a5b"


async def bury(connection: Connection, *, queue: str = "q") -> DeadLetter:
    await outbox.write(connection, [NewRow(queue, "lane", "act", '{"n": 1}', subject=NOBODY, traceparent="00-1-2-01")])
    (row,) = await outbox.claim(connection, queue, limit=1, lease_seconds=60)
    await outbox.fail(connection, [Failed(row, "broken")])
    return (await dead_letters.list_(connection, limit=1))[0]


async def test_a_letter_keeps_everything(connection: Connection) -> None:
    """A dead letter has the row's contents, counts and errors, and the row is gone from the outbox."""
    letter = await bury(connection)

    assert (letter.queue, letter.lane, letter.actor, letter.payload) == ("q", "lane", "act", '{"n": 1}')
    assert (letter.subject, letter.traceparent) == (NOBODY, "00-1-2-01")
    assert (letter.attempts, letter.failures, letter.first_error, letter.last_error) == (1, 1, "broken", "broken")
    assert await dead_letters.show(connection, letter.id) == letter
    assert await outbox.depth(connection) == []


async def test_letters_are_listed_newest_first_by_page(connection: Connection) -> None:
    """The list goes by queue and by page, and leaves closed letters out unless asked."""
    letters = [await bury(connection, queue=queue) for queue in ("a", "a", "b", "a")]
    await dead_letters.discard(connection, letters[1].id, acted_by="ada", reason="test")

    page = await dead_letters.list_(connection, queue="a", limit=1)
    rest = await dead_letters.list_(connection, queue="a", before=page[0].id)

    assert [letter.id for letter in page + rest] == [letters[3].id, letters[0].id]
    assert [letter.id for letter in await dead_letters.list_(connection, closed=True)] == [letter.id for letter in reversed(letters)]


async def test_a_replay_is_a_new_row_linked_to_the_old(connection: Connection) -> None:
    """Replaying writes a fresh row with the same contents and clean counts, and both sides say which is the other."""
    letter = await bury(connection)

    replayed, did = await dead_letters.replay(connection, letter.id, acted_by="ada", reason="mended")

    (row,) = await outbox.claim(connection, "q", limit=1, lease_seconds=60)
    assert did
    assert (row.id, row.attempt, row.failures, row.payload, row.subject) == (replayed.replayed_as, 1, 0, '{"n": 1}', NOBODY)
    assert (replayed.acted_by, replayed.reason) == ("ada", "mended")
    record = await (await connection.execute("SELECT replay_of FROM outbox")).fetchone()
    assert record == (letter.outbox_id,)


async def test_a_replayed_row_may_die_again(connection: Connection) -> None:
    """A replay that fails becomes a letter of its own that knows its origin."""
    letter = await bury(connection)
    await dead_letters.replay(connection, letter.id, acted_by="ada", reason="hope")
    (row,) = await outbox.claim(connection, "q", limit=1, lease_seconds=60)

    await outbox.fail(connection, [Failed(row, "broken still")])

    (second,) = await dead_letters.list_(connection)
    assert (second.outbox_id, second.replay_of) == (row.id, letter.outbox_id)


async def test_twenty_replays_at_once_write_one_row(any_database: str, connection: Connection) -> None:
    """However many operators replay a letter at the same time, one new row is written and all are told of it."""
    letter = await bury(connection)

    async def replay(name: str) -> tuple[DeadLetter, bool]:
        async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as other:
            return await dead_letters.replay(other, letter.id, acted_by=name, reason="all at once")

    answers = await asyncio.gather(*(replay(f"operator {number}") for number in range(20)))

    assert sum(did for _, did in answers) == 1
    assert len({replayed.replayed_as for replayed, _ in answers}) == 1
    assert [rows for _, rows, _, _ in await outbox.depth(connection)] == [1]


async def test_a_closed_letter_stays_closed(connection: Connection) -> None:
    """A discarded letter is not replayed, a replayed one not discarded, and discarding twice changes nothing."""
    first, second = await bury(connection), await bury(connection)
    discarded, did = await dead_letters.discard(connection, first.id, acted_by="ada", reason="a test row")
    await dead_letters.replay(connection, second.id, acted_by="ada", reason="mended")

    assert did
    assert await dead_letters.discard(connection, first.id, acted_by="bob", reason="again") == (discarded, False)
    with pytest.raises(LetterClosed):
        await dead_letters.replay(connection, first.id, acted_by="bob", reason="rather not")
    with pytest.raises(LetterClosed):
        await dead_letters.discard(connection, second.id, acted_by="bob", reason="rather not")


async def test_an_unknown_letter_is_refused(connection: Connection) -> None:
    """Showing, replaying and discarding a letter that is not there say so."""
    with pytest.raises(NoSuchLetter):
        await dead_letters.show(connection, NOBODY)
    with pytest.raises(NoSuchLetter):
        await dead_letters.replay(connection, NOBODY, acted_by="ada", reason="?")
    with pytest.raises(NoSuchLetter):
        await dead_letters.discard(connection, NOBODY, acted_by="ada", reason="?")


async def test_an_operator_needs_no_more_than_its_role(connection: Connection) -> None:
    """Listing, replaying and discarding work with the rights of the operators' role alone."""
    first, second = await bury(connection), await bury(connection)
    await connection.execute("SET ROLE tollgate_ops")

    _, replayed = await dead_letters.replay(connection, first.id, acted_by="ada", reason="mended")
    _, discarded = await dead_letters.discard(connection, second.id, acted_by="ada", reason="a test row")

    assert (replayed, discarded) == (True, True)
    assert await dead_letters.list_(connection) == []
