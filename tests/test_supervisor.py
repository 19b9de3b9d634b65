import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.supervisor import NeverReady, Spec, Supervisor, readable

ROOT = Path(__file__).parents[1]
GOOD = "import time; print('{\"ready\": true}', flush=True); time.sleep(60)"
SLOW_TO_END = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + GOOD


def supervisor(tmp_path: Path, scripts: dict[str, str], shown: list[tuple[str, str]] | None = None) -> Supervisor:
    specs = [Spec(name, name, (sys.executable, "-c", script), os.environ, tmp_path / f"{name}.log") for name, script in scripts.items()]
    lines = [] if shown is None else shown
    return Supervisor(specs, directory=tmp_path, show=lambda name, line: lines.append((name, line)), on_change=lambda: None)


def start(one: Supervisor) -> None:
    assert one.start(ready_within=20, give_up_after=3, stop=lambda: False)


def test_it_is_ready_when_all_have_said_so(tmp_path: Path) -> None:
    """Other output before the line is shown and waited past."""
    shown: list[tuple[str, str]] = []
    one = supervisor(tmp_path, {"a": GOOD, "b": "print('{\"ready\": false}'); print('warming up'); " + GOOD}, shown)

    start(one)
    one.end(["a", "b"], within=5)

    assert ("b", "warming up") in shown
    assert ("a", "ready") in shown
    assert ("b", "ready") in shown
    assert one.pids() == {"a": [], "b": []}


def test_what_dies_comes_back(tmp_path: Path) -> None:
    """A killed process is replaced by another one, the others stay."""
    one = supervisor(tmp_path, {"a": GOOD, "b": GOOD})
    start(one)
    before = one.pids()
    os.kill(before["a"][0], signal.SIGKILL)

    end = time.monotonic() + 20
    one.watch(stop=lambda: one.pids()["a"] not in ([], before["a"]) or time.monotonic() > end, each_tick=lambda: None)
    after = one.pids()
    one.end(["a", "b"], within=5)

    assert after["b"] == before["b"]
    assert after["a"] != before["a"]
    assert len(after["a"]) == 1


def test_what_cannot_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    """Only at the beginning: a system that has been up is never given up."""
    one = supervisor(tmp_path, {"a": GOOD, "b": "import sys; sys.exit('no such thing')"})

    with pytest.raises(NeverReady, match=r"(?s)b does not start; see \S*b\.log.*no such thing"):
        start(one)

    one.end(["a", "b"], within=5)


def test_who_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    """A drain has an end, whatever hangs."""
    one = supervisor(tmp_path, {"a": SLOW_TO_END})
    start(one)
    process = one.children[0].process
    assert process is not None

    begun = time.monotonic()
    one.end(["a"], within=0.5)

    assert time.monotonic() - begun < 5
    assert process.returncode == -signal.SIGKILL


def test_asked_to_stop_while_starting_it_does_not_wait(tmp_path: Path) -> None:
    """Ctrl-C in the first second ends the start."""
    one = supervisor(tmp_path, {"a": "import time; time.sleep(60)"})

    assert one.start(ready_within=60, give_up_after=3, stop=lambda: True) is False

    one.end(["a"], within=5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    """SIGKILL leaves no time to end anything; the kernel does it."""
    script = (
        "import sys, time; from pathlib import Path; from tests import test_supervisor as t\n"
        f"one = t.supervisor(Path({str(tmp_path)!r}), {{'a': t.SLOW_TO_END}}); t.start(one)\n"
        "print(one.pids()['a'][0], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        owner.kill()

    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)

    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_json_line_is_shown_as_a_person_reads_it() -> None:
    """Time, process, level where it matters, what happened, and the rest as pairs; other lines as they came."""
    line = '{"timestamp": "2026-11-20T12:34:56.000Z", "level": "warning", "event": "slow", "payment_id": "pay_1", "psp": null}'

    assert readable("web-1", line) == "12:34:56 web-1      warning: slow payment_id=pay_1"
    assert readable("web-1", "Traceback").endswith(" web-1      Traceback")
    assert readable("web-1", "{broken").endswith(" web-1      {broken")
    assert readable("web-1", '{"tags": ["a"]}').endswith("tags=['a']")
