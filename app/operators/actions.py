"""Dead letters brought back or put away, with their trace in `operator_acts`. The command line and the API both come here."""

from datetime import datetime
from typing import NamedTuple

from app.core.errors import DeadLetterClosed, NotFound
from app.core.ids import Id, new_id, typeid
from app.infra.db import Connection, Pool, transaction
from app.operators import store
from outbox import dead_letters
from outbox.dead_letters import DeadLetter

# One transaction holds the locks of all it replays; what is more is asked for again.
MOST_AT_ONCE = 1000


class Operator(NamedTuple):
    """Who acts: an operator's key, or a person at a command line."""

    name: str
    key_id: Id | None = None


class Replayed(NamedTuple):
    letters: list[DeadLetter]
    has_more: bool


async def list_letters(
    connection: Connection, *, queue: str | None, since: datetime | None, before: Id | None, limit: int, closed: bool = False
) -> tuple[list[DeadLetter], bool]:
    """A page, newest first, and whether there are more."""
    found = await dead_letters.list_(connection, queue=queue, closed=closed, before=before, limit=limit + 1)
    young = found if since is None else [letter for letter in found if letter.dead_at >= since]
    return young[:limit], len(young) > limit


async def show(connection: Connection, letter_id: Id) -> DeadLetter:
    """Raises NotFound."""
    try:
        return await dead_letters.show(connection, letter_id)
    except dead_letters.NoSuchLetter:
        raise NotFound("There is no such dead letter.") from None


async def replay(pool: Pool, letter_id: Id, *, operator: Operator, reason: str, now: datetime) -> tuple[DeadLetter, bool]:
    """Bring a letter back as a new outbox row; a second time nothing happens and the flag is False. Wake its queue afterwards."""
    async with transaction(pool) as connection:
        return await _close(connection, letter_id, act="replay", operator=operator, reason=reason, now=now)


async def discard(pool: Pool, letter_id: Id, *, operator: Operator, reason: str, now: datetime) -> tuple[DeadLetter, bool]:
    """Put a letter away for good; a second time nothing happens and the flag is False."""
    async with transaction(pool) as connection:
        return await _close(connection, letter_id, act="discard", operator=operator, reason=reason, now=now)


async def replay_many(
    pool: Pool, *, queue: str | None, since: datetime | None, operator: Operator, reason: str, dry_run: bool, now: datetime
) -> Replayed:
    """Every open letter that matches, the newest MOST_AT_ONCE of them; with `dry_run` they are only named."""
    async with transaction(pool) as connection:
        letters, has_more = await list_letters(connection, queue=queue, since=since, before=None, limit=MOST_AT_ONCE)
        if not dry_run:
            # In the order of their ids, as every other transaction that locks several of them.
            closed = [
                await _close(connection, letter.id, act="replay", operator=operator, reason=reason, now=now)
                for letter in sorted(letters, key=lambda one: one.id)
            ]
            letters = [letter for letter, done in closed if done]
    return Replayed(letters, has_more)


async def _close(
    connection: Connection, letter_id: Id, *, act: str, operator: Operator, reason: str, now: datetime
) -> tuple[DeadLetter, bool]:
    verb = dead_letters.replay if act == "replay" else dead_letters.discard
    try:
        letter, done = await verb(connection, letter_id, acted_by=operator.name, reason=reason)
    except dead_letters.NoSuchLetter:
        raise NotFound("There is no such dead letter.") from None
    except dead_letters.LetterClosed:
        raise DeadLetterClosed from None
    if done:
        await store.insert_act(
            connection,
            id_=new_id(),
            occurred_at=now,
            key_id=operator.key_id,
            actor=operator.name,
            act=f"dead_letter.{act}",
            subject=typeid("dl", letter.id),
            reason=reason,
        )
    return letter, done
