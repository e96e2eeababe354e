"""The numbers of a bundle as an aggregate record of Every Eval Ever, `every_eval_ever.json`: no text of data in it.

The form is `eval.schema.json`, version 0.3.0, of https://github.com/evaleval/every_eval_ever. There is one result for
each row of the leaderboard and each metric that has a value.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conrad_bench.storage import load_json

EEE = "every_eval_ever.json"
SCHEMA_VERSION = "0.3.0"
_STAMP = re.compile(r"[1-9][0-9]{8,11}")


def eee_text(board: Mapping[str, Any], manifest: Mapping[str, Any], stamp: str) -> str:
    """Return the text of the record, from the content of a bundle's leaderboard.json and manifest.json.

    `stamp` says when it was made, in seconds since 1970; the bundle itself holds no times.
    """
    identity = manifest.get("model", {})
    engine, model = str(identity.get("engine", "unknown")), str(identity.get("model", board["model"]))
    remote, known = engine == "openai", "/" in model or board["model"].startswith("phantom-gemma3")
    content = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"conrad-bench/{model}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": board["title"],
            "source_type": "evaluation_run",
            "source_organization_name": "not stated",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "conrad-bench",
            "version": board["version"],
            "additional_details": {"commit": board["commit"] or "unknown"},
        },
        "model_info": {
            "name": board["model"],
            "id": model,
            "inference_engine": {"name": engine, "version": str(manifest.get("versions", {}).get(engine, "unknown"))},
            "additional_details": {
                "deployment_type": "unknown" if remote else "self_deployed",
                "model_availability": "open_weights" if known and not remote else "unknown",
            },
        },
        "evaluation_results": list(_results(board)),
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def eee_stamp(folder: Path) -> str:
    """Return when the record in a folder was made; now, where there is none that says it."""
    try:
        stamp = str(load_json(folder / EEE)["retrieved_timestamp"])
    except (OSError, ValueError, KeyError, TypeError):
        stamp = ""
    return stamp if _STAMP.fullmatch(stamp) else str(int(time.time()))


def _results(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    metrics = {metric["name"]: metric for metric in board["metrics"]}
    for row in board["rows"]:
        task = board["tasks"][row["task"]]
        for name, found in row["metrics"].items():
            if found["value"] is None:
                continue
            metric, score = metrics[name], {"score": found["value"]}
            if found["low"] is not None and found["high"] is not None:
                score["uncertainty"] = {
                    "confidence_interval": {
                        "lower": found["low"],
                        "upper": found["high"],
                        "confidence_level": 0.95,
                        "method": f"{board.get('interval', 'percentile')} bootstrap over {board['unit']}s",
                    },
                    "num_samples": row["n"],
                    "num_bootstrap_samples": board["replicates"],
                }
            yield {
                "evaluation_result_id": f"{row['task']}/{row['method']}/{name}",
                "evaluation_name": f"{row['task']}: confidence by {row['method']}",
                "source_data": {
                    "dataset_name": board["data"],
                    "source_type": "other",
                    "additional_details": {
                        "task": row["task"],
                        "granularity": task["granularity"],
                        "claims": str(row["claims"]),
                        "clusters": str(row["n_clusters"]),
                    },
                },
                "metric_config": {
                    "metric_id": f"conrad_bench.{name}",
                    "metric_name": metric["label"],
                    "evaluation_description": metric["summary"],
                    "lower_is_better": metric["better"] == "lower",
                    "score_type": "continuous",
                    **dict(zip(("min_score", "max_score"), _range(metric), strict=True)),
                    "additional_details": {"better": metric["better"], "correctness": task["scorer"]},
                },
                "score_details": score,
            }


def _range(metric: Mapping[str, Any]) -> tuple[float | str, float | str]:
    low, high = metric["range"]
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    return "-Infinity" if low == -math.inf else low, "Infinity" if high == math.inf else high
