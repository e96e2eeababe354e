"""leaderboard.tex: its cells, what it escapes, and that it fits the lines of an article."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_board import SENTENCES, board_of, frame, row_of, sentences

from conrad_bench.leaderboards.pages.latex import tex

LATEX = shutil.which("pdflatex")


def short(value: float) -> str:
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def test_the_table_has_its_cells_and_escapes() -> None:
    board = board_of(frame("conrad"), frame("verbalized+iso_100%"))
    text = tex(board)
    assert r"verbalized+\allowbreak{}iso\_\allowbreak{}100\%" in text
    brier = row_of(board, "conrad")["metrics"]["brier"]
    assert f"{short(brier['value'])} {{\\scriptsize[{short(brier['low'])}, {short(brier['high'])}]}}" in text
    assert "80 claims of 20 clusters; mean phantom-GREEN" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {5}
    for begin, end in ((r"\begin{", r"\end{"), (r"\toprule", r"\bottomrule")):
        assert text.count(begin) == text.count(end)


def test_numbers_have_no_zero_before_the_point_and_a_true_minus() -> None:
    worst = frame("conrad").assign(confidence=1.0, correctness=[0.0, 0.2] * 40)
    board = board_of(worst, frame("verbalized"))
    skill = row_of(board, "conrad")["metrics"]["skill"]["value"]
    assert skill < -10
    line = next(line for line in tex(board).splitlines() if line.startswith(r"\raggedright conrad"))
    assert f"& $-${-skill:.3f} &" in line
    assert not re.search(r"(?<![\d.])0\.\d", line)


@pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")
def test_an_article_compiles_and_no_line_is_too_long(tmp_path: Path) -> None:
    frames = [frame(m) for m in ("conrad", "verbalized+isotonic", "sequence_probability")]
    frames += [sentences(m) for m in ("conrad_exact", "verbalized")]
    scorers = {"mimic_report": ("phantom_green", "phantom-GREEN"), **SENTENCES["scorers"]}
    (tmp_path / "leaderboard.tex").write_text(tex(board_of(*frames, **{**SENTENCES, "scorers": scorers})))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{leaderboard}\end{document}"
    )
    command = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
