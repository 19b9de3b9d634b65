"""Query parameters of lists: limit, cursors, filters; an unknown one is refused, or a misspelt filter would show everything."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from app.core.clock import parse_rfc3339
from app.core.errors import InvalidCursor, InvalidRequest, UnknownFilter
from app.core.ids import Id, MalformedId, parse_typeid

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A query longer than this is no list's; more parameters than this neither.
_MOST_PARAMETERS = 32


class Filter(NamedTuple):
    name: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any]


class Query(NamedTuple):
    """What a list route takes. `pages` is the prefix of the ids that `starting_after` and `ending_before` take; None: no such pages."""

    filters: tuple[Filter, ...] = ()
    pages: str | None = None
    limited: bool = True
    # False: `starting_after` only.
    both_ways: bool = True


class Page(NamedTuple):
    limit: int = DEFAULT_LIMIT
    starting_after: Id | None = None
    ending_before: Id | None = None
    # By name as it stands in the query: `status`, `created_at[gte]`. Only those given.
    filters: Mapping[str, Any] = {}


NOTHING = Page()


def text(name: str, *, most: int = 255) -> Filter:
    def read(value: str) -> str:
        if not 1 <= len(value) <= most:
            raise ValueError(f"expected 1 to {most} characters")
        return value

    return Filter(name, read, {"type": "string", "minLength": 1, "maxLength": most})


def choice(name: str, allowed: Sequence[str]) -> Filter:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value

    return Filter(name, read, {"type": "string", "enum": list(allowed)})


def ident(name: str, prefix: str) -> Filter:
    def read(value: str) -> Id:
        return parse_typeid(prefix, value)

    return Filter(name, read, id_schema(prefix))


def instant(name: str) -> Filter:
    def read(value: str) -> datetime:
        # A plus sign that was not escaped arrives as a space. Nothing of ours is older than the ids' epoch, which cannot hold less.
        return max(parse_rfc3339(value.replace(" ", "+")), _EPOCH)

    return Filter(name, read, {"type": "string", "format": "date-time"})


def instants(name: str) -> tuple[Filter, ...]:
    """`name[gte]`, `name[gt]`, `name[lte]`, `name[lt]`, each an instant; unpack it into `filters`."""
    return tuple(instant(f"{name}[{bound}]") for bound in ("gte", "gt", "lte", "lt"))


def id_schema(prefix: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$"}


def read_page(query_string: bytes, query: Query | None, filters: Mapping[str, Filter]) -> Page:
    """Raises UnknownFilter, InvalidRequest, InvalidCursor."""
    if not query_string:
        return NOTHING
    given = _pairs(query_string)
    known = dict(given)
    limit, after, before = DEFAULT_LIMIT, None, None
    if query is not None:
        if query.limited and (value := known.pop("limit", None)) is not None:
            limit = _limit(value)
        if query.pages is not None:
            after = _cursor(query.pages, "starting_after", known.pop("starting_after", None))
            before = _cursor(query.pages, "ending_before", known.pop("ending_before", None)) if query.both_ways else None
            if after is not None and before is not None:
                raise InvalidRequest("Only one of `starting_after` and `ending_before` may be given.", param="ending_before")
    return Page(limit, after, before, {name: _filter(filters, name, value) for name, value in known.items()})


def _pairs(query_string: bytes) -> dict[str, str]:
    parts = query_string.split(b"&", _MOST_PARAMETERS + 1)
    if len(parts) > _MOST_PARAMETERS:
        raise InvalidRequest("The query has too many parameters.")
    pairs: dict[str, str] = {}
    for part in parts:
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        name, value = _decoded(raw_name), _decoded(raw_value)
        if name in pairs:
            raise InvalidRequest(f"The query parameter `{name[:80]}` is there twice.", param=name[:80])
        pairs[name] = value
    return pairs


def _decoded(raw: bytes) -> str:
    try:
        value = unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The query is not UTF-8.") from None
    if "\x00" in value:
        raise InvalidRequest("The query holds the character NUL.")
    return value


def _limit(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= MAX_LIMIT):
        raise InvalidRequest(f"`limit` is a whole number from 1 to {MAX_LIMIT}.", param="limit")
    return int(value)


def _cursor(prefix: str, name: str, value: str | None) -> Id | None:
    try:
        return None if value is None else parse_typeid(prefix, value)
    except MalformedId as error:
        raise InvalidCursor(f"`{name}`: {error}.", param=name) from None


def _filter(filters: Mapping[str, Filter], name: str, value: str) -> Any:
    known = filters.get(name)
    if known is None:
        raise UnknownFilter(f"`{name[:80]}` is not a query parameter of this route.", param=name[:80])
    try:
        return known.read(value)
    except ValueError as error:
        raise InvalidRequest(f"`{name}`: {error}.", param=name) from None
