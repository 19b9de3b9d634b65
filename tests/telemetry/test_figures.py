"""`/metrics`: the same from every process, from tables that outlive them all."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

import outbox
from app.infra.db import Pool, open_pool
from app.infra.telemetry import gauges, tally, totals
from app.infra.telemetry.catalog import CALL_BOUNDS, FIGURES, LAG_BOUNDS, PSP_CALLS, PSP_SECONDS, REQUEST_BOUNDS, Histogram
from app.infra.telemetry.exposition import Exposition
from app.infra.telemetry.gauges import Gauge
from app.payments import gauges as payments_gauges
from app.webhooks import gauges as webhooks_gauges
from outbox import dead_letters
from tests.flows.shop import eventually
from tests.refusal import refused
from tests.telemetry.conftest import Watched, listening, shop_of, web_process
from tests.webhooks.receiver import Receiver

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]

GAUGES = (*gauges.of_outbox(("psp", "webhooks")), *payments_gauges.GAUGES, *webhooks_gauges.GAUGES)


def figures_of(page: str) -> Figures:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def figure(found: Figures, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


async def looked_at(watched: Watched, session: aiohttp.ClientSession) -> Figures:
    async with session.get(f"{watched.system.url}/metrics") as response:
        assert response.status == 200
        return figures_of(await response.text())


async def until(watched: Watched, session: aiohttp.ClientSession, name: str, at_least: float, **labels: str) -> Figures:
    async def look() -> Figures | None:
        found = await looked_at(watched, session)
        return found if (figure(found, name, **labels) or 0) >= at_least else None

    return await eventually(look, what=f"{name} {labels} of {at_least}")


@pytest.fixture
async def writer(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database, role="tollgate_writer", size=2) as pool:
        yield pool


@pytest.fixture
async def operator(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database, role="tollgate_ops", size=2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    tally.take()


async def page_of(pool: Pool, **how: Any) -> Figures:
    return figures_of((await Exposition(pool, gauges=GAUGES, kinds=("web", "worker", "clock"), **how).page()).decode())


# --- over real processes ------------------------------------------------------------------------------------------------------


async def test_a_payment_is_counted_on_its_whole_way(plain: Watched, session: aiohttp.ClientSession, receiver: Receiver) -> None:
    """Requests by route and status, calls to the provider with their time, deliveries with their lag."""
    shop = await listening(await shop_of(plain, session), receiver)
    before = await looked_at(plain, session)

    await shop.pay("approved")
    await shop.confirm(await shop.intent("declined"))

    route = {"method": "POST", "route": "/v1/payment_intents/{payment_intent_id}/confirm"}
    sale = {"psp": "sandbox", "op": "sale"}
    for name, labels in (
        ("gateway_requests_total", {**route, "status": "200"}),
        ("gateway_requests_total", {**route, "status": "402"}),
        ("gateway_request_duration_seconds_count", {**route, "status": "200"}),
        ("psp_calls_total", {**sale, "outcome": "approved"}),
        ("psp_calls_total", {**sale, "outcome": "declined"}),
        ("psp_call_duration_seconds_count", sale),
        ("webhook_attempts_total", {"outcome": "delivered"}),
        ("webhook_delivery_seconds_count", {"first_attempt": "true"}),
    ):
        await until(plain, session, name, (figure(before, name, **labels) or 0) + 1, **labels)


async def test_figures_outlive_the_process_that_counted_them(database: str, session: aiohttp.ClientSession) -> None:
    """A web process ends and another begins: nothing starts from 0, so that no alert takes a deployment for an event."""
    labels = {"method": "GET", "route": "/v1/payments", "status": "401"}

    async with web_process(database) as url:
        for _ in range(3):
            async with session.get(f"{url}/v1/payments") as response:
                assert response.status == 401
    async with web_process(database) as url, session.get(f"{url}/metrics") as response:
        found = figures_of(await response.text())

    assert figure(found, "gateway_requests_total", **labels) == 3
    assert figure(found, "gateway_processes", kind="web") == 1


async def test_who_is_alive_is_shown_by_kind(plain: Watched, session: aiohttp.ClientSession) -> None:
    """Two web processes, a worker and a clock, each heard of within seconds."""
    found = await until(plain, session, "gateway_processes", 2, kind="web")

    assert [figure(found, "gateway_processes", kind=kind) for kind in ("web", "worker", "clock")] == [2, 1, 1]
    assert (figure(found, "gateway_process_silent_seconds", kind="worker") or 0) < totals.ALIVE_SECONDS


# --- counting and adding up ---------------------------------------------------------------------------------------------------


async def test_counts_of_processes_are_added_up(writer: Pool, operator: Pool) -> None:
    """What two processes counted one after the other is one sum, bucket by bucket."""
    for seconds in (0.005, 0.3, 99.0):
        tally.add(PSP_CALLS, ("sandbox", "sale", "approved"))
        tally.observe(PSP_SECONDS, ("sandbox", "sale"), seconds)
        await totals.add_counts(writer)

    found = await page_of(operator)

    assert figure(found, "psp_calls_total", psp="sandbox", op="sale", outcome="approved") == 3
    buckets = [figure(found, "psp_call_duration_seconds_bucket", psp="sandbox", op="sale", le=le) for le in ("0.01", "0.25", "0.5", "+Inf")]
    assert buckets == [1, 1, 2, 3]
    assert figure(found, "psp_call_duration_seconds_sum", psp="sandbox", op="sale") == pytest.approx(99.305)


async def test_counts_wait_while_the_database_is_away(writer: Pool, operator: Pool) -> None:
    """Nothing is taken from memory before there is a connection to add it with."""
    tally.add(PSP_CALLS, ("sandbox", "sale", "approved"))
    await writer.close()
    with pytest.raises(psycopg.OperationalError):
        await totals.add_counts(writer)

    (left,) = tally.take()

    assert (left.name, left.count) == (PSP_CALLS.name, 1)


async def test_a_process_that_ends_adds_its_last_counts_and_leaves(writer: Pool, operator: Pool) -> None:
    """While it lives it is seen; afterwards its counts stay and it does not."""
    async with totals.counted(writer, "worker"):
        await _seen(operator, "worker", 1)
        tally.add(PSP_CALLS, ("sandbox", "void", "approved"))

    found = await page_of(operator)
    assert figure(found, "psp_calls_total", psp="sandbox", op="void", outcome="approved") == 1
    assert figure(found, "gateway_processes", kind="worker") == 0


async def _seen(pool: Pool, kind: str, alive: int) -> None:
    async def look() -> bool | None:
        return figure(await page_of(pool), "gateway_processes", kind=kind) == alive or None

    await eventually(look, what=f"{alive} of {kind}")


async def test_a_counter_is_there_before_it_counts(operator: Pool) -> None:
    """Zero first: a counter that is born at 3 has no increase that an alert could see."""
    found = await page_of(operator, zeros={"psp_call_errors_total": [("sandbox", "sale", "unknown")]})

    assert figure(found, "psp_call_errors_total", psp="sandbox", op="sale", kind="unknown") == 0
    assert figure(found, "webhook_attempts_total", outcome="exhausted") == 0


def test_bounds_are_what_they_were() -> None:
    """Stored buckets have no bounds of their own: whoever changes some gives the histogram another name, then this test."""
    assert {one.name: one.bounds for one in FIGURES if isinstance(one, Histogram)} == {
        "gateway_request_duration_seconds": REQUEST_BOUNDS,
        "psp_call_duration_seconds": CALL_BOUNDS,
        "webhook_delivery_seconds": LAG_BOUNDS,
    }
    assert (hash(REQUEST_BOUNDS), hash(CALL_BOUNDS), hash(LAG_BOUNDS)) == (
        hash((0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0)),
        hash((0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)),
        hash((0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0)),
    )


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO figures (name, labels, count) VALUES ('', '{}', 1)", "figure_is_named"),
        ("INSERT INTO figures (name, labels, count) VALUES ('x', '{}', -1)", "figure_count_is_not_negative"),
        ("INSERT INTO figures (name, labels, count, sum) VALUES ('x', '{}', 1, 1)", "figure_with_a_sum_has_buckets"),
        ("INSERT INTO processes (id, kind) VALUES (gen_random_uuid(), '')", "process_kind_is_named"),
    ],
)
async def test_the_tables_refuse_nonsense(writer: Pool, statement: str, constraint: str) -> None:
    """Raw SQL under the writer's role meets the rule."""
    async with writer.connection() as connection:
        with refused(constraint):
            await connection.execute(statement)


