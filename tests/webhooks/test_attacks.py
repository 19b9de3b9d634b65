"""What the database refuses whoever asks, as the roles that write here."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.clock import now
from app.core.ids import new_id
from app.infra.db import Connection, Pool, connect
from app.webhooks.model import ENDPOINT
from tests.refusal import forbidden, refused
from tests.webhooks.builders import MERCHANT, OTHER_MERCHANT, endpoint

HOOK = "https://example.com/hook"


@pytest.fixture
async def merchant(database: str) -> AsyncIterator[Connection]:
    """The application's role, as our merchant in test mode."""
    async with await connect(database, role="tollgate_app") as connection:
        await connection.execute(
            "SELECT set_config('tollgate.merchant_id', %s, false), set_config('tollgate.livemode', 'false', false)", (MERCHANT,)
        )
        yield connection


async def test_the_table_of_moves_is_the_code_s(writer: Connection) -> None:
    """Which move an endpoint may make is written once."""
    cursor = await writer.execute(
        "SELECT machine, event, from_status, to_status, announced FROM state_transitions WHERE machine = 'webhook_endpoint'"
    )

    assert sorted(await cursor.fetchall()) == sorted(tuple(row) for row in ENDPOINT.sql_rows())


@pytest.mark.parametrize(
    ("column", "value", "constraint"),
    [
        ("url", "''", "webhook_url_is_1_to_2048_long"),
        ("url", "repeat('x', 2049)", "webhook_url_is_1_to_2048_long"),
        ("enabled_events", "'{}'", "webhook_endpoint_wants_1_to_100_types"),
        ("enabled_events", "array_fill('*'::text, '{101}')", "webhook_endpoint_wants_1_to_100_types"),
        ("description", "repeat('x', 1001)", "webhook_description_is_within_1000"),
        ("salt", "'short'", "webhook_salt_is_128_bits"),
        ("disabled_reason", "'bored', disabled_at = now(), status = 'disabled'", "webhook_disabled_reason_is_known"),
        ("disabled_reason", "'gone'", "disabled_webhook_endpoint_says_when_and_why"),
        ("disabled_at", "now()", "disabled_webhook_endpoint_says_when_and_why"),
        ("status", "'disabled'", "disabled_webhook_endpoint_says_when_and_why"),
        ("previous_salt", "salt", "previous_webhook_secret_ends"),
        ("previous_salt_expires_at", "now()", "previous_webhook_secret_ends"),
        ("version", "2", "webhook_endpoint_moves_with_its_event"),
        ("url", "'https://elsewhere.example/'", "webhook_endpoint_moves_with_its_event"),
    ],
)
async def test_an_endpoint_cannot_be_bent(pool: Pool, merchant: Connection, column: str, value: str, constraint: str) -> None:
    """Each rule about an endpoint holds against raw SQL, and nothing changes without its event."""
    await endpoint(pool, HOOK)

    with refused(constraint):
        await merchant.execute(f"UPDATE webhook_endpoints SET {column} = {value}")


async def test_an_endpoint_cannot_appear_or_vanish_on_its_own(pool: Pool, writer: Connection, database: str) -> None:
    """No row without the event of its birth; none is ever removed, not even by the owner."""
    await endpoint(pool, HOOK)

    with refused("webhook_endpoint_begins_with_its_event"):
        await writer.execute(
            "INSERT INTO webhook_endpoints (id, merchant_id, livemode, status, version, last_event_id, url, enabled_events, salt, created_at, updated_at) "
            "SELECT gen_random_uuid(), merchant_id, livemode, 'enabled', 1, gen_random_uuid(), url, enabled_events, salt, now(), now() FROM webhook_endpoints"
        )
    async with await connect(database, role=None) as owner:
        for statement in ("DELETE FROM webhook_endpoints", "TRUNCATE webhook_endpoints"):
            with refused("webhook_endpoints_are_kept"):
                await owner.execute(statement)
    with forbidden():
        await writer.execute("DELETE FROM webhook_endpoints")


