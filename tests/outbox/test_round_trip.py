"""Statements that travel together: what comes back, what an error leaves behind, and what can break on the way."""

import asyncio
import logging

import psycopg
import pytest

from outbox.connection import connect
from outbox.round_trip import BEGIN, COMMIT, ROLLBACK, Statement, array, round_trip

ECHO = "SELECT %s::text"
NUMBERS = "SELECT n::text FROM generate_series(1, %s::int) AS n"
DIVIDED = "SELECT (1 / %s::int)::text"

Connection = psycopg.AsyncConnection


def idle(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_each_statement_has_its_rows_in_order(connection: Connection) -> None:
    """As often as they are sent; a statement without rows has an empty list, and a null is None."""
    for _ in range(3):
        answers = await round_trip(connection, BEGIN, (NUMBERS, ["3"]), (ECHO, ["a"]), (ECHO, [None]), (NUMBERS, ["0"]), COMMIT)

        assert answers == [[], [("1",), ("2",), ("3",)], [("a",)], [(None,)], [], []]
        assert idle(connection)


async def test_parameters_may_have_names(connection: Connection) -> None:
    """Each is given once, whatever the order, and may be used twice."""
    statement: Statement = ("SELECT %(b)s::text || %(a)s::text || %(b)s::text, %(none)s::text", {"a": "a", "b": "b", "none": None})

    assert await round_trip(connection, statement, (ECHO, ["c"]), statement) == [[("bab", None)], [("c",)], [("bab", None)]]


async def test_an_array_holds_any_texts(connection: Connection) -> None:
    """As they are, also those that mean something in an array."""
    texts = ["", "NULL", "a,b", '"', "\\", "{}", " ", "Grüße 東京"]

    (rows,) = await round_trip(connection, ("SELECT unnest(%s::text[])", [array(texts)]))

    assert [text for (text,) in rows] == texts
    assert await round_trip(connection, ("SELECT unnest(%s::text[])", [array([])])) == [[]]


async def test_a_message_belongs_to_the_transaction_of_a_connection_that_begins_them_by_itself(any_database: str) -> None:
    """Without autocommit the driver's first statement begins one, and so does ours: the rollback undoes it."""
    async with await psycopg.AsyncConnection.connect(any_database) as opened:
        await round_trip(opened, ("CREATE TABLE marks (n int)", []), ("INSERT INTO marks VALUES (1) RETURNING n::text", []))
        assert await round_trip(opened, ("SELECT n::text FROM marks", [])) == [[("1",)]]
        await opened.rollback()
        assert await round_trip(opened, ("SELECT to_regclass('marks')::text", [])) == [[(None,)]]
        await opened.rollback()
        assert await round_trip(opened, BEGIN, (ECHO, ["a"]), COMMIT) == [[], [("a",)], []]
        assert idle(opened)


async def test_texts_of_all_scripts_come_back_as_they_went(connection: Connection) -> None:
    """Letters, signs beyond the first plane, quotes and percent signs are the parameter's and mean nothing on the way."""
    texts = ["Grüße, 東京 \N{SNOWMAN}", "\N{PILE OF POO}", "50 % off, '%s' and $1", 'a"b\\c{d}', ""]

    assert await round_trip(connection, *[(ECHO, [text]) for text in texts]) == [[(text,)] for text in texts]


async def test_the_encoding_is_ours_whatever_the_url_says(any_database: str) -> None:
    """The outbox's own connections too: a text would come back as another one, or not at all."""
    url = f"{any_database}{'&' if '?' in any_database else '?'}client_encoding=latin1"
    async with await connect(url) as opened:
        assert await round_trip(opened, ("SELECT length(%s::text)::text, chr(26481)", ["Grüße, 東京"])) == [[("9", "東")]]


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_what_no_text_can_hold_is_refused_and_not_cut_short(connection: Connection, text: str) -> None:
    """As the driver does it: an error of the database's kind, which a lane blames on the one row that has it."""
    with pytest.raises(psycopg.DataError):
        await round_trip(connection, (ECHO, ["a"]), (ECHO, [text]))


@pytest.mark.parametrize("prepared", [False, True])
async def test_an_error_in_the_middle_is_raised_and_nothing_after_it_is_done(connection: Connection, *, prepared: bool) -> None:
    """No COMMIT comes through behind it, the connection can be used, and so can every statement that was sent with it."""
    await connection.execute("CREATE TABLE marks (n int)")
    mark: Statement = ("INSERT INTO marks SELECT %s::int", ["1"])
    if prepared:
        await round_trip(connection, BEGIN, mark, (DIVIDED, ["1"]), (ECHO, ["a"]), ROLLBACK)

    with pytest.raises(psycopg.errors.DivisionByZero):
        await round_trip(connection, BEGIN, mark, (DIVIDED, ["0"]), mark, (ECHO, ["a"]), COMMIT)

    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    await round_trip(connection, ROLLBACK)
    assert await round_trip(connection, ("SELECT count(*)::text FROM marks", [])) == [[("0",)]]
    assert await round_trip(connection, (DIVIDED, ["1"]), mark, (ECHO, ["b"])) == [[("1",)], [], [("b",)]]
    assert idle(connection)


async def test_what_cannot_be_prepared_is_raised_and_can_be_sent_again(connection: Connection) -> None:
    """A statement that was refused once is not taken for known the next time."""
    read: Statement = ("SELECT n::text FROM later", [])
    with pytest.raises(psycopg.errors.UndefinedTable):
        await round_trip(connection, (ECHO, ["a"]), read, (DIVIDED, ["1"]))
    await connection.execute("CREATE TABLE later AS SELECT 7 AS n")

    assert await round_trip(connection, (ECHO, ["a"]), read, (DIVIDED, ["1"])) == [[("a",)], [("7",)], [("1",)]]


async def test_statements_without_a_transaction_are_one(connection: Connection) -> None:
    """What came before the error is undone with it."""
    await connection.execute("CREATE TABLE marks (n int)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await round_trip(connection, ("INSERT INTO marks VALUES (1)", []), (DIVIDED, ["0"]))

    assert idle(connection)
    assert await round_trip(connection, ("SELECT count(*)::text FROM marks", [])) == [[("0",)]]


async def test_what_is_refused_when_everything_was_done_is_raised_like_any_error(connection: Connection) -> None:
    """Without a COMMIT of its own a message is committed at its end, after every statement has been answered: it can still fail."""
    await connection.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    await connection.execute("CREATE TABLE children (id int REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")
    orphan: Statement = ("INSERT INTO children SELECT %s::int RETURNING id::text", ["1"])

    for _ in range(2):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await round_trip(connection, orphan)
        assert idle(connection)
    assert await round_trip(connection, ("SELECT count(*)::text FROM children", [])) == [[("0",)]]


async def test_statements_that_the_server_forgot_are_prepared_anew(connection: Connection) -> None:
    """The first message after it fails and does nothing, also within a transaction; the next one works."""
    await round_trip(connection, BEGIN, (ECHO, ["a"]), ROLLBACK)
    await connection.execute("DEALLOCATE ALL", prepare=False)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        await round_trip(connection, BEGIN, (ECHO, ["a"]), (NUMBERS, ["1"]), COMMIT)

    assert idle(connection)
    assert await round_trip(connection, BEGIN, (ECHO, ["a"]), (NUMBERS, ["1"])) == [[], [("a",)], [("1",)]]
    await connection.execute("DEALLOCATE ALL", prepare=False)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        await round_trip(connection, (ECHO, ["a"]), COMMIT)
    await round_trip(connection, ROLLBACK)
    assert idle(connection)


async def test_a_statement_whose_answer_has_changed_its_type_is_prepared_anew(connection: Connection) -> None:
    """A migration under a process that runs costs an error, and not every message until the process ends."""
    await connection.execute("CREATE TABLE things (n int)")
    await connection.execute("INSERT INTO things VALUES (1)")
    read: Statement = ("SELECT n FROM things", [])
    await round_trip(connection, read)
    await connection.execute("ALTER TABLE things ALTER n TYPE bigint")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        await round_trip(connection, read)

    assert await round_trip(connection, read) == [[("1",)]]


async def test_megabytes_both_ways_do_not_stand_in_each_others_way(connection: Connection) -> None:
    """While we still write, the server already answers and does not read on before we read."""
    text = "\N{SNOWMAN}" * 500_000
    async with asyncio.timeout(20):
        answers = await round_trip(connection, *[(ECHO, [text]) for _ in range(20)])

    assert [row == (text,) for ((row),) in answers] == [True] * 20


async def test_whoever_is_canceled_while_the_answer_is_under_way_loses_the_connection(connection: Connection) -> None:
    """Nobody could say whether it was done, and nobody may be given the answer of another's question."""
    waiting = asyncio.create_task(round_trip(connection, ("SELECT pg_sleep(30)::text", [])))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        await round_trip(connection, (ECHO, ["a"]))


async def test_whoever_is_canceled_while_somebody_else_speaks_costs_nobody_anything(connection: Connection) -> None:
    """Only the one whose question is under way is answered, one after the other."""
    first = asyncio.create_task(round_trip(connection, ("SELECT 'first', pg_sleep(0.2)::text", [])))
    second = asyncio.create_task(round_trip(connection, (ECHO, ["second"])))
    third = asyncio.create_task(round_trip(connection, (ECHO, ["third"])))
    await asyncio.sleep(0.05)
    second.cancel()

    assert (await first)[0][0][0] == "first"
    assert await third == [[("third",)]]
    assert idle(connection)


async def test_a_connection_that_the_server_ends_is_closed_and_says_so(any_database: str) -> None:
    """Before the message and while its answer is under way."""
    async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as killer:
        for wait in ("0", "30"):
            async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as victim:
                await round_trip(victim, BEGIN)
                asked: Statement = ("SELECT pg_sleep(%s::float8)::text", [wait])
                waiting = asyncio.create_task(round_trip(victim, asked)) if wait != "0" else None
                await asyncio.sleep(0.05)
                await killer.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
                with pytest.raises(psycopg.OperationalError):
                    await (waiting or round_trip(victim, asked, COMMIT))
                assert victim.closed


async def test_notices_and_notifications_in_between_change_no_answer(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """They come on the same connection and belong to no statement."""
    caplog.set_level(logging.CRITICAL)
    await connection.execute("SET client_min_messages = debug1")
    await connection.execute("LISTEN here")
    noisy: Statement = ("DO $$ BEGIN RAISE NOTICE 'x'; RAISE WARNING 'y'; PERFORM pg_notify('here', 'z'); END $$", [])

    assert await round_trip(connection, (ECHO, ["a"]), noisy, noisy, (ECHO, ["b"])) == [[("a",)], [], [], [("b",)]]
    assert idle(connection)


@pytest.mark.parametrize("setting", ["statement_timeout = 50", "lock_timeout = 50"])
async def test_a_time_limit_ends_a_statement_and_not_the_connection(connection: Connection, any_database: str, setting: str) -> None:
    """What follows is not done, and the next message works."""
    await connection.execute("CREATE TABLE held AS SELECT 1 AS n")
    await connection.execute(f"SET {setting}".encode())
    async with await psycopg.AsyncConnection.connect(any_database) as holder:
        await holder.execute("SELECT FROM held FOR UPDATE")
        with pytest.raises((psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)):
            await round_trip(connection, BEGIN, ("UPDATE held SET n = n + 1", []), COMMIT)
        await round_trip(connection, ROLLBACK)

    assert await round_trip(connection, ("SELECT n::text FROM held", [])) == [[("1",)]]


async def test_the_driver_and_round_trips_share_a_connection(connection: Connection) -> None:
    """A transaction that one of them began is the other's too, and their prepared statements do not meet."""
    connection.prepare_threshold = 0
    await round_trip(connection, BEGIN, ("CREATE TABLE marks (n int)", []))
    async with connection.pipeline():
        await connection.execute("INSERT INTO marks VALUES (%s)", (1,))
    assert await round_trip(connection, ("SELECT n::text FROM marks", [])) == [[("1",)]]
    await connection.execute("COMMIT")
    async with connection.transaction():
        await round_trip(connection, ("INSERT INTO marks VALUES (2)", []))

    cursor = await connection.execute("SELECT sum(n) FROM marks")
    assert await cursor.fetchone() == (3,)
