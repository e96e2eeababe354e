"""`conrad-bench score`: a finished run judged anew, with nothing generated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import conrad_bench
from test_run import TOY, Toy, contents

from conrad_bench.config import load_config
from conrad_bench.engines.calls import METHODS as CALLS
from conrad_bench.errors import ConfigError, DataError, ModelError, UserError
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.bundles.verify import verify
from conrad_bench.progress import Reporter
from conrad_bench.records import read_records
from conrad_bench.registry import Registry
from conrad_bench.rescoring import answered, score

METHODS = "stated,mean,mean+isotonic"
OTHER = '''
"""Scorers that disagree with the toy's."""

from conrad_bench import Score, Scorer, register_scorer


@register_scorer
class Never(Scorer):
    name = "never"
    summary = "nothing is right"
    label = "never"

    def score(self, pairs, granularity, model=None):
        return [Score(0.25) for _ in pairs]


@register_scorer
class OfReports(Scorer):
    name = "of_reports"
    summary = "for whole reports"
    label = "of reports"
    granularities = frozenset({"report"})
'''


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.py"
    path.write_text(OTHER)
    return path


def again(run: Path, other: Path, *scorers: str, **settings: Any) -> tuple[dict[str, Any], Path]:
    return score(run, scorers or ("never",), {}, Registry([TOY, other]), Reporter(quiet=True), **settings)


def test_claims_are_judged_anew_and_nothing_else_changes(toy: Toy, other: Path) -> None:
    toy.run(METHODS)
    before, asked = contents(toy.out), toy.count()
    board, folder = again(toy.out, other)
    assert folder == toy.out.with_name("run-never")
    assert toy.count() == asked
    assert {name: data for name, data in contents(toy.out).items() if name != "digests.json"} == {
        name: data for name, data in before.items() if name != "digests.json"
    }
    for path in (toy.out / "records").glob("*.parquet"):
        one, two = read_records(path), read_records(folder / "records" / path.name)
        same = ["example", "cluster", "claim", "confidence", "response"]
        assert one[same].equals(two[same])
        assert set(two["correctness"].dropna()) == {0.25}
    assert board["tasks"]["toy"]["fitted_by"] == {"scorer": "toy_match", "label": "match"}
    said = "Methods that learn were fitted on correctness by match (scorer"
    assert all(said in (folder / name).read_text() for name in ("leaderboard.md", "leaderboard.html"))
    assert json.loads((folder / "manifest.json").read_text())["fitted_by"] == {"toy": "toy_match"}
    assert verify(folder).differences == []
    shards = [path.stat() for path in (toy.out / "rollouts").glob("*.parquet")]
    assert all(shard.st_nlink == 2 for shard in shards)  # no second copy on the disk
    assert folder.stat().st_mode & 0o077 == 0


def test_a_scored_run_can_be_continued_published_and_scored_back(toy: Toy, other: Path, tmp_path: Path) -> None:
    first = toy.run(METHODS)
    board, folder = again(toy.out, other)
    before = contents(folder)
    assert again(toy.out, other)[0] == board
    assert contents(folder) == before
    back, _ = again(folder, other, "toy=toy_match", out=tmp_path / "back")
    assert back == first
    bundle = publish([folder], tmp_path / "bundle")
    assert verify(bundle).differences == []
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest.pop("fitted_by") == {"toy": "toy_match"}
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    found = verify(bundle).differences
    assert any("fitted_by" in line for line in found), found


def test_what_a_board_says_follows_from_the_configuration() -> None:
    from conrad_bench.manifest import context_again

    def fitted_by(methods: list[str], **options: str) -> dict[str, tuple[str, str]]:
        sections = {"vqa_rad": options, "vqa_match.f1": {"open": "f1"}} if options else {}
        values = {"methods": methods, "tasks": ["vqa_rad"], "options": sections}
        return context_again(load_config(None, values), Registry(), {}, {}).context.fitted_by

    learned = {"vqa_rad": ("vqa_match", "VQA match")}
    assert fitted_by(["verbalized+isotonic"], scorer="vqa_match.f1", fit_scorer="vqa_match") == learned
    assert fitted_by(["self_consistency"], scorer="vqa_match.f1", fit_scorer="vqa_match") == learned
    assert fitted_by(["verbalized"], scorer="vqa_match.f1", fit_scorer="vqa_match") == {}
    assert fitted_by(["verbalized+isotonic"], scorer="vqa_match.f1") == {}
    assert fitted_by(["verbalized+isotonic"]) == {}


def test_no_note_where_nothing_learns(toy: Toy, other: Path) -> None:
    toy.run("stated")
    board, folder = again(toy.out, other)
    assert "fitted_by" not in board["tasks"]["toy"]
    assert "were fitted" not in (folder / "leaderboard.md").read_text()


def test_metrics_are_chosen(toy: Toy, other: Path, tmp_path: Path) -> None:
    toy.run("stated")
    board, folder = again(toy.out, other, metrics=["ece", "brier"])
    assert {metric["name"] for metric in board["metrics"]} == {"brier", "ece"}
    assert verify(folder).differences == []
    with pytest.raises(ConfigError, match="was judged before, with other metrics; `conrad-bench leaderboard"):
        again(toy.out, other, metrics=["brier"])
    with pytest.raises(ConfigError, match="--metrics: unknown metric 'eec'"):
        again(toy.out, other, metrics=["eec"], out=tmp_path / "new")


def test_answers_that_lack_are_not_generated(toy: Toy, other: Path) -> None:
    toy.run(METHODS)
    asked = toy.count()
    next((toy.out / "rollouts").glob("00000-*.parquet")).unlink()
    with pytest.raises(ModelError, match=r"does not hold all answers .* `score` generates none.*same `run`"):
        again(toy.out, other)
    assert toy.count() == asked
    shutil.rmtree(toy.out / "artifacts")
    with pytest.raises(ModelError, match="generates none"):
        again(toy.out, other)
    assert toy.count() == asked


def test_the_engine_is_that_of_the_run(toy: Toy) -> None:
    from conrad_bench.fingerprints import code_digest

    engine = Registry([TOY]).create("engines", "echo", {"model": "echo"})
    kept = answered(engine, {"engine": "echo", "version": "of then"}, ["a note"], toy.out)
    assert kept.identity() == {"engine": "echo", "version": "of then"}
    assert kept.notes(True) == ("a note",)
    assert code_digest(type(kept)) == code_digest(type(engine))
    for ask in (*(getattr(kept, name) for name in CALLS), kept.stream, kept.torch_model):
        with pytest.raises(ModelError, match="generates none"):
            ask()


@pytest.mark.parametrize(
    ("scorers", "problem"),
    [
        (["toy_match"], "the run was judged by toy_match already"),
        (["tyo=never"], r"--scorer tyo=never: unknown task 'tyo'.*toy"),
        (["of_reports"], "scorer 'of_reports' judges claims at report level, task 'toy' has answer level"),
        (["nevr"], "unknown scorer 'nevr'"),
    ],
)
def test_what_cannot_be_judged_is_said(toy: Toy, other: Path, scorers: list[str], problem: str) -> None:
    toy.run("stated")
    with pytest.raises(UserError, match=problem):
        again(toy.out, other, *scorers)
    assert not list(toy.out.parent.glob("run-*"))


def test_only_finished_runs_are_judged_anew(toy: Toy, other: Path, tmp_path: Path) -> None:
    toy.run("stated")
    with pytest.raises(ConfigError, match="is the run itself"):
        again(toy.out, other, out=toy.out)
    bundle = publish([toy.out], tmp_path / "bundle")
    with pytest.raises(DataError, match="a published bundle has none"):
        again(bundle, other)
    (toy.out / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        again(toy.out, other)
    with pytest.raises(DataError, match="holds no run"):
        again(tmp_path, other)


def test_the_command(toy: Toy, other: Path, tmp_path: Path) -> None:
    toy.run(METHODS)
    plugins = ("--plugin", str(TOY), "--plugin", str(other))
    done = conrad_bench("score", str(toy.out), "--scorer", "never", *plugins, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run-never/leaderboard.html" in done.stdout
    done = conrad_bench("score", str(toy.out), "--scorer", "toy_match", *plugins, cwd=tmp_path)
    assert (done.returncode, "already" in done.stderr) == (2, True)
