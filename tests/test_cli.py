import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest

import outbox
from app.cli import main, tollgate
from app.core.ids import typeid
from outbox import dead_letters, store
from outbox.connection import connect
from outbox.model import Failed

ROOT = Path(__file__).parents[1]
# What is planted where a value must never be shown.
SECRET = "h3rr1ng"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line here; give status, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(arguments)
        said = capfd.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def configured(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.delenv("DIRECT_DATABASE_URL", raising=False)
    return database


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def poisoned(database: str) -> str:
    """A dead letter of an actor that does not exist; its public id."""

    async def make() -> str:
        async with await connect(database) as connection:
            await store.write(connection, [outbox.NewRow(queue="psp", lane="sandbox", actor="no.such.actor", payload="{}")])
            [row] = await store.claim(connection, "psp", limit=1, lease_seconds=60.0)
            await store.fail(connection, [Failed(row, "UnknownActor: no.such.actor\nwith a second line", None)])
            [letter] = await dead_letters.list_(connection)
            return typeid("dl", letter.id)

    return asyncio.run(make())


@pytest.mark.parametrize("path", [(), *commands(tollgate)], ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...], run: Run) -> None:
    """Help says what a command does and shows one call of it."""
    status, out, err = run(*path, "--help")

    assert (status, err) == (0, "")
    assert "Example:\n" in out
    assert f"tollgate {' '.join(path)}".strip() in out.split("Example:\n")[1]


