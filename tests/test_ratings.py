"""Clinical ratings: the file is read strictly, and the table agrees with independent computations."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from conrad_bench.errors import DataError
from conrad_bench.leaderboards import agreement as agreeing
from conrad_bench.leaderboards.agreement import agreement_table, alpha, kappa
from conrad_bench.leaderboards.inference.bootstrap import weight_blocks
from conrad_bench.leaderboards.rating_files import read_ratings
from conrad_bench.leaderboards.ratings import markdown, ratings_table, targets
from conrad_bench.records import records_path, write_records

HEADER = "rater,report,sentence,rating\n"
REPORTS = [f"s{i:02d}" for i in range(24)]
REPLICATES, SEED = 400, 7


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def csv_of(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def test_a_file_is_read_by_column_name(tmp_path: Path) -> None:
    text = '\ufeffsentence,text,rating,rater,report\n0,"Heart, lungs\nnormal.",5,ann,s01\n\n1,Clear., 4 ,ann,s01\n'
    frame = read_ratings(written(tmp_path / "r.csv", text))
    assert frame.to_dict("list") == {
        "rater": ["ann", "ann"],
        "report": ["s01", "s01"],
        "method": ["", ""],
        "response": ["", ""],
        "sentence": [0, 1],
        "rating": [5, 4],
        "line": [3, 5],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "ann,s01,0,5\n,s01,0,4\n", r"r\.csv, line 3: no rater"),
        (HEADER + "ann,,0,5\n", "line 2: no report"),
        (HEADER + "ann,s01\n", "line 2: no sentence"),
        (HEADER + "ann,s01,0,6\n", "line 2: the rating is none of 1, 2, 3, 4, 5"),
        (HEADER + "ann,s01,0,4.5\n", "line 2: the rating is none"),
        (HEADER + "ann,s01,-1,4\n", "line 2: the sentence is no index"),
        (HEADER + "ann,s01,²,4\n", "line 2: the sentence is no index"),
        (
            HEADER + "ann,s01,0,4\nbob,s01,0,4\nann,s01,00,5\n",
            "line 4: this rater rated the same sentence before, in l.* 2",
        ),
        (HEADER, "there are no ratings"),
        ("", "line 1: missing columns: rater, report, sentence, rating"),
        ("rater;report;sentence;rating\nann;s01;0;5\n", "line 1: missing columns"),
        ("rater,report,rating\nann,s01,5\n", "missing columns: sentence"),
        ("rater,report,sentence,rating,method\nann,s01,0,5,\n", "line 2: no method"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_ratings(written(tmp_path / "r.csv", text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(HEADER.encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match="no csv in UTF-8"):
        read_ratings(tmp_path / "r.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_ratings(tmp_path / "absent.csv")


def test_no_cell_is_ever_quoted(tmp_path: Path) -> None:
    """A column too many to the left, and a sentence of a report stands where its rating should."""
    with pytest.raises(DataError) as caught:
        read_ratings(written(tmp_path / "r.csv", HEADER + "ann,s01,0,Small left effusion.\n"))
    assert "effusion" not in str(caught.value)


cells = st.tuples(st.sampled_from("abc"), st.integers(0, 3))
ratings_of_one = st.dictionaries(cells, st.integers(1, 5), min_size=1)


@given(ratings_of_one)
def test_aggregations_are_their_definitions(given_ratings: dict[tuple[str, int], int]) -> None:
    scores, report = np.full((4, 3), np.nan), np.zeros(4, np.int64)
    for (rater, sentence), x in given_ratings.items():
        scores[sentence, "abc".index(rater)] = x
    for weights in ([1, 1, 1], [2, 0, 1], [0, 0, 3]):
        found = targets(scores, report, np.array(weights, float))
        counted = [(s, x) for (r, s), x in given_ratings.items() for _ in range(weights["abc".index(r)])]
        if not counted:
            assert np.isnan([found.mean[0], found.accepted[0], found.above[0], found.median]).all()
            continue
        assert found.mean[0] == pytest.approx(sum((x - 1) / 4 for _, x in counted) / len(counted))
        of_sentence = defaultdict(list)
        for sentence, x in counted:
            of_sentence[sentence].append(x >= 4)
        assert found.accepted[0] == float(all(2 * sum(votes) > len(votes) for votes in of_sentence.values()))
        assert (found.median, found.above[0]) == (found.mean[0], 0.0)


def alpha_of(rows: list[list[int | None]]) -> float:
    """Krippendorff's alpha of a table raters x items through the implementation under test."""
    triples = [(i, x, i) for row in rows for i, x in enumerate(row) if x is not None]
    item, rating, unit = (np.array(column, np.int64) for column in zip(*triples, strict=True))
    units = len(rows[0])
    return float(alpha(item, rating, unit, units)(np.ones((1, units)))[0])


