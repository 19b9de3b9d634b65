"""One attempt at a merchant's server: resolve, check, connect to the checked address, send, read a little, judge nothing.

Connections are pooled by checked address, port and name; each attempt resolves and checks again before it may use one.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from app.infra.db import assert_no_transaction
from app.webhooks.addresses import AddressRefused, LookupFailed, Resolver, Target

# Source: API.md, "2xx within 15 s is success". Below the handlers' deadline of 20 s.
TIMEOUT_SECONDS = 15.0
# Enough to recognize an error page in the delivery log; a merchant's server does not get to fill our memory.
RESPONSE_BYTES = 4096
# Most servers close idle connections after 5 s (Node, uvicorn); reusing one at that moment would fail an attempt for nothing.
KEEP_ALIVE_SECONDS = 4.0
# A host with many addresses must not turn one attempt into a scan.
_ADDRESSES_TRIED = 3


class Answer(NamedTuple):
    """What came back. `status` is None where no answer was read; then `error` says why, in words that the merchant may see."""

    status: int | None
    error: str | None
    latency_ms: int
    response: str = ""
    retry_after_seconds: int | None = None


class Sender:
    """`async with Sender(...) as sender`: one HTTP session per process."""

    def __init__(self, *, allow_loopback: bool, timeout_seconds: float = TIMEOUT_SECONDS, tls: ssl.SSLContext | None = None) -> None:
        self._allow_loopback = allow_loopback
        self._resolver = Resolver(allow_loopback=allow_loopback)
        self._timeout_seconds = timeout_seconds
        self._tls = tls or ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Limits are the lanes' (outbox); a limit here would let one slow endpoint take the connections of the others.
        connector = aiohttp.TCPConnector(
            limit=0, use_dns_cache=False, resolver=_NoNames(), keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=self._tls
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": "Tollgate-Webhooks/1", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
        self._resolver.close()

    async def send(self, target: Target, *, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Never raises for what the other side does."""
        assert_no_transaction()
        started = time.monotonic()
        if not (target.is_https or self._allow_loopback):
            return _failed("webhooks are sent to https URLs only", started)
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                addresses = await self._resolver.checked(target)
                return await self._post(target, addresses, body, headers, started, limit)
        except TimeoutError:
            return _failed(f"no answer within {self._timeout_seconds:g} s", started)
        except AddressRefused:
            return _failed("the host resolves to an address that webhooks are not sent to", started)
        except LookupFailed:
            return _failed("the host cannot be resolved", started)
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            return _failed(_said(error), started)

    async def _post(
        self, target: Target, addresses: list[str], body: bytes, headers: Mapping[str, str], started: float, limit: asyncio.Timeout
    ) -> Answer:
        for address in addresses[: _ADDRESSES_TRIED - 1]:
            try:
                return await self._post_to(address, target, body, headers, started, limit)
            except aiohttp.ClientConnectorError:
                # Nothing was sent yet: the next address is not a second delivery.
                if address == addresses[-1]:
                    raise
        return await self._post_to(addresses[:_ADDRESSES_TRIED][-1], target, body, headers, started, limit)

    async def _post_to(
        self, address: str, target: Target, body: bytes, headers: Mapping[str, str], started: float, limit: asyncio.Timeout
    ) -> Answer:
        assert self._session is not None, "use `async with Sender(...)`"
        # A name in the certificate is compared with the URL's host; for a literal address there is none to send.
        name = target.host if target.is_https else None
        async with self._session.post(
            target.url.with_host(address),
            data=body,
            headers={**headers, "Host": target.authority},
            allow_redirects=False,
            server_hostname=name,
        ) as response:
            latency_ms = round((time.monotonic() - started) * 1000)
            text = await _beginning(response, limit)
            return Answer(response.status, None, latency_ms, text, _retry_after(response.headers.get("Retry-After")))


class _NoNames(AbstractResolver):
    """The connector is given checked addresses only; a name that reaches it is a defect, not a lookup."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002 - the interface's
        raise AddressRefused(host)

    async def close(self) -> None:
        pass


async def _beginning(response: aiohttp.ClientResponse, limit: asyncio.Timeout) -> str:
    """The first bytes as text. The status is known by now, so a body that breaks off or never ends changes nothing but costs the connection."""
    read = bytearray()
    if response.content.is_eof():
        # Nearly always: the whole answer came with its head.
        read += response.content.read_nowait(RESPONSE_BYTES + 1)
        return _text(read)
    try:
        when = limit.when()
        async with asyncio.timeout_at(None if when is None else when - 0.05):
            while len(read) <= RESPONSE_BYTES:
                chunk = await response.content.read(RESPONSE_BYTES + 1 - len(read))
                if not chunk:
                    break
                read += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    if len(read) > RESPONSE_BYTES:
        response.close()
    return _text(read)


def _text(read: bytearray) -> str:
    # jsonb takes no NUL.
    return bytes(read[:RESPONSE_BYTES]).decode("utf-8", "replace").replace("\x00", "\ufffd")


def _retry_after(text: str | None) -> int | None:
    """Seconds from now; both forms of RFC 9110, None for anything else."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return min(int(text.strip()[:9]), 10**9)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, round((moment - datetime.now(UTC)).total_seconds()))


def _failed(error: str, started: float) -> Answer:
    return Answer(None, error, round((time.monotonic() - started) * 1000))


def _said(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return "the certificate is not valid for this host"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS could not be agreed on"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
        return "the connection broke off before an answer"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "the answer is not HTTP"
    return f"the request failed ({type(error).__name__})"
