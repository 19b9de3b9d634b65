"""The comparison of all books: each check is one sentence that has to be true, with the payments for which it is not."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from app.crash_check.books import Effect, Ours, Received, Shown
from app.crash_check.clients import Told
from app.crash_check.plan import DECLINES, Journey

CHARGES = frozenset({"sale", "authorize"})
# What takes money in the provider's journal and in the ledger, and what gives it back.
_MOVES = {"sale": "capture", "capture": "capture", "refund": "refund"}


class Problem(NamedTuple):
    text: str
    payment_id: str | None = None


class Check(NamedTuple):
    sentence: str
    counted: str
    problems: list[Problem]


class Evidence(NamedTuple):
    """`repeated` are the answers to the same requests asked once more at the end; `left` what was not done in time."""

    journeys: Sequence[Journey]
    told: Sequence[Told]
    refused: dict[int, str]
    repeated: dict[str, tuple[int, dict[str, Any]]]
    left: dict[str, int]
    journal: Sequence[Effect]
    ours: Ours
    received: Sequence[Received]
    shown: dict[int, Shown]


def compare(evidence: Evidence) -> list[Check]:
    return [Check(sentence, counted(evidence), list(find(evidence))) for sentence, counted, find in _CHECKS]


# --- what the clients were told -----------------------------------------------------------------------------------------------


def _unfinished(evidence: Evidence) -> Iterator[Problem]:
    ended = Counter(one.journey for one in evidence.told)
    for journey in evidence.journeys:
        if journey.number in evidence.refused:
            yield Problem(f"journey {journey.number} ({journey.kind}): {evidence.refused[journey.number]}", _payment(evidence, journey))
        elif ended[journey.number] != _steps(journey):
            had = ended[journey.number]
            yield Problem(f"journey {journey.number} ({journey.kind}) had {had} of {_steps(journey)} answers", _payment(evidence, journey))


def _steps(journey: Journey) -> int:
    asked_once = 1 if journey.kind == "one_call" else 1 + len(journey.tokens)
    return asked_once + journey.void + (journey.capture is not None) + len(journey.refunds)


def _wrong_answers(evidence: Evidence) -> Iterator[Problem]:
    journeys = {journey.number: journey for journey in evidence.journeys}
    for told in evidence.told:
        journey = journeys[told.journey]
        if (wrong := _wrong(journey, told)) is not None:
            yield Problem(f"journey {journey.number}, {told.step}: {wrong}", told.answer.get("payment_id"))


def _wrong(journey: Journey, told: Told) -> str | None:
    """What is untrue in an answer, held against the plan."""
    token = told.body.get("payment_method", {}).get("token")
    found: tuple[Any, ...]
    wanted: tuple[Any, ...]
    if token in DECLINES:
        found, wanted = (told.status, told.answer.get("decline_code")), (402, DECLINES[token])
    elif told.step.startswith("refund"):
        found, wanted = (told.status, told.answer.get("status"), told.answer.get("amount")), (201, "succeeded", told.body["amount"])
    elif told.step == "void":
        found, wanted = (told.status, told.answer.get("status")), (200, "voided")
    elif told.step == "capture":
        found, wanted = (told.status, told.answer.get("status"), told.answer.get("amount_captured")), (200, "captured", journey.capture)
    elif token is None:
        found, wanted = (
            (told.status, told.answer.get("amount"), told.answer.get("status")),
            (201, journey.amount, "requires_payment_method"),
        )
    else:
        status = 201 if told.step == "create" else 200
        found, wanted = (told.status, told.answer.get("status")), (status, "authorized" if journey.manual else "succeeded")
    return None if found == wanted else f"told {found}, true is {wanted}"


def _untrue_now(evidence: Evidence) -> Iterator[Problem]:
    for journey in evidence.journeys:
        shown = evidence.shown.get(journey.number)
        if shown is None:
            continue
        last = shown.payments[-1] if shown.payments else {}
        found = (
            shown.intent["status"],
            [payment["status"] for payment in shown.payments],
            last.get("amount_captured"),
            last.get("amount_refunded"),
            sorted((refund["amount"], refund["status"]) for refund in shown.refunds),
        )
        wanted = (
            journey.intent_status,
            ["failed"] * (len(journey.tokens) - 1) + [journey.payment_status],
            journey.captured,
            sum(journey.refunds),
            sorted((amount, "succeeded") for amount in journey.refunds),
        )
        if found != wanted:
            yield Problem(f"journey {journey.number} ({journey.kind}): the API says {found}, true is {wanted}", last.get("id"))


def _other_when_repeated(evidence: Evidence) -> Iterator[Problem]:
    for told in evidence.told:
        status, answer = evidence.repeated.get(told.key, (0, {}))
        if (status, _essence(answer)) != (told.status, _essence(told.answer)):
            yield Problem(
                f"{told.key} was told {told.status} {_essence(told.answer)}, and the same request again {status} {_essence(answer)}",
                told.answer.get("payment_id"),
            )


def _essence(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what names the request itself."""
    return {name: value for name, value in answer.items() if name not in ("request_id", "instance")}


# --- the provider's journal ---------------------------------------------------------------------------------------------------


def _effects_twice(evidence: Evidence) -> Iterator[Problem]:
    for reference, count in Counter(effect.reference for effect in evidence.journal).items():
        if count > 1:
            yield Problem(f"{reference} took effect {count} times", _payment_of(evidence, reference))
        if reference not in evidence.ours.operations:
            yield Problem(f"{reference} took effect, and nobody here asked for it")


