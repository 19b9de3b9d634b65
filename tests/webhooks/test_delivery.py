"""Events that reach a merchant's server, over HTTP."""

import asyncio
import json
from datetime import timedelta

import pytest
import standardwebhooks
import svix

import outbox
from app.core.clock import now, rfc3339
from app.core.ids import typeid
from app.infra.db import Connection, Pool, tenant
from app.webhooks import actions, store
from app.webhooks.fan_out import deliver_row
from app.webhooks.model import ROTATION_OVERLAP
from app.webhooks.signing import derive_secret, shown
from tests.webhooks.builders import (
    MERCHANT,
    OTHER_MERCHANT,
    SERVER_KEY,
    Deliveries,
    announce,
    asker,
    change,
    endpoint,
    event_row,
    log_of,
    waiting,
)
from tests.webhooks.receiver import Receiver, running


def secret_of(endpoint_id: str, salt: str) -> str:
    return shown(derive_secret(SERVER_KEY, endpoint_id=endpoint_id, salt=salt))


async def test_an_event_arrives_signed_as_both_libraries_verify(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """What the merchant's server gets is the documented body, verifiable with the secret of its endpoint."""
    listening = await endpoint(pool, f"{receiver.url}/hook", "payment.*")
    (event,) = await announce(writer)

    await courier.run()

    (got,) = receiver.got("/hook")
    secret = secret_of(listening.id, listening.salt)
    body = standardwebhooks.Webhook(secret).verify(got["body"], got["headers"])
    svix.Webhook(secret).verify(got["body"], got["headers"])
    assert body == {
        "id": typeid("evt", event.id),
        "event_id": typeid("evt", event.id),
        "object": "event",
        "type": "payment.created",
        "object_type": "payment",
        "object_id": typeid("pay", event.object_id),
        "payment_id": typeid("pay", event.object_id),
        "merchant_id": typeid("mer", MERCHANT),
        "livemode": False,
        "occurred_at": rfc3339(event.occurred_at),
        "sequence": 1,
        "api_version": "2026-11-20",
        "data": {"id": typeid("pay", event.object_id), "object": "payment", "amount": 2599, "version": 1},
    }
    assert got["headers"]["webhook-id"] == typeid("evt", event.id)
    assert got["headers"]["Content-Type"] == "application/json"
    assert await log_of(writer, "status", "attempts", "last_status_code") == [("delivered", 1, 200)]
    assert await waiting(writer) == []


async def test_a_failed_attempt_is_repeated_when_its_time_has_come(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """500 three times, then 200: four requests with one id, at the instants of the schedule, and one line in the log."""
    await endpoint(pool, f"{receiver.url}/hook")
    receiver.answer_with(500, times=3, body="out of order")
    await announce(writer)

    await courier.run()
    assert await courier.retry(now()) == 0
    for wait in (timedelta(seconds=6), timedelta(minutes=6), timedelta(minutes=35)):
        assert await courier.retry(now() + wait) == 1

    assert len({one["headers"]["webhook-id"] for one in receiver.got()}) == 1
    assert len(receiver.got()) == 4
    ((status, attempts, log),) = await log_of(writer, "status", "attempts", "log")
    assert (status, attempts) == ("delivered", 4)
    assert [one["status"] for one in log] == [500, 500, 500, 200]
    assert log[0]["response"] == "out of order"


async def test_a_delivery_is_given_up_after_the_last_retry(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """Ten attempts; then a dead letter, and an event about the endpoint for those who listen to that."""
    failing = await endpoint(pool, f"{receiver.url}/hook", "payment.*")
    await endpoint(pool, f"{receiver.url}/watch", "webhook_endpoint.*")
    receiver.answer_with(500)
    (event,) = await announce(writer)

    await courier.run()
    for _ in range(9):
        assert await courier.retry(now() + timedelta(days=2)) >= 1

    assert len(receiver.got("/hook")) == 10
    assert await log_of(writer, "status", "attempts", "next_at is null") == [("exhausted", 10, True), ("delivered", 1, True)]
    (told,) = [json.loads(one["body"]) for one in receiver.got("/watch")]
    assert told["type"] == "webhook_endpoint.exhausted"
    assert told["object_id"] == typeid("we", failing.id)
    assert told["data"]["exhausted_events"] == [
        {"event_id": typeid("evt", event.id), "type": "payment.created", "last_error": "the endpoint answered 500"}
    ]
    cursor = await writer.execute("SELECT actor, encode(uuid_send(subject), 'hex'), last_error FROM dead_letters")
    assert await cursor.fetchall() == [("webhook.deliver", event.id, "given up after the last retry: the endpoint answered 500")]


async def test_giving_up_an_event_about_endpoints_makes_no_further_event(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """An endpoint that listens to everything and answers nothing is told of its exhaustion once, not for ever."""
    await endpoint(pool, f"{receiver.url}/hook", "*")
    receiver.answer_with(500)
    await announce(writer)

    await courier.run()
    for _ in range(25):
        await courier.retry(now() + timedelta(days=2))

    cursor = await writer.execute("SELECT count(*) FROM events WHERE event = 'exhausted'")
    assert await cursor.fetchone() == (1,)
    cursor = await writer.execute("SELECT count(*) FROM dead_letters")
    assert await cursor.fetchone() == (2,)
    assert await waiting(writer) == []


async def test_gone_disables_the_endpoint_with_a_notice(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """After 410 nothing more is sent there; what was on its way is canceled, and the merchant's other endpoint hears of it."""
    gone = await endpoint(pool, f"{receiver.url}/gone", "payment.*")
    await endpoint(pool, f"{receiver.url}/watch", "webhook_endpoint.disabled")
    receiver.answer_with(410, path="/gone")
    await announce(writer)
    await courier.run()

    await announce(writer)
    await courier.run()

    assert len(receiver.got("/gone")) == 1
    (told,) = [json.loads(one["body"]) for one in receiver.got("/watch")]
    assert (told["data"]["status"], told["data"]["disabled_reason"]) == ("disabled", "gone")
    (present,) = await store.lock_many(writer, [gone.id])
    assert (present.status, present.version) == ("disabled", 2)


async def test_rows_of_a_disabled_endpoint_are_canceled(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """What was written before the merchant disabled the endpoint is not sent, and the log says so."""
    stopped = await endpoint(pool, f"{receiver.url}/hook")
    await announce(writer)

    await change(pool, stopped.id, disabled=True)
    await courier.run()

    assert receiver.got() == []
    assert await log_of(writer, "status", "attempts", "last_error") == [("canceled", 0, "the endpoint is not enabled")]
    assert await waiting(writer) == []


async def test_days_of_nothing_but_failure_disable_the_endpoint(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """A failure five days after the first one, with no success in between, is the last; one success starts the count anew."""
    failing = await endpoint(pool, f"{receiver.url}/hook", "payment.*")
    receiver.answer_with(500, times=2)
    receiver.answer_with(200, times=1)
    receiver.answer_with(500)

    async def fail_five_days_after_the_first() -> str:
        await writer.execute("UPDATE webhook_endpoint_health SET failing_since = failing_since - interval '5 days'")
        await announce(writer)
        await courier.run()
        (present,) = await store.lock_many(writer, [failing.id])
        return present.status

    await announce(writer, event_row(), event_row())
    await courier.run()
    assert await fail_five_days_after_the_first() == "enabled"  # this one succeeded
    await announce(writer)
    await courier.run()
    assert await fail_five_days_after_the_first() == "disabled"
    (present,) = await store.lock_many(writer, [failing.id])
    assert present.disabled_reason == "failing"


async def test_an_endpoint_that_asks_for_a_pause_gets_it_whole(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """After 429 with Retry-After no other event goes there for that long, and waiting counts as no failure."""
    await endpoint(pool, f"{receiver.url}/hook")
    await announce(writer)
    await courier.run()
    receiver.answer_with(429, times=1, headers={"Retry-After": "60"})
    await announce(writer)
    await courier.run()

    await announce(writer, event_row(), event_row())
    await courier.run()

    assert len(receiver.got()) == 2
    cursor = await writer.execute("SELECT bool_and(due_at > now() + interval '50 seconds'), sum(failures) FROM outbox")
    assert await cursor.fetchone() == (True, 0)
    await writer.execute("UPDATE webhook_endpoint_health SET paused_until = now()")
    await writer.execute("UPDATE outbox SET due_at = now()")
    await courier.run()
    assert len(receiver.got()) == 4


async def test_both_secrets_sign_during_a_rotation_and_one_after_it(
    pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver
) -> None:
    """A merchant that still holds the old secret verifies for 24 hours, and not a day longer."""
    before = await endpoint(pool, f"{receiver.url}/hook", "payment.*")
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        after = await actions.rotate_secret(connection, asker(), before.id, require_version=lambda _: None)
    await announce(writer)
    await courier.run()

    for salt in (before.salt, after.salt):
        standardwebhooks.Webhook(secret_of(before.id, salt)).verify(receiver.got()[0]["body"], receiver.got()[0]["headers"])

    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        long_ago = asker(at=now() - ROTATION_OVERLAP - timedelta(seconds=1))
        last = await actions.rotate_secret(connection, long_ago, before.id, require_version=lambda _: None)
    await announce(writer)
    await courier.run()
    got = receiver.got()[1]
    standardwebhooks.Webhook(secret_of(before.id, last.salt)).verify(got["body"], got["headers"])
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret_of(before.id, after.salt)).verify(got["body"], got["headers"])


async def test_a_slow_endpoint_does_not_delay_the_healthy(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """While one server sleeps, what goes to another is delivered and written down."""
    await endpoint(pool, f"{receiver.url}/slow", "payment.*")
    await endpoint(pool, f"{receiver.url}/quick", "payment.*")
    receiver.answer_with(200, path="/slow", delay_ms=1500)
    await announce(writer, *(event_row() for _ in range(20)))

    running_deliveries = asyncio.create_task(courier.run())
    await asyncio.sleep(0.7)

    cursor = await writer.execute("SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered'")
    assert await cursor.fetchone() == (20,)
    await running_deliveries
    assert len(receiver.got("/slow")) == 20


async def test_a_large_object_is_cut_and_says_so(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """A body stays under 20 kB: metadata goes first, and what is left is still the object's identity."""
    await endpoint(pool, f"{receiver.url}/hook")
    metadata = {f"{number:02}" * 20: "x" * 500 for number in range(50)}
    await announce(writer, event_row(data={"id": "pay_1", "amount": 5, "metadata": metadata}))
    await announce(writer, event_row(data={"id": "pay_1", "description": "x" * 30_000}))

    await courier.run()

    # Both were under way at once.
    bodies = sorted((json.loads(one["body"]) for one in receiver.got()), key=lambda body: "amount" not in body["data"])
    assert all(len(one["body"]) < 20_000 for one in receiver.got())
    assert [one["truncated"] for one in bodies] == [True, True]
    assert bodies[0]["data"] == {"id": "pay_1", "amount": 5}
    assert bodies[1]["data"] == {"id": bodies[1]["object_id"], "object": "payment", "version": 1}


async def test_a_lost_lease_writes_nothing(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """A worker that was overtaken may have sent the event twice, but it does not write into its successor's row."""
    await endpoint(pool, f"{receiver.url}/hook")
    await announce(writer)
    (stale,) = await outbox.claim(writer, "webhooks", limit=1, lease_seconds=0)

    assert await courier.run() == 1
    with pytest.raises(outbox.LeaseLost):
        await courier.actors["webhook.deliver"](stale)

    assert await log_of(writer, "status", "attempts") == [("delivered", 1)]


async def test_a_row_without_its_event_is_a_failure_with_a_reason(writer: Connection, courier: Deliveries) -> None:
    """What points nowhere ends in the dead letters and not in a loop."""
    await outbox.write(
        writer, [outbox.NewRow("webhooks", "x", "webhook.deliver", json.dumps({"event_id": "0" * 32, "endpoint_id": "0" * 32, "try": 0}))]
    )

    await courier.run()

    assert [type(error).__name__ for error in courier.errors] == ["EventGone"]


async def test_another_merchant_s_event_is_never_sent(pool: Pool, writer: Connection, courier: Deliveries, receiver: Receiver) -> None:
    """A row that pairs an event with a stranger's endpoint is a failure, whoever wrote it."""
    ours = await endpoint(pool, f"{receiver.url}/hook")
    theirs, live = await announce(writer, event_row(merchant_id=OTHER_MERCHANT), event_row(livemode=True))

    await outbox.write(writer, [deliver_row(event_id=one.id, endpoint_id=ours.id, merchant_id=MERCHANT) for one in (theirs, live)])
    await courier.run()

    assert receiver.got() == []
    assert [type(error).__name__ for error in courier.errors] == ["EventGone", "EventGone"]


async def test_an_endpoint_that_comes_back_up_is_reached_again(pool: Pool, writer: Connection, courier: Deliveries) -> None:
    """A server that is down is a failed attempt, and the retry finds it up."""
    async with running() as first:
        port = int(first.url.rpartition(":")[2])
    await endpoint(pool, f"http://127.0.0.1:{port}/hook")
    await announce(writer)
    await courier.run()
    assert await log_of(writer, "status", "last_error") == [("retrying", "the connection was refused")]

    async with running(port) as second:
        await courier.retry(now() + timedelta(seconds=6))
        assert len(second.got()) == 1
    assert await log_of(writer, "status", "last_error") == [("delivered", None)]
