"""Merchants and keys are made, keys are revoked, tokens become callers."""

import hmac
from datetime import datetime

from app.core.ids import Id, new_id
from app.identity import store
from app.identity.model import API_VERSIONS, Caller, KeyKind, Merchant, NewKey
from app.identity.tokens import PREFIX_LENGTH, new_token, token_hash
from app.infra.db import Pool, transaction


async def create_merchant(pool: Pool, *, name: str, now: datetime) -> Merchant:
    """`pool` runs as `tollgate_ops` or as the owner, here and below."""
    merchant = Merchant(id=new_id(), name=name, api_version=API_VERSIONS[-1])
    async with transaction(pool) as connection:
        await store.insert_merchant(connection, id_=merchant.id, name=name, api_version=merchant.api_version, created_at=now)
    return merchant


async def create_key(
    pool: Pool, kind: KeyKind, *, now: datetime, merchant_id: Id | None = None, livemode: bool = False, expires_at: datetime | None = None
) -> NewKey:
    """A key whose token stands in the answer and nowhere else. Rotation is a second key beside the first, whose `expires_at` comes."""
    token = new_token(kind, livemode=livemode)
    key = NewKey(id=new_id(), kind=kind, livemode=livemode, token=token)
    async with transaction(pool) as connection:
        await store.insert_key(
            connection,
            id_=key.id,
            merchant_id=merchant_id,
            livemode=None if kind == "operator" else livemode,
            kind=kind,
            hash_=token_hash(token.encode()),
            prefix=token[:PREFIX_LENGTH],
            last4=token[-4:],
            api_version=API_VERSIONS[-1],
            created_at=now,
            expires_at=expires_at,
        )
    return key


async def revoke_key(pool: Pool, key_id: Id, *, now: datetime) -> bool:
    """False when there is no such key or it was revoked before. Web processes notice within seconds."""
    async with transaction(pool) as connection:
        return await store.revoke_key(connection, key_id, revoked_at=now)


async def authenticate(pool: Pool, token: bytes) -> Caller | None:
    """Who holds this token, if anybody; `pool` runs as `tollgate_writer`.

    The index is searched by a hash of 256 random bits, so its timing tells nothing about a token; the comparison in constant time
    stays right should one day something else be searched for.
    """
    hash_ = token_hash(token)
    async with pool.connection() as connection:
        found = await store.find_caller(connection, hash_)
    if found is None or not hmac.compare_digest(found[0], hash_):
        return None
    return found[1]
