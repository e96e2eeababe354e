"""Checks of scorers, tasks, metrics and engines."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from conrad_bench.contracts import check_scores, checked_examples, estimate_problem
from conrad_bench.engines.base import Engine, Job
from conrad_bench.errors import PluginError
from conrad_bench.leaderboards.metrics.base import Metric, Sample
from conrad_bench.reading.elicitation import elicit_at
from conrad_bench.tasks.base import Scorer, Task
from conrad_bench.testing.toys import ODD, ToyTask
from conrad_bench.types import (
    DISTRIBUTIONS,
    HIDDEN_STATES,
    LOGPROBS,
    NEEDS,
    SAMPLING,
    TOKEN_COLUMNS,
    Claim,
    Estimate,
    Example,
    Granularity,
    Message,
    Prompt,
    Response,
    Sampling,
)

_TOLERANCE = 1e-6


class PluginChecks:
    """What holds for every plugin."""

    plugin: BaseModel

    def check_pickle(self) -> None:
        """It travels to other processes (Ray)."""
        try:
            again = pickle.loads(pickle.dumps(self.plugin))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise PluginError(f"it cannot be pickled, which Ray needs ({type(error).__name__})") from error
        if again != self.plugin:
            raise PluginError("it differs after it was pickled")


class ScorerChecks(PluginChecks):
    """The checks of one scorer at one granularity."""

    def __init__(self, scorer: Scorer, granularity: Granularity, model: Any = None) -> None:
        self.plugin = self.scorer = scorer
        self.granularity, self.model = granularity, model
        examples = ToyTask().load(Path()).examples
        self.pairs = [
            (example, Claim(text, (0, len(text))))
            for example, other in zip(examples, [*examples[1:], examples[0]], strict=True)
            for text in (example.reference, other.reference)
        ]

    def check_scores(self) -> None:
        """One score in [0, 1], or None with a reason, for each claim."""
        for (example, _), score in zip(self.pairs, self._score(self.pairs), strict=True):
            if score is None:
                continue
            assert 0 <= score <= 1, example.id

    def check_order(self) -> None:
        """A claim's score depends neither on its place nor on the others."""
        before = self._score(self.pairs)
        order = random.Random(0).sample(range(len(self.pairs)), len(self.pairs))
        after = self._score([self.pairs[i] for i in order])
        if any(not _equal(before[i], score) for i, score in zip(order, after, strict=True)):
            raise PluginError("a claim's score depends on the order of the claims")
        if not _equal(self._score(self.pairs[:1])[0], before[0]):
            raise PluginError("a claim's score depends on which others are scored with it")

    def check_odd_claims(self) -> None:
        """Empty and odd claims are scored, or None with a reason; no claim at all is fine."""
        example = self.pairs[0][0]
        odd = [*ODD, "word " * 2000]
        self._score([(example, Claim(text, (0, len(text)))) for text in odd])
        self._score([])

    def check_empty_reference(self) -> None:
        """A claim with nothing to judge it against is not wrong: None with a reason, or a score."""
        example = Example("e", "p", "test", (), "Question?", "")
        claim = Claim("The heart is large.", (0, 19))
        scores = check_scores(
            self.scorer, [(example, claim)], self.scorer.score([(example, claim)], self.granularity, self.model)
        )
        if scores[0].value is None and not scores[0].reason:
            raise PluginError("a score of None needs a reason")

    def _score(self, pairs: Sequence[tuple[Example, Claim]]) -> list[float | None]:
        found = check_scores(self.scorer, pairs, self.scorer.score(pairs, self.granularity, self.model))
        if any(score.value is None and not score.reason for score in found):
            raise PluginError("a score of None needs a reason")
        return [score.value for score in found]


