"""Connections, pools and transactions; ids arrive as 32 hex digits, and a network call inside a transaction is refused."""

import logging
import select
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

Role = Literal["tollgate_app", "tollgate_writer", "tollgate_ops"]
Connection = AsyncConnection[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]

# A generic plan made while the tables are empty stays and scans them when they are full: 991 -> 603 payments/s in nine
# seconds. Without these three nodes the only plan left is the index. Source: PERFORMANCE, "What was measured".
PINNED_PLANS = "-c enable_seqscan=off -c enable_mergejoin=off -c enable_hashjoin=off"

# No statement of the road takes seconds; a worker that stops inside a transaction must let go of its locks.
TIMEOUTS = "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000"
# One locked row must not hold up the rest of a batch. Source: DESIGN, "Writes are set-based".
LANE_TIMEOUTS = "-c statement_timeout=15000 -c lock_timeout=250 -c idle_in_transaction_session_timeout=10000"

# A server that went without a word (a machine that is gone, a network that is cut) leaves a lane waiting for an answer that never
# comes: the kernel would give up after a quarter of an hour. A server that works answers its kernel within these, however busy.
SILENCE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}

log = logging.getLogger("db")

_in_transaction: ContextVar[bool] = ContextVar("tollgate_in_transaction", default=False)


class NetworkInsideTransaction(RuntimeError):
    """A call to the outside was about to be made while a transaction is open."""


class RoleNotSet(RuntimeError):
    """A connection does not run under the role its pool was opened for."""


class _HexUuidText(Loader):
    def load(self, data: Buffer) -> str:
        return bytes(data).decode().replace("-", "")


class _HexUuidBinary(Loader):
    format = psycopg.pq.Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data).hex()


def assert_no_transaction() -> None:
    """Stands at the head of every PSP and webhook call, in production too."""
    if _in_transaction.get():
        raise NetworkInsideTransaction


def conninfo(url: str, *, role: Role | None, lane: bool = False) -> str:
    """`url` with the session settings of `role`; what the url's own `options` say stays in force."""
    given = conninfo_to_dict(url)
    own = f"{LANE_TIMEOUTS if lane else TIMEOUTS} {PINNED_PLANS} -c timezone=UTC"
    given["options"] = f"{given.get('options') or ''} {own}".strip()
    given.setdefault("application_name", f"tollgate {role or 'owner'}")
    given = {**SILENCE, "connect_timeout": "10", **given}
    given["client_encoding"] = "utf8"
    return make_conninfo(**{key: str(value) for key, value in given.items() if value is not None})


async def configure(connection: Connection) -> None:
    """What a fresh connection needs that the url cannot say."""
    connection.adapters.register_loader("uuid", _HexUuidText)
    connection.adapters.register_loader("uuid", _HexUuidBinary)
    connection.prepare_threshold = 0
    await connection.set_autocommit(True)


async def connect(url: str, *, role: Role | None, lane: bool = False) -> Connection:
    """One connection in autocommit that prepares every statement; raises psycopg.OperationalError, RoleNotSet."""
    connection = await AsyncConnection.connect(conninfo(url, role=role, lane=lane), autocommit=True)
    await configure(connection)
    await _take_role(connection, role)
    return connection


def with_role(url: str, role: Role) -> str:
    """`url` for code that connects by itself: its sessions begin under `role`, where there is such a role for us."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        taken = connection.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s AND pg_has_role(current_user, oid, 'MEMBER')", (role,)
        ).fetchone()
    if taken is None:
        _warn_once(role)
        return url
    given = conninfo_to_dict(url)
    given["options"] = f"{given.get('options') or ''} -c role={role}".strip()
    return make_conninfo(**{key: str(value) for key, value in given.items() if value is not None})


@asynccontextmanager
async def open_pool(url: str, *, role: Role | None, size: int) -> AsyncIterator[Pool]:
    """A pool of up to `size` connections under `role`, open inside the `async with`."""

    async def start(connection: Connection) -> None:
        await configure(connection)
        await _take_role(connection, role)

    pool: Pool = AsyncConnectionPool(
        conninfo(url, role=role),
        min_size=1,
        max_size=size,
        open=False,
        configure=start,
        check=_require_open,
        timeout=5.0,
        connection_class=AsyncConnection,
    )
    await pool.open(wait=True, timeout=10.0)
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """The use case's transaction; commits at the end of the block, rolls back when it raises."""
    async with pool.connection() as connection:
        token = _in_transaction.set(True)
        try:
            async with connection.transaction():
                yield connection
        finally:
            _in_transaction.reset(token)


@asynccontextmanager
async def tenant(pool: Pool, *, merchant_id: str, livemode: bool) -> AsyncIterator[Connection]:
    """A transaction in which row-level security shows only this merchant's rows of this mode."""
    async with transaction(pool) as connection:
        await connection.execute(
            "SELECT set_config('tollgate.merchant_id', %s, true), set_config('tollgate.livemode', %s, true)",
            (merchant_id, "true" if livemode else "false"),
        )
        yield connection


@asynccontextmanager
async def inside_transaction() -> AsyncIterator[None]:
    """For code that sends BEGIN and COMMIT itself (the lanes): marks the block for `assert_no_transaction`."""
    token = _in_transaction.set(True)
    try:
        yield
    finally:
        _in_transaction.reset(token)


def array(items: Iterable[object]) -> str:
    """Ids or numbers as the text of a Postgres array: the driver would encode a list item by item, in Python."""
    return f"{{{','.join(map(str, items))}}}"


async def _require_open(connection: Connection) -> None:
    """A server that ended an idle connection has left word on it; looking for that costs no round trip, unlike asking."""
    word = select.poll()
    word.register(connection.fileno(), select.POLLIN)
    if word.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def _take_role(connection: Connection, role: Role | None) -> None:
    """SET ROLE and see that it holds. Where the platform forbids CREATE ROLE there is none to take, and its guard is absent."""
    if role is None:
        return
    cursor = await connection.execute(
        "SELECT set_config('role', rolname, false) FROM pg_roles WHERE rolname = %s AND pg_has_role(current_user, oid, 'MEMBER')", (role,)
    )
    if await cursor.fetchone() is None:
        _warn_once(role)
        return
    row = await (await connection.execute("SELECT current_user::text")).fetchone()
    if row is None or row[0] != role:
        raise RoleNotSet(role)


@cache
def _warn_once(role: Role) -> None:
    log.warning("the database has no role %s for us: row-level security does not guard these connections", role)
