"""The study of the ConRad paper on the phantom world, over several seeds: the tables of docs/paper.md.

    python benchmarks/paper.py --out runs/paper [--seeds 0,1,2]

Each seed is one run of `conrad-bench run --config configs/paper_phantom.yaml --seed S`. An interrupted benchmark
continues. Printed beside the paper's numbers (tables 1 to 3 and section 4), which are about MedGemma on real data.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from conrad_bench.config import load_config
from conrad_bench.pipeline import run
from conrad_bench.progress import Reporter
from conrad_bench.registry import Registry

CONFIG = Path(__file__).parents[1] / "configs" / "paper_phantom.yaml"

PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    "mimic_report": {  # Table 1: ECE, correlation, GREEN
        "base": (None, None, 0.283),
        "sequence_probability": (0.531, 0.340, 0.286),
        "p_true": (0.399, 0.166, 0.287),
        "self_consistency": (0.436, 0.333, 0.297),
        "probe": (0.121, 0.372, 0.299),
        "verbalized": (0.642, 0.136, 0.257),
        "sft": (0.206, 0.160, 0.252),
        "conrad": (0.106, 0.431, 0.252),
    },
    "mimic_sentence": {  # Table 2: ECE, AUROC, GREEN of the report
        "base": (None, None, 0.283),
        "verbalized": (0.438, 0.558, 0.268),
        "sft": (0.446, 0.552, 0.267),
        "conrad": (0.239, 0.633, 0.262),
    },
    "iu_xray_report": {"verbalized": (0.310, None, None), "conrad": (0.034, None, None)},  # section 4, OOD
    "iu_xray_sentence": {},
    "vqa_rad": {},
}

COLUMNS = {
    "report": (("ece", "ECE ↓"), ("pearson", "r ↑"), ("correctness", "GREEN ↑")),
    "sentence": (("ece", "ECE ↓"), ("auroc", "AUROC ↑"), ("quality", "GREEN ↑")),
    "answer": (("ece", "ECE ↓"), ("auroc", "AUROC ↑"), ("correctness", "match ↑")),
}


def shown(value: float | None) -> str:
    """Return a number with three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def over_seeds(rows: list[dict[str, Any]], metric: str) -> str:
    """Return the mean over seeds and, where they differ, the smallest and the largest."""
    found = [row["metrics"].get(metric, {}).get("value") for row in rows]
    values = [value for value in found if value is not None]
    if not values:
        return "–"
    low, high = shown(min(values)), shown(max(values))
    return shown(statistics.mean(values)) + (f" ({low}–{high})" if low != high else "")


def main() -> None:
    """Run the seeds and print the tables."""
    parser = argparse.ArgumentParser(description="Run the paper's study on the phantom world over several seeds.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    registry = Registry()
    boards = []
    for seed in map(int, arguments.seeds.split(",")):
        config = load_config(CONFIG, {"seed": seed}, registry)
        boards.append(run(config, arguments.out / f"seed-{seed}", registry, Reporter()))
    for task, paper in PAPER.items():
        columns = COLUMNS[boards[0]["tasks"][task]["granularity"]]
        print(f"\n### {task}\n")
        titles = [title for _, title in columns]
        print(f"| method | {' | '.join(f'paper {t}' for t in titles)} | {' | '.join(titles)} | distinct | unparsed |")
        print("| --- " * (2 * len(titles) + 3) + "|")
        for method in config.methods:
            rows = [row for board in boards for row in board["rows"] if (row["task"], row["method"]) == (task, method)]
            theirs = paper.get(method, (None,) * len(titles))
            ours = [over_seeds(rows, metric) for metric, _ in columns]
            numbers = [row["collapse"]["distinct"] for row in rows if "collapse" in row]
            distinct = ", ".join(map(str, numbers if len(set(numbers)) > 1 else numbers[:1])) or "–"
            unparsed = max(row["unparsed_rate"] for row in rows)
            cells = [method, *map(shown, theirs), *ours, distinct, f"{unparsed:.1%}"]
            print(f"| {' | '.join(cells)} |")
    print("\n### Flagging (mimic_sentence, means over seeds)\n")
    print("| method | confidence | sentences | precision ↑ | GREEN of what is left |\n| --- | --- | --- | --- | --- |")
    for method in ("verbalized", "sft", "conrad", "conrad_exact"):
        rows = [row for b in boards for row in b["rows"] if (row["task"], row["method"]) == ("mimic_sentence", method)]
        for cut in range(4):
            entries = [row["flagging"]["thresholds"][cut] for row in rows]
            least = entries[0]["confidence"]
            kept = statistics.mean(entry["n"] for entry in entries)
            numbers = []
            for name in ("precision", "quality"):
                values = [e[name]["value"] for e in entries if e[name] and e[name]["value"] is not None]
                numbers.append(statistics.mean(values) if values else None)
            label = "all" if least is None else f"≥ {least * 10:.0f}"
            print(f"| {method} | {label} | {kept:.0f} | {' | '.join(map(shown, numbers))} |")


if __name__ == "__main__":
    main()
