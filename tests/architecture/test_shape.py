"""Conventions that a reader relies on, counted."""

import ast
import re

from tests.architecture.sources import ROOT, definitions, files, name_of, texts

FILE_LINES = 400
FUNCTION_LINES = 70
# Words that say nothing about what a thing is. A name is split at underscores and capitals; `metadata` is one word.
EMPTY_WORDS = {"manager", "helper", "helpers", "util", "utils", "handler", "processor", "data", "info"}
# Names that are not ours: interfaces that call us.
GIVEN = {"data_received"}

# Put together here, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(?:" + "|".join(("wo" + "rk", "fa" + "rm", "ro" + "ot", "ho" + "me/[a-z]", "Us" + "ers/[a-z]")) + ")/"
)
REGISTRIES = re.compile("|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", r"registry\.npm" + "js", r"deb\.deb" + "ian")))


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_files_stay_within_400_lines() -> None:
    """A file that grows past a sitting's reading is split by verb or by subject."""
    long = {name_of(path): count for path in files(".py", ".sql") if (count := len(path.read_text().splitlines())) > FILE_LINES}

    assert long == {}


def test_functions_stay_within_70_lines() -> None:
    """What no longer fits a screen is cut where it changes its subject."""
    long = {str(one): one.lines for one in definitions() if not isinstance(one.node, ast.ClassDef) and one.lines > FUNCTION_LINES}

    assert long == {}


def test_names_say_what_a_thing_is() -> None:
    """No module, class or function is called by a word that fits everything."""
    modules = {name_of(path): path.stem for path in files(".py")}
    # The name of a test is a sentence about something, and may need the word.
    defined = {str(one): one.node.name for one in definitions() if not one.node.name.startswith("test_")}

    assert {where for where, name in (modules | defined).items() if words(name) & EMPTY_WORDS and name not in GIVEN} == set()


def test_no_file_names_a_machine_or_a_registry() -> None:
    """What only one machine has, and where packages come from, is configuration of that machine."""
    found = {name_of(path) for path in texts() if MACHINE_PATHS.search(text := path.read_text()) or REGISTRIES.search(text)}

    assert found == set()


def test_every_test_says_in_a_sentence_what_it_holds() -> None:
    """A test's docstring is the behaviour: one line, one sentence."""
    silent = set()
    for one in definitions(under=("tests",)):
        if isinstance(one.node, ast.ClassDef) or not one.node.name.startswith("test_"):
            continue
        doc = ast.get_docstring(one.node) or ""
        if not doc.endswith(".") or "\n\n" in doc:
            silent.add(str(one))

    assert silent == set()


def test_migrations_are_numbered_without_gaps_and_say_why() -> None:
    """The order of migrations is their number, and each begins with its reason."""
    paths = sorted((ROOT / "sql").glob("*.sql"))

    assert [path.name[:4] for path in paths] == [f"{number:04}" for number in range(1, len(paths) + 1)]
    assert [path.name for path in paths if not path.read_text().startswith(("-- Why:", "-- no-transaction\n-- Why:"))] == []
