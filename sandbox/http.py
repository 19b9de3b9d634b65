"""HTTP/1.1 for one process: parse a request, hand it on, write its answer. No framework: this is on the road of every payment."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import cast

import httptools

MAX_BODY_BYTES = 64 * 1024
# Headers and target together; far above what any client of a PSP sends.
MAX_HEAD_BYTES = 32 * 1024

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Request:
    """One request and the way back to whoever sent it. Exactly one of `answer`, `answer_torn` and `drop` is called on it, at any time."""

    __slots__ = ("_connection", "body", "headers", "keep_alive", "method", "path", "peer")

    def __init__(self, connection: "Connection", *, method: str, target: bytes, peer: str) -> None:
        url = httptools.parse_url(target)
        self.method = method
        self.path: str = url.path.decode("latin-1")
        self.peer = peer
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keep_alive = True
        self._connection = connection

    def answer(self, status: int, body: bytes, *, content_type: str = "application/json", headers: Iterable[tuple[str, str]] = ()) -> None:
        self._connection.write(self, _head(status, len(body), content_type, headers, keep_alive=self.keep_alive) + body)

    def answer_torn(self, body: bytes) -> None:
        """Promise more bytes than come, then hang up."""
        self.keep_alive = False
        self._connection.write(self, _head(200, len(body) * 2, "application/json", (), keep_alive=False) + body)

    def drop(self, *, after_seconds: float = 0) -> None:
        """Never answer; hang up, at once or later."""
        self._connection.drop(after_seconds)


class Connection(asyncio.Protocol):
    """One client's connection. Requests on it are served one after another, also when they arrive together."""

    def __init__(self, serve: Callable[[Request], None], open_connections: set["Connection"]) -> None:
        self._serve = serve
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._serving = False
        self._draining = False
        self._dropped = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._target = b""
        self._headers: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class does not say that it is one
        self._peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._open.discard(self)
        self._queue.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400)
        except httptools.HttpParserError:
            self._refuse(400)

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value
        self._count_head(len(name) + len(value))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._transport.is_closing():
            return
        try:
            request = Request(self, method=self._parser.get_method().decode(), target=self._target, peer=self._peer)
        except httptools.HttpParserInvalidURLError:
            self._refuse(400)
            return
        request.headers = self._headers
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive() and not self._draining
        self._target, self._headers, self._body, self._body_bytes, self._head_bytes = b"", {}, [], 0, 0
        self._queue.append(request)
        self._next()

    def write(self, request: Request, message: bytes) -> None:
        """An effect does not wait for its client: with the connection gone, the answer is simply lost."""
        if self._transport.is_closing():
            return
        self._transport.write(message)
        self._serving = False
        if request.keep_alive and not self._draining:
            self._next()
        else:
            self._transport.close()

    def drop(self, after_seconds: float) -> None:
        self._dropped = True
        if after_seconds:
            asyncio.get_running_loop().call_later(after_seconds, self._transport.abort)
        else:
            self._transport.abort()

    def drain(self) -> None:
        """Take nothing more; hang up once the request in hand is answered."""
        self._draining = True
        if not self._serving:
            self._transport.close()

    def in_hand(self) -> bool:
        """Whether a request waits for an answer that will come."""
        return self._serving and not self._dropped

    def abort(self) -> None:
        self._transport.abort()

    def _next(self) -> None:
        if self._queue and not self._serving:
            self._serving = True
            self._serve(self._queue.popleft())

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def _refuse(self, status: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(_head(status, 0, "application/json", (), keep_alive=False))
            self._transport.close()


def _head(status: int, length: int, content_type: str, headers: Iterable[tuple[str, str]], *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"content-type: {content_type}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