def plain_alpha(rows: list[list[int | None]]) -> float:
    """Krippendorff's alpha, ordinal, as observed over expected disagreement summed over all pairs of ratings."""
    items = [[row[i] for row in rows if row[i] is not None] for i in range(len(rows[0]))]
    paired = [[x for x in item if x is not None] for item in items if len(item) > 1]
    values = sorted(x for item in paired for x in item)
    count = {x: values.count(x) for x in set(values)}

    def distance(a: int, b: int) -> float:
        low, high = min(a, b), max(a, b)
        return (sum(count.get(g, 0) for g in range(low, high + 1)) - (count[a] + count[b]) / 2) ** 2 if a != b else 0

    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(item, 2)) / (len(item) - 1) for item in paired
    ) / len(values)
    expected = sum(distance(a, b) for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected if expected else math.nan


N = None
KRIPPENDORFF_2011 = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
"""The example of "Computing Krippendorff's alpha-reliability" (2011), section C: four observers, twelve units."""


def test_alpha_of_the_published_example() -> None:
    """Published: 0.815; the package krippendorff 0.8 says the same with more digits."""
    assert alpha_of(KRIPPENDORFF_2011) == pytest.approx(0.8153875037548814, abs=1e-12)
    assert plain_alpha(KRIPPENDORFF_2011) == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_that_of_the_package() -> None:
    package = pytest.importorskip("krippendorff")
    draw = np.random.default_rng(0)
    for _ in range(30):
        table = draw.integers(1, 6, (int(draw.integers(2, 5)), 20)).astype(float)
        table[draw.random(table.shape) < 0.3] = np.nan
        expected = package.alpha(reliability_data=table, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5])
        rows = [[None if np.isnan(x) else int(x) for x in row] for row in table]
        assert alpha_of(rows) == pytest.approx(expected)


def test_kappa_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    first = draw.integers(1, 6, 60)
    second = np.clip(first + draw.integers(-2, 3, 60), 1, 5)
    unit = np.repeat(np.arange(20), 3)
    statistic = kappa(first, second, unit, 20)
    assert statistic(np.ones((1, 20)))[0] == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"))
    weights = next(weight_blocks(20, 20, 3, 20))
    for row, value in zip(weights, statistic(weights), strict=True):
        times = row[unit].astype(int)
        expected = cohen_kappa_score(np.repeat(first, times), np.repeat(second, times), weights="quadratic")
        assert value == pytest.approx(expected)
    same = np.full(5, 3)
    assert np.isnan(kappa(same, same, np.arange(5), 5)(np.ones((1, 5)))[0])


@given(st.integers(2, 4).flatmap(lambda raters: st.lists(
    st.lists(st.none() | st.integers(1, 5), min_size=raters, max_size=raters), min_size=1, max_size=8
)))  # fmt: skip
def test_alpha_is_observed_over_expected_disagreement(items: list[list[int | None]]) -> None:
    rows = [list(column) for column in zip(*items, strict=True)]
    assume(any(sum(x is not None for x in item) > 1 for item in items))
    assert alpha_of(rows) == pytest.approx(plain_alpha(rows), nan_ok=True)


