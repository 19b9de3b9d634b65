import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.providers.base import (
    Approved,
    BadSignature,
    Declined,
    Pending,
    PspRequest,
    Unavailable,
    Unknown,
)
from app.providers.sandbox import SandboxAdapter
from tests.providers.conformance import AdapterConformance, Rehearsal, asked
from tests.sandbox.receiver import receiving
from tests.sandbox.running import CALLBACK_SECRET, KEY, RunningSandbox, eventually, running_sandbox


@pytest.fixture(scope="module")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), "--later-seconds", "0.2") as started:
        yield started


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> Iterator[RunningSandbox]:
    yield shared_sandbox
    shared_sandbox.behave()
    shared_sandbox.set(honour_idempotency_keys=True, callback_url="", callbacks="late")


def adapter_of(url: str, *, key: str = KEY, honours_keys: bool = True) -> SandboxAdapter:
    return SandboxAdapter(url=url, key=key, callback_secret=CALLBACK_SECRET, honours_keys=honours_keys, total_timeout_seconds=1)


@pytest.fixture
async def adapter(sandbox: RunningSandbox) -> AsyncIterator[SandboxAdapter]:
    opened = adapter_of(sandbox.url)
    yield opened
    await opened.close()


class SandboxRehearsal:
    can = frozenset({"faults", "refuse_connections", "ignore_keys", "challenge", "later_refunds", "capture_declined"})

    def __init__(self, sandbox: RunningSandbox, adapter: SandboxAdapter) -> None:
        self.sandbox = sandbox
        self.adapter = adapter

    def token(self, card: str) -> str:
        return f"tok_sandbox_{card}"

    async def effects(self, reference: str) -> int:
        return len(self.sandbox.journal(reference))

    async def fault(self, kind: str, operation: str, reference: str) -> None:
        self.sandbox.fault(kind, operation, reference=reference, delay_ms=2000)

    async def ignore_keys(self) -> None:
        self.sandbox.set(honour_idempotency_keys=False)
        await self.adapter.close()
        self.adapter = adapter_of(self.sandbox.url, honours_keys=False)

    async def challenge(self, redirect_url: str, *, approve: bool) -> None:
        outcome = "approve" if approve else "fail"
        assert self.sandbox.call("POST", urlsplit(redirect_url).path, f"outcome={outcome}".encode()).status == 303

    async def unreachable(self) -> SandboxAdapter:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return adapter_of(f"http://127.0.0.1:{port}")


class TestSandboxConforms(AdapterConformance):
    @pytest.fixture
    async def rehearsal(self, sandbox: RunningSandbox, adapter: SandboxAdapter) -> AsyncIterator[Rehearsal]:
        rehearsal = SandboxRehearsal(sandbox, adapter)
        yield rehearsal
        await rehearsal.adapter.close()


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    """Without an address nothing was sent."""
    adapter = adapter_of("http://nobody.invalid")

    with pytest.raises(Unavailable):
        await adapter.send(asked("sale", token="tok_sandbox_approved"))
    await adapter.close()


@pytest.mark.parametrize("first_attempt", [True, False])
async def test_a_wrong_key_is_turned_away_at_the_door(sandbox: RunningSandbox, *, first_attempt: bool) -> None:
    """On a first attempt nothing can have happened: Unavailable. Later, an earlier request may have gone through: Unknown."""
    adapter = adapter_of(sandbox.url, key="wrong")
    request = asked("sale", token="tok_sandbox_approved", first_attempt=first_attempt)

    if first_attempt:
        with pytest.raises(Unavailable):
            await adapter.send(request)
    else:
        assert isinstance(await adapter.send(request), Unknown)
    with pytest.raises(Unavailable):
        await adapter.look_up(request.reference)
    await adapter.close()


async def test_too_many_requests_is_turned_away_at_the_door(sandbox: RunningSandbox, adapter: SandboxAdapter) -> None:
    """429 was not looked at, so it may be sent again."""
    request = asked("sale", token="tok_sandbox_approved")
    sandbox.fault("error_before_effect", "sale", reference=request.reference, status=429)

    with pytest.raises(Unavailable):
        await adapter.send(request)
    assert isinstance(await adapter.send(request), Approved)


