"""Failures and postponements of many rows, written together: what gathers while one statement runs goes with the next."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection

from outbox.connection import connect
from outbox.model import Claimed, Failed
from outbox.store import defer, fail

log = logging.getLogger("outbox")

Verdict = Failed | tuple[Claimed, float]
RETRY_SECONDS = 0.5


class Verdicts:
    """The counts are set, not incremented, so a verdict whose answer was lost is simply sent again."""

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        self._url = url
        # A verdict that could not be written for a whole lease says nothing any more: the row has been claimed again.
        self._retries = max(1, int(lease_seconds / RETRY_SECONDS))
        self._waiting: list[tuple[Verdict, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._connection: AsyncConnection[Any] | None = None

    async def write(self, verdict: Verdict) -> None:
        """Returns when it is written, or when it no longer matters."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((verdict, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="outbox verdicts")
        await done

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await self._write_all([verdict for verdict, _ in batch])
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _write_all(self, verdicts: Sequence[Verdict]) -> None:
        for _ in range(self._retries):
            try:
                return await self._write(verdicts)
            except psycopg.OperationalError as error:
                log.warning("verdicts on %d rows again in %s s: %s", len(verdicts), RETRY_SECONDS, error)
                await asyncio.sleep(RETRY_SECONDS)
            except psycopg.Error:
                if len(verdicts) == 1:
                    log.exception("the verdict on an outbox row was refused; the row waits for the end of its lease")
                    return None
                for verdict in verdicts:
                    await self._write_all([verdict])
                return None
        return None

    async def _write(self, verdicts: Sequence[Verdict]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, application_name="outbox verdicts")
        failed = [verdict for verdict in verdicts if isinstance(verdict, Failed)]
        moved = [verdict for verdict in verdicts if not isinstance(verdict, Failed)]
        if failed:
            await fail(self._connection, failed)
        if moved:
            await defer(self._connection, [row for row, _ in moved], [seconds for _, seconds in moved])
