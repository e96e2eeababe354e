"""A run that is killed (SIGKILL) again and again ends like one that was left in peace, byte for byte.

`benchmarks/kill.py` holds the code; by hand it kills at any number of moments, each in a run of its own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

MODEL = Path(__file__).parents[1] / "tasks" / "phantom" / "base_model"
MOMENTS = 6
"""Number of kills: one in each stage of the run."""


def load_benchmark() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "kill.py"
    spec = importlib.util.spec_from_file_location("kill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="the base model is not installed")
def test_a_run_that_was_killed_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    kill = load_benchmark()
    reference, out, cache = tmp_path / "reference", tmp_path / "out", tmp_path / "cache"
    files = kill.undisturbed(reference, "phantom", cache)
    # The training has moved the confidences: a training that resumes wrongly would show.
    stated = {m: pq.read_table(reference / "records" / f"{m}@mimic_report.parquet") for m in ("verbalized", "conrad")}
    assert stated["verbalized"]["confidence"] != stated["conrad"]["confidence"]

    chosen = kill.moments(files, MOMENTS)
    assert {kill.stage(file) for file in chosen} == set(kill.STAGES)
    for file in chosen:
        assert kill.run_and_kill(out, "phantom", cache, file, delay=0) == "killed", file
    assert not (out / "manifest.json").exists()
    kill.finish(out, "phantom", cache)

    different: list[str] = []
    assert kill.compare(out, reference, different.append), different
    assert (out / "manifest.json").exists()
    assert list(out.rglob(".*.tmp")) == []
    assert list(out.rglob("checkpoints")) == []
