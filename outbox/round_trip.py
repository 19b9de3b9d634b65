"""Several prepared statements in one message to the server and one answer back, with text in and text out.

A batch of the road is two of these. The driver's cursors send every statement of a pipeline by itself, and each wakes the
server's process: at small batches that cost more than the work (docs/decisions/0012).
"""

import asyncio
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.errors import error_from_result

# A statement with `%s` or `%(name)s` where its parameters go, each written as text; the statement says their types.
Statement = tuple[str, Sequence[str | None] | Mapping[str, str | None]]
Row = tuple[str | None, ...]

BEGIN: Statement = ("BEGIN", ())
COMMIT: Statement = ("COMMIT", ())
ROLLBACK: Statement = ("ROLLBACK", ())

_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
# The server has forgotten what was prepared, or keeps it for tables as they were before a migration.
_OUTDATED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported)
_prepared: "WeakKeyDictionary[AsyncConnection[Any], dict[str, bytes]]" = WeakKeyDictionary()
_numbers = itertools.count()


async def round_trip(connection: AsyncConnection[Any], *statements: Statement) -> list[list[Row]]:
    """The rows of each statement. What comes after an error is not executed, and the error is raised (psycopg.Error).

    Not for statements that a caller's transaction block of the driver would have to know of. Whoever is canceled while the answer
    is under way loses the connection: nobody could say what it still has to tell.
    """
    async with connection.lock:
        # Where the driver would begin a transaction by itself, so do we: what is done belongs to the caller's.
        idle = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        sent = (BEGIN, *statements) if idle and not connection.autocommit and statements[0] != BEGIN else statements
        names = _prepared.setdefault(connection, {})
        fresh = [text for text, _ in sent if text not in names]
        try:
            results = await _exchange(connection.pgconn, names, sent)
        except BaseException:
            connection.pgconn.finish()
            raise
    for result in results:
        if result.status not in _GOOD:
            error = error_from_result(result)
            # Which of the new ones are known to the server is not worth finding out; and it may have forgotten all of them.
            for text in list(names) if isinstance(error, _OUTDATED) else fresh:
                names.pop(text, None)
            raise error
    return [_rows(result) for result in results[len(sent) - len(statements) :]]


async def _exchange(conn: pq.abc.PGconn, names: dict[str, bytes], statements: Sequence[Statement]) -> "list[pq.abc.PGresult]":
    """The results of the statements up to the first error, without those of their preparation unless that is the error."""
    conn.enter_pipeline_mode()
    preparing: list[bool] = []
    for text, parameters in statements:
        name = names.get(text)
        numbered, order = _numbered(text)
        if name is None:
            name = names[text] = b"trip_%d" % next(_numbers)
            conn.send_prepare(name, numbered)
            preparing.append(True)
        values = [parameters[one] for one in order] if isinstance(parameters, Mapping) else parameters
        conn.send_query_prepared(name, [_bytes(one) for one in values])
        preparing.append(False)
    conn.pipeline_sync()
    results = await _results(conn)
    conn.exit_pipeline_mode()
    # One result more: without a COMMIT of their own the statements are committed at the sync, and that was refused.
    preparing += [False] * (len(results) - len(preparing))
    told = zip(preparing, results, strict=True)
    return [one for prepared, one in told if one.status != pq.ExecStatus.PIPELINE_ABORTED and (one.status not in _GOOD or not prepared)]


async def _results(conn: pq.abc.PGconn) -> "list[pq.abc.PGresult]":
    """Everything up to the sync."""
    results: list[pq.abc.PGresult] = []
    # What the socket does not take at once goes out while we wait; the server may have to be read before it reads on.
    while conn.flush():
        await _ready(conn.socket, writable=True)
        conn.consume_input()
    while True:
        while conn.is_busy():
            await _ready(conn.socket)
            conn.consume_input()
        result = conn.get_result()
        if result is None:
            if conn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError("the connection is lost")
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


async def _ready(socket: int, *, writable: bool = False) -> None:
    """Until there is something to read, or room to write when that is asked for."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(socket, _wake, ready)
    if writable:
        loop.add_writer(socket, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(socket)
        if writable:
            loop.remove_writer(socket)


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [tuple(_text(result.get_value(row, column)) for column in columns) for row in range(result.ntuples)]


def _bytes(text: str | None) -> bytes | None:
    """Raises psycopg.DataError: what the server would not take, and what would end at its first NUL without a word."""
    try:
        encoded = None if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError("a lone surrogate cannot be written as UTF-8") from error
    if encoded is not None and b"\0" in encoded:
        raise psycopg.DataError("a text of PostgreSQL holds no NUL")
    return encoded


def _text(value: Any) -> str | None:
    return None if value is None else str(value, "utf-8")


def array(items: Iterable[str]) -> str:
    """Any texts as Postgres writes an array of them."""
    quoted = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"


@cache
def _numbered(text: str) -> tuple[bytes, tuple[str, ...]]:
    """With `$1` and so on, and the names in that order."""
    named = tuple(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    if named:
        return re.sub(r"%\((\w+)\)s", lambda found: f"${named.index(found[1]) + 1}", text).encode(), named
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", text).encode(), ()
