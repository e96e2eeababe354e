"""Certified thresholds: what is certified holds, in simulated worlds and on records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from test_cli import conrad_bench, refused

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.inference.certify import FEWEST, certify
from conrad_bench.leaderboards.metrics.base import Sample
from conrad_bench.leaderboards.thresholds import markdown, thresholds
from conrad_bench.records import read_records

BUNDLE = Path(__file__).parents[1] / "leaderboards" / "published" / "phantom"


def world(seed: int, patients: int = 60, claims: int = 4) -> Sample:
    """Calibrated confidences in tenths, correctness that is right or wrong."""
    random = np.random.default_rng(seed)
    confidence = random.integers(3, 11, patients * claims) / 10
    right = (random.random(len(confidence)) < confidence).astype(float)
    return Sample(confidence, right, np.repeat(np.arange(patients), claims), patients)


@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.75, 0.9]))
def test_each_test_is_a_t_test_with_one_failing_patient_more(seed: int, target: float) -> None:
    sample = world(seed)
    found = certify(sample, target, 0.1)
    assert found.tested
    for step in found.tested:
        kept = sample.confidence >= step.threshold
        sums = {}
        for unit, correctness in zip(sample.unit[kept], sample.correctness[kept], strict=True):
            sums[unit] = sums.get(unit, 0.0) + correctness - target
        assert (step.kept, step.patients) == (kept.sum(), len(sums))
        failed = -target * step.kept / step.patients
        expected = ttest_1samp([*sums.values(), failed], 0.0, alternative="greater").pvalue
        assert step.p == pytest.approx(expected)
    tested = [step.threshold for step in found.tested]
    assert tested == sorted(tested, reverse=True)
    passed = [step.threshold for step in found.tested if step.p <= 0.1]
    assert found.threshold == (passed[-1] if passed else None)
    assert all(step.p <= 0.1 for step in found.tested[:-1])  # it stops at the first that is not


def test_what_is_certified_is_rarely_wrong_and_often_there() -> None:
    """Target .75 holds from confidence .5 on: the mean above it is .75."""
    found = [certify(world(seed), 0.75, 0.1).threshold for seed in range(300)]
    wrong = sum(threshold is not None and threshold < 0.5 for threshold in found)
    assert wrong / 300 <= 0.1 + 2 * (0.1 * 0.9 / 300) ** 0.5
    assert sum(threshold is not None for threshold in found) / 300 > 0.9


def test_a_perfect_record_of_few_patients_certifies_nothing() -> None:
    sample = world(0, patients=FEWEST - 1)
    perfect = Sample(sample.confidence, np.ones_like(sample.correctness), sample.unit, sample.units)
    assert certify(perfect, 0.75, 0.1).tested == []
    for target, level in ((0.0, 0.1), (1.0, 0.1), (0.5, 0.0)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            certify(perfect, target, level)


def test_patients_certify_or_check_and_the_numbers_are_those_of_the_records() -> None:
    found = {each.method: each for each in thresholds(BUNDLE, 0.6)}
    frame = read_records(BUNDLE / "records" / "conrad.seed0@mimic_report.parquet")
    advice = found["conrad.seed0"]
    assert advice.claims + advice.checked == len(frame)
    assert advice.patients == frame["cluster"].nunique() // 2
    assert advice.correctness is not None
    assert advice.correctness[0] >= 0.6
    assert found["verbalized"].certified.threshold is None
    assert "claims at 1.00 and above, mean correctness 0.5" in found["verbalized"].note
    assert "below the target" in found["verbalized"].note
    strict = {each.method: each for each in thresholds(BUNDLE, 0.6, confidence=0.9999999)}
    assert "too few patients to be sure of the target" in strict["conrad.seed0"].note
    assert markdown(list(found.values()), 0.6, 0.9, "claim").count("\n| mimic_report |") == len(found)


def test_another_run_certifies(tmp_path: Path) -> None:
    all_of_it = {each.method: each for each in thresholds(BUNDLE, 0.6, calibration=BUNDLE)}
    assert all_of_it["conrad.seed0"].checked == 834
    assert all_of_it["conrad.seed0"].note == ""
    other = BUNDLE.parent / "paper-phantom"
    shifted = thresholds(other, 0.6, calibration=BUNDLE)
    assert {each.task for each in shifted} == {"mimic_report"}
    predictions, board = BUNDLE.parents[2] / "examples" / "predictions" / "lm_eval.csv", tmp_path / "board"
    done = conrad_bench("evaluate", str(predictions), "--out", str(board), "--replicates", "50", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(DataError, match="share no method"):
        thresholds(BUNDLE, 0.6, calibration=board)


def test_a_report_is_as_sure_as_its_least_sure_sentence() -> None:
    bundle = BUNDLE.parent / "paper-phantom"
    found = {(each.task, each.method): each for each in thresholds(bundle, 0.6, per="report")}
    frame = read_records(bundle / "records" / "probe.seed0@mimic_sentence.parquet")
    advice = found["mimic_sentence", "probe.seed0"]
    assert advice.claims + advice.checked <= frame["example"].nunique()
    assert found["mimic_report", "probe.seed0"].claims > 0


def test_the_command(tmp_path: Path) -> None:
    done = conrad_bench("threshold", str(BUNDLE), "--target", "0.6", "--json", "found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| mimic_report | conrad.seed0 | 0.600 |" in done.stdout
    (first, *_) = json.loads((tmp_path / "found.json").read_text())
    assert first["certified"]["threshold"] == 0.6
    assert "lies between 0 and 1" in refused(conrad_bench("threshold", str(BUNDLE), "--target", "85", cwd=tmp_path))
    with pytest.raises(ConfigError):
        thresholds(BUNDLE, 0.6, confidence=1.0)
