"""Signatures as the two verifying libraries read them."""

import time
from datetime import UTC, datetime

import pytest
import standardwebhooks
import svix

from app.core.ids import new_id
from app.webhooks.signing import derive_secret, shown, signature

KEY = b"a server key for tests, 32 bytes"
BODY = '{"id":"evt_1","data":{"name":"Zoë"}}'.encode()


def headers(secrets: list[bytes], *, body: bytes = BODY, at: int | None = None) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signature(secrets, message_id="evt_1", timestamp=at, body=body),
    }


@pytest.fixture
def endpoint_secrets() -> list[bytes]:
    endpoint_id = new_id()
    return [derive_secret(KEY, endpoint_id=endpoint_id, salt=salt) for salt in ("new", "old")]


@pytest.mark.parametrize("library", [standardwebhooks, svix])
def test_both_libraries_verify_with_either_secret_of_a_rotation(library: object, endpoint_secrets: list[bytes]) -> None:
    """While two secrets are valid a merchant may hold the new one or still the old one."""
    sent = headers(endpoint_secrets)

    for secret in endpoint_secrets:
        library.Webhook(shown(secret)).verify(BODY, sent)  # type: ignore[attr-defined]  # both have it


@pytest.mark.parametrize(
    ("library", "error"), [(standardwebhooks, standardwebhooks.WebhookVerificationError), (svix, svix.WebhookVerificationError)]
)
def test_both_libraries_refuse_what_was_changed_or_is_old(library: object, error: type[Exception], endpoint_secrets: list[bytes]) -> None:
    """Another body, another secret and a timestamp of ten minutes ago do not verify."""
    verifier = library.Webhook(shown(endpoint_secrets[0]))  # type: ignore[attr-defined]  # both have it

    with pytest.raises(error):
        verifier.verify(BODY + b" ", headers(endpoint_secrets))
    with pytest.raises(error):
        verifier.verify(BODY, headers(endpoint_secrets[1:]))
    with pytest.raises(error):
        verifier.verify(BODY, headers(endpoint_secrets, at=int(time.time()) - 600))


def test_our_signature_is_the_specification_s() -> None:
    """The reference implementation signs the same bytes the same way."""
    secret = bytes(range(32))
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)

    ours = signature([secret], message_id="evt_1", timestamp=int(at.timestamp()), body=BODY)

    assert ours == standardwebhooks.Webhook(secret).sign("evt_1", at, BODY.decode())


def test_a_secret_depends_on_key_endpoint_and_salt() -> None:
    """Nobody's secret says anything about another's, and a new salt is a new secret."""
    one, other = new_id(), new_id()

    made = {
        derive_secret(KEY, endpoint_id=one, salt="a"),
        derive_secret(KEY, endpoint_id=one, salt="b"),
        derive_secret(KEY, endpoint_id=other, salt="a"),
        derive_secret(b"another key", endpoint_id=one, salt="a"),
    }

    assert len(made) == 4
    assert {len(secret) for secret in made} == {32}
