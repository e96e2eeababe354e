"""What a user is told about caches, closed outputs, empty files, and folders that vanish."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import conrad_bench, refused
from test_run import TOY, Toy, questions

from conrad_bench.storage import working_folder

PHANTOM = ("run", "--methods", "verbalized", "--tasks", "mimic_report", "-o", "phantom.studies=60", "--dry-run")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def arguments(toy: Toy, plugin: Path = TOY) -> list[str]:
    names = ["--methods", "stated", "--tasks", "toy", "--engine", "echo", "--model", "echo"]
    where = ["--plugin", str(plugin), "--data-root", f"toy={toy.root}", "--out", str(toy.out)]
    return ["run", *names, *where, "-o", "bootstrap.replicates=20"]


@pytest.mark.parametrize("cache", ["/proc/none", "a file"])
def test_a_cache_that_cannot_be_written_names_its_variable(tmp_path: Path, cache: str) -> None:
    (tmp_path / "a file").touch()
    done = conrad_bench(*PHANTOM, cwd=tmp_path, CONRAD_BENCH_CACHE=cache, MIMIC_CXR_ROOT="")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot write the cache {cache}: ")
    assert "set CONRAD_BENCH_CACHE to a folder that can be written" in done.stderr


@pytest.mark.parametrize(
    "damage", ["gone", *(pytest.param(each, marks=pytest.mark.slow) for each in ("torn", "empty"))]
)
def test_damaged_phantom_data_say_which_folder_to_remove(tmp_path: Path, damage: str) -> None:
    where = {"CONRAD_BENCH_CACHE": "cache", "MIMIC_CXR_ROOT": ""}
    assert conrad_bench(*PHANTOM, cwd=tmp_path, **where).returncode == 0
    (folder,) = (tmp_path / "cache").iterdir()
    table = folder / "mimic-cxr-2.0.0-split.csv.gz"
    if damage == "torn":
        table.write_bytes(table.read_bytes()[:100])
    elif damage == "gone":
        table.unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    said = refused(conrad_bench(*PHANTOM, cwd=tmp_path, **where))
    assert f"the phantom data in {Path('cache', folder.name)} are damaged: remove that folder" in said
    shutil.rmtree(folder)
    assert conrad_bench(*PHANTOM, cwd=tmp_path, **where).returncode == 0


@pytest.mark.slow
def test_what_killed_processes_left_of_phantom_data_goes(tmp_path: Path) -> None:
    where = {"CONRAD_BENCH_CACHE": "cache", "MIMIC_CXR_ROOT": ""}
    cache = tmp_path / "cache"
    code = "from conrad_bench.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *PHANTOM[:5], "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, **where},
        stderr=subprocess.DEVNULL,
    )
    while not list(cache.glob(".phantom-*/**/*.jpg")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with working_folder(cache, ".phantom-") as ours:  # and of another process that is at work nothing goes
        assert conrad_bench(*PHANTOM, cwd=tmp_path, **where).returncode == 0
        assert [path.name for path in cache.glob(".*")] == [ours.name]
    assert len(list(cache.iterdir())) == 1


def piped(words: list[str], output: str) -> tuple[int, str]:
    """Run a command whose standard output is `output`, as a shell says it; return its exit code and what it said."""
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", *words]
    shell = ["bash", "-c", f'"$@" {output}; exit ${{PIPESTATUS[0]}}', "-", *command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize("output", ["| true", "| head -1", ">&-", "2>&- >/dev/null", ">/dev/full"])
def test_an_output_that_nobody_reads_is_no_bug(toy: Toy, output: str) -> None:
    toy.run(options={"echo": {}})
    code, said = piped(arguments(toy), output)
    assert "bug" not in said
    assert (toy.out / "manifest.json").is_file()
    if output == ">/dev/full":
        assert code == 1
        assert said.splitlines()[-1] == "error: cannot write to standard output: No space left on device"
    else:
        assert code == 0, said


def test_a_log_on_a_full_disk_ends_no_run(toy: Toy) -> None:
    assert piped(arguments(toy), ">/dev/null 2>/dev/full") == (0, "")
    assert (toy.out / "manifest.json").is_file()


def test_a_list_that_nobody_reads_is_no_bug() -> None:
    assert "bug" not in piped(["list"], "| true")[1]
    assert piped(["list"], ">/dev/full") == (1, "error: cannot write to standard output: No space left on device\n")


def test_an_empty_configuration_is_named(toy: Toy, tmp_path: Path) -> None:
    toy.run(options={"echo": {}})
    (toy.out / "config.yaml").write_text("")
    said = refused(conrad_bench(*arguments(toy), cwd=tmp_path))
    assert f"{toy.out / 'config.yaml'} is empty, and should hold the run's configuration" in said


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_run_folder_that_vanishes_is_said_and_the_same_command_goes_on(toy: Toy, tmp_path: Path, how: str) -> None:
    rows = [{**row, "id": f"{row['id']}-{n}", "says": f"{n} {row['says']}"} for row in questions() for n in range(20)]
    toy.write(rows)
    plugin, slow = tmp_path / "slow.py", tmp_path / "slow"
    begin = "        texts = [job.prompt"
    pause = f"        import time; time.sleep(Path({str(slow)!r}).exists() / 5)\n"
    plugin.write_text(TOY.read_text().replace(begin, pause + begin))
    slow.touch()
    command = [*arguments(toy, plugin), "-o", "echo.batch_size=4"]
    code = "from conrad_bench.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True)
    while len(list(toy.out.glob("rollouts/*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    if how == "removed":
        shutil.rmtree(toy.out)
    else:
        toy.out.rename(tmp_path / "elsewhere")
    if how == "replaced":
        (toy.out / "rollouts").mkdir(parents=True)
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(f"error: {toy.out / 'rollouts'} was removed, moved or unmounted")
    assert not list(toy.out.rglob("*.*"))  # nothing was written where the run is no longer
    if how == "moved":
        (tmp_path / "elsewhere").rename(toy.out)
    slow.unlink()
    assert conrad_bench(*command, cwd=tmp_path).returncode == 0
    assert len(json.loads((toy.out / "leaderboard.json").read_text())["rows"]) == 1
