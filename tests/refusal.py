"""How an attack on the database's own rules says which rule has to stop it.

tests/architecture reads these names: a constraint or trigger that no test names is an invariant that nobody tries to break.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest


@contextmanager
def refused(constraint: str) -> Iterator[None]:
    """The block must end with a refusal by exactly this constraint, index or trigger of the database."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert caught.value.diag.constraint_name == constraint, str(caught.value)


@contextmanager
def forbidden() -> Iterator[None]:
    """The block must end because the role has no right to do it, or because row-level security hides the row from it."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        yield