def test_alpha_under_weights_is_that_of_repeated_items() -> None:
    triples = [(i, x, i) for row in KRIPPENDORFF_2011 for i, x in enumerate(row) if x is not None]
    item, rating, unit = (np.array(column, np.int64) for column in zip(*triples, strict=True))
    weights = next(weight_blocks(12, 20, 3, 20))
    drawn = alpha(item, rating, unit, 12)(weights)
    for row, value in zip(weights, drawn, strict=True):
        repeated = [[x for x, w in zip(line, row, strict=True) for _ in range(int(w))] for line in KRIPPENDORFF_2011]
        assert value == pytest.approx(plain_alpha(repeated), nan_ok=True)


def run_folder(folder: Path, frames: dict[str, list[dict[str, Any]]], **board: Any) -> Path:
    for method, rows in frames.items():
        write_records(records_path(folder, method, "mimic_report"), rows)
    content = {"title": "Confidence of m on d", "model": "m", "phantom": False, "seed": SEED, "replicates": REPLICATES}
    (folder / "leaderboard.json").write_text(json.dumps({**content, "unit": "cluster", **board}))
    return folder


def record(report: str, method: str, confidence: float | None, **changes: Any) -> dict[str, Any]:
    row = {
        "task": "mimic_report",
        "method": method,
        "example": report,
        "cluster": f"p{int(report[1:]) // 2}",
        "claim": 0,
        "confidence": confidence,
        "correctness": 0.5,
        "status": "ok",
        "response": f"key-{report}",
    }
    return {**row, **changes}


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, float], dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Confidences that follow the quality of reports, records of two methods, and three raters' ratings."""
    draw = random.Random(1)
    quality = {report: draw.random() for report in REPORTS}
    good = {report: round(min(1, max(0, q + draw.gauss(0, 0.15))), 1) for report, q in quality.items()}
    frames = {
        "conrad": [record(report, "conrad", good[report]) for report in REPORTS],
        "verbalized": [record(report, "verbalized", draw.choice((0.8, 0.9, 1.0))) for report in REPORTS],
    }
    rows = [
        {
            "rater": rater,
            "report": report,
            "sentence": sentence,
            "rating": min(5, max(1, round(2 + 4 * quality[report] + draw.gauss(0, 0.6)))),
        }
        for report in REPORTS[:20]
        for sentence in range(1 + int(report[1:]) % 3)
        for rater in ("ann", "bob", "cid")
    ]
    return good, frames, rows


@pytest.fixture
def run(tmp_path: Path, made: tuple[Any, dict[str, list[dict[str, Any]]], Any]) -> Path:
    (tmp_path / "records").mkdir()
    return run_folder(tmp_path, made[1])


def slow_ece(confidence: list[float], target: list[float]) -> float:
    groups = defaultdict(list)
    for c, y in zip(confidence, target, strict=True):
        groups[c].append(c - y)
    return sum(abs(sum(residuals)) for residuals in groups.values()) / len(confidence)


