"""What an outbox row is: before it is written, while it is claimed, and after nobody could do it."""

import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

# A row whose claims vanish again and again may be killing its workers. From the third on it runs with nothing beside it, so
# that the rows around it are not blamed; three more crashes alone, and it is the row.
ALONE_AFTER_VANISHED = 3
GIVE_UP_AFTER_VANISHED = 6

# Full jitter from 1 s up to a minute: waits of the business (retries of a webhook, look-ups) are not the outbox's.
BACKOFF_BASE_SECONDS = 1.0
BACKOFF_CAP_SECONDS = 60.0

# Ten failures with full jitter last some three minutes; an actor knows better.
DEFAULT_FAILURES_LIMIT = 10

# An error is for a reader; a stack of a megabyte in a row is not.
ERROR_LENGTH = 2000


class Postpone(Exception):
    """Not now: the row comes back after `seconds`, and nothing is counted."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"postponed for {seconds} s")
        self.seconds = seconds


class Bury(Exception):
    """From `on_exhausted`: nothing was done and nothing can be; the row becomes a dead letter after all."""


class LeaseLost(Exception):
    """The row has been claimed by somebody else or is already settled; its effects must not be committed."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """`payload` is JSON text and holds no secret; `lane` is what must not hold up the others (a provider, an endpoint)."""

    queue: str
    lane: str
    actor: str
    payload: str
    subject: str | UUID | None = None
    tenant: str | UUID | None = None
    traceparent: str | None = None
    due_in_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that is ours until its lease ends; `subject` and `tenant` are 32 hex digits.

    `deadline` is monotonic: half a lease after the claim was sent. Whoever is about to write a request that cannot be taken
    back asks `past_deadline()` first and drops the row when it is.
    """

    id: int
    queue: str
    lane: str
    actor: str
    subject: str | None
    tenant: str | None
    payload: str
    traceparent: str | None
    attempt: int
    failures: int
    returned: int
    deadline: float = math.inf

    @property
    def vanished(self) -> int:
        """How many earlier claims ended without a word."""
        return self.attempt - self.failures - self.returned - 1

    @property
    def maybe_sent(self) -> bool:
        """An earlier claim vanished with its worker: what it was about to do may have been done."""
        return self.vanished > 0

    @property
    def first_attempt(self) -> bool:
        """No earlier claim did anything: each was postponed or handed back before its handler ran."""
        return self.attempt == self.returned + 1

    def past_deadline(self) -> bool:
        return time.monotonic() > self.deadline


Handler = Callable[[Claimed], Awaitable[None]]
OnExhausted = Callable[[Claimed, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Actor:
    """What is done with the rows that name it.

    `run` settles its row in the transaction of its effects; what it raises is a failure. After `failures_limit` of them the row
    becomes a dead letter, or, with `never_dead_letter`, `on_exhausted(row, error)` says what becomes of it and settles it.
    """

    name: str
    run: Handler
    failures_limit: int = DEFAULT_FAILURES_LIMIT
    never_dead_letter: bool = False
    on_exhausted: OnExhausted | None = None

    def __post_init__(self) -> None:
        if self.never_dead_letter != (self.on_exhausted is not None):
            raise ValueError(f"actor {self.name!r}: never_dead_letter and on_exhausted go together")


@dataclass(frozen=True, slots=True)
class Failed:
    """A row and its error; it comes back after `retry_in_seconds`, or is a dead letter when that is None."""

    row: Claimed
    error: str
    retry_in_seconds: float | None = field(default=None)


def backoff_seconds(failures: int) -> float:
    """Full jitter: anything from 0 to the cap that doubles with each failure."""
    return random.uniform(0.0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(failures, 30)))  # noqa: S311 - spreads load, guards nothing


def error_text(error: BaseException | str) -> str:
    """One readable piece of text that every database encoding accepts."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:ERROR_LENGTH]
