"""Our estimators beside LM-Polygraph's and hedge-bench's, on the same samples: numbers, and CPU seconds.

    pip install --no-deps lm-polygraph hedge-bench
    OMP_NUM_THREADS=1 python benchmarks/estimators.py [--questions 40]

The responses, with their log-probabilities, are those of the embedded model to test reports of the phantom world: one
greedy and ten sampled ones each. Similarities are those of words (Jaccard) everywhere, since theirs are of models. Each
uncertainty u is compared with what our confidence was made of, mostly its -log. Their classes are loaded one by one,
without what else their packages import.

What differs, and why, stands in the rows; and where they look at pictures (read, not run):

- `greedy_visual_probs` takes what `generate` calls scores for log-probabilities: raw logits, so that MSP and perplexity
  of answers about pictures are sums of logits, which no probability is;
- P(True) about pictures reads the same raw number of the word "True", and behind the input alone: the question is put
  together and not asked;
- samples and greedy answers have `min_new_tokens=2`, so that an answer of one token cannot be given;
- medvlm reads a confidence of "1 %" as 1.0: what is not above 1 is not divided by 100.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from conrad_bench.config import load_config
from conrad_bench.methods.base import respond
from conrad_bench.methods.probability.distributions import PMI, MeanTokenEntropy, blanked
from conrad_bench.methods.probability.token_sar import SAR, pieces, relevances, relevant
from conrad_bench.methods.probability.tokens import MaximumSequenceProbability, Perplexity, TokenStatistic
from conrad_bench.methods.sampling.base import Array, Drawn, Sampled, similarities
from conrad_bench.methods.sampling.cocoa import weighed
from conrad_bench.methods.sampling.graph import DegreeMatrix, Eccentricity, Eigenvalues
from conrad_bench.methods.sampling.semantic_sets import DiscreteSemanticEntropy, SemanticEntropy, SemanticSets, sets
from conrad_bench.methods.sampling.sequence_entropy import MonteCarloEntropy, SentenceSAR
from conrad_bench.methods.sampling.vase import vase
from conrad_bench.methods.self_consistency import jaccard, words
from conrad_bench.plan import load_task, make_plan
from conrad_bench.progress import Reporter
from conrad_bench.reading.claims import report_claim
from conrad_bench.registry import Registry
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Sampling

T = 0.001
THRESHOLD = 0.5
SAMPLES = 10
CLEAN = SAMPLES // 2


@dataclass(frozen=True)
class Samples:
    """What was written about one example, as our methods see it and as theirs do."""

    drawn: Drawn
    texts: list[str]
    """Of the samples, without punctuation, since peers cut words at blanks."""
    greedy: tuple[float, ...]
    """Log-probabilities of the greedy response's tokens."""
    relevance: Array
    """Of the same tokens."""
    logprobs: list[Array]
    relevances: list[Array]
    similar: Array
    """(samples, samples)"""
    to_greedy: Array
    """(samples,)"""
    sets: list[int]
    read: Array
    """Statistics of the greedy tokens, shape (tokens, 4)."""
    blank: Array
    """The same beside a grey picture."""


@dataclass(frozen=True)
class Row:
    """One estimator: what it is compared with, and how it came out."""

    name: str
    peer: str
    apart: float
    """Largest difference of the uncertainties."""
    ours: float
    theirs: float
    """CPU seconds."""
    why: str = ""
    """Why numbers differ, where they do."""


def samples(number: int) -> list[Samples]:
    """Return what the embedded model writes about test reports of the phantom world."""
    registry = Registry()
    given: dict[str, Any] = {"methods": ["base"], "tasks": ["mimic_report"], "options": {"phantom": {"studies": 300}}}
    plan = make_plan(load_config(None, given, registry), registry)
    task = plan.tasks["mimic_report"]
    test = load_task(plan, "mimic_report", Reporter(quiet=True)).split("test")[:number]
    with tempfile.TemporaryDirectory() as folder, RolloutStore(Path(folder)) as store:
        model = Model(plan.engine, store, Reporter(quiet=True))
        found = respond(task, test, model, 128)
        rows = model.sample(found.prompts, SAMPLES, Sampling(1.0, max_tokens=128))
        read = model.reread(found.prompts, found.responses)
        blank = model.reread([blanked(prompt) for prompt in found.prompts], found.responses)
        return [_samples(plan.engine, *each) for each in zip(test, found.responses, rows, read, blank, strict=True)]


def _samples(engine: Any, example: Any, greedy: Any, row: Sequence[Any], read: Any, blank: Any) -> Samples:
    cuts = engine.offsets([response.token_ids for response in (greedy, *row)])
    texts = [pieces(r.text, at, (0, len(r.text))) for r, at in zip((greedy, *row), cuts, strict=True)]
    relevance, *others = relevances(texts, None)
    claims = [report_claim(response, None) for response in row]
    drawn = Drawn(example, report_claim(greedy, None), list(row), claims, offsets=cuts[1:])
    (similar,) = similarities([drawn], "jaccard", nobody)
    return Samples(
        drawn,
        [" ".join(words(response.text)) for response in row],
        greedy.logprobs,
        relevance,
        [np.array(response.logprobs) for response in row],
        others,
        similar,
        np.array([jaccard(greedy.text, response.text) for response in row]),
        sets(similar, [claim.text for claim in claims], THRESHOLD),
        read.astype(float),
        blank.astype(float),
    )


