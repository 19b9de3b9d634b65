"""outbox/README.md as a reader would follow it: in an empty folder, on an empty database, with nothing of the gateway."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg

README = Path("outbox/README.md")
PROGRAM = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
WITHOUT_THE_GATEWAY = "import sys, runpy; sys.modules['app'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"


def test_the_readme_runs(empty_database: str, tmp_path: Path) -> None:
    """Its programs, in the order in which they stand there, write a row, do it, bury one that fails, and replay that once."""
    programs = dict(PROGRAM.findall(README.read_text()))
    assert list(programs) == ["shop.py", "mailer.py", "operator_desk.py"]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(Path("sql/0002_outbox.sql").read_text())
    environment = {**os.environ, "DATABASE_URL": empty_database, "PYTHONPATH": str(Path.cwd())}

    def start(name: str) -> subprocess.Popen[str]:
        (tmp_path / name).write_text(programs[name])
        return subprocess.Popen(
            [sys.executable, "-c", WITHOUT_THE_GATEWAY, name], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    with start("shop.py") as shop:
        assert shop.wait(10) == 0
    with start("mailer.py") as mailer:
        assert mailer.stdout is not None
        assert mailer.stdout.readline() == "mailed\n"
        mailer.terminate()
        assert mailer.wait(10) == 0
    with start("operator_desk.py") as desk:
        assert desk.communicate(timeout=10)[0] == "send_fax 1 RuntimeError: out of paper\nTrue False True\n"

    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT mails FROM orders").fetchone() == (1,)
        assert connection.execute("SELECT actor FROM outbox").fetchall() == [("send_fax",)]
