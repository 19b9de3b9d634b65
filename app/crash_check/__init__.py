"""`tollgate crash-check`: take payments on an installation of its own while its processes are killed, then compare every book.

`plan` decides from the seed what is asked and what must come of it, `installation` is what is killed, `clients` ask and write down
what they were told, `nemesis` kills, `receiver` is the merchant's server that webhooks go to, `books` reads what everybody wrote
down, `checks` compares, `report` shows it; `trial` is what happens between ready and compared, `session` one run from first to last.
"""

from app.crash_check.session import run

__all__ = ["run"]
