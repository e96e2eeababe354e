"""Leaderboards of several runs, their files, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_board import CONTEXT, SENTENCES, board_of, frame, sentences
from test_cli import conrad_bench, refused

from conrad_bench.errors import ConfigError, DataError, StorageError
from conrad_bench.leaderboards.board import schema
from conrad_bench.leaderboards.board.build import build, context_of
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.bundles.finished import load_run
from conrad_bench.leaderboards.bundles.merge import leaderboard, merge, run_names
from conrad_bench.leaderboards.pages.outputs import csv_text, write_leaderboard
from conrad_bench.records import read_records, records_path, write_records
from conrad_bench.text import latex as escape


def a_run(
    folder: Path,
    frames: Sequence[pd.DataFrame],
    context: BoardContext = CONTEXT,
    fingerprint: str = "f1",
    finished: bool = True,
    board: bool = True,
) -> Path:
    """A run folder as the pipeline leaves it, but for rollouts, artifacts and config."""
    for data in frames:
        write_records(records_path(folder, data["method"].iloc[0], data["task"].iloc[0]), data)
    prints = dict.fromkeys(context.scorers, fingerprint)
    about = context.model_dump(mode="json", exclude={"metrics"})
    about["metrics"] = [{"name": metric.name, "options": metric.model_dump(mode="json")} for metric in context.metrics]
    said = {"format": 1, "context": about, "fingerprints": prints}
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "context.json").write_text(json.dumps(said))
    if board:
        write_leaderboard(folder, context)
    if finished:
        (folder / "manifest.json").write_text(json.dumps({"data": {t: {"fingerprint": f} for t, f in prints.items()}}))
    return folder


def finish(run: Path, seed: int = 0, **about: object) -> Path:
    """Write config.yaml and manifest.json of a run on phantom data by the embedded model, as its records are."""
    frames = [read_records(path) for path in sorted((run / "records").iterdir())]
    methods = sorted({frame["method"].iloc[0] for frame in frames})
    examples = {frame["task"].iloc[0]: frame["example"].nunique() for frame in frames}
    config = {"methods": methods, "tasks": sorted(examples), "model": "phantom", "seed": seed}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = {
        "data": {
            task: {"fingerprint": "f1" * 8, "root": "phantom (synthetic)", "examples": {"test": n}}
            for task, n in examples.items()
        },
        "methods": {method: {"seed": seed} for method in methods},
        "model": {"engine": "transformers", "model": "sha256:abc"},
        "seed": seed,
        **about,
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def other(data: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Records of the same claims with the confidences of another seed."""
    return data.assign(confidence=data["confidence"].sample(frac=1, random_state=seed).to_numpy())


def names(board: dict[str, Any]) -> list[str]:
    return [row["method"] for row in board["rows"]]


def test_methods_of_two_runs_stand_on_one_leaderboard(tmp_path: Path) -> None:
    """A baseline that both have, record for record, is one row; all is as if one run had had all methods."""
    a = a_run(tmp_path / "a", [frame("verbalized"), frame("conrad")])
    b = a_run(tmp_path / "b", [frame("verbalized").assign(response="other keys"), frame("probe")], finished=False)
    board, folder = leaderboard([a, b], tmp_path / "out")
    together = board_of(frame("verbalized"), frame("conrad"), frame("probe"))
    assert folder == tmp_path / "out"
    assert board["rows"] == together["rows"]
    assert [(run["name"], run["finished"]) for run in board["runs"]] == [("a", True), ("b", False)]
    written = {path.name for path in folder.iterdir()}
    assert written == {"figures", *(f"leaderboard.{suffix}" for suffix in ("md", "json", "csv", "tex", "html"))}
    assert schema.read_board(folder / "leaderboard.json") == board


