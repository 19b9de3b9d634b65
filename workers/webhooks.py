"""What is done with the rows of the queue `webhooks`: deliver an event to an endpoint, and fetch up what an endpoint has missed."""

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial

import msgspec

import outbox
from app.core.clock import now, rfc3339
from app.core.ids import Id, typeid
from app.infra.db import Pool, connect, open_pool
from app.infra.group_commit import Lane
from app.infra.logs import say
from app.infra.telemetry import tally
from app.infra.telemetry.catalog import WEBHOOK_ATTEMPTS, WEBHOOK_LAG
from app.infra.telemetry.spans import client_span, outgoing
from app.webhooks.addresses import take_apart
from app.webhooks.deliveries import Record, Task, read_tasks
from app.webhooks.fan_out import DELIVER, QUEUE, RECOVER
from app.webhooks.model import Verdict, judge
from app.webhooks.outcomes import Outcome, write_outcomes
from app.webhooks.present import event_json
from app.webhooks.recovery import recover_page
from app.webhooks.sending import TIMEOUT_SECONDS, Answer, Sender
from app.webhooks.signing import derive_secret, signature
from outbox.intake import Queue
from outbox.wake import Waker

# Rows in flight wait for the network, so many cost little; a slow endpoint holds its 64 and leaves the others theirs.
# Nobody waits for a webhook as a payer waits for his payment: spaced a little, they share their statements.
INTAKE = Queue(QUEUE, slots=1024, lane_limit=64, spacing_seconds=0.02)
# Enough of an answer in the log to recognize it.
_RESPONSE_IN_LOG = 256
# What a pause holds back does not come back in one moment.
_AFTER_PAUSE_SECONDS = 5.0


class Order(msgspec.Struct, kw_only=True):
    """The payload of a row of `webhook.deliver`; `retry` is the position in the schedule of retries."""

    event_id: Id
    endpoint_id: Id
    retry: int = msgspec.field(name="try")


class EventGone(LookupError):
    """The event or the endpoint of this row is not there, or they are not one merchant's."""


class Courier:
    """What deliveries share in a process: the HTTP session, the lane that reads and the lane that writes down."""

    def __init__(
        self,
        sender: Sender,
        reads: Lane[tuple[Id, Id], Task | None],
        writes: Lane[Outcome, bool],
        pool: Pool,
        waker: Waker,
        *,
        server_key: bytes,
    ) -> None:
        self._sender = sender
        self._reads = reads
        self._writes = writes
        self._pool = pool
        self._waker = waker
        self._server_key = server_key

    async def deliver(self, row: outbox.Claimed) -> None:
        """One attempt. An answer that fails is no failure of the row: its retry stands in the delivery log."""
        order = msgspec.json.decode(row.payload, type=Order)
        task = await self._reads.submit((order.event_id, order.endpoint_id))
        if task is None:
            raise EventGone(row.payload)
        begun = now()
        where = task.destination
        if where.status != "enabled":
            await self._write_down(row, order, task, None, Verdict("canceled"), at=begun)
            return
        if where.paused_until is not None and where.paused_until > begun:
            raise outbox.Postpone((where.paused_until - begun).total_seconds() + random.uniform(0.0, _AFTER_PAUSE_SECONDS))  # noqa: S311 - jitter
        answer = await self._send(task, at=begun)
        at = now()
        verdict = judge(status_code=answer.status, retry_after_seconds=answer.retry_after_seconds, tries=order.retry + 1, now=at)
        await self._write_down(row, order, task, answer, verdict, at=at)

    async def recover(self, row: outbox.Claimed) -> None:
        async with self._pool.connection() as connection:
            await recover_page(connection, row, now=now())
        self._waker.wake(QUEUE)

    async def _send(self, task: Task, *, at: datetime) -> Answer:
        body = event_json(task.event)
        message_id = typeid("evt", task.event.id)
        timestamp = int(time.time())
        secrets = [derive_secret(self._server_key, endpoint_id=task.destination.id, salt=salt) for salt in task.destination.salts(at)]
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secrets, message_id=message_id, timestamp=timestamp, body=body),
        }
        with client_span("WebhookPost", {"event_id": message_id}) as span:
            traceparent = outgoing()
            if traceparent is not None:
                headers["traceparent"] = traceparent
            answer = await self._sender.send(take_apart(task.destination.url), body=body, headers=headers)
            span.add(**{"http.response.status_code": answer.status})
            if answer.status is None or not 200 <= answer.status < 300:
                span.failed = answer.error or f"the endpoint answered {answer.status}"
        return answer

    async def _write_down(
        self, row: outbox.Claimed, order: Order, task: Task, answer: Answer | None, verdict: Verdict, *, at: datetime
    ) -> None:
        record = Record(
            event_id=task.event.id,
            endpoint_id=task.destination.id,
            merchant_id=task.event.merchant_id,
            livemode=task.event.livemode,
            status=verdict.status,
            attempts=0 if answer is None else 1,
            tries=order.retry + 1,
            last_status_code=None if answer is None else answer.status,
            last_error=_said(answer, verdict),
            latency_ms=None if answer is None else answer.latency_ms,
            next_at=verdict.next_at,
            log=[] if answer is None else [_logged(answer, verdict, at)],
            traceparent=None if verdict.status == "delivered" else row.traceparent,
            at=at,
            outbox_id=row.id,
        )
        written = await self._writes.submit(
            Outcome(row=row, record=record, verdict=verdict, destination=task.destination, event_type=task.event.type)
        )
        if not written:
            raise outbox.LeaseLost
        _count(task, order, answer, verdict, at=at)


