"""Self-consistency: hand-computed values, the degree against a whole similarity graph, and real responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.methods.self_consistency import SelfConsistency, agreement, degree, jaccard, rouge_l
from conrad_bench.progress import Reporter
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.mimic import MimicReport
from conrad_bench.tasks.phantom import render, world
from conrad_bench.tasks.phantom.green import PhantomGreen, phantom_green
from conrad_bench.types import Claim, Example, Sampling, Score

WORDS = st.lists(st.sampled_from(["no", "small", "left", "effusion", "clear"]), min_size=1, max_size=6).map(" ".join)


def test_hand_computed_values() -> None:
    assert agreement([1.0, 0.5, 0.0]) == pytest.approx(0.5)
    assert degree([1.0, 0.5, 0.0]) == pytest.approx(2.5 / 4)
    assert degree([1.0, 1.0]) == 1.0
    assert degree([0.0, 0.0, 0.0]) == 0.25
    assert jaccard("Small left effusion.", "small right effusion") == pytest.approx(2 / 4)
    assert jaccard("clear clear", "Clear.") == 1.0
    assert jaccard("...", "") == 0.0


def graph_degree(weights: np.ndarray) -> float:
    """The first node's diagonal entry of the degree matrix D over the number of nodes, as Lin et al. write it."""
    symmetric = (weights + weights.T) / 2
    return float(np.diag(symmetric.sum(axis=1))[0, 0] / len(symmetric))


@given(st.lists(WORDS, min_size=2, max_size=7))
def test_the_degree_is_that_of_the_whole_graph(texts: list[str]) -> None:
    def overlap(a: str, b: str) -> float:
        x, y = set(a.split()), set(b.split())
        return len(x & y) / (len(x) + len(y) - len(x & y))

    weights = np.array([[overlap(a, b) for b in texts] for a in texts])
    assert degree([jaccard(texts[0], other) for other in texts[1:]]) == pytest.approx(graph_degree(weights))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("studies")
    found = []
    for i, study in enumerate(world.studies(4, 7, split="test")):
        path = folder / f"{i}.png"
        Image.fromarray(render.frontal(study)).save(path)
        found.append(Example(str(i), str(i), "test", (str(path),), study.indication, "Clear."))
    return found


def judge(examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
    pairs = [(e, c) for e, found in zip(examples, claims, strict=True) for c in found]
    scores = iter(PhantomGreen().score(pairs, "report"))
    return [[next(scores) for _ in found] for found in claims]


def test_reports_of_the_base_model(examples: list[Example], base_model: Path, tmp_path: Path) -> None:
    """phantom-GREEN is not symmetric, so the two estimators differ; each against its formula over all responses."""
    task, n = MimicReport(scorer="phantom_green"), 3
    with RolloutStore(tmp_path / "rollouts") as store:
        model = Model(TransformersEngine(model=str(base_model)), store, Reporter(quiet=True))
        prompts = [task.prompt(example) for example in examples]
        greedy = model.generate(prompts)
        samples = model.sample(prompts, n, Sampling(1.0, seed=0))
        options = ("scorer", "rouge_l", "jaccard")
        found = {
            (estimator, similarity): SelfConsistency(n=n, estimator=estimator, similarity=similarity).estimate(
                task, examples, model, judge, None
            )
            for estimator in ("agreement", "degree")
            for similarity in options
        }
    alike = {"scorer": phantom_green, "rouge_l": rouge_l, "jaccard": jaccard}
    differ = 0
    for i, (first, others) in enumerate(zip(greedy, samples, strict=True)):
        texts = [first.text, *[sample.text for sample in others if sample.finish_reason == "stop"]]
        for similarity in options:
            weights = np.array([[alike[similarity](a, b) for b in texts] for a in texts])
            np.fill_diagonal(weights, 1.0)
            (mean,), (node,) = (found[e, similarity][i].claims for e in ("agreement", "degree"))
            assert mean.confidence == pytest.approx(weights[0, 1:].mean())
            assert node.confidence == pytest.approx(graph_degree(weights))
            differ += similarity == "scorer" and not np.allclose(weights, weights.T)
    assert differ > 0


def test_a_sentence_is_no_node_among_reports() -> None:
    chosen = SelfConsistency(estimator="degree", similarity="jaccard")
    assert chosen.problem("report") is None
    assert "use estimator=agreement" in str(chosen.problem("sentence"))
