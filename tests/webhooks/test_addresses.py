"""Which URLs and addresses are never called."""

import ipaddress

import pytest

from app.core.errors import WebhookUrlRefused
from app.webhooks.addresses import AddressRefused, LookupFailed, Resolver, check_url, is_blocked, take_apart


def words(text: str) -> list[str]:
    return text.split()


# Each is an address or a network's edge that a stranger's URL must not reach.
REFUSED = words(
    "0.0.0.0 0.255.255.255 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16 "
    "169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 "
    "192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 "
    "240.0.0.1 255.255.255.255 "
    ":: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: "
    "2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 2620:4f:8000::1 3ffe::1 3fff::1 5f00::1 4000::1 fc00::1 "
    "fd00:ec2::254 fe80::1 fe80::1%eth0 2600::1%eth0 fec0::1 ff02::1 ff0e::1"
)
ALLOWED = words(
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15 169.253.255.255 "
    "169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 "
    "2001:200::1 2001:4860:4860::8888 2400:cb00::1 2600::1 2606:4700:4700::1111 2a00:1450::1"
)
# Spellings over which URL readers and the system's resolver disagree.
DISGUISED = words(
    "127.1 0x7f.1 0x7f000001 2130706433 017700000001 0177.0.0.1 127.0.0.1. 0 0.0 10.1 169.254.43518 0xa9fea9fe 2852039166 "
    "[::1] [::ffff:7f00:1] [::ffff:169.254.169.254] [0:0:0:0:0:0:0:1] [64:ff9b::a9fe:a9fe] localhost LOCALHOST localhost. sub.localhost"
)
ILL_FORMED = (
    "",
    "example.com",
    "//example.com/x",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "http://example.com/",
    "https://",
    "https:///path",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://@example.com/",
    "https://127.0.0.1@example.com/",
    "https://example.com:0/",
    "https://example.com:70000/",
    "https://example.com:port/",
    "https://example.com/#fragment",
    "https://exa mple.com/",
    "https://example.com/\r\nX-Injected: 1",
    "https://example.com\\@127.0.0.1/",
    "https://ex\x00ample.com/",
    "https://bücher.example/",
    "https://127%2e0.0.1/",
    "https://%6cocalhost/",
    "https://[::1",
    "https://[fe80::1%25eth0]/",
    "https://-example.com/",
    "https://example.com/" + "a" * 2048,
)


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_is_not_public_is_blocked(text: str) -> None:
    """Private, link-local, translated, tunnelled, reserved: none of them is called."""
    assert is_blocked(ipaddress.ip_address(text), allow_loopback=False)


@pytest.mark.parametrize("text", ALLOWED)
def test_a_public_address_is_not_blocked(text: str) -> None:
    """The networks end where they should: the neighbours of a blocked network are merchants' servers."""
    assert not is_blocked(ipaddress.ip_address(text), allow_loopback=False)


@pytest.mark.parametrize("text", REFUSED)
def test_the_setting_for_loopback_opens_loopback_alone(text: str) -> None:
    """A developer's machine may be called, a developer's network may not."""
    address = ipaddress.ip_address(text)

    assert is_blocked(address, allow_loopback=True) != (text == "::1" or text.startswith("127."))


@pytest.mark.parametrize("host", DISGUISED)
@pytest.mark.parametrize("port", ["", ":8443"])
def test_an_address_in_disguise_is_refused_at_creation(host: str, port: str) -> None:
    """What the system would take for a forbidden number is refused as the number it is."""
    with pytest.raises(WebhookUrlRefused):
        check_url(f"https://{host}{port}/hook", allow_loopback=False)


@pytest.mark.parametrize("text", ILL_FORMED)
def test_an_ill_formed_url_is_refused(text: str) -> None:
    """Only an https URL that every reader takes apart alike is taken."""
    with pytest.raises(WebhookUrlRefused):
        check_url(text, allow_loopback=False)


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("https://example.com", "example.com"),
        ("https://Example.COM:443/a?b=c%20d", "example.com"),
        ("https://hooks.example.com:8443/in", "hooks.example.com:8443"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("https://[2606:4700:4700::1111]:444/", "[2606:4700:4700::1111]:444"),
        ("https://8.8.8.8/", "8.8.8.8"),
    ],
)
def test_a_public_https_url_is_taken(text: str, authority: str) -> None:
    """The request will name the host as the merchant wrote it."""
    assert check_url(text, allow_loopback=False).authority == authority


def test_plain_http_needs_the_setting() -> None:
    """http and loopback are for development."""
    assert check_url("http://localhost:8000/hook", allow_loopback=True).port == 8000

    with pytest.raises(WebhookUrlRefused):
        check_url("http://localhost:8000/hook", allow_loopback=False)


async def test_every_resolved_address_is_checked() -> None:
    """A name that the system resolves to loopback is refused however it is written."""
    resolver = Resolver(allow_loopback=False)

    for host in ("localhost", "127.1", "0x7f000001"):
        with pytest.raises(AddressRefused):
            await resolver.checked(take_apart(f"https://{host}/"))
    resolver.close()


async def test_one_forbidden_address_among_several_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives a public address and a private one is not given the choice."""
    answers = [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("169.254.169.254")]
    monkeypatch.setattr("app.webhooks.addresses._system_lookup", lambda _: answers)
    resolver = Resolver(allow_loopback=False)

    with pytest.raises(AddressRefused):
        await resolver.checked(take_apart("https://rebinding.example/"))
    resolver.close()


async def test_each_attempt_resolves_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was public at the first attempt is refused when it turns private before the second."""
    answers = [[ipaddress.ip_address("8.8.8.8")], [ipaddress.ip_address("10.0.0.1")]]
    monkeypatch.setattr("app.webhooks.addresses._system_lookup", lambda _: answers.pop(0))
    resolver = Resolver(allow_loopback=False)
    target = take_apart("https://rebinding.example/")

    assert await resolver.checked(target) == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await resolver.checked(target)
    resolver.close()


async def test_a_name_that_does_not_exist_is_a_failed_lookup() -> None:
    """No address is no delivery, and no crash."""
    resolver = Resolver(allow_loopback=True)

    with pytest.raises(LookupFailed):
        await resolver.checked(take_apart("https://does-not-exist.invalid/"))
    resolver.close()