def test_seeds_are_rows_of_their_own_against_their_own_baseline(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        frames = [other(frame("conrad"), seed), other(frame("verbalized"), seed)]
        runs.append(a_run(tmp_path / f"seed-{seed}", frames))
    board, _ = leaderboard(runs, tmp_path / "out")
    assert names(board) == [f"{method} [seed-{seed}]" for method in ("conrad", "verbalized") for seed in (1, 2)]
    assert board["caveats"] == []
    assert "- seed-2: tiny, conrad-bench" in (tmp_path / "out" / "leaderboard.md").read_text()
    bases = {row["method"]: row["difference"]["baseline"] for row in board["rows"] if "difference" in row}
    assert bases == {f"conrad [seed-{seed}]": f"verbalized [seed-{seed}]" for seed in (1, 2)}
    alone = board_of(other(frame("conrad"), 2), other(frame("verbalized"), 2))
    found = next(row for row in board["rows"] if row["method"] == "conrad [seed-2]")
    expected = next(row for row in alone["rows"] if row["method"] == "conrad")
    assert found["metrics"] == expected["metrics"]
    assert found["difference"]["metrics"] == expected["difference"]["metrics"]


def test_notes_are_those_of_their_runs(tmp_path: Path) -> None:
    note = "The model was sent no pictures."
    told = CONTEXT.model_copy(update={"notes": [note]})
    runs = [a_run(tmp_path / "a", [frame("conrad")]), a_run(tmp_path / "b", [frame("probe")], context=told)]
    assert leaderboard([runs[1]], tmp_path / "alone")[0]["notes"] == [note]
    board, out = leaderboard(runs, tmp_path / "out")
    assert board["notes"] == [f"b: {note}"]
    assert f"**b: {note}**" in (out / "leaderboard.md").read_text()


def test_models_have_sections_and_are_compared_method_by_method(tmp_path: Path) -> None:
    """A section is the board of its model; one method is compared between models, paired by patient."""
    frames = {"org/large": [frame("conrad"), frame("verbalized")], "tiny": [other(frame("conrad"), 3), frame("probe")]}
    runs = [
        a_run(tmp_path / model.replace("/", "-"), data, CONTEXT.model_copy(update={"model": model}))
        for model, data in frames.items()
    ]
    board, out = leaderboard(runs, tmp_path / "out")
    assert board["title"] == "Confidence of org/large, tiny on phantom (synthetic)"
    assert {name: tuple(of) for name, of in board["models"].items()} == {
        f"mimic_report [{model}]": ("mimic_report", model) for model in frames
    }
    for model, data in frames.items():
        alone = board_of(*data)
        section = f"mimic_report [{model}]"
        rows = [row for row in board["rows"] if row["task"] == section]
        assert [row["method"] for row in rows] == [row["method"] for row in alone["rows"]]
        assert [row["metrics"] for row in rows] == [row["metrics"] for row in alone["rows"]]
        assert board["tasks"][section]["comparisons"] == alone["tasks"]["mimic_report"]["comparisons"]
    (between,) = board["between_models"]
    assert between["task"] == "mimic_report"
    # As if the two had been methods of one run, but for the other methods.
    both = board_of(frame("conrad"), other(frame("conrad"), 3).assign(method="zeta"))
    wanted = {pair["metric"]: pair for pair in both["tasks"]["mimic_report"]["comparisons"]["pairs"]}
    assert {pair["metric"] for pair in between["pairs"]} == wanted.keys()
    for pair in between["pairs"]:
        assert (pair["method"], pair["a"], pair["b"]) == ("conrad", "org/large", "tiny")
        for key in ("value", "low", "high", "se", "p", "p_holm", "n_units"):
            assert pair[key] == wanted[pair["metric"]][key], key
    text = (out / "leaderboard.md").read_text()
    header, _, *lines = text[text.index("| model") :].splitlines()[:4]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["model", "conrad", "probe", "verbalized"]
    assert [line.split("|")[1].strip() for line in lines] == ["org/large", "tiny"]
    page = (out / "leaderboard.html").read_text()
    assert "models in rows, methods in columns" in page
    assert "One method between two models on mimic_report" in page
    assert (out / "figures").is_dir()
    assert all(path.is_file() for path in (out / "figures").iterdir())
    _, records = merge([load_run(run) for run in runs])
    assert build(records, context_of(board)) == board


def test_models_are_told_apart_by_their_weights_and_have_seeds(tmp_path: Path) -> None:
    runs = []
    for weights in ("sha256:abc", "sha256:def"):
        for seed in (1, 2):
            data = other(frame("conrad"), seed + len(runs)).assign(seed=seed)
            run = a_run(tmp_path / f"{weights[-3:]}-{seed}", [data], CONTEXT.model_copy(update={"seed": seed}))
            manifest = json.loads((run / "manifest.json").read_text())
            (run / "manifest.json").write_text(json.dumps({**manifest, "model": {"model": weights}}))
            runs.append(run)
    runs.append(a_run(tmp_path / "unfinished", [frame("probe")], finished=False))
    board, _ = leaderboard(runs, tmp_path / "out")
    found = {(row["task"], row["method"]): row.get("seeds", {}).get("seeds") for row in board["rows"]}
    # The unfinished run does not say its weights: it goes with the first model, whose runs are then no seeds alone.
    assert found.keys() >= {("mimic_report [tiny, def]", "conrad")}
    assert found["mimic_report [tiny, def]", "conrad"] == [1, 2]
    board, _ = leaderboard(runs[:4], tmp_path / "out")
    assert [(row["task"], row["method"], row["seeds"]["seeds"]) for row in board["rows"]] == [
        (f"mimic_report [tiny, {weights}]", "conrad", [1, 2]) for weights in ("abc", "def")
    ]
    (between,) = board["between_models"]
    assert {(pair["method"], pair["a"], pair["b"]) for pair in between["pairs"]} == {
        ("conrad", "tiny, abc", "tiny, def")
    }


def test_models_on_other_data_are_not_compared(tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path / model, [frame("conrad")], CONTEXT.model_copy(update={"model": model}), fingerprint=model)
        for model in ("tiny", "large")
    ]
    board, _ = leaderboard(runs, tmp_path / "out", mixed=True)
    assert board["caveats"]
    assert board["between_models"] == []
    assert len(board["rows"]) == 2


