"""`tollgate demo` as somebody who has just cloned it runs it: what it prints, how it ends, what it leaves."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psycopg
import pytest
from standardwebhooks import Webhook

from app.demo.receiver import listening, verify
from app.webhooks.signing import shown, signature

ROOT = Path(__file__).parents[1]
# Named in the environment of every process of a demo, so that one that stays is found.
MARK = "TOLLGATE_TEST_MARK"
whole_system = pytest.mark.xdist_group("processes")


class Place(NamedTuple):
    """A directory for temporary files that an unprivileged user may enter, and the mark of what was started from here."""

    directory: Path
    mark: str

    def demo(self, *options: str, **environ: str) -> subprocess.Popen[str]:
        ours = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "DIRECT_DATABASE_URL"}}
        return subprocess.Popen(
            [sys.executable, "-m", "app", "demo", *options],
            cwd=ROOT,
            env={**ours, "TMPDIR": str(self.directory), MARK: self.mark, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def running(self) -> list[str]:
        """Command lines of processes that bear the mark or work below the directory; the database server bears none."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environ = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={self.mark}".encode() in environ or str(self.directory) in command:
                found.append(command)
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-", dir="/tmp"))
    made.chmod(0o755)
    yield Place(made, secrets.token_hex(8))
    shutil.rmtree(made, ignore_errors=True)


@whole_system
def test_the_demo_tells_the_whole_payment(place: Place) -> None:
    """What was authorized, captured, refunded and charged, what is owed, which webhooks verified, that the books balance; nothing stays."""
    demo = place.demo()
    out, err = demo.communicate(timeout=100)

    assert (demo.returncode, err) == (0, "")
    for line in (
        r"authorized +│ 25\.99",
        r"captured +│ 25\.99",
        r"refunded +│ 10\.00",
        r"fee +│  1\.05",
        r"USD +│ +14\.94 │ +0\.00 │ +14\.94",
        r"402 payment_declined: do_not_honor",
        r"payment\.captured +│ evt_\w+ +│ delivered, 204 +│ verified",
        r"payment_intent\.payment_failed +│ evt_\w+ +│ delivered, 204 +│ verified",
        r"sale succeeded +│ 25\.99 USD at sandbox",
        r"total +│ 37\.04 │ +37\.04",
        r"the merchant is owed 14\.94 USD",
        r"13 of 13 webhooks arrived and verified\. Debits equal credits\.",
    ):
        assert re.search(line, out), f"{line}\n{out}"
    assert "NOT VERIFIED" not in out
    assert (place.running(), list(place.directory.iterdir())) == ([], [])


@whole_system
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(place: Place, how: signal.Signals) -> None:
    """Ctrl-C while its processes start ends all of them, and its files are gone."""
    demo = place.demo()
    deadline = time.monotonic() + 60
    while len(place.running()) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)

    demo.send_signal(how)
    out, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130
    assert "Debits equal credits" not in out
    assert (place.running(), list(place.directory.iterdir())) == ([], [])


@whole_system
def test_a_named_server_is_used_and_left_as_it_was(place: Place, database_server: str) -> None:
    """With DATABASE_URL the demo makes a database of its own there, and drops it."""
    demo = place.demo(DATABASE_URL=database_server)
    out, err = demo.communicate(timeout=100)

    assert (demo.returncode, err) == (0, "")
    assert "Debits equal credits." in out
    with psycopg.connect(database_server) as connection:
        assert connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tollgate_demo_%'").fetchall() == []
    assert place.running() == []


def test_a_system_that_does_not_start_is_explained(place: Place) -> None:
    """The status and the reason are those of the system, without a traceback."""
    (place.directory / "file").write_text("")

    demo = place.demo("--data", str(place.directory / "file"))
    out, err = demo.communicate(timeout=60)

    assert (demo.returncode, out) == (2, "")
    assert "is not a directory" in err
    assert "Traceback" not in err


SECRET = shown(bytes(range(32)))
BODY = b'{"id":"evt_1","type":"payment.captured"}'


def signed(body: bytes, *, at: int, keys: tuple[bytes, ...] = (bytes(range(32)),)) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signature(keys, message_id="evt_1", timestamp=at, body=body),
    }


def test_the_receiver_believes_what_the_reference_library_believes() -> None:
    """A good signature verifies, one of two after a rotation too; a changed body, another secret or an old message does not."""
    now = int(time.time())
    good = signed(BODY, at=now)

    assert Webhook(SECRET).verify(BODY.decode(), good)
    assert verify(SECRET, good, BODY, now=now)
    assert verify(SECRET, signed(BODY, at=now, keys=(b"n" * 32, bytes(range(32)))), BODY, now=now)
    assert not verify(SECRET, good, BODY.replace(b"captured", b"refunded"), now=now)
    assert not verify(SECRET, signed(BODY, at=now, keys=(b"n" * 32,)), BODY, now=now)
    assert not verify(SECRET, good, BODY, now=now + 301)
    assert not verify(SECRET, {**good, "webhook-timestamp": "soon"}, BODY, now=now)
    assert not verify(SECRET, {}, BODY, now=now)


async def test_the_receiver_refuses_over_http_what_does_not_verify() -> None:
    """A forged webhook is answered 400 and shown as such, a good one 204."""
    async with listening() as receiver, aiohttp.ClientSession() as session:
        receiver.secret = SECRET
        async with session.post(receiver.url, data=BODY, headers=signed(BODY, at=int(time.time()), keys=(b"n" * 32,))) as refused:
            assert refused.status == 400
        assert not receiver.received["evt_1"].verified
        async with session.post(receiver.url, data=BODY, headers=signed(BODY, at=int(time.time()))) as taken:
            assert taken.status == 204

    assert receiver.received["evt_1"] == (json.loads(BODY), True)
