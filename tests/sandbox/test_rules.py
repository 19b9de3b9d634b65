import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.sandbox.running import RunningSandbox


@pytest.fixture
def authorized(sandbox: RunningSandbox, reference: str) -> str:
    """An open authorization of 2599 USD."""
    charge: str = sandbox.operate("authorize", f"{reference}-a").json["charge"]
    return charge


@pytest.fixture
def captured(sandbox: RunningSandbox, reference: str) -> str:
    """A captured sale of 2599 USD."""
    charge: str = sandbox.operate("sale", f"{reference}-a").json["charge"]
    return charge


def test_a_capture_may_take_less_but_only_once(sandbox: RunningSandbox, reference: str, authorized: str) -> None:
    """A partial capture is final: the rest is let go."""
    first = sandbox.operate("capture", reference, charge=authorized, amount=1000)
    second = sandbox.operate("capture", f"{reference}-2", charge=authorized, amount=1000)

    assert (first.status, first.json["status"], first.json["amount"]) == (200, "succeeded", 1000)
    assert (second.status, second.json["decline_code"]) == (402, "charge_not_authorized")
    assert [line["kind"] for line in sandbox.journal(reference)] == ["capture"]


@pytest.mark.parametrize(("amount", "currency"), [(2600, "USD"), (2599, "EUR")])
def test_a_capture_stays_within_the_authorization(
    sandbox: RunningSandbox, reference: str, authorized: str, amount: int, currency: str
) -> None:
    """More than authorized, or another currency, is refused."""
    reply = sandbox.operate("capture", reference, charge=authorized, amount=amount, currency=currency)

    assert (reply.status, reply.json["decline_code"]) == (402, "amount_too_large")


def test_a_void_lets_the_authorization_go(sandbox: RunningSandbox, reference: str, authorized: str) -> None:
    """A voided charge can be neither voided nor captured again."""
    reply = sandbox.operate("void", reference, charge=authorized)

    assert (reply.status, reply.json["status"], reply.json["amount"]) == (200, "succeeded", 2599)
    assert [(line["kind"], line["amount"]) for line in sandbox.journal(reference)] == [("void", 2599)]
    assert sandbox.operate("void", f"{reference}-2", charge=authorized).json["decline_code"] == "charge_not_authorized"
    assert sandbox.operate("capture", f"{reference}-3", charge=authorized).json["decline_code"] == "charge_not_authorized"


def test_there_is_no_void_after_a_capture(sandbox: RunningSandbox, reference: str, captured: str) -> None:
    """What was captured can only be refunded."""
    assert sandbox.operate("void", reference, charge=captured).json["decline_code"] == "charge_not_authorized"


def test_refunds_stay_within_what_was_captured(sandbox: RunningSandbox, reference: str, captured: str) -> None:
    """Of many refunds at once, only those that fit together succeed."""
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda n: sandbox.operate("refund", f"{reference}-{n}", charge=captured, amount=1000), range(20)))

    assert sorted(reply.status for reply in replies) == [200, 200, *[402] * 18]
    assert sum(line["amount"] for line in sandbox.journal() if line["charge"] == captured and line["kind"] == "refund") == 2000


def test_an_open_authorization_cannot_be_refunded(sandbox: RunningSandbox, reference: str, authorized: str) -> None:
    """There is nothing to give back before a capture."""
    assert sandbox.operate("refund", reference, charge=authorized).json["decline_code"] == "charge_not_captured"


@pytest.mark.parametrize("operation", ["capture", "void", "refund"])
def test_an_unknown_charge_is_declined(sandbox: RunningSandbox, reference: str, operation: str) -> None:
    """A charge that is not in the book is refused and remembered as refused."""
    assert sandbox.operate(operation, reference, charge="ch_nobody").json["decline_code"] == "charge_not_found"
    assert sandbox.look_up(reference).json["status"] == "declined"


def test_the_same_key_and_body_give_the_same_answer(sandbox: RunningSandbox, reference: str) -> None:
    """Twenty repeats at once have one effect, and every one is told the same."""
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: sandbox.operate("sale", reference), range(20)))

    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotent-replayed" in reply.headers for reply in replies) == 19
    assert len(sandbox.journal(reference)) == 1


def test_the_same_key_with_another_body_is_409(sandbox: RunningSandbox, reference: str) -> None:
    """A key belongs to one request, and to one operation."""
    charge = sandbox.operate("sale", reference).json["charge"]

    assert sandbox.operate("sale", reference, amount=1).status == 409
    assert sandbox.operate("refund", reference, charge=charge).status == 409
    assert len(sandbox.journal(reference)) == 1


