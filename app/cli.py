"""`tollgate …`: what each command takes. What it does is imported only when it is run, so that `--help` is quick."""

# ruff: noqa: PLC0415 - a command loads what it needs and nothing else

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from app.settings import Settings

_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
_REASON = click.option("--reason", required=True, help="Why; kept with the act.")
_DATA = click.option("--data", type=click.Path(path_type=Path), help="Where databases and logs are kept.")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for a failure, 2 for a wrong call. A traceback is shown only with TOLLGATE_DEBUG=1."""
    try:
        # In this mode click hands back the status of ctx.exit() instead of leaving.
        status = tollgate.main(argv, prog_name="tollgate", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2 if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("TOLLGATE_DEBUG") == "1":
            raise
        return _explain(error)
    return status if isinstance(status, int) else 0


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _settings(**changes: object) -> "Settings":
    """From the environment; options of the command line come before it."""
    from app.settings import read_settings

    given = {name.upper(): str(value) for name, value in changes.items() if value is not None}
    return read_settings({**os.environ, **given})


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's interface
    if wanted:
        try:
            version = metadata.version("tollgate")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        click.echo(f"tollgate {version}")
        context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=_example("tollgate dev", "tollgate demo")
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version.")
def tollgate() -> None:
    """A payment gateway on plain Postgres. Everything is configured by environment variables: see `tollgate config check`."""


# --- processes ----------------------------------------------------------------------------------------------------------------


@tollgate.command(epilog=_example("DATABASE_URL=postgresql://localhost/tollgate tollgate migrate", "tollgate migrate --status"))
@click.option("--status", "only_status", is_flag=True, help="Only say what is applied; exit 1 if that is not all.")
def migrate(*, only_status: bool) -> int:
    """Bring the database to the schema of this code. Safe to run again."""
    from app.commands import schema

    if only_status:
        lines, current = schema.status(dict(os.environ))
        _say(lines)
        return 0 if current else 1
    _say(schema.migrate(dict(os.environ)))
    return 0


@tollgate.command(epilog=_example("tollgate web --port 8000"))
@click.option("--port", type=click.IntRange(1, 65535), help="Instead of PORT.")
@click.option("--host", help="Instead of HOST.")
def web(port: int | None, host: str | None) -> int:
    """Serve the merchant API."""
    settings = _settings(port=port, host=host)
    from app.main import run_web

    return run_web(settings)


@tollgate.command(epilog=_example("tollgate worker", "tollgate worker psp psp.bulk"))
@click.argument("queues", nargs=-1)
@click.option("--threads", type=click.IntRange(1, 64), help="Instead of WORKER_THREADS.")
def worker(queues: tuple[str, ...], threads: int | None) -> int:
    """Do what is in the outbox, of all QUEUES or of those named."""
    settings = _settings(worker_threads=threads)
    from workers.main import QUEUES, run

    wanted = queues or settings.worker_queues
    unknown = [name for name in wanted if name not in QUEUES]
    if unknown:
        raise click.UsageError(f"no such queue: {', '.join(unknown)}. There are: {', '.join(QUEUES)}.")
    return run(settings, wanted)


@tollgate.command(epilog=_example("tollgate clock"))
def clock() -> int:
    """Write work into the outbox when its time has come."""
    settings = _settings()
    from workers.clock import run

    return run(settings)


@tollgate.command(epilog=_example("tollgate sandbox --port 8090 --data .tollgate/sandbox"))
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(".tollgate/sandbox"), show_default=True, help="Where its book is kept."
)
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def sandbox(port: int, data: Path, more: tuple[str, ...]) -> None:
    """Run the sandbox provider. MORE options come after `--`: see `python -m sandbox --help`."""
    # A program of its own, reached over HTTP like any other provider: nothing of it is imported here.
    os.execv(sys.executable, [sys.executable, "-m", "sandbox", "--port", str(port), "--data", str(data), *more])  # noqa: S606 - no shell is wanted


@tollgate.command(epilog=_example("tollgate dev", "tollgate dev --port 8000 --data /var/lib/tollgate --fresh"))
@click.option("--port", type=click.IntRange(1, 65535), help="Of the API. Any free one, 8000 if that is.")
@_DATA
@click.option("--fresh", is_flag=True, help="Begin with empty databases.")
@click.option("--webs", type=click.IntRange(1, 64), default=1, show_default=True, help="Web processes, all on one port.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
def dev(**options: Any) -> int:
    """Everything on this machine: a database, the sandbox provider and all processes; one JSON line says when it is ready.

    It runs until SIGINT or SIGTERM, drains, and leaves nothing behind. Limits for the demo merchant are off.
    """
    from app.dev import run

    return run(**options)


@tollgate.command(epilog=_example("tollgate demo"))
@_DATA
def demo(data: Path | None) -> int:
    """Take a payment on a fresh system of this machine and show every trace of it."""
    from app.demo import run

    return run(data)


@tollgate.command("crash-check", epilog=_example("tollgate crash-check --payments 500 --seed 7"))
@click.option("--payments", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seed", type=int, help="Of the random choices; printed, so that a run can be repeated.")
@click.option("--lease-seconds", type=click.IntRange(3, 600), help="Shorter ones make a shorter run. By default as in production.")
@_DATA
def crash_check(payments: int, seed: int | None, lease_seconds: int | None, data: Path | None) -> int:
    """Kill processes again and again while payments are under way, then compare every book."""
    from app.crash_check import run

    return run(payments=payments, seed=seed, data=data, lease_seconds=lease_seconds)


# --- operators ----------------------------------------------------------------------------------------------------------------


@tollgate.group("dead-letters", epilog=_example("tollgate dead-letters list"))
def dead_letters() -> None:
    """What nobody could do: look at it, bring it back, or put it away."""


@dead_letters.command("list", epilog=_example("tollgate dead-letters list --queue webhooks"))
@click.option("--queue", help="Only of this queue.")
@click.option("--all", "closed", is_flag=True, help="Those replayed and discarded too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@_JSON
def list_letters(**options: Any) -> None:
    """Newest first."""
    from app.commands import operate

    _say(asyncio.run(operate.list_letters(dict(os.environ), **options)))


@dead_letters.command("show", epilog=_example("tollgate dead-letters show dl_01h455vb4pex5vsknk084sn02q"))
@click.argument("id_", metavar="ID")
def show_letter(id_: str) -> None:
    """One letter with its errors and its payload."""
    from app.commands import operate

    _say(asyncio.run(operate.show_letter(dict(os.environ), id_)))


@dead_letters.command("replay", epilog=_example("tollgate dead-letters replay dl_01h455vb4pex5vsknk084sn02q --reason 'endpoint mended'"))
@click.argument("id_", metavar="ID")
@_REASON
def replay_letter(id_: str, reason: str) -> None:
    """Bring a letter back to its queue. A second time does nothing."""
    from app.commands import operate

    _say(asyncio.run(operate.replay_letter(dict(os.environ), id_, reason=reason)))


@dead_letters.command("discard", epilog=_example("tollgate dead-letters discard dl_01h455vb4pex5vsknk084sn02q --reason 'test traffic'"))
@click.argument("id_", metavar="ID")
@_REASON
def discard_letter(id_: str, reason: str) -> None:
    """Put a letter away without doing it."""
    from app.commands import operate

    _say(asyncio.run(operate.discard_letter(dict(os.environ), id_, reason=reason)))


@tollgate.group(epilog=_example("tollgate ledger trial-balance"))
def ledger() -> None:
    """The books."""


@ledger.command("trial-balance", epilog=_example("tollgate ledger trial-balance --json"))
@_JSON
def show_trial_balance(*, as_json: bool) -> int:
    """Debits and credits of every account, in minor units; exit 1 if they do not balance."""
    from app.commands import operate

    lines, balanced = asyncio.run(operate.show_trial_balance(dict(os.environ), as_json=as_json))
    _say(lines)
    return 0 if balanced else 1


@tollgate.group(epilog=_example("tollgate keys create --operator"))
def keys() -> None:
    """API keys."""


@keys.command("create", epilog=_example("tollgate keys create --new-merchant 'Blue Bottle'", "tollgate keys create --operator"))
@click.option("--operator", is_flag=True, help="A key that opens /v1/ops.")
@click.option("--merchant", metavar="mer_…", help="A key of this merchant.")
@click.option("--new-merchant", metavar="NAME", help="A key of a merchant that is made for it.")
@click.option("--live", is_flag=True, help="A key that moves real money.")
@_JSON
def create_key(*, operator: bool, merchant: str | None, new_merchant: str | None, live: bool, as_json: bool) -> None:
    """Make a key and print it. It is not stored in readable form and never shown again."""
    if [operator, merchant is not None, new_merchant is not None].count(True) != 1:
        raise click.UsageError("say whose key it is: one of --operator, --merchant and --new-merchant.")
    if operator and live:
        raise click.UsageError("an operator's key has no mode: leave out --live.")
    from app.commands import operate

    made = asyncio.run(operate.create_key(dict(os.environ), operator=operator, merchant=merchant, new_merchant=new_merchant, live=live))
    if as_json:
        import json

        _say([json.dumps(made)])
    else:
        _say(f"{name}: {value}" for name, value in made.items())


# --- about this code ----------------------------------------------------------------------------------------------------------


@tollgate.command(epilog=_example("tollgate states payment", "tollgate states --mermaid"))
@click.argument("machine", required=False)
@click.option("--mermaid", "form", flag_value="mermaid", help="As diagrams.")
@click.option("--sql", "form", flag_value="sql", help="As the rows of state_transitions.")
def states(machine: str | None, form: str | None) -> None:
    """The legal moves of every object, or of one MACHINE."""
    from app.commands import describe

    if machine is not None and machine not in describe.machine_names():
        raise click.UsageError(f"no such machine: {machine}. There are: {', '.join(describe.machine_names())}.")
    _say(describe.states(machine, form or "text"))


@tollgate.group(epilog=_example("tollgate config check"))
def config() -> None:
    """The configuration."""


@config.command("check", epilog=_example("tollgate config check"))
def config_check() -> int:
    """Name every variable and say whether it is set, absent or wrong; values are never shown. Exit 1 if something is wrong."""
    from app.commands import describe

    lines, well = describe.config_check(os.environ)
    _say(lines)
    return 0 if well else 1


def _explain(error: Exception) -> int:
    """One message for each kind of failure; what it is called with decides between 1 and 2."""
    import psycopg

    from app.core.errors import DomainError
    from app.infra.embedded_postgres import EmbeddedPostgresError, UnusableDirectory
    from app.settings import SettingsInvalid
    from sql.migrate import MigrationFailed, SchemaMismatch

    match error:
        case SettingsInvalid():
            lines, status = [f"{name} {problem}" for name, problem in error.problems.items()], 2
        case UnusableDirectory():
            lines, status = [str(error)], 2
        case EmbeddedPostgresError() | MigrationFailed() | SchemaMismatch():
            lines, status = [str(error)], 1
        case DomainError():
            lines, status = [error.detail], 1
        case psycopg.OperationalError():
            lines, status = [f"the database does not answer: {str(error).strip()}"], 1
        case _:
            lines, status = [f"{type(error).__name__}: {error}", "This should not happen. TOLLGATE_DEBUG=1 shows where it did."], 1
    for line in lines:
        click.echo(f"tollgate: {line}", err=True)
    return status
