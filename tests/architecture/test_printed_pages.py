import subprocess
import sys

import pytest

from docs.generate import FOLDER, PAGES
from tests.architecture.sources import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_printed_pages_say_what_the_code_says(name: str) -> None:
    """Errors, statuses, settings and ledger rules in the handbook are those of the code: `python docs/generate.py` mends it."""
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name]()


def test_the_pages_are_printed_by_one_command() -> None:
    """What CONTRIBUTING tells to run runs, from any folder."""
    result = subprocess.run([sys.executable, ROOT / "docs/generate.py"], cwd="/", capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
