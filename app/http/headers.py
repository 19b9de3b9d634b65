"""Request headers that carry meaning: request id, version, idempotency key, waiting, `If-Match`, what is accepted."""

import re
from typing import NamedTuple

from app.core.errors import IdempotencyKeyInvalid, InvalidRequest, NotAcceptable, UnknownVersion
from app.core.ids import new_id
from app.identity.model import API_VERSIONS

# Source: API.md, "Waiting".
DEFAULT_WAIT_SECONDS = 10.0
MAX_WAIT_SECONDS = 25

_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_BARE_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
# RFC 8941, 3.3.3: a string of visible ASCII in quotes in which quote and backslash are escaped.
_QUOTED_KEY = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED = re.compile(rb'\\(["\\])')
_ENTITY_TAG = re.compile(rb'\s*(W/)?"([\x21\x23-\x7e]*)"\s*')
_PREFERENCE = re.compile(rb"\s*([A-Za-z-]+)\s*(?:=\s*\"?([^\";,]*)\"?\s*)?(?:;[^,]*)?")
# Headers of which two different ones leave it to the reader which is meant.
_SINGLE = frozenset(
    (b"authorization", b"x-api-key", b"idempotency-key", b"content-type", b"content-encoding", b"content-length", b"tollgate-version")
)


class Waiting(NamedTuple):
    seconds: float
    # What `Preference-Applied` says; None when nothing was asked for.
    applied: bytes | None


_BY_DEFAULT = Waiting(DEFAULT_WAIT_SECONDS, None)


def read_headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Raises InvalidRequest for a header that must be there once and is there twice; others are joined as HTTP says."""
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    headers.clear()
    for name, value in pairs:
        if name in headers and name in _SINGLE:
            raise InvalidRequest(f"The header `{name.decode('latin-1')}` is there twice.", param=name.decode("latin-1"))
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def request_id_of(value: bytes | None) -> str:
    if value is not None and _SANE_REQUEST_ID.fullmatch(value):
        return value.decode()
    return f"req_{new_id()}"


def version_of(value: bytes | None, default: str) -> str:
    if value is None:
        return default
    version = value.decode("latin-1")
    if version not in API_VERSIONS:
        raise UnknownVersion(f"There is no version `{version[:40]}`; there is {', '.join(API_VERSIONS)}.", param="Tollgate-Version")
    return version


def idempotency_key_of(header: bytes | None, member: str | None) -> str | None:
    """One key from header (RFC 8941 string or bare) and body. Raises IdempotencyKeyInvalid."""
    if header is None:
        return member
    key = _unquoted(header)
    if member is not None and member != key:
        raise IdempotencyKeyInvalid("The idempotency keys in header and body differ.", param="idempotency_key")
    return key


def _unquoted(header: bytes) -> str:
    if header.startswith(b'"'):
        quoted = _QUOTED_KEY.fullmatch(header)
        key = _ESCAPED.sub(rb"\1", quoted.group(1)) if quoted else b""
    else:
        key = header
    if not _BARE_KEY.fullmatch(key):
        raise IdempotencyKeyInvalid("The idempotency key is not 1 to 255 ASCII characters.", param="Idempotency-Key")
    return key.decode()


def waiting_of(prefer: bytes | None) -> Waiting:
    """RFC 7240: what is not understood is passed over; a longer wait than we grant becomes the longest."""
    if prefer is None:
        return _BY_DEFAULT
    at_once = False
    for part in prefer.split(b","):
        preference = _PREFERENCE.fullmatch(part)
        if preference is None:
            continue
        name, value = preference.group(1).lower(), (preference.group(2) or b"").strip()
        if name == b"wait" and value.isdigit() and len(value) < 10:
            seconds = min(int(value), MAX_WAIT_SECONDS)
            return Waiting(float(seconds), b"wait=%d" % seconds)
        at_once = at_once or name == b"respond-async"
    return Waiting(0.0, b"respond-async") if at_once else _BY_DEFAULT


def if_match_of(value: bytes | None) -> frozenset[int] | None:
    """The versions named; None for no condition or `*`. Weak tags and tags that are not ours match nothing (RFC 9110, 13.1.1)."""
    if value is None or value.strip() == b"*":
        return None
    versions = set()
    for part in value.split(b","):
        tag = _ENTITY_TAG.fullmatch(part)
        if tag is None:
            raise InvalidRequest('`If-Match` takes entity tags in quotes, such as "3", or *.', param="If-Match")
        if tag.group(1) is None and tag.group(2).isdigit() and len(tag.group(2)) < 10:
            versions.add(int(tag.group(2)))
    return frozenset(versions)


def require_acceptable(accept: bytes | None) -> None:
    """Raises NotAcceptable when JSON is ruled out. Coarse on purpose: quality values do not choose between one form."""
    if accept is None or b"*/*" in accept or b"json" in accept or b"application/*" in accept or not accept.strip():
        return
    raise NotAcceptable
