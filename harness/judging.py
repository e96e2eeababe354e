"""Judging: claims and whole responses by the scorers of their task, a scorer's own model included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from conrad_bench.contracts import check_scores
from conrad_bench.methods.base import Judge
from conrad_bench.plan import Plan
from conrad_bench.tasks.scorers.panel import Panel
from conrad_bench.types import Claim, Estimate, Example, Granularity, Score

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Scorer, Task


def make_judge(plan: Plan, scorer: Scorer, task: Task, model: Model) -> Judge:
    """Return the function that judges the claims of a task by a scorer of the plan."""

    def judge(examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
        pairs = [(e, c) for e, found in zip(examples, claims, strict=True) for c in found]
        scores = iter(scored(plan, scorer, pairs, task.granularity, model))
        return [[next(scores) for _ in found] for found in claims]

    return judge


def scored(
    plan: Plan, scorer: Scorer, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model
) -> list[Score]:
    """Return the scores of claims; a scorer that asks a model gets its engine, behind the same store."""
    if isinstance(scorer, Panel):
        return scorer.mean({n: scored(plan, each, pairs, granularity, model) for n, each in scorer.members.items()})
    if scorer.name not in plan.judges:
        return check_scores(scorer, pairs, scorer.score(pairs, granularity))
    judge = model.judged_by(plan.judges[scorer.name])
    return check_scores(scorer, pairs, scorer.score(pairs, granularity, judge))


def response_qualities(
    plan: Plan, task: Task, examples: Sequence[Example], estimates: Sequence[Estimate], model: Model
) -> list[dict[str, float | None]]:
    """Return, for each example of a task that has a quality scorer, the record columns of its response's quality.

    `quality` is that of the whole response, `quality_6`, `quality_8` and `quality_10` that of what is left when only
    the claims with at least that confidence are kept (ConRad, section 4, Confidence-Based Flagging).
    """
    from conrad_bench.records import QUALITY, QUALITY_ABOVE

    if task.name not in plan.qualities:
        return [{} for _ in examples]
    columns: list[dict[str, float | None]] = [dict.fromkeys(QUALITY) for _ in examples]
    for column, least in {"quality": None, **QUALITY_ABOVE}.items():
        places, pairs = [], []
        for i, (example, estimate) in enumerate(zip(examples, estimates, strict=True)):
            if least is not None and all(claim.confidence is None for claim in estimate.claims):
                continue  # nothing was stated that claims could be kept by
            if estimate.response.finish_reason == "image_unreadable" or estimate.claims[0].status == "method_failed":
                continue
            kept = [c for c in estimate.claims if least is None or (c.confidence or 0.0) >= least - 1e-9]
            columns[i][column] = 0.0
            if any(claim.text for claim in kept):
                places.append(i)
                pairs.append((example, Claim(" ".join(claim.text for claim in kept if claim.text), (0, 0))))
        scores = scored(plan, plan.qualities[task.name], pairs, "report", model)
        for i, score in zip(places, scores, strict=True):
            columns[i][column] = score.value
    return columns
