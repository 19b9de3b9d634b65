"""A provider's words are its own: what it says happened is booked, whatever characters it says it with."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.providers.base import (
    ActionRequired,
    BadSignature,
    Capabilities,
    CardFacts,
    Declined,
    NotFound,
    Outcome,
    Pending,
    ProviderEvent,
    PspRequest,
    Unknown,
)
from tests.payments.builders import approved
from tests.payments.worker import at_work

NUL = "A\x00B"
# What `json.loads` makes of "A\ud800B": half of a pair, for which UTF-8 has no code.
HALF = "A\ud800B"
SHOWN = "A\N{REPLACEMENT CHARACTER}B"
LONG = "\N{SNOWMAN}" * 300_000
# What is kept of a text; see `storable`.
LONGEST = 2000


class Speaker:
    """A provider that has one thing to say, when it is asked and when it is looked up."""

    name = "sandbox"
    capabilities = Capabilities(
        sale=True,
        honours_keys=True,
        key_lifetime_seconds=3600,
        can_look_up=True,
        settle_window_seconds=0,
        methods=frozenset({"card"}),
    )

    def __init__(self, says: Outcome, *, first: Outcome | None = None) -> None:
        self._says = says
        self._first = first or says

    async def send(self, request: PspRequest) -> Outcome:
        assert request.reference
        return self._first

    async def look_up(self, reference: str) -> Outcome | NotFound:
        assert reference
        return self._says

    def verify_event(self, headers: Mapping[str, str], raw_body: bytes) -> ProviderEvent:
        raise BadSignature(f"{len(headers)} headers, {len(raw_body)} bytes")

    async def close(self) -> None:
        return None


def card(word: str) -> CardFacts:
    return CardFacts(brand=word, last4="4242", exp_month=1, exp_year=2030, funding=word)


def saying(word: str) -> list[tuple[str, Outcome]]:
    """Each kind of answer with the word in every text of it, and the payment's status then."""
    refused = Declined(reason=word, network_code=word, message=word, provider_ref=word)
    return [
        ("captured", approved(provider_ref=word, authorization_code=word, card=card(word))),
        ("authorized", approved(provider_ref=word, capture_declined=refused)),
        ("failed", refused),
        ("pending_auth", ActionRequired(provider_ref=word, redirect_url=f"https://bank.example/{word}")),
        ("pending_auth", Pending(provider_ref=word)),
        ("pending_auth", Unknown(why=word)),
    ]


def named(part: object) -> str:
    return part if isinstance(part, str) else type(part).__name__


def longest_text(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return max((longest_text(member) for member in members), default=0)


@pytest.mark.parametrize(("status", "says"), saying(NUL) + saying(HALF), ids=named)
async def test_what_no_text_can_hold_is_made_visible_and_the_answer_is_booked(database: str, status: str, says: Outcome) -> None:
    """Postgres keeps no NUL and no half of a pair of surrogates; what happened is kept all the same, and its row leaves the outbox."""
    async with at_work(database, Speaker(says)) as shift:
        operation = await shift.counter.sale()
        await shift.worker.run()
        standing = await shift.counter.read(operation)

        assert standing.payment.status == status
        assert SHOWN in str(standing.operation.outcome)
        assert await shift.counter.rows("SELECT actor FROM outbox WHERE queue = 'psp'") == []


@pytest.mark.parametrize(("status", "says"), saying(LONG), ids=named)
async def test_an_overlong_text_in_an_answer_is_cut_and_the_answer_is_booked(database: str, status: str, says: Outcome) -> None:
    """A page of HTML where a code should stand is not carried into every event that shows the payment."""
    async with at_work(database, Speaker(says)) as shift:
        operation = await shift.counter.sale()
        await shift.worker.run()
        standing = await shift.counter.read(operation)

        assert standing.payment.status == status
        assert longest_text(standing.operation.outcome) == LONGEST
        assert await shift.counter.rows("SELECT actor FROM outbox WHERE queue = 'psp'") == []
        ((longest,),) = await shift.counter.rows("SELECT max(octet_length(data::text)) FROM events")
        assert longest < 10 * 4 * LONGEST


async def test_an_amount_that_no_book_can_hold_is_seen_by_somebody_and_asked_about_no_more_than_any_unknown(database: str) -> None:
    """The look-up's row leaves the outbox with an exception; the operation stays unknown, with the clock and the operator."""
    async with at_work(database, Speaker(approved(2**63), first=Unknown(why="status 500"))) as shift:
        operation = await shift.counter.sale()
        await shift.worker.run()
        for _ in range(2):
            await shift.worker.look_up()
        standing = await shift.counter.read(operation)

        assert (standing.operation.status, standing.operation.next_lookup_at is not None) == ("unknown", True)
        assert await shift.counter.rows("SELECT kind FROM exceptions") == [("other_amount",)]
        assert await shift.counter.rows("SELECT actor FROM outbox WHERE queue = 'psp'") == []


async def test_a_look_up_may_find_a_nul(database: str) -> None:
    """The truth comes by another door and is booked by the same one."""
    async with at_work(database, Speaker(approved(authorization_code=NUL), first=Unknown(why=NUL))) as shift:
        operation = await shift.counter.sale()
        await shift.worker.run()
        await shift.worker.look_up()
        standing = await shift.counter.read(operation)

        assert (standing.payment.status, standing.payment.authorization_code) == ("captured", SHOWN)
