"""What processes write to stdout: one JSON object a line, six fields to search by, and nothing that must not leave."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.infra.logs import ALLOWED, LINES_KEPT, SIX
from app.infra.scrubbing import CARD, SECRET, Scrubber
from tests.architecture.sources import definitions
from tests.flows.shop import eventually, method
from tests.telemetry.conftest import Watched, shop_of

PACKAGES = Path(__file__).resolve().parents[2]
CARD_NUMBER = "4242424242424242"
HEAD = {"timestamp", "level", "event", "process", "logger", *SIX}

# As a process configures itself, then what it does with its loggers.
PROGRAM = """
import asyncio, logging, sys
import psycopg, structlog
from app.infra import logs
logs.configure(process="web", level={level!r}, readable={readable}, secrets=["a password of ours"])
ours, theirs = structlog.get_logger("ours"), logging.getLogger("outbox")
{statements}
logs.flush()
"""


def said(statements: str, *, level: str = "info", readable: bool = False) -> list[str]:
    program = PROGRAM.format(level=level, readable=readable, statements=statements)
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGES, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def lines(statements: str, *, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(statements, level=level)]


async def line_of(watched: Watched, process: str, event: str, **fields: Any) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = [line for line in watched.lines(process) if line.get("event") == event and fields.items() <= line.items()]
        return found[0] if found else None

    return await eventually(look, what=f"a line {event} with {fields}")


async def test_a_payments_lines_are_found_by_six_fields(plain: Watched, session: aiohttp.ClientSession) -> None:
    """The request's line and the provider's have merchant, payment and trace in common; the one has the key, the other the charge."""
    shop = await shop_of(plain, session)
    intent = await shop.intent("approved")

    reply = await shop.confirm(intent, key="order-7", headers={"X-Request-ID": "mine-7"})

    asked = await line_of(plain, "web", "request", request_id="mine-7")
    answered = await line_of(plain, "worker", "psp_answered", payment_id=reply.json["payment_id"])
    shared = ("trace_id", "merchant_id", "payment_id", "payment_intent_id")
    assert set(asked) >= HEAD
    assert {name: asked[name] for name in shared} == {name: answered[name] for name in shared}
    assert (asked["merchant_id"], asked["payment_intent_id"]) == (intent["merchant_id"], intent["id"])
    assert (asked["idempotency_key"], asked["status"], asked["method"]) == ("order-7", 200, "POST")
    assert asked["route"] == "/v1/payment_intents/{payment_intent_id}/confirm"
    assert answered["provider_reference"] == (await shop.read(f"/v1/payments/{reply.json['payment_id']}"))["provider_ref"]
    assert (answered["psp"], answered["operation"], answered["outcome"]) == ("sandbox", "sale", "approved")


async def test_a_declined_payment_is_named_in_its_requests_line(plain: Watched, session: aiohttp.ClientSession) -> None:
    """Also where the answer is a problem document, and where the request created what it is about."""
    shop = await shop_of(plain, session)
    body = {"amount": 500, "currency": "USD", "payment_method": method("declined"), "confirm": True, "metadata": {"payment_id": "pay_x"}}

    reply = await shop.post("/v1/payment_intents", body, headers={"X-Request-ID": "declined-1"})

    line = await line_of(plain, "web", "request", request_id="declined-1")
    assert (reply.status, line["status"], line["payment_id"]) == (402, 402, reply.json["payment_id"])


async def test_every_process_says_one_line_that_it_is_ready(plain: Watched, session: aiohttp.ClientSession) -> None:
    """Readiness stays a line of its own among the log lines, which are all JSON objects."""
    await shop_of(plain, session)

    for process, count in (("web", 2), ("worker", 1), ("clock", 1)):
        assert sum(line.get("ready") is True for line in plain.lines(process)) == count


async def test_no_line_holds_a_secret_that_a_request_brought(plain: Watched, session: aiohttp.ClientSession) -> None:
    """A card number or an API key in the fields that callers choose is not written."""
    shop = await shop_of(plain, session)

    for name, planted in (("a", CARD_NUMBER), ("b", "4242 4242 4242 4242"), ("c", shop.merchant.secret)):
        reply = await shop.post(
            "/v1/payment_intents", {"amount": 1, "currency": "USD"}, key=planted, headers={"X-Request-ID": f"plant-{name}"}
        )
        assert reply.status == 201
        line = await line_of(plain, "web", "request", request_id=f"plant-{name}")
        assert line["idempotency_key"] in (CARD.decode(), SECRET.decode())
    text = "".join(path.read_text() for path in (plain.home / "logs").iterdir())
    assert [planted for planted in (CARD_NUMBER, "4242 4242", shop.merchant.secret, "tok_sandbox_") if planted in text] == []


def test_fields_that_nobody_allowed_are_left_out_by_name() -> None:
    """What a new field would hold is not written until somebody has thought about it."""
    ours, theirs = lines(
        'ours.info("one", operation="sale", card="4242")\ntheirs.warning("two %d", 2, extra={"payer": "Ada", "queue": "psp"})'
    )

    assert (ours["operation"], ours["dropped"], "card" in ours) == ("sale", ["card"], False)
    assert (theirs["event"], theirs["queue"], theirs["dropped"], "payer" in theirs) == ("two 2", "psp", ["payer"], False)
    assert (ours["logger"], theirs["logger"], theirs["level"], theirs["process"]) == ("ours", "outbox", "warning", "web")


def test_an_exception_is_one_line_without_the_rows_contents() -> None:
    """A refused row is named by its constraint; what stood in it is left out."""
    refused = "psycopg.errors.CheckViolation('violates a_check\\nDETAIL:  Failing row contains (Ada, 4242424242424242).')"
    for line in lines(f"try:\n    raise {refused}\nexcept psycopg.Error:\n    ours.exception('x')\n    theirs.exception('y')"):
        assert "a_check" in line["exception"]
        assert "Traceback" in line["exception"]
        assert "Ada" not in json.dumps(line)


@pytest.mark.parametrize(
    "planted",
    [
        "sk_test_" + "0a" * 32,
        "sk_live_" + "0a" * 32,
        "pk_test_" + "0a" * 32,
        "ops_" + "0a" * 32,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "tok_01h455vb4pex5vsknk084sn02q",
        "a password of ours",
        "4242424242424242",
        "4242-4242-4242-4242",
        "5555 5555 5555 4444",
        "378282246310005",
    ],
)
def test_a_secret_is_taken_out_wherever_it_stands(planted: str) -> None:
    """In a message, in a field and in an exception, of our loggers and of others'."""
    text = "\n".join(
        said(
            f"theirs.error('it was {planted}, said he')\nours.error('x', detail={{'deep': ['{planted}']}})\n"
            f"try:\n    raise ValueError('{planted}')\nexcept ValueError:\n    ours.exception('y')"
        )
    )

    assert len(text.splitlines()) == 3
    assert planted not in text


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer [secret]"),
        ("pi_01h455vb4pex5vsknk084sn02q_secret_c2VjcmV0c2VjcmV0", "pi_01h455vb4pex5vsknk084sn02q_secret_[secret]"),
        ("postgresql://me:hidden@host/db", "postgresql://[secret]@host/db"),
        # Not card numbers: a wrong check digit, an id that happens to be digits, an instant in microseconds.
        ("4242424242424241", "4242424242424241"),
        ("42424242424242424242424242424242", "42424242424242424242424242424242"),
        ("1790000000000000", "1790000000000000"),
    ],
)
def test_what_is_taken_out_is_the_secret_alone(given: str, left: str) -> None:
    """The rest of the line still says what happened."""
    assert Scrubber()(given.encode()).decode() == left


