import http.client
import json
import time

import pytest

from tests.sandbox.running import RunningSandbox, eventually


@pytest.mark.parametrize(("status", "expected"), [({}, 500), ({"status": 503}, 503), ({"status": 429}, 429)])
def test_error_before_effect_books_nothing(sandbox: RunningSandbox, reference: str, status: dict[str, int], expected: int) -> None:
    """The error is told and the book is untouched; the next request goes through under the same key."""
    sandbox.fault("error_before_effect", "sale", reference=reference, **status)

    assert sandbox.operate("sale", reference).status == expected
    assert sandbox.look_up(reference).status == 404
    assert sandbox.operate("sale", reference).status == 200


def test_error_after_effect_books_it(sandbox: RunningSandbox, reference: str) -> None:
    """The error hides an effect, which a repeat under the same key and a look-up both tell."""
    sandbox.fault("error_after_effect", "sale", reference=reference)

    assert sandbox.operate("sale", reference).status == 500
    assert len(sandbox.journal(reference)) == 1
    assert sandbox.operate("sale", reference).json == sandbox.look_up(reference).json
    assert len(sandbox.journal(reference)) == 1


def test_delay_answers_later(sandbox: RunningSandbox, reference: str) -> None:
    """A delayed request is booked and answered after its time."""
    sandbox.fault("delay", "sale", reference=reference, delay_ms=300)
    started = time.monotonic()

    reply = sandbox.operate("sale", reference)

    assert reply.status == 200
    assert time.monotonic() - started >= 0.3


def test_no_answer_after_effect_holds_and_then_drops(sandbox: RunningSandbox, reference: str) -> None:
    """The effect stands while the client waits in vain."""
    sandbox.fault("no_answer_after_effect", "sale", reference=reference, delay_ms=300)
    started = time.monotonic()

    with pytest.raises(ConnectionError):
        sandbox.operate("sale", reference)

    assert time.monotonic() - started >= 0.3
    assert len(sandbox.journal(reference)) == 1


def test_late_effect_lands_after_a_timeout_was_told(sandbox: RunningSandbox, reference: str) -> None:
    """504 first, nothing to be found, and then the effect."""
    sandbox.fault("late_effect", "sale", reference=reference, delay_ms=500)

    assert sandbox.operate("sale", reference).status == 504
    assert sandbox.look_up(reference).status == 404
    eventually(lambda: sandbox.journal(reference))


def test_a_late_effect_respects_a_key_that_was_used_meanwhile(sandbox: RunningSandbox, reference: str) -> None:
    """A repeat that overtakes the late request takes its key, so there is one effect; with keys ignored there are two."""
    sandbox.fault("late_effect", "sale", reference=reference, delay_ms=300)
    sandbox.operate("sale", reference)
    assert sandbox.operate("sale", reference).status == 200
    time.sleep(0.6)
    assert len(sandbox.journal(reference)) == 1

    sandbox.set(honour_idempotency_keys=False)
    sandbox.fault("late_effect", "sale", delay_ms=300)
    sandbox.operate("sale", f"{reference}-2")
    assert sandbox.operate("sale", f"{reference}-2").status == 200
    eventually(lambda: len(sandbox.journal(f"{reference}-2")) == 2)


@pytest.mark.parametrize(("kind", "effects"), [("dropped_connection", 0), ("dropped_after_effect", 1)])
def test_a_dropped_connection_says_nothing_about_the_effect(sandbox: RunningSandbox, reference: str, kind: str, effects: int) -> None:
    """To the client both kinds look alike; the journal knows."""
    sandbox.fault(kind, "sale", reference=reference)

    with pytest.raises(ConnectionError):
        sandbox.operate("sale", reference)

    assert len(sandbox.journal(reference)) == effects


def test_answers_can_be_malformed_truncated_and_huge(sandbox: RunningSandbox, reference: str) -> None:
    """Each spoils the answer only: the effect is in the journal."""
    sandbox.fault("malformed_answer", "sale", reference=f"{reference}-m")
    sandbox.fault("truncated_answer", "sale", reference=f"{reference}-t")
    sandbox.fault("huge_answer", "sale", reference=f"{reference}-h")

    malformed = sandbox.operate("sale", f"{reference}-m")
    assert malformed.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(malformed.body)
    with pytest.raises(http.client.IncompleteRead):
        sandbox.operate("sale", f"{reference}-t")
    assert len(sandbox.operate("sale", f"{reference}-h").body) > 8_000_000
    assert all(len(sandbox.journal(f"{reference}-{letter}")) == 1 for letter in "mth")


@pytest.mark.parametrize("member", ["amount", "currency", "reference"])
def test_an_echo_can_be_wrong(sandbox: RunningSandbox, reference: str, member: str) -> None:
    """One member of the answer differs from what was asked; the book has the truth."""
    sandbox.fault(f"wrong_{member}_echoed", "sale", reference=reference)

    told = sandbox.operate("sale", reference).json
    truth = sandbox.look_up(reference).json

    assert {name for name in truth if told[name] != truth[name]} == {member}


def test_a_fault_strikes_as_often_as_it_was_told_and_only_where_it_matches(sandbox: RunningSandbox, reference: str) -> None:
    """Operation and reference select; `times` counts; DELETE forgets the rest."""
    sandbox.fault("error_before_effect", "sale", reference=reference, times=2)
    sandbox.fault("error_before_effect", "authorize")

    assert sandbox.operate("sale", f"{reference}-other").status == 200
    assert [sandbox.operate("sale", reference).status for _ in range(3)] == [500, 500, 200]
    assert [fault["match"]["operation"] for fault in sandbox.call("GET", "/_control/faults").json] == ["authorize"]
    sandbox.behave()
    assert sandbox.operate("authorize", f"{reference}-a").status == 200


@pytest.mark.parametrize("kind", ["error_before_effect", "malformed_answer"])
def test_a_look_up_can_be_spoiled_too(sandbox: RunningSandbox, reference: str, kind: str) -> None:
    """Faults of the operation `look_up` strike look-ups."""
    sandbox.operate("sale", reference)
    sandbox.fault(kind, "look_up", reference=reference)

    spoiled, sound = sandbox.look_up(reference), sandbox.look_up(reference)

    assert spoiled.body != sound.body
    assert sound.json["status"] == "captured"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "explode", "match": {"operation": "sale"}},
        {"kind": "delay"},
        {"kind": "delay", "match": {"operation": "sale"}, "times": 0},
        {"kind": "delay", "match": {"operation": "sale", "amount": 5}},
    ],
)
def test_a_fault_that_means_nothing_is_refused(sandbox: RunningSandbox, wrong: dict[str, object]) -> None:
    """A mistyped fault must not pass for a rehearsal."""
    assert sandbox.call("POST", "/_control/faults", wrong).status == 422


def test_settings_can_be_read_and_changed_but_secrets_not_read(sandbox: RunningSandbox) -> None:
    """Unknown settings are refused, known ones answered without the secrets."""
    assert sandbox.call("POST", "/_control/settings", {"honour_keys": False}).status == 422

    reply = sandbox.call("POST", "/_control/settings", {"honour_idempotency_keys": False})

    assert reply.json["honour_idempotency_keys"] is False
    assert b"secret" not in reply.body
    assert b"key_of_the_tests" not in reply.body
