"""The hot statements keep to their indexes, on tables just made and on full ones."""

from typing import Any

import pytest

from app.core.clock import now
from app.core.ids import new_id
from app.infra.db import Connection, connect
from app.webhooks import deliveries, feed
from app.webhooks.fan_out import FAN_OUT
from tests.webhooks.builders import MERCHANT, owner

FILL = """
INSERT INTO webhook_endpoints (id, merchant_id, livemode, status, version, last_event_id, url, enabled_events, salt, created_at, updated_at)
SELECT gen_random_uuid(), gen_random_uuid(), n % 2 = 0, 'enabled', 1, gen_random_uuid(), 'https://example.com/', '{*}', md5(n::text), now(), now()
  FROM generate_series(1, 100000) n;
INSERT INTO webhook_endpoint_health (endpoint_id, merchant_id, livemode) SELECT id, merchant_id, livemode FROM webhook_endpoints;
INSERT INTO events (id, merchant_id, livemode, object_type, object_id, sequence, event, from_status, to_status, announced, actor, occurred_at)
SELECT overlay(gen_random_uuid()::text PLACING left(tollgate_first_id_at(now())::text, 13) FROM 1)::uuid, gen_random_uuid(), false, 'payment',
       gen_random_uuid(), 1, 'created', 'none', 'created', true, 'x', now()
  FROM generate_series(1, 100000);
INSERT INTO webhook_deliveries (id, merchant_id, livemode, event_id, endpoint_id, status, attempts, tries, next_at, created_at)
SELECT e.id, e.merchant_id, false, e.id, gen_random_uuid(), 'retrying', 1, 1, now() + interval '1 day', now()
  FROM events e;
ANALYZE webhook_endpoints, webhook_endpoint_health, webhook_deliveries;
DO $$ BEGIN EXECUTE format('ANALYZE events_%s', to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')); END $$"""

ROW = {"merchant_id": MERCHANT, "livemode": False, "era": 1, "transaction_id": "0", "id": new_id(), "oldest": new_id(), "is_over": False}
STATEMENTS: dict[str, tuple[str, Any, set[str]]] = {
    "fan-out": (FAN_OUT, ("[]",), {"webhook_endpoints_listening"}),
    "read": (deliveries.READ_TASKS, ("[]",), {"events_#_pkey", "webhook_endpoints_merchant", "webhook_endpoint_health_pkey"}),
    "due": (deliveries.EMIT_DUE, {"now": now(), "limit": 100}, {"webhook_deliveries_#_next_at_idx", "webhook_deliveries_#_pkey"}),
    "feed": (
        feed.READ,
        ROW | {"object_type": None, "event": None, "object_id": None, "limit": 20},
        {"events_#_merchant_id_transaction_id_id_idx"},
    ),
}


@pytest.fixture(params=[False, True], ids=["empty tables", "full tables"])
async def lane(request: pytest.FixtureRequest, database: str) -> Any:
    if request.param:
        async with await owner(database) as connection:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(FILL)
    async with await connect(database, role="tollgate_writer", lane=True) as opened:
        await opened.execute("SET plan_cache_mode = force_generic_plan")
        yield opened


async def test_hot_statements_probe_their_indexes(lane: Connection) -> None:
    """At no size of the tables, and with the plan that a lane keeps, is anything scanned."""
    used = {name: await _indexes(lane, statement, parameters) for name, (statement, parameters, _) in STATEMENTS.items()}

    assert used == {name: indexes for name, (_, _, indexes) in STATEMENTS.items()}


async def _indexes(connection: Connection, statement: str, parameters: Any) -> set[str]:
    """The indexes of a plan, with `#` for a partition's month; a scan of a table by its name."""
    cursor = await connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
    row = await cursor.fetchone()
    assert row is not None
    found = set()
    for node in _nodes(row[0][0]["Plan"]):
        if "Relation Name" in node and node["Node Type"] != "ModifyTable":
            month = node["Relation Name"].partition("_20")[2] or "other"
            found.add(
                node.get("Index Name", node["Node Type"] + " " + node["Relation Name"]).replace(f"20{month}", "#").replace("other", "#")
            )
    return found


def _nodes(plan: Any) -> list[Any]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]
