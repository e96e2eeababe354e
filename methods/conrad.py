"""ConRad: a confidence learned by reinforcement with a proper scoring rule (report level)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from conrad_bench.elicitation import MARKER, read_level
from conrad_bench.methods.base import SAMPLING, TRAINING, Judge, Method, Step
from conrad_bench.trainers.conrad import GRPOSettings, invocation, train_conrad, training_steps
from conrad_bench.trainers.rewards import log_score, violation_reward
from conrad_bench.types import Claim, Estimate, Example, Prompt, Response, Sampling

if TYPE_CHECKING:
    from conrad_bench.model import Model
    from conrad_bench.tasks.base import Task

ELICIT = "confidence"


class ConRad(Method, GRPOSettings):
    """GRPO on the confidence tokens; reward lambda (r log c + (1 - r) log(1 - c)), r the report's correctness."""

    name: ClassVar[str] = "conrad"
    summary: ClassVar[str] = "stated confidence trained by GRPO with the logarithmic scoring rule"
    source: ClassVar[str] = "ConRad, sections 2.3 and 3, equation 2"
    needs: ClassVar = frozenset({TRAINING, SAMPLING})
    granularities: ClassVar = frozenset({"report"})

    def steps(
        self, task: Task, train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
    ) -> list[Step]:
        """Training on reports of the base model (conditional) or of its own (joint), then the test examples."""
        chosen = self._chosen(train)
        sampling = Sampling(max_tokens=self.max_tokens)
        rollouts = round(len(chosen) * self.epochs * self.generations)
        steps = Step("train", training_steps(self, len(chosen)), f"steps of GRPO on {rollouts} rollouts, {self.mode}")
        asked = tuple(task.prompt(example, ELICIT) for example in test)
        if self.mode == "joint":
            return [steps, Step("generate", len(test), "test responses with the adapter")]
        return [
            Step(
                "generate",
                len(chosen),
                "training responses of the base model",
                tuple(task.prompt(example, ELICIT) for example in chosen),
                sampling,
            ),
            steps,
            Step("generate", len(test), "test responses of the base model", asked, sampling),
            Step("generate", len(test), "confidences with the adapter, one number each"),
        ]

    def _chosen(self, examples: Sequence[Example]) -> list[Example]:
        """Return the training examples, drawn at random where there are more than `samples`."""
        chosen = list(examples)
        random.Random(self.seed).shuffle(chosen)
        return chosen[: self.samples]

    def fit(
        self,
        task: Task,
        train: Sequence[Example],
        validation: Sequence[Example],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """Train the adapter. Raises TrainingError if the rollouts lose the confidence format."""
        examples = self._chosen(train)
        prompts = [task.prompt(example, ELICIT) for example in examples]
        if self.mode == "conditional":
            self._fit_conditional(task, examples, prompts, model, judge, out)
        else:
            self._fit_joint(task, examples, prompts, model, judge, out)

    def _fit_conditional(
        self,
        task: Task,
        examples: list[Example],
        prompts: list[Prompt],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """The base model writes the reports once; only the confidence is rolled out."""
        from conrad_bench.trainers.confidence_tokens import marker_ids
        from conrad_bench.trainers.grpo import Written

        responses = model.generate(prompts, Sampling(max_tokens=self.max_tokens))
        claims = [task.claims(response, ELICIT) for response in responses]
        scores = judge(examples, claims)
        kept = [
            i
            for i, (found, score) in enumerate(zip(claims, scores, strict=True))
            if found[0].status not in ("empty", "truncated") and score[0].value is not None
        ]
        correctness = [scores[i][0].value for i in kept]
        torch_model, processor = model.torch_model()
        marker = marker_ids(processor.tokenizer)
        written = [Written(prompts[i], report_ids(responses[i], marker)) for i in kept]

        def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
            levels = [read_level(text.strip())[0] for text in texts]
            return self._rewards(levels, [correctness[row] for row in rows])

        rows = [{"prompt": [{"role": "user", "content": ""}], "row": i} for i in range(len(kept))]
        self._train(torch_model, processor, rows, reward, written, model, out)

    def _fit_joint(
        self,
        task: Task,
        examples: list[Example],
        prompts: list[Prompt],
        model: Model,
        judge: Judge,
        out: Path,
    ) -> None:
        """As in the paper: every rollout is a report with its confidence."""
        from conrad_bench.engines.inputs import open_image

        torch_model, processor = model.torch_model()

        def reward(rows: Sequence[int], texts: Sequence[str]) -> tuple[list[float], list[bool]]:
            claims = [task.claims(Response("", text, (), None, "stop"), ELICIT) for text in texts]
            scores = judge([examples[row] for row in rows], claims)
            return self._rewards([c[0].confidence for c in claims], [s[0].value for s in scores])

        rows = [
            {
                "prompt": [{"role": m.role, "content": m.text} for m in prompt.messages],
                "images": [open_image(path) for path in prompt.images],
                "row": i,
            }
            for i, prompt in enumerate(prompts)
        ]
        self._train(torch_model, processor, rows, reward, [], model, out)

    def _rewards(
        self, confidences: Sequence[float | None], correctness: Sequence[float | None]
    ) -> tuple[list[float], list[bool]]:
        """Rewards, and which responses state a readable confidence. An unjudged report is worth a violation, too."""
        worst = violation_reward(self.reward_scale, self.reward_eps)
        rewards = [
            worst if c is None or r is None else log_score(c, r, self.reward_scale, self.reward_eps)
            for c, r in zip(confidences, correctness, strict=True)
        ]
        return rewards, [c is not None for c in confidences]

    def _train(
        self, torch_model: Any, processor: Any, rows: Any, reward: Any, written: Any, model: Model, out: Path
    ) -> None:
        train_conrad(
            self,
            torch_model=torch_model,
            processor=processor,
            prompts=rows,
            reward=reward,
            written=written,
            base_model=model.engine.identity()["model"],
            seed=self.seed,
            stage=model.reporter.stage,
            out=out,
        )

    def estimate(self, task: Task, examples: Sequence[Example], model: Model, artifact: Path | None) -> list[Estimate]:
        """Read the confidence that the adapter states: behind its own report (joint) or behind the base's."""
        assert artifact is not None
        prompts = [task.prompt(example, ELICIT) for example in examples]
        sampling = Sampling(max_tokens=self.max_tokens)
        if self.mode == "joint":
            responses = model.adapted(artifact).generate(prompts, sampling)
            found = [task.claims(response, ELICIT) for response in responses]
        else:
            responses = model.generate(prompts, sampling)
            claims = [task.claims(response, ELICIT)[0] for response in responses]
            marker = invocation(artifact)
            stated = model.adapted(artifact).generate(
                [continued(p, r, c, marker) for p, r, c in zip(prompts, responses, claims, strict=True)],
                Sampling(max_tokens=4),
            )
            found = [[_with_confidence(c, s)] for c, s in zip(claims, stated, strict=True)]
        return [
            Estimate(example.id, response, tuple(claims))
            for example, response, claims in zip(examples, responses, found, strict=True)
        ]


def continued(prompt: Prompt, response: Response, claim: Claim, marker: Sequence[int]) -> Prompt:
    """Return the prompt that continues a report, as the base model wrote it, behind the confidence marker."""
    ids = (*report_ids(response, marker), *marker)
    return replace(prompt, prefix=f"{response.text[: claim.span[1]]}\n{MARKER} ", prefix_ids=ids)


def report_ids(response: Response, marker: Sequence[int]) -> list[int]:
    """Return the token ids of a response up to where the confidence marker starts, or to its end of turn."""
    from conrad_bench.trainers.confidence_tokens import find_last

    ids = list(response.token_ids)
    start = find_last(ids, marker)
    if start is not None:
        return ids[:start]
    return ids[:-1] if response.finish_reason == "stop" else ids


def _with_confidence(claim: Claim, stated: Response) -> Claim:
    """Give the base's report the confidence that the adapter stated behind it."""
    if claim.status in ("empty", "truncated"):
        return claim
    confidence, status = read_level(stated.text.strip())
    return replace(claim, confidence=confidence, status=status)
