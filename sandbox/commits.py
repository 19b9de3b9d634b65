"""Group commit: everything asked while the last fsync ran shares the next one."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sandbox.book import Book

log = logging.getLogger("sandbox.commits")

# Bounds the time one batch keeps the event loop to itself (about 40 µs a request).
MAX_BATCH = 128


class Work(NamedTuple):
    do: Callable[[Book], Any]
    # Called after the commit with what `do` returned, or with the exception that it or the commit raised.
    done: Callable[[Any], None]


class GroupCommit:
    """Statements run on the event loop, in order; only COMMIT, which waits for the disk, runs in a thread.

    Running the statements in the thread too would make two threads fight over the interpreter at every statement.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._waiting: list[Work] = []
        self._busy = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")

    def submit(self, do: Callable[[Book], Any], done: Callable[[Any], None]) -> None:
        self._waiting.append(Work(do, done))
        if not self._busy:
            self._busy = True
            # Not at once: whatever else is ready in this turn of the loop joins.
            asyncio.get_running_loop().call_soon(self._run)

    def idle(self) -> bool:
        return not self._busy

    def close(self) -> None:
        self._thread.shutdown()

    def _run(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        results = self._attempt(batch)
        if results is None:
            # Each alone, so that one that cannot be done takes no other with it.
            results = [self._alone(work) for work in batch]
            self._finish(batch, results)
            return
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._book.commit)
        future.add_done_callback(lambda committed: self._committed(batch, results, committed.exception()))

    def _attempt(self, batch: list[Work]) -> list[Any] | None:
        try:
            self._book.begin()
            return [work.do(self._book) for work in batch]
        except Exception:  # noqa: BLE001 - found out below, one by one
            self._book.rollback()
            return None

    def _alone(self, work: Work) -> Any:
        try:
            self._book.begin()
            result = work.do(self._book)
            self._book.commit()
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            self._book.rollback()
            return error
        return result

    def _committed(self, batch: list[Work], results: list[Any], error: BaseException | None) -> None:
        if error is not None:
            log.error("commit failed: %s", error)
            self._book.rollback()
            results = [error] * len(batch)
        self._finish(batch, results)

    def _finish(self, batch: list[Work], results: list[Any]) -> None:
        for work, result in zip(batch, results, strict=True):
            try:
                work.done(result)
            except Exception:
                log.exception("an answer could not be given")
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        else:
            self._busy = False
