"""The loop's side of one queue: when to claim, how much, and of which lanes; slots are counted per row."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

from outbox.connection import connect
from outbox.model import Claimed
from outbox.store import claim, defer

log = logging.getLogger("outbox")

# A lost wake-up costs at most this; the jitter keeps processes that started together apart.
POLL_SECONDS = 0.5
POLL_JITTER = 0.25
RECONNECT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Queue:
    """What one process takes of a queue: `slots` rows in flight, `lane_limit` of them of one lane, `batch` with one claim.

    `spacing_seconds`: after a claim that found less than it could take, the next one waits as long, so that at a steady trickle
    rows come in handfuls. The first row after a pause waits for nothing.
    """

    name: str
    slots: int = 256
    lane_limit: int = 64
    batch: int = 100
    spacing_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.lane_limit <= self.slots and self.batch > 0 and self.spacing_seconds >= 0):
            raise ValueError(f"queue {self.name!r}: 0 < lane_limit <= slots, 0 < batch and 0 <= spacing_seconds")


class Gate:
    """Shut while a row runs alone, shut for good while the process drains."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.draining = False


class Intake:
    def __init__(self, url: str, queue: Queue, *, lease_seconds: float, gate: Gate) -> None:
        self.queue = queue
        self.running = 0
        self.claiming = False
        self._url = url
        self._lease_seconds = lease_seconds
        self._gate = gate
        self._in_lane: dict[str, int] = {}
        self._due = asyncio.Event()
        self._room = asyncio.Event()
        self._after_lane = ""
        # The last claim took everything that was due: what comes next is said, or found by the poll.
        self._emptied = False
        self._not_before = 0.0
        self._connection: AsyncConnection[Any] | None = None
        # A claim for one freed slot at a time would be a statement per row.
        self._worthwhile = max(1, min(queue.batch, queue.slots) // 4)
        self._lane_worthwhile = queue.lane_limit - max(1, queue.lane_limit // 4)

    def wake(self, items: Sequence[str] | None = None) -> None:  # noqa: ARG002 - a queue's notification carries no items
        self._due.set()

    def reconsider(self) -> None:
        """The gate has moved."""
        self._due.set()
        self._room.set()

    async def next_batch(self, patience_seconds: float) -> list[Claimed]:
        """Claimed rows, already counted as running; an empty list after `patience_seconds` or when the process drains."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_seconds
        while not self._gate.draining and loop.time() < until:
            if self._emptied:
                await _wait_a_poll(self._due)
            if (early := self._not_before - loop.time()) > 0:
                await asyncio.sleep(early)
            limit = await self._wait_for_room()
            if limit == 0:
                continue
            self._emptied = False
            # Cleared before the claim: cleared after an empty one, it would swallow the wake-up that came in between.
            self._due.clear()
            visited_from = self._after_lane
            self.claiming = True
            rows = await self._claim(limit)
            self.claiming = False
            if rows:
                return await self._taken(rows)
            if not visited_from:
                await _wait_a_poll(self._due)
        return []

    def freed(self, row: Claimed) -> None:
        self.running -= 1
        left = self._in_lane[row.lane] - 1
        if left:
            self._in_lane[row.lane] = left
        else:
            del self._in_lane[row.lane]
        if left == self._lane_worthwhile:
            self._due.set()
        if self.running == self.queue.slots - self._worthwhile:
            self._room.set()

    async def hand_back(self, rows: Sequence[Claimed], *, seconds: float = 0.0) -> None:
        """Claimed and never started: due again at once, nothing counted. Not repeated when it fails: the lease ends anyway."""
        for row in rows:
            self.freed(row)
        try:
            await defer(await self.connected(), rows, seconds)
        except psycopg.Error as error:
            log.warning("%d rows of %s wait for the end of their lease: %s", len(rows), self.queue.name, error)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _wait_for_room(self) -> int:
        """How many rows may be claimed; 0 when it is better to look again later."""
        if self.queue.slots - self.running < self._worthwhile or not self._gate.open.is_set():
            self._room.clear()
            await _wait_a_poll(self._room)
        if self._gate.draining or not self._gate.open.is_set():
            return 0
        return min(self.queue.batch, self.queue.slots - self.running)

    async def _claim(self, limit: int) -> list[Claimed]:
        room = {lane: self.queue.lane_limit - running for lane, running in self._in_lane.items()}
        try:
            rows = await claim(
                await self.connected(),
                self.queue.name,
                limit=limit,
                lease_seconds=self._lease_seconds,
                lane_limit=self.queue.lane_limit,
                room=room,
                after_lane=self._after_lane,
            )
        except psycopg.Error as error:
            log.warning("claiming from %s again in %s s: %s", self.queue.name, RECONNECT_SECONDS, error)
            await asyncio.sleep(RECONNECT_SECONDS)
            return []
        # Lanes are visited by name while one is full; the next visit begins behind the last one that got something.
        lane_by_lane = any(left <= 0 for left in room.values())
        self._after_lane = max(row.lane for row in rows) if lane_by_lane and len(rows) == limit else ""
        of_lane = Counter(row.lane for row in rows)
        all_fitted = all(count < room.get(lane, self.queue.lane_limit) for lane, count in of_lane.items())
        self._emptied = 0 < len(rows) < limit and not lane_by_lane and all_fitted
        if self._emptied:
            self._not_before = asyncio.get_running_loop().time() + self.queue.spacing_seconds
        return rows

    async def _taken(self, rows: list[Claimed]) -> list[Claimed]:
        self.running += len(rows)
        for row in rows:
            self._in_lane[row.lane] = self._in_lane.get(row.lane, 0) + 1
        if self._gate.draining:
            await self.hand_back(rows)
            return []
        return rows

    async def connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, application_name=f"outbox {self.queue.name}")
        return self._connection


async def _wait_a_poll(event: asyncio.Event) -> None:
    jitter = random.uniform(1.0 - POLL_JITTER, 1.0 + POLL_JITTER)  # noqa: S311 - spreads load, guards nothing
    try:
        async with asyncio.timeout(POLL_SECONDS * jitter):
            await event.wait()
    except TimeoutError:
        return
