"""Estimators on sampled responses: against definitions written out otherwise, properties, and real responses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench import pipeline
from conrad_bench.config import RunConfig
from conrad_bench.engines.transformers import TransformersEngine
from conrad_bench.errors import EngineError, PlanError
from conrad_bench.methods.sampling.base import Drawn, Sampled
from conrad_bench.methods.sampling.graph import DegreeMatrix, Eccentricity, Eigenvalues
from conrad_bench.methods.sampling.lexical_similarity import LexicalSimilarity
from conrad_bench.methods.sampling.semantic_sets import DiscreteSemanticEntropy, SemanticEntropy, SemanticSets
from conrad_bench.methods.sampling.sequence_entropy import MonteCarloEntropy, SentenceSAR
from conrad_bench.methods.sampling.support import LUQ, RadFlag
from conrad_bench.plan import make_plan
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records, records_path
from conrad_bench.registry import Registry
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Claim, Example, Response, Score

WORDS = st.lists(st.sampled_from(["no", "small", "left", "effusion", "clear"]), min_size=1, max_size=4).map(" ".join)
LOGPROBS = st.lists(st.floats(-3, 0), min_size=1, max_size=4)
SAMPLES = st.lists(st.tuples(WORDS, LOGPROBS), min_size=2, max_size=7)
COMPARED = [
    SemanticSets,
    DiscreteSemanticEntropy,
    SemanticEntropy,
    DegreeMatrix,
    Eigenvalues,
    Eccentricity,
    SentenceSAR,
]
EVERY: list[type[Sampled]] = [*COMPARED, LexicalSimilarity, MonteCarloEntropy, LUQ, RadFlag]
Samples = Sequence[tuple[str, Sequence[float]]]


def drawn(samples: Samples, greedy: str = "small effusion") -> Drawn:
    claims = [Claim(text, (0, len(text))) for text, _ in samples]
    responses = [Response("", text, tuple(range(len(p))), tuple(p), "stop") for text, p in samples]
    example = Example("e", "p", "test", (), "", "")
    return Drawn(example, Claim(greedy, (0, len(greedy))), responses, claims)


def share(a: str, b: str) -> float:
    """How much of a is in b: a similarity that is not symmetric."""
    x, y = a.split(), b.split()
    return sum(word in y for word in x) / len(x)


def judge(examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
    return [[Score(share(c.text, e.reference)) for c in found] for e, found in zip(examples, claims, strict=True)]


def rate(method: Sampled, samples: Samples) -> float:
    (confidence,) = method._confidences([drawn(samples)], judge)
    return confidence


def weights(texts: Sequence[str]) -> np.ndarray:
    """Symmetric similarities, the diagonal 1."""
    return np.array([[(share(a, b) + share(b, a)) / 2 for b in texts] for a in texts])


@given(SAMPLES)
def test_the_graph_is_that_of_the_generalised_eigenproblem(samples: Samples) -> None:
    """L v = k v is (D - W) y = k D y with v = D^1/2 y, the form in which spectral clustering has it, too."""
    w = weights([text for text, _ in samples])
    d, m = np.diag(w.sum(axis=1)), len(w)
    values, y = scipy.linalg.eigh(d - w, d)
    assert rate(DegreeMatrix(), samples) == pytest.approx(1 - np.trace(m * np.eye(m) - d) / m**2)
    number = sum(max(0.0, 1 - value) for value in values)
    assert rate(Eigenvalues(), samples) == pytest.approx(1 / number)
    if np.abs(values - 0.9).min() > 1e-6:
        v = (np.sqrt(d) @ y)[:, values < 0.9]
        offsets = [row - v.mean(axis=0) for row in v / np.linalg.norm(v, axis=0)]
        distance = math.sqrt(sum(float(x) ** 2 for row in offsets for x in row))
        assert rate(Eccentricity(), samples) == pytest.approx(math.exp(-distance), abs=1e-6)


@given(SAMPLES)
def test_entropies_by_their_definitions(samples: Samples) -> None:
    """The sets by the words of a text: sharing all words both ways is an equivalence, so that they need no order."""
    kinds = [frozenset(text.split()) for text, _ in samples]
    n, counts = len(samples), Counter(kinds)
    options: dict[str, Any] = {"threshold": 1.0}
    assert rate(SemanticSets(**options), samples) == pytest.approx(1 / len(counts))
    entropy = -sum(number / n * math.log(number / n) for number in counts.values())
    assert rate(DiscreteSemanticEntropy(**options), samples) == pytest.approx(math.exp(-entropy))
    p = [math.exp(sum(row) / len(row)) for _, row in samples]
    of = {kind: sum(x for x, other in zip(p, kinds, strict=True) if other == kind) / sum(p) for kind in counts}
    entropy = -sum(x * math.log(x) for x in of.values())
    assert rate(SemanticEntropy(**options), samples) == pytest.approx(math.exp(-entropy))
    by_token = sum(sum(row) / len(row) for _, row in samples) / n
    assert rate(MonteCarloEntropy(), samples) == pytest.approx(math.exp(by_token))
    assert rate(MonteCarloEntropy(normalised=False), samples) == pytest.approx(
        math.exp(sum(sum(r) for _, r in samples) / n)
    )


@given(SAMPLES)
def test_sentence_sar_by_its_formula(samples: Samples) -> None:
    w, p, t = weights([text for text, _ in samples]), [math.exp(sum(row)) for _, row in samples], 0.001
    n = len(p)
    shifted = [p[j] + sum(w[j, k] * p[k] for k in range(n) if k != j) / t for j in range(n)]
    least = -math.log(1 + (n - 1) / t)
    u = -sum(map(math.log, shifted)) / n
    assert rate(SentenceSAR(), samples) == pytest.approx(math.exp(least - u))


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    @cache
    def length(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + length(i + 1, j + 1) if a[i] == b[j] else max(length(i + 1, j), length(i, j + 1))

    return length(0, 0)


def rouge(a: str, b: str) -> float:
    x, y = a.split(), b.split()
    common = longest_common(x, y)
    return 2 * common / (len(x) + len(y)) if common else 0.0


@given(SAMPLES)
def test_lexical_similarity_is_the_mean_over_pairs(samples: Samples) -> None:
    texts = [text for text, _ in samples]
    pairs = [rouge(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]]
    assert rate(LexicalSimilarity(), samples) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("method", EVERY)
@given(st.data(), SAMPLES)
def test_order_does_not_matter_and_all_is_in_bounds(
    method: type[Sampled], data: st.DataObject, samples: Samples
) -> None:
    confidence = rate(method(), samples)
    assert 0 <= confidence <= 1
    assert rate(method(), data.draw(st.permutations(samples))) == pytest.approx(confidence, abs=1e-6)


@pytest.mark.parametrize("method", [*COMPARED, LexicalSimilarity])
@given(SAMPLES, WORDS)
def test_samples_that_are_all_the_same_are_the_most_confident(
    method: type[Sampled], samples: Samples, text: str
) -> None:
    same = rate(method(), [(text, row) for _, row in samples])
    assert same >= rate(method(), samples) - 1e-9
    assert method is SentenceSAR or same == pytest.approx(1)


def test_support_by_hand() -> None:
    samples = [("small left effusion", [-1.0]), ("clear", [-1.0]), ("no effusion", [-1.0]), ("effusion", [-1.0])]
    assert rate(RadFlag(), samples) == pytest.approx(3 / 4)
    assert rate(RadFlag(threshold=0.6), samples) == pytest.approx(1 / 4)
    said = drawn([("Small effusion. Heart large.", [-1.0]), ("No effusion.", [-1.0])], "Small effusion. Lungs clear.")
    best = [1, 0, rouge("small effusion", "no effusion"), 0]
    assert LUQ()._confidences([said], judge) == pytest.approx([np.mean(best)])


def test_different_texts_are_compared_once_and_what_cannot_be_judged_is_not_alike() -> None:
    asked = []

    def unsure(examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
        asked.extend((e.reference, c.text) for e, (c,) in zip(examples, claims, strict=True))
        return [[Score(None, "no idea")] for _ in claims]

    several = [("yes", [-1.0]), ("no", [-1.0]), ("yes", [-1.0]), ("no", [-1.0])]
    assert DegreeMatrix()._confidences([drawn(several)], unsure) == [0.5]
    assert sorted(asked) == [("no", "yes"), ("yes", "no")]


def test_samples_without_probabilities_are_refused() -> None:
    bare = [Response("", "yes", (1,), None, "stop")] * 2
    claims = [Claim("yes", (0, 3))] * 2
    with pytest.raises(EngineError, match="without log-probabilities"):
        MonteCarloEntropy()._confidences([Drawn(Example("e", "p", "test", (), "", ""), claims[0], bare, claims)], judge)


def test_equality_is_for_answers() -> None:
    options = {"semantic_entropy": {"similarity": "exact"}}
    given = {"methods": ["semantic_entropy"], "tasks": ["mimic_report"], "options": options}
    chosen = RunConfig.model_validate(given)
    with pytest.raises(PlanError, match="similarity=exact compares short answers"):
        make_plan(chosen, Registry())


WHOLE = [
    "semantic_sets", "discrete_semantic_entropy", "semantic_entropy", "degree_matrix", "eigenvalues", "eccentricity",
    "lexical_similarity", "monte_carlo_entropy", "sentence_sar",
]  # fmt: skip
RUNS = {"mimic_report": [*WHOLE, "cocoa", "luq"], "vqa_rad": [*WHOLE, "cocoa"], "mimic_sentence": ["cocoa", "radflag"]}


@pytest.mark.parametrize("task", RUNS)
def test_they_share_the_samples_of_self_consistency(
    task: str, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONRAD_BENCH_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []
    plain = TransformersEngine.generate

    def counted(self: Any, jobs: Sequence[Any], sampling: Any, adapter: Any) -> Any:
        asked.extend(repr((job.prompt, job.seed if sampling.temperature else 0)) for job in jobs)
        return plain(self, jobs, sampling, adapter)

    monkeypatch.setattr(TransformersEngine, "generate", counted)
    methods = ["self_consistency", *RUNS[task]]
    options = {
        "phantom": {"studies": 60}, "bootstrap": {"replicates": 20}, **{method: {"n": 4} for method in methods}
    }  # fmt: skip
    given = {"methods": methods, "tasks": [task], "limit": 6, "options": options}
    out = tmp_path / "run"
    pipeline.run(RunConfig.model_validate(given), out, Registry(), Reporter(quiet=True))
    assert len(asked) == len(set(asked)) == 6 * (1 + 4)
    frames = {method: read_records(records_path(out, method, task)) for method in methods}
    for frame in frames.values():
        ok = frame[frame["status"] == "ok"]
        assert len(ok) > 0.8 * len(frame)
        assert ok["confidence"].between(0, 1).all()
    consistent = frames["self_consistency"]["confidence"]
    with RolloutStore(out / "rollouts") as store:
        rows = store.read(list(frames["cocoa"]["response"]))
    if task == "mimic_sentence":
        judged = frames["radflag"]["confidence"].notna()
        assert frames["radflag"]["confidence"][judged].tolist() == pytest.approx(consistent[judged].tolist())
        return
    means = [np.mean(rows[key]["logprobs"]) for key in frames["cocoa"]["response"]]
    expected = np.exp(np.array(means) * (1 - consistent))
    assert frames["cocoa"]["confidence"].to_numpy() == pytest.approx(expected.to_numpy())
