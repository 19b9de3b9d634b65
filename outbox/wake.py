"""Wake-ups after the commit: coalesced NOTIFY on a connection of its own, and a LISTEN that comes back by itself.

A NOTIFY inside the transaction costs 60 % of the commits. A wake-up that is lost costs its reader one poll, never a row.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, pq, sql

from outbox.connection import connect
from outbox.round_trip import Statement, array, round_trip

log = logging.getLogger("outbox")

NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest(%s::text[], %s::text[]) AS told (channel, payload)"

# What is heard: the items of a notification, or None when some may have been missed and everything must be looked at.
Hear = Callable[[Sequence[str] | None], None]

# The first wake-up after a pause leaves at once, the next ones together: some hundreds of NOTIFYs a second at most.
SPACING_SECONDS = 0.003
# Postgres refuses a payload of 8000 bytes.
PAYLOAD_BYTES = 7999
# Kept for a connection that is down; what is above it is lost, as the whole notification would be on a crash.
ITEMS_KEPT = 50_000
RECONNECT_SECONDS = 0.2
# A listener asks so often whether its connection still lives.
SILENCE_SECONDS = 15.0


def channel_of(queue: str) -> str:
    return f"outbox.{queue}"


class Waker:
    """Tells other processes, and first of all the subscribers in this one, that there is something to do.

    Belongs to one event loop. `wake` and `notify` return at once and never fail; call them after the commit.
    """

    def __init__(self, url: str, *, spacing_seconds: float = SPACING_SECONDS, spacings: Mapping[str, float] | None = None) -> None:
        """`spacings`: of the channels that are in less of a hurry."""
        self._url = url
        self._spacing_seconds = spacing_seconds
        self._spacings = dict(spacings or {})
        self._pending: dict[str, dict[str, None]] = {}
        self._subscribers: dict[str, list[Hear]] = {}
        # Until when each channel is left alone, on the loop's clock.
        self._quiet_from: dict[str, float] = {}
        self._flag = asyncio.Event()
        self._closing = False
        self._connection: AsyncConnection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self.sent = 0

    @property
    def backend_pid(self) -> int | None:
        return None if self._connection is None or self._connection.closed else self._connection.info.backend_pid

    def wake(self, queue: str) -> None:
        """Rows were committed to `queue`."""
        self.notify(channel_of(queue), "")

    def notify(self, channel: str, item: str) -> None:
        """Say `item` (an id; no comma) on `channel`; what gathers meanwhile travels in one payload."""
        if "," in item or len(item.encode()) > PAYLOAD_BYTES:
            raise ValueError("an item is one short word")
        for hear in tuple(self._subscribers.get(channel, ())):
            hear((item,))
        self._pending.setdefault(channel, {})[item] = None
        self._flag.set()

    def subscribe(self, channel: str, hear: Hear) -> Callable[[], None]:
        """Hear what this process itself says, directly; returns what ends it."""
        self._subscribers.setdefault(channel, []).append(hear)
        return lambda: self._subscribers[channel].remove(hear)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox waker")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Sends what is pending, for a second at most."""
        self._closing = True
        self._flag.set()
        if self._task is not None:
            with suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, timeout=1.0)
        if self._connection is not None:
            await self._connection.close()

    async def _run(self) -> None:
        while not (self._closing and not self._pending):
            await self._flag.wait()
            self._flag.clear()
            due = self._take_due()
            try:
                await self._send(due)
            except psycopg.Error as error:
                log.warning("wake-ups wait for the database: %s", error)
                self._keep(due)
                await asyncio.sleep(RECONNECT_SECONDS)
            if self._pending and not self._flag.is_set():
                await self._until_next_is_due()

    def _take_due(self) -> dict[str, dict[str, None]]:
        """What waits for a channel that has been quiet long enough: a busy one never delays another."""
        moment = asyncio.get_running_loop().time()
        due = {channel for channel in self._pending if self._closing or moment >= self._quiet_from.get(channel, 0.0)}
        self._quiet_from.update({channel: moment + self._spacings.get(channel, self._spacing_seconds) for channel in due})
        return {channel: self._pending.pop(channel) for channel in due}

    async def _until_next_is_due(self) -> None:
        """Or until something else is said."""
        next_at = min(self._quiet_from.get(channel, 0.0) for channel in self._pending)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(next_at):
                await self._flag.wait()
        self._flag.set()

    async def _send(self, pending: dict[str, dict[str, None]]) -> None:
        told = [(channel, payload) for channel, items in pending.items() for payload in payloads(items)]
        if not told:
            return
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, application_name="outbox waker")
        channels, sayings = array(channel for channel, _ in told), array(payload for _, payload in told)
        await round_trip(self._connection, (NOTIFY, (channels, sayings)))
        self.sent += len(told)

    def _keep(self, unsent: dict[str, dict[str, None]]) -> None:
        for channel, items in unsent.items():
            kept = self._pending.setdefault(channel, {})
            if len(kept) + len(items) <= ITEMS_KEPT:
                kept.update(items)
        self._flag.set()


