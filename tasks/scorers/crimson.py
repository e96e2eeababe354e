"""CRIMSON: correctness of a radiology report by its abnormal findings and what they matter (Baharoon et al. 2026).

The judge lists the abnormal findings of both reports, how significant each is, which belong together, and what is wrong
with those that do, as JSON:

    {"reference_findings": [{"id": "R1", "finding": "small effusion", "clinical_significance": "urgent"}],
     "predicted_findings": [{"id": "P1", "finding": "large effusion", "clinical_significance": "urgent"}],
     "matched_findings": [{"ref_id": "R1", "pred_id": "P1"}],
     "errors": {"false_findings": [], "missing_findings": [],
                "attribute_errors": [{"ref_id": "R1", "pred_id": "P1", "severity": "significant"}]}}

    -> weight 1, credit 1 * 1 / (1 + 0.5), CRIMSON = 2/3

The prompt is radeval's, and so is the arithmetic. Reading is stricter: what radeval's parser repairs or gives a weight
of its own is no score here (`parse_crimson`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from conrad_bench.tasks.scorers.green import radeval_file
from conrad_bench.tasks.scorers.judge import ModelJudge, json_object
from conrad_bench.types import Example, Granularity

CRIMSON_MODEL = "rajpurkarlab/medgemma-4b-it-crimson"
"""The judge that the authors trained; its prompt has no guidelines, as in its training."""

SYSTEM = "You are an expert radiology evaluator that assesses the accuracy of radiology reports."
"""What the published scorer says in the system's turn. Gemma's chat template puts that in front of the user's."""

SIGNIFICANCE = {"urgent": 1.0, "actionable_not_urgent": 0.5, "not_actionable_not_urgent": 0.25, "benign_expected": 0.0}
SEVERITY = {"significant": 0.5, "negligible": 0.0}


@dataclass(frozen=True, slots=True)
class Findings:
    """What the judge found, as weights."""

    reference: float
    """Sum of the weights of the reference's findings."""
    false: float
    """Sum of the weights of findings that the reference does not have."""
    correct: float
    """Sum of the weights of matched findings, less where their attributes are wrong."""

    @property
    def score(self) -> float:
        """CRIMSON in (-1, 1]: 1 is perfect, 0 no better than a report of nothing abnormal, below 0 worse than that."""
        nothing = -1.0 if self.false else 1.0
        value = (self.correct - self.false) / self.reference if self.reference else nothing
        more_wrong = self.false - self.correct
        return value if value >= 0 else -more_wrong / (1 + more_wrong)


def parse_crimson(answer: str) -> Findings | str:
    """Read the judge's answer; where it cannot be read, return the reason why (a sentence without the answer's text).

    An answer in the form that the prompt asks for gives what radeval's arithmetic gives. It must be one whole JSON
    object, with every list; findings have an id of their own and a known significance, errors a known severity; every
    finding of the candidate is matched or false and not both, none of the reference is both matched and missing, and
    attribute errors are of matched findings. A finding of the reference that is neither counts as missing.
    """
    found = json_object(answer)
    if isinstance(found, str):
        return found
    errors = found.get("errors")
    lists = {
        **{name: found.get(name) for name in ("reference_findings", "predicted_findings", "matched_findings")},
        **{
            name: errors.get(name) if isinstance(errors, dict) else None
            for name in ("false_findings", "missing_findings", "attribute_errors")
        },
    }
    for name, items in lists.items():
        if not isinstance(items, list):
            return f"the answer has no list {name}"
        kind = str if name in ("false_findings", "missing_findings") else dict
        if not all(isinstance(item, kind) for item in items):
            return f"the answer's {name} are not as they should be"
    weights: dict[str, dict[str, float]] = {}
    for name in ("reference_findings", "predicted_findings"):
        ids = [item.get("id") for item in lists[name] or []]
        known = [_weight(SIGNIFICANCE, item.get("clinical_significance")) for item in lists[name] or []]
        if not all(isinstance(each, str) and each for each in ids) or len(set(map(str, ids))) < len(ids):
            return f"{name} without an id, or two with the same"
        if None in known:
            return f"a significance among {name} is none of {', '.join(SIGNIFICANCE)}"
        weights[name] = {str(id): weight for id, weight in zip(ids, known, strict=True) if weight is not None}
    return _weighed(weights["reference_findings"], weights["predicted_findings"], lists)


