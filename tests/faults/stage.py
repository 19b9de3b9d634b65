"""The processes of one test, started as `tollgate dev` starts them; nothing brings them back when they end."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from app.dev.home import Secrets
from app.dev.processes import Plan, specs
from app.supervisor import Child
from tests.flows.running import CALLBACK_SECRET, PACKAGES, System, new_merchant
from tests.flows.shop import Shop

START_SECONDS = 60.0
# What a killed or stopped worker had claimed comes back after six seconds.
SHORT = {"HANDLER_DEADLINE_SECONDS": "2", "DRAIN_SECONDS": "4", "LEASE_SECONDS": "6"}


class Stage:
    """`system` is where clients and the sandbox's controls are reached."""

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self.system = System(plan.url, plan.sandbox_url, plan.database_url)
        self._specs = {spec.name: spec for spec in specs(plan, {**os.environ, **environ})}
        self._children: dict[str, Child] = {}

    async def start(self, *names: str, program: str | None = None, **environ: str) -> None:
        """By name: sandbox, web-1, web-2, worker-1, worker-2, clock. `environ` is for these processes alone, and so is `program`,
        Python text that is run in place of ours.
        """
        for name in names:
            spec = self._specs[name]._replace(environment={**self._specs[name].environment, **environ})
            if program is not None:
                spec = spec._replace(command=(sys.executable, "-c", program))
            self._children[name] = child = Child(spec, lambda _name, _line: None)
            child.start(PACKAGES)
        for name in names:
            await _ready(self._children[name])

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self._children[name].process
        assert process is not None
        process.send_signal(number)

    async def ended(self, name: str, *, within: float) -> int:
        """The exit status."""
        process = self._children[name].process
        assert process is not None
        return await asyncio.to_thread(process.wait, within)

    def alive(self, name: str) -> bool:
        return self._children[name].alive()

    def log(self, name: str) -> str:
        return self._specs[name].log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        for child in self._children.values():
            if child.process is not None:
                child.process.kill()
                child.process.wait()


@contextmanager
def staged(database_url: str, home: Path, **environ: str) -> Iterator[Stage]:
    (home / "logs").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            secrets = Secrets("0" * 64, CALLBACK_SECRET, "sandbox_key_of_the_tests", sandbox_port=probe.getsockname()[1])
        plan = Plan(home, database_url, secrets, listening.getsockname()[1], listening.fileno(), webs=2, workers=2)
        stage = Stage(plan, environ)
        try:
            yield stage
        finally:
            stage.end()


@asynccontextmanager
async def shopping(system: System) -> AsyncIterator[Shop]:
    """A merchant's client; each answer may take its time, and no connection outlives its request."""
    merchant = await new_merchant(system.database_url, "Corner Shop")
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Shop(system, merchant, session)


async def _ready(child: Child) -> None:
    end = time.monotonic() + START_SECONDS
    while not child.ready:
        child.read()
        assert child.alive(), child.last_lines
        assert time.monotonic() < end, f"{child.spec.name} is not ready"
        # The proxy that the process connects through lives on this loop.
        await asyncio.sleep(0.02)
