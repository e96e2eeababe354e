"""The leaderboard: JSON, Markdown and console, from records to bytes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from conrad_bench.errors import DataError, StorageError
from conrad_bench.leaderboards.board.build import build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.inference.bootstrap import bootstrap, interval
from conrad_bench.leaderboards.metrics.base import CORRECTNESS, Sample
from conrad_bench.leaderboards.metrics.calibration import ECE, Brier
from conrad_bench.leaderboards.metrics.discrimination import Pearson
from conrad_bench.leaderboards.pages.console import table_for_console
from conrad_bench.leaderboards.pages.outputs import write_leaderboard
from conrad_bench.leaderboards.pages.tables import markdown
from conrad_bench.records import LEVEL_PROBABILITIES, QUALITY_ABOVE, read_records, records_path, write_records

ece, brier, pearson = ECE().statistic, Brier().statistic, Pearson().statistic
mean_correctness = CORRECTNESS.statistic

CONTEXT = BoardContext(
    model="tiny",
    data="phantom (synthetic)",
    phantom=True,
    scorers={"mimic_report": ("phantom_green", "phantom-GREEN"), "yes_no": ("match", "accuracy")},
    methods={"verbalized": "asks", "conrad": "trained to say"},
    version="0.1.0",
    commit="abc1234",
    replicates=300,
    left_out={"mimic_report": {"no findings section": 12}},
)


def frame(
    method: str, task: str = "mimic_report", n: int = 80, unparsed: int = 0, binary: bool = False, stated: bool = True
) -> pd.DataFrame:
    """Records of n examples in n / 4 clusters; examples, clusters and correctness are the same for every method."""
    world = np.random.default_rng(0)
    chance = world.random(n)
    correctness = (world.random(n) < chance).astype(float) if binary else np.clip(chance + 0.1, 0, 1)
    noise = np.random.default_rng(sum(method.encode())).random(n)
    confidence = np.rint(5 * (chance + noise)) / 10
    ok = np.arange(n) >= unparsed
    return pd.DataFrame(
        {
            "task": task,
            "method": method,
            "example": [f"e{i:04}" for i in range(n)],
            "cluster": [f"p{i // 4}" for i in range(n)],
            "claim": 0,
            "confidence": np.where(ok & stated, confidence, np.nan),
            "correctness": correctness,
            "status": np.where(ok, "ok", "no_confidence"),
            "response": [f"{method}-{i}" for i in range(n)],
        }
    )


def sentences(method: str, n: int = 90, **options: Any) -> pd.DataFrame:
    """Records of n sentences, three to a report, with the reports' qualities and the answers' probabilities."""
    data = frame(method, "mimic_sentence", n, binary=True, **options)
    data["example"], data["claim"] = [f"e{i // 3:04}" for i in range(n)], np.arange(n) % 3
    data["cluster"] = [f"p{i // 9}" for i in range(n)]
    data["quality"] = data.groupby("example")["correctness"].transform("mean")
    if data["confidence"].isna().all():
        return data
    for column, least in QUALITY_ABOVE.items():
        left = data["correctness"].where(data["confidence"] > least - 1e-9, 0)
        data[column] = left.groupby(data["example"]).transform("sum") / 3
    distance = np.abs(np.arange(11) - 10 * data["confidence"].to_numpy()[:, None])
    data[list(LEVEL_PROBABILITIES)] = np.where(distance < 0.5, 0.5, 0.4 * np.exp(-distance))
    return data


SENTENCES: dict[str, Any] = {
    "scorers": {"mimic_sentence": ("phantom_precision_green", "Precision phantom-GREEN")},
    "quality": {"mimic_sentence": ("phantom_green", "phantom-GREEN")},
    "granularities": {"mimic_sentence": "sentence"},
}


def board_of(*frames: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    records = {(str(f["task"].iloc[0]), str(f["method"].iloc[0])): f for f in frames}
    return build(records, CONTEXT.model_copy(update=changes))


def row_of(board: dict[str, Any], method: str, task: str = "mimic_report") -> dict[str, Any]:
    return next(row for row in board["rows"] if (row["method"], row["task"]) == (method, task))


def main_table(page: str) -> list[list[str]]:
    """The cells of the first task's main table: its header, the rule below it, its rows."""
    lines = page[page.index("| method | ", page.index("\n## mimic_")) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def sample_of(data: pd.DataFrame) -> Sample:
    clusters = {name: i for i, name in enumerate(sorted(set(data["cluster"])))}
    unit = np.array([clusters[name] for name in data["cluster"]])
    return Sample(np.array(data["confidence"]), np.array(data["correctness"]), unit, len(clusters))


def test_values_and_intervals_are_those_of_the_metrics() -> None:
    conrad, verbalized = frame("conrad"), frame("verbalized")
    row = row_of(board_of(conrad, verbalized), "conrad")
    a, b = sample_of(conrad), sample_of(verbalized)
    replicates = bootstrap([brier(a), brier(b)], a.units, 300, 0)
    low, high = interval(replicates[0], effective=20)
    assert row["metrics"]["brier"] == pytest.approx({"value": a.value(brier(a)), "low": low, "high": high}, abs=1e-8)
    value = a.value(brier(a)) - b.value(brier(b))
    half = t.ppf(0.975, 19) * np.std(replicates[0] - replicates[1], ddof=1)
    expected = {"value": value, "low": value - half, "high": value + half}
    assert row["difference"]["metrics"]["brier"] == pytest.approx(expected, abs=1e-8)
    assert row["metrics"]["ece"] == {"value": pytest.approx(a.value(ece(a)), abs=1e-8), "low": None, "high": None}
    assert (row["n"], row["n_clusters"], row["claims"], row["unparsed_rate"]) == (80, 20, 80, 0.0)
    assert row["difference"]["baseline"] == "verbalized"
    assert "worst_case" not in row


def test_weights_do_not_depend_on_which_methods_run() -> None:
    alone = row_of(board_of(frame("conrad")), "conrad")
    beside = row_of(board_of(frame("conrad"), frame("verbalized", unparsed=40), frame("probe")), "conrad")
    assert alone["metrics"] == beside["metrics"]
    assert alone["reliability"] == beside["reliability"]
    assert "difference" not in alone


def test_equal_methods_differ_by_exactly_nothing() -> None:
    twin = frame("verbalized").assign(method="twin")
    for estimate in row_of(board_of(frame("verbalized"), twin), "twin")["difference"]["metrics"].values():
        assert estimate == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_difference_is_over_the_clusters_that_both_have() -> None:
    board = board_of(frame("conrad"), frame("verbalized", unparsed=40))
    difference = row_of(board, "conrad")["difference"]
    half = row_of(board_of(frame("conrad")[40:], frame("verbalized")[40:]), "conrad")["difference"]
    assert difference["n_units"] == half["n_units"] == 10
    for name, estimate in difference["metrics"].items():
        assert estimate["value"] == half["metrics"][name]["value"]


def test_quality_counts_each_response_once() -> None:
    data = sentences("conrad", unparsed=20)
    board = board_of(data, sentences("verbalized"), **SENTENCES)
    row = row_of(board, "conrad", "mimic_sentence")
    each = data.drop_duplicates("example")
    quality = row["metrics"]["quality"]
    assert quality["value"] == pytest.approx(each["quality"].mean())
    assert row["flagging"]["thresholds"][0]["quality"] == quality
    assert row["flagging"]["thresholds"][0]["precision"] == row["metrics"]["correctness"]
    # All responses count, those of unparsed sentences too, so the two methods differ by nothing.
    assert row["difference"]["metrics"]["quality"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "quality" not in row["worst_case"]
    names = [metric["name"] for metric in board["metrics"]]
    assert names[names.index("correctness") + 1] == "quality"
    assert "Precision phantom-GREEN ↑" in main_table(markdown(board))[0]
    assert "The same in every row: phantom-GREEN 0." in markdown(board)
    assert "quality of whole responses phantom-GREEN (scorer `phantom_green`)" in markdown(board)


def test_quality_intervals_resample_patients() -> None:
    data = sentences("conrad")
    quality = row_of(board_of(data, **SENTENCES), "conrad", "mimic_sentence")["metrics"]["quality"]
    each = data.drop_duplicates("example")
    alone = each.assign(confidence=0.5, correctness=each["quality"])
    low, high = interval(bootstrap([mean_correctness(sample_of(alone))], 10, 300, 0)[0], effective=10)
    assert (quality["low"], quality["high"]) == pytest.approx((low, high), abs=1e-8)


def test_a_quality_that_no_scorer_gave_is_an_attribute() -> None:
    """Without a quality scorer the column is not shown, whatever an older file calls by this name."""
    board = board_of(frame("conrad").assign(quality=0.3))
    row = row_of(board, "conrad")
    assert "quality" not in row["metrics"]
    assert board["tasks"]["mimic_report"]["quality"] is None
    assert board["tasks"]["mimic_report"]["granularity"] == "report"
    assert "flagging" not in row
    assert "whole responses" not in markdown(board)


def test_the_base_model_shows_dashes_for_calibration() -> None:
    board = board_of(sentences("base", stated=False), sentences("verbalized"), **SENTENCES)
    row = row_of(board, "base", "mimic_sentence")
    assert list(row["metrics"]) == ["brier_unc", "correctness", "quality"]
    assert not {"flagging", "tokens", "figure", "before_after", "token_figure"} & set(row)
    header, _, *lines = main_table(markdown(board))
    cells = dict(zip(header, next(line for line in lines if line[0] == "base"), strict=True))
    assert {cells[title] for title in ("Brier ↓", "skill ↑", "ECE ↓", "AUROC ↑")} == {"–"}
    # The same answers: mean correctness and quality have no column, but a line.
    assert "The same in every row: Precision phantom-GREEN 0." in markdown(board)


def test_the_page_has_tables_of_flagging_and_answers() -> None:
    board = board_of(sentences("conrad"), sentences("verbalized+isotonic"), **SENTENCES)
    page = markdown(board)
    assert "<summary>Flagging on mimic_sentence</summary>" in page
    assert "<summary>Confidence answers on mimic_sentence</summary>" in page
    lines = page[page.index("<summary>Flagging") :].splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| conrad")][:4]
    assert [line[2] for line in rows] == ["all", "≥ 6", "≥ 8", "= 10"]
    for line, point in zip(rows, row_of(board, "conrad", "mimic_sentence")["flagging"]["thresholds"], strict=True):
        assert line[3] == str(point["n"])
        value = point["precision"]["value"]
        assert line[5].startswith(f"{value:.3f}" if point["n"] else "–")
    words = {"rises": "yes", "falls": "no, it falls"}
    trend = row_of(board, "conrad", "mimic_sentence")["flagging"]["trend"]
    assert f"`conrad` {words[trend]}" in page
    assert "](figures/tokens_verbalized+isotonic@mimic_sentence.svg)" in page
    assert "nan" not in page.lower()


def test_unparsed_claims_are_counted_and_in_the_worst_case() -> None:
    data = frame("conrad", unparsed=20)
    row = row_of(board_of(data), "conrad")
    assert (row["n"], row["claims"], row["unparsed"], row["unparsed_rate"]) == (60, 80, {"no_confidence": 20}, 0.25)
    assert row["n_clusters"] == 15
    ok = data[20:]
    error = ((ok["confidence"] - ok["correctness"]) ** 2).sum()
    assert row["metrics"]["brier"]["value"] == pytest.approx(error / 60)
    assert row["worst_case"]["brier"] == pytest.approx((error + 20) / 80)
    assert row["worst_case"]["correctness"] == pytest.approx(ok["correctness"].sum() / 80)
    assert row["worst_case"]["ece"] > row["metrics"]["ece"]["value"]
    assert "pearson" not in row["worst_case"]


def test_the_worst_case_is_never_better_than_the_case() -> None:
    """Underconfident claims near 1, where wrong claims stated with 1 would balance the gap; and the other end."""
    random = np.random.default_rng(0)
    for at, rest in ((0.94, 1.0), (0.06, 0.0)):
        data = frame("conrad", n=200, unparsed=12).assign(correctness=rest)
        data["confidence"] = np.where(data["status"] == "ok", at + 0.05 * random.uniform(-1, 1, 200), np.nan)
        row = row_of(board_of(data), "conrad")
        ok = sample_of(data[12:])
        value = row["metrics"]["ece"]["value"]
        fills = []
        for confidence, correctness in ((1.0, 0.0), (0.0, 1.0)):
            parsed = data["status"] == "ok"
            filled = data.assign(
                confidence=data["confidence"].where(parsed, confidence),
                correctness=data["correctness"].where(parsed, correctness),
            )
            fills.append(sample_of(filled).value(ece(sample_of(filled))))
        assert value == pytest.approx(ok.value(ece(ok)), abs=1e-8)
        assert min(fills) < value < max(fills)
        assert row["worst_case"]["ece"] == pytest.approx(max(fills), abs=1e-8)


def test_effective_clusters_are_said_and_few_of_them_warned_of() -> None:
    sizes = [30, 20, 10, 5, 5, 5, 5]
    cluster = np.repeat([f"p{i}" for i in range(7)], sizes)
    row = row_of(board_of(frame("conrad").assign(cluster=cluster)), "conrad")
    assert row["effective_clusters"] == pytest.approx(80**2 / sum(size**2 for size in sizes), abs=1e-8)
    assert row["warning"] == "4.3 effective clusters, fewer than 8: too few for intervals and p values"
    assert all(estimate["low"] is None for estimate in row["metrics"].values())
    usual = row_of(board_of(frame("conrad")), "conrad")
    assert usual["warning"] == "20.0 effective clusters, fewer than 30: intervals and p values are rough"
    assert usual["metrics"]["brier"]["low"] is not None
    assert usual["ece_null"] is None
    assert usual["ece_null_reason"] == "20.0 effective clusters, fewer than 30"
    many = row_of(board_of(frame("conrad", n=160)), "conrad")
    assert (many["effective_clusters"], many["warning"]) == (40.0, None)
    page = markdown(board_of(frame("conrad"), frame("verbalized")))
    assert "Few clusters: verbalized, conrad: 20.0 effective clusters, fewer than 30" in page
    assert "The same in every row: phantom-GREEN " in page
    assert "; clusters (effective) 20 (20.0); unparsed 0.0%." in page
    # One patient with half of the claims: as many as four of equal size.
    half = frame("conrad").assign(cluster=["p0"] * 40 + [f"q{i}" for i in range(40)])
    assert row_of(board_of(half), "conrad")["effective_clusters"] == pytest.approx(80**2 / (40**2 + 40), abs=1e-8)


def test_what_does_not_vary_has_no_interval() -> None:
    """Every answer right says little about how many would be wrong: [1, 1] would claim that none ever is."""
    row = row_of(board_of(frame("conrad", n=160).assign(correctness=1.0)), "conrad")
    assert row["metrics"]["correctness"] == {"value": 1.0, "low": None, "high": None}
    constant = frame("conrad", n=160).assign(correctness=1.0, confidence=0.99)
    row = row_of(board_of(constant), "conrad")
    assert row["metrics"]["brier"] == {"value": pytest.approx(0.0001), "low": None, "high": None}
    assert row["ece_null"] is None
    assert "too few answers differ" in row["ece_null_reason"]


def test_one_percent_unparsed_is_no_worst_case() -> None:
    assert "worst_case" not in row_of(board_of(frame("conrad", n=400, unparsed=4)), "conrad")
    assert "worst_case" in row_of(board_of(frame("conrad", n=400, unparsed=5)), "conrad")


def test_a_method_that_parsed_nothing_has_a_row() -> None:
    board = board_of(frame("conrad", unparsed=80), frame("verbalized"))
    row = row_of(board, "conrad")
    assert (row["n"], row["n_clusters"], row["unparsed_rate"]) == (0, 0, 1.0)
    assert row["metrics"]["ece"] == {"value": None, "low": None, "high": None}
    assert row["worst_case"]["ece"] == 1.0
    assert "figure" not in row
    assert "conrad" in markdown(board)


def test_a_method_without_confidences_shows_correctness_alone() -> None:
    board = board_of(frame("report_only", stated=False), frame("verbalized"))
    row = row_of(board, "report_only")
    assert list(row["metrics"]) == ["brier_unc", "correctness"]
    assert list(row["difference"]["metrics"]) == ["correctness"]
    assert "figure" not in row
    assert "collapse" not in row
    last = [line for line in markdown(board).splitlines() if line.startswith("| ")][-1]
    assert last.startswith("| report_only")


def test_auroc_is_for_binary_correctness_only() -> None:
    board = board_of(frame("conrad"), frame("conrad", "yes_no", binary=True))
    assert "auroc" not in row_of(board, "conrad")["metrics"]
    auroc = row_of(board, "conrad", "yes_no")["metrics"]["auroc"]
    assert 0.5 < auroc["low"] < auroc["value"] < auroc["high"] <= 1


def test_undefined_numbers_are_null() -> None:
    constant = row_of(board_of(frame("conrad").assign(confidence=0.8)), "conrad")
    assert constant["metrics"]["pearson"] == {"value": None, "low": None, "high": None}
    assert constant["collapse"] == {"distinct": 1, "entropy": 0.0, "largest_mass": 1.0}
    lone = row_of(board_of(frame("conrad").assign(cluster="p0")), "conrad")
    assert lone["metrics"]["ece"]["value"] is not None
    assert lone["metrics"]["ece"]["low"] is None
    single = row_of(board_of(frame("conrad", n=1)), "conrad")
    assert single["metrics"]["pearson"]["value"] is None


def test_claims_as_units_ignore_the_clusters() -> None:
    data = frame("conrad")
    claims = row_of(board_of(data, unit="claim"), "conrad")["metrics"]["pearson"]
    apart = sample_of(data.assign(cluster=data["example"]))
    low, high = interval(bootstrap([pearson(apart)], 80, 300, 0)[0], effective=80)
    assert (claims["low"], claims["high"]) == pytest.approx((low, high), abs=1e-8)


def test_reliability_points_add_up_to_ece() -> None:
    for data in (frame("conrad"), frame("conrad").assign(confidence=np.linspace(0, 1, 80) ** 2)):
        row = row_of(board_of(data), "conrad")
        total = sum(p["n"] * abs(p["confidence"] - p["correctness"]["value"]) for p in row["reliability"]) / row["n"]
        assert total == pytest.approx(row["metrics"]["ece"]["value"], abs=1e-8)
        assert sum(p["n"] for p in row["reliability"]) == row["n"]
        assert row["grouping"] == ("level" if len(set(data["confidence"])) <= 21 else "bin")


def test_the_run_folder_is_written_and_its_bytes_repeat(tmp_path: Path) -> None:
    """Neither the order of rows nor writing again changes a byte."""
    runs = [tmp_path / "a", tmp_path / "b"]
    for run, seed in zip(runs, (1, 2), strict=True):
        for method, unparsed in (("conrad", 0), ("verbalized", 8)):
            data = frame(method, n=40, unparsed=unparsed).sample(frac=1, random_state=seed)
            write_records(records_path(run, method, "mimic_report"), data)
        board = write_leaderboard(run, CONTEXT)
    names = sorted(str(path.relative_to(runs[0])) for path in runs[0].rglob("*") if path.is_file())
    drawn = ("before_after_conrad", "reliability_conrad", "reliability_verbalized")
    figures = [f"figures/{name}@mimic_report.{suffix}" for name in drawn for suffix in ("png", "svg")]
    pages = [f"leaderboard.{suffix}" for suffix in ("csv", "html", "json", "md", "tex")]
    assert [name for name in names if not name.startswith("records/")] == [
        *figures,
        *pages,
    ]
    for name in (*figures, *pages):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name
    text = (runs[0] / "leaderboard.json").read_text()
    assert json.loads(text) == board
    assert markdown(json.loads(text)) == (runs[0] / "leaderboard.md").read_text()
    assert text == json.dumps(board, indent=1, sort_keys=True) + "\n"
    assert board["format"] == 3
    for link in figures[1::2]:
        assert f"]({link})" in (runs[0] / "leaderboard.md").read_text()


def test_a_run_of_sentences_repeats_its_bytes(tmp_path: Path) -> None:
    runs, methods = [tmp_path / "a", tmp_path / "b"], ("base", "sft", "verbalized", "verbalized+isotonic")
    for run, seed in zip(runs, (1, 2), strict=True):
        for method in methods:
            data = sentences(method, stated=method != "base").sample(frac=1, random_state=seed)
            if method != "sft":
                data = data.drop(columns=list(LEVEL_PROBABILITIES), errors="ignore")
            write_records(records_path(run, method, "mimic_sentence"), data)
        write_leaderboard(run, CONTEXT.model_copy(update=SENTENCES))
    names = ["before_after_sft", "tokens_sft", *(f"reliability_{method}" for method in methods[1:])]
    drawn = {f"{name}@mimic_sentence{suffix}" for name in names for suffix in (".png", ".svg")}
    assert {path.name for path in (runs[0] / "figures").iterdir()} == drawn
    for path in runs[0].rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            assert path.read_bytes() == (runs[1] / path.relative_to(runs[0])).read_bytes(), path.name


def test_the_page_says_what_it_must() -> None:
    board = board_of(frame("conrad"), frame("verbalized", unparsed=20))
    page = markdown(board)
    lines = page.splitlines()
    unc = sorted(row["metrics"]["brier_unc"]["value"] for row in board["rows"])
    assert lines[0] == "# Confidence of tiny on phantom (synthetic)"
    assert "nothing about real radiographs" in page
    header, rule, *body = main_table(page)
    assert header == [
        "method", "rank", "Brier ↓", "skill ↑", "cal. error ↓", "ECE ↓", "Somers' D ↑", "phantom-GREEN ↑", "n",
        "clusters (effective)", "unparsed", "worst case",
    ]  # fmt: skip
    assert rule == [":---"] + ["---:"] * 11
    assert [cells[0] for cells in body] == ["verbalized", "conrad", "always states the mean"]
    assert body[0][-2] == "25.0%"
    assert body[2][2:6] == [f"{unc[0]:.3f} to {unc[1]:.3f}", "0.000", "0.000", "0.000"]
    row = row_of(board_of(frame("conrad"), frame("verbalized", unparsed=20)), "conrad")
    value = row["metrics"]["ece_debiased"]
    assert f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" in page
    assert re.search(rf"\| +{row['metrics']['ece']['value']:.3f} +\|", page)
    for words in ("300 replicates", "20 clusters", "Seed 0", "commit abc1234", "0.1.0", "no findings section (12)"):
        assert words in page
    assert "nan" not in page.lower()


@pytest.mark.parametrize(("methods", "tables"), [(1, [1]), (6, [6]), (7, [3, 4]), (13, [4, 4, 5])])
def test_a_page_has_no_table_that_is_too_wide_for_it(methods: int, tables: list[int]) -> None:
    names = [f"m{number}" for number in range(methods)]
    page = markdown(board_of(*(frame(name, n=20) for name in names)))
    headers = [line for line in page.splitlines() if line.startswith("| metric ")]
    assert [line.count("|") - 2 for line in headers] == tables
    assert sorted(re.findall(r"m\d+", " ".join(headers))) == sorted(names)


def test_real_data_are_not_called_phantom() -> None:
    board = board_of(frame("conrad"), phantom=False, data="MIMIC-CXR-JPG 2.1.0")
    assert board["title"] == "Confidence of tiny on MIMIC-CXR-JPG 2.1.0"
    assert "nothing about real radiographs" not in markdown(board)
    assert "synthetic" in board_of(frame("conrad"), data="something else")["title"]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_console_table_fits(width: int) -> None:
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(width=width, file=buffer)
    frames = [frame("conrad"), frame("verbalized", "yes_no", binary=True, unparsed=9)]
    frames += [sentences(method) for method in ("sequence_probability", "verbalized+isotonic")]
    scorers = CONTEXT.scorers | SENTENCES["scorers"]
    console.print(table_for_console(board_of(*frames, **{**SENTENCES, "scorers": scorers})))
    text = buffer.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for word in ("conrad", "verbalized", "ECE", "AUROC", "11.2%", "phantom (synthetic)", "Precision", "+isotonic"):
        assert word in text


@pytest.mark.parametrize(
    ("models", "tiny"),
    [
        (["phantom-gemma3 (embedded)"], True),
        (["google/medgemma-4b-it"], False),
        (["phantom-gemma3 (embedded)", "google/medgemma-4b-it"], False),
    ],
)
def test_the_model_is_tiny_only_where_it_was(models: list[str], tiny: bool) -> None:
    one = {"name": "a", "version": "1", "commit": "c", "finished": True}
    runs = [{**one, "model": model} for model in models]
    context = CONTEXT.model_copy(update={"model": ", ".join(models), "runs": runs if len(runs) > 1 else []})
    page = markdown(build({("mimic_report", "conrad"): frame("conrad")}, context))
    assert "These numbers come from phantom images that a program drew" in page
    assert ("a tiny model" in page) == tiny


def test_what_is_wrong_in_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no records"):
        write_leaderboard(tmp_path, CONTEXT)
    path = records_path(tmp_path, "conrad", "mimic_report")
    write_records(path, frame("conrad", n=4))
    renamed = records_path(tmp_path, "probe", "mimic_report")
    path.rename(renamed)
    with pytest.raises(DataError, match=r"probe@mimic_report\.parquet holds the records of conrad@mimic_report"):
        write_leaderboard(tmp_path, CONTEXT)
    renamed.write_bytes(b"torn")
    with pytest.raises(StorageError, match="probe@mimic_report"):
        write_leaderboard(tmp_path, CONTEXT)
    renamed.unlink()
    write_records(records_path(tmp_path, "conrad", "unknown"), frame("conrad", "unknown"))
    with pytest.raises(
        DataError, match=r"conrad@unknown\.parquet holds records of task 'unknown', which is not a task"
    ):
        write_leaderboard(tmp_path, CONTEXT)


def test_records_read_back_give_the_same_board(tmp_path: Path) -> None:
    data = frame("conrad", unparsed=3)
    write_records(tmp_path / "r.parquet", data)
    assert board_of(read_records(tmp_path / "r.parquet")) == board_of(data)
