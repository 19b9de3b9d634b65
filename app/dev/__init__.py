"""`tollgate dev`: the whole system on one machine, from an empty directory to one JSON line that says how to reach it.

`home` is the directory and what is kept in it, `processes` is what is started, `session` is one run from first to last.
"""

from app.dev.session import run

__all__ = ["run"]
