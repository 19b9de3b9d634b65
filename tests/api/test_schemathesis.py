"""Schemathesis against a running installation: whatever is sent, no 5xx and no answer that the document does not promise."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation.case import Case
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.schemas import BaseSchema

from tests.api.conftest import Installation, Json
from tests.api.feed import Feed, prepare, provider_event
from tests.api.truth import Document
from tests.flows.shop import Shop

pytestmark = pytest.mark.xdist_group("openapi")

# Of each operation and kind of data, beside every boundary that the document names: some 4,000 requests in all.
EXAMPLES = 10
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
)
# Uses up all dead letters at once, and so comes last.
GREEDY = "/v1/ops/dead-letters/replay"


class Ran(NamedTuple):
    asked: Counter[str]
    succeeded: set[str]
    broken: list[str]


def _configuration(installation: Installation, feed: Feed, *, key: str) -> SchemathesisConfig:
    fed = feed.configuration()
    operator = {"include-path-regex": "^/v1/ops/", "headers": {"Authorization": f"Bearer {installation.operator_key}"}}
    return SchemathesisConfig.from_dict(
        {
            **fed,
            "operations": [*fed["operations"], operator],
            "base-url": installation.system.url,
            "headers": {"Authorization": f"Bearer {key}"},
            "generation": {"deterministic": True, "max-examples": EXAMPLES, "database": "none", "no-shrink": True},
            "phases": {
                "stateful": {"enabled": False},
                **{phase: {"operation-ordering": "none"} for phase in ("examples", "coverage", "fuzzing")},
            },
            "checks": {
                "enabled": False,
                **{name: {"enabled": True} for name in CHECKS},
                # What a provider refuses is no success, and an entity tag that is none matches no version.
                "negative_data_rejection": {"enabled": True, "expected-statuses": ["4xx"]},
            },
            "cache": {"enabled": False},
            "continue-on-failure": True,
        }
    )


def _run(schema: BaseSchema) -> Ran:
    ran = Ran(Counter(), set(), [])
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(ran, event.recorder)
        elif isinstance(event, events.NonFatalError):
            ran.broken.append(f"{event.label}: {event.info.format()}")
        elif isinstance(event, events.FatalError):
            ran.broken.append(repr(event.exception))
    return ran


def _note(ran: Ran, recorder: ScenarioRecorder) -> None:
    for case_id, interaction in recorder.interactions.items():
        case = recorder.cases[case_id].value
        ran.asked[case.operation.label] += 1
        # Methods that a path does not have are tried under the label of one that it has.
        if interaction.response is not None and interaction.response.status_code < 300 and case.method == case.operation.method.upper():
            ran.succeeded.add(case.operation.label)
        for one in recorder.checks.get(case_id, ()):
            if one.status == Status.FAILURE and one.failure_info is not None:
                ran.broken.append(f"{one.name}: {one.failure_info.failure}\n{one.failure_info.code_sample}")


@pytest.fixture
def signed_callbacks() -> Iterator[None]:
    """Every other provider's event that is sent is one: its form is the provider's and not in our document."""
    sent = itertools.count()

    def before_call(context: Any, case: Case[Any], kwargs: Json) -> None:
        if case.operation.label == "POST /v1/providers/{name}/events" and case.method == "POST" and (number := next(sent)) % 2 == 0:
            kwargs["data"], headers = provider_event(f"sbevt_{number}")
            case.headers.update(headers)

    schemathesis.hook(before_call)
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(before_call)


async def test_no_answer_is_undocumented_and_every_operation_succeeds(installation: Installation, signed_callbacks: None) -> None:
    """Valid, invalid and boundary requests to every operation, on objects that exist and ids of nothing: each answer is as promised."""
    merchant = await installation.merchant("schemathesis")
    async with aiohttp.ClientSession() as session:
        feed = await prepare(installation, Shop(installation.system, merchant, session))
    document = installation.document()
    document["paths"][GREEDY] = document["paths"].pop(GREEDY)
    schema = schemathesis.openapi.from_dict(document, config=_configuration(installation, feed, key=merchant.secret))

    ran = _run(schema)
    missed = set(ran.asked) - ran.succeeded
    # Which of a handful of requests names an object that exists is chance, because ids are: whoever had none gets another handful.
    again = _run(schema.include(name=sorted(missed))) if missed else Ran(Counter(), set(), [])

    assert ran.broken + again.broken == []
    assert set(ran.asked) == Document(document).operations
    assert missed - again.succeeded == set()
