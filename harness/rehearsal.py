"""`conrad-bench rehearse`: each stage of a planned run on a few examples at full size.

Full size means the real prompts, images, `max_tokens` and batch sizes, with the examples that have the most images and
the longest texts. What methods and scorers do is what the run lets them do, in the same order and in one process; a
stage that fails is noted with what helps, its memory is freed, and the next one is played.

What was learned in a few steps is worth nothing, and is removed at the end with everything else.
"""

from __future__ import annotations

import bisect
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from conrad_bench.contracts import estimated
from conrad_bench.counterfactual import PICTURES, counterfactuals
from conrad_bench.engines.base import Engine, Job
from conrad_bench.engines.loading import free_memory
from conrad_bench.errors import HubUnreachable, PluginError, StorageError
from conrad_bench.fingerprints import artifact_folder
from conrad_bench.fits import learn
from conrad_bench.judging import make_judge, response_qualities
from conrad_bench.measuring import MeasuringReporter
from conrad_bench.methods.base import Judge, Method, Step
from conrad_bench.methods.recalibrated import Composed, chance_seed
from conrad_bench.plan import Plan, check_models, experts, make_plan, prepare, try_engine
from conrad_bench.rehearsal_report import Played, report
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.storage import storage_errors
from conrad_bench.tasks.scorers.panel import single
from conrad_bench.types import Claim, Example, Message, Prompt, Sampling, Score

if TYPE_CHECKING:
    from conrad_bench.config import RunConfig
    from conrad_bench.registry import Registry
    from conrad_bench.tasks.base import Loaded, Scorer, Task


def rehearse(
    config: RunConfig, registry: Registry, beside: Path, examples: int | None = None, steps: int = 3
) -> dict[str, Any]:
    """Play the run in a temporary folder inside `beside`, and return the content of rehearsal.json (docs/formats.md).

    `examples` is how many of them each stage gets, by default a batch of the engine; a training gets as many as make at
    least `steps` optimizer steps. Raises what a run raises before it begins: ConfigError, PlanError, DataError, and
    ModelError for the model itself. A judge whose model cannot be reached is a stage that fails.
    """
    from conrad_bench.preview import preview

    plan = make_plan(config, registry)
    plan.methods.update({name: _untracked(method) for name, method in plan.methods.items()})
    reporter = MeasuringReporter()
    data = prepare(plan, reporter, tolerant=True)
    if plan.engine.model in plan.unchecked:
        raise HubUnreachable(plan.unchecked[plan.engine.model])
    check_models(plan)
    for note in try_engine(plan, data):
        reporter.say(note)
    with storage_errors(beside), TemporaryDirectory(prefix=".rehearsal-", dir=beside) as folder:
        counted = preview(plan, Path(folder) / "none", reporter, data)
        with RolloutStore(Path(folder) / "rollouts") as store:
            pictures = Path(folder).absolute() / PICTURES
            judges = tuple(plan.judges.values())
            model = Model(plan.engine, store, reporter, beside=judges, pictures=pictures, experts=experts(plan))
            stage = _Stage(plan, data, model, reporter, Path(folder), examples or plan.engine.batch_size, steps)
            stage.play()
    return report(plan, stage.played, counted, stage.examples)


def _untracked(method: Method) -> Method:
    """Return a method that sends no training curves anywhere."""
    if isinstance(method, Composed):
        return method.with_parts({name: _untracked(part) for name, part in method.parts().items()})
    return method.model_copy(update={"report_to": "none"}) if hasattr(method, "report_to") else method


def heaviest(examples: Sequence[Example], number: int) -> list[Example]:
    """Return the examples with the most images, and of those the ones with the longest texts."""

    def weight(example: Example) -> tuple[int, int, str]:
        return -len(example.images), -len(example.context) - len(example.reference), example.id

    return sorted(examples, key=weight)[:number]


def learning_steps(steps: Sequence[Step]) -> int:
    """Return the number of training steps in a method's plan."""
    return sum(step.count for step in steps if step.action == "train")


def asked_before_learning(steps: Sequence[Step]) -> int:
    """Return how many answers a method's plan asks for before its training begins."""
    first = next((i for i, step in enumerate(steps) if step.action == "train"), len(steps))
    return sum(step.count for step in steps[:first])


