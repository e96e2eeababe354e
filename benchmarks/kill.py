"""Kills a run again and again, lets the same command finish it, and compares the result with an undisturbed run's.

    python benchmarks/kill.py [--moments 20] [--model phantom] [--ray]

A run of verbalized, p_true, probe and conrad on the phantom world is sent SIGKILL up to 50 ms after a chosen file has
appeared in its folder (a shard of rollouts, a file of a training checkpoint, an artifact, records, a figure). Then the
same command runs to its end. The table says whether the leaderboard, the records and the artifacts have the same bytes.
With `--ray` all of it happens on a local Ray (one replica, one training worker), and by turns all processes of the run
are killed, Ray's too, or the first one alone.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

OPTIONS = (
    *("-o", "phantom.studies=60", "-o", "transformers.batch_size=8", "-o", "bootstrap.replicates=100"),
    *("-o", "probe.samples=16", "-o", "probe.validation_samples=6", "-o", "probe.epochs=2"),
    *("-o", "conrad.samples=16", "-o", "conrad.generations=4", "-o", "conrad.batch_size=16", "-o", "conrad.epochs=3"),
    # So fast that a few steps change the stated confidences: a training that resumes wrongly shows.
    *("-o", "conrad.learning_rate=0.003", "-o", "conrad.checkpoints=4"),
)
RAY = ("--ray", "local", "--replicas", "1")
STAGES = ("start", "rollouts", "checkpoints", "artifacts", "records", "leaderboard")


def command(out: Path, model: str, more: Sequence[str] = ()) -> list[str]:
    """Return the command of a small run in the folder `out`, with more options."""
    arguments = ["run", "--methods", "verbalized,p_true,probe,conrad", "--tasks", "mimic_report", "--model", model]
    arguments += ["--out", str(out), *OPTIONS, *more]
    return [sys.executable, "-c", "from conrad_bench.cli import main; main()", *arguments]


def environment(cache: Path) -> dict[str, str]:
    """Return the environment: one thread, phantom data in `cache`, no real data, no commit.

    Leaderboards name the commit of the source tree, which may change while a benchmark runs.
    """
    own = {"OMP_NUM_THREADS": "1", "CONRAD_BENCH_CACHE": str(cache), "MIMIC_CXR_ROOT": "", "GIT_DIR": os.devnull}
    return {**os.environ, **own}


def stage(file: str) -> str:
    """Return the stage of a run that leaves a file."""
    if "/checkpoint" in file:
        return "checkpoints"
    folder = "start" if file == "config.yaml" else file.partition("/")[0]
    return folder if folder in STAGES else "leaderboard"


def undisturbed(out: Path, model: str, cache: Path, more: Sequence[str] = ()) -> list[str]:
    """Carry out a run and return the files that appeared in its folder, in that order.

    Raises RuntimeError with what the run said if it fails.
    """
    seen: dict[str, None] = {}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command(out, model, more), env=environment(cache), stdout=subprocess.DEVNULL, stderr=errors
        )
        while process.poll() is None:
            seen.update(dict.fromkeys(_files(out)))
            time.sleep(0.001)
        seen.update(dict.fromkeys(_files(out)))
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read())
    return list(seen)


def _files(out: Path) -> Iterator[str]:
    """Yield the files of a run folder, a shard's name without its digest.

    Left out are files that come and go too quickly to be waited for, and the manifest, after which a run has ended.
    """
    for folder, _, names in os.walk(out):
        for name in names:
            if not name.startswith(".") and name not in ("README.md", "manifest.json"):
                file = os.path.relpath(os.path.join(folder, name), out)
                yield re.sub(r"^(rollouts/\d+)-\w+", r"\1-*", file)


def moments(files: Sequence[str], number: int) -> list[str]:
    """Choose `number` of the files, in their order, spread over all stages of the run and over each of them."""
    by_stage = {name: [file for file in files if stage(file) == name] for name in STAGES}
    chosen: list[str] = []
    for rounds in range(1, len(files) + 1):  # a stage of few files is soon used up
        evenly = [
            of_stage[(2 * i + 1) * len(of_stage) // (2 * rounds)]
            for i in range(rounds)
            for of_stage in by_stage.values()
        ]
        chosen = list(dict.fromkeys(evenly))
        if len(chosen) >= number:
            break
    return sorted(chosen[:number], key=list(files).index)


def run_and_kill(
    out: Path, model: str, cache: Path, file: str, delay: float, more: Sequence[str] = (), everybody: bool = True
) -> str:
    """Start the run, kill it `delay` seconds after `file` has appeared, and return "killed" or how it ended before.

    With `everybody` what it has started is killed, too.
    """
    process = subprocess.Popen(
        command(out, model, more),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not any(out.glob(file)):
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is not None:
        return f"ended with {process.returncode}"
    if everybody:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    return "killed"


def finish(out: Path, model: str, cache: Path, more: Sequence[str] = ()) -> str:
    """Run the same command to its end. Raises RuntimeError with what it said if it fails."""
    done = subprocess.run(
        command(out, model, more), env=environment(cache), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr


def compare(out: Path, reference: Path, report: Callable[[str], object]) -> bool:
    """Return whether two runs have the same results, byte for byte, and report the files that differ."""
    files = ["leaderboard.json", "leaderboard.md"]
    files += sorted(str(path.relative_to(reference)) for path in reference.glob("records/*"))
    files += sorted(str(path.relative_to(reference)) for path in reference.glob("artifacts/*/*"))
    different = [name for name in files if (out / name).read_bytes() != (reference / name).read_bytes()]
    for name in different:
        report(name)
    return not different


def main() -> None:
    """Print a table of moments."""
    parser = argparse.ArgumentParser(description="Kill a run at many moments and compare what comes of it.")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--model", default="phantom")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    more = RAY if arguments.ray else ()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        start = time.perf_counter()
        files = undisturbed(folder / "reference", arguments.model, cache, more)
        print(f"undisturbed: {len(files)} files in {time.perf_counter() - start:.1f} s")
        same = 0
        chosen = moments(files, arguments.moments)
        for number, file in enumerate(chosen):
            out, delay = folder / str(number), draw.uniform(0, 0.05)
            ended = run_and_kill(out, arguments.model, cache, file, delay, more, everybody=number % 2 == 0)
            start = time.perf_counter()
            finish(out, arguments.model, cache, more)
            different: list[str] = []
            same += compare(out, folder / "reference", different.append)
            verdict = "same bytes" if not different else f"DIFFERENT: {', '.join(different)}"
            seconds = time.perf_counter() - start
            print(f"{ended} {1000 * delay:3.0f} ms after {file:80} finished in {seconds:4.1f} s: {verdict}", flush=True)
        print(f"{same} of {len(chosen)} runs gave the same bytes as the undisturbed one")
        if same < len(chosen):
            sys.exit(1)


if __name__ == "__main__":
    main()
