"""Which rewards of a stated confidence are proper, by hand, by hypothesis and by the referee; and TRL with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

import conrad_bench
from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, PluginError, TrainingError
from conrad_bench.fingerprints import _chosen
from conrad_bench.methods.conrad import ConRad
from conrad_bench.methods.conrad_exact import ConRadExact
from conrad_bench.methods.stating import _beside_noise
from conrad_bench.registry import Registry
from conrad_bench.trainers import referee
from conrad_bench.trainers.objectives import Claims, expected_reward, ranked, sampled, told_apart
from conrad_bench.trainers.prefix import Written
from conrad_bench.trainers.rewards import (
    REWARDS,
    RewardName,
    brier_score,
    log_score,
    mean_reward,
    reward_of,
    spherical_score,
    trl_reward,
    violation_reward,
)
from conrad_bench.types import Message, Prompt

LEVELS = [k / 10 for k in range(11)]
PROPER = ["log", "brier", "spherical", "rlcr", "conftuner"]
NAMES = st.sampled_from(sorted(REWARDS))


def expected(name: str, confidence: float, p: float) -> float:
    reward = REWARDS[name]
    return p * reward(confidence, 1.0) + (1 - p) * reward(confidence, 0.0)


def test_hand_computed_values() -> None:
    # 100 * (0.25 * ln 0.4 + 0.75 * ln 0.6)
    assert log_score(0.4, 0.25) == pytest.approx(-61.21919008, abs=1e-6)
    assert log_score(1.0, 0.0, eps=0.01) == pytest.approx(100 * math.log(0.01))
    assert brier_score(0.8, 0.3) == pytest.approx(-0.25)
    assert spherical_score(0.6, 1.0) == pytest.approx(0.6 / math.sqrt(0.52) - 1)
    assert REWARDS["rlcr"](0.8, 1.0) == pytest.approx(-0.04)
    assert REWARDS["rlcr"](0.8, 0.0) == pytest.approx(-1.64)
    assert REWARDS["linear"](0.8, 0.3) == pytest.approx(-0.5)


@given(st.sampled_from(PROPER), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_nothing_earns_more_than_the_true_probability(name: str, p: float, other: float) -> None:
    assert expected(name, p, p) >= expected(name, other, p) - 1e-12
    if abs(p - other) > 1e-3:
        assert expected(name, p, p) > expected(name, other, p)


@given(st.sampled_from(PROPER), st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_nor_than_the_mean_of_a_continuous_correctness(name: str, correctness: list[float], other: float) -> None:
    mean = math.fsum(correctness) / len(correctness)
    clipped = min(max(mean, 0.01), 0.99)
    reward = REWARDS[name]
    assert mean_reward(reward, [clipped] * len(correctness), correctness) >= (
        mean_reward(reward, [other] * len(correctness), correctness) - 1e-9
    )


@given(st.floats(0, 1))
def test_two_published_rewards_teach_the_ends_only(p: float) -> None:
    for name in ("linear", "ranking"):
        assert max(expected(name, c, p) for c in (0.0, 1.0)) >= max(expected(name, c, p) for c in LEVELS) - 1e-12


@given(st.floats(0, 1), st.lists(st.booleans(), min_size=1, max_size=20))
def test_expectation_over_outcomes_is_the_score_of_their_mean(confidence: float, outcomes: list[bool]) -> None:
    mean = sum(outcomes) / len(outcomes)
    each = mean_reward(reward_of("log"), [confidence] * len(outcomes), [float(o) for o in outcomes])
    assert each == pytest.approx(log_score(confidence, mean), rel=1e-9, abs=1e-9)


def test_a_violation_of_ones_own_is_in_units_of_the_scale() -> None:
    assert violation_reward(scale=50.0, violation=-3.0) == -150.0
    assert violation_reward() == 100.0 * (1.2 * math.log(0.01))


@given(NAMES, st.floats(0, 1), st.sampled_from(LEVELS), st.floats(0.001, 0.4), st.floats(0.1, 1000))
def test_leaving_the_format_never_pays(
    name: str, correctness: float, confidence: float, eps: float, scale: float
) -> None:
    reward = reward_of(name, eps)
    assert violation_reward(reward, scale) < scale * reward(confidence, correctness) <= 1e-9


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_the_referee_rules(name: str) -> None:
    ruling = referee.judge(name, REWARDS[name])
    assert ruling.verdict == ("strictly proper" if name in PROPER else "improper")
    on_levels, on_all, continuous = ruling.sentences()
    assert continuous.endswith({"linear": "its median, not its mean"}.get(name, continuous))
    if name in PROPER:
        assert continuous.endswith("the optimum is its mean")
        assert on_all.startswith("proper" if name == "log" else "strictly proper")
    else:
        taught = {"linear": "0 and 10 only", "ranking": "teaches 10 only"}[name]
        assert on_levels.endswith(taught)
        assert on_all.startswith("improper")


@given(NAMES, st.floats(0.01, 50), st.floats(-5, 5))
def test_a_factor_and_a_constant_change_no_ruling(name: str, factor: float, constant: float) -> None:
    """Authors scale and shift: SaySelf's 1 - 2 (c - r)^2, LoVeC's 1 - |c - r|."""
    base = REWARDS[name]

    def moved(c: float, r: float) -> float:
        return factor * base(c, r) + constant

    for p in (0.0, 0.3, 0.5, 0.7, 1.0):
        best = max(p * base(c, 1.0) + (1 - p) * base(c, 0.0) for c in LEVELS)
        again = max(p * moved(c, 1.0) + (1 - p) * moved(c, 0.0) for c in LEVELS)
        assert again == pytest.approx(factor * best + constant, rel=1e-9, abs=1e-9)


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["reward", "linear", "--out", str(tmp_path / "figures")])
    assert found.exit_code == 0
    assert "linear: improper: of the eleven confidences it teaches 0 and 10 only" in found.output
    assert "0 to 10" in found.output  # at 0.5 all are alike
    svg = (tmp_path / "figures" / "reward_linear.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert (tmp_path / "figures" / "reward_linear.png").read_bytes()[:4] == b"\x89PNG"


OWN = """
import math

