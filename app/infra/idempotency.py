"""Idempotency keys: written by the transaction of the effect, found again by a request that asks once more.

The scope of a key is merchant, mode and route. A waiting route stores its operation, never an answer that is still open.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from app.core.errors import IdempotencyKeyExpired, IdempotencyKeyReused
from app.core.ids import Id, new_id
from app.infra.db import Connection
from outbox.round_trip import Statement

# API "Idempotency": answers are kept at least this long.
KEPT_FOR = timedelta(hours=24)


class KeyRow(msgspec.Struct):
    """A row of `idempotency_keys`; `fingerprint` is hex digits behind the prefix that Postgres writes before bytes."""

    merchant_id: Id
    livemode: bool
    route: str
    key: str
    fingerprint: str
    object_id: Id | None
    operation_id: Id | None
    event_id: Id | None
    answer_status: int | None
    answer: str | None
    moves_money: bool
    created_at: datetime
    expires_at: datetime

    @property
    def scope(self) -> tuple[Id, bool, str, str]:
        return (self.merchant_id, self.livemode, self.route, self.key)


COLUMNS = ", ".join(KeyRow.__struct_fields__)
# One order for all, so that two batches that share keys wait for each other and never in a circle.
IN_ORDER = "ORDER BY merchant_id, livemode, route, key"

INSERT = (
    f"INSERT INTO idempotency_keys ({COLUMNS}) SELECT {COLUMNS} FROM json_populate_recordset(NULL::idempotency_keys, %s::json) {IN_ORDER}"  # noqa: S608 - made of this file's own constants
)

_READ = {"fingerprint": r"'\x' || encode(k.fingerprint, 'hex') AS fingerprint"}

FIND = f"""
SELECT {", ".join(_READ.get(column, "k." + column) for column in KeyRow.__struct_fields__)}
  FROM json_populate_recordset(NULL::idempotency_keys, %s::json) s
 CROSS JOIN LATERAL (
       SELECT * FROM idempotency_keys k
        WHERE k.merchant_id = s.merchant_id AND k.livemode = s.livemode AND k.route = s.route AND k.key = s.key
        LIMIT 1) k"""  # noqa: S608 - made of this file's own constants

FIND_AS_JSON = f"SELECT 'idempotency_keys', row_to_json(r)::text FROM ({FIND}) r"  # noqa: S608 - made of this file's own constants

_encode = msgspec.json.Encoder().encode


def key_row(
    *, merchant_id: Id, livemode: bool, route: str, key: str | None, fingerprint: bytes, now: datetime, moves_money: bool = False
) -> KeyRow:
    """Without a key the request gets one that nobody else can name: then a lost COMMIT answer is settled like any other."""
    return KeyRow(
        merchant_id=merchant_id,
        livemode=livemode,
        route=route,
        key=key if key is not None else f"\u2400{new_id()}",
        fingerprint="\\x" + fingerprint.hex(),
        object_id=None,
        operation_id=None,
        event_id=None,
        answer_status=None,
        answer=None,
        moves_money=moves_money,
        created_at=now,
        expires_at=now + KEPT_FOR,
    )


def encoded(rows: Sequence[KeyRow]) -> str:
    return _encode(rows).decode()


async def find(connection: Connection, rows: Sequence[KeyRow]) -> dict[tuple[Id, bool, str, str], KeyRow]:
    """The stored keys of the same scopes."""
    cursor = await connection.execute(FIND, (encoded(rows),), prepare=True)
    stored = [KeyRow(*record) for record in await cursor.fetchall()]
    return {row.scope: row for row in stored}


def finding(rows: Sequence[KeyRow]) -> Statement:
    """As `find`, each key as JSON beside the name of its table."""
    return FIND_AS_JSON, (encoded(rows),)


async def insert(connection: Connection, rows: Sequence[KeyRow]) -> None:
    """Raises psycopg.errors.UniqueViolation when one of the keys was taken meanwhile: begin again, and it will be found."""
    await connection.execute(INSERT, (encoded(rows),), prepare=True)


def require_same(stored: KeyRow, asked: KeyRow) -> KeyRow:
    """The stored key, if it may answer this request. Raises IdempotencyKeyReused, IdempotencyKeyExpired."""
    if stored.fingerprint != asked.fingerprint:
        raise IdempotencyKeyReused
    if stored.moves_money and stored.expires_at <= asked.created_at:
        raise IdempotencyKeyExpired
    return stored
