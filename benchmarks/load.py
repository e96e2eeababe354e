"""What a run costs beside the model: memory and time by the number of examples, and opening a large store.

    python benchmarks/load.py [--examples 1000,10000,100000] [--rows 1000000] [--figure docs/figures/load.svg]

A task of short questions, an engine that answers at once with the question, one method: what is left is conrad-bench's
own work. Each size is a run of its own in a fresh process, through the command line, up to the leaderboard with its
intervals. Processor seconds say more than the clock's where other work shares the machine. Memory is the process's
largest resident set. The store's rows have 40 tokens each, in shards of 256 as an engine of that batch size leaves
them; opening reads and checks every byte.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGIN = """
import json

from conrad_bench import (
    Engine, Example, Loaded, Message, Prompt, Score, Scorer, Task, register_engine, register_scorer, register_task
)
from conrad_bench.engines.base import Generation
from conrad_bench.reading.claims import report_claim


@register_task
class Load(Task):
    name = "load"
    summary = "as many short questions as there are rows"
    granularity = "answer"
    root_variable = "LOAD_ROOT"
    scorer: str = "load_match"

    def load(self, root):
        number = int((root / "number").read_text())
        return Loaded(
            examples=[
                Example(f"{i:07d}", f"p{i // 2}", "test", (), f"Finding {i}.\\nConfidence: {i % 11}", str(i % 3))
                for i in range(number)
            ]
        )

    def prompt(self, example, elicit=None):
        return Prompt((Message("user", example.context),), elicit=elicit)

    def claims(self, response, elicit=None):
        return [report_claim(response, elicit)]


@register_scorer
class LoadMatch(Scorer):
    name = "load_match"
    summary = "one question in three is answered right"
    label = "match"

    def score(self, pairs, granularity, model=None):
        return [Score(float(e.reference == "0")) for e, _ in pairs]


@register_engine
class AtOnce(Engine):
    name = "at_once"
    summary = "answers with the prompt's text"
    provides = frozenset({"sampling"})
    model: str = "none"
    batch_size: int = 256

    def identity(self):
        return {"engine": self.name, "model": self.model}

    def generate(self, jobs, sampling, adapter):
        texts = [job.prompt.messages[0].text for job in jobs]
        return [Generation(t, tuple(range(40)), (-0.1,) * 40, "stop") for t in texts]

    def close(self):
        pass
"""


def run(examples: int, folder: Path) -> tuple[float, float, float]:
    """Carry out a run; return its seconds, its processor seconds and its memory in MiB.

    Raises RuntimeError with what it said if it fails.
    """
    (folder / "number").write_text(str(examples))
    (folder / "load.py").write_text(PLUGIN)
    arguments = ["--plugin", "load.py", "--methods", "verbalized", "--tasks", "load", "--data-root", "load=."]
    arguments += ["--engine", "at_once", "--model", "none", "--out", f"run-{examples}"]
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", "run", *arguments]
    began = time.perf_counter()
    with open(folder / "said", "w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError((folder / "said").read_text())
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def fill(folder: Path, rows: int) -> float:
    """Write a store of rows and return its size in MiB."""
    from conrad_bench.rollouts.store import RolloutStore

    draw = random.Random(0)
    with RolloutStore(folder) as store:
        for start in range(0, rows, 256):
            store.append(
                {
                    "key": f"{i:064x}",
                    "kind": "generate",
                    "sample": 0,
                    "text": f"The lungs are clear, and this is sentence {i}.",
                    "token_ids": [draw.randrange(50_000) for _ in range(40)],
                    "logprobs": [-draw.random() for _ in range(40)],
                    "finish_reason": "stop",
                    "values": None,
                }
                for i in range(start, min(start + 256, rows))
            )
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


def open_store(folder: Path) -> tuple[float, float, int]:
    """Open a store; return the seconds, the processor seconds, and its number of rows."""
    from conrad_bench.rollouts.store import RolloutStore

    began, used = time.perf_counter(), time.process_time()
    with RolloutStore(folder) as store:
        return time.perf_counter() - began, time.process_time() - used, len(store)


def plot(found: list[tuple[int, float, float]], path: Path) -> None:
    """Draw time and memory by the number of examples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    numbers = [number for number, _, _ in found]
    _, used, memory = zip(*found, strict=True)
    for axes, values, label in zip(figure.subplots(1, 2), (used, memory), ("processor seconds", "MiB"), strict=True):
        axes.plot(numbers, values, "o-", color="#1f5fa8")
        axes.set(xlabel="examples", ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description="Memory and time of a run by its number of examples.")
    parser.add_argument("--examples", default="1000,10000,50000,100000")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| examples | seconds | processor seconds | ms an example | MiB |\n| --- | --- | --- | --- | --- |")
        for examples in map(int, filter(None, arguments.examples.split(","))):
            seconds, used, memory = run(examples, folder)
            found.append((examples, used, memory))
            each = 1000 * used / examples
            print(f"| {examples:,} | {seconds:.1f} | {used:.1f} | {each:.2f} | {memory:,.0f} |", flush=True)
        if arguments.figure is not None:
            plot(found, arguments.figure)
        if arguments.rows:
            size = fill(folder / "store", arguments.rows)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds, used, rows = open_store(folder / "store")
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"\n{rows:,} rows ({size:,.0f} MiB) opened in {seconds:.1f} s ({used:.1f} processor seconds); ", end=""
            )
            print(f"memory {after:,.0f} MiB, {before:,.0f} before")


if __name__ == "__main__":
    main()
