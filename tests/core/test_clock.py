from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import clock


def test_now_is_aware_and_utc() -> None:
    """Business time carries its zone."""
    assert clock.now().tzinfo is UTC


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 20, 12, 0, 0, 123456, UTC), "2026-11-20T12:00:00.123456Z"),
        (datetime(2026, 11, 20, 12, 0, tzinfo=UTC), "2026-11-20T12:00:00.000000Z"),
        (datetime(2026, 11, 20, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-11-20T06:30:00.000000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_instants_are_printed_in_utc_and_one_width(moment: datetime, text: str) -> None:
    """Text of instants sorts as the instants do."""
    assert clock.rfc3339(moment) == text


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_printed_is_read_back(moment: datetime) -> None:
    """No microsecond is lost between print and parse."""
    assert clock.parse_rfc3339(clock.rfc3339(moment)) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20t12:00:00z", datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ("2026-11-20 12:00:00+00:00", datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ("2026-11-20T12:00:00.5-02:30", datetime(2026, 11, 20, 14, 30, 0, 500_000, UTC)),
        ("2026-11-20T12:00:00.123456789Z", datetime(2026, 11, 20, 12, 0, 0, 123_456, UTC)),
    ],
)
def test_all_forms_of_rfc_3339_are_read(text: str, moment: datetime) -> None:
    """Lower case, a blank, an offset and any number of digits are RFC 3339 too."""
    assert clock.parse_rfc3339(text) == moment
    assert clock.parse_rfc3339(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-20",
        "2026-11-20T12:00Z",
        "2026-11-20T12:00:00",
        "20261120T120000Z",
        "2026-W47-5T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-11-20T25:00:00Z",
        "2026-11-20T12:00:00Z ",
        "2026-11-20T12:00:00+99:00",
        "0001-01-01T00:00:00+01:00",
        "\u0662026-11-20T12:00:00Z",
        "1795176000",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is no instant is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError):
        clock.parse_rfc3339(text)
