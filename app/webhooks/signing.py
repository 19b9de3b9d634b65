"""Secrets and signatures of Standard Webhooks 1.0 (https://www.standardwebhooks.com).

A secret is derived from the server's key, the endpoint and a random salt, and stored nowhere: a stolen database signs nothing, and
the create answer can be shown again. Rotation draws a new salt and keeps the old one for a while (docs/decisions/0003).
"""

import base64
import hmac
from collections.abc import Sequence
from functools import lru_cache

from app.core.ids import Id

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of the format, no secret
# Bound into the derivation, so that no other use of the server's key can yield the same bytes.
_PURPOSE = b"tollgate webhook secret 1"


@lru_cache(maxsize=8192)
def derive_secret(server_key: bytes, *, endpoint_id: Id, salt: str) -> bytes:
    """32 bytes: Standard Webhooks asks for 24 to 64."""
    return hmac.digest(server_key, b"|".join((_PURPOSE, endpoint_id.encode(), salt.encode())), "sha256")


def shown(secret: bytes) -> str:
    """The form that merchants paste into a verifying library."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature(secrets: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> str:
    """One `v1` signature per secret that is valid now, newest first, as the header takes them."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
