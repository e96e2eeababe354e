"""A named entailment model: a text classifier of transformers that says whether one text follows from another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from conrad_bench.errors import ModelError

BATCH = 32
LONGEST = 512
"""Tokens of a pair at most; what is longer is cut."""


def entailment_problem(model: str) -> str | None:
    """Return why a model cannot say what entails what, as far as its files tell; None also where they are far away."""
    folder = Path(model)
    if folder.is_dir():
        try:
            labels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label", {})
        except (OSError, ValueError):
            return f"entailment: {model} holds no model (config.json)"
        return None if _label(labels) is not None else _without_label(model, labels)
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        return f"entailment: {model} is no folder; name one, or a model of the hub such as microsoft/deberta-large-mnli"
    return None


def entailed(model: str, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the probability that the second text of each pair follows from the first.

    The model is loaded for this and let go of behind it, on a GPU where there is one. A classifier with one label is
    taken for a model of similarity: its logistic. Raises ModelError.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not pairs:
        return []
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForSequenceClassification.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"entailment: {model} cannot be loaded as a classifier of texts; name another") from error
    label = _label(network.config.id2label)
    if label is None:
        raise ModelError(_without_label(model, network.config.id2label))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    found: dict[tuple[str, str], float] = {}
    # Pairs of similar length lie in one batch: little padding.
    different = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    for start in range(0, len(different), BATCH):
        part = different[start : start + BATCH]
        first, second = [a for a, _ in part], [b for _, b in part]
        asked = tokenizer(first, second, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            logits = network(**asked.to(device)).logits.float()
        one = logits.shape[1] == 1
        values = torch.sigmoid(logits[:, 0]) if one else logits.softmax(-1)[:, label]
        found |= dict(zip(part, values.tolist(), strict=True))
    return [found[pair] for pair in pairs]


def _label(labels: dict[str, str] | dict[int, str]) -> int | None:
    """Return the index of the label `entailment`; 0 where there is one label alone."""
    named = [int(k) for k, name in labels.items() if str(name).lower().replace("_", "").startswith("entail")]
    return named[0] if named else 0 if len(labels) == 1 else None


def _without_label(model: str, labels: dict[str, str] | dict[int, str]) -> str:
    names = ", ".join(str(name)[:20] for name in list(labels.values())[:5])
    return f"entailment: {model} has no label `entailment` (labels: {names or 'none'}); name a language-inference model"
