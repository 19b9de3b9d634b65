"""Sending again: one event, everything that was missed, a test."""

import json
from datetime import datetime, timedelta

import pytest

import outbox
from app.core.clock import now
from app.core.errors import IllegalTransition, InvalidValue, NotFound
from app.core.ids import Id, typeid
from app.infra.db import Connection, Pool, tenant
from app.webhooks import actions, recovery
from app.webhooks.deliveries import of_events
from app.webhooks.model import Endpoint
from tests.webhooks.builders import (
    MERCHANT,
    OTHER_MERCHANT,
    Deliveries,
    announce,
    asker,
    change,
    endpoint,
    event_row,
    log_of,
    waiting,
)
from tests.webhooks.receiver import Receiver

HOOK = "http://127.0.0.1:9/hook"


async def redeliver(pool: Pool, event_id: Id, endpoint_id: Id | None = None) -> list[Endpoint]:
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        return await actions.redeliver(connection, asker(), event_id, endpoint_id=endpoint_id)


async def recover(pool: Pool, endpoint_id: Id, since: datetime) -> None:
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        await actions.recover(connection, asker(), endpoint_id, since=since)


async def test_a_redelivered_event_has_the_same_id_and_the_same_log_line(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """The merchant can tell a repetition, and the log shows both attempts in one place."""
    await endpoint(pool, f"{receiver.url}/hook")
    (event,) = await announce(writer)
    await courier.run()

    await redeliver(pool, event.id)
    await courier.run()

    assert [one["headers"]["webhook-id"] for one in receiver.got()] == [typeid("evt", event.id)] * 2
    assert receiver.got()[0]["body"] == receiver.got()[1]["body"]
    assert await log_of(writer, "status", "attempts", "jsonb_array_length(log)") == [("delivered", 2, 2)]


async def test_redelivery_goes_to_the_named_endpoint_or_to_all_that_listen(pool: Pool, writer: Connection) -> None:
    """Naming one reaches it whatever it listens to; naming none reaches those of its type."""
    listening = await endpoint(pool, HOOK, "payment.*")
    deaf = await endpoint(pool, HOOK, "refund.*")
    (event,) = await announce(writer)

    assert [one.id for one in await redeliver(pool, event.id)] == [listening.id]
    assert [one.id for one in await redeliver(pool, event.id, deaf.id)] == [deaf.id]
    assert [endpoint_id for _, endpoint_id in await waiting(writer)] == [listening.id, listening.id, deaf.id]


async def test_what_is_not_there_or_not_enabled_is_not_sent_again(pool: Pool, writer: Connection) -> None:
    """Another merchant's event and endpoint do not exist for this one; a disabled endpoint is told apart."""
    stopped = await endpoint(pool, HOOK)
    theirs = await endpoint(pool, HOOK, merchant_id=OTHER_MERCHANT)
    (event, foreign) = await announce(writer, event_row(), event_row(merchant_id=OTHER_MERCHANT))
    await change(pool, stopped.id, disabled=True)

    with pytest.raises(NotFound):
        await redeliver(pool, foreign.id)
    with pytest.raises(NotFound):
        await redeliver(pool, event.id, theirs.id)
    with pytest.raises(IllegalTransition):
        await redeliver(pool, event.id, stopped.id)


async def test_a_failed_redelivery_of_a_delivered_event_stays_delivered(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """The merchant has it; that a copy did not arrive is in the log and starts no retries."""
    await endpoint(pool, f"{receiver.url}/hook")
    (event,) = await announce(writer)
    await courier.run()
    receiver.answer_with(500)

    await redeliver(pool, event.id)
    await courier.run()

    assert await log_of(writer, "status", "attempts", "next_at", "last_status_code") == [("delivered", 2, None, 500)]


async def test_a_redelivery_that_succeeds_ends_the_retries(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """A merchant who has mended its server and asks again is not sent the same event once more by the schedule."""
    await endpoint(pool, f"{receiver.url}/hook")
    receiver.answer_with(500, times=1)
    (event,) = await announce(writer)
    await courier.run()

    await redeliver(pool, event.id)
    await courier.run()

    assert await courier.retry(now() + timedelta(days=1)) == 0
    assert await log_of(writer, "status", "attempts") == [("delivered", 2)]


async def test_recovery_sends_what_was_missed_and_nothing_else(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that failed, events of the time when it was disabled; not those delivered, not other types, not older ones; page by page."""
    monkeypatch.setattr(recovery, "PAGE", 2)
    missed = await endpoint(pool, f"{receiver.url}/hook", "payment.*")
    (delivered,) = await announce(writer)
    await courier.run()
    receiver.answer_with(500, times=2)
    failed = await announce(writer, event_row(), event_row())
    await courier.run()
    await change(pool, missed.id, disabled=True)
    away = await announce(writer, event_row(), event_row(), event_row())
    await change(pool, missed.id, disabled=False)
    await announce(writer, event_row(merchant_id=OTHER_MERCHANT))
    receiver.journal.clear()

    await recover(pool, missed.id, now() - timedelta(hours=1))
    await courier.run()

    assert sorted(one["headers"]["webhook-id"] for one in receiver.got()) == sorted(typeid("evt", one.id) for one in (*failed, *away))
    assert set(await log_of(writer, "status")) == {"delivered"}
    assert typeid("evt", delivered.id) not in {one["headers"]["webhook-id"] for one in receiver.got()}


async def test_recovery_begins_where_it_is_told(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """What lies before `since` was seen to by other means."""
    missed = await endpoint(pool, f"{receiver.url}/hook")
    receiver.answer_with(500, times=1)
    await announce(writer)
    await courier.run()

    await recover(pool, missed.id, now())
    await courier.run()

    assert len(receiver.got()) == 1


@pytest.mark.parametrize("since", [timedelta(days=31), timedelta(seconds=-60)])
async def test_recovery_reaches_back_thirty_days_and_not_into_the_future(pool: Pool, since: timedelta) -> None:
    """As far as events are kept."""
    missed = await endpoint(pool, HOOK)

    with pytest.raises(InvalidValue):
        await recover(pool, missed.id, now() - since)


async def test_a_recovery_that_lost_its_lease_writes_nothing(pool: Pool, writer: Connection, courier: Deliveries) -> None:
    """Two workers with one page write it once."""
    missed = await endpoint(pool, HOOK)
    await announce(writer)
    await writer.execute("DELETE FROM outbox")
    await recover(pool, missed.id, now() - timedelta(hours=1))
    (stale,) = await outbox.claim(writer, "webhooks", limit=1, lease_seconds=0)
    (held,) = await outbox.claim(writer, "webhooks", limit=1, lease_seconds=60)

    with pytest.raises(outbox.LeaseLost):
        await courier.actors["webhook.recover"](stale)
    await courier.actors["webhook.recover"](held)

    assert len(await waiting(writer)) == 1


async def test_a_test_event_goes_to_its_endpoint_alone(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """Whatever it listens to; others and the feed do not see it."""
    tried = await endpoint(pool, f"{receiver.url}/tried", "refund.succeeded")
    await endpoint(pool, f"{receiver.url}/other", "*")

    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        event = await actions.send_test(connection, asker(), tried.id)
    await courier.run()

    assert receiver.got("/other") == []
    (got,) = [json.loads(one["body"]) for one in receiver.got("/tried")]
    assert (got["id"], got["type"], got["object_id"]) == (typeid("evt", event.id), "webhook_endpoint.tested", typeid("we", tried.id))


async def test_a_test_of_a_disabled_endpoint_is_refused(pool: Pool) -> None:
    """It would never arrive."""
    stopped = await endpoint(pool, HOOK)
    await change(pool, stopped.id, disabled=True)

    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        with pytest.raises(IllegalTransition):
            await actions.send_test(connection, asker(), stopped.id)


async def test_an_event_names_its_deliveries(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """A timeline finds what was sent for an event without an index of its own."""
    one, other = await endpoint(pool, f"{receiver.url}/one"), await endpoint(pool, f"{receiver.url}/other")
    event, _ = await announce(writer, event_row(), event_row())
    await courier.run()

    found = await of_events(writer, [event.id])

    assert {(delivery.event_id, delivery.endpoint_id, delivery.status) for delivery in found} == {
        (event.id, one.id, "delivered"),
        (event.id, other.id, "delivered"),
    }