# --- gauges -------------------------------------------------------------------------------------------------------------------


async def test_an_empty_system_shows_nothing_to_do(operator: Pool) -> None:
    """Every gauge is there from the first look, at 0."""
    found = await page_of(operator)

    for name in ("outbox_depth", "outbox_due", "outbox_oldest_age_seconds", "outbox_oldest_due_seconds", "outbox_dead_letters"):
        assert {figure(found, name, queue=queue) for queue in ("psp", "webhooks")} == {0}
    for name in ("webhook_lag_seconds", "payments_lookups_late_seconds", "payment_exceptions_open", "webhook_deliveries_retrying"):
        assert figure(found, name) == 0
    assert {figure(found, "payments_inflight_total", status=status) for status in ("requested", "unknown", "pending")} == {0}
    assert (figure(found, "gateway_database_up"), figure(found, "gateway_gauges_unanswered")) == (1, 0)


async def test_rows_that_nobody_takes_are_seen_to_wait(writer: Pool, operator: Pool) -> None:
    """Depth, how many are due, and how late: a row that waits for its time is not late."""
    async with writer.connection() as connection:
        rows = [
            outbox.NewRow("webhooks", "a", "webhook.deliver", "{}"),
            outbox.NewRow("webhooks", "a", "webhook.deliver", "{}", due_in_seconds=600),
        ]
        await outbox.write(connection, rows)
        await connection.execute(
            "UPDATE outbox SET due_at = due_at - interval '90 seconds', created_at = created_at - interval '2 minutes'"
        )

    found = await page_of(operator)

    assert [figure(found, name, queue="webhooks") for name in ("outbox_depth", "outbox_due")] == [2, 1]
    assert 120 <= (figure(found, "outbox_oldest_age_seconds", queue="webhooks") or 0) < 130
    assert 90 <= (figure(found, "outbox_oldest_due_seconds", queue="webhooks") or 0) < 100
    assert 90 <= (figure(found, "webhook_lag_seconds") or 0) < 100


