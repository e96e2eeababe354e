"""The guard of a training: what stops it, what does not, and what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conrad_bench.errors import TrainingError
from conrad_bench.trainers.guard import PATIENCE, Guard

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def run(rates: list[float], norms: list[float] | None = None, least: float = 0.5) -> str:
    """Return what a training with these parse rates ends with: the guard's word, or "done"."""
    guard = Guard(least, "do something")
    try:
        for rate, norm in zip(rates, norms or [1.0] * len(rates), strict=True):
            guard.step(rate, norm)
        guard.end()
    except TrainingError as error:
        return str(error)
    return "done"


def test_a_format_that_is_being_learned_is_not_lost() -> None:
    assert run([0.25 + 0.25 * i / 20 for i in range(21)] + [0.6] * 10) == "done"


def test_a_lost_format_stops_the_training_early() -> None:
    rates = [max(0.0, 0.95 - 0.05 * step) for step in range(100)]
    said = run(rates)
    assert re.search(r"lost the confidence format: \d+% .* up to step \d\d .* and 9\d% did before .*do something", said)
    assert said == run(rates[:30])


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 30])
def test_a_training_that_never_had_the_format_ends_with_an_error(steps: int) -> None:
    assert run([0.1] * steps).startswith("the training never had the confidence format: at best 10%")


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 30])
def test_a_training_without_gradient_is_no_success(steps: int) -> None:
    said = run([1.0] * steps, [0.0] * steps)
    assert said.startswith(
        f"the training learned nothing: the gradient was exactly zero in each of its first {min(steps, PATIENCE)}"
    )


def test_a_converged_policy_may_have_no_gradient() -> None:
    assert run([1.0] * 30, [1.0, *[0.0] * 29]) == "done"


@given(RATES)
def test_rates_above_the_limit_never_stop_a_training(rates: list[float]) -> None:
    assert run([0.5 + rate / 2 for rate in rates]) == "done"


@given(RATES, st.integers(0, 40))
def test_a_training_that_goes_on_is_judged_as_one_that_never_stopped(rates: list[float], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "training.jsonl"
        lines = [json.dumps({"parse_rate": rate, "grad_norm": 1.0}) for rate in rates[:cut]]
        log.write_text("".join(line + "\n" for line in lines))
        guard = Guard(0.5, "do something")
        guard.resume(log)
        said = "done"
        try:
            for rate in rates[cut:]:
                guard.step(rate, 1.0)
            guard.end()
        except TrainingError as error:
            said = str(error)
    whole = run(rates)
    if not (whole.startswith("the training lost") and said != whole):  # a loss in the part before would have stopped it
        assert said == whole
