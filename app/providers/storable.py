"""A provider's words, made fit for the database: what it says happened must never be unbookable for a character in a text."""

import re
from typing import Any, TypeVar

import msgspec

Told = TypeVar("Told", bound=msgspec.Struct)

# Longer than any code or message that means something; a page of HTML in a field is not kept.
_LONGEST_TEXT = 2000
# Postgres keeps no NUL, and UTF-8 has no code for one surrogate: `json.loads` makes one of "\\ud800".
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(outcome: Told) -> Told:
    """The same outcome with each NUL and each half of a pair of surrogates made visible, and overlong texts cut."""
    try:
        encoded = msgspec.json.encode(outcome)
    except UnicodeEncodeError:
        encoded = b"u0000"
    if b"u0000" not in encoded and len(encoded) <= _LONGEST_TEXT:
        return outcome
    return msgspec.convert(_clean(msgspec.to_builtins(outcome)), type(outcome))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)[:_LONGEST_TEXT]
    if isinstance(value, dict):
        return {name: _clean(member) for name, member in value.items()}
    return [_clean(member) for member in value] if isinstance(value, list) else value
