"""A run that is killed (SIGKILL) again and again ends like one that was left in peace, byte for byte.

`benchmarks/kill.py` holds the code; by hand it kills at any number of moments, each in a run of its own.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from conrad_bench.trainers.conrad import _last_checkpoint
from conrad_bench.trainers.settings import GRPOSettings

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


CHECKPOINT = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt")


def write_checkpoint(folder: Path, state: str = json.dumps({"global_step": 1})) -> None:
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(8)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"a": torch.ones(8)}, folder / name)
    (folder / "trainer_state.json").write_text(state)


def test_a_training_goes_on_from_its_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert _last_checkpoint(tmp_path / "checkpoints") is None
    for step in (3, 9, 12):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    write_checkpoint(tmp_path / "checkpoint-15", state='{"global_st')
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"


@pytest.mark.parametrize("lost", [*CHECKPOINT, "trainer_state.json"])
def test_a_checkpoint_with_a_torn_or_missing_file_is_passed_over(tmp_path: Path, lost: str) -> None:
    for step in (3, 6):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    path = tmp_path / "checkpoint-6" / lost
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    path.unlink()
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_training_passes_over_the_examples_epoch_after_epoch() -> None:
    settings = GRPOSettings(epochs=2.5, generations=4, batch_size=8, accumulation=2)
    order = settings.order_of(16, seed=1)
    assert len(order) == settings.steps_for(16) * 8 * 2 // 4 == 40
    assert sorted(order[:16]) == sorted(order[16:32]) == list(range(16))
    assert order[:16] != order[16:32]
    assert len(set(order[32:])) == 8
    assert order == settings.order_of(16, seed=1) != settings.order_of(16, seed=2)


@pytest.mark.slow
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
