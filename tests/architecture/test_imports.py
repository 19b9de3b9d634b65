"""Who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, files, imports, name_of, tree

# What each kind of file of a capability may import from outside the project beside the standard library.
ALLOWED_OUTSIDE = {
    "model.py": {"msgspec"},
    "store.py": {"msgspec", "psycopg", "psycopg_pool", "sqlalchemy"},
}
# The web framework belongs to `api.py` and to what wires it.
NO_FRAMEWORK = {"model.py", "store.py", "actions.py"}


def outside(path: Path) -> set[str]:
    """Top-level names of the packages that a file takes from neither the project nor the standard library."""
    ours = {"app", "outbox", "workers", "sandbox", "sql", "tests"}
    return {name.partition(".")[0] for name in imports(path)} - ours - sys.stdlib_module_names


def test_import_directions_hold() -> None:
    """The contracts in pyproject.toml are kept: capabilities import downwards, the outbox and the sandbox know nobody."""
    program = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", files(".py", under=("app/core",)), ids=name_of)
def test_the_core_stands_on_the_standard_library(path: Path) -> None:
    """What everything imports drags nothing in."""
    assert outside(path) <= {"msgspec"}
    assert {name for name in imports(path) if name.startswith("app")} <= {
        f"app.core.{module.stem}" for module in files(".py", under=("app/core",))
    }


@pytest.mark.parametrize("path", [one for one in files(".py", under=("app",)) if one.name in ALLOWED_OUTSIDE], ids=name_of)
def test_models_and_stores_keep_to_their_layer(path: Path) -> None:
    """A model computes, a store speaks SQL, and neither knows the web or the network."""
    assert outside(path) <= ALLOWED_OUTSIDE[path.name]


@pytest.mark.parametrize("path", [one for one in files(".py", under=("app",)) if one.name in NO_FRAMEWORK], ids=name_of)
def test_only_the_api_knows_the_web_framework(path: Path) -> None:
    """A use case can be run from a worker, a command or a test without a request."""
    assert "litestar" not in outside(path)


def test_refusals_are_defined_in_one_module() -> None:
    """The table of error codes is closed: nobody adds a code at its place of use."""
    ours = {
        node.name
        for node in tree(ROOT / "app/core/errors.py").body
        if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) for base in node.bases)
    }
    elsewhere = {
        f"{name_of(path)} {node.name}"
        for path in files(".py", under=("app", "workers"))
        if name_of(path) != "app/core/errors.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and {base.id for base in node.bases if isinstance(base, ast.Name)} & (ours | {"DomainError"})
    }

    assert elsewhere == set()
