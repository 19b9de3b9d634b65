"""Signed callbacks: `Sandbox-Signature: t=<unix seconds>,v1=<hex hmac-sha256 over "t.body">`, tried a few times."""

import asyncio
import hashlib
import hmac
import logging
import os
import time
from datetime import UTC, datetime

import aiohttp
import msgspec

from sandbox.model import Answer
from sandbox.settings import Settings

log = logging.getLogger("sandbox.callbacks")

# A few tries over a minute: long enough for a receiver that restarts, short enough that nobody waits for it instead of looking up.
RETRY_AFTER_SECONDS = (0.5, 2.0, 10.0, 45.0)
TIMEOUT_SECONDS = 10.0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str = "operation.updated"
    created_at: str
    data: Answer


def sign(secret: str, body: bytes, *, at: int) -> str:
    mac = hmac.new(secret.encode(), str(at).encode() + b"." + body, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


class Callbacks:
    """What is under way is lost with the process; a look-up still tells everything a callback would have."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, answer: Answer, settings: Settings) -> None:
        if not settings.callback_url:
            return
        created_at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = msgspec.json.encode(Event(id="sbevt_" + os.urandom(12).hex(), created_at=created_at, data=answer))
        task = asyncio.get_running_loop().create_task(self._deliver(body, settings))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _deliver(self, body: bytes, settings: Settings) -> None:
        for wait in (*RETRY_AFTER_SECONDS, None):
            if await self._post(body, settings):
                return
            if wait is None:
                log.warning("a callback was given up after %d tries", len(RETRY_AFTER_SECONDS) + 1)
                return
            await asyncio.sleep(wait)

    async def _post(self, body: bytes, settings: Settings) -> bool:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        headers = {
            "Content-Type": "application/json",
            "Sandbox-Signature": sign(settings.callback_secret, body, at=int(time.time())),
        }
        try:
            async with self._session.post(settings.callback_url, data=body, headers=headers, allow_redirects=False) as response:
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False
