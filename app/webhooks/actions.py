"""What a merchant can do with endpoints and events; each inside the transaction that `once` opened."""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

import outbox
from app.core.errors import IllegalTransition, InvalidValue, NotFound
from app.core.ids import Id, new_id
from app.infra.db import Connection
from app.webhooks import feed, store
from app.webhooks.addresses import check_url
from app.webhooks.changes import begin, change
from app.webhooks.fan_out import deliver_row
from app.webhooks.model import EVENTS_KEPT, MAX_ENDPOINTS, ROTATION_OVERLAP, Endpoint, Event, require_types, wanted_by
from app.webhooks.recovery import Recovery, recovery_row

# Compares what `If-Match` named with a version; raises VersionConflict.
RequireVersion = Callable[[int], None]


class Asker(NamedTuple):
    """Whose request it is and when it came."""

    merchant_id: Id
    livemode: bool
    actor: str
    now: datetime


class Wish(msgspec.Struct, kw_only=True):
    """Members of an endpoint as a merchant may write them; None in a change leaves what is there."""

    url: str | None = None
    enabled_events: Sequence[str] | None = None
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, str | None] | None = None
    disabled: bool | None = None


async def create(
    connection: Connection,
    asker: Asker,
    *,
    url: str,
    enabled_events: Sequence[str],
    description: str | None,
    metadata: dict[str, str],
    allow_loopback: bool,
) -> Endpoint:
    """Raises WebhookUrlRefused, InvalidValue."""
    check_url(url, allow_loopback=allow_loopback)
    wanted = require_types(enabled_events)
    if await store.count(connection, merchant_id=asker.merchant_id, livemode=asker.livemode) >= MAX_ENDPOINTS:
        raise InvalidValue(f"A merchant has at most {MAX_ENDPOINTS} webhook endpoints per mode.", param="url")
    endpoint = Endpoint(
        id=new_id(),
        merchant_id=asker.merchant_id,
        livemode=asker.livemode,
        status="enabled",
        version=1,
        last_event_id=new_id(),
        url=url,
        enabled_events=wanted,
        description=description,
        salt=secrets.token_hex(16),
        metadata=metadata,
        created_at=asker.now,
        updated_at=asker.now,
    )
    await begin(connection, endpoint, actor=asker.actor)
    return endpoint


async def update(
    connection: Connection, asker: Asker, endpoint_id: Id, wish: Wish, *, require_version: RequireVersion, allow_loopback: bool
) -> Endpoint:
    """Only what differs makes a new version. Raises NotFound, VersionConflict, WebhookUrlRefused, InvalidValue."""
    if wish.disabled is False:
        # In the order in which deliveries lock: health, then the endpoint.
        await store.forget_failures(connection, endpoint_id)
    before = await _lock(connection, asker, endpoint_id, require_version)
    fields: dict[str, Any] = {}
    if wish.url is not None:
        check_url(wish.url, allow_loopback=allow_loopback)
        fields["url"] = wish.url
    if wish.enabled_events is not None:
        fields["enabled_events"] = require_types(wish.enabled_events)
    if wish.description is not msgspec.UNSET:
        fields["description"] = wish.description
    if wish.metadata is not None:
        fields["metadata"] = _merged(before.metadata, wish.metadata)
    event = "updated"
    if wish.disabled is True and before.status == "enabled":
        event = "disabled"
        fields |= {"status": "disabled", "disabled_at": asker.now, "disabled_reason": "merchant"}
    elif wish.disabled is False and before.status == "disabled":
        event = "enabled"
        fields |= {"status": "enabled", "disabled_at": None, "disabled_reason": None}
    if all(getattr(before, name) == value for name, value in fields.items()):
        return before
    return await change(connection, before, event=event, now=asker.now, actor=asker.actor, **fields)


async def delete(connection: Connection, asker: Asker, endpoint_id: Id, *, require_version: RequireVersion) -> Endpoint:
    """Its deliveries that are still open are canceled when their time comes. Raises NotFound, VersionConflict."""
    before = await _lock(connection, asker, endpoint_id, require_version)
    return await change(
        connection, before, event="deleted", now=asker.now, actor=asker.actor, status="deleted", disabled_at=None, disabled_reason=None
    )


