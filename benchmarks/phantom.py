"""The phantom benchmark over several seeds: the table of docs/phantom.md.

    python benchmarks/phantom.py --out runs/phantom [--seeds 0,1,2] [-o conrad.mode=joint]

Each seed is one run of `conrad-bench run --methods verbalized,probe,conrad --tasks mimic_report --seed S` on the
embedded model and data: the seed draws training examples, initial weights, rollouts and bootstrap samples. An
interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from conrad_bench.config import load_config, parse_options
from conrad_bench.pipeline import run
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry

METRICS = ("ece", "pearson", "brier", "correctness")


def cell(metric: dict[str, Any]) -> str:
    """Return a metric with its interval."""
    if metric["value"] is None:
        return "–"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description="Run the phantom benchmark over several seeds.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="verbalized,probe,conrad")
    parser.add_argument("-o", dest="options", action="append", default=[])
    arguments = parser.parse_args()
    registry, methods = Registry(), arguments.methods.split(",")
    boards: dict[int, dict[str, dict[str, Any]]] = {}
    label = ""
    for seed in map(int, arguments.seeds.split(",")):
        given = {
            "methods": methods,
            "tasks": ["mimic_report"],
            "seed": seed,
            "options": parse_options(arguments.options),
        }
        reporter = Reporter()
        board = run(load_config(None, given, registry), arguments.out / f"seed-{seed}", registry, reporter)
        boards[seed] = {row["method"]: row for row in board["rows"]}
        label = board["tasks"]["mimic_report"]["label"]
    print(f"| method | seed | n | patients | unparsed | ECE ↓ | Pearson r ↑ | Brier ↓ | {label} ↑ |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for method in methods:
        for seed, rows in boards.items():
            row = rows[method]
            values = " | ".join(cell(row["metrics"][name]) for name in METRICS)
            unparsed = f"{row['unparsed_rate']:.1%}"
            print(f"| {method} | {seed} | {row['n']:,} | {row['n_clusters']} | {unparsed} | {values} |")
        means = []
        for name in METRICS:
            found = [rows[method]["metrics"][name]["value"] for rows in boards.values()]
            means.append("–" if None in found else f"**{statistics.mean(found):.3f}**")
        print(f"| {method} | mean | | | | {' | '.join(means)} |")
    print()
    for seed, rows in boards.items():
        if {"verbalized", "conrad"} <= rows.keys():
            base, ours = rows["verbalized"]["metrics"], rows["conrad"]["metrics"]
            lower = 1 - ours["ece"]["value"] / base["ece"]["value"]
            higher = ours["pearson"]["value"] - (base["pearson"]["value"] or 0.0)
            quality = ours["correctness"]["value"] - base["correctness"]["value"]
            print(
                f"seed {seed}: conrad against verbalized: ECE {lower:.0%} lower, Pearson r {higher:+.3f}, "
                f"{label} {quality:+.4f}"
            )
    seconds = [json.loads((arguments.out / f"seed-{seed}" / "manifest.json").read_text())["seconds"] for seed in boards]
    print(f"seconds per run (stages added up): {', '.join(f'{sum(s.values()):.0f}' for s in seconds)}")


if __name__ == "__main__":
    main()
