"""A run that goes on mixes nothing: what changed is named, and what depends on it is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_run import TOY, Toy, contents, questions

from conrad_bench import pipeline
from conrad_bench.config import load_config
from conrad_bench.errors import ConfigError, PluginError, StorageError, TrainingError
from conrad_bench.fingerprints import examples_digest
from conrad_bench.fits import check_weights
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.rollouts.digests import file_digest, remembered
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.types import Example

METHODS = "stated,mean,mean+isotonic"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def clean(toy: Toy, tmp_path: Path, methods: str = METHODS) -> dict[str, Any]:
    """The board of a run over the toy's data as they are now, in a folder of its own."""
    other = Toy.__new__(Toy)
    other.root, other.out, other.calls = toy.root, tmp_path / "clean", tmp_path / "clean-calls"
    board = other.run(methods)
    shutil.rmtree(other.out)
    return board


def corrected() -> list[dict[str, str]]:
    """The toy's rows with the reference of the first test question corrected."""
    return [{**row, "answer": "yes"} if row["id"] == "q00" else row for row in questions()]


@pytest.mark.parametrize("ended", [True, False])
def test_a_corrected_reference_makes_the_records_anew(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], ended: bool
) -> None:
    before, asked = toy.run(METHODS), toy.count()
    if not ended:
        (toy.out / "manifest.json").unlink()
        (toy.out / "records" / "stated@toy.parquet").unlink()
    toy.write(corrected())
    capsys.readouterr()
    after = toy.run(METHODS)
    assert after == clean(toy, tmp_path) != before
    said = capsys.readouterr().err
    assert "the records of mean on toy cannot be used (changed since: test examples); made again" in said
    assert "artifact" not in said  # nothing was learned from the test examples
    assert toy.count() == asked  # the answers are those to the same questions


def test_another_training_example_makes_the_fits_anew_and_what_rests_on_them(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run(METHODS)
    rows = [{**row, "says": "no"} if row["id"] == "t1" else row for row in questions()]
    toy.write(rows)
    assert toy.run(METHODS) == clean(toy, tmp_path)
    said = capsys.readouterr().err
    assert "the artifact of mean on toy cannot be used (changed since: training examples); made again" in said
    assert "the artifact of mean+isotonic on toy cannot be used" in said
    assert "the records of mean+isotonic on toy cannot be used" in said
    assert "the records of stated" not in said
    assert (toy.out / "artifacts" / "mean@toy.stale-1" / "mean.json").is_file()


def test_a_dry_run_says_what_would_be_made_again(toy: Toy) -> None:
    toy.run(METHODS)
    assert toy.run(METHODS, dry_run=True)["stale"] == []
    toy.write([{**row, "says": "no"} if row["id"] == "t1" else row for row in questions()])
    before = contents(toy.out)
    plan = toy.run(METHODS, dry_run=True)
    stale = {line.partition(" cannot")[0]: line for line in plan["stale"]}
    assert list(stale) == [
        "the artifact of mean on toy",
        "the records of mean on toy",
        "the artifact of mean+isotonic on toy",
        "the records of mean+isotonic on toy",
    ]
    assert "(changed since: training examples)" in stale["the artifact of mean on toy"]
    there = {(step["method"], step["action"]): step["there"] for step in plan["steps"]}
    assert (there["stated", "score"], there["mean", "score"], there["mean", "train"]) == (8, 0, None)
    assert contents(toy.out).keys() == before.keys()
    assert all(contents(toy.out)[name] == content for name, content in before.items() if name != "digests.json")
    assert toy.run(METHODS, dry_run=True, keep_stale=True)["stale"] == []


@pytest.mark.parametrize("changed", [False, True])
def test_a_fit_goes_on_from_what_the_same_fit_left(toy: Toy, tmp_path: Path, changed: bool) -> None:
    options = {"mean": {"ready": str(tmp_path / "ready")}}
    with pytest.raises(TrainingError):
        toy.run("mean", options=options)
    left = toy.out / "artifacts" / "mean@toy" / "checkpoint"
    left.write_text("of the training so far")
    if changed:
        toy.write([{**row, "says": "no"} if row["id"] == "t1" else row for row in questions()])
    (tmp_path / "ready").touch()
    toy.run("mean", options=options)
    assert left.exists() is not changed


def test_an_edited_plugin_answers_with_its_new_code(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "toy_copy.py"
    plugin.write_text(TOY.read_text())
    monkeypatch.setattr("test_run.TOY", plugin)
    before = toy.run("stated,mean")
    plugin.write_text(TOY.read_text().replace("sum(scores) / len(scores)", "sum(scores) / len(scores) / 2"))
    after = toy.run("stated,mean")
    rows = [{row["method"]: row for row in board["rows"]}["mean"] for board in (before, after)]
    assert rows[0]["metrics"]["ece"] != rows[1]["metrics"]["ece"]
    assert "code of the method" in capsys.readouterr().err


def test_an_artifact_with_a_flipped_byte_is_fitted_again(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run(METHODS)
    path = toy.out / "artifacts" / "mean@toy" / "mean.json"
    path.write_text(path.read_text().replace("1", "2").replace("0", "1"))
    assert toy.run(METHODS) == clean(toy, tmp_path)
    assert (
        "the artifact of mean on toy cannot be used (mean.json changed or gone since the fit)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("leaderboard.json", '{"format": 2, "rows": []}'),
        ("leaderboard.json", "{torn"),
        ("manifest.json", "{torn"),
        ("context.json", "{}"),
        ("records/mean@toy.parquet", "PAR1"),
        ("records/mean@toy.parquet", ""),
        ("artifacts/mean@toy/artifact.json", "{torn"),
        ("artifacts/mean@toy/artifact.json", ""),
        ("digests.json", "[[["),
    ],
)
def test_what_was_damaged_or_edited_is_made_again(toy: Toy, tmp_path: Path, name: str, content: str) -> None:
    board = toy.run(METHODS)
    before = contents(toy.out)
    (toy.out / name).write_text(content)
    assert toy.run(METHODS) == board == clean(toy, tmp_path)
    after = {path: data for path, data in contents(toy.out).items() if ".stale-" not in path}
    assert after.keys() == before.keys()
    differ = {path for path in before if before[path] != after[path]}
    assert differ <= {"manifest.json", *([name] if name == "digests.json" else [])}
    if name != "digests.json":
        assert toy.run(METHODS) == board


def test_results_of_something_else_can_be_kept(toy: Toy) -> None:
    board = toy.run(METHODS)
    toy.write(corrected())
    assert toy.run(METHODS, keep_stale=True) == board
    assert toy.run(METHODS) != board


def test_options_that_change_no_answer_may_change(toy: Toy) -> None:
    board = toy.run(METHODS)
    (toy.out / "manifest.json").unlink()
    (toy.out / "records" / "stated@toy.parquet").unlink()
    changed = {"echo": {"calls": str(toy.calls), "batch_size": 3}}
    assert toy.run(METHODS, options=changed) == board
    assert "batch_size: 3" in (toy.out / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"options\.mean\.bug: not set -> True"):
        toy.run(METHODS, options={"mean": {"bug": True}})


def test_who_comes_second_into_a_new_folder_leaves_nothing_there(toy: Toy) -> None:
    with RolloutStore(toy.out / "rollouts"), pytest.raises(StorageError, match="in use by another run"):
        toy.run("stated", seed=3)
    assert not (toy.out / "config.yaml").exists()
    toy.run("stated")
    assert "seed: 0" in (toy.out / "config.yaml").read_text()


def test_a_run_folder_is_its_owners_alone(toy: Toy) -> None:
    toy.run()
    assert toy.out.stat().st_mode & 0o777 == 0o700


def test_a_plugin_that_ends_the_program_fails_alone(toy: Toy, tmp_path: Path) -> None:
    plugin = tmp_path / "quits.py"
    plugin.write_text(
        "import conrad_bench\n\n\n@conrad_bench.register_method\nclass Quits(conrad_bench.Method):\n"
        "    name = 'quits'\n    summary = 'quits'\n\n    def estimate(self, *given):\n        raise SystemExit(0)\n"
    )
    registry = Registry([TOY, plugin])
    given = {"methods": ["quits", "stated"], "tasks": ["toy"], "engine": "echo", "model": "echo"}
    config = load_config(None, {**given, "data_roots": {"toy": toy.root}}, registry)
    with pytest.raises(PluginError, match="quits tried to end the program"):
        pipeline.run(config, toy.out, registry, Reporter())
    assert [row["method"] for row in json.loads((toy.out / "leaderboard.json").read_text())["rows"]] == ["stated"]


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "x" * 65, "", ".hidden", "a b", "ä"])
def test_a_plugins_name_is_one_for_files(name: str, tmp_path: Path) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text(
        "import conrad_bench\n\n\n@conrad_bench.register_method\nclass Odd(conrad_bench.Method):\n"
        f"    name = {name!r}\n    summary = 'odd'\n"
    )
    with pytest.raises(PluginError, match="has other characters than letters"):
        Registry([plugin])


