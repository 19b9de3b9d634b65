"""What a person reads: counts, kills, checks, and for each payment that is wrong its timeline."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from app.crash_check.checks import Check
from app.crash_check.installation import Times

# Whoever reads this begins with one payment; the rest are in the files.
PROBLEMS_SHOWN = 10
TIMELINES_SHOWN = 3


class Run(NamedTuple):
    """The figures of a run."""

    seed: int
    times: Times
    payments: int
    requests: int
    unanswered: int
    faults: int
    kills: Mapping[str, int]
    under_way_seconds: float
    healed_seconds: float
    totals: Mapping[tuple[str, str], tuple[int, int]]


def lines(run: Run, checks: Sequence[Check]) -> Iterator[str]:
    yield ""
    yield from _table(
        ("seed", str(run.seed)),
        ("payments", str(run.payments)),
        ("requests", f"{run.requests}, of which {run.unanswered} got no answer"),
        ("provider's faults", str(run.faults)),
        ("kills", f"{sum(run.kills.values())}: {', '.join(f'{name} {count}' for name, count in sorted(run.kills.items()))}"),
        ("lease, drain, handler", f"{run.times.lease} s, {run.times.drain} s, {run.times.handler} s"),
        ("under way", f"{run.under_way_seconds:.1f} s"),
        ("after the last kill", f"everything was done in {run.healed_seconds:.1f} s"),
    )
    yield ""
    yield f"  {'minor units':<24}{'provider':>16}{'ledger':>16}"
    for (kind, currency), (journaled, booked) in run.totals.items():
        yield f"  {kind + ' ' + currency:<24}{journaled:>16}{booked:>16}"
    yield ""
    width = max(len(check.sentence) for check in checks)
    for check in checks:
        found = f"{len(check.problems)} WRONG" if check.problems else "ok"
        yield f"  {check.sentence:<{width}}  {check.counted:>16}  {found}"
    yield ""


def problems(checks: Sequence[Check]) -> Iterator[str]:
    for check in checks:
        if check.problems:
            yield f"not true: {check.sentence}"
            for problem in check.problems[:PROBLEMS_SHOWN]:
                yield f"  {problem.payment_id or '-'}: {problem.text}"
            if len(check.problems) > PROBLEMS_SHOWN:
                yield f"  and {len(check.problems) - PROBLEMS_SHOWN} more"


def payments_in_question(checks: Sequence[Check]) -> list[str]:
    """The first of every sentence that is not true, then the second ones, and so on."""
    in_turn = (problem for problems in zip_longest(*(check.problems for check in checks)) for problem in problems)
    found = dict.fromkeys(problem.payment_id for problem in in_turn if problem is not None)
    shown = max(TIMELINES_SHOWN, sum(1 for check in checks if check.problems))
    return [payment_id for payment_id in found if payment_id is not None][:shown]


def timeline(payment_id: str, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"timeline of {payment_id}"
    for entry in entries:
        detail = " ".join(f"{name}={value}" for name, value in entry["detail"].items() if value is not None)
        yield f"  {entry['at']}  {entry['kind']:<13} {entry['what']:<28} {detail}"


def _table(*rows: tuple[str, str]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        yield f"  {name:<{width}}  {value}"
