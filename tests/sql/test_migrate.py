import threading
from pathlib import Path

import psycopg
import pytest

from sql import migrate


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "0001_tables.sql").write_text("-- Why: a table.\nCREATE TABLE things (id integer);\n")
    (tmp_path / "0002_rows.sql").write_text("-- Why: a row.\nINSERT INTO things VALUES (1);\n")
    return tmp_path


def one(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


async def check(url: str, directory: Path) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await migrate.check_current(connection, directory=directory)


async def test_our_schema_is_whole_on_every_supported_server(any_database: str) -> None:
    """All files of this repository apply to the newest and to the oldest PostgreSQL."""
    states = migrate.status(any_database)

    assert {state.state for state in states} == {"applied"}
    assert migrate.migrate(any_database) == []
    await check(any_database, migrate.HERE)


def test_files_are_applied_once_and_in_order(empty_database: str, files: Path) -> None:
    """The first run applies everything by number, the second has nothing to do."""
    first = migrate.migrate(empty_database, directory=files)
    second = migrate.migrate(empty_database, directory=files)

    assert first == ["0001_tables", "0002_rows"]
    assert second == []
    assert one(empty_database, "SELECT count(*) FROM things") == 1


def test_releases_at_once_apply_each_file_once(empty_database: str, files: Path) -> None:
    """Four runners start together, also with an index that is built beside the traffic; none fails and nothing is done twice."""
    (files / "0003_index.sql").write_text("-- no-transaction\n-- Why: fast.\nCREATE INDEX CONCURRENTLY things_id ON things (id);\n")
    applied: list[str] = []
    threads = [threading.Thread(target=lambda: applied.extend(migrate.migrate(empty_database, directory=files))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(applied) == ["0001_tables", "0002_rows", "0003_index"]
    assert one(empty_database, "SELECT count(*) FROM things") == 1


def test_a_failing_file_is_named_with_its_line_and_leaves_nothing(empty_database: str, files: Path) -> None:
    """What came before it stays, nothing of the file itself does, and the next run begins with it."""
    (files / "0003_wrong.sql").write_text("-- Why: a mistake.\nCREATE TABLE others (id integer);\n\nINSERT INTO\n    nowhere VALUES (1);\n")

    with pytest.raises(migrate.MigrationFailed, match=r'^sql/0003_wrong\.sql:5:5: relation "nowhere" does not exist'):
        migrate.migrate(empty_database, directory=files)

    assert [state.state for state in migrate.status(empty_database, directory=files)] == ["applied", "applied", "pending"]
    assert one(empty_database, "SELECT to_regclass('others')") is None


def test_without_a_transaction_statements_run_one_by_one(empty_database: str, files: Path) -> None:
    """Semicolons in strings, names, bodies and comments end no statement."""
    (files / "0003_index.sql").write_text(
        "-- no-transaction\n-- Why: it; is fast.\nCREATE INDEX CONCURRENTLY things_id ON things (id);\n"
        "/* a; b */ INSERT INTO things SELECT length('it''s; five') - 5;\n"
        'DO $body$ BEGIN PERFORM 1; END $body$; ALTER TABLE things RENAME id TO "a;b"; -- the end;\n'
    )

    migrate.migrate(empty_database, directory=files)

    assert one(empty_database, 'SELECT sum("a;b") FROM things') == 6
    assert one(empty_database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'things_id'::regclass") is True


def test_without_a_transaction_a_failure_is_named_and_not_recorded(empty_database: str, files: Path) -> None:
    """The line is that of the file, though the statement went alone."""
    (files / "0003_half.sql").write_text(
        "-- no-transaction\n-- Why: half.\nINSERT INTO things VALUES (2);\nINSERT INTO\n nowhere VALUES (1);\n"
    )

    with pytest.raises(migrate.MigrationFailed, match=r"^sql/0003_half\.sql:5:2: "):
        migrate.migrate(empty_database, directory=files)

    assert one(empty_database, "SELECT count(*) FROM things") == 2
    assert migrate.status(empty_database, directory=files)[-1].state == "pending"


def test_an_applied_file_may_not_change(empty_database: str, files: Path) -> None:
    """Another content under an applied name is refused before anything runs."""
    migrate.migrate(empty_database, directory=files)
    (files / "0002_rows.sql").write_text("-- Why: another row.\nINSERT INTO things VALUES (2);\n")
    (files / "0003_more.sql").write_text("-- Why: more.\nINSERT INTO things VALUES (3);\n")

    with pytest.raises(migrate.SchemaMismatch, match="0002_rows changed after it was applied"):
        migrate.migrate(empty_database, directory=files)

    assert one(empty_database, "SELECT count(*) FROM things") == 1
    assert [state.state for state in migrate.status(empty_database, directory=files)] == ["applied", "changed", "pending"]


def test_line_ends_do_not_change_a_file(empty_database: str, files: Path) -> None:
    """A checkout with Windows line ends holds the same migrations."""
    migrate.migrate(empty_database, directory=files)
    (files / "0001_tables.sql").write_bytes((files / "0001_tables.sql").read_bytes().replace(b"\n", b"\r\n"))

    assert migrate.migrate(empty_database, directory=files) == []


async def test_a_process_refuses_an_older_schema(empty_database: str, files: Path) -> None:
    """The check names what is missing, on an empty database as on one that lacks the last file."""
    with pytest.raises(migrate.SchemaMismatch, match="older than this code: 0001_tables, 0002_rows"):
        await check(empty_database, files)

    migrate.migrate(empty_database, directory=files)
    await check(empty_database, files)
    (files / "0003_more.sql").write_text("-- Why: more.\nSELECT 1;\n")

    with pytest.raises(migrate.SchemaMismatch, match="older than this code: 0003_more"):
        await check(empty_database, files)


async def test_a_process_and_a_release_refuse_a_newer_schema(empty_database: str, files: Path) -> None:
    """Code of before neither serves nor migrates what newer code has made."""
    migrate.migrate(empty_database, directory=files)
    (files / "0002_rows.sql").unlink()

    with pytest.raises(migrate.SchemaMismatch, match="newer than this code: it has 0002_rows"):
        await check(empty_database, files)
    with pytest.raises(migrate.SchemaMismatch, match="newer than this code"):
        migrate.migrate(empty_database, directory=files)
    assert migrate.status(empty_database, directory=files)[-1].state == "unknown"


def test_a_locked_table_is_not_waited_for(empty_database: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone would queue behind a waiting migration, so it gives up and says so."""
    migrate.migrate(empty_database, directory=files)
    (files / "0003_column.sql").write_text("-- Why: a column.\nALTER TABLE things ADD name text;\n")
    monkeypatch.setattr(migrate, "_LOCK_TIMEOUT_SECONDS", 1)

    with psycopg.connect(empty_database) as busy:
        busy.execute("SELECT FROM things")
        with pytest.raises(migrate.MigrationFailed, match=r"(?s)^sql/0003_column\.sql.*run it again at a quieter time"):
            migrate.migrate(empty_database, directory=files)

    assert migrate.migrate(empty_database, directory=files) == ["0003_column"]


@pytest.mark.parametrize("name", ["3_short.sql", "0003-dash.sql", "0003_Upper.sql", "0002_again.sql"])
def test_a_wrong_or_taken_number_is_refused(files: Path, name: str) -> None:
    """Order is the number, so a file without one of its own is a mistake."""
    (files / name).write_text("-- Why: wrong.\n")

    with pytest.raises(migrate.MigrationFailed, match=r"NNNN_name|is taken by"):
        migrate.load(files)


async def test_every_role_may_ask_for_the_schema(database: str) -> None:
    """A process asks at its start under the role it works as."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("SET ROLE tollgate_app")
        await migrate.check_current(connection)
