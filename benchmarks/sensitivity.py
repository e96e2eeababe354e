"""What ConRad's settings change, over several seeds: a table of docs/paper.md.

    python benchmarks/sensitivity.py --out runs/sensitivity [--config configs/sensitivity_phantom.yaml] [--seeds 0,1,2]

Each seed is one run of the configuration, whose variants share the base model's responses. An interrupted benchmark
continues. Printed: means over the seeds, each seed's values in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from conrad_bench.config import load_config
from conrad_bench.pipeline import run
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry

CONFIG = Path(__file__).parents[1] / "configs" / "sensitivity_phantom.yaml"

METRICS = {"ece": "ECE ↓", "pearson": "Pearson r ↑", "brier": "Brier ↓", "correctness": "phantom-GREEN ↑"}


def cell(rows: list[dict[str, Any]], metric: str) -> str:
    """Return the mean over seeds and each seed's value; a dash where one is undefined."""
    values = [row["metrics"][metric]["value"] for row in rows]
    each = ", ".join("–" if value is None else f"{value:.3f}" for value in values)
    found = [value for value in values if value is not None]
    return f"{statistics.mean(found):.3f} ({each})" if found else "–"


def differs(options: dict[str, Any]) -> str:
    """Return what a variant's section says, in the words of the command line."""
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "-"


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description="What ConRad's settings change, over several seeds.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    registry = Registry()
    rows: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        config = load_config(arguments.config, {"seed": seed}, registry)
        folder = arguments.out / f"seed-{seed}"
        for row in run(config, folder, registry, Reporter())["rows"]:
            rows.setdefault(row["method"], []).append(row)
        for stage, taken in json.loads((folder / "manifest.json").read_text())["seconds"].items():
            seconds.setdefault(stage, []).append(taken)
    print(f"| method | what differs | {' | '.join(METRICS.values())} | distinct |")
    print("| --- " * (len(METRICS) + 3) + "|")
    for method in config.methods:
        cells = [cell(rows[method], metric) for metric in METRICS]
        distinct = ", ".join(str(row["collapse"]["distinct"]) for row in rows[method])
        own = config.options.get(method, {}) if "." in method else {}
        print(f"| {method} | {differs(own)} | {' | '.join(cells)} | {distinct} |")
    print("\nseconds by stage (mean over seeds):")
    for stage, taken_s in seconds.items():
        print(f"  {stage}: {statistics.mean(taken_s):.0f}")


if __name__ == "__main__":
    main()
