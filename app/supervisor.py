"""Keeps a few processes of one machine running: starts them, waits until they are ready, restarts what dies, ends them in order.

Each child has a session of its own, so that Ctrl-C reaches it only through here, and dies with its supervisor however that ends. It
writes to a file, which is read from here, so that its lines survive either of them. One line on its stdout says that it is ready:
a JSON object with `"ready": true`.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.infra.children import die_with_parent

# A process that was killed comes back at once, one that cannot start does not spin.
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
# Whoever has lived this long has started well; its next death is a new story.
_SETTLED_SECONDS = 10.0
_TICK_SECONDS = 0.05


class NeverReady(Exception):
    """A process does not start; the message has its last lines."""


class Spec(NamedTuple):
    """`kind` groups processes that are reported and ended together; `inherited` are file descriptors kept open."""

    kind: str
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    inherited: tuple[int, ...] = ()


class Child:
    """One process and its successors."""

    def __init__(self, spec: Spec, show: Callable[[str, str], None]) -> None:
        self.spec = spec
        self.ready = False
        self.deaths = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._show = show
        self._born_at = 0.0
        self._start_at = 0.0
        self._read_to = spec.log.stat().st_size if spec.log.exists() else 0
        self._unfinished = b""
        self.last_lines: list[str] = []

    def start(self, directory: Path) -> None:
        self.ready = False
        self._born_at = time.monotonic()
        with self.spec.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.spec.command,
                cwd=directory,
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.spec.inherited,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one call into the C library, prepared before the fork
            )

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def look(self, directory: Path) -> bool:
        """Read what it said; bring it back if it died and its time has come. True when its process is another one now."""
        self.read()
        if self.alive():
            return False
        moment = time.monotonic()
        if self.process is not None:
            self._note_death(moment)
        if moment < self._start_at:
            return False
        self.start(directory)
        return True

    def read(self) -> None:
        with self.spec.log.open("rb") as log:
            log.seek(self._read_to)
            fresh = log.read()
        self._read_to += len(fresh)
        *lines, self._unfinished = (self._unfinished + fresh).split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace")
            if not self.ready and _says_ready(line):
                self.ready = True
                self._show(self.spec.name, "ready")
            elif line:
                self.last_lines = [*self.last_lines[-9:], line]
                self._show(self.spec.name, line)

    def _note_death(self, moment: float) -> None:
        assert self.process is not None
        self.deaths = 1 if moment - self._born_at > _SETTLED_SECONDS else self.deaths + 1
        delay = min(_FIRST_DELAY_SECONDS * 2 ** (self.deaths - 1), _LONGEST_DELAY_SECONDS)
        self._show(self.spec.name, f"ended with {self.process.returncode}, starts again in {delay:.1f} s")
        self._start_at = moment + delay
        self.process = None
        self.ready = False


class Supervisor:
    """`show` is given (name of the process, line); `on_change` is called after a process was replaced."""

    def __init__(self, specs: Iterable[Spec], *, directory: Path, show: Callable[[str, str], None], on_change: Callable[[], None]) -> None:
        self._directory = directory
        self._on_change = on_change
        self.children = [Child(spec, show) for spec in specs]

    def pids(self) -> dict[str, list[int]]:
        """Per kind, of those that run."""
        found: dict[str, list[int]] = {child.spec.kind: [] for child in self.children}
        for child in self.children:
            if child.process is not None and child.alive():
                found[child.spec.kind].append(child.process.pid)
        return found

    def start(self, *, ready_within: float, give_up_after: int, stop: Callable[[], bool]) -> bool:
        """Start all and wait until each is ready; False when `stop` came first. Raises NeverReady."""
        for child in self.children:
            child.start(self._directory)
        end = time.monotonic() + ready_within
        while not all(child.ready for child in self.children):
            if stop():
                return False
            late = time.monotonic() > end
            for child in self.children:
                child.look(self._directory)
                if not child.ready and (late or child.deaths >= give_up_after):
                    what = "is not ready" if child.alive() else "does not start"
                    raise NeverReady("\n".join([f"{child.spec.name} {what}; see {child.spec.log}", *child.last_lines]))
            time.sleep(_TICK_SECONDS)
        return True

    def watch(self, *, stop: Callable[[], bool], each_tick: Callable[[], None]) -> None:
        """Keep them running until `stop`."""
        while not stop():
            replaced = [child.look(self._directory) for child in self.children]
            if any(replaced):
                self._on_change()
            each_tick()
            time.sleep(_TICK_SECONDS)

    def end(self, kinds: Iterable[str], *, within: float) -> None:
        """Ask the processes of these kinds to end, and kill those that have not when the time is over."""
        wanted = set(kinds)
        ending = [child for child in self.children if child.spec.kind in wanted]
        for child in ending:
            if child.process is not None and child.alive():
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + within
        while any(child.alive() for child in ending) and time.monotonic() < deadline:
            for child in self.children:
                child.read()
            time.sleep(_TICK_SECONDS)
        for child in ending:
            if child.process is not None:
                if child.alive():
                    child.process.kill()
                child.process.wait()
            child.read()


def _says_ready(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return said.get("ready") is True


def readable(name: str, line: str) -> str:
    """A JSON log line as a person reads it; anything else as it came."""
    members: dict[str, Any] = {}
    if line.startswith("{"):
        try:
            members = json.loads(line)
        except ValueError:
            members = {}
    if not members:
        return f"{time.strftime('%H:%M:%S')} {name:<10} {line}"
    at = str(members.pop("timestamp", ""))[11:19] or time.strftime("%H:%M:%S")
    level, event = members.pop("level", "info"), members.pop("event", "")
    rest = " ".join(f"{key}={value}" for key, value in members.items() if value is not None and value != "")
    return f"{at} {name:<10} {'' if level == 'info' else f'{level}: '}{event} {rest}".rstrip()


def to_stderr(name: str, line: str) -> None:
    print(readable(name, line), file=sys.stderr, flush=True)