def test_the_table_agrees_with_independent_computations(run: Path, made: Any, tmp_path: Path) -> None:
    good, _, rows = made
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(rows)))
    sentences = {(row["report"], row["sentence"]) for row in rows}
    counts = {"raters": 3, "reports": 20, "sentences": len(sentences), "ratings": len(rows), "seed": SEED}
    assert {key: table[key] for key in counts} == counts
    means, accepted = [], []
    for report in REPORTS[:20]:
        own = [row for row in rows if row["report"] == report]
        means.append(sum((row["rating"] - 1) / 4 for row in own) / len(own))
        votes = [[r["rating"] >= 4 for r in own if r["sentence"] == s] for s in {row["sentence"] for row in own}]
        accepted.append(float(all(sum(v) >= 2 for v in votes)))
    confidence = [good[report] for report in REPORTS[:20]]
    above = [value > np.median(means) for value in means]
    assert 0 < sum(accepted) < 20
    expected = {
        "mean": (pearsonr(confidence, means)[0], roc_auc_score(above, confidence), slow_ece(confidence, means)),
        "all_accepted": (
            pearsonr(confidence, accepted)[0],
            roc_auc_score(accepted, confidence),
            slow_ece(confidence, accepted),
        ),
    }
    assert table["median"] == pytest.approx(np.median(means))
    assert [(row["aggregation"], row["method"]) for row in table["rows"]] == [
        (aggregation, method) for aggregation in ("mean", "all_accepted") for method in ("conrad", "verbalized")
    ]
    for row in table["rows"]:
        assert (row["n"], row["unparsed"]) == (20, 0)
        for name, value in zip(("pearson", "auroc", "ece"), expected[row["aggregation"]], strict=True):
            found = row["metrics"][name]
            assert found["low"] is None if name == "ece" else found["low"] < found["high"]
            if row["method"] == "conrad":
                assert found["value"] == pytest.approx(value)
    items = sorted(sentences)
    by_rater = [
        [next(r["rating"] for r in rows if (r["rater"], r["report"], r["sentence"]) == (who, *item)) for item in items]
        for who in ("ann", "bob", "cid")
    ]
    assert table["agreement"]["value"] == pytest.approx(plain_alpha(by_rater))


def test_intervals_resample_patients_and_raters(run: Path, made: Any, tmp_path: Path) -> None:
    """The interval of a correlation, from replicates that repeat whole patients, and whole raters where several."""
    good, _, rows = made
    reports = REPORTS[:20]
    patients = sorted({f"p{int(report[1:]) // 2}" for report in reports})
    weights = next(weight_blocks(len(patients), REPLICATES, SEED, REPLICATES))
    for names in (("ann",), ("ann", "bob", "cid")):
        chosen = [row for row in rows if row["rater"] in names]
        file = written(tmp_path / "r.csv", csv_of(chosen))
        found = ratings_table(run, file)["rows"][0]["metrics"]["pearson"]
        several = len(names) > 1
        of_raters = next(weight_blocks(3, REPLICATES, SEED + 1, REPLICATES)) if several else np.ones((REPLICATES, 1))
        drawn = []
        for row, who in zip(weights, of_raters, strict=True):
            counts = dict(zip(names, who, strict=True))
            times = dict(zip(patients, row, strict=True))
            repeated = [report for report in reports for _ in range(int(times[f"p{int(report[1:]) // 2}"]))]
            means = {}
            for report in reports:
                own = [(r["rating"], counts[r["rater"]]) for r in chosen if r["report"] == report]
                means[report] = sum((x - 1) / 4 * n for x, n in own) / sum(n for _, n in own)
            drawn.append(pearsonr([good[r] for r in repeated], [means[r] for r in repeated])[0])
        assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))
    single = run_folder(run, {}, unit="claim")
    assert ratings_table(single, file)["rows"][0]["metrics"]["pearson"]["low"] != found["low"]


def test_agreement_of_each_two_raters(run: Path, made: Any, tmp_path: Path) -> None:
    rows = [row for row in made[2] if row["rater"] != "cid" or row["report"] < "s10"]
    file = written(tmp_path / "r.csv", csv_of(rows))
    table = agreement_table(run, file)
    assert [pair["raters"] for pair in table["pairs"]] == [["ann", "bob"], ["ann", "cid"], ["bob", "cid"]]
    of = {(row["rater"], row["report"], row["sentence"]): row["rating"] for row in rows}
    for pair in table["pairs"]:
        a, b = pair["raters"]
        keys = [key[1:] for key in of if key[0] == a and (b, *key[1:]) in of]
        first, second = ([of[who, *key] for key in keys] for who in (a, b))
        assert pair["n"] == len(keys)
        assert pair["kappa"]["value"] == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"))
        assert pair["kappa"]["low"] < pair["kappa"]["value"] < pair["kappa"]["high"]
        assert pair["equal"] == pytest.approx(np.mean([x == y for x, y in zip(first, second, strict=True)]))
    assert table["alpha"] == pytest.approx(ratings_table(run, file)["agreement"])
    page = agreeing.markdown(table)
    assert page.count("| ann") == 2
    assert "Krippendorff's alpha (ordinal)" in page
    with pytest.raises(DataError, match="one rater alone"):
        agreement_table(run, written(file, csv_of([row for row in rows if row["rater"] == "ann"])))


