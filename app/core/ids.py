"""UUIDv7 as 32 hex digits inside, TypeIDs (`pay_01h…`) outside.

A string of hex digits is what the driver can send and read without building an object, which the hot road would pay for per row.
"""

import os
import re
import time
from datetime import UTC, datetime, timedelta

Id = str

# Crockford's base 32 as the TypeID specification uses it: no i, l, o, u, so that an id survives being read out loud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_SHIFTS = tuple(range(120, -1, -10))
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
# 26 letters carry 130 bits: above '7' the first would overflow the 128 of a UUID.
_SUFFIX = re.compile(f"[0-7][{_ALPHABET}]{{25}}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# One call to the system per this many ids; 74 random bits each leave nothing to guess.
_POOLED = 256
_TAIL_BYTES = 10
_tails: list[str] = []

# A child that inherited the pool would hand out its parent's ids.
os.register_at_fork(after_in_child=_tails.clear)


class MalformedId(ValueError):
    """This is not an id of the expected kind."""


def new_id() -> Id:
    """A UUIDv7 of this instant. Safe in threads and after a fork; not monotonic within a millisecond."""
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _refill()
    return f"{time.time_ns() // 1_000_000:012x}{tail}"


def first_id_at(moment: datetime) -> Id:
    """The lower bound of all ids made at or after `moment`; not an id itself."""
    return f"{max(0, (moment - _EPOCH) // timedelta(milliseconds=1)):012x}{'0' * 20}"


def typeid(prefix: str, id_: Id) -> str:
    number = int(id_, 16)
    return f"{prefix}_{''.join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])}"


def parse_typeid(prefix: str, text: str) -> Id:
    """The id inside a TypeID. Canonical spelling only, so that an id has one name in URLs, logs and idempotency fingerprints."""
    head, _, suffix = text.rpartition("_")
    if head != prefix or not _SUFFIX.fullmatch(suffix):
        raise MalformedId(f"expected an id that begins with {prefix}_ and has 26 letters and digits after it")
    number = 0
    for letter in suffix:
        number = number << 5 | _VALUES[letter]
    return f"{number:032x}"


def _refill() -> str:
    raw = os.urandom(_POOLED * _TAIL_BYTES)
    fresh = [_tail(raw[start : start + _TAIL_BYTES]) for start in range(0, len(raw), _TAIL_BYTES)]
    mine = fresh.pop()
    _tails.extend(fresh)
    return mine


def _tail(random: bytes) -> str:
    """The last 80 bits of a UUIDv7: version 7, 12 random bits, variant 10, 62 random bits."""
    number = int.from_bytes(random, "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return f"{number:020x}"
