"""What plugins owe each other, checked where it passes from one to the other: the pipeline believes nobody.

A method sees examples that it cannot change, and none of their references while it estimates. What it asks of the model
must be among its `needs`. What it returns, and what a scorer answers, is checked before anything is made of it.
"""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from conrad_bench.errors import ConradBenchError, DataError, PluginError
from conrad_bench.methods.base import Judge, Method, without_references
from conrad_bench.methods.recalibrated import learner
from conrad_bench.rollouts.model import Model
from conrad_bench.types import (
    DISTRIBUTIONS,
    HIDDEN_STATES,
    LOGPROBS,
    SAMPLING,
    STATUSES,
    TRAINING,
    Claim,
    Estimate,
    Example,
    Granularity,
    Prompt,
    Response,
    Sampling,
    Score,
    Split,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from conrad_bench.tasks.base import Scorer, Task

MOST_FAILED = 0.05
"""The share of a task's examples that a method may fail on (one of them at least) before it counts as failed."""

NO_RESPONSE = Response("", "", (), None, "stop")
"""What stands for the response where a method failed on an example."""


class Attributes(dict[str, str | float]):
    """Attributes of an example, which nobody can change."""

    def _refuse(self, *_args: object, **_named: object) -> NoReturn:
        raise TypeError("examples cannot be changed: make one of your own with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Attributes], tuple[dict[str, str | float]]]:
        """Pickle as it was made: the usual way would set one item after another."""
        return Attributes, (dict(self),)


def checked_examples(task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return a task's examples with attributes that nobody can change.

    Raises PluginError for one that is not as `types.Example` says, DataError for ids that occur twice and for clusters
    (patients, images) in two splits: test numbers would not be honest.
    """
    kept = []
    for index, example in enumerate(examples):
        problem = _example_problem(example)
        if problem:
            of = f"example {example.id!r}" if isinstance(example, Example) else f"examples[{index}]"
            raise PluginError(f"task {task.name!r} ({place(type(task), 'load')}): {of}: {problem}")
        kept.append(replace(example, attributes=Attributes(example.attributes)))
    twice = [id for id, number in Counter(example.id for example in kept).items() if number > 1]
    if twice:
        raise DataError(
            f"task {task.name!r}: {len(twice):,} ids belong to more than one example, for example {twice[0]!r}; each "
            "example needs an id of its own"
        )
    splits: dict[str, set[str]] = {}
    for example in kept:
        splits.setdefault(example.cluster, set()).add(example.split)
    shared = sorted(cluster for cluster, found in splits.items() if len(found) > 1)
    if shared:
        raise DataError(
            f"task {task.name!r}: {len(shared)} patients (or images) are in more than one split, for example "
            f"{shared[0]} in {' and '.join(sorted(splits[shared[0]]))}; each must be in one split only"
        )
    return kept


def _example_problem(example: Any) -> str | None:
    if not isinstance(example, Example):
        return f"is a {type(example).__name__}, no Example"
    for name in ("id", "cluster", "context", "reference"):
        if not isinstance(getattr(example, name), str):
            return f"{name} is a {type(getattr(example, name)).__name__}, no text"
    if not example.id or not example.cluster:
        return "id and cluster must not be empty"
    if example.split not in get_args(Split):
        return f"split is {example.split!r}; a split is one of {', '.join(get_args(Split))}"
    images: Any = example.images
    if isinstance(images, str) or not all(isinstance(path, str) for path in images):
        return "images must be a tuple of paths, as texts"
    attributes: Any = example.attributes
    for name, value in attributes.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, (str, int, float))):
            return f"attribute {name!r} is a {type(value).__name__}; attributes are texts or numbers"
    return None


@dataclass(frozen=True, slots=True)
class DeclaredModel(Model):
    """The model of a method: it does what the method's `needs` name, and raises PluginError for anything else."""

    needs: frozenset[str] = frozenset()
    method: str = ""

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Response]]:
        """As `Model.sample`; log-probabilities of methods that do not need them are None."""
        if n > 1 or sampling.temperature > 0:
            self._need(SAMPLING, "samples responses")
        drawn = Model.sample(self, prompts, n, sampling)
        if LOGPROBS in self.needs:
            return drawn
        return [[replace(response, logprobs=None) for response in row] for row in drawn]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """As `Model.score`."""
        self._need(LOGPROBS, "scores continuations")
        return Model.score(self, prompts, continuations)

    def hidden(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        layer: int,
        at: Literal["last", "mean"],
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> NDArray[np.float32]:
        """As `Model.hidden`."""
        self._need(HIDDEN_STATES, "reads hidden states")
        return Model.hidden(self, prompts, responses, layer, at, spans)

    def reread(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[NDArray[np.float32]]:
        """As `Model.reread`."""
        self._need(DISTRIBUTIONS, "reads the distributions of tokens")
        return Model.reread(self, prompts, responses)

    def train(
        self, trainer: Callable[..., None], data: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]
    ) -> None:
        """As `Model.train`."""
        self._need(TRAINING, "trains the model")
        Model.train(self, trainer, data, calls)

    def _need(self, need: str, what: str) -> None:
        if need not in self.needs:
            raise PluginError(f"method {self.method!r} {what}, and {need!r} is not among its needs; add it to `needs`")


def declared(model: Model, method: Method) -> DeclaredModel:
    """Return a model that does no more than a method declared."""
    fields = {name: getattr(model, name) for name in Model.__dataclass_fields__}
    return DeclaredModel(**fields, needs=method.requirements() | method.needs, method=method.name)


@dataclass(frozen=True, slots=True)
class Estimated:
    """A method's estimates, checked."""

    estimates: list[Estimate]
    """One for each example; where the method failed, one without a response, of the status `method_failed`."""
    failed: dict[str, str] = field(default_factory=dict)
    """What went wrong, by the ids of the examples that it did with."""


def estimated(
    method: Method, task: Task, examples: Sequence[Example], model: Model, judge: Judge, artifact: Path | None
) -> Estimated:
    """Let a method estimate examples whose references it cannot see, and check what it returns.

    An example that it fails on has the status `method_failed`, as long as these are few (`MOST_FAILED`); the others
    are then estimated without it. Raises what the method raised where they are more, and PluginError where what it
    returned is not as `Method.estimate` says.
    """
    seen = without_references(examples)
    allowed = min(len(seen) - 1, max(1, int(MOST_FAILED * len(seen))))
    asked = declared(model, method)

    def ask(some: Sequence[Example]) -> list[Estimate]:
        found = method.estimate(task, some, asked, judge, artifact)
        _check_order(method, some, found)
        return found

    failed: dict[str, str] = {}
    try:
        found = ask(seen)
    except (ConradBenchError, MemoryError):
        raise
    except Exception as error:
        culprits = _culprits(ask, seen, allowed, error)
        failed = {example.id: said(fault, method) for example, fault in culprits}
        found = ask([example for example in seen if example.id not in failed])
    by_id = {estimate.example_id: estimate for estimate in found}
    for id, estimate in by_id.items():
        problem = estimate_problem(estimate, task.granularity)
        if problem is None and method.confident:
            problem = _unsaid(estimate)
        if problem:
            failed[id] = f"{place(type(learner(method)), 'estimate')}: {problem}"
    if len(failed) > allowed:
        first, problem = next(iter(failed.items()))
        raise PluginError(
            f"method {method.name!r} failed on {len(failed):,} of {len(seen):,} examples, first on {first!r}: {problem}"
        )
    return Estimated([by_id[e.id] if e.id not in failed else _without(e) for e in seen], failed)


def _culprits(
    ask: Callable[[Sequence[Example]], object], examples: Sequence[Example], allowed: int, error: Exception
) -> list[tuple[Example, Exception]]:
    """Return the examples that a method fails on, each with its error, by asking for ever smaller parts.

    What was generated is in the store, so that asking again is cheap. Raises `error` where they are more than `allowed`
    or no example fails by itself.
    """
    found: list[tuple[Example, Exception]] = []
    parts: list[tuple[Sequence[Example], Exception]] = [(examples, error)]
    while parts:
        part, fault = parts.pop()
        if len(part) == 1:
            found.append((part[0], fault))
            if len(found) > allowed:
                raise error
            continue
        before = len(parts)
        for half in (part[: len(part) // 2], part[len(part) // 2 :]):
            try:
                ask(half)
            except (ConradBenchError, MemoryError):
                raise
            except Exception as again:
                parts.append((half, again))
        if len(parts) == before:
            raise error  # together they fail, apart they do not
    return found


def _without(example: Example) -> Estimate:
    return Estimate(example.id, NO_RESPONSE, (Claim("", (0, 0), status="method_failed"),))


def _check_order(method: Method, examples: Sequence[Example], estimates: object) -> None:
    """Raise PluginError unless there is one estimate for each example, in their order."""
    where = f"method {method.name!r} ({place(type(learner(method)), 'estimate')})"
    if not isinstance(estimates, Sequence):
        raise PluginError(f"{where} returned a {type(estimates).__name__}, not a list of estimates")
    if len(estimates) != len(examples):
        raise PluginError(f"{where} returned {len(estimates):,} estimates for {len(examples):,} examples")
    for index, (example, estimate) in enumerate(zip(examples, estimates, strict=True)):
        if not isinstance(estimate, Estimate):
            raise PluginError(f"{where} returned a {type(estimate).__name__} for example {example.id!r}, no Estimate")
        if estimate.example_id != example.id:
            raise PluginError(
                f"{where} returned its estimates in another order than the examples: number {index} is of "
                f"{estimate.example_id!r}, not of {example.id!r}"
            )


def estimate_problem(estimate: Any, granularity: Granularity) -> str | None:
    """Return what of an estimate is not as `types.Estimate` says, without the text of its response; or None."""
    if not isinstance(estimate.response, Response):
        return f"the response is a {type(estimate.response).__name__}, no Response"
    if isinstance(estimate.claims, str) or not isinstance(estimate.claims, Sequence) or not estimate.claims:
        return "claims must be a tuple of one claim or more (an empty response has one, of the status 'empty')"
    if granularity != "sentence" and len(estimate.claims) != 1:
        return f"{len(estimate.claims)} claims; each {granularity} is one claim"
    length, behind = len(estimate.response.text), 0
    for index, claim in enumerate(estimate.claims):
        if not isinstance(claim, Claim):
            return f"claims[{index}] is a {type(claim).__name__}, no Claim"
        if claim.status not in STATUSES:
            return f"claims[{index}]: status {claim.status!r} is none of {', '.join(STATUSES)}"
        problem = _confidence_problem(claim.confidence)
        if problem:
            return f"claims[{index}]: {problem}"
        if not 0 <= claim.span[0] <= claim.span[1] <= length:
            return f"claims[{index}]: span {tuple(claim.span)} does not lie in a response of {length} characters"
        if claim.span[0] < behind and claim.span[0] < claim.span[1]:
            return f"claims[{index}]: span {tuple(claim.span)} begins before the claim in front of it ends"
        behind = max(behind, claim.span[1])
        if claim.distribution is not None and (
            len(claim.distribution) != 11 or any(_confidence_problem(p) for p in claim.distribution)
        ):
            return f"claims[{index}]: distribution must be eleven probabilities"
    return None


def _unsaid(estimate: Estimate) -> str | None:
    for index, claim in enumerate(estimate.claims):
        if claim.status == "ok" and claim.confidence is None:
            return f"claims[{index}] is 'ok' without a confidence; give it one, or the status 'no_confidence'"
    return None


def _confidence_problem(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"confidence is a {type(value).__name__}, no number; use float()"
    number = float(value)
    if not 0 <= number <= 1:  # nor where it is NaN
        return f"confidence {number} is not in [0, 1]"
    return None


def check_scores(scorer: Scorer, pairs: Sequence[tuple[Example, Claim]], scores: object) -> list[Score]:
    """Return a scorer's answers. Raises PluginError unless there is one score in [0, 1], or None, for each claim."""
    where = f"scorer {scorer.name!r} ({place(type(scorer), 'score')})"
    if not isinstance(scores, Sequence) or len(scores) != len(pairs):
        number = f"{len(scores):,} scores" if isinstance(scores, Sequence) else f"a {type(scores).__name__}"
        raise PluginError(f"{where} answered with {number} for {len(pairs):,} claims; each claim needs one score")
    for (example, _), score in zip(pairs, scores, strict=True):
        problem = "is no Score" if not isinstance(score, Score) else _confidence_problem(score.value)
        if problem:
            problem = problem.replace("confidence", "correctness", 1)
            raise PluginError(f"{where}: example {example.id!r}: {problem}")
    return list(scores)


def said(error: Exception, method: Method) -> str:
    """Return what an error says, without the message of an unexpected one, which may quote a report."""
    if isinstance(error, ConradBenchError):
        return str(error)
    name = "fit" if any(frame.name == "fit" for frame in traceback.extract_tb(error.__traceback__)) else "estimate"
    return f"unexpected {type(error).__name__} ({place(type(learner(method)), name, error)})"


def place(cls: type, name: str, error: BaseException | None = None) -> str:
    """Return file and line of a plugin: where it raised an error, or else where its method `name` begins."""
    try:
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):  # defined in a notebook, or at a prompt
        file = None
    if file is None:
        return cls.__qualname__
    if error is not None:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if lines:
            return f"{Path(file).name}, line {lines[-1]}"
    try:
        method = getattr(cls, name)
        if inspect.getsourcefile(method) == file:  # else it is inherited: its line is one of another file
            return f"{Path(file).name}, line {inspect.getsourcelines(method)[1]}"
    except (OSError, TypeError, AttributeError):
        pass
    return Path(file).name
