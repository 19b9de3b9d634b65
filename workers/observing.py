"""What is told of each outbox row that is worked on: whose it is, in every line that is logged meanwhile, and a span of its trace."""

import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec

import outbox
from app.core.ids import typeid
from app.infra.logs import Fields, about
from app.infra.telemetry import spans
from app.infra.telemetry.spans import Span


class _Ids(msgspec.Struct):
    """What of a payload says whose it is; other members are passed over."""

    operation_id: str | None = None
    payment_id: str | None = None
    payment_intent_id: str | None = None
    refund_id: str | None = None
    event_id: str | None = None
    endpoint_id: str | None = None


_read = msgspec.json.Decoder(_Ids).decode
_PREFIXES = {
    "operation_id": "op",
    "payment_id": "pay",
    "payment_intent_id": "pi",
    "refund_id": "re",
    "event_id": "evt",
    "endpoint_id": "we",
}


class Work:
    """One row while it is worked on."""

    __slots__ = ("row",)

    def __init__(self, row: outbox.Claimed) -> None:
        self.row = row

    def log_fields(self) -> Fields:
        row = self.row
        fields: dict[str, object] = {"trace_id": spans.trace_id(row.traceparent), "row": row.id, "actor": row.actor, "attempt": row.attempt}
        if row.tenant is not None:
            fields["merchant_id"] = typeid("mer", row.tenant)
        try:
            ids = _read(row.payload)
        except msgspec.MsgspecError:
            # A payload that cannot be read is what the line is about.
            return fields
        for name, prefix in _PREFIXES.items():
            id_ = getattr(ids, name)
            if id_ is not None:
                fields[name] = typeid(prefix, id_)
        return fields


def observed(actors: Sequence[outbox.Actor]) -> Sequence[outbox.Actor]:
    return [replace(actor, run=_observed(actor)) for actor in actors]


def _observed(actor: outbox.Actor) -> outbox.model.Handler:
    name = "".join(word.capitalize() for word in actor.name.replace("_", ".").split("."))

    async def run(row: outbox.Claimed) -> None:
        # The row has a task of its own, so both stay set for what the engine says of it afterwards.
        traceparent, parent = spans.begin(row.traceparent), row.traceparent
        if traceparent != parent:
            # What the handler writes becomes this span's child.
            row = replace(row, traceparent=traceparent)
        about.set(Work(row))
        spans.current.set(traceparent)
        if spans.exporter is None:
            return await actor.run(row)
        return await _traced(actor, row, name, parent)

    return run


async def _traced(actor: outbox.Actor, row: outbox.Claimed, name: str, parent: str | None) -> None:
    started_at_ns = time.time_ns()
    failure: BaseException | None = None
    try:
        await actor.run(row)
    except (outbox.Postpone, outbox.LeaseLost):
        raise
    except BaseException as error:
        failure = error
        raise
    finally:
        attributes = {"messaging.destination.name": row.queue, **Work(row).log_fields()}
        failed = None if failure is None else type(failure).__name__
        spans.tell(Span(name, "consumer", row.traceparent or "", parent, started_at_ns, time.time_ns(), attributes, failed, failure))