class TaskChecks(PluginChecks):
    """The checks of one task on the data in a folder."""

    def __init__(self, task: Task, root: Path) -> None:
        self.plugin = self.task = task
        self.root = root

    def check_examples(self) -> None:
        """Examples are as they should be, read twice they are the same, and some are for tests."""
        loaded = self.task.load(self.root)
        examples = checked_examples(self.task, loaded.examples)
        if not loaded.split("test"):
            raise PluginError("there are no examples of the split 'test'")
        if self.task.load(self.root).examples != loaded.examples:
            raise PluginError("read again, the examples differ")
        tests = {example.id for example in self.task.load_test(self.root).split("test")}
        if tests != {example.id for example in examples if example.split == "test"}:
            raise PluginError("load_test has other test examples than load")

    def check_images(self) -> None:
        """Paths of images are absolute, and the files are there."""
        for example in self._some():
            for path in example.images:
                if not Path(path).is_absolute() or not Path(path).is_file():
                    raise PluginError(f"example {example.id!r}: no file, or no absolute path: {path}")

    def check_prompts(self) -> None:
        """A prompt ends with a user's turn, is the same each time, and does not hold the reference."""
        for example in self._some():
            for elicit in (None, elicit_at(self.task.granularity)):
                prompt = self.task.prompt(example, elicit)
                if not isinstance(prompt, Prompt) or not prompt.messages or prompt.messages[-1].role != "user":
                    raise PluginError(f"example {example.id!r}: a prompt must end with a turn of the user")
                if prompt != self.task.prompt(example, elicit):
                    raise PluginError(f"example {example.id!r}: its prompt differs the second time")
                if prompt.elicit != elicit:
                    raise PluginError(f"example {example.id!r}: the prompt must carry elicit={elicit!r}")
                told = " ".join(message.text for message in prompt.messages)
                if len(example.reference) > 20 and example.reference in told:
                    raise PluginError(f"example {example.id!r}: the prompt holds the reference")

    def check_claims(self) -> None:
        """Any response is cut into claims that lie in it, an empty one into one claim that is not 'ok'."""
        for text in (*ODD, "The heart is large. The lungs are clear.\nConfidence: 8"):
            for elicit in (None, elicit_at(self.task.granularity)):
                response = Response("key", text, (1,), None, "stop")
                claims = tuple(self.task.claims(response, elicit))
                problem = estimate_problem(Estimate("e", response, claims), self.task.granularity)
                if problem:
                    raise PluginError(f"claims of {text!r}: {problem}")
                if not text.strip() and claims[0].status == "ok":
                    raise PluginError("the claim of an empty response has the status 'ok', not 'empty'")

    def _some(self) -> list[Example]:
        examples = self.task.load(self.root).examples
        return random.Random(0).sample(examples, min(50, len(examples)))


class MetricChecks(PluginChecks):
    """The checks of one metric."""

    def __init__(self, metric: Metric) -> None:
        self.plugin = self.metric = metric

    def check_range(self) -> None:
        """Values lie in the metric's range, or are NaN, on any claims."""
        low, high = self.metric.range
        for name, sample in self._samples():
            value = sample.value(self.metric.statistic(sample))
            if not (math.isnan(value) or low - _TOLERANCE <= value <= high + _TOLERANCE):
                raise PluginError(f"{name}: the value {value:g} is outside [{low:g}, {high:g}]")

    def check_shape(self) -> None:
        """Weights (replicates, units) give values (replicates,)."""
        for name, sample in self._samples():
            found = np.asarray(self.metric.statistic(sample)(np.ones((5, sample.units))))
            if found.shape != (5,):
                raise PluginError(f"{name}: weights of shape (5, {sample.units}) gave the shape {found.shape}")
            if not np.allclose(found, found[0], equal_nan=True):
                raise PluginError(f"{name}: equal weights gave values that differ")

    def check_order(self) -> None:
        """The order of claims changes nothing."""
        for name, sample in self._samples():
            order = np.random.default_rng(1).permutation(len(sample))
            confidence = None if sample.confidence is None else sample.confidence[order]
            again = Sample(confidence, sample.correctness[order], sample.unit[order], sample.units)
            before, after = (each.value(self.metric.statistic(each)) for each in (sample, again))
            if not _equal(before, after, 1e-9):
                raise PluginError(f"{name}: the value depends on the order of the claims")

    def _samples(self) -> list[tuple[str, Sample]]:
        draw = np.random.default_rng(0)
        n = 60
        unit = np.sort(draw.integers(12, size=n)).astype(np.int64)
        confidences = {
            "distinct confidences": draw.random(n),
            "levels": draw.integers(11, size=n) / 10,
            "one confidence": np.full(n, 0.7),
            "zeros and ones": draw.integers(2, size=n).astype(float),
        }
        right = draw.integers(2, size=n).astype(float)
        correctness = {"some right": right, "all right": np.ones(n), "all wrong": np.zeros(n)}
        if not self.metric.binary:
            correctness["continuous"] = draw.random(n)
        found = [
            (f"{a}, {b}", Sample(c if self.metric.confidence else None, y, unit, 12))
            for a, c in confidences.items()
            for b, y in correctness.items()
        ]
        alone = Sample(np.array([0.4]) if self.metric.confidence else None, np.ones(1), np.zeros(1, np.int64), 1)
        return [*found, ("a single claim", alone)]


