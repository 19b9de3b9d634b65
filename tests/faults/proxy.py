"""Stands between a process and PostgreSQL, reads what the process says, and cuts the connection at a commit it was asked to spoil.

    async with proxied(url) as proxy:
        proxy.cut("after", "INSERT INTO idempotency_keys")

A commit is a COMMIT, or the sync that ends statements outside of a transaction.

`before`: the server never sees it and rolls back. `after`: the server has committed and nobody hears of it. It can also hold
an answer back for a while: what was asked is done, and whoever asked hears of it late.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import parse_qs, urlsplit

When = Literal["before", "after"]

# The first messages of a connection have no type: a request for TLS or GSS, answered with one byte, then the start.
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


class Proxy:
    """`cuts` counts the connections that were cut, `held` the answers that were held back."""

    def __init__(self, url: str) -> None:
        self.url = ""
        self.cuts = 0
        self._upstream = urlsplit(url)
        self.held = 0
        self._order: tuple[When, str] | None = None
        self._delay: tuple[float, bytes] | None = None
        self._down = False
        self._conversations: set[asyncio.Task[None]] = set()

    def cut(self, when: When, statement: str) -> None:
        """The next commit of what `statement` stood in; once."""
        self._order = (when, statement)

    def hold_back(self, seconds: float, words: bytes) -> None:
        """The next answer that holds `words`; once."""
        self._delay = (seconds, words)

    def go_down(self) -> None:
        """Nobody gets through any more, and whoever is connected is cut off."""
        self._down = True
        for conversation in self._conversations:
            conversation.cancel()

    def come_up(self) -> None:
        self._down = False

    def take_order(self, statements: list[str]) -> When | None:
        if self._order is None or not any(self._order[1] in statement for statement in statements):
            return None
        when, self._order = self._order[0], None
        self.cuts += 1
        return when

    def take_delay(self, said: bytes) -> float:
        if self._delay is None or self._delay[1] not in said:
            return 0.0
        seconds, self._delay = self._delay[0], None
        self.held += 1
        return seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            if not self._down:
                await self._converse(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._conversations.discard(task)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await self._connect()
        try:
            async with asyncio.TaskGroup() as group:
                conversation = Conversation(self, server_writer)
                group.create_task(conversation.client_speaks(reader))
                group.create_task(conversation.server_speaks(server_reader, writer))
        except* (OSError, EOFError, Cut):
            pass
        finally:
            server_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._upstream.query)
        host, port = (
            query.get("host", [self._upstream.hostname or "127.0.0.1"])[0],
            query.get("port", [str(self._upstream.port or 5432)])[0],
        )
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port))


class Cut(Exception):
    """Both ends are let go of."""


class Conversation:
    """One connection. The client's side is read message by message, the server's only where a commit's answer must be held back."""

    def __init__(self, proxy: Proxy, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._server = server
        self._prepared: dict[bytes, str] = {}
        # Statements that the next commit commits, and whether it is for the client to say COMMIT.
        self._statements: list[str] = []
        self._begun = False
        self._silenced = b""

    async def client_speaks(self, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            self._server.write(head + await reader.readexactly(length - 8))
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
        while True:
            head = await reader.readexactly(5)
            message = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            statement = self._statement(head[:1], message)
            when = self._noted(statement) if statement is not None else None
            # The tag that completes the command, or the server's word that it waits for the next one: it is committed.
            committed = b"COMMIT\0"
            if head[:1] == b"S" and not self._begun:
                when, committed = self._committing(), b"Z\0\0\0\x05I"
            if when == "before":
                raise Cut
            if when == "after":
                self._silenced = committed
            self._server.write(head + message)
            await self._server.drain()

    async def server_speaks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(65536):
            if not self._silenced:
                await asyncio.sleep(self._proxy.take_delay(said))
                writer.write(said)
                await writer.drain()
            elif self._silenced in said:
                raise Cut
        raise EOFError

    def _statement(self, kind: bytes, message: bytes) -> str | None:
        """The text that is about to be executed: a simple query, or a statement that is bound."""
        if kind == b"Q":
            return message.rstrip(b"\0").decode()
        if kind == b"P":
            name, text = message.split(b"\0")[:2]
            self._prepared[name] = text.decode()
        elif kind == b"B":
            _portal, name = message.split(b"\0")[:2]
            return self._prepared.get(name, "")
        return None

    def _noted(self, statement: str) -> When | None:
        if statement.startswith("BEGIN"):
            self._begun, self._statements = True, []
        elif statement.startswith(("COMMIT", "ROLLBACK")):
            self._begun = False
            return self._committing() if statement.startswith("COMMIT") else None
        else:
            self._statements.append(statement)
        return None

    def _committing(self) -> When | None:
        statements, self._statements = self._statements, []
        return self._proxy.take_order(statements)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server of `url`; `proxy.url` is the way through it."""
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    # The way to the server itself may be a socket on disk, where no TLS is spoken.
    proxy.url = parts._replace(netloc=f"{login}@127.0.0.1:{port}", query="sslmode=disable").geturl()
    try:
        yield proxy
    finally:
        proxy.go_down()
        server.close()