def nobody(*_asked: object) -> Any:
    """Judge nothing: no estimator here asks a scorer."""
    raise AssertionError("a scorer was asked")


def peer(package: str, module: str) -> Any:
    """Return a module of a package without running the package's own __init__. Raises ImportError."""
    name = package.replace("-", "_")
    try:
        folder = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError as error:
        raise ImportError(f"{package} is not installed: pip install --no-deps {package}") from error
    for part, where in (
        (name, folder),
        (f"{name}.estimators", folder / "estimators"),
        (f"{name}.utils", folder / "utils"),
    ):
        if part not in sys.modules and where.is_dir():
            sys.modules[part] = types.ModuleType(part)
            sys.modules[part].__path__ = [str(where)]
    return importlib.import_module(f"{name}.{module}")


def compared(found: Sequence[Samples]) -> list[Row]:
    """Return all estimators that a peer has, too. Raises ImportError where LM-Polygraph is not there."""

    def estimator(module: str, name: str, **options: Any) -> Any:
        return getattr(peer("lm-polygraph", f"estimators.{module}"), name)(**options)

    def row(
        name: str,
        theirs: Any,
        stats: dict[str, Any],
        mine: Callable[[Samples], float],
        why: str = "",
    ) -> Row:
        began = time.process_time()
        ours = np.array([mine(each) for each in found])
        middle = time.process_time()
        other = np.array(theirs(stats), dtype=float)
        return Row(
            name,
            "Eccentricity" if theirs is eccentricities else type(theirs).__name__,
            float(np.abs(ours - other).max()),
            middle - began,
            time.process_time() - middle,
            why,
        )

    def of(method: Sampled) -> Callable[[Samples], float]:
        return lambda each: -float(np.log(method._confidences([each.drawn], nobody)[0]))

    def token(method: TokenStatistic) -> Callable[[Samples], float]:
        return lambda each: -float(np.log(method._confidence(each.greedy)))

    def floor(each: Samples) -> float:
        return float(np.log1p((len(each.texts) - 1) / T))

    def eccentricities(stats: dict[str, Any]) -> list[float]:
        theirs = estimator("eccentricity", "Eccentricity", **words_alone)
        return [theirs.U_Eccentricity(i, stats)[0] for i in range(len(found))]

    words_alone: dict[str, Any] = {"similarity_score": "Jaccard_score"}
    texts = {"sample_texts": [each.texts for each in found]}
    greedy = {"greedy_log_likelihoods": [np.array(each.greedy) for each in found]}
    sums = {"sample_log_probs": [[row.sum() for row in each.logprobs] for each in found]}
    matrices = {"sample_sentence_similarity": [each.similar for each in found]}
    tokens = {"sample_log_likelihoods": [each.logprobs for each in found]}
    tokens |= {"sample_token_similarity": [[1 - weights for weights in each.relevances] for each in found]}
    classes = {
        "class_to_sample": {i: _members(each.sets) for i, each in enumerate(found)},
        "sample_to_class": {i: dict(enumerate(each.sets)) for i, each in enumerate(found)},
    }
    semantic = {**texts, **sums, "semantic_classes_entail": classes}
    pairs = np.array([each.similar for each in found])
    by_words: dict[str, Any] = {"similarity": "jaccard"}
    sar, sentence = of(SAR(t=T, **by_words)), of(SentenceSAR(t=T, **by_words))
    return [
        row(
            "msp",
            estimator("max_probability", "MaximumSequenceProbability"),
            greedy,
            token(MaximumSequenceProbability()),
        ),
        row("perplexity", estimator("perplexity", "Perplexity"), greedy, token(Perplexity())),
        row(
            "mean_token_entropy",
            estimator("token_entropy", "MeanTokenEntropy"),
            {"entropy": [each.read[:, 1] for each in found]},
            lambda s: -np.log(MeanTokenEntropy()._confidence(s.read, s.read)),
        ),
        row(
            "pmi",
            estimator("pointwise_mutual_information", "MeanPointwiseMutualInformation"),
            {
                "greedy_log_likelihoods": [each.read[:, 0] for each in found],
                "greedy_lm_log_likelihoods": [each.blank[:, 0] for each in found],
            },
            lambda s: -logit(PMI()._confidence(s.read, s.blank)),
            "theirs takes nothing off the first token",
        ),
        row("degree_matrix", estimator("deg_mat", "DegMat", **words_alone), texts, degree_of),
        row(
            "eigenvalues",
            estimator("eig_val_laplacian", "EigValLaplacian", **words_alone),
            texts,
            lambda s: np.exp(of(Eigenvalues(**by_words))(s)),
        ),
        row("eccentricity", eccentricities, texts, of(Eccentricity(**by_words))),
        row(
            "monte_carlo_entropy",
            estimator("monte_carlo_normalized_sequence_entropy", "MonteCarloNormalizedSequenceEntropy"),
            {**sums, "sample_tokens": [each.logprobs for each in found]},
            of(MonteCarloEntropy()),
        ),
        row(
            "sentence_sar",
            estimator("sentence_sar", "SentenceSAR"),
            {**sums, **matrices},
            lambda s: sentence(s) - floor(s),
        ),
        row(
            "token_sar",
            estimator("token_sar", "TokenSAR"),
            {**greedy, "token_similarity": [1 - each.relevance for each in found]},
            lambda s: relevant(np.array(s.greedy), s.relevance),
        ),
        row("sar", estimator("sar", "SAR"), {**tokens, **matrices}, lambda s: sar(s) - floor(s)),
        row(
            "cocoa",
            estimator("cocoa", "CocoaPPL"),
            {**greedy, "greedy_sentence_similarity": [each.to_greedy for each in found]},
            lambda s: -np.log(weighed(s.greedy, float(s.to_greedy.mean()), "perplexity")),
        ),
        row(
            "discrete_semantic_entropy",
            estimator("semantic_entropy", "SemanticEntropy", class_probability_estimation="frequency"),
            semantic,
            of(DiscreteSemanticEntropy(**by_words)),
        ),
        row(
            "semantic_entropy",
            estimator("semantic_entropy", "SemanticEntropy"),
            semantic,
            of(SemanticEntropy(**by_words)),
            "theirs: minus the mean log of the sets' summed probabilities (Kuhn et al. 2023), which grows with length",
        ),
        row(
            "semantic_sets",
            estimator("num_sem_sets", "NumSemSets"),
            {**texts, "semantic_matrix_entail": pairs, "semantic_matrix_contra": np.full_like(pairs, THRESHOLD)},
            lambda s: np.exp(of(SemanticSets(**by_words))(s)),
            "theirs makes one set of all that is connected; ours is Kuhn et al.'s algorithm 1",
        ),
    ]


