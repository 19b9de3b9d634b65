"""A provider's words, made fit for the database: what it says happened must never be unbookable for a character in a text."""

from typing import Any, TypeVar

import msgspec

Told = TypeVar("Told", bound=msgspec.Struct)

# Longer than any code or message that means something; a page of HTML in a field is not kept.
_LONGEST_TEXT = 2000


def storable(outcome: Told) -> Told:
    """The same outcome with each NUL made visible and overlong texts cut."""
    encoded = msgspec.json.encode(outcome)
    if b"u0000" not in encoded and len(encoded) <= _LONGEST_TEXT:
        return outcome
    return msgspec.convert(_clean(msgspec.to_builtins(outcome)), type(outcome))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:_LONGEST_TEXT]
    if isinstance(value, dict):
        return {name: _clean(member) for name, member in value.items()}
    return [_clean(member) for member in value] if isinstance(value, list) else value
