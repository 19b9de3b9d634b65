"""Every engine against the whole conformance suite; the engines are named in conftest.py."""

from tests.outbox import conformance


class TestOnceInEffect(conformance.OnceInEffect):
    pass


class TestWaking(conformance.Waking):
    pass


class TestSlots(conformance.Slots):
    pass


class TestFailing(conformance.Failing):
    pass


class TestEnding(conformance.Ending):
    pass
