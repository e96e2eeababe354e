"""Bad input through the real command line: an exit code, one message that says what to do, never a traceback."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import Done, conrad_bench, refused

from conrad_bench.records import read_records
from conrad_bench.tasks.phantom.mimic_layout import write_mimic

TOY = str(Path(__file__).parent / "toy.py")
# The echo engine needs no model: what is tested with it goes wrong before a model is asked.
WITHOUT_MODEL = ("--plugin", TOY, "--engine", "echo", "--model", "echo", "-o", "bootstrap.replicates=20")
RUN = ("run", "--methods", "verbalized", "--tasks", "mimic_report", "--out", "out")
SECRET = "text of a patient"


@pytest.fixture(scope="session")
def phantom_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "tree"
    write_mimic(folder, 60, seed=1)
    return folder


@pytest.fixture
def tree(phantom_tree: Path, tmp_path: Path) -> Path:
    """A data root of the test's own, in the layout of MIMIC-CXR."""
    return Path(shutil.copytree(phantom_tree, tmp_path / "mimic"))


def on(tree: Path, *more: str) -> tuple[str, ...]:
    return (*RUN, *WITHOUT_MODEL, "--data-root", f"mimic_report={tree}", *more)


def images_of_test(tree: Path) -> list[Path]:
    """Return the images of the test split, in the order of their studies."""
    lines = gzip.decompress((tree / "mimic-cxr-2.0.0-split.csv.gz").read_bytes()).decode().splitlines()[1:]
    dicoms = {line.split(",")[0] for line in lines if line.endswith(",test")}
    return sorted((p for p in tree.rglob("*.jpg") if p.stem in dicoms), key=lambda p: (p.parent.name, p.name))


