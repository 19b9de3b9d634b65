"""Rows of merchants and API keys. `tollgate_ops` writes them, `tollgate_writer` finds keys for requests."""

from collections.abc import Sequence
from datetime import datetime

from app.core.ids import Id, typeid
from app.identity.model import Caller, KeyKind
from app.infra.db import Connection

INSERT_MERCHANT = """
INSERT INTO merchants (id, name, api_version, created_at)
VALUES (%(id)s, %(name)s, %(api_version)s, %(created_at)s)
"""

INSERT_KEY = """
INSERT INTO api_keys (id, merchant_id, livemode, kind, hash, prefix, last4, api_version, created_at, expires_at)
VALUES (
    %(id)s, %(merchant_id)s, %(livemode)s, %(kind)s, %(hash)s, %(prefix)s, %(last4)s, %(api_version)s, %(created_at)s, %(expires_at)s
)
"""

# Absolute times are compared with the database's clock: a web process with a wrong one must not open a door.
FIND_CALLER = """
SELECT
    k.hash,
    k.id,
    k.merchant_id,
    m.name,
    k.livemode,
    k.kind,
    k.api_version
FROM api_keys AS k
LEFT JOIN LATERAL (SELECT name FROM merchants WHERE id = k.merchant_id LIMIT 1) AS m ON true
WHERE k.hash = %s
    AND k.revoked_at IS NULL
    AND (k.expires_at IS NULL OR k.expires_at > statement_timestamp())
"""

# Locked in order, so that two processes that flush the same keys do not wait for each other crosswise.
NOTE_USES = """
WITH used AS MATERIALIZED (
    SELECT id
    FROM api_keys
    WHERE id = ANY(%(ids)s::uuid[]) AND (last_used_at IS NULL OR last_used_at < %(used_at)s)
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE api_keys
SET last_used_at = %(used_at)s
FROM used
WHERE api_keys.id = used.id
"""

REVOKE_KEY = """
UPDATE api_keys
SET revoked_at = %(revoked_at)s
WHERE id = %(id)s AND revoked_at IS NULL
"""


async def insert_merchant(connection: Connection, *, id_: Id, name: str, api_version: str, created_at: datetime) -> None:
    await connection.execute(INSERT_MERCHANT, {"id": id_, "name": name, "api_version": api_version, "created_at": created_at})


async def insert_key(
    connection: Connection,
    *,
    id_: Id,
    merchant_id: Id | None,
    livemode: bool | None,
    kind: KeyKind,
    hash_: bytes,
    prefix: str,
    last4: str,
    api_version: str,
    created_at: datetime,
    expires_at: datetime | None,
) -> None:
    values = {"id": id_, "merchant_id": merchant_id, "livemode": livemode, "kind": kind, "hash": hash_, "prefix": prefix, "last4": last4}
    await connection.execute(INSERT_KEY, {**values, "api_version": api_version, "created_at": created_at, "expires_at": expires_at})


async def find_caller(connection: Connection, hash_: bytes) -> tuple[bytes, Caller] | None:
    """The stored hash and the caller of a key that is neither revoked nor expired."""
    row = await (await connection.execute(FIND_CALLER, (hash_,))).fetchone()
    if row is None:
        return None
    stored, key_id, merchant_id, name, livemode, kind, api_version = row
    return bytes(stored), Caller(
        merchant_id=merchant_id or "",
        public_merchant_id=typeid("mer", merchant_id) if merchant_id else "",
        merchant_name=name or "",
        livemode=bool(livemode),
        kind=kind,
        key_id=key_id,
        api_version=api_version,
    )


async def note_uses(connection: Connection, key_ids: Sequence[Id], *, used_at: datetime) -> None:
    await connection.execute(NOTE_USES, {"ids": list(key_ids), "used_at": used_at})


async def revoke_key(connection: Connection, key_id: Id, *, revoked_at: datetime) -> bool:
    """False when there is no such key or it was revoked before."""
    return (await connection.execute(REVOKE_KEY, {"id": key_id, "revoked_at": revoked_at})).rowcount == 1
