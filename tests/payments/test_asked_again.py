"""What is done about a request that may have been sent: a second charge is never the price of not knowing."""

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

import outbox
from app.core.ids import Id, typeid
from app.payments import due
from app.providers.base import Unknown
from tests.flows.shop import eventually
from tests.payments.builders import Counter, approved
from tests.payments.test_requests import confirmed_at
from tests.payments.worker import Shift, at_work, sandbox_adapter
from tests.sandbox.running import RunningSandbox

LOST = Unknown(why="no answer")


class Ended(NamedTuple):
    """Why a key means nothing any more: what the provider can, and how long ago it was asked."""

    asked_seconds_ago: float
    capabilities: dict[str, Any]


ENDED = {
    "longer than the provider keeps keys": Ended(120, {"key_lifetime_seconds": 60}),
    "longer than we rely on any key": Ended(25 * 3600, {"key_lifetime_seconds": 30 * 24 * 3600}),
    "no keys at all": Ended(1, {"honours_keys": False}),
}
no_key_lives = pytest.mark.parametrize("ended", ENDED.values(), ids=ENDED.keys())


async def asked(counter: Counter, *, seconds_ago: float) -> Id:
    """The operation of a sale that was asked for a while ago."""
    return (await confirmed_at(counter, await counter.intent(), seconds=-seconds_ago)).operation_id


def effects(sandbox: RunningSandbox, operation_id: Id) -> list[str]:
    return [line["kind"] for line in sandbox.journal(typeid("op", operation_id))]


async def landed(sandbox: RunningSandbox, operation_id: Id) -> None:
    async def look() -> list[str] | None:
        return effects(sandbox, operation_id) or None

    await eventually(look, what="an effect")


async def statuses(shift: Shift, operation_id: Id) -> tuple[str, str]:
    standing = await shift.counter.read(operation_id)
    return standing.operation.status, standing.payment.status


async def vanish_after_the_effect(shift: Shift, sandbox: RunningSandbox, operation_id: Id) -> None:
    """The provider has charged, and the worker ends before it hears of it."""
    sandbox.fault("no_answer_after_effect", "sale", reference=typeid("op", operation_id), delay_ms=5000)
    sending = asyncio.create_task(shift.worker.do(await shift.worker.claim()))
    await landed(sandbox, operation_id)
    sending.cancel()
    with suppress(outbox.LeaseLost):
        await sending
    await shift.worker.leases_end()


@no_key_lives
async def test_a_request_whose_key_has_ended_is_looked_up_and_never_sent_again(
    database: str, sandbox: RunningSandbox, ended: Ended
) -> None:
    """The provider would take the key for a new one and charge a second time."""
    sandbox.set(honour_idempotency_keys=False)
    async with at_work(database, sandbox_adapter(sandbox, **ended.capabilities)) as shift:
        operation = await asked(shift.counter, seconds_ago=ended.asked_seconds_ago)
        await vanish_after_the_effect(shift, sandbox, operation)
        await shift.worker.run()

        assert effects(sandbox, operation) == ["sale"]
        assert await statuses(shift, operation) == ("succeeded", "captured")


@no_key_lives
async def test_a_request_whose_key_has_ended_and_that_nobody_knows_is_unknown(database: str, sandbox: RunningSandbox, ended: Ended) -> None:
    """It may still be on its way: neither sent again nor failed, and looked up later."""
    async with at_work(database, sandbox_adapter(sandbox, **ended.capabilities)) as shift:
        operation = await asked(shift.counter, seconds_ago=ended.asked_seconds_ago)
        await shift.worker.claim()
        await shift.worker.leases_end()
        await shift.worker.run()

        assert effects(sandbox, operation) == []
        assert await statuses(shift, operation) == ("unknown", "pending_auth")
        assert (await shift.counter.read(operation)).operation.next_lookup_at is not None


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_request_whose_key_lives_is_sent_again_under_it(database: str, sandbox: RunningSandbox, *, arrived: bool) -> None:
    """Whether or not the first one arrived, it is charged once."""
    async with at_work(database, sandbox_adapter(sandbox, key_lifetime_seconds=3600, can_look_up=False)) as shift:
        operation = await asked(shift.counter, seconds_ago=3000)
        if arrived:
            await vanish_after_the_effect(shift, sandbox, operation)
        else:
            await shift.worker.claim()
            await shift.worker.leases_end()
        await shift.worker.run()

        assert effects(sandbox, operation) == ["sale"]
        assert await statuses(shift, operation) == ("succeeded", "captured")


@no_key_lives
async def test_what_a_look_up_does_not_find_after_its_key_has_ended_is_not_sent_and_has_not_failed(
    database: str, sandbox: RunningSandbox, ended: Ended
) -> None:
    """However often it is not found; only somebody who knows ends it."""
    async with at_work(database, sandbox_adapter(sandbox, **ended.capabilities)) as shift:
        operation = await asked(shift.counter, seconds_ago=ended.asked_seconds_ago)
        await shift.worker.claim()
        await shift.counter.tell(operation, LOST)
        for _ in range(3):
            await shift.worker.look_up()

        assert effects(sandbox, operation) == []
        assert await statuses(shift, operation) == ("unknown", "pending_auth")
        assert (await shift.counter.read(operation)).operation.lookups == 4


async def test_what_a_look_up_does_not_find_is_sent_again_while_its_key_lives(database: str, sandbox: RunningSandbox) -> None:
    """The same key and the same request: the payer who waits gets an answer."""
    async with at_work(database, sandbox_adapter(sandbox, key_lifetime_seconds=3600)) as shift:
        operation = await asked(shift.counter, seconds_ago=3000)
        await shift.worker.claim()
        await shift.counter.tell(operation, LOST)
        await shift.worker.look_up()

        assert effects(sandbox, operation) == ["sale"]
        assert await statuses(shift, operation) == ("succeeded", "captured")


async def test_what_lands_within_the_settle_window_is_charged_once(database: str, sandbox: RunningSandbox) -> None:
    """Not found and then found, at a provider without keys: the first look-up ends nothing and sends nothing."""
    sandbox.set(honour_idempotency_keys=False)
    async with at_work(database, sandbox_adapter(sandbox, honours_keys=False)) as shift:
        operation = await asked(shift.counter, seconds_ago=0)
        sandbox.fault("late_effect", "sale", reference=typeid("op", operation), delay_ms=2500)
        await shift.worker.run()
        await shift.worker.look_up()
        early = (effects(sandbox, operation), await statuses(shift, operation))
        await landed(sandbox, operation)
        await shift.worker.look_up()

        assert early == ([], ("unknown", "pending_auth"))
        assert effects(sandbox, operation) == ["sale"]
        assert await statuses(shift, operation) == ("succeeded", "captured")


async def test_that_nobody_knows_a_closed_operation_sends_nothing(database: str, sandbox: RunningSandbox) -> None:
    """A callback hints at a payment that has been captured, and the provider's look-up does not find it."""
    async with at_work(database, sandbox_adapter(sandbox)) as shift:
        operation = await asked(shift.counter, seconds_ago=0)
        await shift.worker.claim()
        await shift.counter.tell(operation, approved())
        await outbox.write(shift.counter.writer, [due.look_up_row((await shift.counter.read(operation)).operation)])
        await shift.worker.run()

        assert effects(sandbox, operation) == []
        assert await statuses(shift, operation) == ("succeeded", "captured")
