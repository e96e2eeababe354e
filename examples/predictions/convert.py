"""Predictions that other harnesses wrote, as a csv for `conrad-bench evaluate`.

    python convert.py lm_eval lm_eval_samples.jsonl > lm_eval.csv
    python convert.py inspect_ai inspect_ai.eval > inspect_ai.csv            # needs the package inspect-ai
    python convert.py lm_polygraph lm_polygraph.man > lm_polygraph.csv       # needs the package lm-polygraph

Take the function of your harness, and change what is yours: where the ids are, which score says what is right.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd

Row = dict[str, Any]


def lm_eval(path: str) -> Iterator[Row]:
    """Multiple choice of lm-evaluation-harness, from `--log_samples`: the probability of the choice that was taken."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            loglikelihoods = [float(response[0]) for response in sample["filtered_resps"]]
            total = math.log(sum(math.exp(x - max(loglikelihoods)) for x in loglikelihoods)) + max(loglikelihoods)
            yield {
                "method": "lm_eval.choice_probability",
                "example": sample["doc"]["id"],
                "confidence": math.exp(max(loglikelihoods) - total),
                "correctness": sample["acc"],
                "status": "ok",
            }


def inspect_ai(path: str) -> Iterator[Row]:
    """A log of Inspect whose answers state "Confidence: 7"; one that states none counts as `no_confidence`."""
    from inspect_ai.log import read_eval_log

    for sample in read_eval_log(path).samples or []:
        stated = re.search(r"Confidence: (10|\d)\b", sample.output.completion)
        yield {
            "method": "inspect.verbalized",
            "example": sample.id,
            "confidence": int(stated[1]) / 10 if stated else None,
            "correctness": 1.0 if (sample.scores or {})["pattern"].value == "C" else 0.0,
            "status": "ok" if stated else "no_confidence",
        }


def lm_polygraph(path: str) -> Iterator[Row]:
    """LM-Polygraph's manager: each estimator a method, its uncertainty u as the confidence exp(-u).

    For the negative log-probability of a response that is its probability; for others it keeps the order alone. The
    file is a pickle, which runs code when it is opened: open your own. It holds no ids: rows are in the data's order.
    """
    import torch

    manager = torch.load(path, weights_only=False)
    right = manager["gen_metrics"]["sequence", "Accuracy"]
    for (_, estimator), uncertainties in manager["estimations"].items():
        for number, (uncertainty, correct) in enumerate(zip(uncertainties, right, strict=True)):
            yield {
                "method": f"polygraph.{estimator}",
                "example": f"q{number:02d}",
                "confidence": math.exp(-max(0.0, float(uncertainty))),
                "correctness": float(correct),
                "status": "ok",
            }


if __name__ == "__main__":
    convert = {"lm_eval": lm_eval, "inspect_ai": inspect_ai, "lm_polygraph": lm_polygraph}[sys.argv[1]]
    pd.DataFrame(convert(sys.argv[2])).to_csv(sys.stdout, index=False)
