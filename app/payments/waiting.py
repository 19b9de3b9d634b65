"""The bounded wait: a request that asked a PSP for something stays until the outcome is known, or its patience ends.

Nothing depends on it: the work is in the outbox, and whoever stops waiting reads the object later.
"""

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import structlog

from app.core.ids import Id
from app.infra.db import Connection
from app.infra.group_commit import Lane
from outbox.round_trip import Row, round_trip

# A wake-up can be lost with its connection; then this is how late the answer is.
POLL_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode

log = structlog.get_logger("waiting")

# An operation has an answer when it is closed, or when the payer has to act before it can be. The ids come as JSON, whose length
# the planner does not look at: by the length of an array it would plan anew for every batch.
ANSWERS = """
SELECT o.type, e.event, e.object_type, e.sequence, e.data::text, o.outcome::text, encode(uuid_send(given.id), 'hex'),
       encode(uuid_send(e.object_id), 'hex')
  FROM (SELECT value::uuid AS id FROM json_array_elements_text(%s::json)) AS given
 CROSS JOIN LATERAL (SELECT * FROM operations o WHERE o.id = given.id AND o.answer_event_id IS NOT NULL LIMIT 1) o
 CROSS JOIN LATERAL (SELECT * FROM events e WHERE e.id = o.answer_event_id LIMIT 1) e"""


class Answered(msgspec.Struct):
    """The event that answers an operation; `data` is the object as it was then."""

    operation_id: Id
    type: str
    event: str
    outcome: dict[str, Any] | None
    object_type: str
    object_id: Id
    version: int
    data: str


async def read_answers(connection: Connection, operation_ids: list[Id]) -> Sequence[Answered | None]:
    (rows,) = await round_trip(connection, (ANSWERS, (_encode(operation_ids).decode(),)))
    found = {answered.operation_id: answered for answered in map(_answered, rows)}
    return [found.get(one) for one in operation_ids]


def _answered(row: Row) -> Answered:
    type_, event, object_type, version, data, outcome, operation_id, object_id = row
    return Answered(
        operation_id=operation_id or "",
        type=type_ or "",
        event=event or "",
        outcome=None if outcome is None else msgspec.json.decode(outcome),
        object_type=object_type or "",
        object_id=object_id or "",
        version=int(version or 0),
        data=data or "",
    )


def touched(_: Id) -> Iterable[Hashable]:
    """Reading touches nothing."""
    return ()


class Waiters:
    """Who waits for which operation in this process."""

    def __init__(self, answers: "Lane[Id, Answered | None]") -> None:
        self._answers = answers
        self._flags: dict[Id, set[asyncio.Event]] = {}
        self._draining = False

    def told(self, operation_id: Id) -> None:
        """A worker says that the operation has moved."""
        for flag in self._flags.get(operation_id, ()):
            flag.set()

    def told_all(self) -> None:
        """Wake-ups may have been lost: everybody looks."""
        for flags in self._flags.values():
            for flag in flags:
                flag.set()

    async def drain(self) -> None:
        """The process is about to end: everybody is answered with what is known now."""
        self._draining = True
        self.told_all()

    @contextmanager
    def expecting(self, operation_id: Id) -> Iterator[asyncio.Event]:
        """Register before the commit, so that no worker can be quicker than the waiter."""
        flag = asyncio.Event()
        self._flags.setdefault(operation_id, set()).add(flag)
        try:
            yield flag
        finally:
            flags = self._flags[operation_id]
            flags.discard(flag)
            if not flags:
                del self._flags[operation_id]

    async def wait(self, operation_id: Id, flag: asyncio.Event, *, seconds: float) -> Answered | None:
        """The answer, or None when `seconds` are over or the process drains. A set flag means: look at once."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            await _set_or_late(flag, min(POLL_SECONDS, end - loop.time()))
            flag.clear()
            answered = await self._look(operation_id)
            if answered is not None or loop.time() >= end or self._draining:
                return answered

    async def _look(self, operation_id: Id) -> Answered | None:
        """None while the database is away: what is waited for has been committed, and an error would say that it may not have been."""
        try:
            return await self._answers.submit(operation_id)
        except psycopg.OperationalError as error:
            log.warning("answer_not_read", operation=operation_id, error=type(error).__name__)
            return None

    async def join(self, operation_id: Id, *, seconds: float) -> Answered | None:
        """Wait for an operation that somebody else has asked for, and that may have been answered long ago."""
        with self.expecting(operation_id) as flag:
            flag.set()
            return await self.wait(operation_id, flag, seconds=seconds)


async def _set_or_late(flag: asyncio.Event, seconds: float) -> None:
    if flag.is_set() or seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await flag.wait()
    except TimeoutError:
        return
