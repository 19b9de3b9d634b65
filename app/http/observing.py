"""What is told of each request once it is answered: a line, a count with its time, and a span where spans are exported."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from app.http.call import Call
from app.http.resources import OnAnswer
from app.infra import logs
from app.infra.telemetry import spans, tally
from app.infra.telemetry.catalog import REQUEST_SECONDS
from app.infra.telemetry.spans import Span

if TYPE_CHECKING:
    from app.http.routes import Route

# Health, metrics and the pages about the API are asked for by machines every few seconds and say nothing about payments.
API = "/v1/"

_labels: dict[tuple[str, int], tuple[str, str, str]] = {}


def count(call: Call[Any], label: str, status: int, seconds: float) -> None:
    if call.path.startswith(API):
        tally.observe(REQUEST_SECONDS, _labels.get((label, status)) or _split(label, status), seconds)


def log(call: Call[Any], label: str, status: int, seconds: float) -> None:
    if call.path.startswith(API):
        method, route, _ = _labels.get((label, status)) or _split(label, status)
        logs.say(
            "info" if status < 500 else "warning",
            "request",
            "http",
            {"method": method, "route": route, "status": status, "duration_ms": int(seconds * 1e5) / 100},
            # The rest are ids and names of ours: routes took no others.
            foreign=f"{call.request_id} {call.idempotency_key}",
        )


def spans_of(routes: Iterable["Route"]) -> OnAnswer:
    """Names are the routes' own in the form that traces use: `create_intent` is CreateIntent."""
    names = {route.label: camel_case(route.name) for route in routes}

    def trace(call: Call[Any], label: str, status: int, seconds: float) -> None:
        ended_at_ns = time.time_ns()
        method, route, _ = _labels.get((label, status)) or _split(label, status)
        attributes = {"http.request.method": method, "http.route": route, "http.response.status_code": status, **call.log_fields()}
        failed = f"answered {status}" if status >= 500 else None
        parent = spans.accepted(call.headers.get(b"traceparent"))
        started_at_ns = ended_at_ns - int(seconds * 1e9)
        spans.tell(Span(names.get(label, label), "server", call.traceparent, parent, started_at_ns, ended_at_ns, attributes, failed))

    return trace


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace(".", "_").split("_"))


def possible_failures(routes: Iterable["Route"]) -> tuple[tuple[str, str, str], ...]:
    """What a counter shows as 0 before it happens for the first time."""
    return tuple((route.method, route.template, status) for route in routes if route.path.startswith(API) for status in ("500", "503"))


def _split(label: str, status: int) -> tuple[str, str, str]:
    method, _, route = label.rpartition(" ")
    labels = _labels[label, status] = (method or "other", route, str(status))
    return labels


OBSERVERS: tuple[Callable[[Call[Any], str, int, float], None], ...] = (count, log)
