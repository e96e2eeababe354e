"""The statistics and runs from Python: the numbers of the command line, as objects."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_predictions import table
from test_run import TOY, Toy

import conrad_bench as cb
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards import functions
from conrad_bench.leaderboards.metrics import base, calibration, discrimination, selective
from conrad_bench.leaderboards.metrics.catalogue import BUILT_IN

RANDOM = np.random.default_rng(3)
CONFIDENCE = RANDOM.choice(11, 300) / 10
CORRECT = (RANDOM.random(300) < CONFIDENCE**2).astype(float)
PATIENT = RANDOM.choice(60, 300)


def test_examples_in_docstrings_run() -> None:
    found = doctest.testmod(functions, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 3
    assert found.failed == 0


def test_each_metric_says_what_it_is_and_its_example_runs() -> None:
    run = {}
    for module in (base, calibration, discrimination, selective):
        for found in doctest.DocTestFinder().find(module):
            run[found.name.rpartition(".")[2]] = doctest.DocTestRunner().run(found)
    for cls in map(type, BUILT_IN):
        missing = [word for word in ("Formula: ", "Domain: ", "Reference: ") if word not in (cls.__doc__ or "")]
        assert not missing, (cls.__name__, missing)
        assert (run[cls.__name__].failed, run[cls.__name__].attempted) == (0, 2), cls.__name__


@pytest.mark.parametrize("name", functions.METRIC_NAMES)
def test_each_metric_is_a_function_with_the_numbers_of_the_board(name: str) -> None:
    frame = pd.DataFrame({"confidence": CONFIDENCE, "correctness": CORRECT, "cluster": PATIENT})
    row = cb.evaluate(frame, replicates=200).content["rows"][0]["metrics"][name]
    found = getattr(cb, name)(CONFIDENCE, CORRECT, PATIENT, replicates=200)
    expected = [float("nan") if row[key] is None else row[key] for key in ("value", "low", "high")]
    assert list(found) == pytest.approx(expected, abs=1e-8, nan_ok=True)
    alone = getattr(cb, name)(CONFIDENCE, CORRECT, PATIENT, interval=False)
    assert alone.value == pytest.approx(found.value)
    assert np.isnan(alone[1:]).all()
    assert "Range [" in getattr(cb, name).__doc__


def test_metrics_refuse_what_is_no_confidence() -> None:
    for confidence, correctness, message in (
        ([0.5, 80], [1, 0], r"confidence\[1\] is 80, which is not in \[0, 1\]"),
        ([0.5, np.nan], [1, 0], r"confidence\[1\] is nan"),
        ([0.5], [1, 0], "need the same"),
        ([], [], "need the same"),
    ):
        with pytest.raises(DataError, match=message):
            cb.brier(confidence, correctness)
    with pytest.raises(DataError, match="cluster has the shape"):
        cb.brier([0.5, 0.5], [1, 0], ["p"])
    with pytest.raises(DataError, match="correctness of 0 and 1 only"):
        cb.auprc([0.5, 0.6], [0.2, 1.0])
    with pytest.raises(AttributeError):
        _ = functions.quality


def test_a_comparison_is_the_boards_pair() -> None:
    frame = pd.DataFrame({"example": range(300), "confidence": CONFIDENCE, "correctness": CORRECT, "patient": PATIENT})
    other = frame.assign(confidence=0.5).iloc[::-1]
    found = cb.compare(frame, other, replicates=200)
    both = pd.concat([frame.assign(method="a"), other.assign(method="b")])
    pair = cb.evaluate(both, replicates=200).comparisons(metric="brier").iloc[0]
    assert (found.value, found.p, found.n_units) == (pair["value"], pair["p"], pair["n_units"])
    assert found.value == pytest.approx(np.mean((CONFIDENCE - CORRECT) ** 2) - 0.25)
    with pytest.raises(ConfigError, match="metric 'ec'"):
        cb.compare(frame, other, "ec")
    with pytest.raises(DataError, match="table b has no column 'example'"):
        cb.compare(frame, other.drop(columns="example"))


def test_a_board_shows_itself_and_writes_itself(tmp_path: Path) -> None:
    board = cb.evaluate(table(method="a<b".replace("<", "-")).drop_duplicates(["method", "example"]), replicates=50)
    assert "<table>" in board._repr_html_()
    assert "<Board: " in repr(board)
    assert board.table("reports").index.names == ["task", "method"]
    written = board.write(tmp_path / "board")
    assert cb.open_run(written).board.content == board.content
    assert len(cb.open_run(written).records()) == 8
    picture = board.reliability_diagram("a-b")
    assert picture.write(tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in picture._repr_svg_()
    assert list(board.risk_coverage("a-b")) == ["coverage", "risk"]
    with pytest.raises(ConfigError, match=r"svg or \.png"):
        picture.write(tmp_path / "r.pdf")
    with pytest.raises(ConfigError, match="task 'report'"):
        board.table("report")
    with pytest.raises(ConfigError, match="method 'b'"):
        board.reliability_diagram("b")


def test_what_is_shown_in_a_notebook_is_escaped() -> None:
    frame = table()[:8].drop(columns="method")
    assert "<script>" not in cb.evaluate(frame, model="<script>alert(1)</script>", replicates=20)._repr_html_()


def test_a_run_from_python_is_the_commands(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    settings = {"engine": "echo", "model": "echo", "data_roots": {"toy": str(toy.root)}}
    settings |= {"options": {"bootstrap": {"replicates": 20}}}
    run = cb.run(["stated", "mean"], ["toy"], out=toy.out, plugins=[TOY], quiet=True, **settings)
    assert set(run.board.table().index.get_level_values("method")) == {"stated", "mean"}
    again = cb.open_run(str(toy.out))
    texts = again.responses("stated")
    assert len(texts) == len(again.records("stated", "toy")) == 8
    assert texts["text"].notna().all()
    assert (again.artifact("mean") / "mean.json").is_file()
    for call, message in (
        (lambda: again.artifact("stated"), "0 artifacts of stated; there are mean@toy"),
        (lambda: again.records("other"), "method 'other'"),
        (lambda: cb.open_run(tmp_path / "none"), "holds no run"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            call()


def test_public_names_are_what_dir_shows() -> None:
    assert dir(cb) == sorted(cb.__all__)
