"""API key tokens: how they look, how they are made, how they arrive in headers."""

import hashlib
import secrets

from app.core.errors import InvalidRequest
from app.identity.model import KeyKind

# 256 random bits: nothing to guess, so a plain hash is enough to store them. Source: RELIABILITY, "API keys".
_RANDOM_BYTES = 32
# `sk_test_` and some letters, enough to tell two keys apart in a list.
PREFIX_LENGTH = 12


def new_token(kind: KeyKind, *, livemode: bool) -> str:
    return f"{_head(kind, livemode=livemode)}_{secrets.token_hex(_RANDOM_BYTES)}"


def token_hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def token_of(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """The token from `Authorization: Bearer …` or `X-API-Key`. Raises InvalidRequest when both are there and differ."""
    bearer = None
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        bearer = authorization[7:].strip()
    if api_key is None:
        return bearer
    if bearer is not None and bearer != api_key:
        raise InvalidRequest("`Authorization` and `X-API-Key` name different keys.", param="X-API-Key")
    return api_key


def _head(kind: KeyKind, *, livemode: bool) -> str:
    if kind == "operator":
        return "ops"
    return f"{'sk' if kind == 'secret' else 'pk'}_{'live' if livemode else 'test'}"
