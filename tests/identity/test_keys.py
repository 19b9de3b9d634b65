"""API keys: shown once, found by their hash, ended by revocation and by time."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import NamedTuple

import psycopg
import pytest

from app.core.clock import now
from app.core.ids import new_id, typeid
from app.identity import actions, keyring
from app.identity.keyring import KeyRing
from app.identity.model import Merchant
from app.infra.db import Pool, open_pool


class Identity(NamedTuple):
    ops: Pool
    writer: Pool
    merchant: Merchant


@pytest.fixture
async def identity(database: str) -> AsyncIterator[Identity]:
    async with open_pool(database, role="tollgate_ops", size=2) as ops, open_pool(database, role="tollgate_writer", size=4) as writer:
        yield Identity(ops, writer, await actions.create_merchant(ops, name="Corner Shop", now=now()))


async def test_a_token_says_what_it_opens(identity: Identity) -> None:
    """Kind and mode are its first letters; 256 random bits follow."""
    heads = {}
    for kind, livemode in (("secret", False), ("secret", True), ("publishable", False), ("publishable", True)):
        key = await actions.create_key(identity.ops, kind, merchant_id=identity.merchant.id, livemode=livemode, now=now())  # type: ignore[arg-type]  # one of the literals
        heads[kind, livemode], _, tail = key.token.rpartition("_")
        assert re.fullmatch("[0-9a-f]{64}", tail)
    operator = await actions.create_key(identity.ops, "operator", now=now())

    assert list(heads.values()) == ["sk_test", "sk_live", "pk_test", "pk_live"]
    assert operator.token.startswith("ops_")


async def test_a_token_becomes_its_caller(identity: Identity) -> None:
    """Merchant, mode, kind and version come from the key's row."""
    key = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, livemode=True, now=now())

    caller = await actions.authenticate(identity.writer, key.token.encode())

    assert caller is not None
    assert (caller.merchant_id, caller.merchant_name, caller.livemode, caller.kind, caller.key_id) == (
        identity.merchant.id,
        "Corner Shop",
        True,
        "secret",
        key.id,
    )
    assert caller.public_merchant_id == typeid("mer", identity.merchant.id)


async def test_only_a_hash_is_kept(identity: Identity, database: str) -> None:
    """The token stands in no column; what is kept of it in clear tells keys apart and opens nothing."""
    key = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())

    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT prefix, last4, api_keys::text FROM api_keys").fetchone()

    assert row is not None
    assert (row[0], row[1]) == (key.token[:12], key.token[-4:])
    assert key.token not in row[2]
    assert key.token.rpartition("_")[2] not in row[2]


async def test_what_nobody_holds_opens_nothing(identity: Identity) -> None:
    """Another token, a piece of one, the hash itself, nothing at all and noise are nobody's."""
    key = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())
    ring = KeyRing(identity.writer)

    for token in (
        b"",
        b"sk_test_",
        key.token.encode()[:-1],
        key.token.encode() + b"0",
        key.token.upper().encode(),
        b"\xff\x00'",
        b"x" * 100_000,
    ):
        assert await ring.find(token) is None
    assert await ring.find(key.token.encode()) is not None


async def test_an_expired_key_is_nobodys(identity: Identity, database: str) -> None:
    """From its `expires_at` on a key opens nothing."""
    key = await actions.create_key(
        identity.ops, "secret", merchant_id=identity.merchant.id, now=now(), expires_at=now() + timedelta(hours=1)
    )
    before = await actions.authenticate(identity.writer, key.token.encode())
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE api_keys SET expires_at = created_at + interval '1 microsecond'")

    assert before is not None
    assert await actions.authenticate(identity.writer, key.token.encode()) is None


async def test_rotation_lets_two_keys_overlap(identity: Identity) -> None:
    """A second key works beside the first; revoking the first leaves the second alone, and revoking again says so."""
    first = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())
    second = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())

    revoked = [await actions.revoke_key(identity.ops, first.id, now=now()) for _ in range(2)]

    assert revoked == [True, False]
    assert await actions.authenticate(identity.writer, first.token.encode()) is None
    assert await actions.authenticate(identity.writer, second.token.encode()) is not None
    assert not await actions.revoke_key(identity.ops, new_id(), now=now())


async def test_a_revoked_key_is_forgotten_within_seconds(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring keeps a key for a few seconds and then asks again."""
    monkeypatch.setattr(keyring, "KEPT_SECONDS", 0.3)
    key = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())
    ring = KeyRing(identity.writer)
    known = await ring.find(key.token.encode())

    await actions.revoke_key(identity.ops, key.id, now=now())
    kept = await ring.find(key.token.encode())
    await asyncio.sleep(0.35)

    assert (known, kept) == (known, known)
    assert known is not None
    assert await ring.find(key.token.encode()) is None


async def test_requests_at_once_share_one_look_up(identity: Identity) -> None:
    """A hundred requests with one key cost one statement, and the one that hangs up takes nothing from the others."""
    key = await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now())
    ring = KeyRing(identity.writer)
    served = identity.writer.get_stats().get("requests_num", 0)

    asking = [asyncio.create_task(ring.find(key.token.encode())) for _ in range(100)]
    await asyncio.sleep(0)
    asking[0].cancel()
    callers = await asyncio.gather(*asking, return_exceptions=True)

    assert identity.writer.get_stats()["requests_num"] - served == 1
    assert isinstance(callers[0], asyncio.CancelledError)
    assert len({caller.key_id for caller in callers[1:] if not isinstance(caller, BaseException) and caller is not None}) == 1


async def test_last_uses_are_written_in_batches(identity: Identity, database: str) -> None:
    """Uses gather in memory until they are flushed, and a flush never takes a newer instant back."""
    keys = [await actions.create_key(identity.ops, "secret", merchant_id=identity.merchant.id, now=now()) for _ in range(3)]
    ring = KeyRing(identity.writer)
    for key in keys[:2]:
        await ring.find(key.token.encode())

    def used() -> list[str]:
        with psycopg.connect(database) as connection:
            return [
                row[0]
                for row in connection.execute("SELECT replace(id::text, '-', '') FROM api_keys WHERE last_used_at IS NOT NULL ORDER BY id")
            ]

    assert used() == []
    await ring.flush()
    assert used() == [key.id for key in keys[:2]]
