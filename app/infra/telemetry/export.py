"""Spans on their way out: as OTLP over HTTP where OTEL_EXPORTER_OTLP_ENDPOINT says, or as JSON lines in a file.

Loaded only where an exporter is configured: the SDK is 10 MB and 0.2 s of imports.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from app.infra.logs import scrubbed
from app.infra.telemetry.spans import Span, is_sampled

_KINDS = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT}
# What spans call what lines have names for (requirements R205). Keys that callers chose stay out.
_NAMES = {
    "merchant_id": "tenant",
    "payment_intent_id": "intent.id",
    **{name: name.replace("_", ".") for name in ("payment_id", "refund_id", "operation_id", "event_id", "endpoint_id", "request_id")},
}
_LEFT_OUT = frozenset(("trace_id", "idempotency_key"))
_SCOPE = InstrumentationScope("tollgate")
# Waits for the collector with a full queue are nobody's but the exporter's thread; a file costs nothing and is looked at soon.
_FILE_DELAY_MS = 200
_LONGEST_MESSAGE = 1000


class SpanExport:
    """`target` is `otlp` or the absolute path of a file, which several processes may append to."""

    def __init__(self, target: str, *, process: str) -> None:
        exporter: SpanExporter = OTLPSpanExporter() if target == "otlp" else LinesInFile(Path(target))
        delay = None if target == "otlp" else _FILE_DELAY_MS
        self._batches = BatchSpanProcessor(exporter, schedule_delay_millis=delay)
        # What OTEL_RESOURCE_ATTRIBUTES says comes with it.
        self._resource = Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME") or f"tollgate-{process}", "process.pid": os.getpid()}
        )

    def tell(self, span: Span) -> None:
        events = () if span.error is None else (_event(span.error, span.ended_at_ns),)
        self._batches.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(span.traceparent, is_remote=False),
                parent=None if span.parent is None else _context(span.parent, is_remote=True),
                resource=self._resource,
                attributes={
                    _NAMES.get(name, name): value for name, value in span.attributes.items() if value is not None and name not in _LEFT_OUT
                },
                events=events,
                kind=_KINDS[span.kind],
                status=Status(StatusCode.UNSET) if span.failed is None else Status(StatusCode.ERROR, span.failed),
                start_time=span.started_at_ns,
                end_time=span.ended_at_ns,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves its annotation out


class LinesInFile(SpanExporter):
    """A batch is one write to the end of the file, so that batches of several processes do not mix."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        os.write(self._descriptor, "".join(f"{span.to_json(indent=None)}\n" for span in spans).encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        os.close(self._descriptor)


def _context(traceparent: str, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled(traceparent) else TraceFlags.DEFAULT)
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), is_remote=is_remote, trace_flags=flags)


def _event(error: BaseException, at_ns: int) -> Event:
    # As it would be logged: a message may quote anything.
    message = scrubbed(str(error))[:_LONGEST_MESSAGE]
    return Event("exception", {"exception.type": type(error).__name__, "exception.message": message}, timestamp=at_ns)
