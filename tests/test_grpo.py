"""ConRad's trainers on the embedded base model: real steps, real gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conrad_bench.engines import pictures
from conrad_bench.engines.base import Job
from conrad_bench.engines.inputs import collate, encode
from conrad_bench.engines.opening import open_pixels
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import ConfigError, TrainingError
from conrad_bench.reading.claims import report_claim
from conrad_bench.tasks.phantom import render, world
from conrad_bench.tasks.prompts import FINDINGS, report_text
from conrad_bench.trainers import grpo
from conrad_bench.trainers.conrad import chat_rows, one_device, train_conrad
from conrad_bench.trainers.masks import confidence_mask, level_ids, marker_ids
from conrad_bench.trainers.rewards import log_score, violation_reward
from conrad_bench.trainers.settings import GRPOSettings
from conrad_bench.types import Message, Prompt, Response, Sampling


class World:
    """A few studies, the base model's reports of them, and what a trainer needs."""

    def __init__(self, base_model: Path, folder: Path, number: int = 16) -> None:
        self.engine = TransformersEngine(model=str(base_model), batch_size=number)
        self.prompts = []
        for i, study in enumerate(world.studies(number, 5, split="train")):
            path = folder / f"{i}.png"
            Image.fromarray(render.frontal(study)).save(path)
            asked = Message("user", report_text(study.indication, "confidence"))
            self.prompts.append(Prompt((asked,), images=(str(path),)))
        jobs = [Job(prompt) for prompt in self.prompts]
        self.reports = [g.token_ids for g in self.engine.generate(jobs, Sampling(max_tokens=96), None)]
        self.tokenizer = self.engine.torch_model()[1].tokenizer
        self.marker = marker_ids(self.tokenizer)

    def asking(self, text: str) -> list[Prompt]:
        return [Prompt((Message("user", text),), prompt.images) for prompt in self.prompts]


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(base_model, tmp_path_factory.mktemp("studies"))


