"""What one attempt may do on the network, and what it says about a server that misbehaves."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.infra.db import NetworkInsideTransaction, inside_transaction
from app.webhooks.addresses import take_apart
from app.webhooks.sending import RESPONSE_BYTES, Answer, Sender
from tests.webhooks.receiver import Receiver, running

METADATA = "http://169.254.169.254/latest/meta-data/"


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async with Sender(allow_loopback=True, timeout_seconds=0.6) as started:
        yield started


async def send(sender: Sender, url: str) -> Answer:
    return await sender.send(take_apart(url), body=b"{}", headers={"Content-Type": "application/json", "webhook-id": "evt_1"})


async def test_a_redirect_is_an_answer_and_is_not_followed(sender: Sender, receiver: Receiver) -> None:
    """A public server that points to the metadata address gets nobody to go there."""
    for status in (301, 302, 303, 307, 308):
        receiver.answer_with(status, times=1, headers={"Location": METADATA})
        assert (await send(sender, f"{receiver.url}/hook")).status == status

    receiver.answer_with(302, path="/other", headers={"Location": f"{receiver.url}/followed"})
    await send(sender, f"{receiver.url}/other")
    assert receiver.got("/followed") == []


@pytest.mark.parametrize("url", [METADATA, "http://10.0.0.1/", "http://[fe80::1]/", "http://[::ffff:127.0.0.1]:80/", "http://0.0.0.0/"])
async def test_a_forbidden_address_is_not_connected_to(sender: Sender, url: str) -> None:
    """Even a URL that came into the table some other way is refused at the attempt, at once and without a packet."""
    answer = await send(sender, url)

    assert (answer.status, answer.error) == (None, "the host resolves to an address that webhooks are not sent to")
    assert answer.latency_ms < 100


async def test_loopback_is_refused_without_the_setting(receiver: Receiver) -> None:
    """In production nobody's webhook reaches our own machine, by number or by name."""
    async with Sender(allow_loopback=False) as strict:
        for host in ("127.0.0.1", "localhost"):
            url = receiver.url.replace("http://127.0.0.1", f"https://{host}")
            assert (await send(strict, f"{url}/hook")).error == "the host resolves to an address that webhooks are not sent to"
    assert receiver.got() == []


async def test_plain_http_is_refused_without_the_setting() -> None:
    """A URL that was stored while the setting was on is not called in the clear after it is off."""
    async with Sender(allow_loopback=False) as strict:
        assert (await send(strict, "http://8.8.8.8/hook")).error == "webhooks are sent to https URLs only"