def degree_of(each: Samples) -> float:
    """Return U_Deg of the samples."""
    return 1 - DegreeMatrix(similarity="jaccard")._confidences([each.drawn], nobody)[0]


def logit(confidence: float) -> float:
    """Return the log-odds of a confidence."""
    return float(np.log(confidence / (1 - confidence)))


def hedged(found: Sequence[Samples]) -> Row:
    """Return VASE beside hedge-bench's, half of the samples in the place of those to distorted pictures.

    Raises ImportError where it is not there.
    """
    theirs = peer("hedge-bench", "algorithms")
    ours, others = 0.0, 0.0
    apart = 0.0
    for each in found:
        mean = np.array([row.mean() for row in each.logprobs])
        ids = [0, *(number + 1 for number in each.sets)]
        began = time.process_time()
        shares = [
            np.bincount(part, np.exp(weights), max(ids) + 1) / np.exp(weights).sum()
            for part, weights in ((ids[1 : 1 + CLEAN], mean[:CLEAN]), (ids[1 + CLEAN :], mean[CLEAN:]))
        ]
        mine = -np.log(vase(shares[0], shares[1], 1.0))
        middle = time.process_time()
        _, clean = theirs.sentence_semantic_entropy(mean[:CLEAN], ids[1 : 1 + CLEAN])
        _, noisy = theirs.sentence_semantic_entropy(mean[CLEAN:], ids[1 + CLEAN :])
        other = theirs.vase(CLEAN, ids, clean, noisy, 1.0)
        ours, others = ours + middle - began, others + time.process_time() - middle
        apart = max(apart, abs(float(mine) - other))
    return Row("vase", "hedge_bench.vase", apart, ours, others)


def _members(of: Sequence[int]) -> list[list[int]]:
    return [[j for j, number in enumerate(of) if number == each] for each in range(max(of) + 1)]


def main() -> None:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(description="The same estimators elsewhere.")
    parser.add_argument("--questions", type=int, default=40)
    found = samples(parser.parse_args().questions)
    rows: list[Row] = []
    for compare in (compared, lambda some: [hedged(some)]):
        try:
            rows += compare(found)
        except ImportError as error:
            print(f"left out: {error}")
    print(f"{len(found)} reports, {SAMPLES} samples each\n")
    print("| estimator | theirs | largest difference | CPU seconds, ours | theirs | |")
    print("| --- | --- | --- | --- | --- | --- |")
    for each in rows:
        print(f"| `{each.name}` | {each.peer} | {each.apart:.1e} | {each.ours:.3f} | {each.theirs:.3f} | {each.why} |")


if __name__ == "__main__":
    main()
