"""Every figure that processes count, with its labels: one table, so that a name means one thing everywhere.

Another set of bounds under the same name would add up what does not belong together: new bounds are a new name.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

# Seconds. 0.4 is what R197 holds the 95th percentile to; waiting requests take up to 25.
REQUEST_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0)
# A provider answers within the 15 s that it is given.
CALL_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
# From the event to the merchant's 2xx: retries run for three days.
LAG_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0)


class Counter(NamedTuple):
    name: str
    meaning: str
    labels: tuple[str, ...]
    # Label values shown as 0 before the first: a counter that is born at 3 has no increase that an alert could see.
    zeros: tuple[tuple[str, ...], ...] = ()
    # The histogram whose observations it is the number of; then nothing is counted under its own name.
    of: str = ""


class Histogram(NamedTuple):
    name: str
    meaning: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]


Figure = Counter | Histogram

REQUEST_SECONDS = Histogram(
    "gateway_request_duration_seconds",
    "From the head of a request to the end of its answer, the wait for a provider included.",
    ("method", "route", "status"),
    REQUEST_BOUNDS,
)
REQUESTS = Counter("gateway_requests_total", "API requests answered.", REQUEST_SECONDS.labels, of=REQUEST_SECONDS.name)
PSP_CALLS = Counter("psp_calls_total", "Calls to providers, by what came back.", ("psp", "op", "outcome"))
PSP_ERRORS = Counter(
    "psp_call_errors_total",
    "Calls to providers without a usable answer: unavailable (certainly not acted on), unknown, broken (our fault).",
    ("psp", "op", "kind"),
)
PSP_SECONDS = Histogram("psp_call_duration_seconds", "What calls to providers took.", ("psp", "op"), CALL_BOUNDS)
WEBHOOK_ATTEMPTS = Counter(
    "webhook_attempts_total",
    "Attempts to deliver an event, by what became of the delivery.",
    ("outcome",),
    zeros=tuple((outcome,) for outcome in ("delivered", "retrying", "exhausted", "canceled")),
)
WEBHOOK_LAG = Histogram(
    "webhook_delivery_seconds", "From an event's instant to the first 2xx of an endpoint.", ("first_attempt",), LAG_BOUNDS
)

FIGURES: Final[Sequence[Figure]] = (REQUESTS, REQUEST_SECONDS, PSP_CALLS, PSP_ERRORS, PSP_SECONDS, WEBHOOK_ATTEMPTS, WEBHOOK_LAG)
