"""Keys this process has seen, kept for seconds; when each was used last, written now and then."""

import asyncio
import time

from app.core.clock import now
from app.core.ids import Id
from app.identity.actions import authenticate
from app.identity.model import Caller
from app.identity.store import note_uses
from app.identity.tokens import token_hash
from app.infra.db import Pool, transaction

# A revoked key works this much longer at most; one look-up per key and 5 s costs nothing.
KEPT_SECONDS = 5.0
# Beyond this many keys in 5 s the ring starts anew: memory stays bounded, whoever asks.
MOST_KEYS = 10_000
FLUSH_SECONDS = 30.0
# A token of ours is 72 characters long; hashing what somebody else sends should not cost more.
_LONGEST_TOKEN = 256


class KeyRing:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[bytes, tuple[float, Caller]] = {}
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._used: set[Id] = set()

    async def find(self, token: bytes) -> Caller | None:
        """Who holds this token; None when nobody does, or not any more."""
        if len(token) > _LONGEST_TOKEN:
            return None
        hash_ = token_hash(token)
        known = self._known.get(hash_)
        if known is not None and known[0] > time.monotonic():
            caller = known[1]
            self._used.add(caller.key_id)
            return caller
        return await self._ask(hash_, token)

    async def flush(self) -> None:
        """Write which keys were used since the last flush."""
        used, self._used = self._used, set()
        if used:
            async with transaction(self._pool) as connection:
                await note_uses(connection, sorted(used), used_at=now())

    async def _ask(self, hash_: bytes, token: bytes) -> Caller | None:
        """Requests that ask for the same key at once share one look-up, or each expiry would be a burst of them."""
        task = self._asking.get(hash_)
        if task is None:
            task = self._asking[hash_] = asyncio.create_task(self._look_up(hash_, token))
            task.add_done_callback(lambda _: self._asking.pop(hash_, None))
        # Shielded: one caller who hangs up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _look_up(self, hash_: bytes, token: bytes) -> Caller | None:
        caller = await authenticate(self._pool, token)
        if caller is None:
            self._known.pop(hash_, None)
            return None
        if len(self._known) >= MOST_KEYS:
            self._known.clear()
        self._known[hash_] = (time.monotonic() + KEPT_SECONDS, caller)
        self._used.add(caller.key_id)
        return caller
