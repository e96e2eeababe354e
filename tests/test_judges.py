"""Judges against radiologists: agreement with scipy and with the definitions, and what is refused."""

from __future__ import annotations

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, ConradBenchError, DataError
from conrad_bench.leaderboards.inference.bootstrap import interval, weight_blocks
from conrad_bench.leaderboards.judges import as_csv, judges_table, markdown
from conrad_bench.leaderboards.metrics.base import effective_number

DATA = Path(os.environ.get("CONRAD_BENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
TOY = Path(__file__).parent / "toy.py"


def reports(patients: int = 40, seed: int = 0, errors: bool = True) -> pd.DataFrame:
    """Three or four candidates for each study, one or two studies for each patient; two radiologists count errors."""
    random = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        for study in range(random.integers(1, 3)):
            for _ in range(random.integers(3, 5)):
                quality = random.normal()
                counted = [max(0, round(2 - quality + random.normal(scale=0.7))) for _ in range(2)]
                ann, bob = counted if errors else [-n for n in counted]
                rows.append(
                    {
                        "example": f"s{patient}-{study}",
                        "patient": f"p{patient}",
                        "ann": ann,
                        "bob": bob,
                        "good": round(quality + random.normal(scale=0.5), 1),
                        "poor": round(quality + random.normal(scale=3), 1),
                    }
                )
    return pd.DataFrame(rows)


LOWER = ["ann", "bob"]


def table(frame: pd.DataFrame, lower: list[str] = LOWER, **more: Any) -> dict[str, Any]:
    named = frame.assign(**{"(place)": [f"row {i}" for i in range(len(frame))]})
    return judges_table(named, ["ann", "bob"], ["good", "poor"], lower, **{"replicates": 200, **more})


def pairwise(score: Any, rating: Any, study: Any) -> float:
    """The definition, pair by pair."""
    found = []
    for a, b in combinations(range(len(score)), 2):
        if study[a] == study[b] and rating[a] != rating[b]:
            found.append(0.5 if score[a] == score[b] else float((score[a] > score[b]) == (rating[a] > rating[b])))
    return float(np.mean(found)) if found else float("nan")


@pytest.mark.parametrize("seed", range(5))
def test_values_are_scipys_and_those_of_the_definition(seed: int) -> None:
    frame = reports(seed=seed)
    frame.loc[frame.index % 7 == 0, "good"] = np.nan
    frame.loc[frame.index % 5 == 0, "ann"] = np.nan
    frame.loc[frame.index % 35 == 0, "bob"] = np.nan  # nobody rated these
    found = table(frame)
    rating = -frame[["ann", "bob"]].mean(axis=1)
    for entry in found["judges"]:
        known = frame[entry["name"]].notna() & rating.notna()
        score, rated, study = frame[entry["name"]][known], rating[known], frame["example"][known]
        metrics = {name: value["value"] for name, value in entry["metrics"].items()}
        assert metrics["kendall"] == pytest.approx(stats.kendalltau(score, rated).statistic)
        assert metrics["spearman"] == pytest.approx(stats.spearmanr(score, rated).statistic)
        assert metrics["pairwise"] == pytest.approx(pairwise(score.to_numpy(), rated.to_numpy(), study.to_numpy()))
        assert entry["reports"] == known.sum()
        assert entry["missing"] == (rating.notna() & frame[entry["name"]].isna()).sum()
    assert found["rated"] == rating.notna().sum()
    both = frame["ann"].notna() & frame["bob"].notna()
    ann = found["radiologists"][0]
    assert ann["metrics"]["kendall"]["value"] == pytest.approx(
        stats.kendalltau(frame["ann"][both], frame["bob"][both]).statistic
    )


def test_intervals_draw_patients_whole() -> None:
    frame = reports()
    found = table(frame)["judges"][0]["metrics"]
    patient = np.unique(frame["patient"], return_inverse=True)[1]
    rating, units = -frame[["ann", "bob"]].mean(axis=1).to_numpy(), patient.max() + 1
    score, study = frame["good"].to_numpy(), frame["example"].to_numpy()
    pairs = np.array([pairwise(*(x[patient == p] for x in (score, rating, study))) for p in range(units)])
    differ = np.array(
        [sum(rating[a] != rating[b] for a, b in same_study(study, patient == p)) for p in range(units)], float
    )
    spearman, agreed = [], []
    for weights in next(weight_blocks(units, 200, 0, 200)):
        rows = np.repeat(np.arange(len(frame)), weights[patient].astype(int))
        spearman.append(stats.spearmanr(score[rows], rating[rows]).statistic)
        agreed.append(np.nansum(weights * differ * pairs) / (weights * differ).sum())
    sizes = np.bincount(patient).astype(float)
    for name, replicates, effective in (
        ("spearman", spearman, effective_number(sizes)),
        ("pairwise", agreed, effective_number(differ)),
    ):
        expected = interval(np.array(replicates), effective=effective)
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(expected, abs=1e-8)


def same_study(study: Any, rows: Any) -> list[tuple[int, int]]:
    return [(a, b) for a, b in combinations(np.flatnonzero(rows), 2) if study[a] == study[b]]


def test_direction_order_and_scale_change_nothing() -> None:
    frame = reports()
    found = table(frame)
    accepted = table(frame.assign(ann=-frame["ann"], bob=-frame["bob"]), lower=[])
    turned = table(frame.assign(good=5 - 3 * frame["good"]), lower=[*LOWER, "good"])
    shuffled = table(frame.sample(frac=1, random_state=1))
    for other in (accepted, turned, shuffled):
        for mine, same in zip(found["judges"], other["judges"], strict=True):
            assert mine["metrics"] == same["metrics"]
            assert (mine["pairs"], mine["ties"]) == (same["pairs"], same["ties"])
        assert found["comparisons"] == other["comparisons"]
    assert turned["judges"][0]["better"] == "lower"
    upside_down = table(frame, lower=[])
    assert upside_down["judges"][0]["metrics"]["kendall"]["value"] == -found["judges"][0]["metrics"]["kendall"]["value"]


def test_judges_are_compared_on_what_both_scored() -> None:
    frame = reports()
    frame.loc[::3, "poor"] = np.nan
    found = {pair["metric"]: pair for pair in table(frame)["comparisons"]}
    both = frame["poor"].notna()
    rating = -frame[["ann", "bob"]].mean(axis=1)[both]
    taus = [stats.kendalltau(frame[name][both], rating).statistic for name in ("good", "poor")]
    assert found["kendall"]["value"] == pytest.approx(taus[0] - taus[1])
    assert found["pairwise"]["p_holm"] < 0.05
    assert found["pairwise"]["low"] > 0


def test_without_studies_there_are_no_pairs_and_without_patients_it_is_said() -> None:
    alone = table(reports().drop(columns=["example", "patient"]))
    assert alone["judges"][0]["pairs"] is None
    assert alone["resampled"] == "reports"
    page = markdown(alone)
    assert "--map example=COLUMN" in page
    assert "independent of each other" in page
    assert "pairwise" not in alone["judges"][0]["metrics"]
    assert table(reports().drop(columns="patient"))["resampled"] == "studies"


def test_pages_and_csv_say_the_same_numbers() -> None:
    found = table(reports())
    page, rows = markdown(found), as_csv(found).splitlines()
    value = found["judges"][0]["metrics"]["kendall"]
    assert f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" in page
    assert "| ann ↓, radiologist" in page
    assert rows[1].startswith(f"good,judge,higher,kendall,{value['value']},")
    assert len(rows) == 1 + 3 * 4


def test_everything_equal_is_undefined_and_no_error() -> None:
    found = table(reports().assign(good=1.0))
    assert found["judges"][0]["metrics"]["kendall"]["value"] is None
    assert found["judges"][0]["metrics"]["pairwise"]["value"] == 0.5
    none = table(reports().assign(ann=1, bob=1))
    assert none["judges"][0]["pairs"] == 0
    assert "–" in markdown(none)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"lower": ["ann"]}, "one scale"),
        ({}, {"lower": ["cost"]}, "--lower-is-better: unknown column 'cost'"),
        ({"good": "fine"}, {}, "row 0, column 'good': is no number"),
        ({"patient": lambda frame: range(len(frame))}, {}, "is not the one that the study has in another row"),
        ({"ann": np.nan, "bob": np.nan}, {}, "no row has a rating"),
        ({"example": "one"}, {}, "is not the one that the study has"),
        ({"example": None}, {}, "row 0, column 'example': is missing"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConradBenchError, match=message) as caught:
        table(reports().assign(**change), **arguments)
    assert isinstance(caught.value, ConfigError | DataError)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["judges", *map(str, arguments)])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_the_command_reads_files_and_writes_three(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / f"pairs.{suffix}", tmp_path / "out"
    frame = reports().rename(columns={"example": "study"})
    if suffix == "parquet":
        frame.to_parquet(source)
    elif suffix == "jsonl":
        frame.to_json(source, orient="records", lines=True)
    else:
        frame.to_csv(source, index=False, sep="," if suffix == "csv" else "\t")
    options = ["--ratings", "ann,bob", "--judges", "good,poor", "--lower-is-better", "ann,bob"]
    found = invoke(source, *options, "--map", "example=study", "--replicates", 200, "--out", out)
    assert found.exit_code == 0, found.output
    assert json.loads((out / "judges.json").read_text()) == table(reports())
    assert (out / "judges.md").read_text() in found.output
    assert (out / "judges.csv").read_text() == as_csv(table(reports()))
    again = invoke(source, *options, "--map", "example=study", "--replicates", 200, "--out", out)
    assert again.exit_code == 0


TEXTS = """study,patient,reference,response,errors
1,p1,yes,yes,0
1,p1,yes,no,1
2,p2,no,maybe,1
"""


def test_scorers_of_ours_judge_the_texts_and_failures_are_counted(tmp_path: Path) -> None:
    source, out = tmp_path / "pairs.csv", tmp_path / "out"
    source.write_text(TEXTS)
    options = ["--ratings", "errors", "--lower-is-better", "errors", "--map", "example=study"]
    found = invoke(source, *options, "--scorer", "toy_match,vqa_match", "--plugin", TOY, "--out", out)
    assert found.exit_code == 0, found.output
    first, second = json.loads((out / "judges.json").read_text())["judges"]
    assert (first["name"], first["reports"], first["missing"]) == ("toy_match", 3, 0)
    assert (second["name"], second["reports"], second["missing"]) == ("vqa_match", 2, 1)
    assert first["metrics"]["pairwise"]["value"] == second["metrics"]["pairwise"]["value"] == 1
    assert "maybe" not in "".join(path.read_text() for path in out.glob("judges.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratings", "errors"], "name judges"),
        (["--ratings", "errors", "--judges", "score"], "--judges: unknown column 'score'"),
        (
            ["--ratings", "wrongs", "--scorer", "vqa_match"],
            "--ratings: unknown column 'wrongs' (columns: study, patient,",
        ),
        (["--ratings", "errors", "--scorer", "errors"], "the file has a column of that name"),
        (["--ratings", "errors", "--judges", "errors"], "column 'errors' is named twice"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path: Path, options: list[str], message: str) -> None:
    source = tmp_path / "pairs.csv"
    source.write_text(TEXTS)
    found = invoke(source, *options)
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    source = tmp_path / "pairs.csv"
    source.write_text(TEXTS)
    found = invoke(source, "--ratings", "errors", "--scorer", "vqa_match", "--out", tmp_path)
    assert "holds no comparison of judges" in str(found.exception)


def test_published_pairs_of_reports(tmp_path: Path) -> None:
    """Real pairs; the ratings are ours: what each pair's own narrative says is wrong with it."""
    path = DATA / "radeval-fixtures" / "docs" / "benchmarks" / "fixtures" / "divergence_examples.json"
    if not path.is_file():
        pytest.skip("radeval's published example pairs are not here")
    errors = [0, 1, 1, 1, 0, 2, 1, 2]
    rows = [
        {"reference": row["ref"], "response": row["hyp"], "errors": n, "words": len(row["hyp"].split())}
        for row, n in zip(json.loads(path.read_text()), errors, strict=True)
    ]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = invoke(
        source, "--ratings", "errors", "--lower-is-better", "errors", "--judges", "words", "--scorer", "toy_match",
        "--plugin", TOY, "--granularity", "answer", "--out", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    judges = {entry["name"]: entry for entry in json.loads((tmp_path / "out" / "judges.json").read_text())["judges"]}
    same = [row["reference"] == row["response"] for row in rows]
    assert judges["toy_match"]["metrics"]["kendall"]["value"] == pytest.approx(
        stats.kendalltau(same, [-n for n in errors]).statistic
    )