@pytest.mark.parametrize("first_attempt", [True, False])
async def test_an_ill_formed_request_is_declined_for_good(adapter: SandboxAdapter, *, first_attempt: bool) -> None:
    """The same bytes will never be accepted: a decline on the first attempt; later it proves nothing about the earlier one."""
    outcome = await adapter.send(asked("sale", token="x" * 300, first_attempt=first_attempt))

    if first_attempt:
        assert isinstance(outcome, Declined)
        assert outcome.reason == "invalid_request"
    else:
        assert isinstance(outcome, Unknown)


async def test_a_key_that_belongs_to_another_request_is_unknown(adapter: SandboxAdapter) -> None:
    """Something with this reference was done, and not this: only a look-up can say what."""
    request = asked("sale", token="tok_sandbox_approved")
    await adapter.send(request)

    outcome = await adapter.send(PspRequest(reference=request.reference, type="sale", amount=1, currency="USD", token=request.token))

    assert isinstance(outcome, Unknown)


async def answering(*answers: bytes) -> tuple[str, list[bytes], asyncio.Server]:
    """A server that answers each request on a connection with the next of `answers`, and then hangs up. Also: what it was sent."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
            requests.append(head + await reader.readexactly(length))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests, server


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def approval(request: PspRequest, **changed: Any) -> bytes:
    answer = {"charge": "ch_1", "reference": request.reference, "operation": request.type, "status": "captured"}
    return json.dumps(answer | {"amount": request.amount, "currency": request.currency} | changed).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "authorized"},
        {"status": "succeeded"},
        {"status": "wonderful"},
        {"status": None},
        {"operation": "authorize"},
        {"charge": ""},
        {"amount": "2599"},
        {"amount": 2599.5},
        {"reference": "another"},
        {"status": "requires_action"},
    ],
)
async def test_an_answer_that_does_not_fit_the_question_is_unknown(changed: dict[str, Any]) -> None:
    """A 2xx counts only when it says, about this operation, something that this operation can come to."""
    request = asked("sale", token="t")
    url, _, server = await answering(http("200 OK", approval(request, **changed)))
    adapter = adapter_of(url)

    assert isinstance(await adapter.send(request), Unknown)
    await adapter.close()
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        http("301 Moved", b"", "Location: http://127.0.0.1:9/"),
        http("307 Temporary Redirect", b"", "Location: http://127.0.0.1:9/"),
        http("404 Not Found", b"<html>nginx</html>"),
        http("401 Unauthorized", b"proxy says no"),
        http("402 Payment Required", b"{}"),
        http("408 Request Timeout", b""),
        http("502 Bad Gateway", b""),
        http("204 No Content", b""),
        http("200 OK", b"\xff\xfe"),
        http("200 OK", b"[]"),
        http("200 OK", b"\x1f\x8b", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_not_the_providers_is_unknown(answer: bytes) -> None:
    """Redirects, other servers' errors and broken HTTP say nothing about the operation; a redirect is not followed."""
    url, requests, server = await answering(answer)
    adapter = adapter_of(url)

    assert isinstance(await adapter.send(asked("sale", token="t")), Unknown)
    assert len(requests) == 1
    await adapter.close()
    server.close()


async def test_a_404_of_another_server_is_not_not_found() -> None:
    """Only the provider's own words say that it does not know a reference."""
    url, _, server = await answering(http("404 Not Found", b"<html>nginx</html>"))
    adapter = adapter_of(url)

    assert isinstance(await adapter.look_up("anything"), Unknown)
    await adapter.close()
    server.close()


async def test_a_dead_pooled_connection_is_unknown_and_never_resent() -> None:
    """The server reads a second request on a kept connection and hangs up: Unknown, and no second copy of it arrives."""
    first, second = asked("sale", token="t"), asked("sale", token="t")
    url, requests, server = await answering(http("200 OK", approval(first)), b"")
    adapter = adapter_of(url)

    assert isinstance(await adapter.send(first), Approved)
    outcome = await adapter.send(second)

    assert isinstance(outcome, Unknown)
    assert len(requests) == 2
    assert sum(second.reference.encode() in request for request in requests) == 1
    await adapter.close()
    server.close()


