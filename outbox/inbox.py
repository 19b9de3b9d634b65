"""What the outside told us, once each: an event is stored before it is answered and applied by a worker."""

from collections.abc import Sequence

from outbox.store import Connection

RECEIVE = """
INSERT INTO inbox (provider, provider_event_id, body) VALUES (%s, %s, %s)
ON CONFLICT ON CONSTRAINT inbox_event_is_received_once DO NOTHING
RETURNING provider
"""

READ = "SELECT body FROM inbox WHERE provider = %s AND provider_event_id = %s"

MARK_APPLIED = """
UPDATE inbox
   SET applied_at = coalesce(applied_at, greatest(statement_timestamp(), received_at))
 WHERE provider = %s AND provider_event_id = ANY(%s)
"""

PURGE = """
DELETE FROM inbox
 WHERE (provider, provider_event_id) IN (
    SELECT provider, provider_event_id
      FROM inbox
     WHERE applied_at < statement_timestamp() - %s * interval '1 second'
     ORDER BY applied_at
     LIMIT %s
       FOR UPDATE SKIP LOCKED)
"""


async def receive(connection: Connection, provider: str, event_id: str, body: bytes) -> bool:
    """Store an event's raw bytes; False when this provider already told us this event."""
    cursor = await connection.execute(RECEIVE, (provider, event_id, body))
    return await cursor.fetchone() is not None


async def read(connection: Connection, provider: str, event_id: str) -> bytes | None:
    record = await (await connection.execute(READ, (provider, event_id))).fetchone()
    return None if record is None else bytes(record[0])


async def mark_applied(connection: Connection, provider: str, event_ids: Sequence[str]) -> None:
    """In the transaction of the event's effects; an event keeps the time at which it was first applied."""
    await connection.execute(MARK_APPLIED, (provider, list(event_ids)))


async def purge(connection: Connection, *, older_than_seconds: float, limit: int) -> int:
    """Forget applied events in a small batch; returns how many."""
    return (await connection.execute(PURGE, (float(older_than_seconds), limit))).rowcount
