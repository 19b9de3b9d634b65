"""From msgspec's sentence to our codes. Runs only for bodies that are refused, so it may look at everything again."""

import re
from typing import Any

import msgspec

from app.core.errors import (
    DomainError,
    FieldError,
    InvalidAmount,
    InvalidCurrency,
    InvalidRequest,
    InvalidValue,
    MissingField,
    UnknownField,
)

_PLACE = re.compile(r" - at (?:`key` in )?`\$?\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_WRONG_TYPE = re.compile(r"Expected `[^`]*`, got `[^`]*`$")
# One document should not repeat a body of thousands of wrong members.
_MOST_ERRORS = 20

Refusal = type[DomainError]


def body_refusal(kind: Any, value: Any, error: msgspec.ValidationError) -> DomainError:
    """The refusal of `value` as `kind`, naming each top-level member that is wrong; `error` is what msgspec said first."""
    found = _all_of(kind, value) or [_one(str(error), "")]
    refusal, param, detail = found[0]
    errors = [FieldError(param=one_param, code=one.code, detail=one_detail) for one, one_param, one_detail in found[:_MOST_ERRORS]]
    return refusal(detail, param=param or None, errors=errors)


def _all_of(kind: Any, value: Any) -> list[tuple[Refusal, str, str]]:
    """Malformed before missing before wrong: the first decides the status."""
    if not isinstance(value, dict) or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    found = [_one(f"Object contains unknown field `{name}`", "") for name in value if name not in fields]
    for name, field in fields.items():
        if name not in value:
            if field.required:
                found.append(_one(f"Object missing required field `{name}`", ""))
            continue
        try:
            msgspec.convert(value[name], field.type, strict=True)
        except msgspec.ValidationError as error:
            found.append(_one(str(error), name))
    return found


def _one(sentence: str, top: str) -> tuple[Refusal, str, str]:
    place = _PLACE.search(sentence)
    what = sentence[: place.start()] if place else sentence
    below = place.group(1).replace("[...]", "") if place else ""
    param = f"{top}{below}" if below.startswith("[") else ".".join(part for part in (top, below) if part)
    if unknown := _UNKNOWN.match(what):
        param = _join(param, unknown.group(1))
        return UnknownField, param, f"`{param}` is not a member that this request takes."
    if missing := _MISSING.match(what):
        param = _join(param, missing.group(1))
        return MissingField, param, f"`{param}` is missing."
    return _kind_of(what, param), param, f"`{param}`: {what.replace('`', '')}." if param else f"{what.replace('`', '')}."


def _kind_of(what: str, param: str) -> Refusal:
    member = param.rpartition(".")[2]
    if member == "amount":
        return InvalidAmount
    if member == "currency":
        return InvalidCurrency
    return InvalidRequest if _WRONG_TYPE.match(what) else InvalidValue


def _join(place: str, name: str) -> str:
    # A name from a body is repeated back; a longer one helps nobody.
    return f"{place}.{name[:80]}" if place else name[:80]
