"""Types, subscriptions and what an answer means."""

from datetime import UTC, datetime, timedelta

import pytest

from app.core.errors import InvalidValue
from app.payments.model import MACHINES
from app.webhooks.model import ENDPOINT, EVENT_TYPES, PREFIXES, RETRY_SECONDS, judge, require_types, wanted_by

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_every_announced_type_can_be_subscribed_to() -> None:
    """The list of the API's page and the machines agree: nothing is announced that nobody can ask for."""
    announced = {one for machine in (*MACHINES, ENDPOINT) for one in machine.announced_types()}

    assert announced <= EVENT_TYPES
    assert {machine.name for machine in (*MACHINES, ENDPOINT)} <= set(PREFIXES)


@pytest.mark.parametrize(
    ("wanted", "event_type", "is_wanted"),
    [
        (["*"], "payment.captured", True),
        (["payment.*"], "payment.captured", True),
        (["payment.captured"], "payment.captured", True),
        (["refund.*", "payment.captured"], "payment.captured", True),
        (["payment.*"], "payment_intent.created", False),
        (["payment.authorized"], "payment.captured", False),
        (["refund.*"], "payment.captured", False),
    ],
)
def test_subscriptions_name_types_families_or_everything(wanted: list[str], event_type: str, *, is_wanted: bool) -> None:
    """A family is what stands before the dot, whole."""
    assert wanted_by(wanted, event_type) == is_wanted


@pytest.mark.parametrize(
    "wrong", ["payment", "payment.", ".captured", "payment.c*", "payments.captured", "**", "", "payment.*.x", "Payment.captured"]
)
def test_a_type_that_does_not_exist_is_refused(wrong: str) -> None:
    """A misspelt subscription would be silence."""
    with pytest.raises(InvalidValue):
        require_types(["refund.succeeded", wrong])


def test_repeated_types_are_kept_once() -> None:
    """The order is the merchant's."""
    assert require_types(["refund.*", "payment.captured", "refund.*"]) == ["refund.*", "payment.captured"]


@pytest.mark.parametrize("status_code", [200, 201, 204, 299])
def test_any_2xx_is_a_delivery(status_code: int) -> None:
    """What the body says does not matter."""
    assert judge(status_code=status_code, retry_after_seconds=None, tries=1, now=NOW).status == "delivered"


@pytest.mark.parametrize("status_code", [None, 100, 301, 302, 307, 400, 401, 404, 500, 503])
def test_everything_else_comes_back_by_the_schedule(status_code: int | None) -> None:
    """The n-th failure waits the n-th step, give or take a tenth; after the last one it is given up."""
    for tries, seconds in enumerate(RETRY_SECONDS, start=1):
        verdict = judge(status_code=status_code, retry_after_seconds=None, tries=tries, now=NOW)
        assert verdict.status == "retrying"
        assert verdict.next_at is not None
        assert 0.89 * seconds <= (verdict.next_at - NOW).total_seconds() <= 1.11 * seconds
        assert verdict.pause_until is None

    assert judge(status_code=status_code, retry_after_seconds=None, tries=len(RETRY_SECONDS) + 1, now=NOW).status == "exhausted"


def test_the_schedule_is_the_one_that_merchants_were_promised() -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h."""
    hours = [60 * 60 * one for one in (2, 5, 10, 14, 20, 24)]

    assert list(RETRY_SECONDS) == [5, 5 * 60, 30 * 60, *hours]


@pytest.mark.parametrize("status_code", [429, 502, 504])
def test_an_overloaded_endpoint_is_given_a_pause(status_code: int) -> None:
    """It holds for the whole endpoint, for as long as it asked or half a minute."""
    asked = judge(status_code=status_code, retry_after_seconds=120, tries=1, now=NOW)
    silent = judge(status_code=status_code, retry_after_seconds=None, tries=1, now=NOW)

    assert asked.pause_until == NOW + timedelta(seconds=120)
    assert silent.pause_until == NOW + timedelta(seconds=30)


def test_retry_after_is_honoured_and_bounded() -> None:
    """A server may ask for more patience than the schedule has, but not for ever."""
    patient = judge(status_code=503, retry_after_seconds=3600, tries=1, now=NOW)
    endless = judge(status_code=503, retry_after_seconds=10**9, tries=1, now=NOW)

    assert patient.next_at == NOW + timedelta(hours=1)
    assert endless.next_at == NOW + timedelta(hours=24)


def test_gone_disables() -> None:
    """410 says that nobody will ever listen there again."""
    verdict = judge(status_code=410, retry_after_seconds=None, tries=1, now=NOW)

    assert (verdict.status, verdict.disable, verdict.next_at) == ("canceled", "gone", None)
