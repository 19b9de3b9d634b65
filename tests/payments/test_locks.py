"""The one statement that locks what a batch is about, where another transaction comes between."""

import asyncio

import psycopg

from app.infra.db import connect
from app.payments import intent_actions
from app.payments.locks import read_locked, settlement_locks
from outbox.round_trip import BEGIN, ROLLBACK, round_trip
from tests.payments.builders import opened

FIELDS = {"amount": 10000, "currency": "EUR", "capture_method": "automatic"}
METHOD = {"type": "card", "token": "tok_sandbox_approved"}


async def test_an_operation_is_read_as_it_is_after_the_wait_for_its_payment(database: str) -> None:
    """The statement began before the other transaction committed: what is not locked would be told as it was then."""
    async with opened(database) as counter:
        intent_id, _ = await intent_actions.create(counter.road, counter.asking("create"), FIELDS)
        await intent_actions.confirm(
            counter.road, counter.asking("confirm"), intent_id, payment_method=METHOD, return_url=None, wait_seconds=0
        )
        ((payment_id, operation_id),) = await counter.rows("SELECT payment_id, id FROM operations")
    async with await psycopg.AsyncConnection.connect(database) as other, await connect(database, role="tollgate_writer") as lane:
        await other.execute("SELECT 1 FROM payments FOR UPDATE")
        locks = settlement_locks([], payment_ids=[payment_id], intent_ids=[intent_id], operation_ids=[operation_id], refund_ids=[])
        waiting = asyncio.create_task(round_trip(lane, BEGIN, locks))
        await asyncio.sleep(0.3)
        await other.execute("UPDATE operations SET lookups = 7")
        await other.commit()

        _, rows = await waiting
        await round_trip(lane, ROLLBACK)

    assert [operation.lookups for operation in read_locked(rows).operations.values()] == [7]
