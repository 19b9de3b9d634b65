"""Every rule that the database keeps is named by a test that tries to break it."""

import re

from app.infra.db import connect
from tests.architecture.sources import files, name_of

# Keys and foreign keys are the language's own; CHECK, UNIQUE and EXCLUDE are sentences of ours. A partition repeats its parent's.
CONSTRAINTS = """
SELECT c.conname, c.conrelid::regclass::text
  FROM pg_constraint c
  JOIN pg_class r ON r.oid = c.conrelid
 WHERE c.connamespace = 'public'::regnamespace AND c.contype IN ('c', 'u', 'x') AND NOT r.relispartition
"""

UNIQUE_INDEXES = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text
  FROM pg_index i
  JOIN pg_class r ON r.oid = i.indrelid
 WHERE r.relnamespace = 'public'::regnamespace AND i.indisunique AND NOT r.relispartition
   AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
"""

TRIGGERS = """
SELECT t.tgname, t.tgrelid::regclass::text, p.prosrc
  FROM pg_trigger t
  JOIN pg_class r ON r.oid = t.tgrelid
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE r.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal AND NOT r.relispartition
"""

FUNCTIONS = """
SELECT p.proname, p.prosrc, pg_get_functiondef(p.oid)
  FROM pg_proc p
 WHERE p.pronamespace = 'public'::regnamespace AND p.prokind IN ('f', 'p')
"""

TABLES_OF_MERCHANTS = """
SELECT r.relname, r.relrowsecurity, r.relforcerowsecurity,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attname = 'livemode' AND a.attnotnull = m.attnotnull)
  FROM pg_class r
  JOIN pg_attribute m ON m.attrelid = r.oid AND m.attname = 'merchant_id' AND NOT m.attisdropped
 WHERE r.relnamespace = 'public'::regnamespace AND r.relkind IN ('r', 'p') AND NOT r.relispartition
"""

PARTITIONS_WITH_GRANTS = """
SELECT DISTINCT g.table_name, g.grantee
  FROM information_schema.role_table_grants g
  JOIN pg_class r ON r.oid = g.table_name::regclass AND r.relispartition
 WHERE g.table_schema = 'public' AND g.grantee LIKE 'tollgate%%'
"""

# Names made by the database from table and columns: the constraint was not named as the sentence it enforces.
UNNAMED = re.compile(r".*_(check|key|excl)\d*")


def named_in_tests() -> set[str]:
    """All quoted words in the tests, the architecture's own left out: it would name everything at once."""
    sources = [path for path in files(".py", under=("tests",)) if not name_of(path).startswith("tests/architecture/")]
    return {word for path in sources for word in re.findall(r"""["']([a-z][a-z0-9_]+)["']""", path.read_text())}


def _raised(source: str) -> set[str]:
    """The names of a function's refusals; a name that is put together from the trigger's argument cannot be read here."""
    return set(re.findall(r"CONSTRAINT = '(\w+)'", source)) or {"?"}


async def rows(url: str, query: str) -> list[tuple[str, ...]]:
    async with await connect(url, role=None) as connection:
        return [tuple(row) for row in await (await connection.execute(query)).fetchall()]


async def test_every_constraint_is_attacked(database: str) -> None:
    """A CHECK or a UNIQUE that no test names could be dropped without anybody noticing."""
    kept = [row for query in (CONSTRAINTS, UNIQUE_INDEXES) for row in await rows(database, query)]

    unattacked = sorted(f"{table}: {name}" for name, table in kept if name not in named_in_tests())
    assert not unattacked, "\n".join(["nobody attacks", *unattacked])


async def test_every_trigger_is_attacked(database: str) -> None:
    """A trigger is named by a test, or every refusal that it raises is."""
    attacked = named_in_tests()
    kept = await rows(database, TRIGGERS)

    unattacked = sorted(f"{table}: {name}" for name, table, source in kept if not ({name} & attacked or _raised(source) <= attacked))
    assert not unattacked, "\n".join(["nobody attacks", *unattacked])


async def test_every_refusal_of_a_function_is_provoked(database: str) -> None:
    """A function that can refuse for several reasons is attacked for each of them."""
    raised = {name for _, source, _ in await rows(database, FUNCTIONS) for name in _raised(source) - {"?"}}

    unprovoked = sorted(raised - named_in_tests())
    assert not unprovoked, "\n".join(["nobody provokes", *unprovoked])


async def test_every_constraint_is_named_as_the_sentence_it_enforces(database: str) -> None:
    """A refusal in a log at night reads as what was wrong, not as a column's name."""
    assert {name for name, _ in await rows(database, CONSTRAINTS) if UNNAMED.fullmatch(name)} == set()


async def test_every_refusal_has_a_code_and_a_name(database: str) -> None:
    """Whoever catches a refusal of the database can tell which rule spoke."""
    careless = {
        name
        for name, source, _ in await rows(database, FUNCTIONS)
        for statement in re.findall(r"RAISE EXCEPTION.*?;", source, re.DOTALL)
        if "ERRCODE = " not in statement or "CONSTRAINT = " not in statement
    }

    assert careless == set()


async def test_functions_with_borrowed_rights_look_in_one_schema(database: str) -> None:
    """A function that runs as its owner names its search path, so that nobody can put a table in its way."""
    borrowed = {name: text for name, _, text in await rows(database, FUNCTIONS) if "SECURITY DEFINER" in text}

    assert borrowed
    assert {name for name, text in borrowed.items() if not re.search(r"SET search_path TO .*'?pg_temp'?\n", text)} == set()


async def test_every_table_of_merchants_has_forced_row_level_security(database: str) -> None:
    """A table with a merchant has a mode, and forced policies from its first migration."""
    tables = await rows(database, TABLES_OF_MERCHANTS)

    assert len(tables) > 5
    assert {name for name, enabled, forced, has_mode in tables if not (enabled and forced and has_mode)} == set()


async def test_roles_reach_partitions_through_their_parent_only(database: str) -> None:
    """Statement triggers and policies sit on the parent; a grant on a partition would go round them."""
    assert await rows(database, PARTITIONS_WITH_GRANTS) == []
