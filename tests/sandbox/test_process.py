"""Starting, stopping, dying."""

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sandbox.control import is_local
from tests.sandbox.running import RunningSandbox, eventually, running_sandbox


def start_in_vain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sandbox", *arguments], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_when_asked_to(tmp_path: Path, signal_number: signal.Signals) -> None:
    """The ready line names the address; a signal ends it with 0, although a connection is held without an answer."""
    with running_sandbox(tmp_path) as sandbox:
        assert sandbox.ready["ready"] is True
        with pytest.raises(TimeoutError):
            sandbox.operate("sale", "held", card="timeout_after_effect", timeout=0.2)
        with socket.create_connection(("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))):
            sandbox.process.send_signal(signal_number)

            assert sandbox.process.wait(5) == 0


def test_requests_in_hand_are_answered_before_it_ends(tmp_path: Path) -> None:
    """A slow sale that is under way when the signal comes is still answered and booked."""
    with running_sandbox(tmp_path, "--slow-seconds", "1") as sandbox, ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(sandbox.operate, "sale", "slow", card="slow")
        time.sleep(0.3)

        assert sandbox.stop() == 0
        assert under_way.result().json["status"] == "captured"


def test_a_book_has_one_keeper(tmp_path: Path) -> None:
    """A second process on the same data says why it does not start; after a SIGKILL the next one starts at once."""
    with running_sandbox(tmp_path) as first:
        second = start_in_vain("--data", str(tmp_path))
        first.kill()
        with running_sandbox(tmp_path) as third:
            assert third.call("GET", "/healthz").status == 200

    assert second.returncode == 1
    assert second.stderr.startswith("sandbox: another sandbox keeps its book in ")


def test_what_it_cannot_use_is_said_without_a_traceback(tmp_path: Path) -> None:
    """A taken port and an impossible directory end with 1, wrong usage with 2, and one line says why."""
    (tmp_path / "file").touch()
    with running_sandbox(tmp_path / "book") as sandbox:
        taken = start_in_vain("--data", str(tmp_path / "other"), "--port", sandbox.url.rsplit(":", 1)[1])
    impossible = start_in_vain("--data", str(tmp_path / "file" / "inside"))
    usage = start_in_vain("--port", "many")

    assert (taken.returncode, impossible.returncode, usage.returncode) == (1, 1, 2)
    assert "Traceback" not in taken.stderr + impossible.stderr + usage.stderr
    assert "cannot listen" in taken.stderr
    assert "cannot keep a book" in impossible.stderr


def test_sigkill_loses_no_answered_effect(tmp_path: Path) -> None:
    """Killed again and again under load, the book still has every effect that a client was told of, each exactly once."""
    told: dict[str, str] = {}
    stopped = threading.Event()
    current: list[RunningSandbox] = []

    def more_than(count: int) -> bool:
        return len(told) > count

    def sell(client: int) -> None:
        number = 0
        while not stopped.is_set():
            reference = f"{client}-{number}"
            try:
                reply = current[0].operate("sale", reference)
            except OSError:
                time.sleep(0.01)  # dead for now: the same key again
                continue
            assert reply.status == 200
            told[reference] = reply.json["charge"]
            number += 1

    current.append(RunningSandbox(tmp_path))
    try:
        with ThreadPoolExecutor(8) as threads:
            clients = [threads.submit(sell, client) for client in range(8)]
            for _ in range(5):
                eventually(partial(more_than, len(told) + 20))
                current[0].kill()
                current[0] = RunningSandbox(tmp_path)
            stopped.set()
            for client in clients:
                client.result()
        booked = {line["reference"]: line["charge"] for line in current[0].journal()}
        assert len(current[0].journal()) == len(booked)
    finally:
        stopped.set()
        current[0].stop()

    assert len(told) > 100
    assert {reference: booked.get(reference) for reference in told} == told


def test_a_later_half_survives_a_sigkill(tmp_path: Path) -> None:
    """A refund that was answered pending succeeds although the process died in between."""
    with running_sandbox(tmp_path, "--later-seconds", "0.5") as sandbox:
        charge = sandbox.operate("sale", "sale", card="refund_pending").json["charge"]
        assert sandbox.operate("refund", "refund", charge=charge).json["status"] == "pending"
        sandbox.kill()

    with running_sandbox(tmp_path) as sandbox:
        eventually(lambda: sandbox.look_up("refund").json["status"] == "succeeded")
        assert len(sandbox.journal("refund")) == 1


@pytest.mark.parametrize(
    ("peer", "local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("", False)],
)
def test_only_this_machineis_local(peer: str, *, local: bool) -> None:
    """The journal and the faults are for loopback peers alone."""
    assert is_local(peer) is local


def test_the_controls_are_hidden_from_other_machines(tmp_path: Path) -> None:
    """Over the machine's outer address, as another machine would come, journal and controls are 404 while operations work."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the system from which address it would
            outer: str = probe.getsockname()[0]
    except OSError:
        pytest.skip("this machine has no address but loopback")
    with running_sandbox(tmp_path, "--host", "0.0.0.0") as sandbox:
        sandbox.url = sandbox.url.replace("127.0.0.1", outer)

        hidden = [sandbox.call(*request).status for request in (("GET", "/journal"), ("DELETE", "/_control/faults"))]

        assert hidden == [404, 404]
        assert sandbox.operate("sale", "outer").status == 200