async def test_dead_letters_count_until_somebody_has_looked_after_them(writer: Pool, operator: Pool) -> None:
    """A discarded letter is no longer one that waits."""
    async with writer.connection() as connection:
        await outbox.write(connection, [outbox.NewRow("psp", "a", "psp.send", "{}")])
        (row,) = await outbox.claim(connection, "psp", limit=1, lease_seconds=60)
        await outbox.fail(connection, [outbox.Failed(row, "nobody could")])
    waiting = await page_of(operator)
    async with operator.connection() as connection:
        (letter,) = await dead_letters.list_(connection)
        await dead_letters.discard(connection, letter.id, acted_by="test", reason="looked after")

    after = await page_of(operator)

    assert [figure(page, "outbox_dead_letters", queue="psp") for page in (waiting, after)] == [1, 0]


async def test_payments_under_way_are_seen(plain: Watched, session: aiohttp.ClientSession) -> None:
    """A payment whose provider does not answer is in flight, then unknown, until the truth arrives."""
    shop = await shop_of(plain, session)
    plain.system.strike("sale", "delay", delay_ms=6000)
    intent = await shop.intent("approved")

    await shop.confirm(intent, prefer="respond-async")
    found = await until(plain, session, "payments_inflight_total", 1, status="requested")

    assert (figure(found, "payments_inflight_oldest_seconds", status="requested") or 0) < 30
    plain.system.behave()
    await shop.until_intent(intent, status="succeeded")


async def test_a_payer_at_a_challenge_page_is_no_payment_that_hangs(plain: Watched, session: aiohttp.ClientSession) -> None:
    """The provider has answered, and what is waited for is a person: alerts on payments in flight leave it out."""
    shop = await shop_of(plain, session)

    reply = await shop.confirm(await shop.intent("authentication_required"))

    assert reply.json["status"] == "requires_action"
    found = await until(plain, session, "payments_inflight_total", 1, status="pending")
    assert figure(found, "payments_inflight_total", status="unknown") == 0


async def test_a_question_that_takes_too_long_costs_its_own_answer(operator: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement timeout ends it; the page says that one is missing and shows the others."""
    monkeypatch.setattr(gauges, "TIMEOUT_MS", 200)
    slow = Gauge(("slow_gauge",), ("Too slow.",), (), "SELECT 1 FROM pg_sleep(5)")
    quick = Gauge(("quick_gauge",), ("Quick.",), (), "SELECT 7")

    begun = time.monotonic()
    page = figures_of((await Exposition(operator, gauges=(slow, quick), kinds=()).page()).decode())

    assert time.monotonic() - begun < 3
    assert (figure(page, "slow_gauge"), figure(page, "quick_gauge"), figure(page, "gateway_gauges_unanswered")) == (None, 7, 1)


async def test_without_a_database_the_page_says_so(operator: Pool) -> None:
    """It is no error of the page: an alert can be made of it."""
    await operator.close()

    found = await page_of(operator)

    assert figure(found, "gateway_database_up") == 0


async def test_many_looks_at_once_are_one(operator: Pool) -> None:
    """Scrapers share an answer that is a second old at most."""
    exposition = Exposition(operator, gauges=(Gauge(("looks",), ("Random.",), (), "SELECT random()"),), kinds=())

    pages = await asyncio.gather(*(exposition.page() for _ in range(20)))

    assert len(set(pages)) == 1


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.names[0])
async def test_gauges_read_what_they_need_by_an_index(gauge: Gauge, operator: Pool) -> None:
    """No gauge walks a table that grows with payments: what it reads is as long as what is under way."""
    async with operator.connection() as connection:
        plan = "\n".join(row[0] for row in await (await connection.execute(f"EXPLAIN {gauge.query}")).fetchall())

    walked = set(re.findall(r"Seq Scan on (\w+)", plan))
    # Short by nature: rows leave it when they are done.
    assert walked <= {"outbox", "webhook_endpoint_health"}, plan


async def test_a_killed_process_is_missed(writer: Pool, operator: Pool) -> None:
    """Its row stays behind, and after three beats it counts as gone."""
    async with writer.connection() as connection:
        await connection.execute(
            "INSERT INTO processes (id, kind, seen_at) VALUES (gen_random_uuid(), 'clock', statement_timestamp() - interval '16 seconds')"
        )

    found = await page_of(operator)

    assert figure(found, "gateway_processes", kind="clock") == 0
    assert 16 <= (figure(found, "gateway_process_silent_seconds", kind="clock") or 0) < 20