def test_a_level_is_the_least_that_is_written() -> None:
    """LOG_LEVEL holds for our loggers and for others', whose chatter stays out at INFO."""
    statements = "ours.info('a')\ntheirs.info('b')\nlogging.getLogger('uvicorn.error').info('c')\nours.warning('d')\ntheirs.warning('e')"

    assert [line["event"] for line in lines(statements)] == ["a", "b", "d", "e"]
    assert [line["event"] for line in lines(statements, level="warning")] == ["d", "e"]
    assert [line["event"] for line in lines(statements, level="debug")] == ["a", "b", "c", "d", "e"]


def test_lines_for_a_terminal_say_the_same() -> None:
    """LOG_FORMAT=readable: time, level, event, then what is known."""
    (line,) = said("ours.warning('late', queue='psp', error=None)", readable=True)

    assert line.split()[1:] == ["warning", "late", "process=web", "logger=ours", "queue=psp"]


def test_what_cannot_be_encoded_costs_its_line_and_nothing_else() -> None:
    """A lone surrogate is no reason to fail a request."""
    first, second = lines("ours.info('x', detail='\\ud800')\nours.info('y')")

    assert (first["event"], first["error"], second["event"]) == ("a line could not be logged", "UnicodeEncodeError", "y")


def test_a_stdout_that_takes_nothing_stops_nobody() -> None:
    """Nobody reads: the process goes on, ends in time, and tells how many lines were lost if somebody reads again."""
    program = PROGRAM.format(
        level="info",
        readable=False,
        statements=f"for number in range({LINES_KEPT} + 500): ours.info('line', detail='x' * 100)\nsys.stderr.write('done\\n')",
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=PACKAGES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline() == "done\n"
        assert process.wait(120) == 0
        # What the pipe had taken before it was full.
        assert json.loads(process.stdout.readline())["event"] == "line"


def test_a_last_line_for_a_stdout_that_takes_nothing_stops_nobody() -> None:
    """The process ends in time also where its very last words meet a pipe that is full already."""
    fill = "import os\nos.set_blocking(1, False)\ntry:\n    while True: os.write(1, b'x' * 4096)\nexcept BlockingIOError: os.set_blocking(1, True)\n"
    program = PROGRAM.format(level="info", readable=False, statements=f"{fill}ours.info('last')")
    with subprocess.Popen([sys.executable, "-c", program], cwd=PACKAGES, stdout=subprocess.PIPE) as process:
        assert process.wait(60) == 0


def test_every_field_that_the_code_says_is_allowed() -> None:
    """A field that is dropped at run time is a line that says less than its author meant."""
    loggers = {"log", "_log", "logger"}
    unknown = set()
    for one in definitions(under=("app", "workers", "outbox")):
        for node in ast.walk(one.node):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)):
                continue
            if node.func.value.id in loggers:
                given = {keyword.arg for keyword in node.keywords if keyword.arg not in (None, "exc_info", "stack_info", "extra")}
                unknown |= {f"{one}: {name}" for name in given if name not in ALLOWED}

    assert unknown == set()
