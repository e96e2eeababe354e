"""Training report and confidence in one text, on the embedded base model: real steps, real gradients."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_cli import conrad_bench
from test_levels import NUMBER, World, silent

from conrad_bench.config import load_config
from conrad_bench.engines.base import Job
from conrad_bench.engines.inputs import collate, encode, tokenize
from conrad_bench.methods.conrad import ConRad
from conrad_bench.methods.sft import SFT, appended
from conrad_bench.reading.claims import report_claim
from conrad_bench.records import read_records, records_path
from conrad_bench.trainers import joint_sft
from conrad_bench.trainers.adapters import language_lora
from conrad_bench.trainers.joint_sft import Target, save_memory, token_losses, train_joint_sft
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import END, Claim, Response, Sampling, Score

OPTIONS: dict[str, Any] = {"batch_size": 6, "learning_rate": 5e-3, "epochs": 10.0, "rank": 8, "checkpoints": 4}


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(base_model, tmp_path_factory.mktemp("studies"))


def targets(small: World) -> list[Target]:
    """Every report's own sentences, with a score that the base model never states."""
    return [Target(p, f"{' '.join(t)}\nConfidence: 3") for p, t in zip(small.prompts, small.texts, strict=True)]


def fit(small: World, out: Path, **changes: Any) -> None:
    model, processor = small.engine.torch_model()
    train_joint_sft(
        LevelSettings(**{**OPTIONS, **changes}),
        torch_model=model,
        processor=processor,
        targets=targets(small),
        base_model="base",
        seed=0,
        stage=silent,
        out=out,
    )


def test_losses_are_those_of_the_engine(small: World) -> None:
    """Right padding, other lengths and the head on some tokens only change nothing: against the engine's own scores."""
    model, processor = small.engine.torch_model()
    chosen = targets(small)[:4]
    end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    prompts = [encode(processor, target.prompt) for target in chosen]
    texts = [[*tokenize(small.tokenizer, target.text), end] for target in chosen]
    batch = [prompt.followed_by(ids) for prompt, ids in zip(prompts, texts, strict=True)]
    inputs = collate(batch, small.tokenizer.pad_token_id, False, model.device, model.dtype)
    seen = []
    watch = model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(len(out)))
    with torch.no_grad():
        found = token_losses(model, inputs, [len(p.ids) for p in prompts], [len(whole.ids) for whole in batch])
    watch.remove()
    assert seen == [sum(map(len, texts))]
    assert [len(losses) for losses in found] == [len(ids) for ids in texts]
    expected = small.engine.score([t.prompt for t in chosen], [[t.text + END] for t in chosen], None)
    assert [-float(losses.sum()) for losses in found] == pytest.approx([row[0] for row in expected], abs=1e-3)


def test_gradients_with_checkpointing_are_those_without(small: World) -> None:
    """On a GPU the layers' states are computed again in the backward pass; what that needs works on a CPU as well."""
    from peft import get_peft_model

    found = []
    for checkpointing in (False, True):
        plain, processor = small.engine.torch_model()
        torch.manual_seed(0)
        model = get_peft_model(plain, language_lora(plain, 4, None))
        if checkpointing:
            save_memory(plain)
        model.train()
        end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
        loss, _ = joint_sft._Learner(model, processor, end, plain.dtype)(targets(small)[:3])
        loss.backward()
        assert plain.is_gradient_checkpointing == checkpointing
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    largest = max(float(grad.abs().max()) for grad in found[0].values())
    assert largest > 0
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], atol=1e-5 * largest)


