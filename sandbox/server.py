"""Starting and stopping: one process, one book, one address."""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec
import uvloop

from sandbox.api import Provider
from sandbox.book import Book
from sandbox.callbacks import Callbacks
from sandbox.commits import GroupCommit
from sandbox.control import Control
from sandbox.faults import Faults
from sandbox.http import Connection
from sandbox.routes import routed
from sandbox.settings import Settings

log = logging.getLogger("sandbox.server")

# Longer than the slowest ordinary answer (the `slow` card's 5 s), shorter than what a supervisor waits before it kills.
DRAIN_SECONDS = 10.0
DEFAULT_KEY = "sandbox_key"

EXAMPLE = """example:
  SANDBOX_KEY=sandbox_key python -m sandbox --port 8701 --data ./sandbox-data
  curl http://127.0.0.1:8701/v1/sale -H 'Authorization: Bearer sandbox_key' \\
       -d '{"reference": "order-1", "amount": 2599, "currency": "USD", "payment_method": "tok_sandbox_approved"}'
"""


class CannotStart(Exception):
    """Said to the user as it is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 0 stopped, 1 could not start; argparse itself exits with 2."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        settings = _settings(options)
        uvloop.run(_serve(options, settings))
    except CannotStart as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    data, lock = _take_book(options.data)
    listening = _listen(options.host, options.port)
    url = _url(listening.getsockname())
    book = Book(data / "sandbox.db", challenge_url=(settings.public_url or url) + "/3ds/")
    commits, callbacks = GroupCommit(book), Callbacks()
    provider = Provider(settings, commits, Faults(), callbacks)
    serve = routed(provider, Control(provider, data / "sandbox.db"))
    connections: set[Connection] = set()
    for seq, due_at in book.due():
        provider.finish_at(seq, due_at, now=time.time())
    server = await loop.create_server(lambda: Connection(serve, connections), sock=listening, backlog=1024)
    print(json.dumps({"ready": True, "url": url, "pid": os.getpid()}), flush=True)
    await stop.wait()
    server.close()
    await _drain(connections, commits)
    await callbacks.close()
    commits.close()
    book.close()
    lock.close()


async def _drain(connections: set[Connection], commits: GroupCommit) -> None:
    """Let requests in hand be answered; those that never will be are cut off."""
    for connection in list(connections):
        connection.drain()
    deadline = time.monotonic() + DRAIN_SECONDS
    # Polled, once in a process's life, rather than counted on every request.
    while (any(connection.in_hand() for connection in connections) or not commits.idle()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    for connection in list(connections):
        connection.abort()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="A payment service provider to rehearse against, with a book of its own.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, named in the ready line")
    parser.add_argument("--data", type=Path, required=True, help="the directory of the book, made if missing")
    parser.add_argument(
        "--public-url", default=os.environ.get("SANDBOX_PUBLIC_URL", ""), help="where browsers reach it (default: where it listens)"
    )
    parser.add_argument("--callback-url", default=os.environ.get("SANDBOX_CALLBACK_URL", ""))
    parser.add_argument("--callbacks", choices=("late", "all", "none"), default=os.environ.get("SANDBOX_CALLBACKS", "late"))
    parser.add_argument("--no-idempotency-keys", action="store_true", help="every request is a new effect")
    parser.add_argument("--later-seconds", type=float, default=2.0, help="how long a pending refund takes")
    parser.add_argument("--hold-seconds", type=float, default=60.0, help="how long an unanswered connection stays open")
    parser.add_argument("--slow-seconds", type=float, default=5.0, help="how long the slow card takes")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """Secrets come from the environment alone: a command line is readable by every user of the machine."""
    members = {
        "api_key": os.environ.get("SANDBOX_KEY", DEFAULT_KEY),
        "public_url": options.public_url.rstrip("/"),
        "honour_idempotency_keys": not options.no_idempotency_keys,
        "callback_url": options.callback_url,
        "callback_secret": os.environ.get("SANDBOX_CALLBACK_SECRET", ""),
        "callbacks": options.callbacks,
        "later_seconds": options.later_seconds,
        "hold_seconds": options.hold_seconds,
        "slow_seconds": options.slow_seconds,
    }
    try:
        return msgspec.convert(members, Settings)
    except msgspec.ValidationError as error:
        raise CannotStart(str(error)) from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _take_book(directory: Path) -> tuple[Path, TextIO]:
    """The data directory and the lock on it, which the system lets go when the process dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise CannotStart(f"cannot keep a book in {directory}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise CannotStart(f"another sandbox keeps its book in {directory}") from None
    return directory, lock


def _url(name: tuple[str, int]) -> str:
    host, port = name[:2]
    # Told to listen everywhere, it is still reached by its own machine's clients at the loopback address.
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - shown, not bound
    return f"http://{shown}:{port}"