DELIVERY: dict[str, Any] = {
    "id": new_id(),
    "merchant_id": MERCHANT,
    "livemode": False,
    "event_id": new_id(),
    "endpoint_id": new_id(),
    "status": "retrying",
    "attempts": 1,
    "tries": 1,
    "next_at": now(),
    "created_at": now(),
    "delivered_at": None,
}


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"status": "lost"}, "delivery_status_is_known"),
        ({"attempts": -1}, "delivery_attempts_are_not_negative"),
        ({"next_at": None}, "retrying_delivery_has_its_instant"),
        ({"status": "pending"}, "retrying_delivery_has_its_instant"),
        ({"status": "delivered", "next_at": None}, "delivered_delivery_has_its_instant"),
        ({"delivered_at": now()}, "delivered_delivery_has_its_instant"),
    ],
)
async def test_a_delivery_cannot_contradict_itself(merchant: Connection, changes: dict[str, Any], constraint: str) -> None:
    """Status and instants belong together in both directions."""
    with refused(constraint):
        await _insert(merchant, "webhook_deliveries", DELIVERY | changes)


async def test_an_event_has_one_delivery_per_endpoint(writer: Connection) -> None:
    """The id is computed from both, so a second row is the first one."""
    event_id, endpoint_id = new_id(), new_id()
    cursor = await writer.execute(
        "SELECT webhook_delivery_id(%s::uuid, %s::uuid), webhook_delivery_id(%s::uuid, %s::uuid)",
        (event_id, endpoint_id, event_id, new_id()),
    )
    own, other = await cursor.fetchone() or ("", "")

    assert own != other
    assert (own[:12], own[12], own[16]) == (event_id[:12], "7", "8")
    await _insert(writer, "webhook_deliveries", DELIVERY | {"id": own})
    with refused(await _partition_key(writer, own)):
        await _insert(writer, "webhook_deliveries", DELIVERY | {"id": own})


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"consecutive_failures": -1, "failing_since": None}, "webhook_failures_are_not_negative"),
        ({"consecutive_failures": 0}, "failing_webhook_endpoint_says_since_when"),
        ({"failing_since": None}, "failing_webhook_endpoint_says_since_when"),
    ],
)
async def test_health_cannot_contradict_itself(merchant: Connection, changes: dict[str, Any], constraint: str) -> None:
    """Who fails has a beginning of failing, who does not has none."""
    row = {"endpoint_id": new_id(), "merchant_id": MERCHANT, "livemode": False, "consecutive_failures": 1, "failing_since": now()}

    with refused(constraint):
        await _insert(merchant, "webhook_endpoint_health", row | changes)


@pytest.mark.parametrize("table", ["webhook_endpoints", "webhook_endpoint_health", "webhook_deliveries"])
async def test_another_merchant_s_rows_are_neither_seen_nor_written(
    merchant: Connection, writer: Connection, pool: Pool, table: str
) -> None:
    """Row-level security stands behind every query that forgets its filter."""
    theirs = await endpoint(pool, HOOK, merchant_id=OTHER_MERCHANT)
    await endpoint(pool, HOOK, livemode=True)
    foreign = {"merchant_id": OTHER_MERCHANT, "endpoint_id": theirs.id}
    health = {"livemode": False, "consecutive_failures": 1, "failing_since": now()} | foreign
    await _insert(writer, "webhook_deliveries", DELIVERY | foreign)
    await _insert(writer, "webhook_endpoint_health", health)

    cursor = await merchant.execute(f"SELECT count(*) FROM {table}")
    assert await cursor.fetchone() == (0,)
    if table != "webhook_endpoints":
        with forbidden():
            await _insert(merchant, table, (DELIVERY if table == "webhook_deliveries" else health) | foreign)


async def _insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    values = ", ".join(f"%({column})s" for column in row)
    await connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", row)


async def _partition_key(connection: Connection, id_: str) -> str:
    cursor = await connection.execute("SELECT tableoid::regclass::text || '_pkey' FROM webhook_deliveries WHERE id = %s::uuid", (id_,))
    row = await cursor.fetchone()
    assert row is not None
    return str(row[0])