@pytest.mark.parametrize(
    ("methods", "tasks", "expected"),
    [
        ("conrade", "mimic_report", "--methods: unknown method 'conrade'; did you mean 'conrad'?"),
        ("verbalized,prob", "mimic_report", "--methods: unknown method 'prob'; did you mean 'probe'?"),
        ("verbalized", "mimic_reports", "--tasks: unknown task 'mimic_reports'; did you mean 'mimic_report'?"),
        ("verbalized", "chexpert", "--tasks: unknown task 'chexpert' (tasks: "),
    ],
)
def test_an_unknown_name(tmp_path: Path, methods: str, tasks: str, expected: str) -> None:
    assert expected in refused(conrad_bench("run", "--methods", methods, "--tasks", tasks, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_two_unknown_names_are_named_at_once(tmp_path: Path) -> None:
    message = refused(conrad_bench("run", "--methods", "prob", "--tasks", "mimic", "-o", "probe.x=1", cwd=tmp_path))
    assert all(name in message for name in ("'prob'", "'mimic'", "-o probe.x"))


def test_a_config_with_a_misspelt_key(tmp_path: Path) -> None:
    text = "methods: [probe]\ntasks: [mimic_report]\noptions:\n  probe: {layers: -1}\n  phantom: {study: 3}\n"
    (tmp_path / "run.yaml").write_text(text)
    message = refused(conrad_bench("run", "--config", "run.yaml", cwd=tmp_path))
    assert "run.yaml, line 4: options.probe.layers: unknown option 'layers'; did you mean 'layer'?" in message
    assert "run.yaml, line 5: options.phantom.study: unknown option 'study'; did you mean 'studies'?" in message


def test_a_data_root_without_its_split_file(tree: Path, tmp_path: Path) -> None:
    (tree / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    message = refused(conrad_bench(*on(tree), cwd=tmp_path))
    assert f"mimic-cxr-2.0.0-split.csv.gz not found below {tree}\nexpected, in one folder:" in message


def test_a_data_root_from_the_environment_is_used_or_is_an_error(tmp_path: Path) -> None:
    done = conrad_bench(*RUN, *WITHOUT_MODEL, cwd=tmp_path, MIMIC_CXR_ROOT=str(tmp_path / "gone"))
    assert "gone (from $MIMIC_CXR_ROOT) is not a folder" in refused(done)


def test_a_malformed_csv(tree: Path, tmp_path: Path) -> None:
    path = tree / "mimic-cxr-2.0.0-split.csv.gz"
    data = path.read_bytes()
    lines = gzip.decompress(data).decode().splitlines()
    lines[4] = f"{lines[4]},one column too many"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    message = refused(conrad_bench(*on(tree), cwd=tmp_path))
    assert f"{path}, line 5: 5 columns where the header has 4" in message
    path.write_bytes(data[:-60])
    assert "the gzip file is torn; download it again" in refused(conrad_bench(*on(tree), cwd=tmp_path))


def test_a_patient_in_two_splits(tree: Path, tmp_path: Path) -> None:
    path = tree / "mimic-cxr-2.0.0-split.csv.gz"
    rows = [line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    number = next(i for i, row in enumerate(rows) if [r[2] for r in rows].count(row[2]) > 1)
    rows[number][3] = "test" if rows[number][3] == "train" else "train"
    path.write_bytes(gzip.compress("\n".join(",".join(row) for row in rows).encode()))
    message = refused(conrad_bench(*on(tree), cwd=tmp_path))
    assert "is in another split further up" in message


def test_a_corrupt_jpeg_is_named(tree: Path, tmp_path: Path, tiny_gemma3: Path) -> None:
    image = images_of_test(tree)[0]
    image.write_bytes(image.read_bytes()[:200])
    arguments = (*RUN, "--model", str(tiny_gemma3), "--limit", "1", "--data-root", f"mimic_report={tree}")
    done = conrad_bench(*arguments, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 2
    assert f"image {image} cannot be read" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "leaderboard.json").exists()


def test_an_empty_report_is_left_out_and_counted(tree: Path, tmp_path: Path) -> None:
    image = images_of_test(tree)[0]
    report = image.parent.with_suffix(".txt")
    done = conrad_bench(*on(tree), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "empty report" not in done.stdout
    report.write_text("")
    done = conrad_bench(*on(tree), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert board["tasks"]["mimic_report"]["left_out"]["empty report"] == 1
    assert "empty report (1)" in (tmp_path / "out" / "leaderboard.md").read_text()
    frame = read_records(tmp_path / "out" / "records" / "verbalized@mimic_report.parquet")
    assert report.stem not in set(frame["example"])


def test_real_looking_reports_are_not_judged_by_the_phantom_scorer(tree: Path, tmp_path: Path) -> None:
    for report in tree.rglob("s*.txt"):
        report.write_text(
            f"{'FINAL REPORT':>45}\n INDICATION:  ___-year-old with dyspnea, {SECRET}.\n \n FINDINGS: \n \n"
            " Cardiomediastinal silhouette is within normal limits. Streaky bibasilar atelectasis without\n"
            f" focal consolidation, {SECRET}.\n"
        )
    message = refused(conrad_bench(*on(tree), cwd=tmp_path))
    assert "scorer 'phantom_green' judges phantom (synthetic) reports only" in message
    assert "-o TASK.scorer=NAME" in message
    assert SECRET not in message


def test_an_output_folder_of_another_config(tree: Path, tmp_path: Path) -> None:
    assert conrad_bench(*on(tree), "--limit", "3", cwd=tmp_path).returncode == 0
    message = refused(conrad_bench(*on(tree), "--limit", "4", "--seed", "1", cwd=tmp_path))
    assert "out holds a run with another configuration; choose another folder with --out" in message
    assert message.splitlines()[1:] == ["  - limit: 3 -> 4", "  - seed: 0 -> 1"]


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    message = refused(conrad_bench(*RUN, "--model", str(tmp_path / "absent"), cwd=tmp_path))
    assert f"model '{tmp_path / 'absent'}': there is no such folder" in message
    (tmp_path / "empty").mkdir()
    message = refused(conrad_bench(*RUN, "--model", str(tmp_path / "empty"), cwd=tmp_path))
    assert "empty is no checkpoint: it needs config.json and weights as .safetensors" in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_output_folder(phantom_tree: Path, open_folder: Path) -> None:
    tree = Path(shutil.copytree(phantom_tree, open_folder / "mimic"))
    (open_folder / "out").mkdir(mode=0o555)
    as_nobody: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root may write everywhere
        as_nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and setpriv is not there to be somebody else")
        readable = [*as_nobody, sys.executable, "-c", "import conrad_bench.cli"]
        if subprocess.run(readable, capture_output=True, check=False, cwd=open_folder).returncode:
            pytest.skip("root may write everywhere, and nobody else can read this installation")
    done = shell([*as_nobody, *command(*on(tree))], open_folder)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write out")
    assert "permission denied; choose another folder with --out or change its permissions" in done.stderr
    assert list((open_folder / "out").iterdir()) == []


def test_a_full_disk_then_the_same_command_with_room(phantom_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mount = "mount -t tmpfs -o size=12k none out"
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c"]
    with contextlib.suppress(FileNotFoundError):
        allowed = shell([*unshare, mount], tmp_path).returncode == 0
    if shutil.which("unshare") is None or not allowed:
        pytest.skip("a small disk cannot be mounted here (unshare --mount)")
    run = '"$@" 2>errors$n; echo $? >>codes'
    script = f"{mount} && n=1; {run}; mount -o remount,size=10m out && n=2; {run}; cp -r out copy"
    done = shell([*unshare, script, "sh", *command(*on(phantom_tree))], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "codes").read_text().split() == ["1", "0"]
    errors = (tmp_path / "errors1").read_text()
    assert "the disk is full; free some space and run the same command again to continue" in errors
    assert errors.splitlines()[-1].startswith("error: cannot write out")
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "copy" / "leaderboard.json").read_text())["rows"][0]["method"] == "verbalized"
    assert (tmp_path / "copy" / "manifest.json").exists()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from conrad_bench.cli import main; main()", *arguments]


def shell(arguments: list[str], cwd: Path) -> Done:
    environment = {**os.environ, "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)
