"""What the methods share that state a confidence behind a response which the base model wrote."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.counterfactual import noised
from conrad_bench.errors import TrainingError
from conrad_bench.methods.base import Judge, Method, Responses, Step, drawn, respond
from conrad_bench.reading.claims import read_behind
from conrad_bench.reading.elicitation import STATED, Wording, elicit_at, separator
from conrad_bench.trainers.settings import LevelSettings, TrainingSettings, tracker_problem
from conrad_bench.types import END, LOGPROBS, Claim, Estimate, Example, Granularity, Prompt, Response, Sampling

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model
    from conrad_bench.tasks.base import Task
    from conrad_bench.trainers.objectives import Objective
    from conrad_bench.trainers.prefix import Written

NOISE = 1.0
"""Deviation of the noise of a corrupted picture, in units of the grey range: next to nothing is left to see."""


class Trained(Method, TrainingSettings):
    """A method that trains an adapter."""

    def problem(self, granularity: Granularity) -> str | None:
        """A tracker whose package is not installed."""
        return tracker_problem(self.report_to)

    def chosen(self, examples: Sequence[Example], granularity: Granularity) -> list[Example]:
        """Return the training examples, drawn at random where there are more."""
        return drawn(examples, self.sentence_samples if granularity == "sentence" else self.samples, self.seed)


class Stating(Trained):
    """A method that trains an adapter to state confidences."""

    distribution: bool = False
    """Also read the probabilities of all eleven confidences (needs log-probabilities)."""

    def requirements(self) -> frozenset[str]:
        """Reading all eleven confidences needs log-probabilities."""
        return self.needs | {LOGPROBS} if self.distribution else self.needs


def places(found: Responses) -> list[tuple[int, int]]:
    """Return (example, claim) indices of the claims behind which a confidence can be stated."""
    return [
        (i, k)
        for i, claims in enumerate(found.claims)
        for k, claim in enumerate(claims)
        if claim.status not in ("empty", "truncated")
    ]


def stated_after(
    prompt: Prompt, response: Response, claim: Claim, granularity: Granularity, wording: Wording = STATED
) -> Prompt:
    """Return the prompt that continues a response behind a claim and the confidence marker."""
    text = f"{response.text[: claim.span[1]]}{separator(granularity)}{wording.lead}"
    return replace(prompt, prefix=text, prefix_ids=())


def written_claims(
    task: Task,
    examples: Sequence[Example],
    model: Model,
    judge: Judge,
    max_tokens: int,
    tokenizer: Any,
    wording: Wording = STATED,
) -> tuple[list[Written], list[float], list[float]]:
    """Return what the base model wrote before each confidence that can be learned, the claims' correctness, and their
    weights by report (see `report_weights`).

    Its responses are those to the plain format; for another wording those to the task's own prompt.

    Raises TrainingError where not one claim could be judged.
    """
    from conrad_bench.engines.inputs import tokenize
    from conrad_bench.trainers.masks import marker_ids
    from conrad_bench.trainers.prefix import Written

    marker = marker_ids(tokenizer, separator(task.granularity), wording)
    elicit = elicit_at(task.granularity) if wording == STATED else None
    found = respond(task, examples, model, max_tokens, elicit)
    scores = judge(examples, found.claims)
    written, correctness, reports = [], [], []
    for i, k in places(found):
        value = scores[i][k].value
        if value is None:
            continue
        prompt = stated_after(found.prompts[i], found.responses[i], found.claims[i][k], task.granularity, wording)
        ids = tokenize(tokenizer, prompt.prefix)
        if ids[-len(marker) :] != marker:
            raise TrainingError(
                f"the tokenizer writes the confidence marker as {marker} behind one text and as "
                f"{ids[-len(marker) :]} behind another; an adapter that waits for the first would not act on the second"
            )
        written.append(Written(replace(prompt, prefix=""), ids[: -len(marker)]))
        correctness.append(value)
        reports.append(i)
    if not written:
        raise TrainingError("there is nothing to learn from: no claim of the training examples could be judged")
    return written, correctness, report_weights(reports)


def report_weights(reports: Sequence[int]) -> list[float]:
    """Return the weight 1 / N of each claim, N the number of claims of its report, scaled to a mean of 1.

    `reports` (n,) tells which report each claim belongs to. The weighted mean over all claims is then the mean over the
    reports of each report's mean (ConRad, equation 3).
    """
    claims = Counter(reports)
    return [len(reports) / (len(claims) * claims[report]) for report in reports]


def train_on_levels(
    settings: TrainingSettings,
    objective: Objective,
    seed: int,
    task: Task,
    examples: Sequence[Example],
    model: Model,
    judge: Judge,
    out: Path,
    wording: Wording = STATED,
    ranking: bool = False,
) -> None:
    """Train an activated adapter on the likelihoods of the answers behind the base model's claims.

    With `ranking` the objective sees them beside noised pictures, too, which lie in `out` until the training ends.
    """
    from conrad_bench.trainers.levels import train_levels

    written, correctness, weights = written_claims(
        task, examples, model, judge, settings.max_tokens, model.tokenizer(), wording
    )
    data = {
        "settings": settings,
        "objective": objective,
        "written": written,
        "correctness": correctness,
        "weights": weights if settings.sentence_weight == "report" else None,
        "between": separator(task.granularity),
        "wording": wording,
        "base_model": model.engine.identity()["model"],
        "seed": seed,
        "out": out,
    }
    pictures = out / "pictures"
    try:
        if ranking:
            data["noised"] = _beside_noise(written, seed, pictures)
        model.train(train_levels, data, {})
    finally:
        shutil.rmtree(pictures, ignore_errors=True)


def _beside_noise(written: Sequence[Written], seed: int, folder: Path) -> list[Written]:
    """Return the texts beside their pictures under noise, made in `folder`. Raises TrainingError without pictures."""
    paths = {path for each in written for path in each.prompt.images}
    if not paths:
        raise TrainingError("`ranking` compares clean with noised pictures, and no example has one; set ranking=0")
    made = {path: str(noised(path, NOISE, seed, folder)) for path in sorted(paths)}
    return [replace(w, prompt=replace(w.prompt, images=tuple(made[p] for p in w.prompt.images))) for w in written]


def state(
    task: Task, examples: Sequence[Example], model: Model, adapter: Path, max_tokens: int, distribution: bool
) -> list[Estimate]:
    """Let the adapter state a confidence behind each claim of the base model's responses, which stay as they are."""
    found = respond(task, examples, model, max_tokens, elicit_at(task.granularity))
    at = places(found)
    prompts = [stated_after(found.prompts[i], found.responses[i], found.claims[i][k], task.granularity) for i, k in at]
    adapted = model.adapted(adapter)
    claims = [list(row) for row in found.claims]
    for (i, k), stated in zip(at, adapted.generate(prompts, Sampling(max_tokens=4)), strict=True):
        value = read_behind(stated.text)
        claims[i][k] = replace(claims[i][k], confidence=value.confidence, status=value.status, reading=value.reading)
    estimates = found.with_claims(claims)
    return with_distributions(found.prompts, estimates, task.granularity, adapted) if distribution else estimates


