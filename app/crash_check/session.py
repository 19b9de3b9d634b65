"""One run of the crash check, from first to last. The main thread keeps the processes alive; what is asked, killed and compared
happens on an event loop in a thread beside it.
"""

import asyncio
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path

import click

from app.crash_check import report
from app.crash_check.checks import compare
from app.crash_check.installation import prepared, running, times_for
from app.crash_check.plan import journeys
from app.crash_check.trial import Trial, hold
from app.dev.session import Ending
from app.supervisor import NeverReady

_INTERRUPTED = 130


def run(*, payments: int, seed: int | None, data: Path | None, lease_seconds: int | None = None) -> int:
    """0 when every book agrees, 1 when one does not. Journals and logs are kept in `data`, or where they are when something is wrong."""
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    home = Path(tempfile.mkdtemp(prefix="tollgate-crash-check-")) if data is None else data.absolute()
    times = times_for(lease_seconds)
    begun_at = time.monotonic()

    def show(line: str) -> None:
        click.echo(f"{time.monotonic() - begun_at:6.1f} s  {line}", err=True)

    show(f"seed {chosen}, lease {times.lease} s; logs and journals in {home}")
    ending = Ending()
    try:
        with prepared(home, times, embedded_at=data) as installation, running(installation):
            beside = _Beside(hold(installation, journeys(payments, chosen), seed=chosen, times=times, show=show))
            beside.start()
            installation.supervisor.watch(stop=lambda: ending() or not beside.is_alive(), each_tick=lambda: None)
            trial = None if beside.is_alive() else beside.result()
    except NeverReady as error:
        raise click.ClickException(str(error)) from None
    if trial is not None and not _show(trial):
        click.echo(f"logs, deliveries.jsonl and answers.jsonl are kept in {home}")
        return 1
    if data is None:
        shutil.rmtree(home, ignore_errors=True)
    return _INTERRUPTED if trial is None else 0


class _Beside(threading.Thread):
    """A coroutine on a loop of its own. Daemonic: an interrupted run does not wait for it."""

    def __init__(self, work: Coroutine[None, None, Trial]) -> None:
        super().__init__(name="crash check", daemon=True)
        self._work = work
        self._done: Trial | BaseException | None = None

    def run(self) -> None:
        try:
            self._done = asyncio.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._done = error

    def result(self) -> Trial:
        if not isinstance(self._done, Trial):
            raise self._done or RuntimeError("the crash check ended without a word")
        return self._done


def _show(trial: Trial) -> bool:
    """True when all is well."""
    checks = compare(trial.evidence)
    for line in report.lines(trial.run, checks):
        click.echo(line)
    wrong = [check for check in checks if check.problems]
    if not wrong:
        click.echo("every book agrees")
        return True
    for payment_id in report.payments_in_question(checks):
        for line in report.timeline(payment_id, trial.timelines.get(payment_id, [])):
            click.echo(line)
    for line in report.problems(checks):
        click.echo(line)
    return False
