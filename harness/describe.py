"""What `conrad-bench describe NAME` says: summary, source, needs, options and cost of whatever has the name."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from conrad_bench.compositions import composition_problems
from conrad_bench.config import SECTIONS
from conrad_bench.errors import ConfigError
from conrad_bench.methods.base import Method
from conrad_bench.methods.recalibrated import Ensemble
from conrad_bench.options import Option, options
from conrad_bench.registry import BUILT_IN, KINDS, Kind, Registry, unknown
from conrad_bench.testing.toys import TASKS
from conrad_bench.trainers import recalibrators
from conrad_bench.types import Example, Split
from conrad_bench.variants import ENSEMBLE, parts_of


@dataclass(frozen=True)
class Description:
    """What is told of one name of one kind."""

    name: str
    kind: str
    """"method", "task", "scorer", "engine", "metric", "recalibrator" or "section"."""
    summary: str
    facts: list[tuple[str, str]]
    """(what, sentence), in the order in which they are told."""
    options: list[Option]


def describe(name: str, registry: Registry) -> list[Description]:
    """Return what there is of a name: plugins, their variants, members of families, recalibrators, sections.

    "probe+platt" is described by its two parts, an ensemble by its own. Raises ConfigError for a name that nothing has,
    with the nearest.
    """
    learner, plus, recalibrator = name.partition("+")
    if (plus or name.startswith(ENSEMBLE)) and name not in {each for kind in KINDS for each in registry.names(kind)}:
        for problem in composition_problems(name):
            raise ConfigError(problem)
        whole = [_ensemble()] if learner.startswith(ENSEMBLE) else []
        mapped = [_recalibrator(recalibrator.partition(":")[0])] if plus else []
        return [*whole, *(found for part in parts_of(name) for found in describe(part, registry)), *mapped]
    found = [_plugin(kind, name, registry) for kind in registry.kinds(name)]
    found += [_recalibrator(kind) for kind in recalibrators.ABOUT if kind == name]
    found += [_ensemble()] if name == Ensemble.name else []
    if name in SECTIONS:
        text = inspect.cleandoc(SECTIONS[name].__doc__ or "").partition(": ")[2].rstrip(".")
        found.append(Description(name, "section", text, [], options(SECTIONS[name])))
    if not found:
        names = {each for kind in KINDS for each in registry.names(kind)} | {*recalibrators.ABOUT, *SECTIONS}
        raise ConfigError(unknown("name", name, sorted(names)))
    return found


def _plugin(kind: Kind, name: str, registry: Registry) -> Description:
    cls = registry.get(kind, name)
    facts = list(_FACTS[kind](cls))
    if getattr(cls, "source", ""):
        facts.append(("source", cls.source))
    origin, file = _origin(kind, name, registry), _file(cls)
    same = file is None or Path(origin).resolve() == file
    facts.append(("from", origin if same else f"{origin}, {file}"))
    return Description(name, kind[:-1], " ".join(cls.summary.split()), facts, options(cls))


def _ensemble() -> Description:
    facts = [
        ("used as", f"{ENSEMBLE}A,B, such as {ENSEMBLE}msp,p_true; the last of --methods"),
        ("needs", "validation examples with a confidence by each method and a correctness"),
        ("cost", "the methods' own, on validation examples too, 3000 at the most; answers that are there are used"),
        ("source", Ensemble.source),
        ("from", f"{BUILT_IN}, {_file(Ensemble)}"),
    ]
    return Description(Ensemble.name, "ensemble", Ensemble.summary, facts, [])


def _recalibrator(kind: str) -> Description:
    about = recalibrators.ABOUT[kind]
    hac = kind == recalibrators.HAC
    used = f"{kind}:SECOND, such as verbalized+{kind}:vase" if hac else f"{kind}, such as verbalized+{kind}"
    facts = [
        ("used as", f"METHOD+{used}"),
        ("needs", "validation examples with a confidence and a correctness"),
        ("cost", "the method's own on validation examples, 3000 at the most; answers that are there are used"),
        ("source", about.source),
        ("from", f"{BUILT_IN}, {_file(recalibrators.About)}"),
    ]
    return Description(kind, "recalibrator", about.summary, facts, [])


def _origin(kind: Kind, name: str, registry: Registry) -> str:
    """Return where the plugin behind a name comes from, be it a variant or one of a family."""
    names = registry.names(kind)
    while name not in names:
        name = name[: max(name.rfind("."), name.rfind(":"))]
    return registry.origin(kind, name)


def _file(cls: type[Any]) -> Path | None:
    """Return the file of a class; None for one that was made without."""
    described = getattr(cls, "source_file", None)  # a csv task is made of its YAML file
    if isinstance(described, Path):
        return described.resolve()
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (OSError, TypeError):
        return None


def _listed(words: frozenset[str] | Sequence[str]) -> str:
    return ", ".join(sorted(words)) or "nothing"


def _method(cls: type[Method]) -> Iterator[tuple[str, str]]:
    yield "needs", _listed(cls.needs)
    yield "claims", _listed(cls.granularities)
    for sentence in cost(cls):
        yield "cost", sentence


def _task(cls: Any) -> Iterator[tuple[str, str]]:
    yield "claims", cls.granularity
    yield "data", f"--data-root {cls.name}=DIR, or ${cls.root_variable}"
    yield "licence of the data", cls.data_licence or "not said"
    phantom = f"in the layout {cls.phantom_layout}" if cls.phantom_layout else "none: it needs a data root"
    yield "phantom data", phantom
    for real, other in sorted(cls.phantom_scorers.items()):
        yield "phantom scorer", f"{other} in the place of {real}"


def _scorer(cls: Any) -> Iterator[tuple[str, str]]:
    yield "column", cls.label
    yield "claims", _listed(cls.granularities)


def _engine(cls: Any) -> Iterator[tuple[str, str]]:
    yield "provides", _listed(cls.provides)


def _metric(cls: Any) -> Iterator[tuple[str, str]]:
    yield "column", f"{cls.label}, in the main table" if cls.headline else cls.label
    yield "range", f"{cls.range[0]:g} to {cls.range[1]:g}, {cls.better} is better"
    yield "needs", "correctness" if not cls.confidence else "confidence and correctness"
    if cls.binary:
        yield "only where", "every correctness is 0 or 1"


_FACTS: dict[Kind, Any] = {
    "methods": _method,
    "tasks": _task,
    "scorers": _scorer,
    "engines": _engine,
    "metrics": _metric,
}

_SPLITS: dict[Split, str] = {"test": "test", "train": "training", "validate": "validation"}
_WORK = {
    "generate": ("generation", "generations"),
    "state": ("stated confidence by the adapter", "stated confidences by the adapter"),
    "score": ("scoring of given answers", "scorings of given answers"),
    "read again": ("reading of a response's tokens", "readings of a response's tokens"),
    "read hidden states": ("reading of hidden states", "readings of hidden states"),
}


def cost(cls: type[Method]) -> list[str]:
    """Return what a method with its defaults asks of the engine for each example of a split, a sentence each.

    It is read off the steps that it plans for a task of toys, once with all its examples and once with half of those
    of a split. Sentences name the granularities that they hold for, unless all of them cost the same.
    """
    by_cost: dict[tuple[str, ...], list[str]] = {}
    for granularity in sorted(cls.granularities):
        try:
            method = cls()
            if method.problem(granularity) is not None:
                continue
            found = _cost(method, TASKS[granularity]())
        except ValidationError:
            found = ("cannot be told: an option has no default",)
        except Exception as error:  # the plugin's own code
            found = (f"cannot be told: its steps raised {type(error).__name__}",)
        by_cost.setdefault(found, []).append(granularity)
    return [
        sentence if len(by_cost) == 1 else f"{sentence} ({', '.join(granularities)})"
        for found, granularities in by_cost.items()
        for sentence in found
    ]


def _cost(method: Method, task: Any) -> tuple[str, ...]:
    loaded = task.load(Path())
    splits: dict[Split, list[Example]] = {split: loaded.split(split) for split in ("train", "validate", "test")}

    def planned(of: dict[Split, list[Example]]) -> Counter[str]:
        asked: Counter[str] = Counter()
        for step in method.steps(task, of["train"], of["validate"], of["test"]):
            asked[step.action] += step.count
        return asked

    everything = planned(splits)
    if not everything:
        return ("not known: the method plans no steps",)
    parts = []
    for split, word in _SPLITS.items():
        half = splits[split][: len(splits[split]) // 2]
        fewer = planned({**splits, split: half})
        left_out = len(splits[split]) - len(half)
        each = {action: (everything[action] - fewer[action]) / left_out for action in _WORK}
        work = [f"{number:g} {_WORK[action][number > 1]}" for action, number in each.items() if number > 0]
        if work:
            parts.append(f"{', '.join(work)} for each {word} example")
    return tuple(parts) or ("no generations",)
