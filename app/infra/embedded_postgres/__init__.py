"""PostgreSQL 18 from a wheel, for one machine without a server: `tollgate dev`, the demo, the bench and the tests.

`binaries` finds the programs and the user to run them as, `directory` prepares where it lives, `server` starts and stops one server on one directory.
"""

from app.infra.embedded_postgres.binaries import EmbeddedPostgresError, UnusableDirectory
from app.infra.embedded_postgres.directory import can_hold
from app.infra.embedded_postgres.server import Server, erase, running, start, stop

__all__ = ["EmbeddedPostgresError", "Server", "UnusableDirectory", "can_hold", "erase", "running", "start", "stop"]
