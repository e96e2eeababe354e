"""Training on the likelihoods of all eleven confidences, on the embedded base model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conrad_bench.engines.base import Job
from conrad_bench.engines.inputs import collate, encode, tokenize
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import TrainingError
from conrad_bench.reading.claims import read_behind
from conrad_bench.reading.elicitation import SURE
from conrad_bench.tasks.phantom import grammar, render, world
from conrad_bench.tasks.prompts import report_text
from conrad_bench.trainers import levels
from conrad_bench.trainers.adapters import language_lora, trainable
from conrad_bench.trainers.answers import answer_log_probabilities, tree_of
from conrad_bench.trainers.levels import train_levels
from conrad_bench.trainers.masks import ending_ids, level_ids, marker_ids
from conrad_bench.trainers.objectives import Claims, expected_reward, ranked, sampled, supervised, with_rest
from conrad_bench.trainers.prefix import Written, prefill
from conrad_bench.trainers.rewards import log_score, violation_reward
from conrad_bench.trainers.settings import LevelSettings
from conrad_bench.types import END, Message, Prompt, Sampling

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


def fit(
    small: World,
    out: Path,
    objective: Any,
    correctness: list[float],
    weights: Any = None,
    noised: Any = None,
    **changes: Any,
) -> None:
    model, processor = small.engine.torch_model()
    options = {"batch_size": 6, "learning_rate": 5e-3, "epochs": 10.0, "rank": 8, "checkpoints": 4}
    train_levels(
        LevelSettings(**{**options, **changes}),
        objective,
        torch_model=model,
        processor=processor,
        written=small.written("\n"),
        correctness=correctness,
        weights=weights,
        noised=noised,
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
    adapted = get_peft_model(model, language_lora(model, 4, marker))
    written = small.written(between)[:4]
    end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    with torch.no_grad():
        ((_, prefix),) = prefill(adapted, processor, written)
        found = answer_log_probabilities(adapted, prefix, tree_of(marker, ids, [end]))
    prompts = [Prompt(w.prompt.messages, w.prompt.images, prefix_ids=(*w.ids, *marker)) for w in written]
    expected = small.engine.score(prompts, [[f"{k}{END}" for k in range(11)]] * 4, None)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-3)
    assert len(ids[10]) == 2  # "10" is two tokens here, as in Gemma
    assert ending_ids(small.tokenizer, between) == ([] if between == "\n" else [tokenize(small.tokenizer, "\n")[-1]])


@pytest.mark.parametrize("between", ["\n", " "])
def test_the_words_of_r_tuning_are_found_in_context(small: World, between: str) -> None:
    marker = marker_ids(small.tokenizer, between, SURE)
    assert small.tokenizer.decode(marker) == f"{between}{SURE.lead}"
    answers = level_ids(small.tokenizer, between, SURE)
    assert [small.tokenizer.decode(ids) for ids in answers] == list(SURE.answers)


def test_expected_reward_is_the_sum_over_all_answers() -> None:
    """Against the plain sum, malformed answers included; the gradient against GRPO's, over all answers."""
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    correctness = [0.0, 0.35, 1.0]
    logp = torch.log_softmax(logits, 1)
    losses, expected = expected_reward(100.0, 0.01, 0.0, False)(logp[:, :11], Claims(correctness))
    loss = losses.mean()
    rewards = torch.tensor([[*(log_score(c / 10, r) for c in range(11)), violation_reward()] for r in correctness])
    plain = (logp.exp() * rewards).sum(1).mean()
    (mine,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(-plain, logits, retain_graph=True)
    assert torch.allclose(mine, theirs, atol=1e-4)
    assert loss.item() == pytest.approx(-(plain.item() - violation_reward()), rel=1e-5)
    assert expected.mean().item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("divide", ["none", "group"])
def test_sampled_answers_have_the_exact_gradient_on_average(divide: Any) -> None:
    """Over many groups GRPO's gradient is the exact one times (G - 1) / G, the group's mean being its baseline."""
    logits = (torch.randn(1, 12, generator=torch.Generator().manual_seed(1)) * 0.5).requires_grad_()
    correctness, group = [0.6], 4
    logp = torch.log_softmax(logits, 1)
    rewards = torch.tensor([*(log_score(c / 10, 0.6) for c in range(11)), violation_reward()])
    (exact,) = torch.autograd.grad(-(logp.exp() * rewards).sum(), logits, retain_graph=True)
    objective = sampled(100.0, 0.01, group, divide)
    many = logp[:, :11].expand(4000, 11)
    losses, reward = objective(many, Claims(correctness * 4000, range(4000)))
    (mine,) = torch.autograd.grad(losses.mean(), logits, retain_graph=True)
    assert reward.mean().item() == pytest.approx((logp.exp() * rewards).sum().item(), rel=0.02)
    if divide == "none":
        assert torch.allclose(mine, exact * (group - 1) / group, atol=0.05 * float(exact.abs().max()))
    else:
        assert torch.nn.functional.cosine_similarity(mine, exact).item() > 0.8
        assert mine.abs().max() < 1.0


def test_draws_depend_on_the_claims_seed_alone() -> None:
    logp = torch.log_softmax(torch.randn(5, 12, generator=torch.Generator().manual_seed(2)), 1)[:, :11]
    objective = sampled(100.0, 0.01, 8)
    together, _ = objective(logp, Claims([0.5] * 5, [11, 12, 13, 14, 15]))
    apart = [objective(logp[i : i + 1], Claims([0.5], [11 + i]))[0] for i in range(5)]
    assert torch.allclose(together, torch.cat(apart))


def test_the_base_model_anchors_the_policy() -> None:
    """With beta alone (all rewards of a group equal) the loss is beta KL(pi, base), the malformed rest included."""
    logp = torch.log_softmax(torch.randn(2, 12, generator=torch.Generator().manual_seed(3)), 1)[:, :11]
    base = torch.log_softmax(torch.randn(2, 12, generator=torch.Generator().manual_seed(4)), 1)[:, :11]
    anchored, _ = sampled(100.0, 0.01, 8, beta=0.5)(logp, Claims([0.5, 0.1], [1, 2], base))
    free, _ = sampled(100.0, 0.01, 8)(logp, Claims([0.5, 0.1], [1, 2]))
    mine, theirs = with_rest(logp), with_rest(base)
    kl = torch.nn.functional.kl_div(theirs, mine, log_target=True, reduction="none").sum(1)
    assert torch.allclose(anchored - free, 0.5 * kl, atol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_best_policy_states_the_expected_correctness(normalise: bool) -> None:
    """Claims that are right with probability 0.3: gradient steps on free logits end at level 3, malformed mass gone."""
    logits = torch.zeros(1, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    objective = expected_reward(100.0, 0.01, 0.0, normalise)
    for step in range(600):
        r = 1.0 if step % 10 < 3 else 0.0
        loss = objective(torch.log_softmax(logits, 1)[:, :11], Claims([r]))[0].mean()
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
        loss = objective(torch.log_softmax(logits, 1)[:, :11], Claims([0.6]))[0].mean()
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
    expected = torch.stack([-logp[0, 0], -logp[1, 4], -logp[2, 10]])
    assert torch.allclose(supervised(logp, Claims([0.04, 0.37, 1.0]))[0], expected)


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


def test_learning_from_drawn_answers_leaves_the_report(small: World, tmp_path: Path) -> None:
    """Conditional ConRad on reports that are right with probability 0.2."""
    fit(small, tmp_path, sampled(100.0, 0.01, 8), [0.2] * NUMBER, epochs=20.0)
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert sum(line["reward"] for line in lines[-10:]) > sum(line["reward"] for line in lines[:10]) + 100
    jobs = [Job(prompt) for prompt in small.prompts]
    marker = tuple(marker_ids(small.tokenizer))
    asked = [Job(Prompt(w.prompt.messages, w.prompt.images, prefix_ids=(*w.ids, *marker))) for w in small.written("\n")]
    reports = [g.token_ids for g in small.engine.generate(jobs, Sampling(max_tokens=96), None)]
    before, after = (
        [read_behind(g.text).confidence or 0 for g in small.engine.generate(asked, Sampling(max_tokens=4), adapter)]
        for adapter in (None, tmp_path)
    )
    assert sum(before) / NUMBER > 0.7
    assert sum(after) / NUMBER < 0.5
    # The adapter is loaded now, and the base still writes its reports token for token.
    assert [g.token_ids for g in small.engine.generate(jobs, Sampling(max_tokens=96), None)] == reports


def test_a_claims_weight_counts(small: World, tmp_path: Path) -> None:
    """Claims of weight 0 teach nothing: the adapter is that of the others' correctness."""
    low_or_high = [0.1 if i % 2 else 0.9 for i in range(NUMBER)]
    changes: dict[str, Any] = {"epochs": 4.0, "batch_size": NUMBER}
    fit(small, tmp_path / "a", supervised, low_or_high, weights=[float(i % 2) for i in range(NUMBER)], **changes)
    fit(small, tmp_path / "b", supervised, [0.1] * NUMBER, weights=[float(i % 2) for i in range(NUMBER)], **changes)
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()


def test_an_objective_sees_the_answers_beside_noise(small: World, tmp_path: Path) -> None:
    """The same text beside another picture: other likelihoods, through which the adapter learns, too."""
    other = [replace(w, prompt=replace(w.prompt, images=small.prompts[0].images)) for w in small.written("\n")]
    seen: list[bool] = []

    def compares(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        assert claims.noised is not None
        assert claims.noised.requires_grad
        seen.append(torch.equal(logp, claims.noised))
        return ranked(supervised, 1.0)(logp, claims)

    fit(small, tmp_path, compares, [0.5] * NUMBER, epochs=0.5, noised=other)
    assert seen == [False]


@pytest.mark.parametrize("epochs", [0.5, 1.0])
def test_a_short_training_without_the_format_is_no_success(small: World, tmp_path: Path, epochs: float) -> None:
    """The log is there, and says what was seen; no adapter is left that states nothing."""

    def never(logp: torch.Tensor, claims: Claims) -> tuple[torch.Tensor, torch.Tensor]:
        return logp.exp().sum(1) * 1e4, torch.zeros(len(logp))

    with pytest.raises(TrainingError, match=r"(lost|never had) the confidence format"):
        fit(small, tmp_path, never, [0.5] * NUMBER, epochs=epochs, min_parse_rate=0.99999)
    assert len((tmp_path / "training.jsonl").read_text().splitlines()) == 2 * epochs
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_trained_weights_are_float32_whatever_the_base(base_model: Path) -> None:
    from peft import get_peft_model

    model, processor = TransformersEngine(model=str(base_model), dtype="bfloat16").torch_model()
    lora = language_lora(model, 4, marker_ids(processor.tokenizer))
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
    assert {p.dtype for p in trainable(adapted).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("objective", "torn"), [(supervised, False), (sampled(100.0, 0.01, 4), False), (supervised, True)]
)
def test_an_interrupted_training_ends_in_the_same_adapter(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Any, torn: bool
) -> None:
    correctness = [i / NUMBER for i in range(NUMBER)]
    fit(small, tmp_path / "whole", objective, correctness, epochs=4.0)
    count = itertools.count()
    plain = levels.answer_log_probabilities

    def interrupted(*arguments: Any) -> torch.Tensor:
        if next(count) == 5:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(levels, "answer_log_probabilities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(small, tmp_path / "cut", objective, correctness, epochs=4.0)
    checkpoint = tmp_path / "cut" / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2] if torn else whole)
    fit(small, tmp_path / "cut", objective, correctness, epochs=4.0)
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("window", [512, 24])
def test_a_tree_of_answers_equals_plain_forward_passes(base_model: Path, small: World, window: int) -> None:
    """Log-probabilities and gradients of all eleven answers, in one row a claim; a short sliding window included."""
    from peft import get_peft_model

    model, processor = small.engine.torch_model()
    for part in (model.config.get_text_config(), *(m.config for m in model.modules() if hasattr(m, "config"))):
        if hasattr(part, "sliding_window"):
            part.sliding_window = window
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = window
    marker, ids = marker_ids(small.tokenizer), level_ids(small.tokenizer)
    adapted = get_peft_model(model, language_lora(model, 4, marker))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    end = small.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    written = small.written("\n")[:3]
    tree = tree_of(marker, ids, [end])
    assert len(tree.ids) == len(marker) + 11  # "10" shares its first token with "1"
    ((_, prefix),) = prefill(adapted, processor, written)
    found = answer_log_probabilities(adapted, prefix, tree)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    total = torch.zeros(())
    for i, w in enumerate(written):
        for k, level in enumerate(ids):
            answer = [*level, end]
            whole = encode(processor, w.prompt).followed_by([*w.ids, *marker, *answer])
            inputs = collate([whole], 0, True, "cpu", torch.float32)
            plain = torch.log_softmax(adapted(**inputs).logits[0, -len(answer) - 1 : -1], -1)
            value = plain[range(len(answer)), answer].sum()
            assert value.item() == pytest.approx(found[i, k].item(), abs=1e-4)
            total = total + weights[i, k] * value
    total.backward()
    assert gradients
    assert not [name for name in gradients if "vision" in name]
    for name, parameter in adapted.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=2e-4), name
