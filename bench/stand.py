"""What is measured: a complete `tollgate dev` of its own, with many merchants, each with a webhook endpoint."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from app.core.clock import now
from app.identity.actions import create_key, create_merchant
from app.infra.db import open_pool

READY_SECONDS = 90.0


class Stand(NamedTuple):
    url: str
    database_url: str
    pids: dict[str, list[int]]
    secret_keys: list[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def standing(directory: Path, *, webs: int, workers: int, merchants: int, receiver_url: str | None) -> Iterator[Stand]:
    """A `tollgate dev` on `directory`, drained and ended afterwards."""
    command = [sys.executable, "-m", "app", "dev", "--data", str(directory), "--fresh", "--webs", str(webs), "--workers", str(workers)]
    with (directory.parent / f"{directory.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "LOG_LEVEL": "warning"})
    try:
        ready = _first_line(process)
        keys = asyncio.run(_settle_in(ready, merchants, receiver_url))
        yield Stand(ready["url"], ready["database_url"], ready["pids"], keys)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    end = time.monotonic() + READY_SECONDS
    said = b""
    while b"\n" not in said:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError("tollgate dev did not become ready; its log lies beside its data")
        said += process.stdout.read() or b""
        time.sleep(0.05)
    ready: dict[str, Any] = json.loads(said.split(b"\n", 1)[0])
    return ready


async def _settle_in(ready: dict[str, Any], merchants: int, receiver_url: str | None) -> list[str]:
    keys = []
    async with open_pool(ready["database_url"], role="tollgate_ops", size=2) as pool:
        for number in range(merchants):
            merchant = await create_merchant(pool, name=f"merchant {number}", now=now())
            keys.append((await create_key(pool, "secret", now=now(), merchant_id=merchant.id)).token)
    if receiver_url is not None:
        async with aiohttp.ClientSession() as session:
            for key in keys:
                body = {"url": receiver_url, "enabled_events": ["payment.captured"]}
                async with session.post(
                    f"{ready['url']}/v1/webhook_endpoints", json=body, headers={"Authorization": f"Bearer {key}"}
                ) as answer:
                    if answer.status != 201:
                        raise RuntimeError(await answer.text())
    return keys
