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
    return await _answers(connection, news, set((winners or "").replace("-", "").split(","))), announced != "0"


async def _answers(connection: Connection, news: Sequence[NewIntent], winners: set[Id]) -> list[Created]:
    losers = [new.key for new in news if new.moves.new_intents[0].id not in winners]
    # The statement that lost to a concurrent request cannot see its row; the next one can.
    stored = await idempotency.find(connection, losers) if losers else {}
    answers: list[Created] = []
    for new in news:
        earlier = stored.get(new.key.scope)
        ours = earlier is None or earlier.object_id == new.moves.new_intents[0].id  # committed by a run whose answer was lost
        answers.append(Created() if ours else Created(stored=earlier))
    return answers
