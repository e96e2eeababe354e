"""radeval's metrics as scorers: the values of single pairs, and what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

from conrad_bench.errors import ConfigError, MissingExtra
from conrad_bench.tasks.scorers.radeval import PER_PAIR, REFUSED, RadEval
from conrad_bench.types import Claim, Example, Score

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIXTURES = DATA / "radeval-fixtures"


def pair(claim: str, reference: str) -> tuple[Example, Claim]:
    return Example("e", "p", "test", (), "", reference), Claim(claim, (0, len(claim)))


def score(metric: str, pairs: list[tuple[str, str]]) -> list[Score]:
    """Score (reference, candidate) pairs; skips where radeval or a package that the metric needs is missing."""
    scorer = RadEval.variant(metric)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # radeval's imports warn
        pytest.importorskip("radeval", reason="radeval is not installed")
        pytest.importorskip("rouge_score", reason="rouge_score is not installed")
        return scorer.score([pair(candidate, reference) for reference, candidate in pairs], "report")


@pytest.fixture(scope="module")
def divergent() -> list[tuple[str, str]]:
    path = FIXTURES / "docs" / "benchmarks" / "fixtures" / "divergence_examples.json"
    if not path.is_file():
        pytest.skip("radeval's published example pairs are not here")
    return [(row["ref"], row["hyp"]) for row in json.loads(path.read_text())]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_n(reference: str, candidate: str, n: int) -> float:
    """F1 of overlapping n-grams, without stemming."""
    left, right = (Counter(zip(*(words(t)[i:] for i in range(n)), strict=False)) for t in (reference, candidate))
    overlap = sum((left & right).values())
    return 2 * overlap / (left.total() + right.total()) if overlap else 0.0


def rouge_l(reference: str, candidate: str) -> float:
    """F1 of the longest common subsequence, without stemming."""
    left, right = words(reference), words(candidate)
    row = [0] * (len(right) + 1)
    for a in left:
        previous = row
        row = [0]
        for j, b in enumerate(right):
            row.append(previous[j] + 1 if a == b else max(previous[j + 1], row[j]))
    return 2 * row[-1] / (len(left) + len(right)) if row[-1] else 0.0


def bleu_4(reference: str, candidate: str) -> float:
    """Sentence BLEU-4 over blank-separated tokens with the brevity penalty; 0 without a common 4-gram."""
    left, right = reference.split(), candidate.split()
    logs = 0.0
    for n in range(1, 5):
        grams = [Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (left, right)]
        overlap, total = sum((grams[0] & grams[1]).values()), max(1, grams[1].total())
        if not overlap:
            return 0.0
        logs += math.log(overlap / total) / 4
    return math.exp(logs + min(0.0, 1 - len(left) / len(right)))


def stem_free(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out words that a stemmer changes: radeval's ROUGE stems, the functions above do not."""
    changed = r"(\w+(s|ed|ly|ion|ing|y|e|al|ate|ive|is|ary|ette))\b"
    return [(re.sub(changed, "x", a), re.sub(changed, "x", b)) for a, b in pairs]


@pytest.mark.parametrize(
    ("metric", "own"),
    [
        ("rouge1", lambda a, b: rouge_n(a, b, 1)),
        ("rouge2", lambda a, b: rouge_n(a, b, 2)),
        ("rougeL", rouge_l),
        ("rouge", rouge_l),
        ("bleu", bleu_4),
    ],
)
def test_values_are_those_of_an_own_implementation(divergent: list[tuple[str, str]], metric: str, own: object) -> None:
    pairs = stem_free(divergent)
    assert callable(own)
    found = [one.value for one in score(metric, pairs)]
    assert found == pytest.approx([own(a, b) for a, b in pairs], abs=2e-3)


def test_an_exact_match_has_the_published_score(divergent: list[tuple[str, str]]) -> None:
    """The first pair of radeval's regression snapshot is its sanity row here: a report and itself."""
    expected = json.loads((FIXTURES / "tests" / "fixtures" / "expected_scores_cpu.json").read_text())["per_sample"]
    match = next((a, b) for a, b in divergent if a == b)
    for metric in ("bleu", "rouge1", "rouge2", "rougeL"):
        assert score(metric, [match])[0].value == pytest.approx(expected[metric][0], abs=1e-9)


def test_a_pair_has_its_score_alone_and_among_others(divergent: list[tuple[str, str]]) -> None:
    for metric in ("bleu", "rouge"):
        together = score(metric, divergent)
        assert together == [score(metric, [one])[0] for one in divergent]


def test_words_do_not_see_a_negation(divergent: list[tuple[str, str]]) -> None:
    """What these metrics are worth: the flipped finding scores above the correct paraphrase."""
    paraphrase, flipped = score("rouge", divergent[:2])
    assert flipped.value is not None
    assert paraphrase.value is not None
    assert flipped.value > 0.7 > 0.1 > paraphrase.value


def test_empty_texts_are_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "radeval.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    pairs = [pair(" ", "Clear."), pair("Clear.", "")]
    assert RadEval.variant("bleu")().score(pairs, "report") == [Score(0.0), Score(None, "the reference is empty")]


def test_a_variant_is_a_scorer_of_its_own() -> None:
    bleu, rouge = RadEval.variant("bleu"), RadEval.variant("rouge")
    assert (bleu.name, bleu.label) == ("radeval:bleu", "bleu")
    assert (rouge.name, rouge.label) == ("radeval:rouge", "rougeL")
    assert bleu is RadEval.variant("bleu")
    assert bleu().judge() is None
    assert RadEval.name == "radeval"


@pytest.mark.parametrize("metric", REFUSED)
def test_metrics_that_score_no_single_pair_are_refused_by_name(metric: str) -> None:
    with pytest.raises(ConfigError, match=f"radeval:{metric}"):
        RadEval.variant(metric)


def test_an_unknown_metric_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown radeval metric 'rogue'; did you mean 'rouge'"):
        RadEval.variant("rogue")


def test_without_a_metric_or_the_package_the_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs a metric: radeval:METRIC"):
        RadEval().check([])
    blind = [entry for entry in sys.path if not (Path(entry) / "radeval").is_dir()]
    monkeypatch.setattr(sys, "path", blind)
    monkeypatch.delitem(sys.modules, "radeval", raising=False)
    with pytest.raises(MissingExtra, match=r'pip install "conrad-bench\[green\]"'):
        RadEval.variant("bleu")().check([])


def test_every_metric_of_radeval_is_offered_or_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry = pytest.importorskip("radeval.metrics._registry", reason="radeval is not installed")
    assert set(registry.METRIC_REGISTRY) == {metric for metric, _ in PER_PAIR.values()} | set(REFUSED)
