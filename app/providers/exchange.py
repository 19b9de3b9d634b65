"""One HTTP exchange with a PSP, and whether the PSP can have acted on it when it goes wrong.

A request is written once. aiohttp repeats a request by itself when a pooled connection turns out to be dead, but only for methods that
are idempotent by the book (`IDEMPOTENT_METHODS`), which POST is not; a test holds it to that.
"""

from collections.abc import Mapping

import aiohttp
import msgspec

from app.infra.telemetry import spans
from app.providers.base import Unavailable, Unknown

# Below the 20 s a worker's whole handler may take, so that the outcome can still be written.
TOTAL_TIMEOUT_SECONDS = 15.0
# Waiting for a free connection included: what has not begun by then was certainly not sent.
CONNECT_TIMEOUT_SECONDS = 5.0
CONNECTIONS = 256
# A PSP's answer is a few hundred bytes.
MAX_ANSWER_BYTES = 256 * 1024


class Reply(msgspec.Struct, frozen=True):
    """A whole answer, of any status."""

    status: int
    body: bytes


class Exchange:
    """One pool of connections to one PSP. Belongs to the event loop that first uses it."""

    def __init__(self, url: str, headers: Mapping[str, str], *, total_timeout_seconds: float = TOTAL_TIMEOUT_SECONDS) -> None:
        self._url = url.rstrip("/")
        # Identity: an answer that unpacks to gigabytes cannot hurt who does not unpack.
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._total_timeout_seconds = total_timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply | Unknown:
        """Raises Unavailable when the request certainly did not reach the PSP."""
        return await self._call("POST", path, body, {"Content-Type": "application/json", **headers})

    async def get(self, path: str) -> Reply | Unknown:
        """Raises Unavailable when the PSP could not be reached."""
        return await self._call("GET", path, None, {})

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply | Unknown:
        session = self._open_session()
        traceparent = spans.outgoing()
        if traceparent is not None:
            headers = {**headers, "traceparent": traceparent}
        try:
            async with session.request(method, self._url + path, data=body, headers=headers, allow_redirects=False) as response:
                received = await _read(response)
                if received is None:
                    return Unknown(why=f"answer of status {response.status} is larger than {MAX_ANSWER_BYTES} bytes")
                return Reply(response.status, received)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # Both come from getting a connection: refused, no such name, TLS, no free connection. Nothing was written.
            raise Unavailable(f"no connection: {type(error).__name__}") from error
        except TimeoutError:
            return Unknown(why=f"no answer within {self._total_timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            # A reset on a pooled connection is here too: the PSP may have read the request before it hung up.
            return Unknown(why=f"connection lost: {type(error).__name__}")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=self._total_timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """None when there is more than anybody should read; a short body raises."""
    if response.content_length is not None and response.content_length <= MAX_ANSWER_BYTES:
        return await response.read()
    received = bytearray()
    async for chunk in response.content.iter_any():
        received += chunk
        if len(received) > MAX_ANSWER_BYTES:
            response.close()
            return None
    return bytes(received)
