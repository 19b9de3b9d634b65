"""Load in a process of its own: raw HTTP over kept connections, so that the clients cost as little as they can.

`python -m bench.clients` reads one JSON order on stdin and prints one JSON result.
"""

import asyncio
import itertools
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import msgspec
import uvloop

_BODY = b'{"amount":%d,"currency":"EUR","payment_method":{"type":"card","token":"tok_sandbox_approved"},"reference":"order %d"}'
_PUBLIC_ID_LENGTH = 29


class Order(msgspec.Struct):
    """`mode` create or pay; `per_second` 0: as fast as `connections` clients can, one request each at a time."""

    port: int
    keys: list[str]
    mode: str
    count: int
    connections: int
    per_second: float = 0.0


class Result(msgspec.Struct):
    """Latencies in milliseconds, of each request that was answered as expected."""

    seconds: float
    done: int
    refused: int
    create_ms: list[float]
    confirm_ms: list[float]


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes, key: str, body: bytes) -> tuple[int, bytes]:
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
        b"Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s" % (path, key.encode(), uuid.uuid4().hex.encode(), len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    start = head.lower().index(b"content-length:") + 15
    length = int(head[start : head.index(b"\r\n", start)])
    return int(head[9:12]), await reader.readexactly(length)


async def _measure(order: Order) -> Result:
    result = Result(0.0, 0, 0, [], [])
    numbers = itertools.count()
    begun = time.perf_counter()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        key = order.keys[number % len(order.keys)]
        at = time.perf_counter()
        status, body = await _post(reader, writer, b"/v1/payment_intents", key, _BODY % (random.randrange(100, 100_000), number))
        result.create_ms.append((time.perf_counter() - at) * 1000)
        if status == 201 and order.mode == "pay":
            start = body.index(b'"pi_') + 1
            path = b"/v1/payment_intents/%s/confirm" % body[start : start + _PUBLIC_ID_LENGTH]
            at = time.perf_counter()
            status, body = await _post(reader, writer, path, key, b"{}")
            result.confirm_ms.append((time.perf_counter() - at) * 1000)
            status = 201 if status == 200 and b'"succeeded"' in body else status
        if status == 201:
            result.done += 1
        else:
            result.refused += 1

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", order.port)
        while (number := next(numbers)) < order.count:
            if order.per_second:
                # A fixed rate: a late answer does not hold back the next request of another client.
                await asyncio.sleep(max(0.0, begun + number / order.per_second - time.perf_counter()))
            await one(reader, writer, number)
        writer.close()

    await asyncio.gather(*(client() for _ in range(order.connections)))
    result.seconds = time.perf_counter() - begun
    return result


async def run(order: Order) -> Result:
    """The load of `order`, from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.clients"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate(msgspec.json.encode(order))
    return msgspec.json.decode(said, type=Result)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


Measure = Callable[[], Awaitable[float]]

if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.write(json.dumps(msgspec.to_builtins(uvloop.run(_measure(given)))))
