"""Business time: read here, passed on as an argument, never asked of SQL."""

import re
from datetime import UTC, datetime

# `fromisoformat` alone takes week dates, missing seconds and dates without a time, which no RFC 3339 reader would send back.
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d{2}:\d{2}))", re.ASCII)


def now() -> datetime:
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """UTC with six digits and `Z`: one width, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """An aware instant in UTC; digits beyond microseconds are dropped. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("expected an RFC 3339 instant such as 2026-11-20T12:00:00Z")
    day, time_of_day, fraction, offset = match.groups()
    micros = (fraction or "0")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{day}T{time_of_day}.{micros}{offset or '+00:00'}").astimezone(UTC)
    except OverflowError as error:
        raise ValueError("this instant is outside the years 1 to 9999") from error
