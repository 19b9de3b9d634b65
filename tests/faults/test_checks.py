"""Each check of the crash check finds the book that was falsified, and nothing is found where none was."""

from collections.abc import Callable

import pytest

from app.crash_check.books import Effect, Operation, Posted, Received
from app.crash_check.checks import Evidence, compare
from app.crash_check.plan import journeys
from tests.faults.ideal import Ideal

# Enough that each kind of journey is among them.
PAYMENTS = 120


def wrong(evidence: Evidence) -> set[str]:
    return {check.sentence for check in compare(evidence) if check.problems}


def ours(evidence: Evidence, **changes: object) -> Evidence:
    return evidence._replace(ours=evidence.ours._replace(**changes))  # type: ignore[arg-type]  # each case names a field with its type


def without_answer(evidence: Evidence) -> Evidence:
    last = max((told for told in evidence.told if told.step == "refund-0"), key=lambda told: told.journey)
    return evidence._replace(told=[told for told in evidence.told if told is not last])


def told_otherwise(evidence: Evidence) -> Evidence:
    told = [one._replace(answer={**one.answer, "status": "authorized"}) if one.step == "capture" else one for one in evidence.told]
    return evidence._replace(told=told, repeated={one.key: (one.status, one.answer) for one in told})


def captured_too_much(evidence: Evidence) -> Evidence:
    number, shown = next(iter(evidence.shown.items()))
    payments = [{**payment, "amount_captured": payment["amount_captured"] + 1} for payment in shown.payments]
    return evidence._replace(shown={**evidence.shown, number: shown._replace(payments=payments)})


def repeated_otherwise(evidence: Evidence) -> Evidence:
    key, (status, answer) = next(iter(evidence.repeated.items()))
    return evidence._replace(repeated={**evidence.repeated, key: (status, {**answer, "id": "another"})})


def charged_twice(evidence: Evidence) -> Evidence:
    """Under one reference."""
    return evidence._replace(journal=[*evidence.journal, next(one for one in evidence.journal if one.kind == "authorize")])


def charged_under_two_references(evidence: Evidence) -> Evidence:
    first = next(one for one in evidence.journal if one.kind == "authorize")
    operations = {
        **evidence.ours.operations,
        "op_other": Operation(evidence.ours.operations[first.reference].payment_id, "authorize", "succeeded"),
    }
    return ours(evidence, operations=operations)._replace(journal=[*evidence.journal, first._replace(reference="op_other")])


def charged_for_nobody(evidence: Evidence) -> Evidence:
    return evidence._replace(journal=[*evidence.journal, Effect("void", "op_nobodys", 1, "EUR")])


def posted_a_unit_more(evidence: Evidence) -> Evidence:
    first, *rest = evidence.ours.posted
    return ours(evidence, posted=[first._replace(amount=first.amount + 1), *rest])


def posted_without_the_provider(evidence: Evidence) -> Evidence:
    return ours(evidence, posted=[*evidence.ours.posted, Posted("op_nobodys", "suspense", "EUR", 100)])


def never_delivered(evidence: Evidence) -> Evidence:
    return evidence._replace(received=evidence.received[1:])


def delivered_and_refused(evidence: Evidence) -> Evidence:
    return evidence._replace(received=[evidence.received[0]._replace(answered=500), *evidence.received[1:]])


def invented(evidence: Evidence) -> Evidence:
    return evidence._replace(received=[*evidence.received, Received("evt_invented", "payment.captured", 1, verified=True, answered=200)])


def falsely_signed(evidence: Evidence) -> Evidence:
    return evidence._replace(received=[*evidence.received, evidence.received[0]._replace(verified=False)])


def still_open(evidence: Evidence) -> Evidence:
    reference, operation = next(iter(evidence.ours.operations.items()))
    return ours(evidence, operations={**evidence.ours.operations, reference: operation._replace(status="unknown")})


ENDED = "every journey came to its end"
ANSWERS = "every answer was what the plan makes true"
NOW = "every answer is still what the API says"
REPEATS = "the same request again gets the same answer"
ONCE = "no reference took effect twice"
CHARGE = "one charge per confirmed payment, none for others"
LEDGER = "the ledger is the provider's journal, to the minor unit"
BALANCE = "debits are credits, wallets are the ledger, nothing is held"
NOTHING_LEFT = "nothing is open, waiting, dead or booked as an exception"
DELIVERED = "every event was delivered"
SIGNED = "no delivery was invented, every signature fits"

CASES: list[tuple[Callable[[Evidence], Evidence], set[str]]] = [
    (without_answer, {ENDED}),
    (lambda e: e._replace(refused={0: "confirm was answered 500"}), {ENDED}),
    (told_otherwise, {ANSWERS}),
    (captured_too_much, {NOW}),
    (repeated_otherwise, {REPEATS}),
    (charged_twice, {ONCE, CHARGE}),
    (charged_under_two_references, {CHARGE}),
    (charged_for_nobody, {ONCE}),
    (posted_a_unit_more, {LEDGER}),
    (posted_without_the_provider, {LEDGER}),
    (lambda e: ours(e, unbalanced=True), {BALANCE}),
    (lambda e: ours(e, wallets_that_differ=1), {BALANCE}),
    (lambda e: ours(e, held=100), {BALANCE}),
    (still_open, {NOTHING_LEFT}),
    (lambda e: e._replace(left={"rows in the outbox": 1}), {NOTHING_LEFT}),
    (lambda e: ours(e, dead_letters=["psp.send: broken"]), {NOTHING_LEFT}),
    (lambda e: ours(e, exceptions=1), {NOTHING_LEFT}),
    (never_delivered, {DELIVERED}),
    (delivered_and_refused, {DELIVERED}),
    (invented, {SIGNED}),
    (falsely_signed, {SIGNED}),
]


@pytest.fixture(scope="module")
def ideal() -> Evidence:
    return Ideal(PAYMENTS, seed=1).evidence()


def test_nothing_is_found_where_nothing_is_wrong(ideal: Evidence) -> None:
    """And every kind of journey is among them, or the others would prove little."""
    assert len({journey.kind for journey in ideal.journeys}) == 9
    assert wrong(ideal) == set()


@pytest.mark.parametrize(("falsify", "sentences"), CASES)
def test_a_falsified_book_is_found(ideal: Evidence, falsify: Callable[[Evidence], Evidence], sentences: set[str]) -> None:
    """By the sentence that is not true any more, and by no other."""
    assert wrong(falsify(ideal)) == sentences


def test_every_check_is_falsified_once() -> None:
    """A sentence that nobody makes untrue here might be true of anything."""
    assert {sentence for _, sentences in CASES for sentence in sentences} == {
        check.sentence for check in compare(Ideal(1, seed=1).evidence())
    }


def test_a_seed_gives_the_same_journeys() -> None:
    """What is printed with a failure is enough to ask for the same again."""
    assert journeys(50, 7) == journeys(50, 7)
    assert journeys(50, 7) != journeys(50, 8)