class Listener:
    """LISTENs on the channels given before it is entered, and tells everybody None whenever it had to connect (again).

    With `waker`, what this process says itself is heard directly from it and not a second time from the database.
    """

    def __init__(self, url: str, *, waker: Waker | None = None) -> None:
        self._url = url
        self._waker = waker
        self._hearers: dict[str, list[Hear]] = {}
        self._task: asyncio.Task[None] | None = None

    def on(self, channel: str, hear: Hear) -> None:
        if self._task is not None:
            raise RuntimeError("channels are named before the listener starts")
        self._hearers.setdefault(channel, []).append(hear)
        if self._waker is not None:
            self._waker.subscribe(channel, hear)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox listener")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                connection = await connect(self._url, application_name="outbox listener")
                try:
                    await self._listen(connection)
                finally:
                    await connection.close()
            except (psycopg.Error, TimeoutError) as error:
                log.warning("listening again in %s s: %s", RECONNECT_SECONDS, error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        # For what arrives while the driver itself reads.
        connection.add_notify_handler(lambda heard: self._heard(heard.pid, heard.channel, heard.payload))
        for channel in self._hearers:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)), prepare=False)
        for hearers in self._hearers.values():
            _tell(hearers, None)
        while True:
            await self._hear(connection.pgconn)
            async with asyncio.timeout(SILENCE_SECONDS):
                await connection.execute("SELECT 1")

    async def _hear(self, conn: pq.abc.PGconn) -> None:
        """For `SILENCE_SECONDS`. Without the driver's generator, which waits anew for each notification."""
        loop = asyncio.get_running_loop()
        socket = conn.socket
        ended = asyncio.Event()

        def ready() -> None:
            try:
                conn.consume_input()
            except psycopg.OperationalError:
                # The socket is closed now; let go of its number before another connection gets it.
                loop.remove_reader(socket)
                ended.set()
                return
            while (heard := conn.notifies()) is not None:
                self._heard(heard.be_pid, heard.relname.decode(), heard.extra.decode())

        loop.add_reader(socket, ready)
        try:
            # What came with the driver's last answer lies in the buffer already.
            ready()
            async with asyncio.timeout(SILENCE_SECONDS):
                await ended.wait()
        except TimeoutError:
            return
        finally:
            if not ended.is_set():
                loop.remove_reader(socket)
        raise psycopg.OperationalError("the connection that listens is lost")

    def _heard(self, pid: int, channel: str, payload: str) -> None:
        if self._waker is None or pid != self._waker.backend_pid:
            _tell(self._hearers.get(channel, ()), payload.split(","))


def notification(channel: str, items: Iterable[str]) -> Statement:
    """For a batch that says it itself, behind its COMMIT and in the same message; a failure cannot undo what is committed."""
    said = list(payloads(items))
    return NOTIFY, (array(channel for _ in said), array(said))


def payloads(items: Iterable[str]) -> Iterator[str]:
    """The items joined by commas, cut into pieces that Postgres takes."""
    piece: list[str] = []
    size = 0
    for item in items:
        length = len(item.encode()) + 1
        if piece and size + length > PAYLOAD_BYTES:
            yield ",".join(piece)
            piece, size = [], 0
        piece.append(item)
        size += length
    if piece:
        yield ",".join(piece)


def _tell(hearers: Iterable[Hear], items: Sequence[str] | None) -> None:
    for hear in tuple(hearers):
        try:
            hear(items)
        except Exception:
            log.exception("a subscriber of wake-ups failed")
