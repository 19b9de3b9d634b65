"""The batch that creates intents: all of it is one statement, and a key that was there already makes nothing."""

from collections.abc import Hashable, Iterable, Sequence

import msgspec

from app.core.ids import Id
from app.infra import idempotency
from app.infra.db import Connection
from app.infra.idempotency import KeyRow
from app.payments.model import Intent
from app.payments.moves import Moves
from app.payments.store import Event
from app.webhooks import fan_out
from outbox.round_trip import round_trip

_INTENT = ", ".join(Intent.__struct_fields__)
_EVENT = ", ".join(Event.__struct_fields__)

CREATE = f"""
WITH keys AS (
    INSERT INTO idempotency_keys ({idempotency.COLUMNS})
    SELECT {idempotency.COLUMNS} FROM json_populate_recordset(NULL::idempotency_keys, %s::json)
    {idempotency.IN_ORDER}
    ON CONFLICT DO NOTHING
    RETURNING object_id
), written AS (
    INSERT INTO events ({_EVENT})
    SELECT {", ".join("s." + name for name in Event.__struct_fields__)}
      FROM json_populate_recordset(NULL::events, %s::json) s
      JOIN keys ON keys.object_id = s.object_id
    RETURNING id
), born AS (
    INSERT INTO payment_intents ({_INTENT})
    SELECT {", ".join("s." + name for name in Intent.__struct_fields__)}
      FROM json_populate_recordset(NULL::payment_intents, %s::json) s
      JOIN keys ON keys.object_id = s.id
), announced AS (
    INSERT INTO outbox (queue, lane, actor, subject, tenant, payload, traceparent)
    SELECT d.* FROM ({fan_out.DELIVERIES}) d WHERE d.subject IN (SELECT id FROM written)
    RETURNING 1
)
SELECT array_to_string(ARRAY(SELECT object_id FROM keys), ','), (SELECT count(*) FROM announced)"""  # noqa: S608 - made of our own structs' field names

_encode = msgspec.json.Encoder().encode


class NewIntent(msgspec.Struct):
    """`moves` holds the intent's birth: one intent, one event, at most one announcement."""

    key: KeyRow
    moves: Moves


class Created(msgspec.Struct):
    """`stored` is the key of an earlier request in the same scope; without it the intent is new."""

    stored: KeyRow | None = None


def touched(new: NewIntent) -> Iterable[Hashable]:
    return (new.key.scope,)


async def create_batch(connection: Connection, news: list[NewIntent]) -> tuple[Sequence[Created], bool]:
    """The answers in order, and whether webhooks have to be woken. The statement is its own transaction."""
    keys = idempotency.encoded([new.key for new in news])
    events = _encode([new.moves.events[0] for new in news]).decode()
    intents = _encode([new.moves.new_intents[0] for new in news]).decode()
    announcements = fan_out.encoded([one for new in news for one in new.moves.announcements])
    (written,) = await round_trip(connection, (CREATE, (keys, events, intents, announcements)))
    winners, announced = written[0]
    won: set[Id] = set((winners or "").replace("-", "").split(","))
    losers = [new.key for new in news if new.moves.new_intents[0].id not in won]
    # The statement that lost to a concurrent request cannot see its row; the next one can.
    stored = await idempotency.find(connection, losers) if losers else {}
    if len(stored) < len(losers):
        # A key that stood in the way was purged before it could be read: what would have been written under it is not there.
        answers, more = await create_batch(connection, news)
        return answers, more or announced != "0"
    return [_answer(new, stored.get(new.key.scope)) for new in news], announced != "0"


def _answer(new: NewIntent, stored: KeyRow | None) -> Created:
    # A key with our own intent was committed by a run whose answer was lost.
    ours = stored is None or stored.object_id == new.moves.new_intents[0].id
    return Created() if ours else Created(stored=stored)
