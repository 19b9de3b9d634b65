"""What time makes due is found, whatever stands before it and whatever a clock was once wrong about."""

from datetime import timedelta

from app.core.clock import now
from app.payments import due
from app.payments.model import INTENT_GRACE
from tests.payments.builders import Counter, declined


async def expire(counter: Counter, *, hours: float) -> int:
    """A tick of a clock that is so many hours ahead; how many intents expired."""
    async with counter.writer.transaction():
        count, _ = await due.expire_intents(counter.writer, now=now() + timedelta(hours=hours), limit=10)
    return count


async def test_authorizations_that_are_being_let_go_do_not_starve_the_others(counter: Counter) -> None:
    """A tick has a limit, and those whose void is still open do not use it up."""
    payments = [(await counter.authorized()).payment for _ in range(3)]
    later = now() + timedelta(days=8)
    for _ in payments:
        async with counter.writer.transaction():
            await due.let_go_of_lapsed(counter.writer, now=later, limit=1)

    assert {payment.id for payment in payments} == {
        id_ for (id_,) in await counter.rows("SELECT payment_id FROM operations WHERE type = 'void'")
    }


async def test_a_clock_that_was_ahead_passes_over_nothing(counter: Counter) -> None:
    """An intent that was given more time expires at its end, also where a clock had been beyond it already."""
    operation_id = await counter.sale()
    assert await expire(counter, hours=30) == 0
    await counter.tell(operation_id, declined(), at=now() + timedelta(hours=2))
    given = (await counter.read(operation_id)).intent

    assert given.status == "requires_payment_method"
    assert given.expires_at > now() + timedelta(hours=2)
    assert await expire(counter, hours=2) == 0
    assert await expire(counter, hours=2 + INTENT_GRACE / timedelta(hours=1) + 0.01) == 1


async def test_a_mark_that_lies_ahead_holds_nothing_up(counter: Counter) -> None:
    """Wherever it came from, the walk begins no later than the database's own time."""
    await counter.intent()
    await counter.rows("INSERT INTO clock_marks (name, at) VALUES (%s, now() + interval '30 days') RETURNING at", due.EXPIRY_MARK)

    assert await expire(counter, hours=1.1) == 1
    assert await counter.rows("SELECT at < statement_timestamp() FROM clock_marks") == [(True,)]


async def test_the_mark_moves_on(counter: Counter) -> None:
    """The next walk does not read again what the last one has read."""
    assert await expire(counter, hours=0) == 0

    assert await counter.rows("SELECT at > statement_timestamp() - interval '6 minutes' FROM clock_marks") == [(True,)]
