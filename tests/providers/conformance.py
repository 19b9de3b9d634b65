"""What every adapter must do, whatever it speaks to: subclass `AdapterConformance` and give it a `rehearsal` fixture.

A provider whose rehearsal cannot do a thing leaves it out of `can`, and the tests that need it are skipped by name.
"""

from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import pytest

from app.providers.base import (
    ActionRequired,
    Adapter,
    Approved,
    Declined,
    NotFound,
    OperationType,
    Outcome,
    Pending,
    PspRequest,
    Unavailable,
    Unknown,
)
from app.providers.codes import DECLINES

_numbers = count(1)

# Faults under which the PSP may have acted, and whether in truth it did.
UNKNOWN_FAULTS = {
    "error_before_effect": 0,
    "error_after_effect": 1,
    "no_answer_after_effect": 1,
    "dropped_connection": 0,
    "dropped_after_effect": 1,
    "malformed_answer": 1,
    "truncated_answer": 1,
    "huge_answer": 1,
    "wrong_amount_echoed": 1,
    "wrong_currency_echoed": 1,
    "wrong_reference_echoed": 1,
    "late_effect": 0,
}


class Rehearsal(Protocol):
    """A PSP to rehearse against, with its adapter."""

    @property
    def adapter(self) -> Adapter: ...

    @property
    def can(self) -> AbstractSet[str]:
        """Of: faults, refuse_connections, ignore_keys, challenge, later_refunds, capture_declined."""
        ...

    def token(self, card: str) -> str:
        """What stands for a card of the sandbox table at this PSP."""
        ...

    async def effects(self, reference: str) -> int:
        """How often the operation happened, asked of the PSP itself."""
        ...

    async def fault(self, kind: str, operation: str, reference: str) -> None: ...

    async def ignore_keys(self) -> None: ...

    async def challenge(self, redirect_url: str, *, approve: bool) -> None: ...

    async def unreachable(self) -> Adapter:
        """An adapter to an address where nobody listens."""
        ...


def asked(kind: OperationType, **members: Any) -> PspRequest:
    reference = f"conformance-{next(_numbers)}-{uuid4().hex}"
    fields: dict[str, Any] = {"reference": reference, "type": kind, "amount": 2599, "currency": "USD"}
    return PspRequest(**fields | members)


