"""How spans leave a process: as OTLP to a collector or into a file, all of them before it ends, and not at all by default."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.infra.telemetry import spans
from tests.flows.running import PACKAGES

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# A process that tells of two spans and ends at once, as one that is told to drain.
PROGRAM = """
import os, time
from app.infra.telemetry import spans
from app.infra.telemetry.process import observing
from app.infra.telemetry.spans import Span
from app.settings import read_settings
with observing(read_settings(os.environ), "worker"):
    own = spans.begin({parent!r})
    for name in ("PspSend", "PspSale"):
        spans.tell(Span(name, "client", own, {parent!r}, 1, 2, {{"psp": "sandbox", "merchant_id": "mer_1", "idempotency_key": "k"}}, "psp failure",
                        ValueError("no answer for sk_test_0123456789")))
"""


def run(**environ: str) -> None:
    needed = {"ENVIRONMENT": "test", "DATABASE_URL": "postgresql://nobody@127.0.0.1/none", "PATH": ""}
    subprocess.run([sys.executable, "-c", PROGRAM.format(parent=PARENT)], cwd=PACKAGES, env={**needed, **environ}, check=True, timeout=60)


def test_spans_of_a_process_that_ends_are_all_in_the_file(tmp_path: Path) -> None:
    """Nothing is left behind in memory, and a second process adds to what the first wrote."""
    path = tmp_path / "deeper" / "spans"

    for _ in range(2):
        run(OTEL_TRACES_EXPORTER=str(path))

    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [span["name"] for span in told] == ["PspSend", "PspSale"] * 2
    assert told[0]["parent_id"] == f"0x{PARENT[36:52]}"
    assert told[0]["attributes"] == {"psp": "sandbox", "tenant": "mer_1"}
    assert told[0]["events"][0]["attributes"] == {"exception.type": "ValueError", "exception.message": "no answer for [secret]"}


async def test_spans_reach_a_collector() -> None:
    """OTLP over HTTP to where the standard variable says, as protobuf."""
    got = ExportTraceServiceRequest()

    async def receive(request: web.Request) -> web.Response:
        got.MergeFromString(await request.read())
        return web.Response(body=b"")

    app = web.Application()
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's Server has it

    try:
        process = await _started(
            OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_SERVICE_NAME="mine"
        )
        assert await process.wait() == 0
    finally:
        await runner.cleanup()

    (of_process,) = got.resource_spans
    assert {pair.key: pair.value.string_value for pair in of_process.resource.attributes}["service.name"] == "mine"
    told = of_process.scope_spans[0].spans
    assert [span.name for span in told] == ["PspSend", "PspSale"]
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in told} == {(PARENT[3:35], PARENT[36:52])}
    assert {(span.status.code, span.status.message) for span in told} == {(2, "psp failure")}


async def _started(**environ: str) -> "asyncio.subprocess.Process":
    needed = {"ENVIRONMENT": "test", "DATABASE_URL": "postgresql://nobody@127.0.0.1/none", "PATH": ""}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(parent=PARENT), cwd=PACKAGES, env={**needed, **environ}
    )


def test_without_an_exporter_the_sdk_is_not_loaded() -> None:
    """10 MB and 0.2 s that a default installation does not pay."""
    program = "import sys, app.main, workers.main, workers.clock; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"

    assert subprocess.run([sys.executable, "-c", program], cwd=PACKAGES, check=False, timeout=60).returncode == 0


def test_a_traceparent_is_taken_as_the_standard_says() -> None:
    """Of a later version its first four parts; what is malformed or all zeros is none."""
    trace, span = PARENT[3:35], PARENT[36:52]
    given = {
        PARENT: PARENT,
        f"00-{trace}-{span}-03": PARENT,
        f"01-{trace}-{span}-00-more": f"00-{trace}-{span}-00",
        f"00-{trace}-{span}-01-more": None,
        f"ff-{trace}-{span}-01": None,
        f"00-{'0' * 32}-{span}-01": None,
        f"00-{trace}-{'0' * 16}-01": None,
        f"00-{trace.upper()}-{span}-01": None,
        f"00-{trace}-{span}": None,
        "": None,
    }

    assert {text: spans.accepted(text.encode()) for text in given} == given
    assert spans.accepted(None) is None


def test_by_default_a_span_costs_a_text_and_no_id_of_its_own() -> None:
    """Without an exporter a parent stands for its children, and a trace of ours is not offered to others."""
    fresh = [spans.begin(None) for _ in range(1000)]

    assert spans.begin(PARENT) == PARENT
    assert len(set(fresh)) == 1000
    assert {spans.accepted(one.encode()) for one in fresh} == set(fresh)
    assert not any(spans.is_sampled(one) for one in fresh)
