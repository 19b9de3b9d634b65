"""`/v1/ops`: dead letters and queues, for operator keys; everyone else finds nothing here."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from app.core.clock import now, rfc3339
from app.core.errors import DeadLetterClosed, InvalidValue
from app.core.ids import typeid
from app.http import Answer, Body, Call, Query, Route, answer, answer_list, instant, list_of, text
from app.operators import actions, store
from app.operators.actions import Operator
from outbox.dead_letters import DeadLetter
from outbox.wake import Waker

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="Kept with the act for whoever asks later.")]
QueueName = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]


class DeadLetterView(msgspec.Struct):
    id: str
    object: str
    queue: str
    lane: str
    actor: str
    subject: str | None
    payload: Any
    attempts: int
    failures: int
    first_error: str
    last_error: str
    created_at: str
    dead_at: str
    replayed_at: str | None
    discarded_at: str | None
    reason: str | None
    acted_by: str | None


class QueueView(msgspec.Struct):
    queue: str
    depth: int
    due: int
    in_flight: int
    oldest_at: str | None
    oldest_seconds: float
    dead_letters: int


class Act(Body):
    reason: Reason


class LetterFilter(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    queue: QueueName | None = None
    since: datetime | None = None


class ReplayMany(Body):
    reason: Reason
    filter: LetterFilter
    dry_run: bool = False


class ReplayedView(msgspec.Struct):
    object: str
    dry_run: bool
    count: int
    has_more: bool
    dead_letters: list[str]


async def list_dead_letters(call: Call[None]) -> Answer:
    """Dead letters that nobody has closed, newest first"""
    given = call.page.filters
    async with call.resources.ops_pool.connection() as connection:
        letters, has_more = await actions.list_letters(
            connection, queue=given.get("queue"), since=given.get("since"), before=call.page.starting_after, limit=call.page.limit
        )
    return answer_list(call.path, [_view(letter) for letter in letters], has_more=has_more)


async def show_dead_letter(call: Call[None]) -> Answer:
    """One dead letter with its errors"""
    async with call.resources.ops_pool.connection() as connection:
        return answer(200, _view(await actions.show(connection, call.ids["dead_letter_id"])))


async def replay_dead_letter(call: Call[Act]) -> Answer:
    """Bring a dead letter back; again, nothing more happens"""
    letter, done = await actions.replay(
        call.resources.ops_pool, call.ids["dead_letter_id"], operator=_operator(call), reason=call.body.reason, now=now()
    )
    _wake(call, [letter])
    return answer(200, _view(letter), replayed=not done)


async def discard_dead_letter(call: Call[Act]) -> Answer:
    """Put a dead letter away without doing it"""
    letter, done = await actions.discard(
        call.resources.ops_pool, call.ids["dead_letter_id"], operator=_operator(call), reason=call.body.reason, now=now()
    )
    return answer(200, _view(letter), replayed=not done)


async def replay_dead_letters(call: Call[ReplayMany]) -> Answer:
    """Bring back all dead letters that match"""
    wanted, dry_run = call.body.filter, call.body.dry_run
    if wanted.since is not None and wanted.since.tzinfo is None:
        raise InvalidValue("`filter.since` has no offset from UTC.", param="filter.since")
    replayed = await actions.replay_many(
        call.resources.ops_pool,
        queue=wanted.queue,
        since=wanted.since,
        operator=_operator(call),
        reason=call.body.reason,
        dry_run=dry_run,
        now=now(),
    )
    if not dry_run:
        _wake(call, replayed.letters)
    names = [typeid("dl", letter.id) for letter in replayed.letters]
    return answer(200, ReplayedView("dead_letter_replay", dry_run, len(names), replayed.has_more, names))


async def list_queues(call: Call[None]) -> Answer:
    """Depth, age and rows in flight of each queue"""
    async with call.resources.ops_pool.connection() as connection:
        alive, dead = await store.queues(connection), await store.dead_per_queue(connection)
    moment = now()
    views = {name: QueueView(name, 0, 0, 0, None, 0.0, count) for name, count in dead.items()}
    for name, depth, due, in_flight, oldest_at in alive:
        age = max(0.0, (moment - oldest_at).total_seconds())
        views[name] = QueueView(name, depth, due, in_flight, rfc3339(oldest_at), age, dead.get(name, 0))
    return answer_list(call.path, [views[name] for name in sorted(views)], has_more=False)


def _operator(call: Call[Any]) -> Operator:
    return Operator(name=typeid("key", call.caller.key_id), key_id=call.caller.key_id)


def _wake(call: Call[Any], letters: list[DeadLetter]) -> None:
    waker = call.resources.find(Waker)
    if waker is not None:
        for queue in {letter.queue for letter in letters}:
            waker.wake(queue)


def _view(letter: DeadLetter) -> DeadLetterView:
    return DeadLetterView(
        id=typeid("dl", letter.id),
        object="dead_letter",
        queue=letter.queue,
        lane=letter.lane,
        actor=letter.actor,
        subject=letter.subject,
        payload=_readable(letter.payload),
        attempts=letter.attempts,
        failures=letter.failures,
        first_error=letter.first_error,
        last_error=letter.last_error,
        created_at=rfc3339(letter.created_at),
        dead_at=rfc3339(letter.dead_at),
        replayed_at=_instant(letter.replayed_at),
        discarded_at=_instant(letter.discarded_at),
        reason=letter.reason,
        acted_by=letter.acted_by,
    )


def _readable(payload: str) -> Any:
    """JSON as JSON; a poison message may be anything, and must be shown all the same."""
    try:
        return msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


_LETTERS = Query((text("queue", most=50), instant("since")), pages="dl", both_ways=False)

ROUTES = (
    Route("GET", "/v1/ops/dead-letters", list_dead_letters, access="operator", query=_LETTERS, answers={200: list_of(DeadLetterView)}),
    Route("GET", "/v1/ops/dead-letters/{dead_letter_id:dl}", show_dead_letter, access="operator", answers={200: DeadLetterView}),
    Route("POST", "/v1/ops/dead-letters/replay", replay_dead_letters, access="operator", body=ReplayMany, answers={200: ReplayedView}),
    Route(
        "POST",
        "/v1/ops/dead-letters/{dead_letter_id:dl}/replay",
        replay_dead_letter,
        access="operator",
        body=Act,
        answers={200: DeadLetterView},
        errors=(DeadLetterClosed,),
    ),
    Route(
        "POST",
        "/v1/ops/dead-letters/{dead_letter_id:dl}/discard",
        discard_dead_letter,
        access="operator",
        body=Act,
        answers={200: DeadLetterView},
        errors=(DeadLetterClosed,),
    ),
    Route("GET", "/v1/ops/queues", list_queues, access="operator", answers={200: list_of(QueueView)}),
)