class AdapterConformance:
    @pytest.fixture
    def rehearsal(self) -> Rehearsal:
        raise NotImplementedError

    @staticmethod
    def need(rehearsal: Rehearsal, *abilities: str) -> None:
        missing = set(abilities) - set(rehearsal.can)
        if missing:
            pytest.skip(f"this rehearsal cannot {', '.join(sorted(missing))}")

    async def approved(self, rehearsal: Rehearsal, kind: OperationType, card: str = "approved") -> Approved:
        outcome = await rehearsal.adapter.send(asked(kind, token=rehearsal.token(card)))
        assert isinstance(outcome, Approved)
        return outcome

    async def test_a_sale_is_approved_once(self, rehearsal: Rehearsal) -> None:
        """An approved sale echoes what was asked, names the charge and the card, has one effect, and a look-up tells the same."""
        request = asked("sale", amount=1050, currency="EUR", token=rehearsal.token("approved"))

        outcome = await rehearsal.adapter.send(request)

        assert isinstance(outcome, Approved)
        assert (outcome.amount, outcome.currency, outcome.capture_declined) == (1050, "EUR", None)
        assert outcome.provider_ref
        assert outcome.card is not None
        assert len(outcome.card.last4) == 4
        assert await rehearsal.effects(request.reference) == 1
        assert await rehearsal.adapter.look_up(request.reference) == outcome

    async def test_an_authorization_can_be_captured_in_part_and_refunded(self, rehearsal: Rehearsal) -> None:
        """Each step is approved with its own amount under the charge of the first."""
        held = await self.approved(rehearsal, "authorize")

        capture = await rehearsal.adapter.send(asked("capture", amount=2000, provider_ref=held.provider_ref))
        refund = await rehearsal.adapter.send(asked("refund", amount=500, provider_ref=held.provider_ref))

        assert [(type(one), one.provider_ref, one.amount) for one in (capture, refund) if isinstance(one, Approved)] == [
            (Approved, held.provider_ref, 2000),
            (Approved, held.provider_ref, 500),
        ]

    async def test_an_authorization_can_be_voided(self, rehearsal: Rehearsal) -> None:
        """A void is approved, and the charge cannot be captured any more."""
        held = await self.approved(rehearsal, "authorize")

        void = await rehearsal.adapter.send(asked("void", provider_ref=held.provider_ref))
        capture = await rehearsal.adapter.send(asked("capture", provider_ref=held.provider_ref))

        assert isinstance(void, Approved)
        assert isinstance(capture, Declined)

    @pytest.mark.parametrize(
        ("card", "reason"),
        [
            ("declined", "do_not_honor"),
            ("insufficient_funds", "insufficient_funds"),
            ("expired_card", "expired_card"),
            ("lost_card", "lost_card"),
            ("incorrect_cvc", "incorrect_cvc"),
            ("processing_error", "processing_error"),
        ],
    )
    async def test_a_decline_is_a_value_with_a_known_reason(self, rehearsal: Rehearsal, card: str, reason: str) -> None:
        """A refused card is Declined with a reason of our table, moves nothing, and a look-up tells the same."""
        request = asked("sale", token=rehearsal.token(card))

        outcome = await rehearsal.adapter.send(request)

        assert isinstance(outcome, Declined)
        assert outcome.reason == reason
        assert outcome.reason in DECLINES
        assert outcome.message
        assert await rehearsal.effects(request.reference) == 0
        assert await rehearsal.adapter.look_up(request.reference) == outcome

    async def test_what_breaks_the_psps_rules_is_declined(self, rehearsal: Rehearsal) -> None:
        """Too large a refund and an unknown charge are refusals with reasons of our table."""
        sold = await self.approved(rehearsal, "sale")

        for outcome in (
            await rehearsal.adapter.send(asked("refund", amount=2600, provider_ref=sold.provider_ref)),
            await rehearsal.adapter.send(asked("refund", provider_ref="nobody")),
        ):
            assert isinstance(outcome, Declined)
            assert outcome.reason in DECLINES

    async def test_a_repeat_under_the_same_reference_has_one_effect(self, rehearsal: Rehearsal) -> None:
        """Where keys are honoured, a repeat is answered as the first was and charges nothing."""
        if not rehearsal.adapter.capabilities.honours_keys:
            pytest.skip("this provider honours no keys")
        request = asked("sale", token=rehearsal.token("approved"))

        outcomes = [await rehearsal.adapter.send(request) for _ in range(3)]

        assert outcomes[0] == outcomes[1] == outcomes[2]
        assert await rehearsal.effects(request.reference) == 1

    async def test_an_unheard_of_reference_is_not_found(self, rehearsal: Rehearsal) -> None:
        """NotFound is a value, and not the same as a refusal."""
        assert await rehearsal.adapter.look_up(f"nobody/{uuid4().hex}?a=b#c") == NotFound()

    @pytest.mark.parametrize("kind", UNKNOWN_FAULTS)
    async def test_silence_and_nonsense_are_unknown(self, rehearsal: Rehearsal, kind: str) -> None:
        """Whatever spoils the answer after the request was written makes the outcome Unknown, and the truth is found by look-up."""
        self.need(rehearsal, "faults")
        request = asked("sale", token=rehearsal.token("approved"))
        await rehearsal.fault(kind, "sale", request.reference)

        outcome = await rehearsal.adapter.send(request)

        assert isinstance(outcome, Unknown), outcome
        assert outcome.why
        assert await rehearsal.effects(request.reference) == UNKNOWN_FAULTS[kind]
        truth = await rehearsal.adapter.look_up(request.reference)
        assert isinstance(truth, Approved if UNKNOWN_FAULTS[kind] else NotFound)

    @pytest.mark.parametrize("kind", ["capture", "void", "refund"])
    async def test_an_unanswered_follow_up_is_unknown_too(self, rehearsal: Rehearsal, kind: OperationType) -> None:
        """A capture, void or refund without an answer is Unknown, found by look-up, and repeated without a second effect."""
        self.need(rehearsal, "faults")
        charge = await self.approved(rehearsal, "sale" if kind == "refund" else "authorize")
        request = asked(kind, amount=2599, provider_ref=charge.provider_ref)
        await rehearsal.fault("dropped_after_effect", kind, request.reference)

        outcome = await rehearsal.adapter.send(request)

        assert isinstance(outcome, Unknown)
        assert isinstance(await rehearsal.adapter.look_up(request.reference), Approved)
        assert isinstance(await rehearsal.adapter.send(request), Approved)
        assert await rehearsal.effects(request.reference) == 1

    @pytest.mark.parametrize("kind", ["error_before_effect", "malformed_answer", "dropped_connection", "wrong_reference_echoed"])
    async def test_a_spoiled_look_up_is_unknown(self, rehearsal: Rehearsal, kind: str) -> None:
        """A look-up that was not answered soundly resolves nothing, and above all is not NotFound."""
        self.need(rehearsal, "faults")
        request = asked("sale", token=rehearsal.token("approved"))
        await rehearsal.adapter.send(request)
        # A connection that dies under a look-up may be asked anew once, since asking has no effect: spoil that one too.
        await rehearsal.fault(kind, "look_up", request.reference)
        await rehearsal.fault(kind, "look_up", request.reference)

        assert isinstance(await rehearsal.adapter.look_up(request.reference), Unknown)

    async def test_no_connection_is_unavailable(self, rehearsal: Rehearsal) -> None:
        """Where nobody listens nothing was sent, and the adapter says so by Unavailable."""
        self.need(rehearsal, "refuse_connections")
        adapter = await rehearsal.unreachable()
        try:
            with pytest.raises(Unavailable):
                await adapter.send(asked("sale", token=rehearsal.token("approved")))
            with pytest.raises(Unavailable):
                await adapter.look_up("anything")
        finally:
            await adapter.close()

    @pytest.mark.parametrize("approve", [True, False])
    async def test_a_challenge_is_passed_or_failed(self, rehearsal: Rehearsal, *, approve: bool) -> None:
        """ActionRequired with an address and no effect; afterwards a look-up tells the end."""
        self.need(rehearsal, "challenge")
        request = asked("sale", token=rehearsal.token("authentication_required"), return_url="https://shop.test/back")

        outcome = await rehearsal.adapter.send(request)
        assert isinstance(outcome, ActionRequired)
        assert await rehearsal.adapter.look_up(request.reference) == outcome
        assert await rehearsal.effects(request.reference) == 0
        await rehearsal.challenge(outcome.redirect_url, approve=approve)
        end: Outcome | NotFound = await rehearsal.adapter.look_up(request.reference)

        if approve:
            assert isinstance(end, Approved)
            assert end.provider_ref == outcome.provider_ref
        else:
            assert isinstance(end, Declined)
            assert end.reason == "authentication_failed"
        assert await rehearsal.effects(request.reference) == int(approve)

    async def test_a_refund_can_be_pending(self, rehearsal: Rehearsal) -> None:
        """A refund the PSP has only accepted is Pending."""
        self.need(rehearsal, "later_refunds")
        sold = await self.approved(rehearsal, "sale", "refund_pending")

        outcome = await rehearsal.adapter.send(asked("refund", provider_ref=sold.provider_ref))

        assert outcome == Pending(provider_ref=sold.provider_ref)

    async def test_a_sale_whose_capture_was_refused_says_both(self, rehearsal: Rehearsal) -> None:
        """The authorization is approved and the refused capture stands inside it."""
        self.need(rehearsal, "capture_declined")
        outcome = await self.approved(rehearsal, "sale", "capture_declined")

        assert outcome.capture_declined is not None
        assert outcome.capture_declined.reason == "capture_declined"

    async def test_a_repeat_that_is_refused_proves_nothing_without_keys(self, rehearsal: Rehearsal) -> None:
        """Where keys are ignored, the refusal of a second capture may be due to the first: Unknown, and the look-up finds the first."""
        self.need(rehearsal, "ignore_keys")
        await rehearsal.ignore_keys()
        held = await self.approved(rehearsal, "authorize")
        request = asked("capture", provider_ref=held.provider_ref)
        repeated = msgspec.structs.replace(request, first_attempt=False)
        await rehearsal.adapter.send(request)

        outcome = await rehearsal.adapter.send(repeated)

        assert isinstance(outcome, Unknown)
        assert isinstance(await rehearsal.adapter.look_up(request.reference), Approved)
