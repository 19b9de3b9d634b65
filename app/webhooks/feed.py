"""`GET /v1/events`: what happened, in the order of commits, by an opaque cursor that never skips and never repeats.

A transaction's number is given when it begins to write, so a reader that has seen number 7 may yet see 6 appear. Everything below
the oldest transaction that is still open is complete; only that is shown. Order within an object is its `sequence`.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.core.errors import InvalidCursor
from app.core.ids import Id, first_id_at
from app.infra.db import Connection
from app.webhooks.deliveries import EVENT_COLUMNS, event_of
from app.webhooks.model import EVENTS_KEPT, Event

_CURSOR_TEXT = re.compile(r"(\d{1,9})\.(\d{1,20})\.([0-9a-f]{32})", re.ASCII)
# Transaction numbers have 64 bits.
_LAST_TRANSACTION = 2**64 - 1

ERA = "SELECT era FROM installation"

# In an era that is over nothing is open any more, and its numbers may be above today's.
READ = f"""
SELECT {EVENT_COLUMNS}, e.era, e.transaction_id::text
  FROM events e
 WHERE e.merchant_id = %(merchant_id)s::uuid
   AND e.livemode = %(livemode)s
   AND e.announced
   AND e.era = %(era)s
   AND (e.transaction_id, e.id) > (%(transaction_id)s::text::xid8, %(id)s::uuid)
   AND e.id >= %(oldest)s::uuid
   AND (%(is_over)s OR e.transaction_id < pg_snapshot_xmin(pg_current_snapshot()))
   AND (%(object_type)s::text IS NULL OR e.object_type = %(object_type)s::text)
   AND (%(event)s::text IS NULL OR e.event = %(event)s::text)
   AND (%(object_id)s::uuid IS NULL OR e.object_id = %(object_id)s::uuid)
 ORDER BY e.transaction_id, e.id
 LIMIT %(limit)s"""  # noqa: S608 - this file's constants

READ_ONE = f"""
SELECT {EVENT_COLUMNS}
  FROM events e
 WHERE e.id = %s::uuid
   AND e.merchant_id = %s::uuid
   AND e.livemode = %s
   AND (e.announced OR NOT %s)"""  # noqa: S608 - this file's constants


class Cursor(NamedTuple):
    era: int
    transaction_id: int
    id: Id


START = Cursor(0, 0, "0" * 32)


class Entry(NamedTuple):
    event: Event
    cursor: Cursor


class Wanted(NamedTuple):
    """Which events; None stands for all. `event` is what follows the dot of a type."""

    object_type: str | None = None
    event: str | None = None
    object_id: Id | None = None


EVERYTHING = Wanted()


async def read(
    connection: Connection,
    *,
    merchant_id: Id,
    livemode: bool,
    after: Cursor,
    now: datetime,
    limit: int,
    wanted: Wanted = EVERYTHING,
    since: datetime | None = None,
) -> list[Entry]:
    """Ascending, announced events only, none older than 30 days or than `since`."""
    row = await (await connection.execute(ERA)).fetchone()
    assert row is not None, "the installation has its row from the migration"
    present = int(row[0])
    oldest = first_id_at(max(now - EVENTS_KEPT, since or now - EVENTS_KEPT))
    found: list[Entry] = []
    # Eras are restores: a handful in the life of an installation.
    for era in range(max(after.era, 1), present + 1):
        start = after if era == after.era else START
        cursor = await connection.execute(
            READ,
            {
                "merchant_id": merchant_id,
                "livemode": livemode,
                "era": era,
                "transaction_id": str(start.transaction_id),
                "id": start.id,
                "oldest": oldest,
                "is_over": era < present,
                "object_type": wanted.object_type,
                "event": wanted.event,
                "object_id": wanted.object_id,
                "limit": limit - len(found),
            },
        )
        found += [_entry(one) for one in await cursor.fetchall()]
        if len(found) == limit:
            break
    return found


async def read_event(connection: Connection, event_id: Id, *, merchant_id: Id, livemode: bool, announced_only: bool = True) -> Event | None:
    """One event of this merchant and mode."""
    cursor = await connection.execute(READ_ONE, (event_id, merchant_id, livemode, announced_only))
    row = await cursor.fetchone()
    return event_of(row) if row else None


def cursor_text(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(f"{cursor.era}.{cursor.transaction_id}.{cursor.id}".encode()).decode().rstrip("=")


def parse_cursor(text: str) -> Cursor:
    """Raises InvalidCursor."""
    try:
        match = _CURSOR_TEXT.fullmatch(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, UnicodeError, ValueError):
        match = None
    if match is None or int(match[2]) > _LAST_TRANSACTION:
        raise InvalidCursor(param="cursor")
    return Cursor(int(match[1]), int(match[2]), match[3])


def _entry(row: Sequence[object]) -> Entry:
    return Entry(event_of(row[:10]), Cursor(int(str(row[10])), int(str(row[11])), str(row[0])))
