"""Group commit: what gathers while one batch runs goes with the next, as one transaction of set-based statements.

There is no timer: a single request at idle is a batch of one and waits for nothing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

import psycopg
import structlog

from app.infra.db import Connection, inside_transaction
from outbox.round_trip import ROLLBACK, round_trip

Row = TypeVar("Row")
Answer = TypeVar("Answer")

Batch = Callable[[Connection, list[Row]], Awaitable[Sequence[Answer]]]
Connect = Callable[[], Awaitable[Connection]]

# Two locks taken in the other order, a snapshot that is too old, a key that somebody wrote
# between our look and our insert, statements that a pooler forgot or a migration made old: the same again may pass.
_PASSING = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.FeatureNotSupported,
)
_TRIES = 4
# A row that somebody holds longer than the lane's lock timeout (250 ms) steps aside this often, so that it never holds up the rest.
_LOCKED_TRIES = 12
_LOCKED_PAUSE_SECONDS = 0.1

log = structlog.get_logger("group_commit")


class DatabaseUnavailable(psycopg.OperationalError):
    """The database cannot be reached; whether the last batch was committed is found out by asking again with the same keys."""


class _Item(Generic[Row, Answer]):
    __slots__ = ("future", "row", "tries")

    def __init__(self, row: Row, future: "asyncio.Future[Answer]") -> None:
        self.row = row
        self.future = future
        self.tries = 0


class Lane(Generic[Row, Answer]):
    """One connection that carries one kind of work.

    `batch` sends BEGIN … COMMIT itself and returns one answer per row, in order. It must give the same answer when it is run
    again over rows that an earlier run had committed (idempotency keys, outbox attempts): after a lost connection it is run again.
    `keys` names what a row touches: two rows that share a key never ride in one batch, because an UPDATE moves a row once.
    """

    def __init__(
        self, name: str, connect: Connect, batch: Batch[Row, Answer], *, keys: Callable[[Row], Iterable[Hashable]], max_batch: int = 100
    ) -> None:
        self.name = name
        self.batches = 0
        self.rows = 0
        self._connect = connect
        self._batch = batch
        self._keys = keys
        self._max_batch = max_batch
        self._waiting: list[_Item[Row, Answer]] = []
        self._locked: list[_Item[Row, Answer]] = []
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._connection = await self._connect()

    async def stop(self) -> None:
        """Lets what has been submitted finish, then closes the connection."""
        while self._running is not None and not self._running.done():
            await asyncio.wait({self._running})
        if self._connection is not None:
            await self._connection.close()

    async def submit(self, row: Row) -> Answer:
        """Raises what the database said about this row alone, or DatabaseUnavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Item(row, future))
        if self._running is None or self._running.done():
            # Not the context of whoever happens to come first: the lane's lines and transactions are not that one's.
            self._running = loop.create_task(self._run(), context=Context())
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # whatever is ready in this turn of the loop joins the first batch
        while self._waiting or self._locked:
            batch = self._take()
            if batch:
                self.batches += 1
                self.rows += len(batch)
                await self._settle(batch)
            if self._locked:
                # One of them, alone; without others to carry meanwhile there is no hurry.
                if not batch:
                    await asyncio.sleep(_LOCKED_PAUSE_SECONDS)
                await self._settle([self._locked.pop(0)])

    def _take(self) -> "list[_Item[Row, Answer]]":
        taken: list[_Item[Row, Answer]] = []
        later: list[_Item[Row, Answer]] = []
        touched: set[Hashable] = {key for item in self._locked for key in self._keys(item.row)}
        for position, item in enumerate(self._waiting):
            if len(taken) == self._max_batch:
                later.extend(self._waiting[position:])
                break
            keys = tuple(self._keys(item.row))
            # A row that has to wait also blocks those behind it that touch the same things, so their order stays.
            (later if touched.intersection(keys) else taken).append(item)
            touched.update(keys)
        self._waiting = later
        return taken

    async def _settle(self, batch: "list[_Item[Row, Answer]]") -> None:
        try:
            answers = await self._attempt([item.row for item in batch])
        except DatabaseUnavailable as error:
            # No row is to blame, so no half would fare better; each look would cost everybody behind it the same time again.
            for item in batch:
                _refuse(item.future, error)
        except Exception as error:  # noqa: BLE001 - the database's or our own: one row that cannot be read must not take its neighbors along
            if len(batch) == 1:
                self._refuse_or_step_aside(batch[0], error)
                return
            log.warning("batch_bisected", lane=self.name, rows=len(batch), error=type(error).__name__)
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
        else:
            for item, answer in zip(batch, answers, strict=True):
                if not item.future.done():
                    item.future.set_result(answer)

    def _refuse_or_step_aside(self, item: "_Item[Row, Answer]", error: Exception) -> None:
        item.tries += 1
        if isinstance(error, psycopg.errors.LockNotAvailable) and item.tries < _LOCKED_TRIES:
            self._locked.append(item)
        else:
            _refuse(item.future, error)

    async def _attempt(self, rows: list[Row]) -> Sequence[Answer]:
        for last in range(_TRIES):
            try:
                connection = await self._usable()
                async with inside_transaction():
                    return await self._batch(connection, rows)
            except (*_PASSING, psycopg.OperationalError, psycopg.InterfaceError) as error:
                await self._rollback()
                if self._connection is not None and isinstance(error, psycopg.errors.InvalidSqlStatementName):
                    # The driver never finds out which of its statements are gone: a new connection knows none.
                    await self._connection.close()
                lost = self._connection is None or self._connection.closed
                if last == _TRIES - 1:
                    if lost:
                        raise DatabaseUnavailable(self.name) from error
                    raise
                if not lost and not isinstance(error, _PASSING):
                    raise
                await asyncio.sleep(random.uniform(0.0, 0.05 * 4**last))  # noqa: S311 - jitter, no secret
            except BaseException:
                await self._rollback()
                raise
        raise AssertionError("unreachable")

    async def _usable(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return self._connection

    async def _rollback(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                await round_trip(connection, ROLLBACK)
        except psycopg.Error:
            await connection.close()


def columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows to the arrays that a set-based statement takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def _refuse(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
