"""What a method is checked in: a task with examples, an engine and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conrad_bench.contracts import checked_examples
from conrad_bench.engines.base import Engine
from conrad_bench.methods.base import Method
from conrad_bench.tasks.base import Scorer, Task
from conrad_bench.testing.toys import TASKS, ToyEngine, ToyScorer
from conrad_bench.types import TRAINING, Claim, Example, Granularity, Score, Split

SIZES: dict[Split, int] = {"train": 24, "validate": 8, "test": 12}
"""Examples of the embedded world that are used."""


@dataclass(frozen=True)
class Setting:
    """A task with its examples, an engine that answers, and a judge."""

    task: Task
    examples: list[Example]
    engine: Engine
    scorer: Scorer

    def judge(self, examples: Sequence[Example], claims: Sequence[Sequence[Claim]]) -> list[list[Score]]:
        """Return the correctness of claims by the scorer."""
        return [
            self.scorer.score([(example, claim) for claim in found], self.task.granularity)
            for example, found in zip(examples, claims, strict=True)
        ]


def setting_for(method: Method, granularity: Granularity) -> Setting:
    """Return toys, or the embedded model and world for a method that trains the model."""
    return embedded(granularity) if TRAINING in method.requirements() | method.needs else toys(granularity)


def toys(granularity: Granularity) -> Setting:
    """Return the toy task of a granularity, with the toy engine."""
    task = TASKS[granularity]()
    return Setting(task, checked_examples(task, task.load(Path()).examples), ToyEngine(model="toy"), ToyScorer())


def embedded(granularity: Granularity) -> Setting:
    """Return a few examples of the phantom world, with the embedded model."""
    from conrad_bench.config import PhantomOptions
    from conrad_bench.plan import embedded_model, phantom_root
    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry

    name = {"report": "mimic_report", "sentence": "mimic_sentence", "answer": "vqa_rad"}[granularity]
    registry = Registry()
    task = registry.create("tasks", name, {}).on_phantom_data()
    root = phantom_root(str(task.phantom_layout), PhantomOptions(studies=120), Reporter(quiet=True))
    loaded = task.load(root)
    examples = [example for split, number in SIZES.items() for example in loaded.split(split)[:number]]
    engine = registry.create("engines", "transformers", {"model": embedded_model(), "batch_size": 8})
    return Setting(task, checked_examples(task, examples), engine, registry.create("scorers", task.scorer, {}))
