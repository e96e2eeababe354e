"""The contracts of a task and of a scorer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from conrad_bench.reading.claims import answer_claim, report_claim, sentence_claims
from conrad_bench.types import Claim, Example, Granularity, Prompt, Response, Score, Split

if TYPE_CHECKING:
    from conrad_bench.rollouts.model import Model


class Scorer(BaseModel):
    """Correctness of claims against references. Its fields are its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    label: ClassVar[str]
    """The column's name in tables, for example "phantom-GREEN"."""
    granularities: ClassVar[frozenset[Granularity]] = frozenset({"report", "sentence", "answer"})
    """What it can judge: whole reports, sentences, answers."""

    def judge(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and options of the engine that runs the judge; None for a scorer that asks no model."""
        return None

    def check(self, examples: Sequence[Example]) -> None:
        """Raise DataError if references like these cannot be judged by this scorer."""

    def score(
        self, pairs: Sequence[tuple[Example, Claim]], granularity: Granularity, model: Model | None = None
    ) -> list[Score]:
        """Return the correctness of each claim; None with a reason where it cannot be judged.

        `model` is the judge where `judge` names one: it answers what it was asked before from the run's store.
        """
        raise NotImplementedError


class Task(BaseModel):
    """A source of examples, their prompts, and how a response splits into claims. Its fields are its options.

    Data belongs to a root folder in its official on-disk layout; `load` reads it once and remembers nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str] = ""
    granularity: ClassVar[Granularity]
    root_variable: ClassVar[str]
    """Environment variable that names the data root, for example MIMIC_CXR_ROOT."""
    default_root: ClassVar[Path | None] = None
    """The data root where none is configured."""
    data_licence: ClassVar[str | None] = None
    """Name of the licence of the data; weights that were learned on them are published only by who acknowledges it."""
    phantom_layout: ClassVar[str | None] = None
    """Layout of the phantom data that stands in when no root was configured, or None."""
    phantom_scorers: ClassVar[Mapping[str, str]] = {}
    """Default scorers that are for real data, and the one that takes each one's place on phantom data."""

    scorer: str
    """Name of the scorer that judges the claims."""
    quality: str | None = None
    """Name of the scorer of whole responses, where claims are parts of them: the quality beside the calibration."""
    fit_on: str | None = None
    """Name of the task whose examples methods are fitted on; None: this task's own. With another task's, this task is
    out of distribution and zero-shot."""

    fit_scorer: str | None = None
    """Name of the scorer by which methods learn and compare samples; None: `scorer`. Another one where `conrad-bench
    score` judged the claims anew."""

    limit: int | None = Field(default=None, ge=1)
    """Number of test examples, in place of the run's: a report has several sentences, a question one answer."""

    def hub_id(self) -> str | None:
        """Return the data set's id on the Hugging Face hub where the user asked for that source, else None."""
        return None

    def on_phantom_data(self) -> Self:
        """Return the task as phantom data are judged: by `phantom_scorers`, wherever no scorer was chosen."""
        chosen = {option: self.phantom_scorers.get(getattr(self, option)) for option in ("scorer", "quality")}
        unset = {option: name for option, name in chosen.items() if name and option not in self.model_fields_set}
        return self.model_copy(update=unset)

    def load(self, root: Path) -> Loaded:
        """Read every example below `root`. Raises DataError naming the file that is missing or wrong."""
        raise NotImplementedError

    def load_test(self, root: Path) -> Loaded:
        """Read what a run needs that learns nothing: the test examples, or more where they are not read faster."""
        return self.load(root)

    def data_options(self) -> Hashable:
        """Return what `load` depends on beside the root: tasks that agree in it have the same examples."""
        return self.name, repr(self)

    def indicated(self, indication: str) -> str:
        """Return the context of an example that has this indication and nothing else."""
        return indication

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the prompt of an example in an elicitation format (None: the response alone)."""
        raise NotImplementedError

    def claims(self, response: Response, elicit: str | None = None) -> list[Claim]:
        """Split a response into claims, with the stated confidences where the format has them.

        The whole report, each sentence, or the answer, by the task's granularity.
        """
        if self.granularity == "sentence":
            return sentence_claims(response, elicit)
        return [(report_claim if self.granularity == "report" else answer_claim)(response, elicit)]


class Loaded(BaseModel):
    """The examples of a task, and what was left out."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    examples: list[Example]
    left_out: Counter[str] = Counter()
    """Number of items that are not examples, by named reason (for example "no findings section")."""

    def split(self, split: Split) -> list[Example]:
        """Return the examples of one split, in the order of their ids."""
        return sorted((e for e in self.examples if e.split == split), key=lambda e: e.id)
