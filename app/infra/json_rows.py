"""Rows that come as JSON: so rows of several tables are one answer, read by one decoder."""

from functools import cache
from typing import TypeVar

import msgspec

AnyRow = TypeVar("AnyRow", bound=msgspec.Struct)


def from_json(kind: type[AnyRow], text: str) -> AnyRow:
    """A row as `row_to_json` writes it; ids, which Postgres writes with dashes, become the 32 digits they are everywhere here."""
    decoder, ids = _reading(kind)
    row: AnyRow = decoder.decode(text)
    for name in ids:
        value = getattr(row, name)
        if value is not None:
            setattr(row, name, value.replace("-", ""))
    return row


@cache
def _reading(kind: type[AnyRow]) -> "tuple[msgspec.json.Decoder[AnyRow], tuple[str, ...]]":
    ids = tuple(name for name in kind.__struct_fields__ if name == "id" or name.endswith("_id"))
    return msgspec.json.Decoder(kind), ids