async def test_the_proxy_environment_is_ignored(monkeypatch: pytest.MonkeyPatch, adapter: SandboxAdapter) -> None:
    """A proxy variable of the machine must not see payments."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert isinstance(await adapter.send(asked("sale", token="tok_sandbox_approved")), Approved)


def signed(body: bytes, *, secret: str = CALLBACK_SECRET, age: float = 0) -> str:
    stamp = int(time.time() - age)
    return f"t={stamp},v1={hmac.new(secret.encode(), f'{stamp}.'.encode() + body, hashlib.sha256).hexdigest()}"


def event_body(**changed: Any) -> bytes:
    outcome = {"charge": "ch_1", "reference": "ref_1", "operation": "refund", "status": "succeeded", "amount": 5, "currency": "USD"}
    event = {"id": "sbevt_1", "type": "operation.updated", "created_at": "2026-11-20T12:00:00.000000Z", "data": outcome}
    return json.dumps(event | changed).encode()


async def test_a_callback_of_the_sandbox_verifies(sandbox: RunningSandbox, adapter: SandboxAdapter) -> None:
    """What the provider really sends is accepted byte for byte and means what a look-up says."""
    sold = await adapter.send(asked("sale", token="tok_sandbox_refund_pending"))
    assert isinstance(sold, Approved)
    with receiving() as receiver:
        sandbox.set(callback_url=receiver.url)
        refund = asked("refund", provider_ref=sold.provider_ref)
        assert isinstance(await adapter.send(refund), Pending)
        (callback,) = await asyncio.to_thread(eventually, lambda: receiver.about(refund.reference))

    event = adapter.verify_event(callback.headers, callback.body)

    assert event.event_id.startswith("sbevt_")
    assert event.reference == refund.reference
    assert event.outcome == await adapter.look_up(refund.reference)
    assert isinstance(event.outcome, Approved)


async def test_only_a_fresh_signature_over_these_bytes_verifies(adapter: SandboxAdapter) -> None:
    """Forged, replayed, altered and malformed callbacks are BadSignature; the header's case and a second v1 do not matter."""
    body = event_body()
    good = signed(body)

    assert adapter.verify_event({"SANDBOX-SIGNATURE": f"v1=00,{good}"}, body).reference == "ref_1"
    assert adapter.verify_event({"sandbox-signature": signed(body, age=290)}, body).event_id == "sbevt_1"
    for header, raw in [
        ("", body),
        ("v1=", body),
        ("t=,v1=", body),
        ("t=1_0,v1=00", body),
        (good.replace("t=", "t=+"), body),
        (good.replace("v1=", "v0="), body),
        (good.replace("v1=", "v1=\udc80"), body),
        (good, body + b" "),
        (good, body.replace(b"ref_1", b"ref_2")),
        (signed(body, secret="wrong"), body),
        (signed(body, age=310), body),
        (signed(body, age=-310), body),
        (signed(b"{}"), b"{}"),
        (signed(b"\xff"), b"\xff"),
        (signed(event_body(created_at="yesterday")), event_body(created_at="yesterday")),
    ]:
        with pytest.raises(BadSignature):
            adapter.verify_event({"Sandbox-Signature": header}, raw)


async def test_without_a_secret_nothing_verifies(sandbox: RunningSandbox) -> None:
    """An empty secret would let anybody sign."""
    adapter = SandboxAdapter(url=sandbox.url, key=KEY, callback_secret="")
    body = event_body()

    with pytest.raises(BadSignature):
        adapter.verify_event({"Sandbox-Signature": signed(body, secret="")}, body)


async def test_a_refund_that_failed_later_is_a_decline(sandbox: RunningSandbox, adapter: SandboxAdapter) -> None:
    """First approved; the callback and the look-up then both say that it was sent back."""
    sold = await adapter.send(asked("sale", token="tok_sandbox_refund_fails_later"))
    assert isinstance(sold, Approved)
    with receiving() as receiver:
        sandbox.set(callback_url=receiver.url)
        refund = asked("refund", provider_ref=sold.provider_ref)
        assert isinstance(await adapter.send(refund), Approved)
        (callback,) = await asyncio.to_thread(eventually, lambda: receiver.about(refund.reference))

    outcome = adapter.verify_event(callback.headers, callback.body).outcome

    assert isinstance(outcome, Declined)
    assert outcome.reason == "refund_failed"
    assert await adapter.look_up(refund.reference) == outcome
