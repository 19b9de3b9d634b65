"""One JSON object a line on stdout, in every process: allow-listed fields, no secrets, and a reader that stands still stops nobody.

Our own loggers (structlog) and those of libraries (logging) end in the same `_line`. `about` says whose line it is: whoever begins to
work for somebody sets it, and it is asked only when something is logged.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec
import structlog

from app.infra.scrubbing import Scrubber, without_row_contents

# Every line has them, null where there is none, so that a search by one of them finds all. Source: requirements R204.
SIX = ("request_id", "trace_id", "merchant_id", "payment_id", "idempotency_key", "provider_reference")
# What else may be said. A field that is not here is left out and only its name is told, in `dropped`.
ALLOWED = frozenset(
    (
        *SIX,
        *("payment_intent_id", "refund_id", "operation_id", "event_id", "endpoint_id", "psp", "operation", "outcome", "status", "reason"),
        *("method", "route", "path", "duration_ms", "queue", "lane", "actor", "row", "attempt", "failures", "rows", "task", "count"),
        *("error", "detail", "exception", "lost"),
    )
)
# Libraries tell of every connection at INFO; what they have to say to us begins above that.
QUIET = ("uvicorn", "dramatiq", "asyncio", "aiohttp", "psycopg", "opentelemetry", "urllib3", "requests")
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
LONGEST_TEXT = 8000
# Lines that wait for a stdout that takes nothing: some 4 MB. More are counted and lost.
LINES_KEPT = 10_000
# How long lines gather before they are written together; what SIGKILL takes along.
GATHER_SECONDS = 0.05
FLUSH_SECONDS = 2.0

Fields = Mapping[str, object]


class Told(Protocol):
    """What work is for: a request, an outbox row."""

    def log_fields(self) -> Fields:
        """Names of `ALLOWED`."""
        ...


about: ContextVar[Told | None] = ContextVar("tollgate_about", default=None)

_encode = msgspec.json.Encoder(enc_hook=str).encode
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_NO_FIELDS: Fields = {}
_NONE_OF_SIX = dict.fromkeys(SIX)


class Output:
    """Gathers lines and writes them from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._lost = 0
        self._wanted = threading.Event()
        self._writing = False
        threading.Thread(target=self._write_for_ever, name="logs", daemon=True).start()

    def put(self, line: bytes) -> None:
        if len(self._lines) < LINES_KEPT:
            self._lines.append(line)
        else:
            self._lost += 1
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self) -> None:
        """What was put before is out, or stdout takes nothing. Only the thread writes: whoever waits for it can stop waiting."""
        end = time.monotonic() + FLUSH_SECONDS
        while (self._lines or self._writing) and time.monotonic() < end:
            self._wanted.set()
            time.sleep(GATHER_SECONDS / 2)

    def _write_for_ever(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(GATHER_SECONDS)
            self._wanted.clear()
            self._writing = True
            self._write()
            self._writing = False

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        lost, self._lost = self._lost, 0
        if lost:
            lines.append(_line("warning", "log lines were lost", "logs", {"lost": lost}))
        left = memoryview(b"".join(lines))
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            # Nobody listens any more; the work goes on.
            return


class _Configured:
    """What `configure` was told; before that nothing of ours is logged."""

    process = ""
    readable = False
    least = 20
    output: Output | None = None
    scrub = Scrubber()


_now = _Configured()


def configure(*, process: str, level: str, readable: bool, secrets: Iterable[str] = ()) -> None:
    """Once per process, before anything is logged. `secrets` are never written, whatever says them."""
    _now.process, _now.readable, _now.least = process, readable, LEVELS[level]
    _now.scrub = Scrubber(secrets)
    sys.stdout.flush()
    _now.output = Output(sys.stdout.fileno())
    structlog.configure(
        processors=[_finish],
        wrapper_class=structlog.make_filtering_bound_logger(_now.least),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(_now.least)
    logging.captureWarnings(capture=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(_now.least, logging.WARNING) if level != "debug" else logging.DEBUG)


def flush() -> None:
    if _now.output is not None:
        _now.output.flush()


def say(level: str, event: str, logger: str, fields: Fields, *, foreign: str | None = None) -> None:
    """A line of the hot road, without a logger's way: `fields` are names of `ALLOWED`. `foreign`: the only part that others wrote."""
    if _now.output is not None and LEVELS[level] >= _now.least:
        _now.output.put(_line(level, event, logger, fields, foreign))


def scrubbed(text: str) -> str:
    """As a line would show it: for texts that leave another way, such as an error on a span."""
    return _now.scrub(text.encode("utf-8", "replace")).decode("utf-8", "replace")


class _Lines:
    """What structlog hands finished lines to."""

    def __init__(self, *names: str) -> None:
        self.name = names[0] if names else ""

    def msg(self, line: bytes) -> None:
        if _now.output is not None:
            _now.output.put(line)

    debug = info = warning = error = critical = msg


def _finish(logger: _Lines, level: str, fields: MutableMapping[str, Any]) -> bytes:
    """The last, and only, step of structlog's chain."""
    event = str(fields.pop("event", ""))
    failed = fields.pop("exc_info", None)
    if failed:
        fields["exception"] = _traceback(failed)
    return _line(level, event, logger.name, _allowed(fields))


class _Foreign(logging.Handler):
    """Records of the standard library's loggers, and of libraries that know no other."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = _allowed({name: value for name, value in record.__dict__.items() if name not in _STANDARD})
        if record.exc_info:
            fields["exception"] = _traceback(record.exc_info)
        try:
            event = record.getMessage()
        except (TypeError, ValueError):
            event = str(record.msg)
        if _now.output is not None:
            _now.output.put(_line(record.levelname.lower(), without_row_contents(event)[:LONGEST_TEXT], record.name, fields))


def _allowed(fields: Fields) -> dict[str, object]:
    kept = {name: value for name, value in fields.items() if name in ALLOWED}
    if len(kept) != len(fields):
        kept["dropped"] = sorted(set(fields) - ALLOWED)
    return kept


def _line(level: str, event: str, logger: str, fields: Fields, foreign: str | None = None) -> bytes:
    whose = about.get()
    head = {"timestamp": _timestamp(), "level": level, "event": event, "process": _now.process, "logger": logger}
    try:
        said = _NO_FIELDS if whose is None else whose.log_fields()
        line = _encode({**head, **_NONE_OF_SIX, **said, **fields})
    except Exception as error:  # noqa: BLE001 - whatever cannot be said must not stop what it is about
        line = _encode({"timestamp": _timestamp(), "level": "error", "event": "a line could not be logged", "error": type(error).__name__})
    if foreign is None or _now.scrub.suspects(foreign):
        line = _now.scrub(line)
    return _as_text(line) if _now.readable else line + b"\n"


def _as_text(line: bytes) -> bytes:
    members = msgspec.json.decode(line)
    at, level, event = str(members.pop("timestamp"))[11:23], members.pop("level"), members.pop("event")
    failed = members.pop("exception", None)
    rest = " ".join(f"{name}={value}" for name, value in members.items() if value not in (None, ""))
    return f"{at} {level:<7} {event}  {rest}\n{failed or ''}".encode()


_second = (0, "")


def _timestamp() -> str:
    """RFC 3339 with microseconds; the part up to the second is made once a second."""
    global _second
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    known, text = _second
    if seconds != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}.{rest // 1000:06d}Z"


def _traceback(failed: Any) -> str:
    """From what `exc_info` may be: an exception, what sys.exc_info() gave, or True for that."""
    given = failed if isinstance(failed, BaseException | tuple) else sys.exc_info()
    error: BaseException | None = given[1] if isinstance(given, tuple) else given
    if error is None:
        return ""
    return without_row_contents("".join(traceback.format_exception(error)))[-LONGEST_TEXT:]
