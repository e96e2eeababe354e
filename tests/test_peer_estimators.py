"""Our estimators agree with LM-Polygraph's and hedge-bench's on the same samples, or differ as their rows say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXACT = 1e-6
"""Both compute in double precision; eigenvalues of ours are rounded to nine decimals, and hedge-bench's are floats."""


@pytest.fixture(scope="module")
def benchmark() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "estimators.py"
    spec = importlib.util.spec_from_file_location("peer_estimators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_estimators"] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    for package, part in (("lm-polygraph", "estimators.estimator"), ("hedge-bench", "algorithms")):
        try:
            module.peer(package, part)
        except ImportError as error:
            pytest.skip(str(error))
    return module


@pytest.fixture(scope="module")
def samples(benchmark: Any) -> Any:
    return benchmark.samples(4)


def test_the_numbers_are_the_same_where_nothing_explains_a_difference(benchmark: Any, samples: Any) -> None:
    rows = [*benchmark.compared(samples), benchmark.hedged(samples)]
    assert len(rows) == 16
    assert {row.name: row.apart for row in rows if not row.why and row.apart > EXACT} == {}


def test_the_differences_are_what_their_rows_say(benchmark: Any, samples: Any) -> None:
    rows = {row.name: row for row in benchmark.compared(samples) if row.why}
    assert {*rows} == {"pmi", "semantic_entropy", "semantic_sets"}
    pmi, entropies = [], []
    for each in samples:
        pmi.append(abs(each.blank[0, 0]) / len(each.blank))
        sums = np.array([row.sum() for row in each.logprobs])
        of = np.array(each.sets)
        theirs = -np.mean([np.logaddexp.reduce(sums[of == number]) for number in of])
        (confidence,) = benchmark.SemanticEntropy(similarity="jaccard")._confidences([each.drawn], benchmark.nobody)
        entropies.append(abs(-np.log(confidence) - theirs))
    assert rows["pmi"].apart == pytest.approx(max(pmi))
    assert rows["semantic_entropy"].apart == pytest.approx(max(entropies))
