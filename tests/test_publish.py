"""Bundles: nothing private in them, and every number in them is checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_board import CONTEXT, SENTENCES, sentences
from test_cli import conrad_bench, refused
from test_merge import a_run, finish
from test_run import SAID, Toy

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.bundles.merge import leaderboard
from conrad_bench.leaderboards.bundles.privacy import SUBGROUPS, band
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.records import read_records, write_records
from conrad_bench.storage import file_sha256

MARK = "Zebrafinch"
"""Planted in everything that could be private."""


def marked_run(folder: Path) -> Path:
    """A finished run whose ids, texts, folders, options and attributes all hold the marker."""
    toy = Toy(folder / f"{MARK}-data")
    questions = toy.root / "questions.json"
    rows = json.loads(questions.read_text())
    for row in rows:
        row["id"], row["patient"] = f"{MARK}-{row['id']}", f"{MARK}-{row['patient']}"
        for key in ("says", "answer"):
            row[key] = row[key] if row[key] in ("", "?") else f"{MARK} {row[key]}"
    questions.write_text(json.dumps(rows))
    (folder / f"{MARK}-data" / "ready").touch()
    toy.run(
        "stated,mean",
        model=f"/models/{MARK}/checkpoint",
        options={"mean": {"ready": str(folder / f"{MARK}-data" / "ready")}},
    )
    for path in (toy.out / "records").iterdir():
        frame = read_records(path)
        frame["view"] = [f"{MARK} view", "PA"] * (len(frame) // 2)
        frame["sex"] = "F"
        frame["age"] = [40.0 + i for i in range(len(frame))]
        frame["indication"] = f"{MARK} has a cough since 2019-03-04"
        write_records(path, frame)
    leaderboard([toy.out])
    return toy.out


def sentence_context() -> BoardContext:
    return CONTEXT.model_copy(update={**SENTENCES, "model": "phantom-gemma3 (embedded)"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marked")
    (folder / f"{MARK}-data").mkdir()
    return marked_run(folder)


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    return publish([run], run.parent / "bundle")


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    copy = tmp_path / "bundle"
    for path in bundle.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(bundle)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def everything(folder: Path) -> bytes:
    """All bytes of a folder: names, contents, and the contents of parquet files decoded."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            parts.append(path.read_bytes())
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            parts += [
                str(table.schema).encode(),
                repr(table.schema.metadata).encode(),
                repr(table.to_pydict()).encode(),
            ]
    return b"\n".join(parts)


def test_the_marker_is_everywhere_in_the_run(run: Path) -> None:
    """Or the next test would prove nothing."""
    for name in ("config.yaml", "manifest.json", "rollouts", "records"):
        path = run / name
        found = everything(path) if path.is_dir() else path.read_bytes()
        assert MARK.encode() in found, name


def test_nothing_private_is_in_a_bundle(run: Path, bundle: Path) -> None:
    found = everything(bundle).lower()
    assert MARK.lower().encode() not in found
    for private in (*(f"q{i:02d}" for i in range(len(SAID))), "2019-03-04", "cough", str(run.parent), "publish.salt"):
        assert private.lower().encode() not in found, private
    salt = (run / "publish.salt").read_text().strip()
    assert salt.encode() not in found
    assert stat.S_IMODE(os.stat(run / "publish.salt").st_mode) == 0o600
    for key in read_records(next((run / "records").iterdir()))["response"]:
        assert key.encode() not in found


def test_the_records_keep_their_numbers_and_known_columns(run: Path, bundle: Path) -> None:
    for path in (run / "records").iterdir():
        before, after = read_records(path), read_records(bundle / "records" / path.name)
        assert set(after.columns) - set(before.columns) == set()
        assert {"indication", "length"} & set(after.columns) == set()
        key = ["confidence", "correctness", "status", "claim"]
        numbers = [frame[key].sort_values(key).reset_index(drop=True) for frame in (before, after)]
        pd.testing.assert_frame_equal(*numbers)
        assert after["cluster"].nunique() == before["cluster"].nunique()
        assert after["example"].is_monotonic_increasing
        assert set(after["view"].dropna()) == set()  # too few patients have any view
        assert set(before["view"]) == {f"{MARK} view", "PA"}


