"""Predictions of other programs: the board of a run from its numbers alone, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from conrad_bench.cli import app
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.predictions import board as boards
from conrad_bench.leaderboards.predictions.columns import Predictions, long_form, records_of
from conrad_bench.leaderboards.predictions.files import PLACE, read_predictions
from conrad_bench.records import read_records

PUBLISHED = Path(__file__).parents[1] / "leaderboards" / "published"
BUNDLE = next((folder for folder in sorted(PUBLISHED.iterdir()) if (folder / "records").is_dir()), None)


def table(**columns: Any) -> pd.DataFrame:
    """Two methods on eight examples of four patients."""
    rows = [
        {
            "method": method,
            "task": "reports",
            "example": f"e{i}",
            "patient": f"p{i // 2}",
            "confidence": round((i + k) / 10, 1),
            "correctness": i % 2,
        }
        for k, method in enumerate(("a", "b"))
        for i in range(8)
    ]
    return pd.DataFrame(rows).assign(**columns)


def content(predictions: Predictions, **more: Any) -> dict[str, Any]:
    return boards.evaluated(predictions, boards.context_for(predictions, replicates=50), **more)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_the_records_of_a_bundle_give_its_numbers_in_every_form(tmp_path: Path, suffix: str) -> None:
    assert BUNDLE is not None
    published = json.loads((BUNDLE / "leaderboard.json").read_text())
    task = sorted(published["tasks"])[0]
    files = sorted((BUNDLE / "records").glob(f"*@{task}.parquet"))
    keep = ["task", "method", "example", "cluster", "claim", "confidence", "correctness", "status"]
    frame = pd.concat([read_records(path)[keep] for path in files], ignore_index=True)
    expected = {row["method"]: row for row in published["rows"] if row["task"] == task and "seeds" not in row}
    frame = frame[frame["method"].isin(sorted(expected)[:3])]
    frame = frame.groupby("method").filter(lambda part: part["confidence"].notna().any())
    path = tmp_path / f"all.{suffix}"
    if suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if suffix == "csv" else "\t", index=False)
    found = content(records_of(read_predictions([path])))
    assert found["rows"]
    for row in found["rows"]:
        mine = expected[row["method"]]
        assert (row["n"], row["claims"], row["unparsed"]) == (mine["n"], mine["claims"], mine["unparsed"])
        newer = {"skill"} - mine["metrics"].keys()  # than the bundle
        for name in row["metrics"].keys() - newer:
            assert row["metrics"][name]["value"] == pytest.approx(mine["metrics"][name]["value"], abs=1e-8), name


def test_one_column_a_method_is_the_same(tmp_path: Path) -> None:
    frame = table()
    wide = frame[frame["method"] == "a"].drop(columns=["method", "confidence"]).reset_index(drop=True)
    for method in ("a", "b"):
        wide[method] = frame[frame["method"] == method]["confidence"].to_numpy()
    assert content(records_of(long_form(wide, ["a", "b"])))["rows"] == content(records_of(frame))["rows"]


def test_several_files_are_methods_by_their_names(tmp_path: Path) -> None:
    frame = table()
    for method, part in frame.groupby("method"):
        part.drop(columns="method").to_csv(tmp_path / f"{method}.csv", index=False)
    found = records_of(read_predictions([tmp_path / "a.csv", tmp_path / "b.csv"]))
    assert content(found)["rows"] == content(records_of(frame))["rows"]


def test_a_method_without_seeds_stands_beside_one_with_seeds() -> None:
    frame = pd.concat([table(seed=seed) for seed in (0, 1)], ignore_index=True)
    fixed = table(seed=None).query("method == 'a'").assign(method="fixed")
    found = records_of(pd.concat([frame, fixed], ignore_index=True))
    assert {method for _, method in found.records} == {*found.seeds, "fixed"}
    torn = frame.astype({"seed": "float"})
    torn.loc[0, "seed"] = float("nan")
    with pytest.raises(DataError, match="column 'seed': is empty, and other rows of the method have one"):
        records_of(torn)


def test_the_records_of_a_bundle_are_predictions_as_they_are() -> None:
    """All columns as published: those of methods without a training seed, too."""
    files = sorted((PUBLISHED / "phantom" / "records").glob("*.parquet"))
    done = invoke(*files, "--replicates", 50)
    assert done.exit_code == 0, done.output


EXAMPLES = Path(__file__).parents[1] / "examples" / "predictions"


@pytest.mark.parametrize(
    ("harness", "made", "package"),
    [
        ("lm_eval", "lm_eval_samples.jsonl", None),
        ("inspect_ai", "inspect_ai.eval", "inspect_ai"),
        ("lm_polygraph", "lm_polygraph.man", None),
    ],
)
def test_what_other_harnesses_wrote_is_converted(harness: str, made: str, package: str | None) -> None:
    if package is not None:
        pytest.importorskip(package)
    command = [sys.executable, str(EXAMPLES / "convert.py"), harness, str(EXAMPLES / made)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (EXAMPLES / f"{harness}.csv").read_text(encoding="utf-8")


def test_what_other_harnesses_wrote_makes_one_board(tmp_path: Path) -> None:
    files = [EXAMPLES / f"{harness}.csv" for harness in ("lm_eval", "inspect_ai", "lm_polygraph")]
    done = invoke(*files, "--out", tmp_path / "board", "--replicates", 50)
    assert done.exit_code == 0, done.output
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    values = {row["method"]: row["metrics"] for row in board["rows"]}
    assert len(values) == 5
    given = pd.concat(map(pd.read_csv, files), ignore_index=True)
    for method, metrics in values.items():
        rows = given[given["method"] == method]
        expected = ((rows["confidence"] - rows["correctness"]) ** 2).mean()
        assert metrics["brier"]["value"] == pytest.approx(expected)


def test_several_seeds_are_one_row() -> None:
    frame = pd.concat([table(seed=seed) for seed in (0, 1)], ignore_index=True)
    found = records_of(frame)
    assert found.seeds == {f"{m}.seed{s}": (m, s) for m in ("a", "b") for s in (0, 1)}
    rows = content(found)["rows"]
    assert [(row["method"], row["seeds"]["seeds"]) for row in rows] == [("a", [0, 1]), ("b", [0, 1])]


def test_subgroups_and_statuses(tmp_path: Path) -> None:
    frame = table(sex=["F", "M"] * 8, age=range(16))
    frame.loc[3, ["confidence", "status"]] = [None, "no_confidence"]
    frame["status"] = frame["status"].fillna("ok")
    board = content(records_of(frame), by="sex")
    assert board["rows"][0]["unparsed"] == {"no_confidence": 1}
    assert {row["subgroup"]["value"] for row in board["subgroups"]} == {"F", "M"}


def test_without_patients_the_board_says_so() -> None:
    alone = records_of(table().drop(columns="patient"))
    assert boards.UNCLUSTERED in content(alone)["notes"]
    assert boards.UNCLUSTERED not in content(records_of(table()))["notes"]
    assert boards.MADE_ELSEWHERE in content(alone)["notes"]


BAD = {
    "percent": (table(confidence=80), r"row 0, column 'confidence': 80 is outside \[0, 1\]; .* add --scale 100"),
    "out of ten": (table(confidence=[8, *[1] * 15]), r"are they out of 10\? then add --scale 10"),
    "too much": (table(confidence=101), r"column 'confidence': 101 is outside \[0, 1\] \(16 such rows\)"),
    "negative": (table(confidence=-0.1), r"-0.1 is outside \[0, 1\]"),
    "nan": (
        table(confidence=[np.nan, *[0.5] * 15]),
        r"row 0, column 'confidence': is missing; give the row a status",
    ),
    "text": (table(confidence=["high", *[0.5] * 15]), r"row 0, column 'confidence': is no number"),
    "infinite": (table(confidence=np.inf), r"column 'confidence': inf is no number"),
    "correctness": (table(correctness=2), r"column 'correctness': 2 is outside \[0, 1\]"),
    "no correctness": (
        table().drop(columns="correctness"),
        r"no column 'correctness' among .*--map correctness=COLUMN",
    ),
    "no confidence": (table().drop(columns="confidence"), r"--map confidence=COLUMN, or --wide METHOD,METHOD"),
    "doubled": (pd.concat([table(), table()[:1]]), r"column 'claim': 0 occurs twice for this method and example"),
    "two patients": (
        table(patient=[f"p{i}" for i in range(16)]),
        r"row 8, column 'cluster': is not the one that the example has in another row",
    ),
    "no patient": (table(patient=[None, *["p"] * 15]), r"row 0, column 'cluster': is missing"),
    "status": (table(status="fine"), r"column 'status': is none of ok"),
    "name": (table(method="my method"), r"column 'method': is no name"),
    "claim": (table(claim=0.5), r"column 'claim': 0.5 is no whole number from 0"),
    "seed": (table(seed="x"), r"column 'seed': is no number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(case: str) -> None:
    frame, message = BAD[case]
    with pytest.raises(DataError, match=message):
        records_of(frame.reset_index(drop=True))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "confidence,correctness\n0.5,1\n80,1\n", "a.csv, line 3, column 'confidence': 80 is outside"),
        ("a.csv", "confidence,correctness\n0.5,1,7\n0.5,1\n", "a.csv, line 2: 3 cells, the header has 2 names"),
        ("a.csv", "confidence,correctness\n", "there are no rows"),
        ("a.csv", "", "the first line must name the columns"),
        ("a.jsonl", '{"confidence": 0.5, "correctness": 1}\nno json\n', "a.jsonl, line 2: is no JSON object"),
        ("a.parquet", "no parquet", "is damaged, or no parquet"),
        ("a.xlsx", "", "predictions are files that end in .csv, .tsv, .jsonl, .parquet"),
        ("a.csv", b"confidence,correctness\n\xff\xfe,1\n", "is no UTF-8 text"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = invoke(path)
    assert found.exit_code != 0
    with pytest.raises(DataError, match=message):
        records_of(read_predictions([path]))


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no column 'c'"):
        long_form(table(), ["c"])
    with pytest.raises(ConfigError, match="for tables without the columns"):
        long_form(table(), ["confidence"])
    path = tmp_path / "a.csv"
    table().to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"--map confidence=score: .*column 'score'"):
        read_predictions([path], {"confidence": "score"})
    with pytest.raises(ConfigError, match="--baseline"):
        boards.context_for(records_of(table()), baseline="c")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is not empty and holds no evaluation"):
        boards.check_folder(tmp_path)


def test_the_command_writes_a_board_that_verifies(tmp_path: Path) -> None:
    source, out = tmp_path / "mine.csv", tmp_path / "out"
    table().rename(columns={"confidence": "score"}).to_csv(source, index=False)
    for _ in range(2):  # an earlier evaluation is written anew
        command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", "evaluate", str(source)]
        command += ["--map", "confidence=score", "--out", str(out), "--model", "m", "--data", "d"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "Another program made these predictions" in done.stdout
    written = {path.name for path in out.iterdir()}
    assert written >= {"records", "leaderboard.md", "leaderboard.html", "leaderboard.csv", "leaderboard.tex"}
    assert json.loads((out / "leaderboard.json").read_text())["title"] == "Confidence of m on d"
    assert "Another program made these predictions" in (out / "leaderboard.html").read_text()
    again = [*command[:3], "verify", str(out)]
    assert subprocess.run(again, capture_output=True, text=True, check=False).returncode == 0


def test_neither_torch_nor_a_model_is_loaded(tmp_path: Path) -> None:
    source = tmp_path / "mine.csv"
    table().to_csv(source, index=False)
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom conrad_bench.cli import app\n"
        f"found = CliRunner().invoke(app, ['evaluate', {str(source)!r}])\n"
        "assert found.exit_code == 0, found.output\nassert not {'torch', 'transformers', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=30
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_changes_nothing(rows: list[tuple[float, int, int]], random: Any) -> None:
    frame = pd.DataFrame(
        {
            "example": [f"e{i}" for i in range(len(rows))],
            "patient": [f"p{p}" for _, _, p in rows],
            "confidence": [c for c, _, _ in rows],
            "correctness": [y for _, y, _ in rows],
        }
    )
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = frame.iloc[order].reset_index(drop=True)
    assert PLACE not in frame
    assert content(records_of(frame))["rows"] == content(records_of(shuffled))["rows"]


@pytest.mark.parametrize("metrics", ["brier,gap", "gap", "auroc", "correctness", "ece_debiased,skill"])
def test_a_board_may_have_other_metrics_those_of_plugins_among_them(tmp_path: Path, metrics: str) -> None:
    source, out = tmp_path / "mine.csv", tmp_path / "out"
    table().to_csv(source, index=False)
    (tmp_path / "gap.py").write_text(
        "import conrad_bench\n"
        "from conrad_bench.leaderboards.metrics.base import Metric, mean_of\n\n\n"
        "@conrad_bench.register_metric\n"
        "class Gap(Metric):\n"
        "    name, summary, label, better, range, source = 'gap', 'gap', 'gap', 'zero', (-1.0, 1.0), 'ours'\n"
        "    headline = True\n\n"
        "    def statistic(self, sample):\n"
        "        return mean_of(sample, sample.stated() - sample.correctness)\n"
    )
    run = [sys.executable, "-c", "from conrad_bench.cli import main; main()"]
    for command in (
        ["evaluate", str(source), "--out", str(out), "--replicates", "20"],
        ["leaderboard", str(out), "--plugin", str(tmp_path / "gap.py"), "--metrics", metrics, "--out", str(out) + "-2"],
    ):
        done = subprocess.run([*run, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads((tmp_path / "out-2" / "leaderboard.json").read_text())
    assert {metric["name"] for metric in found["metrics"]} == set(metrics.split(","))


TEXTS = """method,example,patient,confidence,question,response,reference
a,1,p1,0.9,Is there an effusion?,"Yes, there is.",yes
a,2,p1,0.4,What organ is shown?,lung,the lungs
a,3,p2,0.8,Is the heart large?,no,yes
a,4,p2,0.7,Is the heart large?,maybe,yes
"""


def test_texts_are_judged_first(tmp_path: Path) -> None:
    source, out = tmp_path / "texts.csv", tmp_path / "out"
    source.write_text(TEXTS)
    found = invoke(source, "--scorer", "vqa_match", "--out", out, "--replicates", 20)
    assert found.exit_code == 0, found.output
    frame = read_records(out / "records" / "a@task.parquet")
    assert frame["status"].tolist() == ["ok", "ok", "ok", "scorer_failed"]
    assert frame["correctness"].tolist()[:3] == [1.0, 0.0, 0.0]
    assert not {"response", "question", "reference"} & set(frame.columns) - {"response"}
    assert not (frame["response"] != "").any()
    every = "".join(path.read_text() for path in out.glob("leaderboard.*"))
    assert "Yes, there is" not in every


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("method,confidence,correctness\na,0.5,1\n", ["--scorer", "vqa_match"], "there is no column 'response'"),
        (TEXTS, ["--scorer", "vqa_matches"], "unknown scorer 'vqa_matches'"),
        (TEXTS, ["--scorer", "green", "--granularity", "answer"], "judges report, not answers"),
        (TEXTS, [], "there is no column 'correctness'"),
    ],
)
def test_texts_that_cannot_be_judged(tmp_path: Path, text: str, options: list[str], message: str) -> None:
    source = tmp_path / "texts.csv"
    source.write_text(text)
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", "evaluate", str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
