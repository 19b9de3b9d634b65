"""One web process: its socket, its readiness line, and how it ends without dropping a request."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.core.errors import InvalidRequest
from app.http.answers import complete, problem
from app.http.headers import request_id_of
from app.http.resources import Resources

# The kernel's queue of connections that nobody has accepted yet.
_BACKLOG = 2048
# Of the drain's seconds these are kept back for closing pools and writing last things.
_CLOSING_SECONDS = 2


class DrainingServer(uvicorn.Server):
    """Answers its waiting requests when it is told to end, and ends with 0; uvicorn itself would end by the signal."""

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            # Whoever started this process waits for the line; nothing else is ever written to stdout before it.
            line = json.dumps({"ready": True, "port": sockets[0].getsockname()[1], "pid": os.getpid()})
            print(line, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._resources.draining = True
        drained = asyncio.gather(*(hook() for hook in self._resources.on_drain), return_exceptions=True)
        await super().shutdown(sockets)
        await drained

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(one)


class ProblemProtocol(HttpToolsProtocol):
    """What is no HTTP at all is refused before any route, and still by a problem document."""

    def send_400_response(self, msg: str) -> None:
        request_id = request_id_of(None)
        result = problem(InvalidRequest(msg), instance="", request_id=request_id)
        headers = [*complete(result, request_id=request_id, secure=False), (b"connection", b"close")]
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers), b"", result.body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()


def serve(app: ASGIApp, resources: Resources, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=ProblemProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        # The scheme is read where it is needed; uvicorn's middleware would look at every request.
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, resources.settings.drain_seconds - _CLOSING_SECONDS),
    )
    server = DrainingServer(config, resources)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0 if server.started else 1


def listening_socket(host: str, port: int) -> socket.socket:
    """The inherited one of TOLLGATE_LISTEN_FD, or a new one that further web processes may share (SO_REUSEPORT)."""
    inherited = os.environ.get("TOLLGATE_LISTEN_FD")
    if inherited is not None:
        if not inherited.isdigit():
            sys.exit("TOLLGATE_LISTEN_FD is not the number of a file descriptor")
        return socket.socket(fileno=int(inherited))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    fresh = socket.socket(family, socket.SOCK_STREAM)
    fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    fresh.bind((host, port))
    fresh.setblocking(False)
    return fresh
