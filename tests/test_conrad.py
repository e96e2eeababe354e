"""What ConRad rewards, and what a sentence counts."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from conrad_bench.methods.conrad import ConRad
from conrad_bench.methods.stating import report_weights
from conrad_bench.trainers.rewards import RewardName, reward_of, violation_reward

LEVELS = st.sampled_from([k / 10 for k in range(11)])
CLAIMS = st.lists(st.tuples(st.none() | LEVELS, st.none() | st.floats(0, 1)), min_size=1, max_size=6)


@given(st.lists(CLAIMS, min_size=1, max_size=4), st.sampled_from(get_args(RewardName)))
def test_the_judge_never_costs_the_policy_anything(
    responses: list[list[tuple[float | None, float | None]]], name: RewardName
) -> None:
    reward_for = reward_of(name)
    stated = [[c for c, _ in claims] for claims in responses]
    judged = [[r for _, r in claims] for claims in responses]
    rewards, parsed = ConRad(reward=name)._rewards(stated, judged)
    for reward, keeps, claims in zip(rewards, parsed, responses, strict=True):
        assert keeps == (None not in [c for c, _ in claims])
        scores = [100 * reward_for(c, r) for c, r in claims if c is not None and r is not None]
        if not keeps:
            assert reward == violation_reward(reward_for)
        elif not scores:
            assert reward is None
        else:
            assert reward == pytest.approx(math.fsum(scores) / len(scores))
            assert reward > violation_reward(reward_for)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_the_weighted_mean_over_claims_is_the_mean_over_reports(reports: list[int], data: st.DataObject) -> None:
    """Equation 3 of the paper, computed report by report."""
    values = data.draw(st.lists(st.floats(-500, 0), min_size=len(reports), max_size=len(reports)))
    weights = report_weights(reports)
    by_report = [[v for v, r in zip(values, reports, strict=True) if r == report] for report in set(reports)]
    means = [math.fsum(found) / len(found) for found in by_report]
    weighted = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / len(values)
    assert weighted == pytest.approx(math.fsum(means) / len(means), abs=1e-9)
    assert math.fsum(weights) == pytest.approx(len(reports))


def test_hand_computed_weights() -> None:
    # Two reports, of one and of three sentences: 1 and 1/3 each, times 4 / 2.
    assert report_weights([7, 9, 9, 9]) == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])


def test_joint_training_knows_no_flat_weights() -> None:
    with pytest.raises(ValidationError, match="set sentence_weight=report"):
        ConRad(mode="joint", sentence_weight="flat")
