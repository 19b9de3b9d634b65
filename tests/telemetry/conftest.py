"""Whole systems of real processes, one that exports spans and one as it is by default, each with a merchant's server beside it."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.conftest import _cloned
from tests.flows.running import PACKAGES, System, new_merchant, running
from tests.flows.shop import Shop
from tests.webhooks.receiver import Receiver
from tests.webhooks.receiver import running as receiving


class Watched(NamedTuple):
    """A running system and what it writes."""

    system: System
    home: Path

    def lines(self, process: str) -> list[dict[str, Any]]:
        """The log of all processes of a kind, without what is not whole yet."""
        texts = [path.read_text() for path in sorted((self.home / "logs").glob(f"{process}*.log"))]
        return [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def spans(self) -> list[dict[str, Any]]:
        path = self.home / "spans"
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []


@pytest.fixture(scope="session")
def plain(database_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """As it is configured by default."""
    home = tmp_path_factory.mktemp("plain")
    with _cloned(database_server, template) as database, running(database, home) as system:
        yield Watched(system, home)


@pytest.fixture(scope="session")
def traced(database_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """With an exporter that writes to a file."""
    home = tmp_path_factory.mktemp("traced")
    with _cloned(database_server, template) as database, ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_TRACES_EXPORTER", str(home / "spans"))
            system = stack.enter_context(running(database, home))
        yield Watched(system, home)


@asynccontextmanager
async def web_process(database: str) -> AsyncIterator[str]:
    """One web process over `database`, which ends in good order; its url."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {**os.environ, "ENVIRONMENT": "test", "DATABASE_URL": database, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "app", "web", cwd=PACKAGES, env=environ, stdout=PIPE)
    assert process.stdout is not None
    try:
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30))["ready"] is True
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


async def shop_of(watched: Watched, session: aiohttp.ClientSession) -> Shop:
    """A merchant of its own for each test."""
    merchant = await new_merchant(watched.system.database_url, f"watched {os.urandom(4).hex()}")
    return Shop(watched.system, merchant, session)


async def listening(shop: Shop, receiver: Receiver) -> Shop:
    """The same merchant, who is told everything."""
    reply = await shop.post("/v1/webhook_endpoints", {"url": f"{receiver.url}/hook", "enabled_events": ["*"]})
    assert reply.status == 201, reply
    return shop