def signed(c, r):
    return c if r > 0.5 else -c

def constant(c, r):
    return 1

def at_a_threshold(c, r):
    return -0.35 * (1 - r) if c > 0.35 else -0.65 * r

def unclipped(c, r):
    return math.log(c) if r else math.log(1 - c)

def nothing(c, r):
    return math.nan

def infinite(c, r):
    return -math.inf if (c == 0 and r > 0) or (c == 1 and r < 1) else -(c - r) ** 2
"""


def test_ones_own_reward(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    verdicts = {name: referee.judge(*referee.reward_named(f"{file}:{name}")) for name in ("signed", "constant")}
    assert verdicts["signed"].sentences()[0].endswith("teaches 0 and 10 only")
    assert verdicts["constant"].verdict == "proper"
    assert verdicts["constant"].sentences()[2].endswith("never alone")
    assert referee.judge(*referee.reward_named(f"{file}:infinite")).verdict == "strictly proper"
    threshold = referee.judge(*referee.reward_named(f"{file}:at_a_threshold"))
    assert threshold.sentences()[0].startswith("proper, not strictly")
    assert threshold.sentences()[1] == "proper on all of [0, 1], nowhere strictly"
    with pytest.raises(PluginError, match="at confidence 1 and correctness 0 with ValueError"):
        assert referee.judge(*referee.reward_named(f"{file}:unclipped")).verdict
    with pytest.raises(PluginError, match="is nan at confidence 0"):
        referee.judge(*referee.reward_named(f"{file}:nothing"))
    with pytest.raises(PluginError, match="has no function 'other'"):
        referee.reward_named(f"{file}:other")
    with pytest.raises(PluginError, match="there is no such file"):
        referee.reward_named(f"{tmp_path / 'gone.py'}:other")
    with pytest.raises(ConfigError, match="rewards are log, brier"):
        referee.reward_named("brie")
    file.write_text("def", encoding="utf-8")
    with pytest.raises(PluginError, match="does not import: SyntaxError"):
        referee.reward_named(f"{file}:signed")


@pytest.mark.parametrize("name", get_args(RewardName))
def test_objectives_reward_by_name(name: RewardName) -> None:
    """The exact objective is the plain sum over all answers; the sampled one agrees with it on average."""
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logp, reward = torch.log_softmax(logits, 1), reward_of(name)
    rows = [[*(100 * reward(c / 10, r) for c in range(11)), violation_reward(reward)] for r in (0.2, 1.0)]
    plain = (logp.exp() * torch.tensor(rows)).sum(1)
    losses, found = expected_reward(100.0, 0.01, 0.0, False, name)(logp[:, :11], Claims([0.2, 1.0]))
    assert torch.allclose(found, plain.detach(), rtol=1e-4)
    (mine,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(-plain.sum(), logits, retain_graph=True)
    assert torch.allclose(mine, theirs, atol=1e-3)
    many = logp[:1, :11].expand(4000, 11)
    _, drawn = sampled(100.0, 0.01, 4, reward=name)(many, Claims([0.2] * 4000, range(4000)))
    assert drawn.mean().item() == pytest.approx(plain[0].item(), rel=0.03)


def test_conftuner_is_the_brier_score_over_readable_answers() -> None:
    """Sum over the eleven answers of q_i (i / 10 - y)^2, q their probabilities divided by their sum."""
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(5)).requires_grad_()
    logp, correctness = torch.log_softmax(logits, 1)[:, :11], [0.0, 1.0, 0.4]
    q = torch.softmax(logits[:, :11], 1)
    gaps = (torch.arange(11) / 10 - torch.tensor(correctness)[:, None]) ** 2
    plain = (q * gaps).sum(1)
    losses, reward = expected_reward(1.0, 0.01, 0.0, False, "conftuner")(logp, Claims(correctness))
    assert torch.allclose(reward, -plain.detach(), atol=1e-6)
    (mine,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(plain.sum(), logits)
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_ranking_moves_a_pair_apart_and_shifts_the_optimum_by_half_its_weight() -> None:
    """Beside brier and with weight w the best confidence beside the clean picture is r + w / 2, beside noise 0."""
    logits = torch.zeros(2, 1, 11, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    objective = ranked(expected_reward(1.0, 0.01, 0.0, False, "brier"), 0.2)
    for _ in range(60):
        clean, noised = torch.log_softmax(logits, 2)
        loss = objective(clean, Claims([0.5], noised=noised))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits.argmax(2).tolist() == [[6], [0]]


def test_sure_and_unsure_are_told_apart_by_the_threshold() -> None:
    logp = torch.log(torch.tensor([[0.3, 0.6], [0.3, 0.6], [0.3, 0.6]]))
    loss, reward = told_apart(0.5)(logp, Claims([0.49, 0.5, 1.0]))
    assert loss.exp().tolist() == pytest.approx([3.0, 1.5, 1.5])  # the tenth that neither has does not count
    assert torch.equal(reward, -loss)


def test_noised_pictures_stand_in_the_place_of_the_clean_ones(tmp_path: Path) -> None:
    Image.new("L", (32, 16), 100).save(tmp_path / "a.png")
    picture = str(tmp_path / "a.png")
    written = [Written(Prompt((Message("user", "?"),), images=(picture, picture)), (1, 2))]
    (noised,) = _beside_noise(written, 0, tmp_path / "made")
    assert noised.ids == (1, 2)
    (made,) = set(noised.prompt.images)
    pixels = list(Image.open(made).tobytes())
    assert len(noised.prompt.images) == 2
    assert len(set(pixels)) > 50
    assert _beside_noise(written, 0, tmp_path / "again")[0].prompt.images[0].endswith(Path(made).name)
    with pytest.raises(TrainingError, match="no example has one; set ranking=0"):
        _beside_noise([Written(Prompt((Message("user", "?"),)), (1,))], 0, tmp_path)


def test_artifacts_from_before_the_options_stay_valid() -> None:
    """A default that came later is no part of what an artifact is made from; another value is."""
    for method in (ConRad(), ConRadExact(), Registry().create("methods", "verbalized", {})):
        assert {"reward", "ranking", "report_to"}.isdisjoint(_chosen(method.model_dump(mode="json")))
    chosen = _chosen({"method": ConRad(reward="brier", ranking=0.1).model_dump(mode="json")})
    assert (chosen["method"]["reward"], chosen["method"]["ranking"]) == ("brier", 0.1)


def test_what_goes_with_what() -> None:
    with pytest.raises(ValidationError, match="ranking works in mode=conditional only"):
        ConRad(mode="joint", ranking=0.1)
    with pytest.raises(ValidationError, match="'log', 'brier', 'spherical', 'rlcr' or 'linear'"):
        ConRad(reward="conftuner")  # type: ignore[arg-type]
    assert ConRadExact(reward="conftuner").reward == "conftuner"


def test_a_reward_function_for_trl() -> None:
    reward = conrad_bench.trl_reward("brier", scale=1.0)
    assert reward.__name__ == "brier_reward"
    texts = ["No effusion.\nConfidence: 8", "8", [{"role": "assistant", "content": "Clear. Confidence: 8/10"}]]
    unreadable = ["No effusion.", "Confidence: 80 %"]
    got = reward([""] * 5, [*texts, *unreadable], correctness=[1.0, 0.0, None, 1.0, None], completion_ids=[[1]] * 5)
    assert got == [pytest.approx(-0.04), pytest.approx(-0.64), None, -1.2, -1.2]
    with pytest.raises(ConfigError, match="no column `correctness`"):
        reward([""], ["8"])
    with pytest.raises(ConfigError, match="rewards are log, brier"):
        trl_reward("ranking")  # type: ignore[arg-type]


def test_a_judge_of_ones_own_sees_texts_without_their_confidences() -> None:
    seen: list[Any] = []

    def judge(texts: Any, columns: Any) -> list[float | None]:
        seen.append((list(texts), columns["answer"]))
        return [float(text == answer) for text, answer in zip(texts, columns["answer"], strict=True)]

    reward = trl_reward("linear", judge=judge, scale=10.0, violation=-2.0)
    assert reward(["?", "?"], ["yes\nConfidence: 7", "no"], answer=["yes", "yes"]) == [pytest.approx(-3.0), -20.0]
    assert seen == [(["yes", "no"], ["yes", "yes"])]


@pytest.mark.slow
def test_trl_trains_with_it(base_model: Path, tmp_path: Path) -> None:
    """The real GRPOTrainer on the embedded model: it takes the function, steps, and rewards what is stated."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    rows = [{"prompt": [{"role": "user", "content": "Is there edema? Answer with yes or no. Then, on a new line, state "
             'how confident you are, in the form "Confidence: k".'}], "answer": "no"}] * 4  # fmt: skip
    judged: list[str] = []

    def judge(texts: Any, columns: Any) -> list[float | None]:
        judged.extend(texts)
        return [float(text.lower() == answer) for text, answer in zip(texts, columns["answer"], strict=True)]

    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base_model),
        processing_class=AutoProcessor.from_pretrained(base_model).tokenizer,
        reward_funcs=[trl_reward("spherical", judge=judge), trl_reward("log", judge=judge)],
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=24,
            max_steps=2, logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
            dataloader_pin_memory=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logs) == 2
    assert len(judged) == 16
    for entry in logs:
        assert -120.0 <= entry["rewards/spherical_reward/mean"] <= 0.0
        assert -553.0 <= entry["rewards/log_reward/mean"] <= 0.0
        assert math.isfinite(entry["grad_norm"])
