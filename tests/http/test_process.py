"""The web process as it is run: its socket, its one line, its end."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psycopg
import pytest

# A route that waits until it is told to end, as those that wait for a worker do.
PROGRAM = """
import asyncio, os, sys
from app import main
from app.http import Answer, Call, Resources, Route, answer
from app.http.server import listening_socket, serve
from app.settings import read_settings
from contextlib import asynccontextmanager

class Waiting:
    def __init__(self):
        self.over = asyncio.Event()
    async def drain(self):
        self.over.set()

async def wait(call):
    await asyncio.wait_for(call.resources.of(Waiting).over.wait(), 30)
    return answer(202, {"pid": os.getpid()})

async def hang(call):
    await asyncio.sleep(60)

async def pid(call):
    return answer(200, {"pid": os.getpid()})

@asynccontextmanager
async def lifespan(resources):
    waiting = Waiting()
    resources.add(waiting)
    resources.on_drain.append(waiting.drain)
    yield
    print("closed", flush=True)

routes = [Route("GET", f"/{one.__name__}", one, access="nobody", answers={200: None}) for one in (wait, hang, pid)]
settings = read_settings(os.environ)
app = main.create_app(settings, routes=routes, lifespans=(lifespan,))
sys.exit(serve(app, app.state.resources, listening_socket(settings.host, settings.port)))
"""
RUN_WEB = (
    "import os, sys; from app.main import run_web; from app.settings import read_settings; sys.exit(run_web(read_settings(os.environ)))"
)


def _environ(database: str, port: int, **other: str) -> dict[str, str]:
    return {**os.environ, "ENVIRONMENT": "test", "DATABASE_URL": database, "PORT": str(port), **other}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def _process(environ: dict[str, str], *, program: str = PROGRAM, fds: tuple[int, ...] = ()) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environ, stdout=PIPE, stderr=PIPE, pass_fds=fds)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _ready(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert line, (await process.stderr.read()).decode() if process.stderr else ""
    document: dict[str, Any] = json.loads(line)
    return document


async def _get(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.json(content_type=None)


async def test_a_process_says_once_that_it_is_ready(database: str) -> None:
    """Its first line of output is one JSON object, and from then on it answers."""
    port = _free_port()
    async with _process(_environ(database, port), program=RUN_WEB) as process:
        line = await _ready(process)
        status, document = await _get(port, "/readyz")

        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0

    assert (line["ready"], line["port"], line["pid"]) == (True, port, process.pid)
    assert (status, document["ready"]) == (200, True)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
async def test_waiting_requests_are_answered_before_the_end(database: str, told: signal.Signals) -> None:
    """Told to end, a process lets go of its waiters, answers them, closes what it opened and exits with 0."""
    port = _free_port()
    async with _process(_environ(database, port)) as process:
        await _ready(process)
        waiting = [asyncio.create_task(_get(port, "/wait")) for _ in range(20)]
        await asyncio.sleep(0.5)

        process.send_signal(told)
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)

        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert process.stdout is not None
        assert b"closed" in await process.stdout.read()
    assert answers == [(202, {"pid": process.pid})] * 20


async def test_a_request_that_never_ends_does_not_hold_the_process(database: str) -> None:
    """The drain has its end: what is still open then is cut off, and the exit is 0 all the same."""
    port = _free_port()
    environ = _environ(database, port, DRAIN_SECONDS="3", HANDLER_DEADLINE_SECONDS="2")
    async with _process(environ) as process:
        await _ready(process)
        hanging = asyncio.create_task(_get(port, "/hang"))
        await asyncio.sleep(0.3)

        process.terminate()

        assert await asyncio.wait_for(process.wait(), 10) == 0
        status, document = await hanging
    assert (status, document["code"]) == (503, "service_unavailable")


@pytest.mark.parametrize("shared", ["inherited", "reuse"])
async def test_several_processes_share_one_port(database: str, shared: str) -> None:
    """By an inherited socket or by SO_REUSEPORT two processes answer on one port, and one carries on when the other ends."""
    listener = socket.create_server(("127.0.0.1", 0)) if shared == "inherited" else None
    port = listener.getsockname()[1] if listener else _free_port()
    environ = _environ(database, port, **({"TOLLGATE_LISTEN_FD": str(listener.fileno())} if listener else {}))
    fds = (listener.fileno(),) if listener else ()
    async with _process(environ, fds=fds) as first, _process(environ, fds=fds) as second:
        await _ready(first)
        await _ready(second)
        seen = {(await _get(port, "/pid"))[1]["pid"] for _ in range(60)}
        first.terminate()
        assert await asyncio.wait_for(first.wait(), 10) == 0
        left = {(await _get(port, "/pid"))[1]["pid"] for _ in range(10)}
        second.terminate()
        assert await asyncio.wait_for(second.wait(), 10) == 0
    if listener:
        listener.close()

    assert seen == {first.pid, second.pid}
    assert left == {second.pid}


async def test_a_process_refuses_another_schema(database: str) -> None:
    """On a schema older than its code a web process does not start; it says what to do, without a traceback, and exits with 1."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")

    async with _process(_environ(database, _free_port()), program=RUN_WEB) as process:
        out, err = await asyncio.wait_for(process.communicate(), 30)

    assert (process.returncode, out) == (1, b"")
    assert b"tollgate migrate" in err
    assert b"Traceback" not in err


async def test_a_port_that_is_taken_is_said_plainly(database: str) -> None:
    """Exit 1 and a sentence, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with _process(_environ(database, listener.getsockname()[1]), program=RUN_WEB) as process:
            out, err = await asyncio.wait_for(process.communicate(), 30)

    assert (process.returncode, out) == (1, b"")
    assert b"in use" in err
    assert b"Traceback" not in err