def _not_one_charge(evidence: Evidence) -> Iterator[Problem]:
    charges = Counter(_payment_of(evidence, effect.reference) for effect in evidence.journal if effect.kind in CHARGES)
    for number, shown in evidence.shown.items():
        for payment in shown.payments:
            wanted = 0 if payment["status"] == "failed" else 1
            if charges[payment["id"]] != wanted:
                yield Problem(f"journey {number}: {charges[payment['id']]} charges for a {payment['status']} payment", payment["id"])


def _not_posted_as_journaled(evidence: Evidence) -> Iterator[Problem]:
    """Per operation, in both directions, which makes the totals equal too."""
    moved = Counter((one.reference, _MOVES[one.kind], one.currency, one.amount) for one in evidence.journal if one.kind in _MOVES)
    posted = Counter((one.reference, one.kind, one.currency, one.amount) for one in evidence.ours.posted)
    for (reference, kind, currency, amount), count in (moved - posted).items():
        yield Problem(
            f"{reference}: {count} {kind} of {amount} {currency} at the provider and not in the ledger", _payment_of(evidence, reference)
        )
    for (reference, kind, currency, amount), count in (posted - moved).items():
        yield Problem(
            f"{reference}: {count} {kind} of {amount} {currency} in the ledger and not at the provider", _payment_of(evidence, reference)
        )


def totals(evidence: Evidence) -> dict[tuple[str, str], tuple[int, int]]:
    """Minor units at the provider and in the ledger, by what was done and currency."""
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for effect in evidence.journal:
        if effect.kind in _MOVES:
            found[_MOVES[effect.kind], effect.currency][0] += effect.amount
    for posted in evidence.ours.posted:
        found[posted.kind, posted.currency][1] += posted.amount
    return {key: (journaled, booked) for key, (journaled, booked) in sorted(found.items())}


# --- nothing is left, nobody was left out -------------------------------------------------------------------------------------


def _left_over(evidence: Evidence) -> Iterator[Problem]:
    yield from (Problem(f"{count} {name}") for name, count in evidence.left.items())
    for reference, operation in evidence.ours.operations.items():
        if operation.status in ("requested", "unknown"):
            yield Problem(f"{reference} ({operation.kind}) is {operation.status}", operation.payment_id)
    yield from (Problem(f"dead letter {letter}") for letter in evidence.ours.dead_letters)
    if evidence.ours.exceptions:
        yield Problem(f"{evidence.ours.exceptions} facts were booked that no move admits")


def _books_out_of_balance(evidence: Evidence) -> Iterator[Problem]:
    if evidence.ours.unbalanced:
        yield Problem("debits are not credits")
    if evidence.ours.wallets_that_differ:
        yield Problem(f"{evidence.ours.wallets_that_differ} wallets are not what their entries make")
    if evidence.ours.held:
        yield Problem(f"{evidence.ours.held} minor units are still held, and every authorization was captured or voided")


def _not_delivered(evidence: Evidence) -> Iterator[Problem]:
    taken = {one.event_id for one in evidence.received if one.answered == 200}
    for event_id, event in evidence.ours.announced.items():
        if event_id not in taken:
            yield Problem(f"{event_id} ({event.type}) never came to the merchant", event.payment_id)


def _not_announced(evidence: Evidence) -> Iterator[Problem]:
    for one in evidence.received:
        event = evidence.ours.announced.get(one.event_id)
        if event is None:
            yield Problem(f"{one.event_id} ({one.type}) came to the merchant and is no event")
        elif (event.type, event.sequence) != (one.type, one.sequence):
            yield Problem(f"{one.event_id} is {event.type} {event.sequence} and came as {one.type} {one.sequence}", event.payment_id)
        elif not one.verified:
            yield Problem(f"{one.event_id} ({one.type}) came with a signature that does not fit", event.payment_id)


def _payment(evidence: Evidence, journey: Journey) -> str | None:
    shown = evidence.shown.get(journey.number)
    return shown.payments[-1]["id"] if shown is not None and shown.payments else None


def _payment_of(evidence: Evidence, reference: str) -> str | None:
    operation = evidence.ours.operations.get(reference)
    return None if operation is None else operation.payment_id


_CHECKS: tuple[tuple[str, Callable[[Evidence], str], Callable[[Evidence], Iterator[Problem]]], ...] = (
    ("every journey came to its end", lambda e: f"{len(e.journeys)} journeys", _unfinished),
    ("every answer was what the plan makes true", lambda e: f"{len(e.told)} answers", _wrong_answers),
    ("every answer is still what the API says", lambda e: f"{len(e.shown)} intents", _untrue_now),
    ("the same request again gets the same answer", lambda e: f"{len(e.repeated)} requests", _other_when_repeated),
    ("no reference took effect twice", lambda e: f"{len(e.journal)} effects", _effects_twice),
    (
        "one charge per confirmed payment, none for others",
        lambda e: f"{sum(one.kind in CHARGES for one in e.journal)} charges",
        _not_one_charge,
    ),
    ("the ledger is the provider's journal, to the minor unit", lambda e: f"{len(e.ours.posted)} postings", _not_posted_as_journaled),
    ("debits are credits, wallets are the ledger, nothing is held", lambda e: f"{len(e.ours.posted)} postings", _books_out_of_balance),
    ("nothing is open, waiting, dead or booked as an exception", lambda e: f"{len(e.ours.operations)} operations", _left_over),
    ("every event was delivered", lambda e: f"{len(e.ours.announced)} events", _not_delivered),
    ("no delivery was invented, every signature fits", lambda e: f"{len(e.received)} deliveries", _not_announced),
)
