"""What is said of the confidence answers' probabilities agrees with scipy and with plain loops."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ConstantInputWarning, rankdata, spearmanr
from test_board import CONTEXT

from conrad_bench.leaderboards.board.rows import task_rows
from conrad_bench.leaderboards.board.tokens import STEP, order, ranks, tokens, unimodal
from conrad_bench.leaderboards.pages.figures import token_heat_map
from conrad_bench.records import LEVEL_PROBABILITIES

few = st.sampled_from([0.0, 0.005, 0.01, 0.02, 0.1])
distributions = st.lists(few | st.floats(0, 0.09), min_size=11, max_size=11).map(np.array)


def records(p: np.ndarray[Any, Any], stated: list[int], **changes: Any) -> pd.DataFrame:
    n = len(stated)
    base = {
        "task": "t", "method": "conrad", "example": [f"e{i}" for i in range(n)], "claim": 0, "response": "r",
        "cluster": [f"p{i // 2}" for i in range(n)], "confidence": np.array(stated) / 10, "correctness": 0.5,
        "status": "ok", **dict(zip(LEVEL_PROBABILITIES, p.T, strict=True)),
    }  # fmt: skip
    return pd.DataFrame(base | changes)


def entry_of(frame: pd.DataFrame) -> dict[str, Any]:
    return dict(task_rows("t", {"conrad": frame}, CONTEXT)[0][0]["tokens"])


def peaked(stated: list[int], slope: float = 1.0, mass: float = 0.9) -> np.ndarray[Any, Any]:
    p = np.exp(-slope * np.abs(np.arange(11) - np.array(stated)[:, None]))
    return np.asarray(mass * p / p.sum(axis=1, keepdims=True))


@given(distributions, st.integers(0, 10))
def test_order_is_spearmans_correlation(p: np.ndarray[Any, Any], stated: int) -> None:
    assert ranks(p[None])[0].tolist() == rankdata(p).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        expected = spearmanr(p, -np.abs(np.arange(11) - stated)).statistic
    found = order(p[None], np.array([stated]))[0]
    assert found == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-12)


def slow_unimodal(p: list[float]) -> bool:
    """Whether no level lies more than a step below one that is further from the peak."""
    peak = p.index(max(p))
    left = [(near, far) for near in range(peak + 1) for far in range(near)]
    right = [(near, far) for near in range(peak, len(p)) for far in range(near + 1, len(p))]
    return all(p[far] - p[near] <= STEP for near, far in left + right)


@given(distributions)
def test_unimodal_is_its_definition(p: np.ndarray[Any, Any]) -> None:
    assert unimodal(p[None]).tolist() == [slow_unimodal(p.tolist())]


def test_unimodal_by_hand() -> None:
    one, two, edge = np.zeros((3, 11))
    one[3:6] = 0.2, 0.5, 0.3
    two[2], two[5] = 0.3, 0.7
    edge[0], edge[10] = 0.992, 0.008
    flat = np.full(11, 1 / 11)
    assert unimodal(np.array([one, two, edge, flat])).tolist() == [True, False, True, True]


@given(st.lists(st.tuples(distributions, st.integers(0, 10)), min_size=1, max_size=12))
def test_the_matrix_and_the_measures_are_means_over_claims(claims: list[tuple[np.ndarray[Any, Any], int]]) -> None:
    p, stated = np.array([q for q, _ in claims]), [s for _, s in claims]
    found = entry_of(records(p, stated))
    assert found["n"] == len(claims)
    assert found["counts"] == [stated.count(level) for level in range(11)]
    for level, line in enumerate(found["matrix"]):
        mine = [q for q, s in claims if s == level]
        expected = np.mean(mine, axis=0) if mine else np.full(11, np.nan)
        assert line == pytest.approx(expected, abs=1e-12, nan_ok=True)
    values = {name: estimate["value"] for name, estimate in found["measures"].items()}
    assert values == pytest.approx(
        {
            "top": np.mean([q[s] == max(q) for q, s in claims]),
            "order": np.mean([order(q[None], np.array([s]))[0] for q, s in claims]),
            "unimodal": np.mean([slow_unimodal(q.tolist()) for q, _ in claims]),
            "malformed": np.mean([max(0.0, 1 - sum(q)) for q, _ in claims]),
        },
        abs=1e-12,
    )


def test_a_graded_scale_scores_higher_than_unrelated_labels() -> None:
    stated = [i % 11 for i in range(110)]
    graded = entry_of(records(peaked(stated), stated))["measures"]
    noise = np.random.default_rng(0).random((110, 11)) * 0.05
    labels = noise.copy()
    labels[np.arange(110), stated] = 0.5
    loose = entry_of(records(labels / labels.sum(axis=1, keepdims=True), stated))["measures"]
    for name in ("top", "unimodal"):
        assert graded[name]["value"] == 1.0
    assert graded["order"]["value"] == pytest.approx(1.0)
    assert loose["top"]["value"] == 1.0
    assert loose["unimodal"]["value"] < 0.1
    assert loose["order"]["high"] < 0.5
    assert graded["malformed"]["value"] == pytest.approx(0.1)


def test_claims_without_probabilities_or_status_ok_are_left_out() -> None:
    stated = [2, 5, 5, 8]
    p = peaked(stated)
    p[1] = np.nan
    frame = records(p, stated, status=["ok", "ok", "ok", "scorer_failed"])
    assert entry_of(frame)["counts"] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]


def test_no_tokens_without_columns_or_with_other_confidences() -> None:
    stated = [2, 5, 8]
    frame = records(peaked(stated), stated)
    unit = np.arange(3)
    assert tokens(frame, unit, 3) is not None
    assert tokens(frame.drop(columns=list(LEVEL_PROBABILITIES)), unit, 3) is None
    assert tokens(frame.assign(confidence=[0.2, 0.5, 0.83]), unit, 3) is None
    assert tokens(frame.assign(status="no_confidence"), unit, 3) is None
    assert tokens(frame.assign(confidence=[0.1 + 0.1, 0.5, 0.8]), unit, 3) is not None


def test_the_heat_map_shows_the_matrix() -> None:
    stated = [9, 9, 10, 7]
    board = {"model": "tiny", "data": "phantom (synthetic)", "tasks": {"t": {"label": "phantom-GREEN"}}}
    row = {"method": "verbalized+isotonic", "task": "t", "tokens": entry_of(records(peaked(stated, 2.0), stated))}
    files = token_heat_map(row, board)
    assert files == token_heat_map(row, board)
    svg = files[".svg"].decode()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    highest = f"{row['tokens']['matrix'][10][10]:.2f}"
    for words in ("verbalized+isotonic on t", "confidence answer", "9 (n = 2)", "0 (n = 0)", "never stated", highest,
                  "stated is likeliest 100%", "mean probability"):  # fmt: skip
        assert words in svg
    assert svg.count("<image") == 1  # matplotlib's colour bar; the map itself is drawn
    with Image.open(io.BytesIO(files[".png"])) as image:
        assert min(image.size) > 700
