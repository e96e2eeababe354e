"""Figures are valid SVG and PNG, repeat byte for byte, and show what the row says."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from conrad_bench.leaderboards.pages.figures import before_after, reliability_diagram

BOARD = {
    "model": "tiny $x_1",
    "data": "phantom (synthetic)",
    "tasks": {"mimic_report": {"label": "phantom-GREEN"}},
}


def row(grouping: str = "level", points: int = 5) -> dict[str, Any]:
    reliability = [
        {
            "group": k,
            "confidence": (k + 0.5) / 10,
            "correctness": {"value": 0.05 * k, "low": 0.04 * k if k else None, "high": 0.3 if k else None},
            "n": 10 + k,
        }
        for k in range(points)
    ]
    metrics = {"ece": {"value": 0.25, "low": 0.2, "high": 0.3}}
    return {
        "task": "mimic_report", "method": "conrad", "n": 60, "n_clusters": 12,
        "metrics": metrics, "grouping": grouping, "reliability": reliability,
    }  # fmt: skip


@pytest.mark.parametrize("data", [row(), row("bin", 10), row(points=1)])
def test_figures_are_valid_and_say_what_they_show(data: dict[str, Any]) -> None:
    files = reliability_diagram(data, BOARD)
    assert set(files) == {".svg", ".png"}
    root = ElementTree.fromstring(files[".svg"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    svg = files[".svg"].decode()
    for words in ("conrad on mimic_report", "ECE 0.250", "n = 60 claims", "12 clusters", "stated confidence",
                  "mean phantom-GREEN", "phantom (synthetic)", "perfect calibration", "$x_1"):  # fmt: skip
        assert words in svg
    assert "dc:date" not in svg
    with Image.open(io.BytesIO(files[".png"])) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 700
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_before_and_after_share_their_axes() -> None:
    before = row(points=9) | {"method": "verbalized"}
    after = row("bin", 10) | {
        "method": "conrad+odd name",
        "metrics": {"ece": {"value": 0.04, "low": None, "high": None}},
    }
    board = {**BOARD, "rows": [after, before, row() | {"task": "other"}]}
    files = before_after(board, "mimic_report", "verbalized", "conrad+odd name")
    assert set(files) == {".svg", ".png"}
    svg = files[".svg"].decode()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    for words in ("before: verbalized", "after: conrad+odd name", "ECE 0.250", "ECE 0.040", "mean of a level",
                  "mean of a bin", "tiny $x_1, phantom (synthetic)"):  # fmt: skip
        assert words in svg
    # Common axes: the labels of the y axes stand once.
    assert svg.count("<!-- claims -->") == svg.count("<!-- mean phantom-GREEN -->") == 1
    assert svg.count("<!-- stated confidence -->") == 2
    with Image.open(io.BytesIO(files[".png"])) as image:
        assert image.width > image.height > 700
    # One legend, with one entry for what both have.
    alike = before_after({**BOARD, "rows": [before, row() | {"method": "sft"}]}, "mimic_report", "verbalized", "sft")[
        ".svg"
    ].decode()
    assert (alike.count("95 % interval"), svg.count("95 % interval")) == (1, 1)
    assert alike.count("mean of a") == 1


def test_equal_rows_are_equal_bytes_whatever_the_user_set() -> None:
    first = reliability_diagram(row(), BOARD)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.hashsalt": "other"}):
        assert reliability_diagram(row(), BOARD) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert reliability_diagram(row(points=4), BOARD) != first
