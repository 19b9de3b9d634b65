"""The feed of events: every committed event once, in the order of commits."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.core.clock import now
from app.core.errors import InvalidCursor
from app.core.ids import first_id_at, new_id
from app.infra.db import Connection, Pool, connect, tenant
from app.webhooks import feed
from app.webhooks.feed import START, Cursor, Entry, Wanted, cursor_text, parse_cursor
from tests.webhooks.builders import MERCHANT, OTHER_MERCHANT, announce, event_row, owner

# Ages are compared, because `backend_xid` has no epoch.
OPEN_ELSEWHERE = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname <> current_database() AND backend_xid IS NOT NULL AND age(backend_xid) > age((%s::bigint %% 4294967296)::text::xid)"""


async def page(pool: Pool, after: Cursor = START, *, limit: int = 100, wanted: Wanted = Wanted()) -> list[Entry]:  # noqa: B008 - a tuple
    await others_are_done(pool)
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        return await feed.read(connection, merchant_id=MERCHANT, livemode=False, after=after, now=now(), limit=limit, wanted=wanted)


async def others_are_done(pool: Pool) -> None:
    """Transaction numbers are the whole server's: what other tests' databases had open just now holds this feed back too."""
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")).fetchone()
        assert row is not None
        for _ in range(1000):
            older = await (await connection.execute(OPEN_ELSEWHERE, row)).fetchone()
            if older == (0,):
                return
            await asyncio.sleep(0.01)
    raise AssertionError("a transaction of another database stays open")


async def ids(pool: Pool, after: Cursor = START) -> list[str]:
    return [one.event.id for one in await page(pool, after)]


@pytest.fixture
async def second(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, role="tollgate_writer") as connection:
        yield connection


async def test_pages_give_every_event_once(pool: Pool, writer: Connection) -> None:
    """Walking with a small limit shows what one large page shows."""
    written = [(await announce(writer))[0].id for _ in range(7)]

    walked, cursor = [], START
    while found := await page(pool, cursor, limit=2):
        walked += [one.event.id for one in found]
        cursor = parse_cursor(cursor_text(found[-1].cursor))

    assert walked == written == await ids(pool)


async def test_an_event_that_commits_late_is_not_skipped(pool: Pool, writer: Connection, second: Connection) -> None:
    """While an older transaction is open nothing above it is shown; after its commit both are, the older one first."""
    async with second.transaction():
        (early,) = await announce(second)
        (late,) = await announce(writer)
        assert await ids(pool) == []

    assert await ids(pool) == [early.id, late.id]


async def test_other_merchants_other_modes_and_quiet_events_are_not_in_it(pool: Pool, writer: Connection) -> None:
    """The feed shows what webhooks would have told this key's merchant."""
    quiet = event_row()
    quiet.announced = False
    (own, *_) = await announce(writer, event_row(), event_row(merchant_id=OTHER_MERCHANT), event_row(livemode=True), quiet)

    assert await ids(pool) == [own.id]


async def test_the_feed_goes_back_thirty_days(pool: Pool, writer: Connection) -> None:
    """What is older is the archive's."""
    old, young = event_row(), event_row()
    old.id = first_id_at(now() - timedelta(days=31))[:12] + old.id[12:]
    young.id = first_id_at(now() - timedelta(days=29))[:12] + young.id[12:]
    await announce(writer, old, young)

    assert await ids(pool) == [young.id]


async def test_filters_name_a_type_or_an_object(pool: Pool, writer: Connection) -> None:
    """Both narrow the feed and keep its order."""
    first, second = await announce(writer, event_row(), event_row())

    assert [one.event.id for one in await page(pool, wanted=Wanted("payment", "created"))] == sorted([first.id, second.id])
    assert await page(pool, wanted=Wanted("payment", "captured")) == []
    assert await page(pool, wanted=Wanted("refund")) == []
    assert [one.event.id for one in await page(pool, wanted=Wanted(object_id=second.object_id))] == [second.id]


async def test_a_new_era_follows_the_old_one_whatever_its_numbers(database: str, pool: Pool, writer: Connection) -> None:
    """After a restore transaction numbers begin lower; a reader's cursor of before still leads to everything that came after."""
    (before,) = await announce(writer)
    async with await owner(database) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE events SET transaction_id = '9000000000'")
        await connection.execute("UPDATE installation SET era = 2")
        await connection.execute("ALTER TABLE events ALTER era SET DEFAULT 2")
    (after,) = await announce(writer)

    assert await ids(pool) == [before.id, after.id]
    (first, _) = await page(pool)
    assert await ids(pool, first.cursor) == [after.id]


@pytest.mark.parametrize("text", ["", "x", "MS4y", cursor_text(START)[:-1] + "!", cursor_text(START) + "AAAA", "ü", "=" * 50])
def test_a_cursor_that_was_not_issued_is_refused(text: str) -> None:
    """A guess is an error and not a silent start from the beginning."""
    with pytest.raises(InvalidCursor):
        parse_cursor(text)


def test_a_cursor_with_an_impossible_number_is_refused() -> None:
    """Postgres would refuse it with an error of its own."""
    with pytest.raises(InvalidCursor):
        parse_cursor(cursor_text(Cursor(1, 2**64, new_id())))