def test_another_key_is_another_effect(sandbox: RunningSandbox, reference: str) -> None:
    """Only the key protects: the same reference under a new key, or under none, charges again."""
    for key in ("one", "two", ""):
        assert sandbox.operate("sale", reference, key=key and f"{reference}-{key}").status == 200

    assert len(sandbox.journal(reference)) == 3


def test_keys_that_are_not_honoured_protect_nothing(sandbox: RunningSandbox, reference: str) -> None:
    """Told to ignore keys, the provider books every request, and a look-up prefers the operation that had an effect."""
    sandbox.set(honour_idempotency_keys=False)
    charge = sandbox.operate("authorize", f"{reference}-a").json["charge"]

    statuses = [sandbox.operate("capture", reference, charge=charge).status for _ in range(2)]
    sales = [sandbox.operate("sale", f"{reference}-s").json["charge"] for _ in range(2)]

    assert statuses == [200, 402]
    assert sandbox.look_up(reference).json["status"] == "succeeded"
    assert len(set(sales)) == 2
    assert len(sandbox.journal(f"{reference}-s")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 0},
        {"amount": 25.99},
        {"amount": "5"},
        {"amount": 2**64},
        {"currency": "usd"},
        {"reference": ""},
        {"reference": None},
        {"payment_method": 5},
        {"return_url": "javascript:alert(1)"},
        {"merchant_reference": "x" * 256},
    ],
)
def test_an_ill_formed_request_is_422_and_not_booked(sandbox: RunningSandbox, reference: str, wrong: dict[str, object]) -> None:
    """What no operation could mean is refused without one."""
    body = {"reference": reference, "amount": 1, "currency": "USD", "payment_method": "tok_sandbox_approved", **wrong}

    reply = sandbox.call("POST", "/v1/sale", body)

    assert (reply.status, reply.json["error"]["code"]) == (422, "invalid_request")
    assert sandbox.look_up(reference).status == 404


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": "\x00"}', b"[" * 5000])
def test_what_is_not_json_is_400(sandbox: RunningSandbox, body: bytes) -> None:
    """Hostile bytes are refused and break nothing."""
    assert sandbox.call("POST", "/v1/sale", body).status in {400, 422}


def test_only_the_key_of_the_account_opens_it(sandbox: RunningSandbox, reference: str) -> None:
    """A missing or wrong bearer key is 401 and books nothing."""
    body = {"reference": reference, "amount": 1, "currency": "USD", "payment_method": "tok_sandbox_approved"}

    for authorization in ("", "Bearer wrong", "Bearer"):
        assert sandbox.call("POST", "/v1/sale", body, headers={"Authorization": authorization}).status == 401
        assert sandbox.call("GET", f"/v1/operations/{reference}", headers={"Authorization": authorization}).status == 401
    assert sandbox.look_up(reference).json["error"]["code"] == "operation_not_found"


def test_other_paths_methods_and_sizes_are_refused(sandbox: RunningSandbox) -> None:
    """404, 405 and 413 as anywhere."""
    assert sandbox.call("GET", "/v1/nothing").status == 404
    assert sandbox.call("GET", "/v1/sale").status == 405
    assert sandbox.call("POST", "/journal").status == 405
    assert sandbox.call("POST", "/v1/sale", b"x" * 70_000).status == 413


def test_requests_that_arrive_together_are_answered_in_order(sandbox: RunningSandbox, reference: str) -> None:
    """Two requests in one packet on one connection get two answers, the slow one first."""
    address = urlsplit(sandbox.url)
    both = b""
    for name in ("slow", "approved"):
        body = json.dumps({"reference": f"{reference}-{name}", "amount": 1, "currency": "USD", "payment_method": f"tok_sandbox_{name}"})
        head = f"POST /v1/sale HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key_of_the_tests\r\nContent-Length: {len(body)}\r\n\r\n"
        both += (head + body).encode()

    with socket.create_connection((str(address.hostname), address.port or 80), timeout=5) as connection:
        connection.sendall(both)
        received = b""
        while received.count(b"captured") < 2:
            received += connection.recv(65536)

    assert received.index(b"-slow") < received.index(b"-approved")


def test_bytes_that_are_not_http_are_turned_away(sandbox: RunningSandbox) -> None:
    """A client that does not speak HTTP gets 400 and a closed connection; others go on."""
    address = urlsplit(sandbox.url)

    with socket.create_connection((str(address.hostname), address.port or 80), timeout=5) as connection:
        connection.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        received = connection.recv(4096)

    assert received.startswith(b"HTTP/1.1 400 ")
    assert sandbox.call("GET", "/healthz").status == 200