def test_help_loads_nothing_that_it_does_not_show() -> None:
    """Neither the driver nor the web framework is imported before a command needs it."""
    script = (
        "import sys, app.cli; print([name for name in ('psycopg', 'litestar', 'uvicorn', 'dramatiq', 'aiohttp') if name in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("migrate", "--no-such-option"),
        ("web", "--port", "0"),
        ("dead-letters", "replay", "dl_01h455vb4pex5vsknk084sn02q"),
        ("keys", "create"),
        ("keys", "create", "--operator", "--new-merchant", "Two"),
        ("keys", "create", "--operator", "--live"),
        ("states", "no_such_machine"),
        ("worker", "no.such.queue"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_exits_2(arguments: tuple[str, ...], run: Run, configured: str) -> None:
    """Usage errors are told apart from failures and go to stderr."""
    status, out, err = run(*arguments)

    assert (status, out) == (2, "")
    assert "Error: " in err


def test_a_missing_variable_exits_2_and_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is not configured says what it needs."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    status, out, err = run("migrate")

    assert (status, out, err) == (2, "", "tollgate: DATABASE_URL is required\n")


def test_a_failure_exits_1_without_a_traceback_or_a_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer is one sentence."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://someone:{SECRET}@127.0.0.1:1/tollgate")

    status, out, err = run("migrate")

    assert (status, out) == (1, "")
    assert err.startswith("tollgate: the database does not answer: ")
    assert "Traceback" not in err
    assert SECRET not in err


def test_a_traceback_is_shown_to_those_who_ask(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOLLGATE_DEBUG=1 is for whoever mends it."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/tollgate")
    monkeypatch.setenv("TOLLGATE_DEBUG", "1")

    with pytest.raises(psycopg.OperationalError):
        run("migrate")


def test_a_process_refuses_a_schema_it_does_not_know(run: Run, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's command on an empty database says what to run."""
    monkeypatch.setenv("DATABASE_URL", empty_database)

    status, _, err = run("dead-letters", "list")

    assert status == 1
    assert "older than this code" in err or "role" in err


def test_the_version_is_the_packages(run: Run) -> None:
    """One line, for bug reports."""
    status, out, _ = run("--version")

    assert status == 0
    assert out.startswith("tollgate ")


def test_migrate_says_what_it_did(run: Run, empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run lists the files, the second finds nothing, and the status agrees with both."""
    monkeypatch.setenv("DATABASE_URL", empty_database.replace("postgresql://", "postgres://"))
    before, pending, _ = run("migrate", "--status")

    first, applied, _ = run("migrate")
    second, nothing, _ = run("migrate")
    after, shown, _ = run("migrate", "--status")

    assert (before, first, second, after) == (1, 0, 0, 0)
    assert pending.count("pending") == applied.count("applied ") == shown.count("applied ") > 0
    assert nothing == "the schema is up to date\n"


def test_a_key_is_made_for_a_new_merchant_and_for_an_old_one(run: Run, configured: str) -> None:
    """The token is printed once; the merchant's id makes the next key."""
    _, out, _ = run("keys", "create", "--new-merchant", "Blue Bottle", "--json")
    first = json.loads(out)
    _, out, _ = run("keys", "create", "--merchant", first["merchant_id"], "--live", "--json")
    second = json.loads(out)

    assert first["key"].startswith("sk_test_")
    assert second["key"].startswith("sk_live_")
    assert second["merchant_id"] == first["merchant_id"]
    with psycopg.connect(configured) as connection:
        assert connection.execute("SELECT count(*) FROM api_keys WHERE merchant_id IS NOT NULL").fetchone() == (2,)


def test_an_operators_key_belongs_to_no_merchant(run: Run, configured: str) -> None:
    """It opens /v1/ops and nothing of a merchant's."""
    status, out, _ = run("keys", "create", "--operator")

    assert status == 0
    assert out.startswith("key: ops_")


@pytest.mark.parametrize("id_", ["mer_01h455vb4pex5vsknk084sn02q", "nonsense"])
def test_a_key_of_an_unknown_merchant_is_refused(run: Run, configured: str, id_: str) -> None:
    """A mistyped id makes no key."""
    status, out, err = run("keys", "create", "--merchant", id_)

    assert (status, out) == (1, "")
    assert id_ in err


def test_the_trial_balance_of_empty_books_balances(run: Run, configured: str) -> None:
    """As JSON for programs and as a table for people."""
    status, out, _ = run("ledger", "trial-balance", "--json")
    _, table, _ = run("ledger", "trial-balance")

    assert status == 0
    assert json.loads(out) == {"balanced": True, "currencies": {}}
    assert table == "balanced: debits equal credits\n"


def test_a_dead_letter_is_seen_and_brought_back_once(run: Run, configured: str) -> None:
    """List and show give the error; the first replay makes a row, the second none."""
    id_ = poisoned(configured)

    _, listed, _ = run("dead-letters", "list")
    _, shown, _ = run("dead-letters", "show", id_)
    first = run("dead-letters", "replay", id_, "--reason", "mended")
    second = run("dead-letters", "replay", id_, "--reason", "mended again")

    assert id_ in listed
    assert "no.such.actor" in listed
    assert "second line" not in listed
    assert "with a second line" in shown
    assert first == (0, f"{id_} is back in the queue psp\n", "")
    assert second == (0, f"{id_} was replayed before: nothing done\n", "")
    with psycopg.connect(configured) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
        assert connection.execute("SELECT act, reason FROM operator_acts").fetchall() == [("dead_letter.replay", "mended")]
    assert run("dead-letters", "list")[1] == "no dead letters\n"
    assert json.loads(run("dead-letters", "list", "--all", "--json")[1])["reason"] == "mended"


def test_a_discarded_letter_cannot_come_back(run: Run, configured: str) -> None:
    """What was put away stays away, and says so."""
    id_ = poisoned(configured)

    discarded = run("dead-letters", "discard", id_, "--reason", "a test")
    again = run("dead-letters", "discard", id_, "--reason", "a test")
    status, _, err = run("dead-letters", "replay", id_, "--reason", "changed my mind")

    assert discarded == (0, f"{id_} is discarded\n", "")
    assert again == (0, f"{id_} was discarded before: nothing done\n", "")
    assert status == 1
    assert "discarded" in err


@pytest.mark.parametrize("id_", ["dl_01h455vb4pex5vsknk084sn02q", "dl_01H455VB4PEX5VSKNK084SN02Q", "7"])
def test_an_unknown_letter_is_a_failure(run: Run, configured: str, id_: str) -> None:
    """Exit 1 and a sentence, whether it is not there or not an id."""
    status, out, err = run("dead-letters", "show", id_)

    assert (status, out) == (1, "")
    assert "dead letter" in err


def test_the_states_printed_are_those_of_the_database(run: Run, configured: str) -> None:
    """`states --sql` prints the very rows that the migrations brought."""
    _, out, _ = run("states", "--sql")

    with psycopg.connect(configured) as connection:
        connection.execute("CREATE TEMPORARY TABLE printed (LIKE state_transitions)")
        connection.execute(out.replace("INTO state_transitions", "INTO printed", 1).encode())
        difference = connection.execute(
            "(TABLE printed EXCEPT TABLE state_transitions) UNION ALL (TABLE state_transitions EXCEPT TABLE printed)"
        ).fetchall()
    assert difference == []


def test_the_states_of_one_object_are_printed_as_text_and_as_a_diagram(run: Run) -> None:
    """For reading in a terminal, and for pages that draw Mermaid."""
    _, text, _ = run("states", "payment")
    _, diagram, _ = run("states", "payment", "--mermaid")

    assert text.startswith("payment\n")
    assert "--captured--> captured" in text
    assert diagram.startswith("%% payment\nstateDiagram-v2\n")


def test_the_configuration_is_checked_without_showing_it(run: Run, configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and what is wrong with them, never a value, set or wrong; then the database's guards."""
    monkeypatch.setenv("METRICS_TOKEN", SECRET)
    status, out, _ = run("config", "check")

    assert status == 0
    assert "METRICS_TOKEN             set" in out
    assert "schema: current" in out
    assert "roles: all there" in out
    assert SECRET not in out

    monkeypatch.setenv("PORT", SECRET)
    monkeypatch.setenv("SERVER_KEY", SECRET)
    status, out, _ = run("config", "check")

    assert status == 1
    assert "PORT                      WRONG: expected a whole number from 1 to 65535" in out
    assert SECRET not in out


def test_a_closed_pipe_makes_no_noise() -> None:
    """`tollgate states | head -1` ends quietly."""
    with subprocess.Popen([sys.executable, "-m", "app", "states"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""
