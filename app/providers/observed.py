"""A provider's adapter, watched: each call is counted, timed, told in a line, and a span of the trace that it belongs to."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from app.infra import logs
from app.infra.telemetry import tally
from app.infra.telemetry.catalog import PSP_CALLS, PSP_ERRORS, PSP_SECONDS
from app.infra.telemetry.spans import client_span
from app.providers.base import (
    ActionRequired,
    Adapter,
    Approved,
    Capabilities,
    Declined,
    NotFound,
    Outcome,
    Pending,
    ProviderEvent,
    PspRequest,
    Unavailable,
    Unknown,
)
from app.providers.registry import Registry

T = TypeVar("T", bound=Outcome | NotFound)

LOOK_UP = "look_up"
OPERATIONS = ("sale", "authorize", "capture", "void", "refund", LOOK_UP)
# In the order in which they are worse. The last is our own fault: an exception that no adapter should raise.
ERRORS = ("unavailable", "unknown", "broken")
_NAMES: dict[type, str] = {
    Approved: "approved",
    Declined: "declined",
    ActionRequired: "action_required",
    Pending: "pending",
    Unknown: "unknown",
    NotFound: "not_found",
}


class Observed:
    """An Adapter that asks another one."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    @property
    def name(self) -> str:
        return self._adapter.name

    @property
    def capabilities(self) -> Capabilities:
        return self._adapter.capabilities

    async def send(self, request: PspRequest) -> Outcome:
        return await self._watch(self._adapter.send(request), op=request.type, reference=request.reference)

    async def look_up(self, reference: str) -> Outcome | NotFound:
        return await self._watch(self._adapter.look_up(reference), op=LOOK_UP, reference=reference)

    def verify_event(self, headers: Mapping[str, str], raw_body: bytes) -> ProviderEvent:
        return self._adapter.verify_event(headers, raw_body)

    async def close(self) -> None:
        await self._adapter.close()

    async def _watch(self, asked: Awaitable[T], *, op: str, reference: str) -> T:
        started_at = time.perf_counter()
        with client_span(f"Psp{op.title().replace('_', '')}", {"psp": self.name, "operation": op, "operation_id": reference}) as span:
            try:
                outcome = await asked
            except BaseException as error:
                # When the time is over, nobody knows what became of the request.
                kind = (
                    "unavailable"
                    if isinstance(error, Unavailable)
                    else "unknown"
                    if isinstance(error, asyncio.CancelledError)
                    else "broken"
                )
                span.failed = "psp failure"
                self._tell(op, reference, kind, time.perf_counter() - started_at, detail=f"{type(error).__name__}: {error}")
                raise
            name = _NAMES[type(outcome)]
            span.add(outcome=name)
            if isinstance(outcome, Unknown):
                span.failed = "psp failure"
            self._tell(op, reference, name, time.perf_counter() - started_at, outcome)
            return outcome

    def _tell(
        self, op: str, reference: str, name: str, seconds: float, outcome: Outcome | NotFound | None = None, *, detail: str | None = None
    ) -> None:
        psp = self.name
        tally.add(PSP_CALLS, (psp, op, name))
        tally.observe(PSP_SECONDS, (psp, op), seconds)
        if name in ERRORS:
            tally.add(PSP_ERRORS, (psp, op, name))
        fields: dict[str, object] = {
            "psp": psp,
            "operation": op,
            "operation_id": reference,
            "outcome": name,
            "duration_ms": int(seconds * 1e5) / 100,
            "provider_reference": getattr(outcome, "provider_ref", None) or None,
        }
        if isinstance(outcome, Declined):
            fields["reason"] = outcome.reason
        if isinstance(outcome, Unknown):
            detail = outcome.why
        if detail is not None:
            fields["detail"] = detail
        logs.say(
            "warning" if name in ERRORS else "info", "psp_answered", "providers", fields, foreign=f"{fields['provider_reference']} {detail}"
        )


def observed(registry: Registry) -> Registry:
    """The same providers, each of them watched."""
    watched = {name: Observed(adapter) for name, adapter in registry.adapters.items()}
    return Registry(watched, registry.routes, test_tokens=registry.test_tokens)


def zeros(names: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """What `/metrics` shows as 0 before the first call of these providers."""
    return {
        PSP_CALLS.name: tuple((psp, op, "approved") for psp in names for op in OPERATIONS),
        PSP_ERRORS.name: tuple((psp, op, kind) for psp in names for op in OPERATIONS for kind in ERRORS),
    }