async def rotate_secret(connection: Connection, asker: Asker, endpoint_id: Id, *, require_version: RequireVersion) -> Endpoint:
    """Both secrets sign until the overlap ends; rotating again at once ends the oldest. Raises NotFound, VersionConflict."""
    before = await _lock(connection, asker, endpoint_id, require_version)
    return await change(
        connection,
        before,
        event="secret_rotated",
        now=asker.now,
        actor=asker.actor,
        salt=secrets.token_hex(16),
        previous_salt=before.salt,
        previous_salt_expires_at=asker.now + ROTATION_OVERLAP,
    )


async def send_test(connection: Connection, asker: Asker, endpoint_id: Id) -> Event:
    """An event of its own, sent to this endpoint alone whatever it listens to. Raises NotFound, IllegalTransition."""
    before = await _lock(connection, asker, endpoint_id, _any_version)
    event_id = new_id()
    after = await change(connection, before, event="tested", now=asker.now, actor=asker.actor, event_id=event_id)
    await outbox.write(connection, [deliver_row(event_id=event_id, endpoint_id=after.id, merchant_id=after.merchant_id)])
    event = await feed.read_event(connection, event_id, merchant_id=asker.merchant_id, livemode=asker.livemode, announced_only=False)
    assert event is not None, "this transaction has just written it"
    return event


async def redeliver(connection: Connection, asker: Asker, event_id: Id, *, endpoint_id: Id | None) -> list[Endpoint]:
    """To the named endpoint, or to all enabled ones that listen to its type. Raises NotFound, IllegalTransition."""
    event = await feed.read_event(connection, event_id, merchant_id=asker.merchant_id, livemode=asker.livemode)
    if event is None:
        raise NotFound("There is no such event for this key.")
    if endpoint_id is not None:
        targets = [_require_enabled(await _read(connection, asker, endpoint_id))]
    else:
        listening = await store.list_endpoints(
            connection, merchant_id=asker.merchant_id, livemode=asker.livemode, status="enabled", limit=MAX_ENDPOINTS
        )
        targets = [one for one in listening if wanted_by(one.enabled_events, event.type)]
    await outbox.write(connection, [deliver_row(event_id=event.id, endpoint_id=one.id, merchant_id=one.merchant_id) for one in targets])
    return targets


async def recover(connection: Connection, asker: Asker, endpoint_id: Id, *, since: datetime) -> Recovery:
    """Everything it listens to since then that was not delivered. Raises NotFound, IllegalTransition, InvalidValue."""
    if not asker.now - EVENTS_KEPT <= since <= asker.now:
        raise InvalidValue(f"`since` lies in the past and at most {EVENTS_KEPT.days} days back.", param="since")
    endpoint = _require_enabled(await _read(connection, asker, endpoint_id))
    recovery = Recovery(endpoint_id=endpoint.id, since=since, until=asker.now, cursor=feed.cursor_text(feed.START))
    await outbox.write(connection, [recovery_row(recovery, merchant_id=endpoint.merchant_id)])
    return recovery


async def _read(connection: Connection, asker: Asker, endpoint_id: Id, *, lock: bool = False) -> Endpoint:
    endpoint = await store.read(connection, endpoint_id, merchant_id=asker.merchant_id, livemode=asker.livemode, lock=lock)
    if endpoint is None:
        raise NotFound("There is no such webhook endpoint for this key.")
    return endpoint


async def _lock(connection: Connection, asker: Asker, endpoint_id: Id, require_version: RequireVersion) -> Endpoint:
    endpoint = await _read(connection, asker, endpoint_id, lock=True)
    require_version(endpoint.version)
    return endpoint


def _any_version(_: int) -> None:
    pass


def _require_enabled(endpoint: Endpoint) -> Endpoint:
    if endpoint.status != "enabled":
        raise IllegalTransition("This webhook endpoint is disabled; enable it first.")
    return endpoint


def _merged(before: dict[str, str], wish: dict[str, str | None]) -> dict[str, str]:
    """Null takes a pair away."""
    merged = {name: value for name, value in (before | wish).items() if value is not None}
    if len(merged) > 50:
        raise InvalidValue("An object has at most 50 pairs of metadata.", param="metadata")
    return merged
