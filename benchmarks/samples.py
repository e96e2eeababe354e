"""How many responses and how much time `conrad` and `conrad_exact` need: calibration against training examples.

    python benchmarks/samples.py --out runs/samples [--seeds 0,1,2] [--samples 150,300,600,1200,1800] [-o NAME.OPTION=V]

Each line is a run of its own on the embedded model and data, in conditional mode: the base model writes every response
once, for all runs of a seed, and only the confidence is trained. Seconds are those of the training alone. An
interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from conrad_bench.config import dump_config, load_config, parse_options
from conrad_bench.pipeline import run
from conrad_bench.plan import make_plan
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry
from conrad_bench.storage import write_text

METHODS = ("conrad", "conrad_exact")
METRICS = ("ece", "pearson", "brier")


def one(method: str, samples: int, seed: int, options: dict[str, Any], out: Path, responses: Path) -> dict[str, Any]:
    """Return metrics, training seconds, responses and sampled confidences of one run in the folder `out`.

    What the base model wrote is taken from the folder `responses` of another run, where there is one.
    """
    registry = Registry()
    chosen = {**options, method: {**options.get(method, {}), "samples": samples}}
    given = {"methods": [method], "tasks": ["mimic_report"], "seed": seed, "options": chosen}
    config = load_config(None, given, registry)
    if responses != out and not out.exists():
        shutil.copytree(responses / "rollouts", out / "rollouts", ignore=shutil.ignore_patterns(".lock"))
        write_text(out / "config.yaml", dump_config(make_plan(config, registry).config))
    row = run(config, out, registry, Reporter())["rows"][0]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    seconds = sum(value for stage, value in manifest["seconds"].items() if stage.startswith("training"))
    trained = min(samples, manifest["data"]["mimic_report"]["examples"]["train"])
    group = manifest["methods"][method].get("generations", 0)
    return {
        **{name: row["metrics"][name]["value"] for name in METRICS},
        "seconds": seconds,
        "responses": trained,
        "sampled": trained * group,
    }


def main() -> None:
    """Run every method with every number of training examples and seed, and print the table."""
    parser = argparse.ArgumentParser(description="Calibration of conrad and conrad_exact against training examples.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--samples", default="150,300,600,1200,1800")
    parser.add_argument("-o", dest="options", action="append", default=[])
    arguments = parser.parse_args()
    options = parse_options(arguments.options)
    numbers = sorted(map(int, arguments.samples.split(",")), reverse=True)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        folder = arguments.out / f"seed-{seed}"
        first = folder / f"{METHODS[0]}-{numbers[0]}"
        for samples in numbers:
            for method in METHODS:
                result = one(method, samples, seed, options, folder / f"{method}-{samples}", first)
                found.setdefault((method, samples), []).append(result)
    print("| responses | method | confidences sampled | training seconds | ECE ↓ | Pearson r ↑ | Brier ↓ |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for samples in reversed(numbers):
        for method in METHODS:
            rows = found[method, samples]
            seconds = statistics.mean(row["seconds"] for row in rows)
            cells = []
            for name in METRICS:
                values = [row[name] for row in rows]
                each = ", ".join("–" if value is None else f"{value:.3f}" for value in values)
                known = [value for value in values if value is not None]
                cells.append(f"{statistics.mean(known):.3f} ({each})" if known else "–")
            head = [f"{rows[0]['responses']:,}", method, f"{rows[0]['sampled']:,}", f"{seconds:.0f}"]
            print(f"| {' | '.join([*head, *cells])} |")


if __name__ == "__main__":
    main()
