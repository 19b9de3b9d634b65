"""Counting in memory: what happened in this process since the counts were last taken away."""

from bisect import bisect_left

import msgspec

from app.infra.telemetry.catalog import Counter, Histogram

Labels = tuple[str, ...]


class Delta(msgspec.Struct, frozen=True):
    """What is to be added. A counter has neither sum nor buckets; the last bucket is what was above all bounds."""

    name: str
    labels: Labels
    count: int
    sum: float | None = None
    buckets: list[int] | None = None


_counts: dict[tuple[str, Labels], int] = {}
# Sum, then one number per bucket.
_observed: dict[tuple[str, Labels], list[float]] = {}


def add(counter: Counter, labels: Labels, count: int = 1) -> None:
    key = (counter.name, labels)
    _counts[key] = _counts.get(key, 0) + count


def observe(histogram: Histogram, labels: Labels, value: float) -> None:
    key = (histogram.name, labels)
    seen = _observed.get(key)
    if seen is None:
        seen = _observed[key] = [0.0] * (len(histogram.bounds) + 2)
    seen[0] += value
    seen[1 + bisect_left(histogram.bounds, value)] += 1


def take() -> list[Delta]:
    """All counts, which begin at nothing again. Belongs to the event loop that counts."""
    deltas = [Delta(name, labels, count) for (name, labels), count in _counts.items()]
    for (name, labels), (total, *buckets) in _observed.items():
        whole = [int(one) for one in buckets]
        deltas.append(Delta(name, labels, sum(whole), total, whole))
    _counts.clear()
    _observed.clear()
    return deltas
