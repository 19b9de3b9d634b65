"""The page `/metrics`: the same from every process, because all of it is in Postgres."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate

import psycopg
from prometheus_client import PLATFORM_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.infra.db import Pool
from app.infra.telemetry import totals
from app.infra.telemetry.catalog import FIGURES, Counter, Figure, Histogram
from app.infra.telemetry.gauges import Gauge, Reading, read
from app.infra.telemetry.tally import Delta
from app.infra.telemetry.totals import Beats

# What the page says of itself and of processes: name, meaning, labels.
UP = ("gateway_database_up", "Whether Postgres answers.", ())
UNANSWERED = ("gateway_gauges_unanswered", "Gauges that are missing on the page because their question took too long.", ())
ALIVE = ("gateway_processes", "Processes that were heard of within the last 15 seconds.", ("kind",))
SILENT = ("gateway_process_silent_seconds", "How long no process of a kind has been heard of.", ("kind",))
OWN = (UP, UNANSWERED, ALIVE, SILENT)

# Several scrapers, or one that is impatient, cost one look.
FRESH_SECONDS = 1.0


class Exposition:
    """`pool`: tollgate_ops. `kinds`: the processes that there should be. `zeros`: label values of counters shown before the first count."""

    def __init__(
        self, pool: Pool, *, gauges: Sequence[Gauge], kinds: Sequence[str], zeros: dict[str, Sequence[tuple[str, ...]]] | None = None
    ) -> None:
        self._pool = pool
        self._gauges = gauges
        self._kinds = kinds
        self._zeros = zeros or {}
        self._page = b""
        self._read_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def page(self) -> bytes:
        """Prometheus' text form."""
        async with self._one_at_a_time:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._page = await self._read()
                self._read_at = time.monotonic()
            return self._page

    async def _read(self) -> bytes:
        try:
            async with self._pool.connection(timeout=2.0) as connection:
                counted, beats = await totals.read_totals(connection), await totals.read_beats(connection)
        except psycopg.Error:
            return _printed([GaugeMetricFamily(*UP[:2], value=0)])
        readings = await read(self._pool, self._gauges)
        unanswered = sum(one.rows is None for one in readings)
        return _printed(
            [
                GaugeMetricFamily(*UP[:2], value=1),
                GaugeMetricFamily(*UNANSWERED[:2], value=unanswered),
                *self._processes(beats),
                *(family for one in readings if one.rows is not None for family in _families(one)),
                *(_family(figure, counted, self._zeros.get(figure.name, ())) for figure in FIGURES),
            ]
        )

    def _processes(self, beats: dict[str, Beats]) -> Iterable[Metric]:
        alive = GaugeMetricFamily(*ALIVE[:2], labels=ALIVE[2])
        silent = GaugeMetricFamily(*SILENT[:2], labels=SILENT[2])
        for kind in sorted({*self._kinds, *beats}):
            found = beats.get(kind)
            alive.add_metric([kind], 0 if found is None else found.alive)
            if found is not None:
                silent.add_metric([kind], found.silent_seconds)
        return alive, silent


class _Finished(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _printed(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Finished([*families, *PLATFORM_COLLECTOR.collect()]))
    return generate_latest(registry)


def _families(reading: Reading) -> Iterable[Metric]:
    gauge, rows = reading.gauge, reading.rows or {}
    for place, (name, meaning) in enumerate(zip(gauge.names, gauge.meanings, strict=True)):
        family = GaugeMetricFamily(name, meaning, labels=gauge.labels)
        for labels, numbers in rows.items():
            family.add_metric(labels, numbers[place])
        yield family


def _family(figure: Figure, counted: Sequence[Delta], zeros: Sequence[tuple[str, ...]]) -> Metric:
    # An older version may have counted under other labels.
    source = (figure.of or figure.name) if isinstance(figure, Counter) else figure.name
    mine = [one for one in counted if one.name == source and len(one.labels) == len(figure.labels)]
    if isinstance(figure, Counter):
        return _counter(figure, mine, zeros)
    return _histogram(figure, mine)


def _counter(figure: Counter, counted: Sequence[Delta], zeros: Sequence[tuple[str, ...]]) -> Metric:
    family = CounterMetricFamily(figure.name, figure.meaning, labels=figure.labels)
    values = dict.fromkeys((*figure.zeros, *zeros), 0) | {one.labels: one.count for one in counted}
    for labels, count in sorted(values.items()):
        family.add_metric(labels, count)
    return family


def _histogram(figure: Histogram, counted: Sequence[Delta]) -> Metric:
    family = HistogramMetricFamily(figure.name, figure.meaning, labels=figure.labels)
    bounds = [*(str(bound) for bound in figure.bounds), "+Inf"]
    for one in counted:
        if one.buckets is not None and len(one.buckets) == len(bounds):
            family.add_metric(one.labels, list(zip(bounds, accumulate(one.buckets), strict=True)), one.sum)
    return family
