"""P5: the whole settlement of a sale (move, event, ledger, wallet, next row), from the outbox and per message of RabbitMQ.

Both sides find the same payments, wait for no provider, and run the same decisions and statements; the outbox side also holds and
settles its rows. `python -m bench.settlement outbox|rabbit` is the worker that is measured.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import dramatiq
import msgspec
import psycopg
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO

import outbox
from app.core.clock import now
from app.identity.actions import create_merchant
from app.infra.db import Connection, connect, open_pool
from app.infra.group_commit import Lane
from app.payments import intent_actions
from app.payments.affected import Affected
from app.payments.asking import Asking
from app.payments.locks import read_locked
from app.payments.moves import PSP_QUEUE, SEND, Moves, PspTask
from app.payments.outcome import apply
from app.payments.road import open_road
from app.payments.settle import Settled, Settlement, locks_of, settle_batch, touched
from app.payments.write import merged, writing
from app.providers.base import Approved
from app.providers.configured import configured
from app.settings import read_settings
from outbox.intake import Queue
from outbox.round_trip import BEGIN, COMMIT, round_trip
from outbox.wake import Waker
from outbox.worker import run_worker

MERCHANTS = 100
QUEUE = "settlement"
# As many transactions at a time as the stock worker has threads.
THREADS = 8

_read = msgspec.json.Decoder(PspTask).decode


def approved(task: PspTask) -> Approved:
    return Approved(provider_ref=f"ch_{task.operation_id}", amount=task.request.amount, currency=task.request.currency)


def measure(database_url: str, *, count: int, amqp_url: str | None) -> dict[str, float]:
    """Settlements per second of each side, over payments of their own."""
    figures = {"outbox": _measure_outbox(database_url, count=count)}
    if amqp_url is not None:
        figures["rabbit"] = _measure_rabbit(database_url, count=count, amqp_url=amqp_url)
    return figures


def _measure_outbox(database_url: str, *, count: int) -> float:
    asyncio.run(_prepare(database_url, count))
    return _until_captured(database_url, count, "outbox", {})


def _measure_rabbit(database_url: str, *, count: int, amqp_url: str) -> float:
    asyncio.run(_prepare(database_url, count))
    with psycopg.connect(database_url, autocommit=True) as connection:
        payloads = [
            row[0] for row in connection.execute("SELECT payload FROM outbox WHERE queue = %s ORDER BY id", (PSP_QUEUE,)).fetchall()
        ]
        connection.execute("DELETE FROM outbox WHERE queue = %s", (PSP_QUEUE,))
    broker = RabbitmqBroker(url=amqp_url, middleware=[], confirm_delivery=True)
    broker.declare_queue(QUEUE, ensure=True)
    for payload in payloads:
        broker.enqueue(dramatiq.Message(queue_name=QUEUE, actor_name="settle", args=(payload,), kwargs={}, options={}))
    broker.close()
    return _until_captured(database_url, count, "rabbit", {"AMQP_URL": amqp_url})


def _until_captured(database_url: str, count: int, side: str, environment: dict[str, str]) -> float:
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = _captured(connection)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.settlement", side],
            env={**os.environ, **environment, "DATABASE_URL": database_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            process.stdout.readline()
            first, begun = _captured(connection), time.perf_counter()
            while (done := _captured(connection)) < before + count:
                if time.perf_counter() - begun > 120:
                    raise RuntimeError(f"{side}: only {done - before} of {count} were settled")
                time.sleep(0.02)
            return (before + count - first) / (time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(30)


def _captured(connection: "psycopg.Connection[tuple[int]]") -> int:
    row = connection.execute("SELECT count(*) FROM ledger_transactions WHERE type = 'capture'").fetchone()
    return 0 if row is None else row[0]


async def _prepare(database_url: str, count: int) -> None:
    """`count` confirmed payments whose sale waits in the outbox, over many merchants with one webhook endpoint each."""
    settings = read_settings({**os.environ, "DATABASE_URL": database_url, "ENVIRONMENT": "test"})
    registry = configured(settings)
    async with open_pool(database_url, role="tollgate_ops", size=2) as ops, open_pool(database_url, role="tollgate_app", size=4) as pool:
        merchants = [(await create_merchant(ops, name="bench", now=now())).id for _ in range(MERCHANTS)]
        async with open_road(settings, pool=pool, registry=registry) as road:

            async def one(number: int) -> None:
                asking = Asking(merchants[number % MERCHANTS], False, "bench", "bench", None, b"")
                fields = {"amount": 2599, "currency": "EUR", "capture_method": "automatic"}
                fields["payment_method"] = {"type": "card", "token": "tok_sandbox_approved"}
                intent_id, _ = await intent_actions.create(road, asking, fields)
                await intent_actions.confirm(road, asking, intent_id, payment_method=None, return_url=None, wait_seconds=0.0)

            for start in range(0, count, 256):
                await asyncio.gather(*(one(number) for number in range(start, min(count, start + 256))))
    await registry.close()


def _work_outbox(database_url: str) -> int:
    @asynccontextmanager
    async def open_actors(_waker: Waker) -> AsyncIterator[Sequence[outbox.Actor]]:
        async def batch(connection: Connection, settlements: list[Settlement]) -> Sequence[Settled]:
            answers, _ = await settle_batch(connection, settlements)
            return answers

        lane: Lane[Settlement, Settled] = Lane(
            "settle", partial(connect, database_url, role="tollgate_writer", lane=True), batch, keys=touched
        )
        await lane.start()

        async def settle(row: outbox.Claimed) -> None:
            task = _read(row.payload)
            if not (await lane.submit(Settlement(row=row, task=task, outcome=approved(task), actor="bench"))).held:
                raise outbox.LeaseLost

        yield (outbox.Actor(SEND, settle),)
        await lane.stop()

    return run_worker(database_url, [Queue(PSP_QUEUE, slots=512, lane_limit=512)], open_actors, on_ready=_say_ready)


def _work_rabbit(database_url: str, amqp_url: str) -> None:
    broker = RabbitmqBroker(url=amqp_url, middleware=[AsyncIO()])
    connections: list[Connection] = []

    @dramatiq.actor(queue_name=QUEUE, actor_name="settle", broker=broker)
    async def settle(payload: str) -> None:
        connection = connections.pop() if connections else await connect(database_url, role="tollgate_writer")
        try:
            await _settle_one(connection, _read(payload))
        finally:
            connections.append(connection)

    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    _say_ready()
    while True:
        time.sleep(1)


async def _settle_one(connection: Connection, task: PspTask) -> None:
    moves = Moves(now=now(), actor="bench")
    _, rows = await round_trip(connection, BEGIN, locks_of([], [task]))
    locked = read_locked(rows)
    affected = Affected(
        operation=locked.operations[task.operation_id],
        payment=locked.payments[task.payment_id],
        intent=locked.intents[task.payment_intent_id],
        refund=None,
    )
    apply(moves, affected, approved(task))
    await round_trip(connection, *writing(merged([moves])).statements, COMMIT)


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    url = os.environ["DATABASE_URL"]
    if sys.argv[1:] == ["outbox"]:
        sys.exit(_work_outbox(url))
    _work_rabbit(url, os.environ["AMQP_URL"])
