"""Attacks on bundles: `verify` names each of them, however carefully the hashes were written anew."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_cli import conrad_bench, refused

from conrad_bench.errors import ConfigError
from conrad_bench.leaderboards.bundles.publish import page_texts, publish
from conrad_bench.leaderboards.bundles.verify import render, verify
from conrad_bench.leaderboards.pages.outputs import json_text
from conrad_bench.records import read_records, write_records
from conrad_bench.storage import file_sha256

NAME = "Maria Zebrafinch"
"""What an attacker wants to publish."""
ROOT = Path(__file__).parents[1]
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a real run: a method that is trained with two seeds, beside one that is not."""
    folder = tmp_path_factory.mktemp("attacked")
    options = ("-o", "phantom.studies=60", "-o", "bootstrap.replicates=50")
    done = conrad_bench(
        *("run", "--methods", "verbalized,probe", "--tasks", "mimic_report", "--seeds", "0,1", "--out", "run"),
        *options,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found = publish([folder / "run"], folder / "bundle")
    assert verify(found).differences == []
    return found


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def forge(bundle: Path) -> None:
    """List what is there, with its hashes, as somebody would who changes things on purpose."""
    content = json.loads((bundle / "bundle.json").read_text())
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    content["files"] = {name: file_sha256(bundle / name) for name in names if name != "bundle.json"}
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def page(name: str, old: str, new: str) -> Damage:
    """Change a text in a file."""

    def damage(bundle: Path) -> None:
        text = (bundle / name).read_text()
        assert old in text
        (bundle / name).write_text(text.replace(old, new, 1))

    return damage


def board(edit: Callable[[dict[str, Any]], object]) -> Damage:
    """Change leaderboard.json, and make the pages fit."""

    def damage(bundle: Path) -> None:
        content = json.loads((bundle / "leaderboard.json").read_text())
        edit(content)
        (bundle / "leaderboard.json").write_text(json_text(content))
        with contextlib.suppress(LookupError, RuntimeError):  # what lacks parts cannot be rendered
            for name, text in page_texts(content).items():
                (bundle / name).write_text(text)

    return damage


def manifest(edit: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(bundle: Path) -> None:
        content = json.loads((bundle / "manifest.json").read_text())
        edit(content)
        (bundle / "manifest.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    return damage


def config(edit: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(bundle: Path) -> None:
        content = yaml.safe_load((bundle / "config.yaml").read_text())
        edit(content)
        (bundle / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=120))

    return damage


def path_of(bundle: Path) -> Path:
    return bundle / "records" / "verbalized@mimic_report.parquet"


def column(name: str, value: object) -> Damage:
    """Write a value into every row of the records."""
    return lambda bundle: write_records(path_of(bundle), read_records(path_of(bundle)).assign(**{name: value}))


def table(edit: Callable[[pa.Table], pa.Table]) -> Damage:
    return lambda bundle: pq.write_table(edit(pq.read_table(path_of(bundle))), path_of(bundle), compression="zstd")


def of_column(found: pa.Table) -> pa.Table:
    field = found.schema.field("status").with_metadata({"patient": NAME})
    at = found.schema.get_field_index("status")
    return found.set_column(at, field, found.column("status"))


def between(bundle: Path) -> None:
    """Put bytes between the columns and what says where they are."""
    data = path_of(bundle).read_bytes()
    footer = 8 + pq.read_metadata(path_of(bundle)).serialized_size
    path_of(bundle).write_bytes(data[:-footer] + NAME.encode() + data[-footer:])


def without_verbalized(bundle: Path) -> None:
    """Leave out the baseline's records, and its row."""
    path_of(bundle).unlink()
    board(lambda b: b.update(rows=[row for row in b["rows"] if row["method"] != "verbalized"]))(bundle)


def renamed(bundle: Path) -> None:
    """Let a method go by another's name: the first seed's records stand for the second's."""
    first, second = (bundle / "records" / f"probe.seed{seed}@mimic_report.parquet" for seed in (0, 1))
    write_records(second, read_records(first).assign(method="probe.seed1"))


ATTACKS: dict[str, tuple[Damage, str]] = {
    # What a reader sees.
    "a number in the page": (page("leaderboard.html", "0.", "9."), "leaderboard.html: is not what"),
    "a script in the page": (
        page("leaderboard.html", "</body>", "<script>x()</script></body>"),
        "leaderboard.html: is",
    ),
    "a number in .md": (page("leaderboard.md", "0.", "9."), "leaderboard.md: is not what"),
    "a number in .csv": (page("leaderboard.csv", "0.", "9."), "leaderboard.csv: is not what"),
    "a number in .tex": (page("leaderboard.tex", "0.", "9."), "leaderboard.tex: is not what"),
    "a script in a figure": (
        page("figures/reliability_probe@mimic_report.svg", "</svg>", "<script>x()</script></svg>"),
        "figures/reliability_probe@mimic_report.svg: is not what",
    ),
    "another figure": (
        lambda b: shutil.copy(b / "figures/reliability_probe@mimic_report.svg", b / "figures/more.svg"),
        "figures/more.svg: leaderboard.json names no such figure",
    ),
    "no page": (lambda b: (b / "leaderboard.html").unlink(), "leaderboard.html: missing"),
    "no figure": (lambda b: shutil.rmtree(b / "figures"), "figures/reliability_probe@mimic_report.svg: missing"),
    "another file": (lambda b: (b / "notes.txt").write_text(NAME), "notes.txt: no file of a bundle"),
    "a folder": (
        lambda b: (b / "records/more").mkdir() or (b / "records/more/a.txt").write_text(NAME),
        "records/more/a.txt: no file of a bundle",
    ),
    # What it was.
    "another model": (board(lambda b: b.update(model="google/medgemma-4b-it")), 'leaderboard.json, model: "google'),
    "another title": (board(lambda b: b.update(title="MIMIC-CXR")), 'leaderboard.json, title: "MIMIC-CXR"'),
    "other data": (board(lambda b: b.update(data="MIMIC-CXR")), 'leaderboard.json, data: "MIMIC-CXR"'),
    "phantoms as patients": (board(lambda b: b.update(phantom=False)), "leaderboard.json, phantom: false"),
    "another scorer": (
        board(lambda b: b["tasks"]["mimic_report"].update(scorer="green", label="GREEN")),
        'leaderboard.json, tasks.mimic_report.scorer: "green"',
    ),
    "a note": (board(lambda b: b.update(notes=[NAME])), "leaderboard.json, notes: ["),
    "a caveat": (board(lambda b: b.update(caveats=[NAME])), "leaderboard.json, caveats: ["),
    "a run": (
        board(lambda b: b.update(runs=[{"name": NAME, "model": "", "version": "", "commit": "", "finished": True}])),
        "leaderboard.json, runs: [",
    ),
    "a line about a method": (board(lambda b: b["methods"].update(probe=NAME)), "leaderboard.json, methods.probe: "),
    "a text as version": (board(lambda b: b.update(version=NAME)), "leaderboard.json: version or commit is none"),
    "another seed of the bootstrap": (board(lambda b: b.update(seed=5)), "leaderboard.json, seed: 5"),
    "other seeds": (
        board(lambda b: b["seeds"].update({"probe.seed1": ["probe", 7]})),
        "leaderboard.json, seeds.probe.seed1.1: 7",
    ),
    "no word on randomness": (board(lambda b: b.update(random=[])), "leaderboard.json, random: []"),
    # What is left out.
    "no comparisons": (board(lambda b: b["tasks"]["mimic_report"].pop("comparisons")), "comparisons: missing"),
    "no pairs": (
        board(lambda b: b["tasks"]["mimic_report"]["comparisons"].update(pairs=[])),
        "comparisons.pairs.brier: probe, verbalized: missing",
    ),
    "no difference": (board(lambda b: b["rows"][0].pop("difference")), "difference: missing; the records give it"),
    "no such metric": (
        board(lambda b: b.update(metrics=[m for m in b["metrics"] if m["name"] != "brier"])),
        "leaderboard.json, metrics.brier: missing",
    ),
    "no such method": (without_verbalized, "records/verbalized@mimic_report.parquet: missing; config.yaml names"),
    # Records.
    "a column with names": (column("patient", NAME), "columns that no bundle has: patient"),
    "names in a known column": (column("view", NAME), "column view: 1 value(s) that no bundle has"),
    "names as keys": (column("response", NAME), "column response: ids that are no hashes"),
    "names as readings": (column("reading", NAME), "column reading: words that are not the reader's"),
    "rows in another order": (
        lambda b: write_records(path_of(b), read_records(path_of(b)).iloc[::-1]),
        "its rows are not in the order of the hashed ids",
    ),
    "text in the file's metadata": (
        table(lambda t: t.replace_schema_metadata({**t.schema.metadata, "patient": NAME})),
        "verbalized@mimic_report.parquet: metadata of the file that no bundle has",
    ),
    "text in a column's metadata": (
        table(of_column),
        "verbalized@mimic_report.parquet: metadata of columns that no bundle has",
    ),
    "what a run's records were made from": (
        lambda b: write_records(path_of(b), read_records(path_of(b)), {"data": NAME}),
        "metadata of the file that no bundle has",
    ),
    "text between the columns": (between, "16 bytes that belong to no column"),
    "one seed twice": (renamed, "their column seed says 0, and they stand for seed 1"),
    # Configuration and manifest.
    "a comment in config.yaml": (page("config.yaml", "methods:", f"# {NAME}\nmethods:"), "config.yaml: is not written"),
    "a data root": (config(lambda c: c.update(data_roots={"mimic_report": "/x"})), "config.yaml: data_roots"),
    "a text among the options": (
        config(lambda c: c["options"].update(transformers={"chat_template": NAME})),
        "config.yaml: options.transformers.chat_template: holds what no bundle says",
    ),
    "another seed in config.yaml": (config(lambda c: c.update(seed=5)), "manifest.json: another seed than config.yaml"),
    "another option": (
        config(lambda c: c["options"].setdefault("probe", {}).update(width=8)),
        "manifest.json, methods.probe.seed0.width: 256, config.yaml has 8",
    ),
    "another task": (config(lambda c: c.update(tasks=["vqa_rad"])), "config.yaml names no such method and task"),
    "an unknown key": (config(lambda c: c.update(patient=NAME)), "patient"),
    "another manifest": (
        lambda b: (b / "manifest.json").write_text('{\n "methods": {},\n "seed": 0\n}\n'),
        "manifest.json, methods: probe.seed0 is in one of",
    ),
    "a host's name": (
        manifest(lambda m: m["hardware"].update(host=NAME)),
        "manifest.json: hardware: holds what no bundle says",
    ),
    "a name among the versions": (
        manifest(lambda m: m["versions"].update({NAME: "1.0"})),
        "manifest.json: versions: holds what no bundle says",
    ),
    "a name among the rollouts": (
        manifest(lambda m: m["rollouts"].update({"Zebrafinch": 1})),
        "manifest.json: rollouts: holds what no bundle says",
    ),
    "a root": (
        manifest(lambda m: m["data"]["mimic_report"].update(root="/data/mimic")),
        "manifest.json: data: holds what no bundle says",
    ),
    "real data": (
        lambda b: (
            manifest(lambda m: m["data"]["mimic_report"].update(root="(left out)"))(b),
            board(lambda m: m.update(phantom=False, data="MIMIC-CXR"))(b),
        ),
        "leaderboard.json, phantom: false, the records give true",
    ),
    "real data, and their scorer": (
        lambda b: (
            manifest(lambda m: m["data"]["mimic_report"].update(root="(left out)"))(b),
            board(lambda m: m["tasks"]["mimic_report"].update(scorer="green", label="GREEN"))(b),
        ),
        'leaderboard.json, tasks.mimic_report.scorer: "green", the records give "phantom_green"',
    ),
    "fewer examples": (
        manifest(lambda m: m["data"]["mimic_report"]["examples"].update(test=5000)),
        "manifest.json, data.mimic_report.examples.test: 5000, there are records of 12",
    ),
    "fewer examples left out": (
        manifest(lambda m: m["data"]["mimic_report"].update(left_out={})),
        "left_out",
    ),
    "another model in manifest.json": (
        manifest(lambda m: m["model"].update(model="google/medgemma-4b-it")),
        "manifest.json, model: another model than config.yaml has",
    ),
    "more in bundle.json": (page("bundle.json", '"files"', f'"by": "{NAME}",\n "files"'), "holds more than format"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_told(copied: Path, attack: str) -> None:
    damage, expected = ATTACKS[attack]
    damage(copied)
    forge(copied)
    found = verify(copied).differences
    assert any(expected in line for line in found), found


def test_what_is_made_of_the_records_is_written_anew(bundle: Path, copied: Path) -> None:
    for attack in ("another figure", "phantoms as patients", "a number in .csv", "no page"):
        ATTACKS[attack][0](copied)
    (copied / "figures" / "reliability_verbalized@mimic_report.svg").unlink()
    forge(copied)
    assert verify(copied).lasting == []
    assert render(copied).differences == []
    for path in (path for path in bundle.rglob("*") if path.is_file()):
        assert (copied / path.relative_to(bundle)).read_bytes() == path.read_bytes(), path.name


def test_nothing_is_written_where_more_is_wrong(copied: Path) -> None:
    for attack in ("a number in the page", "a comment in config.yaml"):
        ATTACKS[attack][0](copied)
    forge(copied)
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    found = render(copied)
    assert [line for line in found.lasting if line.startswith("config.yaml: is not written")] == found.lasting
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_the_command_takes_several_folders_and_says_what_it_cannot_know(copied: Path, bundle: Path) -> None:
    ATTACKS["a number in the page"][0](copied)
    done = conrad_bench("verify", str(bundle), str(copied), cwd=copied.parent)
    assert done.returncode == 1
    assert f"{bundle}: " in done.stdout
    assert "all agree" in done.stdout
    assert "what no check can tell: whether a model stated these confidences" in done.stdout
    assert "`conrad-bench verify --render` writes a bundle's pages and figures anew" in done.stdout
    assert done.stderr == f"error: {copied}: 2 difference(s)\n"
    mended = conrad_bench("verify", "--render", str(copied), cwd=copied.parent)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "is no bundle; of a run" in refused(conrad_bench("verify", "--render", "run", cwd=bundle.parent))
    with pytest.raises(ConfigError, match="is no bundle"):
        render(bundle.parent / "run")


def test_a_run_is_held_against_its_context(bundle: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(bundle.parent / "run", tmp_path / "run"))
    assert verify(run).differences == []
    board(lambda b: b.update(phantom=False))(run)
    assert any(line.startswith("leaderboard.json, phantom: false") for line in verify(run).differences)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_pull_request_is_checked_by_the_bundles_that_it_changes(bundle: Path, tmp_path: Path) -> None:
    published = tmp_path / "leaderboards" / "published"
    published.mkdir(parents=True)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "changed-bundles", tmp_path / ".ci")
    command = tmp_path / "bin" / "conrad-bench"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from conrad_bench.cli import main; main()" "$@"\n')
    command.chmod(0o755)

    def commit() -> str:
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
        return git(tmp_path, "rev-parse", "HEAD")

    def check(since: str) -> subprocess.CompletedProcess[str]:
        path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [".ci/changed-bundles", since],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": path},
        )

    git(tmp_path, "init", "-q")
    (published / "broken").mkdir()
    (published / "broken" / "bundle.json").write_text("{")
    first = commit()
    (published / "README.md").write_text("x")
    commit()
    nothing = check(first)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")
    shutil.copytree(bundle, published / "a new one")
    second = commit()
    fine = check(first)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "a new one: " in fine.stdout
    ATTACKS["a script in the page"][0](published / "a new one")
    shutil.rmtree(published / "broken")
    commit()
    wrong = check(second)
    assert wrong.returncode == 1
    assert "differs: leaderboard.html: is not what" in wrong.stdout
    (published / "a new one" / "publish.salt").write_text("00")
    third = commit()
    assert "a salt is no part of a bundle" in check(third).stderr


def test_workflows_run_what_is_there() -> None:
    found = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").iterdir()}
    assert found.keys() == {"bundles.yml", "checks.yml"}
    ran = []
    for workflow in found.values():
        assert workflow["permissions"] == {"contents": "read"}
        assert True in workflow  # YAML 1.1 reads the key "on" so
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 90
            ran += [step["run"] for step in job["steps"] if "run" in step]
    assert any(line.startswith(".ci/changed-bundles ") for line in ran)
    assert os.access(ROOT / ".ci" / "changed-bundles", os.X_OK)
    here = (ROOT / ".ci" / "run").read_text()
    # Installation, what the tests do to every published bundle, and what needs Docker.
    elsewhere = ("pip install -c constraints.txt ", ".ci/changed-bundles", "conrad-bench verify ", "conrad-bench site ")
    for line in ran:
        for part in line.split(" && "):
            assert part in here or part.startswith((*elsewhere, "docker ")), part
    assert "leaderboards/published/**" in found["bundles.yml"][True]["pull_request"]["paths"]
