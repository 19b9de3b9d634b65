"""Requests whose moment decides: after the hour, after the answer, before anybody has swept."""

from datetime import timedelta
from typing import Any

import pytest

from app.core.clock import now
from app.core.errors import IntentExpired, OperationInProgress
from app.core.ids import Id, new_id
from app.infra.db import connect
from app.payments import due
from app.payments.answers import is_refusal, refused
from app.payments.asking import Waited
from app.payments.confirm import Confirm, Confirmed
from app.payments.waiting import Answered
from app.providers.base import ActionRequired, Unknown
from tests.payments.builders import CHARGE, Counter, approved, declined

CHALLENGE = ActionRequired(provider_ref=CHARGE, redirect_url="https://bank.example/3ds")


async def confirmed_at(counter: Counter, intent_id: Id, **later: float) -> Confirmed:
    moment = now() + timedelta(**later)
    asked = Confirm(
        intent_id=intent_id,
        key=counter.asking().key(moment, moves_money=True),
        operation_id=new_id(),
        payment_method={"type": "card", "token": "tok_sandbox_approved"},
        return_url=None,
        if_match=None,
        now=moment,
        actor="test",
        traceparent=None,
    )
    return await counter.road.confirm.submit(asked)


async def test_an_intent_whose_hour_is_over_is_not_confirmed(counter: Counter) -> None:
    """Also before the clock has come by: the intent's own instant decides."""
    early, late = await counter.intent(), await counter.intent()

    assert (await confirmed_at(counter, early, minutes=59)).refusal is None
    assert isinstance((await confirmed_at(counter, late, minutes=61)).refusal, IntentExpired)


async def test_a_decline_in_the_last_minute_leaves_time_for_another_card(counter: Counter) -> None:
    """The intent lives at least five minutes more."""
    operation = await counter.sale()
    expires_at = (await counter.read(operation)).intent.expires_at
    await counter.tell(operation, declined(), at=expires_at - timedelta(seconds=30))

    assert (await counter.read(operation)).intent.expires_at == expires_at + timedelta(minutes=4, seconds=30)


async def answered(counter: Counter, waited: Waited) -> Answered:
    """What a repeat of the request is told."""
    again = await counter.road.waiters.join(waited.operation_id, seconds=0)
    assert again is not None
    return again


async def test_a_repeat_after_an_abandoned_challenge_is_told_how_it_ended(counter: Counter) -> None:
    """Nobody refused the card, so it is no decline: the answer is the expired intent."""
    waited = await counter.confirming(await counter.intent(), "the same")
    for at in (now(), now() + timedelta(hours=2)):
        await counter.tell(waited.operation_id, CHALLENGE, at=at)
    told = await answered(counter, waited)

    assert (told.object_type, told.event, is_refusal(told)) == ("payment_intent", "expired", False)
    assert '"status":"expired"' in told.data


@pytest.mark.parametrize(("outcome", "refusal"), [(approved(), False), (declined(), True), (CHALLENGE, False)], ids=["yes", "no", "act"])
async def test_a_repeat_is_told_what_the_first_was(counter: Counter, outcome: Any, refusal: bool) -> None:  # noqa: FBT001 - one of two answers
    """The intent as the answer left it, by the event that closed the operation or that asks the payer to act."""
    waited = await counter.confirming(await counter.intent(), "the same")
    await counter.tell(waited.operation_id, outcome)
    told = await answered(counter, await counter.confirming(waited.key.object_id or "", "the same"))

    assert (told.object_type, told.operation_id, is_refusal(told)) == ("payment_intent", waited.operation_id, refusal)


@pytest.mark.parametrize(("reason", "retryable"), [("issuer_unavailable", True), ("charge_not_authorized", False)])
async def test_a_refused_void_says_whether_to_try_again(counter: Counter, reason: str, retryable: bool) -> None:  # noqa: FBT001 - a table
    """By the reason of this refusal: the payment shows no failure of its own, or one of an earlier capture."""
    payment = (await counter.authorized()).payment
    await counter.tell(await counter.capture(payment.id), declined("do_not_honor" if retryable else "processing_error"))
    operation = await counter.void(payment.id)
    await counter.tell(operation, declined(reason))
    told = await counter.road.waiters.join(operation, seconds=0)

    assert told is not None
    refusal = refused(told, told.data.encode())
    assert (is_refusal(told), refusal.extra["decline_code"], refusal.retryable) == (True, reason, retryable)


async def test_two_clocks_claim_a_look_up_once(counter: Counter, database: str) -> None:
    """Each takes what the other has not, and what was claimed is due again only after its answer."""
    for _ in range(3):
        await counter.tell(await counter.sale(), Unknown(why="no answer"))
    later = now() + timedelta(hours=1)
    async with await connect(database, role="tollgate_writer") as second:
        async with counter.writer.transaction(), second.transaction():
            first = await due.emit_look_ups(counter.writer, now=later, limit=2)
            rest = await due.emit_look_ups(second, now=later, limit=100)
        again = await due.emit_look_ups(counter.writer, now=later, limit=100)

    assert (first, rest, again) == (2, 1, 0)
    assert await counter.rows("SELECT count(*) FROM outbox WHERE actor = 'psp.look_up'") == [(3,)]


async def test_an_issuer_that_has_let_go_already_is_asked_again_tomorrow(counter: Counter) -> None:
    """The void of a lapsed authorization is refused: the payment stays as it is, and the clock comes back a day later."""
    payment = (await counter.authorized()).payment
    assert payment.authorization_expires_at is not None
    for days in (0, 1):
        at = payment.authorization_expires_at + timedelta(days=days, minutes=1)
        async with counter.writer.transaction():
            await due.let_go_of_lapsed(counter.writer, now=at, limit=10)
        operation = await counter.open_operation(payment.id)
        with pytest.raises(OperationInProgress):
            await counter.capture(payment.id)
        await counter.tell(operation.id, declined("charge_not_authorized") if days == 0 else approved(), at=at)
    after = await counter.read(payment.authorization_id or "")

    assert (after.payment.status, after.intent.status, after.intent.cancellation_reason) == ("expired", "canceled", "authorization_expired")


async def test_nothing_is_written_of_nothing(counter: Counter) -> None:
    """A tick that finds nothing due sends no statement that could fail."""
    async with counter.writer.transaction():
        assert await due.let_go_of_lapsed(counter.writer, now=now(), limit=10) == frozenset()
        assert await due.expire_intents(counter.writer, now=now(), limit=10) == (0, frozenset())
    assert await counter.rows("SELECT count(*) FROM outbox") == [(0,)]
