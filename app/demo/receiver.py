"""The merchant's web server: takes webhooks over HTTP and verifies their signatures before it believes them."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

# What Standard Webhooks recommends: an older message may be a recording that somebody plays again.
TOLERANCE_SECONDS = 300


class Received(NamedTuple):
    event: dict[str, Any]
    verified: bool


class Receiver:
    """`secret` is known once the endpoint is registered, which needs the url first."""

    def __init__(self) -> None:
        self.secret = ""
        self.url = ""
        self.received: dict[str, Received] = {}

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        good = verify(self.secret, request.headers, body, now=time.time())
        event_id = request.headers.get("webhook-id", "")
        # A message may come twice; what counts is that one of them was good.
        if event_id not in self.received or good:
            self.received[event_id] = Received(json.loads(body), good)
        return web.Response(status=204 if good else 400)


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """As docs/webhooks.md asks of merchants. Shares nothing with the code that signs, so that the one checks the other."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    # While a secret is rotated there are two signatures; one that fits is enough.
    return any(hmac.compare_digest(expected, given.encode()) for given in headers.get("webhook-signature", "").split(" "))


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    """On a free port of this machine."""
    receiver = Receiver()
    application = web.Application()
    application.add_routes([web.post("/webhooks", receiver.receive)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks"
        yield receiver
    finally:
        await runner.cleanup()