def test_the_adapter_learns_to_state_the_score(small: World, tmp_path: Path) -> None:
    fit(small, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    for name in ("loss", "confidence_loss"):
        assert lines[-1][name] < 0.5 * lines[0][name]
    stated = []
    for adapter in (None, tmp_path):
        found = small.engine.generate([Job(p) for p in small.prompts], Sampling(max_tokens=96), adapter)
        claims = [report_claim(Response("", g.text, g.token_ids, None, g.finish_reason), "confidence") for g in found]
        stated.append([claim.confidence for claim in claims])
    assert 0.3 not in stated[0]
    assert stated[1].count(0.3) > 0.8 * NUMBER


def test_an_interrupted_training_ends_in_the_same_adapter(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"epochs": 3.0, "batch_size": 3, "accumulation": 2, "schedule": "linear"}
    fit(small, tmp_path / "whole", **changes)
    count = itertools.count()
    plain = joint_sft.token_losses

    def interrupted(*arguments: Any) -> Any:
        if next(count) == 7:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(joint_sft, "token_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "cut", **changes)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    fit(small, tmp_path / "cut", **changes)
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def claim(text: str, status: Any = "ok") -> Claim:
    return Claim(text, (0, len(text)), 0.9, status)


def test_the_score_stands_behind_each_claim() -> None:
    assert appended("report", [claim("Heart normal.")], [Score(0.46)]) == ("Heart normal.\nConfidence: 5", True)
    two = [claim("Heart normal."), claim("Small left effusion.")]
    said = "Heart normal. Confidence: 10\nSmall left effusion. Confidence: 0"
    assert appended("sentence", two, [Score(1.0), Score(0.0)]) == (said, True)


@pytest.mark.parametrize(
    ("claims", "scores", "expected"),
    [
        ([claim("Clear."), claim("Odd."), claim("Clear.")], [1.0, None, 1.0], ("Clear. Confidence: 10", False)),
        ([claim("Clear."), claim("Large le", "truncated")], [1.0, 0.0], ("Clear. Confidence: 10", False)),
        ([claim("Odd."), claim("Clear.")], [None, 1.0], ("", False)),
    ],
)
def test_a_text_ends_where_there_is_no_score(claims: Any, scores: Any, expected: tuple[str, bool]) -> None:
    assert appended("sentence", claims, [Score(value) for value in scores]) == expected


def test_joint_training_knows_no_flat_weights() -> None:
    with pytest.raises(ValidationError, match="set sentence_weight=report"):
        SFT(mode="joint", sentence_weight="flat")


def test_the_paper_s_study_takes_equal_steps_on_both_objectives() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "paper_mimic.yaml")
    sft, conrad = SFT(**config.options["sft"]), ConRad(**config.options["conrad"])
    assert sft.mode == conrad.mode == "joint"
    assert (sft.rank, sft.learning_rate, sft.schedule) == (conrad.rank, conrad.learning_rate, conrad.schedule)
    for number in ("samples", "sentence_samples"):
        assert sft.steps_for(getattr(sft, number)) == conrad.steps_for(getattr(conrad, number))


@pytest.mark.slow
def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    options = {
        "phantom.studies": 120,
        "sft.mode": "joint",
        "sft.samples": 48,
        "sft.sentence_samples": 12,
        "sft.epochs": 2,
        "bootstrap.replicates": 100,
    }
    given = [f"{part}" for name, value in options.items() for part in ("-o", f"{name}={value}")]
    tasks = ("mimic_sentence", "vqa_rad")
    command = ["run", "--methods", "verbalized,sft", "--tasks", ",".join(tasks), "--limit", "8", "--out", "run", *given]
    cache = str(tmp_path / "cache")
    dry = conrad_bench(*command, "--dry-run", cwd=tmp_path, CONRAD_BENCH_CACHE=cache)
    assert "test responses with the adapter" in dry.stdout
    done = conrad_bench(*command, cwd=tmp_path, CONRAD_BENCH_CACHE=cache)
    assert done.returncode == 0, done.stderr
    for task in tasks:
        trained, base = (read_records(records_path(tmp_path / "run", name, task)) for name in ("sft", "verbalized"))
        ok = trained[trained["status"] == "ok"]
        assert len(ok) > 0.6 * len(trained)
        assert set(trained["response"]).isdisjoint(base["response"])  # it writes its own
        config = json.loads((tmp_path / "run" / "artifacts" / f"sft@{task}" / "adapter_config.json").read_text())
        assert config["alora_invocation_tokens"] is None