def state_jointly(
    task: Task, examples: Sequence[Example], model: Model, adapter: Path, max_tokens: int, distribution: bool
) -> list[Estimate]:
    """Let the adapter write the responses and state its confidences, both in one."""
    adapted = model.adapted(adapter)
    found = respond(task, examples, adapted, max_tokens, elicit_at(task.granularity))
    estimates = found.with_claims(found.claims)
    return with_distributions(found.prompts, estimates, task.granularity, adapted) if distribution else estimates


def with_distributions(
    prompts: Sequence[Prompt], estimates: Sequence[Estimate], granularity: Granularity, model: Model
) -> list[Estimate]:
    """Return the estimates with the probabilities of all eleven confidences where each claim's own stands."""
    at = [
        (i, k)
        for i, estimate in enumerate(estimates)
        for k, claim in enumerate(estimate.claims)
        if claim.confidence is not None
    ]
    asked = [stated_after(prompts[i], estimates[i].response, estimates[i].claims[k], granularity) for i, k in at]
    claims = [list(estimate.claims) for estimate in estimates]
    for (i, k), p in zip(at, distributions(asked, granularity, model), strict=True):
        claims[i][k] = replace(claims[i][k], distribution=p)
    return [replace(e, claims=tuple(found)) for e, found in zip(estimates, claims, strict=True)]


def distributions(
    asked: Sequence[Prompt], granularity: Granularity, model: Model, wording: Wording = STATED
) -> list[tuple[float, ...]]:
    """Return the probabilities of all answers (eleven confidences) behind each prompt's prefix; their sum is at most 1.

    A stated confidence ends with the turn, or at a line break behind a sentence; both ways count.
    """
    endings = (END, "\n") if granularity == "sentence" else (END,)
    scores = model.score(asked, [f"{answer}{ending}" for ending in endings for answer in wording.answers])
    n = len(wording.answers)
    return [tuple(min(1.0, math.fsum(math.exp(value) for value in row[c::n])) for c in range(n)) for row in scores]


def level_plan(
    settings: LevelSettings,
    task: Task,
    chosen: Sequence[Example],
    test: Sequence[Example],
    what: str,
    joint: bool = False,
    wording: Wording = STATED,
) -> list[Step]:
    """Return the steps of a method that learns from the base model's responses, judged before the training.

    The adapter states a confidence behind the base's responses to the test examples, or writes its own (joint); in
    another wording the probabilities of its answers are read.
    """
    elicit = elicit_at(task.granularity) if wording == STATED else None
    sampling = Sampling(max_tokens=settings.max_tokens)
    each = " for each sentence" if task.granularity == "sentence" and not joint else ""
    asked = [tuple(task.prompt(example, elicit) for example in part) for part in (chosen, test)]
    training = [
        Step("generate", len(chosen), "training responses of the base model", asked[0], sampling),
        Step("train", settings.steps_for(len(chosen)), what + each),
    ]
    if joint:
        return [*training, Step("generate", len(test), "test responses with the adapter")]
    state = Step("state", len(test), "responses: one number for each claim, with the adapter")
    score = Step("score", len(test), "responses: the answers behind each claim, with the adapter")
    return [
        *training,
        Step("generate", len(test), "test responses of the base model", asked[1], sampling),
        state if wording == STATED else score,
    ]
