"""Brings a database to the schema of this code, and says whether it is there.

One file is one transaction. A file whose first line is `-- no-transaction` (CREATE INDEX CONCURRENTLY) runs statement by statement
and has to be safe to repeat, since a failure in its middle leaves the first half behind.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

HERE = Path(__file__).parent
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_WITHOUT_TRANSACTION = "-- no-transaction"

# "tollgate" as a number; advisory locks are per database.
_LOCK = 0x746F6C6C67617465
# A migration that waits for a lock makes everyone queue behind it: better to fail and be tried again at a quieter time.
_LOCK_TIMEOUT_SECONDS = 5
# Another release that is at work is waited for; a backfill takes minutes.
_PATIENCE_SECONDS = 900

_CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_ms integer NOT NULL
)
"""
# Every process asks at its start, under whatever role it runs.
_SHOW_HISTORY = "GRANT SELECT ON schema_migrations TO PUBLIC"
_HISTORY_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_HISTORY = "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version"
_RECORD = "INSERT INTO schema_migrations (version, name, checksum, duration_ms) VALUES (%s, %s, %s, %s)"


class MigrationFailed(Exception):
    """A migration cannot be applied; the message names file, line and column."""


class SchemaMismatch(Exception):
    """The database's schema is older or newer than this code, or a migration was changed after it was applied."""


class Migration(NamedTuple):
    version: int
    name: str
    text: str
    checksum: str

    @property
    def in_transaction(self) -> bool:
        return self.text.split("\n", 1)[0].strip() != _WITHOUT_TRANSACTION


class Applied(NamedTuple):
    version: int
    name: str
    checksum: str
    applied_at: datetime


class State(NamedTuple):
    """One migration: `applied`, `pending`, `changed` (applied with other content) or `unknown` (applied by newer code)."""

    name: str
    state: str
    applied_at: datetime | None


def migrate(url: str, *, directory: Path = HERE, on_warning: Callable[[str], None] = lambda _: None) -> list[str]:
    """Apply what is missing, in order, and return the names. Safe to run again and by several releases at once.

    `on_warning` hears what a migration had to leave out on this server.

    Needs a direct connection, not a transaction pooler. Raises MigrationFailed, SchemaMismatch, psycopg.OperationalError.
    """
    known = load(directory)
    with _connect(url) as connection:
        connection.add_notice_handler(lambda said: on_warning(said.message_primary or ""))
        _wait_for_our_turn(connection)
        connection.execute(_CREATE_HISTORY)
        connection.execute(_SHOW_HISTORY)
        applied = [Applied(*row) for row in connection.execute(_HISTORY)]
        _require_same_past(known, applied)
        done = {migration.version for migration in applied}
        missing = [migration for migration in known if migration.version not in done]
        for migration in missing:
            _apply(connection, migration)
        return [migration.name for migration in missing]


def status(url: str, *, directory: Path = HERE) -> list[State]:
    """What is applied and what is missing; changes nothing."""
    with _connect(url) as connection:
        exists = connection.execute(_HISTORY_EXISTS).fetchone()
        rows = connection.execute(_HISTORY).fetchall() if exists and exists[0] else []
    applied = {row[0]: Applied(*row) for row in rows}
    known = {migration.version: migration for migration in load(directory)}
    return [_state(known.get(version), applied.get(version)) for version in sorted({*known, *applied})]


async def check_current(connection: psycopg.AsyncConnection[Any], *, directory: Path = HERE) -> None:
    """Every process asks this before it serves. Raises SchemaMismatch when the schema is older, newer or not ours."""
    exists = await (await connection.execute(_HISTORY_EXISTS)).fetchone()
    rows = await (await connection.execute(_HISTORY)).fetchall() if exists and exists[0] else []
    known, applied = load(directory), [Applied(*row) for row in rows]
    _require_same_past(known, applied)
    done = {migration.version for migration in applied}
    missing = [migration.name for migration in known if migration.version not in done]
    if missing:
        raise SchemaMismatch(f"The database is older than this code: {', '.join(missing)} not applied. Run `tollgate migrate`.")