async def test_a_name_that_turns_private_is_refused_though_a_connection_is_open(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep-alive is no way around the check: each attempt resolves before it may use a connection."""
    answers = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("169.254.169.254")]
    monkeypatch.setattr("app.webhooks.addresses._system_lookup", lambda _: [answers.pop(0)])
    url = f"{receiver.url.replace('127.0.0.1', 'rebinding.example')}/hook"

    assert (await send(sender, url)).status == 200
    assert (await send(sender, url)).status is None
    (got,) = receiver.got()
    assert got["headers"]["Host"].startswith("rebinding.example:")


async def test_the_environment_s_proxy_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name again and go where it likes."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async with Sender(allow_loopback=True, timeout_seconds=1) as own:
        assert (await send(own, f"{receiver.url}/hook")).status == 200


async def test_a_server_that_is_slow_is_given_up_in_time(sender: Sender, receiver: Receiver) -> None:
    """The limit holds for the whole attempt."""
    receiver.answer_with(200, delay_ms=5000)
    started = time.monotonic()

    answer = await send(sender, f"{receiver.url}/hook")

    assert (answer.status, answer.error) == (None, "no answer within 0.6 s")
    assert time.monotonic() - started < 1.5


async def test_an_answer_without_end_is_cut(sender: Sender, receiver: Receiver) -> None:
    """A server gets to fill a few kilobytes of our memory, and its status counts."""
    receiver.answer_with(200, endless=True)

    answer = await send(sender, f"{receiver.url}/hook")

    assert answer.status == 200
    assert len(answer.response) == RESPONSE_BYTES


async def test_what_cannot_be_stored_is_replaced(sender: Sender, receiver: Receiver) -> None:
    """A NUL in an answer must not break the log."""
    receiver.answer_with(200, body="a\x00b")

    assert (await send(sender, f"{receiver.url}/hook")).response == "a\ufffdb"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("120", 120), ("0", 0), (" 7 ", 7), ("99999999999999999999", 999999999), ("-5", None), ("soon", None), ("1.5", None), ("", None)],
)
async def test_retry_after_is_read_in_seconds(sender: Sender, receiver: Receiver, said: str, seconds: int | None) -> None:
    """Anything that is no number of seconds and no date is as good as absent."""
    receiver.answer_with(503, headers={"Retry-After": said})

    assert (await send(sender, f"{receiver.url}/hook")).retry_after_seconds == seconds


async def test_retry_after_is_read_as_a_date(sender: Sender, receiver: Receiver) -> None:
    """The other form of the specification."""
    later = datetime.now(UTC) + timedelta(seconds=90)
    receiver.answer_with(503, headers={"Retry-After": later.strftime("%a, %d %b %Y %H:%M:%S GMT")})

    assert (await send(sender, f"{receiver.url}/hook")).retry_after_seconds in (88, 89, 90)


async def test_connections_are_reused(sender: Sender) -> None:
    """A second delivery to the same server opens no second connection."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with listening(serve) as url:
        for _ in range(3):
            assert (await send(sender, url)).status == 200

    assert connections == 1


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", "the connection broke off before an answer"),
        (b"HTTP/1.1 200", "the connection broke off before an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "the answer is not HTTP"),
    ],
)
async def test_a_server_that_speaks_no_http_is_a_failed_attempt(sender: Sender, raw: bytes, error: str) -> None:
    """Whatever comes over the wire ends as one line in the log."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with listening(serve) as url:
        answer = await send(sender, url)

    assert (answer.status, answer.error) == (None, error)


async def test_the_status_counts_even_when_the_body_breaks_off(sender: Sender) -> None:
    """A server that accepted the event and died over its answer has accepted the event."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with listening(serve) as url:
        answer = await send(sender, url)

    assert (answer.status, answer.response) == (200, "ok")


async def test_nothing_is_sent_while_a_transaction_is_open(sender: Sender, receiver: Receiver) -> None:
    """A slow merchant must not hold our locks."""
    async with inside_transaction():
        with pytest.raises(NetworkInsideTransaction):
            await send(sender, f"{receiver.url}/hook")
    assert receiver.got() == []


async def test_the_certificate_must_be_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to a checked number, and the certificate is still compared with the name."""
    trust, server_side = certificate_for("hooks.example", tmp_path)
    monkeypatch.setattr("app.webhooks.addresses._system_lookup", lambda _: [ipaddress.ip_address("127.0.0.1")])

    async with running(ssl_context=server_side) as receiver, Sender(allow_loopback=True, timeout_seconds=2, tls=trust) as own:
        port = receiver.url.rpartition(":")[2]
        right = await send(own, f"https://hooks.example:{port}/hook")
        wrong = await send(own, f"https://other.example:{port}/hook")
        number = await send(own, f"https://127.0.0.1:{port}/hook")

    assert (right.status, right.error) == (200, None)
    assert (wrong.status, wrong.error) == (None, "the certificate is not valid for this host")
    assert (number.status, number.error) == (None, "the certificate is not valid for this host")
    assert [one["headers"]["Host"] for one in receiver.got()] == [f"hooks.example:{port}"]


async def test_a_certificate_of_nobody_is_refused(tmp_path: Path) -> None:
    """Self-signed is not https."""
    _, server_side = certificate_for("localhost", tmp_path)

    async with running(ssl_context=server_side) as receiver, Sender(allow_loopback=True, timeout_seconds=2) as own:
        answer = await send(own, receiver.url.replace("http:", "https:").replace("127.0.0.1", "localhost"))

    assert answer.error == "the certificate is not valid for this host"


@asynccontextmanager
async def listening(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    async def until_it_breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(until_it_breaks_off, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


def certificate_for(name: str, directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A context that trusts one self-made certificate, and the server's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(public, private)
    return ssl.create_default_context(cafile=str(public)), server_side