def _weighed(reference: dict[str, float], predicted: dict[str, float], lists: dict[str, Any]) -> Findings | str:
    """Return the sums of weights, or why the lists do not fit the findings."""
    pairs = {(item.get("ref_id"), item.get("pred_id")) for item in lists["matched_findings"] if _plain(item)}
    matched, seen = {ref for ref, _ in pairs}, {pred for _, pred in pairs}
    false, missing = Counter(lists["false_findings"]), set(lists["missing_findings"])
    if not matched <= set(reference) or not seen <= set(predicted) or not all(map(_plain, lists["matched_findings"])):
        return "a match is of a finding that is not listed"
    if not set(false) <= set(predicted) or not missing <= set(reference):
        return "an error is of a finding that is not listed"
    if max(false.values(), default=1) > 1 or seen & set(false):
        return "a finding of the candidate is both matched and false, or false twice"
    if set(predicted) - seen - set(false):
        return "a finding of the candidate is neither matched nor false"
    if matched & missing:
        return "a finding of the reference is both matched and missing"
    wrong: dict[str, float] = {}
    for item in lists["attribute_errors"]:
        weight, of = _weight(SEVERITY, item.get("severity")), item.get("ref_id")
        if weight is None:
            return f"an attribute error's severity is none of {', '.join(SEVERITY)}"
        if not isinstance(of, str) or of not in matched:
            return "an attribute error is of a finding that is not matched"
        wrong[of] = wrong.get(of, 0.0) + weight
    correct = sum(w * w / (w + wrong.get(id, 0.0)) for id, w in reference.items() if id in matched and w)
    return Findings(sum(reference.values()), sum(predicted[id] for id in false), correct)


def _plain(item: dict[str, Any]) -> bool:
    return isinstance(item.get("ref_id"), str) and isinstance(item.get("pred_id"), str)


def _weight(weights: dict[str, float], name: object) -> float | None:
    return weights.get(name) if isinstance(name, str) else None


@cache
def crimson_prompt() -> Callable[..., str]:
    """Return radeval's function (reference, candidate, include_...=) -> prompt. Raises MissingExtra without radeval."""
    build_prompt: Callable[..., str] = radeval_file("crimson/prompt_parts.py", "crimson").build_prompt
    return build_prompt


class Crimson(ModelJudge):
    """CRIMSON of whole reports; below 0 it is 0."""

    name: ClassVar[str] = "crimson"
    summary: ClassVar[str] = "CRIMSON of a report: its abnormal findings, weighed by significance, judged by a model"
    source: ClassVar[str] = "Baharoon et al. 2026 (CRIMSON, arXiv 2603.06183)"
    label: ClassVar[str] = "CRIMSON"
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report"})
    answer_tokens: ClassVar[int] = 8192

    model: str = Field(default=CRIMSON_MODEL, min_length=1)
    """The judge: folder of a checkpoint, or a hub id."""
    guidelines: bool | None = None
    """Whether the prompt explains significance and severity by examples; None: for any judge but the authors' own."""

    def check(self, examples: Sequence[Example]) -> None:
        """Raise MissingExtra without radeval, which holds the prompt."""
        crimson_prompt()

    def ask(self, reference: str, candidate: str) -> str:
        """Return radeval's prompt, without the patient's context."""
        explained = self.model != CRIMSON_MODEL if self.guidelines is None else self.guidelines
        parts = {"include_significance_examples": explained, "include_attribute_guidelines": explained}
        return f"{SYSTEM}\n\n{crimson_prompt()(reference, candidate, **parts)}"

    def read(self, answer: str) -> float | str:
        """Return CRIMSON, 0 where it is negative, or the reason why the answer gives none."""
        found = parse_crimson(answer)
        return found if isinstance(found, str) else max(0.0, found.score)