def test_the_page_says_how_it_was_made(run: Path, made: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "r.csv", csv_of(made[2]))
    page = markdown(ratings_table(run, file))
    assert page.startswith("# Clinical ratings: Confidence of m on d\n")
    assert "| aggregation" in page
    assert page.count("| conrad") == 2
    for said in ("Krippendorff's alpha", "3 raters, 20 reports", "400 replicates over patients and raters", "median"):
        assert said in page
    assert "phantom" not in page
    page = markdown(ratings_table(run_folder(run, {}, phantom=True), file))
    assert "written by a model about phantom images" in page
    page = markdown(ratings_table(run_folder(run, {}, phantom=True, model="phantom-gemma3 (embedded)"), file))
    assert "written by a tiny model about phantom images" in page


def test_all_reports_of_one_class_have_no_auroc(run: Path, tmp_path: Path) -> None:
    rows = [{"rater": "ann", "report": report, "sentence": 0, "rating": 5} for report in REPORTS]
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(rows)))
    assert table["agreement"] == {"value": None, "low": None, "high": None}
    for row in table["rows"]:
        assert row["metrics"]["auroc"]["value"] is None
        assert row["metrics"]["pearson"]["value"] is None
        assert row["metrics"]["ece"]["value"] is not None
    assert "–" in markdown(table)
    json.dumps(table, allow_nan=False)


def test_unparsed_reports_are_counted_and_a_failed_scorer_is_nothing_to_raters(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    changes: list[dict[str, Any]] = [{} for _ in REPORTS]
    changes[0] = {"confidence": None, "correctness": None, "status": "no_confidence"}
    changes[1] = {"correctness": None, "status": "scorer_failed"}
    rows = [{**record(report, "m", 0.5), **change} for report, change in zip(REPORTS, changes, strict=True)]
    silent = [record(report, "base", None) for report in REPORTS]
    run = run_folder(tmp_path, {"m": rows, "base": silent})
    rated = [{"rater": "a", "report": report, "sentence": 0, "rating": 1 + i % 5} for i, report in enumerate(REPORTS)]
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(rated)))
    assert {(row["method"], row["n"], row["unparsed"]) for row in table["rows"]} == {("m", 23, 1)}