def load(directory: Path = HERE) -> list[Migration]:
    """The migration files in order. Raises MigrationFailed for a name that is not NNNN_name.sql and for a number used twice."""
    found: dict[int, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationFailed(f"{path.name}: a migration is named NNNN_name.sql, in lower case")
        # Line ends depend on how the repository was checked out; the content does not.
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        version = int(match[1])
        if version in found:
            raise MigrationFailed(f"{path.name}: number {version:04} is taken by {found[version].name}.sql")
        found[version] = Migration(version, path.stem, text, hashlib.sha256(text.encode()).hexdigest())
    return list(found.values())


def _connect(url: str) -> psycopg.Connection[Any]:
    # No statement timeout: a backfill takes what it takes. Messages such as "relation exists, skipping" are noise.
    connection = psycopg.connect(url, autocommit=True, application_name="tollgate migrate", connect_timeout=10)
    connection.prepare_threshold = None
    for name, value in {
        "client_min_messages": "warning",
        "lock_timeout": f"{_LOCK_TIMEOUT_SECONDS}s",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "timezone": "UTC",
    }.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    return connection


def _wait_for_our_turn(connection: psycopg.Connection[Any]) -> None:
    """Asked again and again, not waited for: a waiting statement holds a snapshot that CREATE INDEX CONCURRENTLY waits for."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > end:
            raise MigrationFailed(f"another migration has held its lock for {_PATIENCE_SECONDS} s: see pg_locks, locktype advisory")
        time.sleep(0.1)


def _require_same_past(known: Sequence[Migration], applied: Sequence[Applied]) -> None:
    ours = {migration.version: migration for migration in known}
    unknown = [row.name for row in applied if row.version not in ours]
    if unknown:
        raise SchemaMismatch(f"The database is newer than this code: it has {', '.join(unknown)}. Run the newer code.")
    changed = [row.name for row in applied if ours[row.version].checksum != row.checksum]
    if changed:
        raise SchemaMismatch(
            f"{', '.join(changed)} changed after it was applied. Restore the file and write the change as a new migration."
        )


def _apply(connection: psycopg.Connection[Any], migration: Migration) -> None:
    start = time.monotonic()
    try:
        if migration.in_transaction:
            with connection.transaction():
                connection.execute(migration.text.encode())
                _record(connection, migration, start)
        else:
            _apply_in_pieces(connection, migration)
            _record(connection, migration, start)
    except psycopg.Error as error:
        raise MigrationFailed(_describe(migration, error, offset=0)) from None


def _apply_in_pieces(connection: psycopg.Connection[Any], migration: Migration) -> None:
    for offset, statement in _statements(migration.text):
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            raise MigrationFailed(_describe(migration, error, offset=offset)) from None


def _record(connection: psycopg.Connection[Any], migration: Migration, start: float) -> None:
    duration_ms = round((time.monotonic() - start) * 1000)
    connection.execute(_RECORD, (migration.version, migration.name, migration.checksum, duration_ms))


def _state(migration: Migration | None, applied: Applied | None) -> State:
    if applied is None:
        assert migration is not None
        return State(migration.name, "pending", None)
    if migration is None:
        return State(applied.name, "unknown", applied.applied_at)
    return State(migration.name, "applied" if migration.checksum == applied.checksum else "changed", applied.applied_at)


_TOKEN = re.compile(
    r"""
      --[^\n]*                      # a comment to the end of the line
    | /\*.*?\*/                     # a comment in the middle
    | '(?:[^']|'')*'                # a string
    | "(?:[^"]|"")*"                # a quoted name
    | (\$(?:[a-z_]\w*)?\$).*?\1     # a body in dollars
    | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def _statements(text: str) -> list[tuple[int, str]]:
    """The single statements and where each begins. In one string the server would wrap them into a transaction."""
    ends = [match.end() for match in _TOKEN.finditer(text) if match["end"]]
    pieces = [(start, text[start:end]) for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [(start, piece) for start, piece in pieces if _TOKEN.sub("", piece).strip()]


def _describe(migration: Migration, error: psycopg.Error, *, offset: int) -> str:
    diagnostic = error.diag
    where = f"sql/{migration.name}.sql"
    if diagnostic.statement_position:
        before = migration.text[: offset + int(diagnostic.statement_position) - 1]
        where += f":{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
    lines = [f"{where}: {diagnostic.message_primary or error}"]
    for label, value in (("detail", diagnostic.message_detail), ("hint", diagnostic.message_hint), ("in", diagnostic.context)):
        if value:
            lines.append(f"  {label}: {value}")
    if isinstance(error, psycopg.errors.LockNotAvailable):
        lines.append(f"  hint: a lock was not free within {_LOCK_TIMEOUT_SECONDS} s. Nothing was changed; run it again at a quieter time.")
    return "\n".join(lines)