def low_is_good(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
    """The reward of reports that are right with probability 0.2, joint or confidence alone."""
    levels = []
    for text in texts:
        stated = report_claim(Response("", f"x\nConfidence: {text}" if len(text) < 5 else text, (), None, "stop"), "c")
        levels.append(stated.confidence)
    rewards = [violation_reward() if level is None else log_score(level, 0.2) for level in levels]
    return rewards, [level is not None for level in levels]


@contextmanager
def silent(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda steps: None


def settings(**changes: Any) -> GRPOSettings:
    values = {
        "mode": "joint",
        "batch_size": 16,
        "generations": 8,
        "learning_rate": 2e-3,
        "max_tokens": 96,
        "checkpoints": 4,
        "epochs": 1.0,
    }
    return GRPOSettings(**{**values, **changes})


def fit(small: World, out: Path, chosen: GRPOSettings, reward: Any = low_is_good, **changes: Any) -> None:
    model, processor = (None, None) if "processor" in changes else small.engine.torch_model()
    arguments: dict[str, Any] = {
        "torch_model": model,
        "processor": processor,
        "prompts": small.prompts,
        "reward": reward,
        "base_model": "base",
        "seed": 0,
        "stage": silent,
        "out": out,
    }
    train_conrad(chosen, **{**arguments, **changes})


def test_marker_and_levels_are_read_in_context(small: World) -> None:
    tokenizer = small.tokenizer
    assert tokenizer.convert_ids_to_tokens(small.marker) == ["\n", "Confidence", ":", "▁"]
    assert [tokenizer.decode(ids) for ids in level_ids(tokenizer)] == [str(k) for k in range(11)]
    assert [len(ids) for ids in level_ids(tokenizer)] == [1] * 10 + [2]
    for text in ("No pneumothorax.\nConfidence: 10", "Small left pleural effusion.\nConfidence: 3"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert any(ids[i : i + 4] == small.marker for i in range(len(ids)))


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("No pneumothorax.\nConfidence: 8<end_of_turn>", ["8", "<end_of_turn>"]),
        ("No pneumothorax.\nConfidence: 10<end_of_turn>", ["1", "0", "<end_of_turn>"]),
        (
            "No pneumothorax. Confidence: 3\nHeart size is normal. Confidence: 7<end_of_turn>",
            ["3", "\n", "7", "<end_of_turn>"],
        ),
        (
            "No edema. Confidence: 1\nHeart size is normal. Confidence: 10\nNo edema. Confidence: 1<end_of_turn>",
            ["1", "\n", "1", "0", "\n", "1", "<end_of_turn>"],
        ),
        ("No pneumothorax.<end_of_turn>", ["<end_of_turn>"]),
        ("No pneumothorax.", []),
    ],
)
def test_mask_covers_the_confidence_and_nothing_else(small: World, text: str, marked: list[str]) -> None:
    ids = small.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    mask = confidence_mask(small.tokenizer, ids, [end])
    tokens = small.tokenizer.convert_ids_to_tokens(ids)
    assert [token for token, m in zip(tokens, mask, strict=True) if m] == marked


def test_joint_gradient_comes_from_the_confidence_tokens_alone(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    log_probabilities = grpo.JointTrainer._get_per_token_logps_and_entropies
    compute_loss = grpo.JointTrainer._compute_loss
    held: list[torch.Tensor] = []

    def watch(self: Any, *arguments: Any, **named: Any) -> Any:
        out = log_probabilities(self, *arguments, **named)
        out[0].retain_grad()
        held.append(out[0])
        return out

    def loss(self: Any, model: Any, inputs: Any) -> Any:
        value = compute_loss(self, model, inputs)
        seen.append((held[-1], inputs["tool_mask"] * inputs["completion_mask"]))
        return value

    monkeypatch.setattr(grpo.JointTrainer, "_get_per_token_logps_and_entropies", watch)
    monkeypatch.setattr(grpo.JointTrainer, "_compute_loss", loss)
    fit(small, tmp_path, settings(epochs=0.25))
    assert len(seen) == 2
    for values, mask in seen:
        assert values.grad is not None
        assert values.grad[mask == 0].abs().max().item() == 0.0
        assert values.grad[mask == 1].abs().max().item() > 0.0
        assert 1 <= mask.sum(1).min() <= mask.sum(1).max() <= 4  # a number, what stands behind it, the end


def test_the_head_reads_the_confidence_tokens_alone_and_changes_nothing(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of a joint step equal those of TRL's own path, which scores every token of the reports."""
    found: dict[bool, tuple[float, list[torch.Tensor], int]] = {}
    compute_loss = grpo.JointTrainer._compute_loss
    own = grpo.GRPOTrainer._get_per_token_logps_and_entropies
    ours = grpo.JointTrainer._get_per_token_logps_and_entropies

    def both(self: Any, model: Any, inputs: Any) -> Any:
        read: list[int] = []
        weights = [p for p in model.parameters() if p.requires_grad]
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        watch = head.register_forward_hook(lambda _m, _i, out: read.append(out[..., 0].numel()))
        for masked, path in ((False, own), (True, ours)):
            monkeypatch.setattr(grpo.JointTrainer, "_get_per_token_logps_and_entropies", path)
            loss = compute_loss(self, model, inputs)
            found[masked] = (loss.item(), list(torch.autograd.grad(loss, weights)), sum(read))
        watch.remove()
        assert sum(read) == (inputs["tool_mask"] * inputs["completion_mask"]).sum()
        return compute_loss(self, model, inputs)

    monkeypatch.setattr(grpo.JointTrainer, "_compute_loss", both)
    fit(small, tmp_path, settings(epochs=0.25))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5, abs=1e-6)
    assert max(g.abs().max().item() for g in found[False][1]) > 1e-3
    for mine, theirs in zip(found[True][1], found[False][1], strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_group_sees_its_image_once(small: World, tmp_path: Path) -> None:
    model, processor = small.engine.torch_model()
    seen: list[int] = []
    tower = model.model.vision_tower
    tower.register_forward_hook(lambda _m, _i, output: seen.append(len(output.last_hidden_state)), prepend=True)
    prompts = [small.prompts[i] for i in (0, 1, 0, 2, 1, 0)]
    inputs = collate([encode(processor, p) for p in prompts], 0, True, "cpu", torch.float32)
    with torch.no_grad():
        together = model(**inputs, logits_to_keep=1).logits[:, 0]
        assert seen == [3]
        for row, prompt in zip(together, prompts, strict=True):
            alone = model(**collate([encode(processor, prompt)], 0, True, "cpu", torch.float32)).logits[0, -1]
            assert torch.allclose(row, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    seen.clear()
    fit(small, tmp_path, settings(epochs=0.25), torch_model=model)
    assert set(seen) == {2}  # two groups of eight in each batch, generation and loss alike


@pytest.mark.slow
def test_joint_training_changes_the_rollouts(small: World, tmp_path: Path) -> None:
    fit(small, tmp_path, settings(epochs=3.0, learning_rate=5e-4))
    jobs = [Job(prompt) for prompt in small.prompts]
    after = small.engine.generate(jobs, Sampling(max_tokens=96), tmp_path)
    assert [g.token_ids for g in after] != small.reports
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-5:]) > sum(rewards[:5])
    assert all("parse_rate" in line for line in lines)


def test_a_run_that_never_has_the_format_ends_with_an_error(small: World, tmp_path: Path) -> None:
    """A prompt that asks for no confidence gets none. The log says what was seen, and no adapter is left."""
    with pytest.raises(TrainingError, match=r"never had the confidence format: at best \d+% .*mode=conditional"):
        fit(small, tmp_path, settings(epochs=0.5), prompts=small.asking(FINDINGS))
    assert len((tmp_path / "training.jsonl").read_text().splitlines()) == 4
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_a_run_without_gradient_stops(small: World, tmp_path: Path) -> None:
    def indifferent(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
        return [-1.0] * len(texts), [True] * len(texts)

    with pytest.raises(TrainingError, match=r"learned nothing: the gradient was exactly zero in each .* 2 steps"):
        fit(small, tmp_path, settings(epochs=0.25), reward=indifferent)


def test_what_cannot_be_judged_takes_no_part(small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that fails is no lost format: advantage 0 for such a rollout, and a group's mean over the others."""
    found: list[torch.Tensor] = []
    compute_loss = grpo.JointTrainer._compute_loss

    def watch(self: Any, model: Any, inputs: Any) -> Any:
        found.append(inputs["advantages"])
        return compute_loss(self, model, inputs)

    def half(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float | None], list[bool]]:
        values = [-float(i % 8) if i % 2 else None for i in range(len(texts))]
        return values, [True] * len(texts)

    monkeypatch.setattr(grpo.JointTrainer, "_compute_loss", watch)
    fit(small, tmp_path, settings(epochs=0.25), reward=half)
    assert found[0].tolist() == [0.0, 3.0, 0.0, 1.0, 0.0, -1.0, 0.0, -3.0] * 2
    line = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[0])
    assert line["unjudged"] == 0.5
    assert line["parse_rate"] == 1.0


def test_groups_stay_whole_over_accumulated_passes(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compute_loss = grpo.JointTrainer._compute_loss

    def watch(self: Any, model: Any, inputs: Any) -> Any:
        seen.append(len({row.tobytes() for row in inputs["pixel_values"].numpy()}))
        return compute_loss(self, model, inputs)

    monkeypatch.setattr(grpo.JointTrainer, "_compute_loss", watch)
    fit(small, tmp_path, settings(batch_size=8, accumulation=4, epochs=0.25))
    assert seen == [1, 1, 1, 1]


def test_a_picture_is_opened_once(small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a rollout, once for the prompt and once for the loss."""
    opened: list[str] = []

    def watch(path: str) -> Any:
        opened.append(path)
        return open_pixels(path)

    monkeypatch.setattr(pictures, "open_pixels", watch)
    model, processor = TransformersEngine(model=small.engine.model).torch_model()  # one that has seen no picture
    fit(small, tmp_path, settings(epochs=0.5), torch_model=model, processor=processor)
    assert len(opened) == len(set(opened)) == 8  # four steps of two groups, of eight different studies


def test_a_row_holds_paths_and_no_pixels(small: World) -> None:
    (row, *_) = chat_rows(small.prompts)
    assert row["paths"] == list(small.prompts[0].images)
    assert "images" not in row


def test_no_gradient_runs_through_the_vision_tower(small: World, tmp_path: Path) -> None:
    model, _ = small.engine.torch_model()
    outputs: list[torch.Tensor] = []
    model.model.vision_tower.register_forward_hook(lambda _m, _i, out: outputs.append(out.last_hidden_state))
    model.enable_input_require_grads()
    fit(small, tmp_path, settings(epochs=0.125), torch_model=model)
    assert outputs
    assert not any(output.requires_grad for output in outputs)


def test_trained_weights_are_float32_under_4_bit_weights(
    base_model: Path, small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    seen: set[torch.dtype] = set()
    compute_loss = grpo.JointTrainer._compute_loss

    def watch(self: Any, model: Any, inputs: Any) -> Any:
        seen.update(p.dtype for p in model.parameters() if p.requires_grad)
        return compute_loss(self, model, inputs)

    monkeypatch.setattr(grpo.JointTrainer, "_compute_loss", watch)
    model, processor = TransformersEngine(model=str(base_model), quantization="nf4").torch_model()
    fit(small, tmp_path, settings(epochs=0.125), torch_model=model, processor=processor)
    assert seen == {torch.float32}


def test_one_process_trains_on_one_gpu() -> None:
    from trl import GRPOConfig

    arguments = GRPOConfig(output_dir="unused", use_cpu=True, bf16=False)
    assert arguments.n_gpu <= 1
    arguments._n_gpu = 2  # what transformers finds where two GPUs are in sight
    assert one_device(arguments).n_gpu == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_training_has_the_dtype_of_its_model(base_model: Path, small: World, tmp_path: Path, dtype: str) -> None:
    model, processor = TransformersEngine(model=str(base_model), dtype=dtype).torch_model()
    fit(small, tmp_path, settings(epochs=0.125), torch_model=model, processor=processor)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}


def test_entropy_is_refused_in_joint_mode() -> None:
    with pytest.raises(ValueError, match="entropy works in mode=conditional only"):
        settings(entropy=0.1)


def test_vllm_is_refused_where_it_cannot_roll_out(small: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vllm works in mode=joint only"):
        settings(mode="conditional", vllm="colocate")
    with pytest.raises(ValueError, match="pattern"):
        settings(vllm="somewhere")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"conrad.vllm=http://there:8000 needs a GPU; set conrad.vllm=off"):
            fit(small, tmp_path, settings(vllm="http://there:8000"))


def test_interrupted_training_ends_in_the_same_adapter(small: World, tmp_path: Path) -> None:
    """Continuing from a checkpoint repeats the very steps that an undisturbed training makes."""
    chosen = settings(epochs=1.0, learning_rate=1e-3)
    fit(small, tmp_path / "whole", chosen)

    @contextmanager
    def interrupted(label: str, total: int) -> Iterator[Callable[[int], None]]:
        done = [0]

        def advance(steps: int) -> None:
            done[0] += steps
            if done[0] == 5:
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "parts", chosen, stage=interrupted)
    assert (tmp_path / "parts" / "checkpoints").is_dir()
    fit(small, tmp_path / "parts", chosen)
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "parts" / "checkpoints").exists()
