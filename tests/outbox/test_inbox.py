from typing import Any

import psycopg

from outbox import inbox

Connection = psycopg.AsyncConnection[Any]


async def test_an_event_is_received_once(connection: Connection) -> None:
    """The first receipt of a provider's event is stored with its raw bytes, the second changes nothing; ids are per provider."""
    assert await inbox.receive(connection, "psp", "evt_1", b'{"a":\xff}')
    assert not await inbox.receive(connection, "psp", "evt_1", b"other")
    assert await inbox.receive(connection, "other psp", "evt_1", b"theirs")

    assert await inbox.read(connection, "psp", "evt_1") == b'{"a":\xff}'
    assert await inbox.read(connection, "psp", "evt_2") is None


async def test_applied_events_are_purged_in_small_batches(connection: Connection) -> None:
    """Only applied events are forgotten, a few at a time; the time of the first application is kept."""
    for number in range(5):
        await inbox.receive(connection, "psp", f"evt_{number}", b"{}")
    for _ in range(2):
        await inbox.mark_applied(connection, "psp", ["evt_0", "evt_1", "evt_2"])

    assert await inbox.purge(connection, older_than_seconds=3600, limit=10) == 0
    assert await inbox.purge(connection, older_than_seconds=-1, limit=2) == 2
    assert await inbox.purge(connection, older_than_seconds=-1, limit=2) == 1
    assert await inbox.read(connection, "psp", "evt_3") == b"{}"
