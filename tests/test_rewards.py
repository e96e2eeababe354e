"""The reward of ConRad is a strictly proper score."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.trainers.rewards import log_score, mean_log_score, violation_reward

LEVELS = [k / 10 for k in range(11)]


def test_hand_computed_value() -> None:
    # 100 * (0.25 * ln 0.4 + 0.75 * ln 0.6)
    assert log_score(0.4, 0.25) == pytest.approx(-61.21919008, abs=1e-6)
    assert log_score(1.0, 0.0, eps=0.01) == pytest.approx(100 * math.log(0.01))


@given(st.floats(0, 1))
def test_the_best_confidence_is_the_correctness(correctness: float) -> None:
    fine = [k / 1000 for k in range(10, 991)]
    best = max(fine, key=lambda c: log_score(c, correctness))
    assert best == pytest.approx(min(max(correctness, 0.01), 0.99), abs=0.001)


@given(st.floats(0, 1), st.lists(st.booleans(), min_size=1, max_size=20))
def test_expectation_over_outcomes_is_the_score_of_their_mean(confidence: float, outcomes: list[bool]) -> None:
    mean = sum(outcomes) / len(outcomes)
    each = mean_log_score([confidence] * len(outcomes), [float(o) for o in outcomes])
    assert each == pytest.approx(log_score(confidence, mean), rel=1e-9, abs=1e-9)


def test_a_violation_of_ones_own_is_in_units_of_the_scale() -> None:
    assert violation_reward(scale=50.0, violation=-3.0) == -150.0


@given(st.floats(0, 1), st.sampled_from(LEVELS), st.floats(0.001, 0.4), st.floats(0.1, 1000))
def test_leaving_the_format_never_pays(correctness: float, confidence: float, eps: float, scale: float) -> None:
    assert violation_reward(scale, eps) < log_score(confidence, correctness, scale, eps) <= 0
