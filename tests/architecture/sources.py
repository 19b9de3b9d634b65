"""The files and definitions that the conventions are about."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("app", "outbox", "workers", "sandbox", "sql")
CODE = (*PRODUCT, "bench", "docs", "tests", "ops")
TEXT = {".py", ".sql", ".md", ".toml", ".yml", ".yaml", ".json", ".sh", ".txt", ""}
# Written by a tool, with a hash per line.
LONG_BY_NATURE = {"requirements.txt", "requirements-dev.txt", "LICENSE"}


class Definition(NamedTuple):
    """A function or class, with where it stands."""

    path: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    def __str__(self) -> str:
        return f"{self.path}:{self.node.lineno} {self.node.name}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files(*suffixes: str, under: tuple[str, ...] = CODE) -> list[Path]:
    found = [path for folder in under for path in (ROOT / folder).rglob("*") if path.suffix in suffixes and path.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def texts() -> list[Path]:
    """Everything of the project that a person or a tool reads as text, the files at the top included."""
    at_top = [path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT and path.name not in LONG_BY_NATURE]
    hidden = [path for path in (ROOT / ".ci").rglob("*") if path.is_file()]
    return sorted([*files(*TEXT), *at_top, *hidden])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def definitions(*, under: tuple[str, ...] = CODE) -> Iterator[Definition]:
    for path in files(".py", under=under):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield Definition(name_of(path), node)


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file imports, at whatever depth."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
