"""The three sides that P4 and P6 compare: how rows get in, and a worker process over them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import dramatiq
import psycopg
from procrastinate.types import JSONValue

import outbox
from bench.outbox_worker import QUEUE, TASK, procrastinate_app, rabbit_broker

PATIENCE_SECONDS = 120.0

# Puts one named row in, committed and told to whoever waits.
Put = Callable[[str], Awaitable[None]]


@contextmanager
def worker(side: str, url: str, count: int) -> Iterator["subprocess.Popen[str]"]:
    """A worker process that is ready; `result_of` waits for what it says after `count` rows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.outbox_worker", side, str(count)],
        env={**os.environ, "BENCH_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the {side} worker did not start")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


async def result_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    said = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE_SECONDS)
    result: dict[str, Any] = json.loads(said)
    return result


async def fill(side: str, url: str, names: Sequence[str]) -> None:
    """Rows that wait before their worker starts."""
    if side == "outbox":
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("DELETE FROM outbox WHERE queue = %s", (QUEUE,))
            await outbox.write(connection, [new_row(name) for name in names])
    elif side == "procrastinate":
        app = procrastinate_app(url)
        async with app.open_async():
            await _procrastinate_schema(url, app)
            jobs: list[dict[str, JSONValue]] = [{"name": name} for name in names]
            await app.tasks[TASK].batch_defer_async(*jobs)
    else:
        await asyncio.to_thread(_fill_rabbit, url, names)


def putting(side: str, url: str) -> AbstractAsyncContextManager[Put]:
    return {"outbox": _putting_outbox, "procrastinate": _putting_procrastinate, "rabbit": _putting_rabbit}[side](url)


@asynccontextmanager
async def _putting_outbox(url: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=0) as connection, outbox.Waker(url) as waker:

        async def put(name: str) -> None:
            await outbox.write(connection, [new_row(name)])
            waker.wake(QUEUE)

        yield put


@asynccontextmanager
async def _putting_procrastinate(url: str) -> Any:
    app = procrastinate_app(url)
    async with app.open_async():
        await _procrastinate_schema(url, app)

        async def put(name: str) -> None:
            await app.tasks[TASK].defer_async(name=name)

        yield put


@asynccontextmanager
async def _putting_rabbit(url: str) -> Any:
    broker = rabbit_broker(url)

    async def put(name: str) -> None:
        # On this thread: the broker's connection belongs to it, and a hop would be measured along.
        broker.enqueue(message(name))

    yield put
    broker.close()


def new_row(name: str) -> outbox.NewRow:
    return outbox.NewRow(queue=QUEUE, lane="bench", actor=TASK, payload=name)


def message(name: str) -> dramatiq.Message[Any]:
    return dramatiq.Message(queue_name=QUEUE, actor_name=TASK, args=(name,), kwargs={}, options={})


def _fill_rabbit(url: str, names: Sequence[str]) -> None:
    broker = rabbit_broker(url)
    broker.declare_queue(QUEUE, ensure=True)
    broker.flush(QUEUE)
    for name in names:
        broker.enqueue(message(name))
    broker.close()


async def _procrastinate_schema(url: str, app: Any) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        record = await (await connection.execute("SELECT to_regclass('procrastinate_jobs') IS NULL")).fetchone()
        if record == (True,):
            await app.schema_manager.apply_schema_async()
        await connection.execute("TRUNCATE procrastinate_jobs CASCADE")
