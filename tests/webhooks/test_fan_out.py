"""Which rows an event makes, and what that costs."""

import json

from app.core.ids import new_id
from app.infra.db import Connection, Pool, tenant
from app.webhooks import actions
from app.webhooks.fan_out import announcement, fan_out
from tests.webhooks.builders import MERCHANT, OTHER_MERCHANT, announce, asker, change, endpoint, event_row, waiting

HOOK = "http://127.0.0.1:9/hook"


async def test_each_listener_gets_one_row_per_event(pool: Pool, writer: Connection) -> None:
    """By type, by family and by the wildcard; naming a type in several ways makes no second row."""
    by_type = await endpoint(pool, HOOK, "payment.created")
    by_family = await endpoint(pool, HOOK, "refund.*", "payment.*")
    to_all = await endpoint(pool, HOOK, "*")
    in_all_ways = await endpoint(pool, HOOK, "payment.created", "payment.*", "*")
    await endpoint(pool, HOOK, "payment.captured", "payment_intent.*")

    (event,) = await announce(writer, traceparent="00-a-b-01")

    assert sorted(await waiting(writer)) == sorted((event.id, one.id) for one in (by_type, by_family, to_all, in_all_ways))
    cursor = await writer.execute(
        "SELECT queue, actor, lane, encode(uuid_send(tenant), 'hex'), payload, traceparent FROM outbox WHERE lane = %s", (by_type.id,)
    )
    queue, actor, lane, merchant_id, payload, traceparent = await cursor.fetchone() or ()
    assert (queue, actor, lane, merchant_id, traceparent) == ("webhooks", "webhook.deliver", by_type.id, MERCHANT, "00-a-b-01")
    assert json.loads(payload) == {"event_id": event.id, "endpoint_id": by_type.id, "try": 0}


async def test_a_batch_of_many_merchants_and_modes_stays_apart(pool: Pool, writer: Connection) -> None:
    """An event goes to its own merchant's endpoints of its own mode."""
    ours = await endpoint(pool, HOOK)
    ours_live = await endpoint(pool, HOOK, livemode=True)
    theirs = await endpoint(pool, HOOK, merchant_id=OTHER_MERCHANT)

    one, live, other, _ = await announce(
        writer, event_row(), event_row(livemode=True), event_row(merchant_id=OTHER_MERCHANT), event_row(merchant_id=new_id())
    )

    assert sorted(await waiting(writer)) == sorted([(one.id, ours.id), (live.id, ours_live.id), (other.id, theirs.id)])


async def test_disabled_and_deleted_endpoints_get_nothing(pool: Pool, writer: Connection) -> None:
    """Neither hears of what happens while it is away."""
    disabled, deleted = await endpoint(pool, HOOK), await endpoint(pool, HOOK)
    await change(pool, disabled.id, disabled=True)
    await writer.execute("DELETE FROM outbox")
    async with tenant(pool, merchant_id=MERCHANT, livemode=False) as connection:
        await actions.delete(connection, asker(), deleted.id, require_version=lambda _: None)

    await announce(writer)

    assert await waiting(writer) == []


async def test_the_count_says_whether_somebody_is_to_be_woken(pool: Pool, writer: Connection) -> None:
    """Events that nobody listens to wake nobody."""
    await endpoint(pool, HOOK, "payment.captured")
    told = [
        announcement(event_id=new_id(), merchant_id=MERCHANT, livemode=False, object_type="payment", event=event)
        for event in ("created", "authorized", "captured", "captured")
    ]

    assert (await fan_out(writer, told)).rowcount == 2
    assert (await fan_out(writer, told[:2])).rowcount == 0
    assert (await fan_out(writer, [])).rowcount == 0


async def test_the_merchant_s_own_role_may_fan_out(pool: Pool, writer: Connection) -> None:
    """A change made by a request announces itself in that request's transaction."""
    listening = await endpoint(pool, HOOK, "webhook_endpoint.disabled")
    stopped = await endpoint(pool, HOOK, "payment.*")

    await change(pool, stopped.id, disabled=True)

    assert [endpoint_id for _, endpoint_id in await waiting(writer)] == [listening.id]