def test_a_run_without_its_leaderboard_counts_as_far_as_it_got(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", [frame("conrad")], finished=False, board=False)
    board, folder = leaderboard([run])
    assert folder == run
    assert names(board) == ["conrad"]


def test_an_older_run_is_read_by_its_leaderboard_and_manifest(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", [frame("conrad")])
    before = load_run(run)
    (run / "context.json").unlink()
    after = load_run(run)
    assert build(after.records, after.context) == build(before.records, before.context)
    assert after.fingerprints == before.fingerprints == {"mimic_report": "f1", "yes_no": "f1"}


def test_the_baseline_can_be_chosen(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", [frame("verbalized"), frame("conrad"), frame("probe")])
    board, _ = leaderboard([run], tmp_path / "out", baseline="probe")
    assert {row["method"]: row.get("difference", {}).get("baseline") for row in board["rows"]} == {
        "conrad": "probe", "probe": None, "verbalized": "probe",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fingerprint": "f2"}, "task 'mimic_report' had different data"),
        ({"context": CONTEXT.model_copy(update={"phantom": False})}, "some are about phantom data"),
        ({"context": CONTEXT.model_copy(update={"unit": "claim"})}, "their intervals draw different units"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_unless_told(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    a, b = a_run(tmp_path / "a", [frame("conrad")]), a_run(tmp_path / "b", [frame("probe")], **changes)
    with pytest.raises(DataError, match=expected) as caught:
        leaderboard([a, b], tmp_path / "out")
    assert "--mixed" in str(caught.value)
    assert not (tmp_path / "out").exists()
    board, out = leaderboard([a, b], tmp_path / "out", mixed=True)
    assert len(board["rows"]) == 2
    (said,) = board["caveats"]
    assert expected in said
    assert str(tmp_path) not in said
    for page in ("leaderboard.md", "leaderboard.html"):
        assert escape_html(said, quote=True) in (out / page).read_text() or said in (out / page).read_text()


def test_formats_are_not_mixed_in_silence(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a", [frame("conrad")]), a_run(tmp_path / "b", [frame("probe")])
    content = json.loads((b / "leaderboard.json").read_text())
    (b / "leaderboard.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(DataError, match=r"different formats \(.*a: \d+, .*b: 99\)"):
        leaderboard([a, b], tmp_path / "out")
    assert len(leaderboard([a, b], tmp_path / "out", mixed=True)[0]["rows"]) == 2


def test_scorers_are_never_mixed(tmp_path: Path) -> None:
    scorers = {"mimic_report": ("green", "GREEN")}
    a = a_run(tmp_path / "a", [frame("conrad")])
    b = a_run(tmp_path / "b", [frame("probe")], CONTEXT.model_copy(update={"scorers": scorers}))
    with pytest.raises(DataError, match=r"different scorers: green .* and phantom_green"):
        leaderboard([a, b], tmp_path / "out", mixed=True)


def test_what_cannot_be_used_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", [frame("verbalized").assign(view="AP"), frame("conrad").assign(view="AP")])
    command = ("leaderboard", str(run), "--out", "out")
    assert "did you mean 'verbalized'?" in refused(conrad_bench(*command, "--baseline", "verbalised", cwd=tmp_path))
    assert "unknown column 'vieuw'; did you mean 'view'?" in refused(
        conrad_bench(*command, "--by", "vieuw", cwd=tmp_path)
    )
    with pytest.raises(ConfigError, match="named twice"):
        leaderboard([run, tmp_path / "a" / ".." / "a"], tmp_path / "out")
    with pytest.raises(ConfigError, match="--out"):
        leaderboard([run, a_run(tmp_path / "b", [frame("probe")])])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="out is a file; name a folder"):
        leaderboard([run], tmp_path / "out")


def test_a_wrong_value_in_the_records_is_named_by_file_column_and_row(tmp_path: Path) -> None:
    """Through the command: its exit code is 2 however quickly the process ends after it has read."""
    run = a_run(tmp_path / "a", [frame("conrad")])
    path = records_path(run, "conrad", "mimic_report")
    table = pq.read_table(path)
    for column, value, problem in (
        ("confidence", 1.2, "a value is outside [0, 1] (1 such rows)"),
        ("correctness", float("nan"), "an ok record has no correctness (1 such rows)"),
        ("confidence", float("nan"), "an ok record has no confidence (1 such rows)"),
    ):
        values = table[column].to_pylist()
        values[3] = value
        at = table.schema.get_field_index(column)
        pq.write_table(table.set_column(at, column, pa.array(values, pa.float64(), from_pandas=False)), path)
        said = refused(conrad_bench("leaderboard", "a", cwd=tmp_path))
        assert said == f"error: a/records/{path.name}: column '{column}', row 3: {problem}\n"


def test_empty_and_damaged_runs_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no run"):
        leaderboard([tmp_path / "empty"])
    bare = a_run(tmp_path / "bare", [], board=False)
    with pytest.raises(DataError, match="records holds no records"):
        leaderboard([bare])
    torn = a_run(tmp_path / "torn", [frame("conrad")])
    (torn / "leaderboard.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"leaderboard.json: title: Field required"):
        leaderboard([torn])
    (torn / "leaderboard.json").unlink()
    (torn / "context.json").write_text('{"format": 1, "context": {}}')
    with pytest.raises(DataError, match=r"context.json is not as this version writes it"):
        leaderboard([torn])
    (torn / "context.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        leaderboard([torn])
    (torn / "context.json").write_text('{"format": 1, "context": {}, "fingerprints": ["f1"]}')
    with pytest.raises(DataError, match=r"context.json: fingerprints: Input should be a valid dictionary"):
        leaderboard([torn])
    whole = a_run(tmp_path / "whole", [frame("conrad")])
    (whole / "manifest.json").write_text('{"data": {"mimic_report": "f1"}}')
    with pytest.raises(DataError, match=r"manifest.json: data.mimic_report: Input should be a valid dictionary"):
        leaderboard([whole])
    said = json.loads((whole / "context.json").read_text())
    said["context"]["metrics"] = [{"name": "eec", "options": {}}]
    (whole / "context.json").write_text(json.dumps(said))
    (whole / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"context.json: unknown metric 'eec'; did you mean 'ece'"):
        leaderboard([whole])
    cut = a_run(tmp_path / "cut", [frame("conrad")])
    path = records_path(cut, "conrad", "mimic_report")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError):
        leaderboard([cut])


def test_subgroups_come_with_by(tmp_path: Path) -> None:
    pytest.importorskip("conrad_bench.leaderboards.board.subgroups", reason="no subgroups in this version")
    data = frame("conrad")
    run = a_run(tmp_path / "a", [data.assign(view=["AP", "PA"] * (len(data) // 2))])
    done = conrad_bench("leaderboard", str(run), "--out", "out", "--by", "view", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    board = schema.read_board(tmp_path / "out" / "leaderboard.json")
    assert {row["subgroup"]["value"] for row in board["subgroups"]} == {"AP", "PA"}
    assert "By view on mimic_report" in (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<summary>By view on mimic_report</summary>" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "subgroup_value" in (tmp_path / "out" / "leaderboard.csv").read_text()


def test_merging_runs_does_not_depend_on_how_often(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / name, [frame(name)]) for name in ("conrad", "probe")]
    context, records = merge([load_run(run) for run in runs])
    assert build(records, context) == build(records, context_of(build(records, context)))


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["/x/seed-0", "/x/seed-1"], ["seed-0", "seed-1"]),
        (["/a/seed-0", "/b/seed-0"], ["a_seed-0", "b_seed-0"]),
        (["/a", "/b/a"], ["a", "b_a"]),
        (["/x/one"], ["one"]),
    ],
)
def test_runs_are_named_by_the_end_of_their_paths(folders: list[str], expected: list[str]) -> None:
    assert run_names([Path(folder) for folder in folders]) == expected


@given(st.lists(st.text("ab_/", min_size=1, max_size=6).map(lambda t: str(Path("/r" + t))), min_size=1, unique=True))
def test_names_of_runs_differ_where_the_folders_do(folders: list[str]) -> None:
    found = run_names([Path(folder) for folder in folders])
    assert len(found) == len(folders)
    assert len(set(found)) == len(found)
    assert all(found)


def test_the_published_schema_is_that_of_the_types() -> None:
    import jsonschema

    published = Path(schema.__file__).with_name("leaderboard.schema.json").read_text(encoding="utf-8")
    assert published == schema.json_schema()
    for board in (board_of(frame("conrad", unparsed=20)), board_of(sentences("sft"), **SENTENCES)):
        jsonschema.validate(board, json.loads(published))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**board, "rows": [{**board["rows"][0], "n": -1}]}, json.loads(published))


def test_the_csv_has_every_number_of_the_rows() -> None:
    board = board_of(frame("conrad", unparsed=20), frame("base", stated=False))
    base, conrad = list(csv.DictReader(io.StringIO(csv_text(board))))[:2]
    row = next(row for row in board["rows"] if row["method"] == "conrad")
    for metric, estimate in row["metrics"].items():
        for column, end in ((metric, "value"), (f"{metric}_low", "low"), (f"{metric}_high", "high")):
            assert conrad[column] == ("" if estimate[end] is None else str(estimate[end]))
    assert conrad["unparsed_no_confidence"] == "20"
    assert (base["method"], base["ece"], base["distinct"], base["unparsed_no_confidence"]) == ("base", "", "", "0")


@given(st.text())
def test_escaped_text_leaves_latex_no_command(text: str) -> None:
    escaped = escape(text)
    plain = re.sub(
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\$\\\w+\$|\$[-<>|]\$|\\[&%$#_{}]", "", escaped
    )
    assert not set(plain) & set("\\&%$#_{}~^\n")


def test_the_metric_of_a_plugin_stands_on_the_board_of_an_old_run(tmp_path: Path) -> None:
    metric = """
import conrad_bench as cb
from conrad_bench.leaderboards.metrics.base import mean_of


@cb.register_metric
class Sure(cb.Metric):
    \"\"\"Share of claims above .5.\"\"\"

    name = "sure"
    summary = "share of claims with a confidence above .5"
    label = "sure"
    better = "zero"
    range = (0.0, 1.0)
    source = "a test"
    headline = True

    def statistic(self, sample):
        return mean_of(sample, (sample.stated() > 0.5).astype(float))
"""
    (tmp_path / "sure.py").write_text(metric)
    bundle = Path(__file__).parents[1] / "leaderboards" / "published" / "phantom"
    done = conrad_bench("leaderboard", str(bundle), "--out", "board", "--plugin", "sure.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    sure = {row["method"]: row["metrics"]["sure"]["value"] for row in board["rows"]}
    records = read_records(bundle / "records" / "verbalized@mimic_report.parquet")
    assert sure["verbalized"] == pytest.approx((records["confidence"] > 0.5).mean())