def example(**values: Any) -> Example:
    return Example(
        **({"id": "1", "cluster": "p", "split": "test", "images": (), "context": "", "reference": ""} | values)
    )


@given(st.text(max_size=3), st.sampled_from(["id", "cluster", "split", "context", "reference", "attributes"]))
def test_a_digest_of_examples_sees_everything(text: str, field: str) -> None:
    plain = example()
    other = example(**{field: {"view": text} if field == "attributes" else text})
    assert (examples_digest([plain]) == examples_digest([other])) == (plain == other)


def test_a_digest_of_examples_sees_the_pictures_themselves(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    digests = []
    for content in (b"one", b"two", None):
        picture.write_bytes(content) if content is not None else picture.unlink()
        digests.append(examples_digest([example(images=(str(picture),))]))
    assert len(set(digests)) == 3
    elsewhere = tmp_path / "b.png"
    elsewhere.write_bytes(b"two")
    assert examples_digest([example(images=(str(elsewhere),))]) == digests[1]


def test_digests_are_remembered_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, memory = tmp_path / "a.png", tmp_path / "digests.json"
    picture.write_bytes(b"one")
    with remembered(memory):
        digest = file_digest(picture)
    assert str(picture) in memory.read_text()
    monkeypatch.setattr("conrad_bench.rollouts.digests._known", {})
    monkeypatch.setattr("conrad_bench.rollouts.digests.file_sha256", lambda path: "computed again")
    with remembered(memory):
        assert file_digest(picture) == digest
        picture.write_bytes(b"other")
        assert file_digest(picture) == "computed again"


def test_weights_that_are_no_numbers_are_no_artifact(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    check_weights(tmp_path)
    save_file({"a": np.array([1.0, np.nan], np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(TrainingError, match=r"b\.safetensors: the fit ended with weights that are no numbers"):
        check_weights(tmp_path)
