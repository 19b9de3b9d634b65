"""The batch that creates intents, where another connection comes between its statements."""

import asyncio

import psycopg

from app.payments import intent_actions
from tests.faults.proxy import proxied
from tests.payments.builders import opened

FIELDS = {"amount": 10000, "currency": "EUR", "capture_method": "automatic"}


async def test_an_intent_that_is_acknowledged_is_there_though_its_key_ended_just_now(database: str) -> None:
    """The key of a day ago refuses the new intent and is purged before it can be read: the intent is written then, once."""
    async with proxied(database) as proxy, opened(proxy.url) as counter:
        await intent_actions.create(counter.road, counter.asking("order-1"), FIELDS)
        proxy.hold_back(0.5, b"array_to_string")
        repeated = asyncio.create_task(intent_actions.create(counter.road, counter.asking("order-1"), FIELDS))
        await asyncio.sleep(0.25)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
            await owner.execute("DELETE FROM idempotency_keys")
        intent_id, shown = await repeated

        assert proxy.held == 1
        assert not shown.replayed
        assert await counter.rows("SELECT count(*) FROM payment_intents WHERE id = %s::uuid", intent_id) == [(1,)]
        assert await counter.rows("SELECT count(*) FROM idempotency_keys WHERE object_id = %s::uuid", intent_id) == [(1,)]


async def test_an_answer_that_is_lost_is_found_again_by_its_key(database: str) -> None:
    """The statement is its own transaction: it was committed, nobody heard of it, and the lane's second run says the same."""
    async with proxied(database) as proxy, opened(proxy.url) as counter:
        proxy.hold_back(5.0, b"array_to_string")
        created = asyncio.create_task(intent_actions.create(counter.road, counter.asking("order-1"), FIELDS))
        await asyncio.sleep(0.25)
        proxy.go_down()
        proxy.come_up()
        intent_id, shown = await created

    assert (proxy.held, shown.replayed) == (1, False)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        rows = await (await owner.execute("SELECT id FROM payment_intents")).fetchall()
    assert [id_.hex for (id_,) in rows] == [intent_id]
