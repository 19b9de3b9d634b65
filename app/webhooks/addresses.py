"""Which URLs a merchant may name and which addresses are never called.

A webhook URL is a request that a stranger makes our servers send, so what a name resolves to is checked by a table of our own at
every attempt, and the connection goes to the checked address, never to the name.
"""

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

from yarl import URL

from app.core.errors import WebhookUrlRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Longer ones are refused by proxies and servers in the field.
URL_LENGTH = 2048
# What a URL consists of (RFC 3986) and nothing else: no blank, control character, backslash or other script, over which parsers differ.
_URL_TEXT = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+", re.ASCII)
_HOST_TEXT = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9])?", re.ASCII)

# `ipaddress.is_global` is wrong on several of these (6to4, NAT64, multicast, AS112, the metadata address of one cloud), hence our own.
# Source: IANA special-purpose registries for IPv4 and IPv6.
_BLOCKED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server, public by its number only
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments; metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Global unicast is all that is assigned; mapped, NAT64, unique local, link-local and multicast addresses lie outside of it.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address in disguise
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone, returned
        "3fff::/20",  # documentation
    )
)
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

# A merchant's slow name server must not hold up the names of others; lookups of one host are shared, so this is hosts at once.
_LOOKUP_THREADS = 32


class Target(NamedTuple):
    """A URL taken apart once: what is connected to, and what the request says."""

    url: URL
    host: str
    port: int
    authority: str
    is_https: bool


class AddressRefused(Exception):
    """The host resolves to an address that webhooks are not sent to."""


class LookupFailed(Exception):
    """The host could not be resolved."""


def check_url(text: str, *, allow_loopback: bool) -> Target:
    """The rules that need no network. A host that is an address in any spelling (`127.1`, `0x7f000001`) is judged here. Raises WebhookUrlRefused."""
    if len(text) > URL_LENGTH:
        raise WebhookUrlRefused(f"A webhook URL has at most {URL_LENGTH} characters.", param="url")
    if not _URL_TEXT.fullmatch(text):
        raise WebhookUrlRefused(
            "A webhook URL consists of ASCII URL characters, without a fragment; write other hosts in punycode.", param="url"
        )
    try:
        target = take_apart(text)
    except ValueError as error:
        raise WebhookUrlRefused("This is not an absolute URL with a host.", param="url") from error
    if target.url.scheme != "https" and not (allow_loopback and target.url.scheme == "http"):
        raise WebhookUrlRefused("A webhook URL begins with https://.", param="url")
    # Of the text, not of the URL taken apart: an empty user name has vanished there.
    if "@" in re.split("[/?]", text.partition("://")[2], maxsplit=1)[0]:
        raise WebhookUrlRefused("A webhook URL carries no user name or password.", param="url")
    numeric = _as_address(target.host) or _as_number(target.host)
    if target.host == "localhost" or target.host.endswith(".localhost"):
        numeric = ipaddress.IPv4Address("127.0.0.1")
    if numeric is not None and is_blocked(numeric, allow_loopback=allow_loopback):
        raise WebhookUrlRefused("Webhooks are sent to public addresses only.", param="url")
    return target


@lru_cache(maxsize=4096)
def take_apart(text: str) -> Target:
    """Raises ValueError."""
    url = URL(text)
    host = (url.raw_host or "").lower().rstrip(".")
    if url.scheme not in {"http", "https"} or not url.port or not (_as_address(host) or _HOST_TEXT.fullmatch(host)):
        raise ValueError("not an absolute http URL")
    bracketed = f"[{host}]" if ":" in host else host
    default = 443 if url.scheme == "https" else 80
    authority = bracketed if url.port == default else f"{bracketed}:{url.port}"
    return Target(url, host, url.port, authority, url.scheme == "https")


def is_blocked(address: Address, *, allow_loopback: bool) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return True
        if allow_loopback and address in _LOOPBACK[1]:
            return False
        return address not in _UNICAST_V6 or any(address in network for network in _BLOCKED_V6)
    if allow_loopback and address in _LOOPBACK[0]:
        return False
    return any(address in network for network in _BLOCKED_V4)


class Resolver:
    """Names to checked addresses. Nothing is kept between attempts; simultaneous lookups of one host are one lookup."""

    def __init__(self, *, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")
        self._open: dict[str, asyncio.Future[list[Address]]] = {}

    async def checked(self, target: Target) -> list[str]:
        """All addresses of the target, every one of them allowed. Raises AddressRefused, LookupFailed."""
        literal = _as_address(target.host)
        addresses = [literal] if literal is not None else await self._look_up(target.host)
        if not addresses:
            raise LookupFailed
        if any(is_blocked(address, allow_loopback=self._allow_loopback) for address in addresses):
            raise AddressRefused
        return [str(address) for address in addresses]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str) -> list[Address]:
        lookup = self._open.get(host)
        if lookup is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _system_lookup, host)
            self._open[host] = lookup
            lookup.add_done_callback(lambda _: self._open.pop(host, None))
        try:
            # One caller that gives up must not take the answer from the others.
            return await asyncio.shield(lookup)
        except (OSError, UnicodeError) as error:
            raise LookupFailed from error


def _system_lookup(host: str) -> list[Address]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    # A scope (`fe80::1%eth0`) stays in the text and is refused by `is_blocked`.
    return list(dict.fromkeys(ipaddress.ip_address(str(answer[4][0])) for answer in answers))


@lru_cache(maxsize=4096)
def _as_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _as_number(host: str) -> Address | None:
    """What the system takes for a number: it reads `127.1`, `0x7f.1` and `2130706433` as addresses too. Never asks a name server."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return ipaddress.ip_address(str(answers[0][4][0]))