@dataclass
class _Stage:
    """Where the run is played."""

    plan: Plan
    data: dict[str, Loaded]
    model: Model
    reporter: MeasuringReporter
    folder: Path
    examples: int
    steps: int

    def __post_init__(self) -> None:
        self.played: list[Played] = []
        self._fits: dict[tuple[str, str], Path | None] = {}
        self._loaded: dict[int, bool] = {}
        self._blind: set[str] = set()

    def play(self) -> None:
        """Play everything; what fails is noted in `played`."""
        if not self._load(self.plan.engine, self.plan.model_label):
            for name, judge in self.plan.judges.items():
                self._load(judge, f"{judge.model} for {name}")
            return
        for task_name in self.plan.config.tasks:
            for name, method in self.plan.methods.items():
                self.reporter.say(f"{name} on {task_name}")
                self._method(name, method, self.plan.tasks[task_name])
        for engine in (self.plan.engine, *self.plan.judges.values()):
            engine.close()
        self._board()

    @contextmanager
    def _playing(self, part: str, task: str = "", method: str = "", factor: float = 1.0) -> Iterator[Played]:
        """Measure a part of the run and go on behind it if it fails."""
        played = Played(part, task, method, factor)
        self.played.append(played)
        try:
            with self.reporter.measure(part) as played.measured:
                yield played
        except StorageError:
            raise
        except Exception as error:
            played.failed = True
            self._let_go(error)

    def _let_go(self, error: Exception) -> None:
        """Free what a stage that failed holds. Its error is kept, but not the frames, which hold tensors."""
        if os.environ.get("CONRAD_BENCH_TRACEBACK") == "1":
            traceback.print_exception(error)
        link: BaseException | None = error
        while link is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        for engine in (self.plan.engine, *self.plan.judges.values()):
            engine.close()
        free_memory()

    def _load(self, engine: Engine, label: str) -> bool:
        """Let an engine answer one word, so that no other stage's time holds that of loading; measured once."""
        if self._loaded.get(id(engine)) is False:
            return False
        word = [Job(Prompt((Message("user", "Hello"),)))]
        if id(engine) in self._loaded:
            engine.generate(word, Sampling(max_tokens=1), None)
            return True
        with self._playing(f"load {label}") as played:
            engine.generate(word, Sampling(max_tokens=1), None)
        self._loaded[id(engine)] = not played.failed
        return not played.failed

    def _method(self, name: str, method: Method, task: Task) -> None:
        artifact = None
        if method.learns():
            artifact = self._fit(name, method, task.fit_on or task.name)
            if artifact is None:
                self.played.append(Played("estimate", task.name, name, why="not played: the fit failed"))
                return
        everyone = self.data[task.name].split("test")
        test = heaviest(everyone, self.examples)
        again = sum((each.method, each.task) == (name, task.name) for each in counterfactuals(self.plan))
        # With other pictures a run asks as often again, less the responses that are given.
        factor = (1 + again) * len(everyone) / len(test)
        with self._playing("estimate", task.name, name, factor) as played:
            self._load(self.plan.engine, "")
            teacher = self._judge(task, self.plan.teachers[task.name])
            found = estimated(method, task, test, self.model, teacher, artifact)
            if found.failed:
                raise PluginError(f"method {name!r} failed on an example: {next(iter(found.failed.values()))}")
            estimates = found.estimates
        if played.failed:
            return
        with self._playing("score", task.name, name, factor):
            scores = self._judge(task, self.plan.scorers[task.name])(test, [estimate.claims for estimate in estimates])
            qualities = [{}] * len(test) if self._is_blind(task) else self._qualities(task, test, estimates)
            self._record(name, task, test, estimates, scores, qualities, len(everyone) / len(test))

    def _fit(self, name: str, method: Method, task_name: str) -> Path | None:
        """Fit a method on a few examples and return its artifact, None where that failed."""
        if (name, task_name) in self._fits:
            return self._fits[name, task_name]
        for inner, each in method.parts().items() if isinstance(method, Composed) else ():
            if each.learns() and self._fit(inner, each, task_name) is None:
                self.played.append(Played("fit", task_name, name, why=f"not played: the fit of {inner} failed"))
                self._fits[name, task_name] = None
                return None
        task, loaded = self.plan.tasks[task_name], self.data[task_name]
        train, validation = loaded.split("train"), heaviest(loaded.split("validate"), self.examples)
        number = self._enough(method, task, train, validation)
        few = heaviest(train, number)
        whole = method.steps(task, train, loaded.split("validate"), ())
        part = method.steps(task, few, validation, ())
        learned = learning_steps(whole) / max(1, learning_steps(part))
        asked = asked_before_learning(whole) / (asked_before_learning(part) or 1) or learned
        folder = artifact_folder(self.folder, name, task_name)
        folder.mkdir(parents=True)
        with self._playing("fit", task_name, name, asked) as played:
            # Where more examples do not make more steps, they make longer ones: the epochs of a probe.
            played.steps_factor, played.step_factor = learned, asked if learned == 1 else 1.0
            self._load(self.plan.engine, "")
            judge = self._judge(task, self.plan.teachers[task.name])
            learn(self.plan, method, task, few, validation, self.model, judge, self.folder, folder)
        self._fits[name, task_name] = None if played.failed else folder
        return self._fits[name, task_name]

    def _enough(self, method: Method, task: Task, train: Sequence[Example], validation: Sequence[Example]) -> int:
        """Return how many training examples make the steps of a training that are wanted."""
        ordered = heaviest(train, len(train))
        sizes = range(min(self.examples, len(train)), len(train))
        wanted = min(self.steps, learning_steps(method.steps(task, train, validation, ())))

        def learned(number: int) -> int:
            return learning_steps(method.steps(task, ordered[:number], validation, ()))

        return sizes.start + bisect.bisect_left(sizes, wanted, key=learned)

    def _judge(self, task: Task, scorer: Scorer) -> Judge:
        """Return a scorer's judge; where it fails, scores stand in, so that what needs some is played all the same.

        The failure is noted once, where it happens.
        """
        real = make_judge(self.plan, scorer, task, self.model)

        def judge(examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
            if not self._is_blind(task):
                try:
                    with self.reporter.measure(f"score by {scorer.name}"):
                        return real(examples, claims)
                except StorageError:
                    raise
                except Exception as error:
                    self._let_go(error)
                    self._blind.add(task.name)
            return [[Score((i + k) % 11 / 10) for k in range(len(found))] for i, found in enumerate(claims)]

        return judge

    def _is_blind(self, task: Task) -> bool:
        """Tell whether a judge of the task cannot be used, loading it where that was not tried."""
        both = filter(None, (self.plan.scorers[task.name], self.plan.qualities.get(task.name)))
        for scorer in (one for each in both for one in single(each)):
            engine = self.plan.judges.get(scorer.name)
            if engine is not None and not self._load(engine, f"{engine.model} for {scorer.name}"):
                self._blind.add(task.name)
        return task.name in self._blind

    def _qualities(self, task: Task, test: Sequence[Example], estimates: Any) -> list[dict[str, float | None]]:
        if task.name not in self.plan.qualities:
            return [{} for _ in test]
        with self.reporter.measure(f"score by {self.plan.qualities[task.name].name}"):
            return response_qualities(self.plan, task, test, estimates, self.model)

    def _record(
        self, name: str, task: Task, test: Sequence[Example], estimates: Any, scores: Any, qualities: Any, factor: float
    ) -> None:
        """Write records as many as the run will have: those of the few examples, again and again under other ids."""
        from conrad_bench.records import record_rows, records_path, write_records

        rows = record_rows(name, task, test, estimates, scores, qualities, seed=chance_seed(self.plan.methods[name]))
        copies = range(max(1, round(factor)))
        again = [
            {**row, "example": f"{row['example']}-{i}", "cluster": f"{row['cluster']}-{i}"}
            for i in copies
            for row in rows
        ]
        write_records(records_path(self.folder, name, task.name), again)

    def _board(self) -> None:
        from conrad_bench.leaderboards.pages.outputs import write_leaderboard
        from conrad_bench.manifest import board_context

        if any((self.folder / "records").glob("*.parquet")):
            with self._playing("leaderboard"):
                write_leaderboard(self.folder, board_context(self.plan, self.data))
