"""Endpoints, deliveries and events as webhooks know them; which types there are; when a failed attempt is repeated."""

import random
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from app.core.errors import InvalidValue
from app.core.ids import Id
from app.core.machine import Edge, Machine

DisabledReason = Literal["merchant", "gone", "failing"]
DeliveryStatus = Literal["pending", "delivered", "retrying", "exhausted", "canceled"]

_KEPT = ("enabled", "disabled")

ENDPOINT = Machine(
    "webhook_endpoint",
    (
        Edge("created", "none", "enabled", announced=False),
        *(Edge("updated", status, status, announced=False) for status in _KEPT),
        *(Edge("secret_rotated", status, status, announced=False) for status in _KEPT),
        Edge("tested", "enabled", "enabled", announced=False),
        *(Edge("exhausted", status, status) for status in _KEPT),
        Edge("disabled", "enabled", "disabled"),
        Edge("enabled", "disabled", "enabled", announced=False),
        *(Edge("deleted", status, "deleted", announced=False) for status in _KEPT),
    ),
)

# What comes after the first attempt. Source: API.md, "Retries".
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# So that what failed together does not come back together.
_JITTER = 0.1
# A server may ask for patience, not for silence: never longer than the longest step of the schedule.
_LONGEST_WAIT_SECONDS = RETRY_SECONDS[-1]
# "Slow down" without saying for how long.
_PAUSE_SECONDS = 30
SLOW_DOWN = frozenset({429, 502, 504})
GONE = 410
# Source: API.md, "5 days of nothing but failure".
FAILING_LIFETIME = timedelta(days=5)
# Long enough to put the new secret everywhere without missing a delivery.
ROTATION_OVERLAP = timedelta(hours=24)
# Each event of the hot road becomes a row per listener; more than this is a bus of the merchant's own.
MAX_ENDPOINTS = 50
# Source: API.md, "30 days".
EVENTS_KEPT = timedelta(days=30)

# The event id, which stands in URLs, bodies and headers, has the prefix of its object type.
PREFIXES = {
    "customer": "cus",
    "dispute": "dp",
    "invoice": "inv",
    "operation": "op",
    "payment": "pay",
    "payment_intent": "pi",
    "payment_method": "pm",
    "payout": "po",
    "refund": "ref",
    "subscription": "sub",
    "webhook_endpoint": "we",
}

# Source: API.md, "Types, one per edge". Families that are not built yet may be subscribed to already.
_TYPES = {
    "payment_intent": "created processing requires_action payment_failed succeeded failed canceled expired",
    "payment": "created authorized captured capture_failed partially_refunded refunded voided expired failed disputed won lost",
    "refund": "created succeeded failed",
    "customer": "created updated deleted",
    "payment_method": "attached updated detached",
    "dispute": "opened evidence_submitted won lost",
    "payout": "created paid failed reversed",
    "subscription": "created updated activated paused resumed past_due canceled",
    "invoice": "paid payment_failed",
    "rebill": "succeeded failed",
    "settlement": "completed",
    "webhook_endpoint": "exhausted disabled",
}
EVENT_TYPES = frozenset(f"{family}.{event}" for family, events in _TYPES.items() for event in events.split())
_WANTED = frozenset({"*", *EVENT_TYPES, *(f"{family}.*" for family in _TYPES)})
_TYPE_TEXT = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")


class Endpoint(msgspec.Struct, kw_only=True):
    """A row of `webhook_endpoints`."""

    id: Id
    merchant_id: Id
    livemode: bool
    status: str
    version: int
    last_event_id: Id
    url: str
    enabled_events: list[str]
    description: str | None
    salt: str
    previous_salt: str | None = None
    previous_salt_expires_at: datetime | None = None
    disabled_at: datetime | None = None
    disabled_reason: DisabledReason | None = None
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime


class Health(msgspec.Struct):
    """A row of `webhook_endpoint_health`, without its keys."""

    last_success_at: datetime | None = None
    failing_since: datetime | None = None
    consecutive_failures: int = 0
    paused_until: datetime | None = None


class Event(msgspec.Struct, kw_only=True):
    """What of a row of `events` merchants get to see; `data` is JSON as it was written."""

    id: Id
    merchant_id: Id
    livemode: bool
    object_type: str
    object_id: Id
    sequence: int
    event: str
    payment_id: Id | None
    data: str | None
    occurred_at: datetime

    @property
    def type(self) -> str:
        return f"{self.object_type}.{self.event}"


class Delivery(msgspec.Struct, kw_only=True):
    """A row of `webhook_deliveries`."""

    id: Id
    merchant_id: Id
    livemode: bool
    event_id: Id
    endpoint_id: Id
    status: DeliveryStatus
    attempts: int
    last_status_code: int | None
    last_error: str | None
    latency_ms: int | None
    next_at: datetime | None
    log: list[dict[str, object]]
    created_at: datetime
    delivered_at: datetime | None


class Verdict(msgspec.Struct):
    """What one answer means for its delivery and its endpoint."""

    status: DeliveryStatus
    next_at: datetime | None = None
    pause_until: datetime | None = None
    disable: DisabledReason | None = None


def judge(*, status_code: int | None, retry_after_seconds: int | None, tries: int, now: datetime) -> Verdict:
    """`tries` counts the attempts of this round, this one included; `status_code` is None where no answer came."""
    if status_code is not None and 200 <= status_code < 300:
        return Verdict("delivered")
    if status_code == GONE:
        return Verdict("canceled", disable="gone")
    wait = min(retry_after_seconds or 0, _LONGEST_WAIT_SECONDS)
    pause = now + timedelta(seconds=wait or _PAUSE_SECONDS) if status_code in SLOW_DOWN else None
    if tries > len(RETRY_SECONDS):
        return Verdict("exhausted", pause_until=pause)
    scheduled = RETRY_SECONDS[tries - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter, no secret
    return Verdict("retrying", next_at=now + timedelta(seconds=max(scheduled, wait)), pause_until=pause)


def wanted_by(enabled_events: Sequence[str], event_type: str) -> bool:
    """The same question that the fan-out asks in SQL."""
    return not {"*", event_type, family_of(event_type)}.isdisjoint(enabled_events)


def family_of(event_type: str) -> str:
    """`payment.captured` → `payment.*`."""
    return event_type.partition(".")[0] + ".*"


def require_types(enabled_events: Sequence[str]) -> list[str]:
    """Without repetitions, in the order given. Raises InvalidValue."""
    wanted = list(dict.fromkeys(enabled_events))
    if not 1 <= len(wanted) <= 100:
        raise InvalidValue("An endpoint listens to 1 to 100 event types.", param="enabled_events")
    for one in wanted:
        if one not in _WANTED:
            raise InvalidValue(f"There is no event type {one[:80]!r}; use `family.event`, `family.*` or `*`.", param="enabled_events")
    return wanted


def is_type(text: str) -> bool:
    return _TYPE_TEXT.fullmatch(text) is not None
