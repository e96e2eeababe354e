"""The same run with Ray and without it, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_cli import conrad_bench, refused
from test_training import training_workers

SMALL = (
    *("run", "--methods", "verbalized,conrad,sft", "--tasks", "mimic_report", "--limit", "24"),
    *("-o", "phantom.studies=60", "-o", "bootstrap.replicates=100", "-o", "transformers.batch_size=8"),
    *("-o", "conrad.samples=16", "-o", "conrad.generations=4", "-o", "conrad.batch_size=16", "-o", "conrad.epochs=3"),
    *("-o", "conrad.learning_rate=0.003", "-o", "conrad.checkpoints=4"),
    *("-o", "sft.samples=16"),
)


def rows(folder: Path) -> Any:
    return json.loads((folder / "leaderboard.json").read_text())["rows"]


@pytest.mark.slow
def test_a_run_on_ray_whose_training_worker_is_killed_ends_in_the_same_leaderboard(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two workers need two CPUs")
    own = {"CONRAD_BENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "MIMIC_CXR_ROOT": ""}
    # Room for one training of two workers, and beside it for a replica that answers the next fit.
    own["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 5}'
    alone = conrad_bench(*SMALL, "--out", "alone", cwd=tmp_path, **own)
    assert alone.returncode == 0, alone.stderr

    on_ray = ("--out", "group", "--ray", "local", "--train-workers", "2")
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", *SMALL, *on_ray]
    checkpoint = tmp_path / "group" / "artifacts" / "conrad@mimic_report" / "checkpoint.safetensors"
    killed: list[int] = []
    with open(tmp_path / "errors", "w+") as errors:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=errors
        )
        while process.poll() is None:
            if not killed and checkpoint.is_file():
                killed = training_workers(process.pid)
                os.kill(killed[-1], signal.SIGKILL)
            time.sleep(0.005)
    said = (tmp_path / "errors").read_text()
    assert process.returncode == 0, said
    assert len(killed) == 2
    assert "2 training workers with 2 CPU each" in said
    assert "fitting side by side: conrad on mimic_report, sft on mimic_report\n" in said
    assert "sft on mimic_report: training" in said
    assert rows(tmp_path / "group") == rows(tmp_path / "alone")
    names = [path.name for path in sorted((tmp_path / "group" / "artifacts" / "conrad@mimic_report").iterdir())]
    assert names == ["adapter_config.json", "adapter_model.safetensors", "artifact.json", "training.jsonl"]


def test_training_workers_need_ray_and_equal_parts(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    assert "add --ray local" in refused(conrad_bench(*SMALL, "--train-workers", "2", cwd=tmp_path))
    command = (*SMALL, "--ray", "local", "--train-workers", "5", "--out", "out")
    said = refused(conrad_bench(*command, cwd=tmp_path, MIMIC_CXR_ROOT=""))
    assert "method 'conrad': 4 groups of rollouts a forward pass are less than 5 training workers" in said
    assert not (tmp_path / "out").exists()
