"""Training on the likelihoods of all eleven confidences, on the embedded base model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conrad_bench.engines.inputs import tokenize
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.tasks.phantom import grammar, render, world
from conrad_bench.tasks.prompts import report_text
from conrad_bench.trainers import levels
from conrad_bench.trainers.adapters import language_lora
from conrad_bench.trainers.levels import expected_reward, level_log_probabilities, supervised, train_levels
from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
from conrad_bench.trainers.prefix import Written, prefill
from conrad_bench.trainers.rewards import log_score, violation_reward
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import END, Message, Prompt

NUMBER = 12


class World:
    """Phantom reports with a place for a confidence, behind the whole report or behind its first sentence."""

    def __init__(self, base_model: Path, folder: Path) -> None:
        self.engine = TransformersEngine(model=str(base_model))
        self.tokenizer = self.engine.torch_model()[1].tokenizer
        self.prompts, self.texts = [], []
        for i, study in enumerate(world.studies(NUMBER, 5, split="train")):
            path = folder / f"{i}.png"
            Image.fromarray(render.frontal(study)).save(path)
            asked = Message("user", report_text(study.indication, "confidence"))
            self.prompts.append(Prompt((asked,), images=(str(path),) * (1 + i % 2)))
            self.texts.append([grammar.SENTENCES[fact][0] for fact in grammar.facts(study.findings)])

    def written(self, between: str) -> list[Written]:
        shown = [" ".join(text) if between == "\n" else text[0] for text in self.texts]
        return [Written(p, tokenize(self.tokenizer, text)) for p, text in zip(self.prompts, shown, strict=True)]


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(base_model, tmp_path_factory.mktemp("studies"))


@contextmanager
def silent(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda steps: None


def fit(small: World, out: Path, objective: Any, correctness: list[float], **changes: Any) -> None:
    model, processor = small.engine.torch_model()
    options = {"batch_size": 6, "learning_rate": 5e-3, "epochs": 10.0, "rank": 8, "checkpoints": 4}
    train_levels(
        LevelSettings(**{**options, **changes}),
        objective,
        torch_model=model,
        processor=processor,
        written=small.written("\n"),
        correctness=correctness,
        between="\n",
        base_model="base",
        seed=0,
        stage=silent,
        out=out,
    )


@pytest.mark.parametrize("between", ["\n", " "])
def test_likelihoods_are_those_of_the_engine(small: World, between: str) -> None:
    from peft import get_peft_model

    model, processor = small.engine.torch_model()
    marker, ids = marker_ids(small.tokenizer, between), level_ids(small.tokenizer, between)
    adapted = get_peft_model(model, language_lora(4, marker))
    written = small.written(between)[:4]
    end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    with torch.no_grad():
        found = level_log_probabilities(adapted, prefill(adapted, processor, written), marker, ids, [end])
    prompts = [Prompt(w.prompt.messages, w.prompt.images, prefix_ids=(*w.ids, *marker)) for w in written]
    expected = small.engine.score(prompts, [[f"{k}{END}" for k in range(11)]] * 4, None)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)
    assert len(ids[10]) == 2  # "10" is two tokens here, as in Gemma
    assert ending_ids(small.tokenizer, between) == ([] if between == "\n" else [tokenize(small.tokenizer, "\n")[-1]])


def test_expected_reward_is_the_sum_over_all_answers() -> None:
    """Against the plain sum, malformed answers included; the gradient against GRPO's, over all answers."""
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    correctness = [0.0, 0.35, 1.0]
    logp = torch.log_softmax(logits, 1)
    loss = expected_reward(100.0, 0.01, 0.0, False)(logp[:, :11], correctness).mean()
    rewards = torch.tensor([[*(log_score(c / 10, r) for c in range(11)), violation_reward()] for r in correctness])
    plain = (logp.exp() * rewards).sum(1).mean()
    (mine,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(-plain, logits, retain_graph=True)
    assert torch.allclose(mine, theirs, atol=1e-4)
    assert loss.item() == pytest.approx(-(plain.item() - violation_reward()), rel=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_best_policy_states_the_expected_correctness(normalise: bool) -> None:
    """Claims that are right with probability 0.3: gradient steps on free logits end at level 3, malformed mass gone."""
    logits = torch.zeros(1, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    objective = expected_reward(100.0, 0.01, 0.0, normalise)
    for step in range(600):
        r = 1.0 if step % 10 < 3 else 0.0
        loss = objective(torch.log_softmax(logits, 1)[:, :11], [r]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    p = torch.softmax(logits.detach(), 1)[0]
    assert int(p.argmax()) in (2, 3, 4)
    assert float(p[11]) < 0.01


def test_entropy_spreads_the_policy_over_neighbours() -> None:
    """At its optimum pi(c) is proportional to exp(R(c) / (entropy * scale)): the best level, then its neighbours."""
    logits = torch.zeros(1, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    objective = expected_reward(100.0, 0.01, 0.05, False)
    for _ in range(800):
        loss = objective(torch.log_softmax(logits, 1)[:, :11], [0.6]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    p = torch.softmax(logits.detach(), 1)[0, :11]
    wanted = torch.softmax(torch.tensor([log_score(c / 10, 0.6) / 5.0 for c in range(11)]), 0)
    assert torch.allclose(p / p.sum(), wanted, atol=0.01)
    assert list(p[3:7]) == sorted(p[3:7])
    assert list(p[6:9]) == sorted(p[6:9], reverse=True)


def test_supervised_takes_the_nearest_level() -> None:
    logp = torch.log_softmax(torch.arange(11.0)[None].repeat(3, 1), 1)
    expected = -torch.stack([logp[0, 0], logp[1, 4], logp[2, 10]])
    assert torch.equal(supervised(logp, [0.04, 0.37, 1.0]), expected)


def test_a_claim_of_weight_2_trains_as_two_claims(small: World, tmp_path: Path) -> None:
    """One step on four claims, of which two count 2 and two nothing, is one step on the first two."""
    correctness = [i / NUMBER for i in range(NUMBER)]
    common: dict[str, Any] = {"between": "\n", "base_model": "base", "seed": 0, "stage": silent}
    written = small.written("\n")
    norms = []
    for name, number, weights in (("weighted", 4, [2.0, 2.0, 0.0, 0.0]), ("plain", 2, None)):
        model, processor = small.engine.torch_model()
        train_levels(
            LevelSettings(batch_size=number, rank=4),
            supervised,
            torch_model=model,
            processor=processor,
            written=written[:number],
            correctness=correctness[:number],
            weights=weights,
            out=tmp_path / name,
            **common,
        )
        norms.append(json.loads((tmp_path / name / "training.jsonl").read_text())["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[1] > 0


def test_training_learns_what_the_image_side_says(small: World, tmp_path: Path) -> None:
    """Two kinds of prompts (one image, two images) with different correctness: the adapter tells them apart."""
    correctness = [0.2 if i % 2 else 0.8 for i in range(NUMBER)]
    fit(small, tmp_path, expected_reward(100.0, 0.01, 0.0, False), correctness, epochs=30.0)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert len(lines) == 60
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["parse_rate"] > 0.95
    marker = marker_ids(small.tokenizer)
    prompts = [Prompt(w.prompt.messages, w.prompt.images, prefix_ids=(*w.ids, *marker)) for w in small.written("\n")]
    scores = torch.tensor(small.engine.score(prompts, [[f"{k}{END}" for k in range(11)]] * NUMBER, tmp_path))
    stated = scores.argmax(1).tolist()
    assert all(abs(level - 10 * r) <= 1.5 for level, r in zip(stated, correctness, strict=True))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_an_interrupted_training_ends_in_the_same_adapter(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    correctness = [i / NUMBER for i in range(NUMBER)]
    fit(small, tmp_path / "whole", supervised, correctness, epochs=4.0)
    count = itertools.count()
    plain = levels.level_log_probabilities

    def interrupted(*arguments: Any) -> torch.Tensor:
        if next(count) == 5:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(levels, "level_log_probabilities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "cut", supervised, correctness, epochs=4.0)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    fit(small, tmp_path / "cut", supervised, correctness, epochs=4.0)
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