class EngineChecks(PluginChecks):
    """The checks of one engine; they load its model."""

    def __init__(self, engine: Engine) -> None:
        self.plugin = self.engine = engine
        self.prompts = [Prompt((Message("user", f"Is finding {i} seen?" + " Please." * i),)) for i in range(5)]

    def check_declaration(self) -> None:
        """`provides` is of the list, and the identity holds texts alone and stays."""
        unknown = sorted(self.engine.provides - set(NEEDS))
        if unknown:
            raise PluginError(f"provides has {', '.join(unknown)}; needs are {', '.join(NEEDS)}")
        identity = self.engine.identity()
        if not all(isinstance(part, str) for item in identity.items() for part in item):
            raise PluginError("identity must map texts to texts")
        if identity != self.engine.identity():
            raise PluginError("identity differs the second time")

    def check_greedy(self) -> None:
        """Greedy answers are the same again, and alone as in a batch; tokens, text and log-probabilities fit."""
        sampling = Sampling(max_tokens=12)
        jobs = [Job(prompt) for prompt in self.prompts]
        together = self.engine.generate(jobs, sampling, None)
        if len(together) != len(jobs):
            raise PluginError(f"generate answered {len(together)} of {len(jobs)} jobs")
        alone = [self.engine.generate([job], sampling, None)[0] for job in jobs]
        for first, second in zip(together, alone, strict=True):
            if first.text != second.text:
                raise PluginError("a prompt's answer alone differs from that in a batch")
            if first.logprobs is not None and len(first.logprobs) != len(first.token_ids):
                raise PluginError("there are not as many log-probabilities as tokens")
            if first.logprobs is not None and max(first.logprobs, default=0.0) > _TOLERANCE:
                raise PluginError("a log-probability is above 0")
            if len(first.token_ids) > sampling.max_tokens or (first.finish_reason == "length") != (
                second.finish_reason == "length"
            ):
                raise PluginError("max_tokens or finish_reason is not kept to")
        if LOGPROBS in self.engine.provides and any(each.logprobs is None for each in together):
            raise PluginError("it provides logprobs, and its answers have none")

    def check_seeds(self) -> None:
        """Samples depend on the job's seed alone."""
        if SAMPLING not in self.engine.provides:
            return
        sampling = Sampling(temperature=1.0, max_tokens=12)
        jobs = [Job(self.prompts[0], seed) for seed in range(6)]
        first = [each.text for each in self.engine.generate(jobs, sampling, None)]
        again = [each.text for each in self.engine.generate(jobs[::-1], sampling, None)][::-1]
        if first != again:
            raise PluginError("samples with the same seeds differ")
        if len(set(first)) == 1:
            raise PluginError("six seeds gave the same sample; the job's seed is not used")

    def check_scores(self) -> None:
        """Continuations have log-probabilities, the same alone as in a batch."""
        if LOGPROBS not in self.engine.provides:
            return
        texts = [("yes", "no", "maybe")] * len(self.prompts)
        together = self.engine.score(self.prompts, texts, None)
        if [len(row) for row in together] != [3] * len(self.prompts):
            raise PluginError("score must return one number for each continuation of each prompt")
        if any(not number <= _TOLERANCE for row in together for number in row):
            raise PluginError("a log-probability is above 0, or none")
        alone = self.engine.score(self.prompts[:1], texts[:1], None)[0]
        if not np.allclose(alone, together[0], atol=1e-3):
            raise PluginError("a prompt's scores alone differ from those in a batch")

    def check_hidden(self) -> None:
        """Hidden states have one row a span, and numbers in it."""
        if HIDDEN_STATES not in self.engine.provides:
            return
        written = self.engine.generate(list(map(Job, self.prompts)), Sampling(max_tokens=6), None)
        answers = [each.token_ids for each in written]
        states = self.engine.hidden(self.prompts, answers, -1, "last", None)
        for answer, state in zip(answers, states, strict=True):
            if answer and (state.ndim != 2 or len(state) != 1 or not np.isfinite(state).all()):
                raise PluginError(f"hidden states of one span have the shape {state.shape}, or numbers that are none")

    def check_reread(self) -> None:
        """A response that is read again has statistics of each of its tokens."""
        if DISTRIBUTIONS not in self.engine.provides:
            return
        written = self.engine.generate(list(map(Job, self.prompts)), Sampling(max_tokens=6), None)
        tables = self.engine.reread(self.prompts, [each.token_ids for each in written], None)
        for each, table in zip(written, tables, strict=True):
            if table.shape != (len(each.token_ids), len(TOKEN_COLUMNS)) or not np.isfinite(table).all():
                raise PluginError(f"the tokens of a response have the shape {table.shape}, or numbers that are none")


def _equal(a: float | None, b: float | None, tolerance: float = _TOLERANCE) -> bool:
    if a is None or b is None:
        return a is b
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance
