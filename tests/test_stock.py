"""benchmarks/stock.py, whose tables docs/architecture.md shows, runs; what it measures is for a machine at rest."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "stock.py"


@pytest.mark.slow
def test_a_step_beside_stock_trl(base_model: Path) -> None:
    command = [sys.executable, SCRIPT, base_model, "--steps", "1", "--rollouts", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["stock", "joint", "conditional", "writing conditional's reports before"]
    assert [len(row[1].split(", ")) for row in rows] == [1, 1, 1, 1]
    assert all(float(row[3]) > 0 for row in rows)
