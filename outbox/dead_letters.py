"""Rows that nobody could do: kept with their errors until a named operator replays or discards them, with a reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from outbox.store import Connection

Id = str | UUID

_COLUMNS = """
encode(uuid_send(id), 'hex'), outbox_id, queue, lane, actor, encode(uuid_send(subject), 'hex'), encode(uuid_send(tenant), 'hex'),
payload, traceparent, attempts, failures, first_error, last_error, created_at, dead_at, replay_of, replayed_at, replayed_as,
discarded_at, reason, acted_by
"""

LIST = f"""
SELECT {_COLUMNS}
  FROM dead_letters
 WHERE (%(closed)s OR (replayed_at IS NULL AND discarded_at IS NULL))
   AND (%(queue)s::text IS NULL OR queue = %(queue)s)
   AND (%(before)s::uuid IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s
"""  # noqa: S608 - made of this file's own constants

SHOW = f"SELECT {_COLUMNS} FROM dead_letters WHERE id = %s::uuid"  # noqa: S608 - made of this file's own constants

# One statement: of two replays at once the second waits for the first one's lock and then finds the letter closed.
REPLAY = """
WITH letter AS MATERIALIZED (
    SELECT * FROM dead_letters WHERE id = %(id)s::uuid AND replayed_at IS NULL AND discarded_at IS NULL FOR UPDATE
), fresh AS (
    INSERT INTO outbox (queue, lane, actor, subject, tenant, payload, traceparent, replay_of)
    SELECT queue, lane, actor, subject, tenant, payload, traceparent, outbox_id FROM letter
    RETURNING id
)
UPDATE dead_letters
   SET replayed_at = statement_timestamp(),
       replayed_as = fresh.id,
       acted_by = %(acted_by)s,
       reason = %(reason)s
  FROM letter, fresh
 WHERE dead_letters.id = letter.id
RETURNING dead_letters.id
"""

DISCARD = """
UPDATE dead_letters
   SET discarded_at = statement_timestamp(),
       acted_by = %(acted_by)s,
       reason = %(reason)s
 WHERE id = %(id)s::uuid AND replayed_at IS NULL AND discarded_at IS NULL
RETURNING id
"""


class NoSuchLetter(LookupError):
    """There is no dead letter with this id."""


class LetterClosed(RuntimeError):
    """The dead letter was already discarded, or replayed, and cannot be taken the other way."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    id: str
    outbox_id: int
    queue: str
    lane: str
    actor: str
    subject: str | None
    tenant: str | None
    payload: str
    traceparent: str | None
    attempts: int
    failures: int
    first_error: str
    last_error: str
    created_at: datetime
    dead_at: datetime
    replay_of: int | None
    replayed_at: datetime | None
    replayed_as: int | None
    discarded_at: datetime | None
    reason: str | None
    acted_by: str | None


async def list_(
    connection: Connection, *, queue: str | None = None, closed: bool = False, before: Id | None = None, limit: int = 50
) -> list[DeadLetter]:
    """Newest first; `closed` includes replayed and discarded ones; `before` is the last id of the page above."""
    cursor = await connection.execute(
        LIST, {"closed": closed, "queue": queue, "before": None if before is None else str(before), "limit": limit}
    )
    return [DeadLetter(*record) for record in await cursor.fetchall()]


async def show(connection: Connection, letter_id: Id) -> DeadLetter:
    """Raises NoSuchLetter."""
    record: Any = await (await connection.execute(SHOW, (str(letter_id),))).fetchone()
    if record is None:
        raise NoSuchLetter(str(letter_id))
    return DeadLetter(*record)


async def replay(connection: Connection, letter_id: Id, *, acted_by: str, reason: str) -> tuple[DeadLetter, bool]:
    """Write the row anew, linked to the old one; again, it only returns what was done. The flag says whether this call did it.

    Wake the letter's queue after the commit. Raises NoSuchLetter, LetterClosed.
    """
    done = await _close(connection, REPLAY, letter_id, acted_by=acted_by, reason=reason)
    letter = await show(connection, letter_id)
    if letter.replayed_at is None:
        raise LetterClosed(f"dead letter {letter.id} was discarded")
    return letter, done


async def discard(connection: Connection, letter_id: Id, *, acted_by: str, reason: str) -> tuple[DeadLetter, bool]:
    """Close a letter without doing it; again, it changes nothing. Raises NoSuchLetter, LetterClosed."""
    done = await _close(connection, DISCARD, letter_id, acted_by=acted_by, reason=reason)
    letter = await show(connection, letter_id)
    if letter.discarded_at is None:
        raise LetterClosed(f"dead letter {letter.id} was replayed")
    return letter, done


async def _close(connection: Connection, statement: str, letter_id: Id, *, acted_by: str, reason: str) -> bool:
    cursor = await connection.execute(statement, {"id": str(letter_id), "acted_by": acted_by, "reason": reason})
    return await cursor.fetchone() is not None
