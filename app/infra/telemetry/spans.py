"""One trace from the merchant's request to the webhook: who is whose parent travels as `traceparent` (W3C) in headers and outbox rows.

A span is told when it has ended, from its own and its parent's traceparent; while it runs nothing exists but that text. So without an
exporter all that is left is one question, and the text: logs need the trace id either way.
"""

import os
import re
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from app.infra.logs import about

Kind = Literal["server", "consumer", "client"]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
# A trace id and a span id of hex digits; one call to the system makes so many.
_RANDOM_DIGITS = 48
_POOLED = 128
_random: list[str] = []

# A child that inherited the pool would hand out its parent's ids.
os.register_at_fork(after_in_child=_random.clear)


class Span(NamedTuple):
    """One that has ended. `failed` says why it is an error, None where it is none; instants are nanoseconds since 1970."""

    name: str
    kind: Kind
    traceparent: str
    parent: str | None
    started_at_ns: int
    ended_at_ns: int
    attributes: dict[str, Any]
    failed: str | None = None
    error: BaseException | None = None


class Exporter(Protocol):
    def tell(self, span: Span) -> None: ...

    def close(self) -> None:
        """Everything told has left when it returns."""
        ...


exporter: Exporter | None = None
# The innermost span that is running, and what the headers of calls from inside it carry.
current: ContextVar[str | None] = ContextVar("tollgate_traceparent", default=None)


def accepted(header: bytes | None) -> str | None:
    """A caller's `traceparent`, or None for what is not one."""
    if header is None:
        return None
    found = _TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (more and version == b"00") or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    # The words of this version, whatever a later one may add.
    return f"00-{trace_id.decode()}-{span_id.decode()}-0{int(flags, 16) & 1}"


def begin(parent: str | None) -> str:
    """The traceparent of a span that begins now. Without an exporter there is no span, so a parent stands for itself."""
    if exporter is None and parent is not None:
        return parent
    digits = _random.pop() if _random else _refill()
    if parent is not None:
        return f"{parent[:36]}{digits[32:]}{parent[52:]}"
    return f"00-{digits[:32]}-{digits[32:]}-{'00' if exporter is None else '01'}"


def trace_id(traceparent: str | None) -> str | None:
    return traceparent[3:35] if traceparent else None


def is_sampled(traceparent: str) -> bool:
    return traceparent[-1] == "1"


def outgoing() -> str | None:
    """What a request to somebody else carries. A trace that nobody records is not offered: it would tell others not to record theirs."""
    traceparent = current.get()
    return traceparent if traceparent is not None and is_sampled(traceparent) else None


class client_span:  # noqa: N801 - used as a statement: `with client_span(...)`
    """A call to somebody else; a child of `current`. What it raises is told and passed on."""

    __slots__ = ("_attributes", "_before", "_name", "_started_at_ns", "failed", "traceparent")

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self._name = name
        self._attributes = attributes
        # Set it when the answer is no exception and yet a failure.
        self.failed: str | None = None

    def __enter__(self) -> Self:
        if exporter is not None:
            self._before = current.get()
            self.traceparent = begin(self._before)
            self._started_at_ns = time.time_ns()
            current.set(self.traceparent)
        return self

    def add(self, **attributes: str | float | bool | None) -> None:
        self._attributes.update(attributes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if exporter is None:
            return
        current.set(self._before)
        if error is not None and self.failed is None:
            self.failed = type(error).__name__
        whose = about.get()
        tell(
            Span(
                self._name,
                "client",
                self.traceparent,
                self._before,
                self._started_at_ns,
                time.time_ns(),
                {**({} if whose is None else whose.log_fields()), **self._attributes},
                self.failed,
                error,
            )
        )


def tell(span: Span) -> None:
    if exporter is not None and is_sampled(span.traceparent):
        exporter.tell(span)


def _refill() -> str:
    digits = os.urandom(_POOLED * _RANDOM_DIGITS // 2).hex()
    fresh = [digits[start : start + _RANDOM_DIGITS] for start in range(0, len(digits), _RANDOM_DIGITS)]
    mine = fresh.pop()
    _random.extend(fresh)
    return mine