def _count(task: Task, order: Order, answer: Answer | None, verdict: Verdict, *, at: datetime) -> None:
    tally.add(WEBHOOK_ATTEMPTS, (verdict.status,))
    if verdict.status == "delivered":
        tally.observe(WEBHOOK_LAG, ("false" if order.retry else "true",), (at - task.event.occurred_at).total_seconds())
        return
    payment_id = task.event.payment_id
    fields = {
        "payment_id": None if payment_id is None else typeid("pay", payment_id),
        "outcome": verdict.status,
        "status": None if answer is None else answer.status,
        "error": _said(answer, verdict),
    }
    say("info", "webhook_not_delivered", "workers.webhooks", fields)


def _said(answer: Answer | None, verdict: Verdict) -> str | None:
    if answer is None:
        return "the endpoint is not enabled"
    if verdict.status == "delivered":
        return None
    return answer.error or f"the endpoint answered {answer.status}"


def _logged(answer: Answer, verdict: Verdict, at: datetime) -> dict[str, object]:
    return {
        "at": rfc3339(at),
        "status": answer.status,
        "ms": answer.latency_ms,
        "error": _said(answer, verdict),
        "response": answer.response[:_RESPONSE_IN_LOG],
    }


@asynccontextmanager
async def open_actors(
    database_url: str, waker: Waker, *, server_key: bytes, allow_loopback: bool, timeout_seconds: float = TIMEOUT_SECONDS
) -> AsyncIterator[Sequence[outbox.Actor]]:
    """Everything deliveries need, on the worker's event loop, and the actors that use it."""
    lane_connection = partial(connect, database_url, role="tollgate_writer", lane=True)
    reads: Lane[tuple[Id, Id], Task | None] = Lane("webhook.read", lane_connection, read_tasks, keys=lambda _: ())
    writes: Lane[Outcome, bool] = Lane("webhook.write", lane_connection, write_outcomes, keys=_pair)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(database_url, role="tollgate_writer", size=2))
        sender = await stack.enter_async_context(Sender(allow_loopback=allow_loopback, timeout_seconds=timeout_seconds))
        for lane in (reads, writes):
            await lane.start()
            stack.push_async_callback(lane.stop)
        courier = Courier(sender, reads, writes, pool, waker, server_key=server_key)
        yield (outbox.Actor(DELIVER, courier.deliver), outbox.Actor(RECOVER, courier.recover))


def _pair(outcome: Outcome) -> tuple[tuple[Id, Id]]:
    return ((outcome.record.event_id, outcome.record.endpoint_id),)
