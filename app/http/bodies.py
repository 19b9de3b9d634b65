"""Bodies decoded strictly: what JSON readers disagree about is refused before msgspec sees it.

Two passes of C code over an ordinary body cost 2.3 µs together: `json` with hooks finds duplicate keys and oversized numbers,
msgspec gives the typed struct. The rest runs only when a cheap look at the bytes says that it might matter.
"""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from app.core.errors import InvalidValue, MalformedJson, PayloadTooLarge, UnsupportedMediaType
from app.core.ids import Id, MalformedId, parse_typeid
from app.core.money import MAX_AMOUNT, MIN_AMOUNT
from app.http.refusals import body_refusal

# Source: RELIABILITY, "Input".
MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 32

_JSON_TYPES = (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OTHER_THAN_BRACKETS = re.compile(r"[^\[\]{}]+")

Amount = Annotated[int, msgspec.Meta(ge=MIN_AMOUNT, le=MAX_AMOUNT, description="Minor units.")]
# The length is said beside the pattern because `$` also stands before a line end.
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", max_length=3, description="ISO 4217, upper case.")]
Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=255, description="The merchant's own order number.")]
Description = Annotated[str, msgspec.Meta(max_length=1000)]
_MetadataKey = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
_MetadataValue = Annotated[str, msgspec.Meta(max_length=500)]
Metadata = Annotated[dict[_MetadataKey, _MetadataValue], msgspec.Meta(max_length=50)]
# In a PATCH null takes a pair away.
PatchMetadata = Annotated[dict[_MetadataKey, _MetadataValue | None], msgspec.Meta(max_length=50)]

S = TypeVar("S")


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The base of every request body. Defaults are not encoded, so that a fingerprint survives a release that adds a field."""

    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    merchant_id: str | None = None


def require_json(headers: dict[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType for anything but plain JSON."""
    content_type = headers.get(b"content-type", b"")
    if content_type not in _JSON_TYPES and content_type.strip().lower() not in _JSON_TYPES:
        raise UnsupportedMediaType
    require_uncompressed(headers)


def require_uncompressed(headers: dict[bytes, bytes]) -> None:
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise UnsupportedMediaType("Compressed bodies are not taken.")


def announced_size(headers: dict[bytes, bytes], limit: int) -> None:
    """Raises PayloadTooLarge before the first byte is read, where the caller says how much is coming."""
    size = headers.get(b"content-length")
    if size is not None and (len(size) > 15 or int(size) > limit):
        raise too_large(limit)


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit // 1024} KB.")


def strict_decoder(kind: type[S]) -> Callable[[bytes], S]:
    """A function from raw bytes to `kind` that raises a DomainError for everything else."""
    decode = msgspec.json.Decoder(kind, strict=True).decode

    def strictly(raw: bytes) -> S:
        value = parse(raw)
        try:
            return decode(raw)
        except msgspec.ValidationError as error:
            raise body_refusal(kind, value, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedJson(f"The body is not JSON: {error}.") from None

    return strictly


def parse(raw: bytes) -> Any:
    """The plain value of a body that every JSON reader understands alike. Raises MalformedJson."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The body is not UTF-8: byte {error.start} is wrong.") from None
    # As many opening brackets as levels allowed cannot be deeper; counting costs 0.2 µs.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise MalformedJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _parse_json(text)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise MalformedJson(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    if b"\\u" in raw:
        _refuse_unstorable(value)
    return value


def body_id(prefix: str, text: str, *, param: str) -> Id:
    """An id that stands in a body; raises InvalidValue that names the member."""
    try:
        return parse_typeid(prefix, text)
    except MalformedId as error:
        raise InvalidValue(f"`{param}`: {error}.", param=param) from None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedJson(f"The member `{twice[:80]}` is there twice in one object.", param=twice[:80])
    return members


def _whole_number(digits: str) -> int:
    # 64 bits is what databases, other languages and msgspec's own bounds agree on.
    number = int(digits) if len(digits) <= 20 else 1 << 64
    if not -(1 << 63) <= number < 1 << 63:
        raise MalformedJson(f"The number {digits[:24]}{'…' if len(digits) > 24 else ''} does not fit into 64 bits.")
    return number


def _no_number(name: str) -> float:
    raise MalformedJson(f"{name} is not JSON.")


_parse_json = json.JSONDecoder(object_pairs_hook=_object_of, parse_int=_whole_number, parse_constant=_no_number).decode


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _OTHER_THAN_BRACKETS.sub("", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_unstorable(value: Any) -> None:
    """NUL is no character of a Postgres text, and half a surrogate pair is no character at all."""
    if isinstance(value, str):
        if "\x00" in value:
            raise MalformedJson("A string holds the character NUL.")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise MalformedJson("A string holds half of a surrogate pair.")
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_unstorable(name)
            _refuse_unstorable(member)
    elif isinstance(value, list):
        for member in value:
            _refuse_unstorable(member)
