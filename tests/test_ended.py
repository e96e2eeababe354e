"""Runs that are told to end, and runs whose Ray dies: what is said, the exit code, and what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_nodes import children
from test_run import TOY, questions

from conrad_bench.cluster.folder import _LONGEST, private_folder

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@dataclass
class Slow:
    """A run of a toy whose engine takes half a second a batch of one, as long as the file `slow` is there."""

    folder: Path
    temporary: Path
    ray: bool = False

    def start(self) -> subprocess.Popen[str]:
        root = self.folder / "data"
        root.mkdir(exist_ok=True)
        rows = questions()
        rows = [{**row, "id": f"{row['id']}-{n}", "says": f"{n} {row['says']}"} for row in rows for n in range(20)]
        (root / "questions.json").write_text(json.dumps(rows))
        plugin = self.folder / "slow.py"
        begin = "        texts = [job.prompt"
        pause = f"        import time; time.sleep(Path({str(self.folder / 'slow')!r}).exists() / 2)\n"
        plugin.write_text(TOY.read_text().replace(begin, pause + begin))
        options = ["echo.batch_size=1", f"echo.calls={self.folder / 'calls'}", "bootstrap.replicates=20"]
        arguments = ["--methods", "stated", "--tasks", "toy", "--engine", "echo", "--model", "echo"]
        arguments += ["--plugin", str(plugin), "--data-root", f"toy={root}", "--out", str(self.folder / "out")]
        arguments += ["--ray", "local", "--replicas", "2"] * self.ray
        return subprocess.Popen(
            [sys.executable, "-c", "from conrad_bench.cli import main; main()", "run", *arguments]
            + [word for option in options for word in ("-o", option)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def answered(self) -> int:
        calls = self.folder / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def started(self, answers: int = 3) -> subprocess.Popen[str]:
        """Start it, and return once the engine has answered a few prompts."""
        (self.folder / "slow").touch()
        process, until = self.start(), time.monotonic() + 120
        while self.answered() < answers and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if process.poll() is not None or self.answered() < answers:
            process.kill()
            raise AssertionError(process.communicate())
        return process

    def finish(self) -> None:
        """Run the same command to its end: what was answered is not asked again, but for what was in the making."""
        (self.folder / "slow").unlink()
        process = self.start()
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said
        assert (self.folder / "out" / "manifest.json").is_file()
        assert 160 <= self.answered() <= 160 + 5
        assert list(self.temporary.iterdir()) == []


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # short, as sockets need it
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the runs would not hear it
    yield Slow(tmp_path, temporary)
    signal.signal(signal.SIGHUP, before)
    shutil.rmtree(temporary)


def descendants(parent: int) -> list[int]:
    return [each for child in children(parent) for each in (child, *descendants(child))]


def with_ray(slow: Slow) -> Slow:
    pytest.importorskip("ray", reason="ray is not installed")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two replicas need two CPUs")
    slow.ray = True
    return slow


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_told_to_end_is_interrupted(slow: Slow, number: signal.Signals) -> None:
    process = slow.started()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    slow.finish()


def test_a_run_that_ignores_the_end_of_its_terminal_goes_on(slow: Slow) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = slow.started()
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [False, True])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_on_ray_that_is_told_to_end_is_interrupted(slow: Slow, number: signal.Signals, everybody: bool) -> None:
    process = with_ray(slow).started()
    if everybody:  # as a terminal does that is closed, or Slurm
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "interrupted; the same command continues where it stopped"
    assert "***" not in err
    assert list(slow.temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("raylet", "its part on this machine (raylet) died or "), ("gcs_server", "its head (gcs_server on ")],
)
def test_a_run_whose_ray_dies_says_so_and_continues(slow: Slow, name: str, said: str) -> None:
    process = with_ray(slow).started()
    below = descendants(process.pid)
    (victim,) = (each for each in below if Path(f"/proc/{each}/comm").read_text().strip() == name)
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: Ray cannot go on: ")
    assert said in last
    assert last.endswith("died or cannot be reached; what was finished is kept, and the same command continues")
    until = time.monotonic() + 60
    while any(Path(f"/proc/{each}").exists() for each in below):
        assert time.monotonic() < until
        time.sleep(0.5)
    slow.finish()


@pytest.mark.slow
def test_rays_sockets_and_sessions_are_their_owners_alone(slow: Slow) -> None:
    process = with_ray(slow).started()
    (folder,) = slow.temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    sockets = [path for path in folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert {"raylet", "plasma_store"} <= {path.name for path in sockets}
    process.terminate()
    process.communicate(timeout=60)
    assert list(slow.temporary.iterdir()) == []


def test_rays_folder_is_short_enough_for_sockets_and_what_killed_runs_left_goes(
    slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, other = (slow.temporary / name / "ray" for name in ("conrad-ray-left", "another"))
    for folder in (left, other):
        folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(slow.temporary))
    with private_folder() as mine:
        assert mine.parent.parent == slow.temporary
        with private_folder() as second:  # beside one that is in use
            assert set(slow.temporary.iterdir()) == {other.parent, mine.parent, second.parent}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # long
    assert len(str(tmp_path)) > _LONGEST
    with private_folder() as mine:
        assert mine.parent.parent == Path("/tmp")
        assert mine.parent.stat().st_mode & 0o777 == 0o700
    assert not mine.parent.exists()
