"""Estimators on the probabilities of a model's own words: hand-computed values, properties, and real responses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conrad_bench import pipeline
from conrad_bench.config import RunConfig
from conrad_bench.methods.probability.distributions import (
    PMI,
    ConditionalPMI,
    MeanTokenEntropy,
    SelfCertainty,
    TokenMargin,
    blanked,
)
from conrad_bench.methods.probability.tokens import MaximumSequenceProbability, MinimumTokenProbability, Perplexity
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records, records_path
from conrad_bench.registry import Registry
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Message, Prompt

TASKS = ["mimic_report", "mimic_sentence", "vqa_rad"]
METHODS = ["msp", "perplexity", "min_token_probability", "sequence_probability", "verbalized", "verbalized_expected"]
READ = ["mean_token_entropy", "token_margin", "self_certainty", "pmi", "conditional_pmi"]


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=20))
def test_they_are_the_product_the_geometric_mean_and_the_least(logprobs: list[float]) -> None:
    p = np.exp(logprobs)
    msp, perplexity = MaximumSequenceProbability()._confidence(logprobs), Perplexity()._confidence(logprobs)
    least = MinimumTokenProbability()._confidence(logprobs)
    assert msp == pytest.approx(p.prod())
    assert perplexity == pytest.approx(p.prod() ** (1 / len(p)))
    assert least == pytest.approx(p.min())
    assert 0 <= msp <= least * (1 + 1e-9) <= perplexity * (1 + 1e-9) <= 1 + 1e-8


@pytest.fixture(scope="module")
def out(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONRAD_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("run") / "run"
        options = {"phantom": {"studies": 60}, "bootstrap": {"replicates": 20}, "verbalized": {"distribution": True}}
        given = {"methods": [*METHODS, *READ], "tasks": TASKS, "limit": 6, "options": options}
        pipeline.run(RunConfig.model_validate(given), folder, Registry(), Reporter(quiet=True))
        return folder


def records(out: Path, method: str, task: str) -> pd.DataFrame:
    return read_records(records_path(out, method, task))


@pytest.mark.parametrize("task", ["mimic_report", "vqa_rad"])
def test_whole_responses_have_all_their_tokens(out: Path, task: str) -> None:
    """The end of the turn, too: it tells "yes" from "yes, but"."""
    frames = {method: records(out, method, task) for method in METHODS[:3]}
    keys = list(frames["msp"]["response"])
    with RolloutStore(out / "rollouts") as store:
        rows = store.read(keys)
    for i, key in enumerate(keys):
        p = np.exp(rows[key]["logprobs"])
        assert frames["msp"]["confidence"][i] == pytest.approx(p.prod())
        assert frames["perplexity"]["confidence"][i] == pytest.approx(math.exp(np.log(p).mean()))
        assert frames["min_token_probability"]["confidence"][i] == pytest.approx(p.min())


def test_sentences_have_their_own_tokens(out: Path) -> None:
    frames = {method: records(out, method, "mimic_sentence") for method in METHODS[:4]}
    ok = frames["msp"]["status"] == "ok"
    assert ok.sum() > 6
    msp, least, mean = (frames[m]["confidence"][ok] for m in ("msp", "min_token_probability", "sequence_probability"))
    assert (msp <= least).all()
    assert (least <= mean + 1e-12).all()
    assert msp.nunique() > 6


@pytest.mark.parametrize("task", TASKS)
def test_the_expected_confidence_is_that_of_the_distribution(out: Path, task: str) -> None:
    stated, expected = records(out, "verbalized", task), records(out, "verbalized_expected", task)
    both = stated["p_0"].notna() & expected["confidence"].notna()
    assert both.sum() > 3
    p = stated.loc[both, [f"p_{k}" for k in range(11)]].to_numpy()
    mean = (p @ np.arange(11)) / p.sum(1) / 10
    assert expected.loc[both, "confidence"].to_numpy() == pytest.approx(mean)
    assert (stated["response"] == expected["response"]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 6))
def test_the_estimators_are_their_formulas(seed: int, tokens: int, words: int) -> None:
    draw = np.random.default_rng(seed)
    p, q = draw.dirichlet(np.ones(words), tokens), draw.uniform(0.01, 1, tokens)
    chosen = p.max(axis=1)
    entropy = np.array([scipy.stats.entropy(row) for row in p])
    margin = np.array([sorted(row)[-1] - sorted(row)[-2] for row in p])
    certainty = np.array([scipy.stats.entropy(np.full(words, 1 / words), row) for row in p])
    table = np.stack([np.log(chosen), entropy, margin, certainty], axis=1)
    blank = np.stack([np.log(q), entropy, margin, certainty], axis=1)
    assert MeanTokenEntropy()._confidence(table, table) == pytest.approx(math.exp(-entropy.mean()))
    assert TokenMargin()._confidence(table, table) == pytest.approx(margin.mean())
    assert SelfCertainty()._confidence(table, table) == pytest.approx(1 - 1 / (1 + certainty.mean()))
    ratio = (chosen / q).prod() ** (1 / tokens)
    assert PMI()._confidence(table, blank) == pytest.approx(ratio / (1 + ratio))
    assert PMI()._confidence(table, table) == 0.5
    score = np.mean(
        [math.log(c) - (3.599 * math.log(x) if h >= 0.0656 else 0) for c, x, h in zip(chosen, q, entropy, strict=True)]
    )
    assert ConditionalPMI()._confidence(table, blank) == pytest.approx(1 / (1 + math.exp(-score)))


@pytest.mark.parametrize("task", TASKS)
def test_responses_are_read_again_once_for_all(out: Path, task: str) -> None:
    frames = {method: records(out, method, task) for method in [*READ, "perplexity"]}
    for method in READ:
        ok = frames[method]["status"] == "ok"
        assert (ok == (frames["perplexity"]["status"] == "ok")).all()
        assert frames[method]["confidence"][ok].between(0, 1).all()
        assert frames[method]["confidence"][ok].nunique() > 3
    assert (frames["pmi"]["confidence"] > 0.5).mean() > 0.5  # what was seen makes the response likelier
    with RolloutStore(out / "rollouts") as store:
        assert (
            store.counts()["reread"] == 2 * 2 * 6
        )  # reports and questions, their own picture and a blank one; sentences share


def test_a_blank_picture_takes_the_place_of_each() -> None:
    prompt = blanked(Prompt((Message("user", "Edema?"),), ("/a.png", "/b.png")))
    assert len(prompt.images) == 2
    with Image.open(prompt.images[0]) as image:
        assert np.asarray(image).std() == 0
