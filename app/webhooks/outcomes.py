"""Writing down what a batch of attempts has shown, in one transaction: the log, the endpoints' health, the end of the outbox rows."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

import outbox
from app.core.ids import Id, typeid
from app.infra.db import Connection
from app.webhooks import deliveries, store
from app.webhooks.changes import change
from app.webhooks.deliveries import Destination, Record
from app.webhooks.fan_out import QUEUE
from app.webhooks.model import ENDPOINT, FAILING_LIFETIME, DisabledReason, Verdict

ACTOR = "webhooks"

# While all goes well an endpoint's health row is written this often and not with every batch, where all batches would meet.
_SUCCESS_NOTED = timedelta(seconds=60)
# What waits behind a paused endpoint is moved on with it; the rest moves when it is claimed.
_MOVED_ON = 1_000


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one claimed row."""

    row: outbox.Claimed
    record: Record
    verdict: Verdict
    destination: Destination
    event_type: str


async def write_outcomes(connection: Connection, outcomes: list[Outcome]) -> list[bool]:
    """The batch of a lane; run again, it finds its rows gone and changes nothing. True where the row was still ours."""
    if all(one.verdict.status == "delivered" for one in outcomes) and not _health_rows(outcomes):
        held = await deliveries.record_and_settle(connection, [one.row for one in outcomes], [one.record for one in outcomes])
        return [one.row.id in held for one in outcomes]
    async with connection.pipeline():
        await connection.execute("BEGIN")
        cursor = await outbox.send_hold(connection, [one.row for one in outcomes])
    held = await outbox.read_ids(cursor)
    mine = [one for one in outcomes if one.row.id in held]
    if mine:
        await _write_all(connection, mine)
    else:
        await connection.execute("ROLLBACK")
    return [one.row.id in held for one in outcomes]


async def _write_all(connection: Connection, mine: list[Outcome]) -> None:
    await deliveries.record(connection, [one.record for one in mine])
    health = _health_rows(mine)
    failing_since = await store.tell_health(connection, health) if health else {}
    exhausted = [one for one in mine if one.verdict.status == "exhausted"]
    await _tell_of_endpoints(connection, exhausted, _to_disable(mine, failing_since), now=max(one.record.at for one in mine))
    buried = {one.row.id for one in exhausted}
    await outbox.settle(connection, [one.row for one in mine if one.row.id not in buried])
    await outbox.fail(connection, [outbox.Failed(one.row, _reason(one)) for one in exhausted])
    for endpoint_id, seconds in _pauses(mine).items():
        await outbox.defer_lane(connection, QUEUE, lane=endpoint_id, seconds=seconds, limit=_MOVED_ON)
    await connection.execute("COMMIT")


def _health_rows(mine: Sequence[Outcome]) -> list[store.HealthRow]:
    of_endpoint: dict[Id, list[Outcome]] = defaultdict(list)
    for one in mine:
        if one.record.attempts:
            of_endpoint[one.destination.id].append(one)
    rows = [_health_row(endpoint_id, attempts) for endpoint_id, attempts in of_endpoint.items()]
    return [row for row in rows if row is not None]


def _health_row(endpoint_id: Id, attempts: list[Outcome]) -> store.HealthRow | None:
    first = attempts[0]
    row = store.HealthRow(endpoint_id=endpoint_id, merchant_id=first.record.merchant_id, livemode=first.record.livemode)
    row.paused_until = max((one.verdict.pause_until for one in attempts if one.verdict.pause_until), default=None)
    failures = [one.record.at for one in attempts if one.verdict.status != "delivered"]
    if len(failures) < len(attempts):
        row.last_success_at = max(one.record.at for one in attempts if one.verdict.status == "delivered")
        noted = first.destination.last_success_at
        recent = noted is not None and row.last_success_at - noted < _SUCCESS_NOTED
        return None if recent and not failures and not first.destination.consecutive_failures else row
    row.failing_since = min(failures)
    row.consecutive_failures = len(failures)
    return row


def _to_disable(mine: Sequence[Outcome], failing_since: dict[Id, datetime | None]) -> dict[Id, DisabledReason]:
    """410 says it at once; else it takes days of nothing but failure, and a failure now."""
    reasons: dict[Id, DisabledReason] = {}
    for one in mine:
        since = failing_since.get(one.destination.id)
        if one.verdict.disable is not None:
            reasons[one.destination.id] = one.verdict.disable
        elif since is not None and one.record.at - since >= FAILING_LIFETIME:
            reasons.setdefault(one.destination.id, "failing")
    return reasons


async def _tell_of_endpoints(
    connection: Connection, exhausted: Sequence[Outcome], disable: dict[Id, DisabledReason], *, now: datetime
) -> None:
    """`exhausted`: one event per endpoint names all that were given up together. Events about endpoints never make more of them."""
    given_up: dict[Id, list[dict[str, object]]] = defaultdict(list)
    for one in exhausted:
        if not one.event_type.startswith(f"{ENDPOINT.name}."):
            given_up[one.destination.id].append(
                {"event_id": typeid("evt", one.record.event_id), "type": one.event_type, "last_error": one.record.last_error}
            )
    if not given_up and not disable:
        return
    for endpoint in await store.lock_many(connection, [*{*given_up, *disable}]):
        present = endpoint
        if endpoint.id in given_up:
            said: dict[str, object] = {"exhausted_events": given_up[endpoint.id]}
            present = await change(connection, present, event="exhausted", now=now, actor=ACTOR, said=said)
        if endpoint.id in disable and endpoint.status == "enabled":
            reason = disable[endpoint.id]
            await change(
                connection, present, event="disabled", now=now, actor=ACTOR, status="disabled", disabled_at=now, disabled_reason=reason
            )


def _pauses(mine: Sequence[Outcome]) -> dict[Id, float]:
    pauses: dict[Id, float] = {}
    for one in mine:
        if one.verdict.pause_until is not None:
            seconds = (one.verdict.pause_until - one.record.at).total_seconds()
            pauses[one.destination.id] = max(seconds, pauses.get(one.destination.id, 0.0))
    return pauses


def _reason(one: Outcome) -> str:
    return f"given up after the last retry: {one.record.last_error}"
