"""The README, and the pages that go on from it, as a reader follows them: every shell block, in order, in one shell, in an empty folder."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

README, INTEGRATING, WEBHOOKS = ROOT / "README.md", ROOT / "docs/integrating.md", ROOT / "docs/webhooks.md"
END = "<<end of block>>\n"

pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the pages ask with curl, which is not installed"),
]

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What `make setup` leaves in a clone, as far as the pages use it; the database server's user can enter it."""
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-", dir="/tmp"))
    made.chmod(0o755)
    program = made / ".venv/bin/tollgate"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m app "$@"\n')
    program.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def shell(folder: Path) -> Iterator[Run]:
    """Runs a block in the reader's shell and gives what it printed; a block that fails ends the shell, and the test."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "DIRECT_DATABASE_URL"}}
    with subprocess.Popen(
        ["sh", "-eu"],
        cwd=folder,
        env={**environ, "PORT": str(port)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:

        def run(block: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            (folder / "block.sh").write_text(block)
            process.stdin.write(f". ./block.sh\nprintf '\\n{END.strip()}\\n'\n")
            process.stdin.flush()
            said: list[str] = []
            for line in process.stdout:
                if line == END:
                    return "".join(said)
                said.append(line)
            return pytest.fail("".join(said))

        yield run
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def started(shell: Run) -> Run:
    """The reader has come as far as the system that runs."""
    shell(blocks(README, "sh")[0])
    return shell


def test_the_readme_takes_a_payment(started: Run) -> None:
    """Created, confirmed, refunded in part; a decline with its reason; the timeline, and books that balance."""
    created, confirmed, refunded, declined, looked = (started(block) for block in blocks(README, "sh")[1:-1])

    assert '"status":"requires_confirmation"' in created
    assert '"status":"succeeded"' in confirmed
    assert re.search(r'"status": "succeeded".*"amount_captured": 2599.*"amount_refunded": 1000.*"fee": 105', refunded, re.DOTALL)
    assert re.search(r'"status": 402.*"decline_code": "insufficient_funds"', declined, re.DOTALL)
    assert '"what": "payment.captured"' in looked
    assert "balanced: debits equal credits" in looked


def test_integrating_keeps_its_word(started: Run) -> None:
    """A repeat is the same answer, another body is refused, a request that does not wait is 202 and comes to its end."""
    repeated, reused, waited = (started(block) for block in blocks(INTEGRATING, "sh"))

    assert "the same answer, and one charge" in repeated
    assert '"code": "idempotency_key_reused"' in reused
    assert waited.startswith("202\n")
    assert '"status":"succeeded"' in waited


def test_the_webhook_guide_receives_and_verifies(started: Run, folder: Path) -> None:
    """The receiver on the page, registered and paid as it says, prints events that it has verified."""
    [program] = blocks(WEBHOOKS, "python")
    (folder / "receiver.py").write_text(program)

    registered, paid, looked = (started(block) for block in blocks(WEBHOOKS, "sh"))

    assert registered.strip() == ""
    assert re.search(r"^payment\.captured pay_\w{26} verified$", paid, re.MULTILINE)
    assert '"status": "delivered"' in looked


def test_the_readme_ends_what_it_has_started(started: Run, folder: Path) -> None:
    """The last block drains the system and leaves no process behind."""
    assert naming(folder) != [] or not Path("/proc").exists()

    started(blocks(README, "sh")[-1])

    assert naming(folder) == []


def naming(folder: Path) -> list[str]:
    """Command lines that name the folder: the system's own, its database's, its provider's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [command] if str(folder) in command else []
    return found