def test_values_are_those_of_the_run_and_verify_agrees(run: Path, bundle: Path) -> None:
    said, found = (json.loads((folder / "leaderboard.json").read_text()) for folder in (run, bundle))
    for row, other in zip(said["rows"], found["rows"], strict=True):
        values = [{name: estimate["value"] for name, estimate in r["metrics"].items()} for r in (row, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-8)
    assert found["title"] == "Confidence of a local checkpoint (unknown) on (left out)"  # its task is a local file
    done = conrad_bench("verify", str(bundle), cwd=run.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rows" in done.stdout
    assert "all agree" in done.stdout
    assert verify(run).differences == []


def test_sentences_with_their_probabilities_make_a_bundle(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [sentences("sft"), sentences("verbalized", unparsed=4)], sentence_context())
    found = publish([finish(run)], tmp_path / "bundle")
    checked = verify(found)
    assert (checked.differences, checked.rows, checked.hashes) == ([], 2, 14)
    page = (found / "leaderboard.md").read_text()
    assert "Confidence answers on mimic_sentence" in page
    linked = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert {path.name for path in (found / "figures").iterdir()} == {Path(link).name for link in linked}
    assert {path.name for path in found.iterdir()} == {
        "bundle.json", "config.yaml", "figures", "manifest.json", "records",
        *(f"leaderboard.{suffix}" for suffix in ("csv", "html", "json", "md", "tex")),
    }  # fmt: skip


def test_ids_are_the_same_under_the_same_salt_alone(run: Path, bundle: Path, tmp_path: Path) -> None:
    again = publish([run], tmp_path / "again")
    assert everything(again) == everything(bundle)
    salt = (run / "publish.salt").read_bytes()
    (run / "publish.salt").unlink()
    other = publish([run], tmp_path / "other")
    (run / "publish.salt").write_bytes(salt)
    ids = [set(read_records(next((b / "records").iterdir()))["cluster"]) for b in (bundle, other)]
    assert len(ids[0]) == len(ids[1])
    assert not ids[0] & ids[1]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def forge(bundle: Path) -> None:
    """Write the hashes of what is there into bundle.json, as somebody would who changes numbers on purpose."""
    content = json.loads((bundle / "bundle.json").read_text())
    content["files"] = {name: file_sha256(bundle / name) for name in content["files"] if (bundle / name).is_file()}
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def with_board(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        board = json.loads((bundle / "leaderboard.json").read_text())
        edit(board)
        (bundle / "leaderboard.json").write_text(json.dumps(board))
        forge(bundle)

    return damage


def better(bundle: Path) -> None:
    path = bundle / "records" / "stated@toy.parquet"
    frame = read_records(path)
    frame.loc[frame["status"] == "ok", "confidence"] = 0.5
    write_records(path, frame)
    forge(bundle)


def other_hash(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    content["files"]["manifest.json"] = "0" * 64
    (bundle / "bundle.json").write_text(json.dumps(content))


def link(bundle: Path) -> None:
    (bundle / "config.yaml").rename(bundle.parent / "config.yaml")
    (bundle / "config.yaml").symlink_to(bundle.parent / "config.yaml")


def flip(bundle: Path) -> None:
    """Change one bit in the middle of a file."""
    path = bundle / "records" / "stated@toy.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def set_ece(board: dict[str, Any]) -> None:
    board["rows"][1]["metrics"]["ece"]["value"] -= 0.01


def drop_metric(board: dict[str, Any]) -> None:
    del board["rows"][1]["metrics"]["brier"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda b: (b / "manifest.json").unlink(), "manifest.json: missing; bundle.json lists it"),
        (lambda b: (b / "notes.txt").write_text("x"), "notes.txt: not listed in bundle.json"),
        (lambda b: change(b / "manifest.json", '"cpus"', '"gpus"'), "manifest.json: its SHA-256 is not the one"),
        (other_hash, "manifest.json: its SHA-256 is not the one in bundle.json"),
        (with_board(set_ece), "leaderboard.json, rows.stated@toy.metrics.ece.value: 0.4"),
        (with_board(drop_metric), "leaderboard.json, rows.stated@toy.metrics.brier: missing; the records give it"),
        (
            with_board(lambda board: board["rows"].pop()),
            "leaderboard.json, rows.stated@toy: missing; the records give it",
        ),
        (with_board(lambda board: board["rows"][0].update(n="many")), "leaderboard.json: rows.0.n: "),
        (with_board(lambda board: board.update(format=0)), "leaderboard.json has format 0"),
        (better, "rows.stated@toy.collapse.distinct: 4, the records give 1"),
        (lambda b: (b / "records" / "stated@toy.parquet").write_bytes(b"PAR1"), "is not a whole parquet file"),
        (lambda b: (b / "bundle.json").write_text("{"), "bundle.json: cannot be read"),
        (lambda b: (b / "bundle.json").unlink(), "bundle.json: missing; this is no run"),
        (lambda b: (b / "more").symlink_to(b.parent), "more: not listed in bundle.json"),
        (lambda b: (b / "more").symlink_to("nowhere"), "more: not listed in bundle.json"),
        (link, "config.yaml: a link or pipe, no file"),
        (flip, "records/stated@toy.parquet: its SHA-256 is not the one in bundle.json"),
        (lambda b: (b / "leaderboard.json").unlink(), "leaderboard.json: missing; bundle.json lists it"),
        (lambda b: shutil.rmtree(b / "records"), "records/stated@toy.parquet: missing; bundle.json lists it"),
    ],
)
def test_a_damaged_bundle_is_told_apart(copied: Path, damage: Callable[[Path], object], expected: str) -> None:
    assert verify(copied).differences == []
    damage(copied)
    found = verify(copied).differences
    assert any(expected in line for line in found), found


def more_digits(bundle: Path) -> None:
    path = bundle / "records" / "mean@toy.parquet"
    frame = read_records(path)
    write_records(path, frame.assign(confidence=frame["confidence"] - 1 / 7000))
    forge(bundle)


def test_a_bundle_with_more_digits_is_told_apart_and_the_first_format_is_still_read(copied: Path) -> None:
    more_digits(copied)
    assert any("mean@toy.parquet: column confidence: values with more" in line for line in verify(copied).differences)
    content = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps({**content, "format": 1}))
    assert not any("with more digits" in line for line in verify(copied).differences)


def test_a_difference_ends_the_command_with_1(copied: Path) -> None:
    with_board(set_ece)(copied)
    done = conrad_bench("verify", str(copied), cwd=copied.parent)
    assert done.returncode == 1
    assert "differs: leaderboard.json, rows.stated@toy.metrics.ece.value" in done.stdout
    # The number, and leaderboard.json, which is not what the records give.
    assert re.fullmatch(rf"error: {re.escape(str(copied))}: 2 difference\(s\)\n", done.stderr)


def test_a_bundle_is_published_anew_with_the_same_records(bundle: Path, tmp_path: Path) -> None:
    """Where a later version computes something in another way; here nothing is, so that all is as it was."""
    again = publish([bundle], tmp_path / "again")
    assert verify(again).differences == []
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        name = path.relative_to(bundle)
        if path.suffix == ".parquet":
            assert read_records(again / name).equals(read_records(path))
        else:
            assert (again / name).read_bytes() == path.read_bytes() or name.name == "bundle.json", name


def test_what_cannot_be_published_is_an_error(run: Path, bundle: Path, tmp_path: Path) -> None:
    assert "holds no run" in refused(conrad_bench("publish", str(tmp_path), "--out", "b", cwd=tmp_path))
    with pytest.raises(ConfigError, match="not an empty folder"):
        publish([run], bundle)
    salt = (run / "publish.salt").read_bytes()
    (run / "publish.salt").write_text("no hex")
    with pytest.raises(DataError, match=r"publish.salt holds no salt"):
        publish([run], tmp_path / "b")
    (run / "publish.salt").write_bytes(salt)
    manifest = (run / "manifest.json").read_bytes()
    (run / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        publish([run], tmp_path / "b")
    (run / "manifest.json").write_bytes(manifest)
    board, merged = leaderboard([run], tmp_path / "merged")
    assert board["rows"]
    assert [line for line in verify(merged).differences if "has no records of its own" in line]
    with pytest.raises(DataError, match="neither a bundle"):
        verify(tmp_path)


def test_a_local_checkpoint_is_published_under_a_name(run: Path, tmp_path: Path) -> None:
    called = publish([run], tmp_path / "called", model_name="Gemma 3 270M, taught VQA-RAD")
    title = "Confidence of Gemma 3 270M, taught VQA-RAD (unknown) on"
    assert json.loads((called / "leaderboard.json").read_text())["title"].startswith(title)
    assert verify(called).differences == []
    assert title.encode() in (publish([called], tmp_path / "again") / "leaderboard.html").read_bytes()
    assert MARK.encode() not in everything(called)


@pytest.mark.parametrize("name", ["", " ", "/models/mine", "mine of 2026-11-26", "two\nlines", "x" * 81, "a@b.org"])
def test_a_name_that_may_tell_more_is_refused(name: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model-name: give a line"):
        publish([run], tmp_path / "b", model_name=name)


def test_a_model_with_a_public_name_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a name that everybody knows"):
        publish([PUBLISHED / "phantom"], tmp_path / "b", model_name="mine")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("view", "pa ", "PA"), ("view", "PA of J. Smith", None), ("sex", "F", "F"), ("sex", None, None),
        ("age", 39.9, "under 40"), ("age", "40", "40-59"), ("age", 95.0, "80 and over"), ("age", float("nan"), None),
        ("age", "unknown", None), ("image_quality", 0.5, "middle"), ("answer_type", "closed", "closed"),
    ],
)  # fmt: skip
def test_values_of_subgroups_are_on_a_list_or_in_a_band(column: str, value: object, expected: str | None) -> None:
    assert band(column, value) == expected


@given(st.sampled_from(SUBGROUPS), st.one_of(st.text(), st.floats(), st.none()))
def test_a_band_never_quotes_a_value(column: str, value: object) -> None:
    found = band(column, value)
    assert found is None or found in everything_listed()


def everything_listed() -> set[str]:
    texts = ["PA", "AP", "LATERAL", "LL", "F", "M", "open", "closed", "en", "zh", "xray", "ct", "mri", "ultrasound"]
    texts += ["angiography", "mammography", "under 40", "40-59", "60-79", "80 and over", "low", "middle", "high"]
    return set(texts)


PUBLISHED = Path(__file__).parents[1] / "leaderboards" / "published"


BUNDLES = [
    # Those of many tasks, seeds and methods take minutes.
    pytest.param(
        path.parent, id=path.parent.name, marks=[pytest.mark.slow] * path.parent.name.startswith(("paper", "vqa"))
    )
    for path in sorted(PUBLISHED.glob("*/bundle.json"))
]


@pytest.mark.parametrize("folder", BUNDLES)
def test_every_published_bundle_is_what_its_records_give(folder: Path) -> None:
    assert verify(folder).differences == []


def test_published_folders_are_bundles() -> None:
    assert all((p / "bundle.json").is_file() for p in PUBLISHED.iterdir() if p.is_dir())
