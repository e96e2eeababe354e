"""benchmarks/attack.py, whose table docs/reliability.md shows, ends without a row that went wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "attack.py")]


@pytest.mark.slow
def test_every_attack_ends_as_it_has_to() -> None:
    done = subprocess.run([*COMMAND, "--kills", "2"], capture_output=True, text=True, check=False, cwd=ROOT)
    wrong = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert (done.returncode, wrong) == (0, []), done.stderr


def test_the_page_shows_a_table_without_a_row_that_went_wrong() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    found = re.search(r"^(\d+) of (\d+) attacks ended as they have to", page, re.M)
    assert found is not None
    assert found[1] == found[2]
    assert page.count("\n| ") > int(found[2])