def test_methods_that_wrote_other_reports_need_ratings_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    own = [record(report, "sft", 0.7, response=f"sft-{report}") for report in REPORTS]
    shared = {name: [record(report, name, 0.5) for report in REPORTS] for name in ("probe", "p_true")}
    run = run_folder(tmp_path, {**shared, "sft": own})
    rows = [{"rater": "a", "report": report, "sentence": 0, "rating": 3} for report in REPORTS]
    with pytest.raises(
        DataError, match="line 2: the run has 2 different reports about this example; add a column 'method'"
    ):
        ratings_table(run, written(tmp_path / "r.csv", csv_of(rows)))
    of_probe = [{**row, "method": "probe"} for row in rows]
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(of_probe)))
    # p_true has the very response that was rated, sft has another.
    assert {row["method"] for row in table["rows"]} == {"probe", "p_true"}
    both = [*of_probe, *({**row, "method": "sft", "rating": 5} for row in rows)]
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(both)))
    assert table["reports"] == 48
    ece = {row["method"]: row["metrics"]["ece"]["value"] for row in table["rows"] if row["aggregation"] == "mean"}
    assert ece == pytest.approx({"probe": 0.0, "p_true": 0.0, "sft": 0.3})
    twice = [*of_probe, *({**row, "method": "p_true"} for row in rows)]
    with pytest.raises(DataError, match="line 26: this rater rated the same report before, as that of another method"):
        ratings_table(run, written(tmp_path / "r.csv", csv_of(twice)))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("ann,s00,0,5\nann,s99,0,5\n", r"r\.csv, line 3: this report is not among the run's records"),
        ("ann,s00,0,5\nann,s00,2,5\n", "line 2: sentence 1 of this report has no rating"),
    ],
)
def test_ratings_that_do_not_fit_the_records_are_refused(run: Path, tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        ratings_table(run, written(tmp_path / "r.csv", HEADER + lines))


def test_an_unknown_method_is_refused(run: Path, tmp_path: Path) -> None:
    text = "rater,report,sentence,rating,method\nann,s00,0,5,conrat\n"
    with pytest.raises(DataError, match="line 2: the run has no records of this method"):
        ratings_table(run, written(tmp_path / "r.csv", text))


def test_a_run_that_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "r.csv", HEADER + "ann,s00,0,5\n")
    with pytest.raises(DataError, match="no finished run"):
        ratings_table(tmp_path / "elsewhere", file)
    (run / "leaderboard.json").write_text("{")
    with pytest.raises(DataError, match=r"leaderboard\.json cannot be read"):
        ratings_table(run, file)


def test_sentences_are_compared_with_their_own_ratings(tmp_path: Path) -> None:
    """Each sentence's confidence; a sentence without text has no rating, and no report need be whole."""
    (tmp_path / "records").mkdir()
    draw = random.Random(2)
    frame = [
        record(report, "m", draw.randint(0, 10) / 10, claim=claim, status="empty" if claim == 1 else "ok")
        for report in REPORTS
        for claim in (0, 1, 2)
    ]
    for row in frame:
        if row["status"] == "empty":
            row.update(confidence=None, correctness=None)
    given = [
        {"rater": rater, "report": report, "sentence": claim, "rating": draw.randint(1, 5), "response": f"key-{report}"}
        for report in REPORTS[:15]
        for claim in (0, 2)
        for rater in ("ann", "bob", "cid")
        if (report, claim) != ("s00", 0)
    ]
    run = run_folder(tmp_path, {"m": frame})
    table = ratings_table(run, written(tmp_path / "r.csv", csv_of(given)))
    assert [(row["aggregation"], row["n"]) for row in table["rows"]] == [
        ("sentence_mean", 29),
        ("sentence_accepted", 29),
    ]
    of = defaultdict(list)
    for row in given:
        of[row["report"], row["sentence"]].append(row["rating"])
    confidence = [r["confidence"] for r in frame if (r["example"], r["claim"]) in of]
    ratings = [of[r["example"], r["claim"]] for r in frame if (r["example"], r["claim"]) in of]
    means = [np.mean([(x - 1) / 4 for x in each]) for each in ratings]
    accepted = [sum(x >= 4 for x in each) > 1.5 for each in ratings]
    found = [row["metrics"] for row in table["rows"]]
    assert found[0]["pearson"]["value"] == pytest.approx(pearsonr(confidence, means)[0])
    above = [value > np.median(means) + 1e-12 for value in means]
    assert found[0]["auroc"]["value"] == pytest.approx(roc_auc_score(above, confidence))
    assert found[1]["auroc"]["value"] == pytest.approx(roc_auc_score(accepted, confidence))
    assert "Sentences, accepted" in markdown(table)
    assert "Mean aggregation" not in markdown(table)
    for sentence, response, says in ((3, "key-s00", "no sentence 3"), (0, "other", "this response is not among")):
        wrong = [{**given[0], "sentence": sentence, "response": response}]
        with pytest.raises(DataError, match=f"line 2: .*{says}"):
            ratings_table(run, written(tmp_path / "r.csv", csv_of(wrong)))
