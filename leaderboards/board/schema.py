"""The content of leaderboard.json as types: what is validated when it is written, and read.

`leaderboard.schema.json` beside this file is `Board.model_json_schema()`, for readers in other languages. A reader
should ignore keys that it does not know: rows may carry more in a later version of the same format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.inference.bootstrap import MOST_REPLICATES
from conrad_bench.storage import load_json

Share = float | None
"""A number in [0, 1], or null where it is undefined."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Interval(_Part):
    """A value with its 95 % interval; null where undefined."""

    value: float | None
    low: float | None
    high: float | None


class MetricInfo(_Part):
    """What a column shows."""

    name: str
    label: str
    better: Literal["lower", "higher", "zero"]
    range: tuple[float | None, float | None]
    source: str
    headline: bool = True
    """Whether it stands in the main tables."""
    summary: str = ""
    options: dict[str, Any] = {}


class OtherScorer(_Part):
    """A scorer beside that of the claims: of whole responses, or the one by which methods learned."""

    scorer: str
    label: str


class Pair(_Part):
    """A paired difference of two methods, a minus b."""

    metric: str
    a: str
    b: str
    n_units: int
    value: float | None
    low: float | None
    high: float | None
    se: float | None = None
    """Standard error; of the difference of squares for the calibration error."""
    p: float | None
    p_holm: float | None


class Comparisons(_Part):
    """All methods of a task against each other."""

    metrics: list[str]
    pairs: list[Pair]
    ranks: dict[str, dict[str, tuple[int, int]]] = {}
    """Metric -> method -> best and worst rank."""
    letters: dict[str, dict[str, str]] = {}
    """Metric -> method -> letters: methods that share one cannot be told apart."""


class TaskInfo(_Part):
    """What is common to the rows of a task."""

    scorer: str
    label: str
    quality: OtherScorer | None
    fitted_by: OtherScorer | None = None
    """By which methods learned, or compared samples, where it is another scorer than that of the table."""
    granularity: Literal["report", "sentence", "answer"]
    left_out: dict[str, int]
    n_clusters: int
    comparisons: Comparisons | None = None


class Collapse(_Part):
    """How many confidences there are in fact."""

    distinct: int
    entropy: float
    largest_mass: float


class Point(_Part):
    """A group of the reliability diagram."""

    group: int
    confidence: float
    correctness: Interval
    n: int


class Difference(_Part):
    """A method minus the baseline, on the units that both have."""

    baseline: str
    n_units: int
    metrics: dict[str, Interval]


class Threshold(_Part):
    """What is left when sentences below a confidence are set aside; null: all sentences."""

    confidence: float | None
    n: int
    share: Interval
    precision: Interval
    gain: Interval | None = None
    quality: Interval | None


class Flagging(_Part):
    """Flagging of sentences by confidence."""

    thresholds: list[Threshold]
    trend: Literal["rises", "falls", "flat", "never falls"] | None


class TokenInfo(_Part):
    """The probabilities of the eleven confidence answers."""

    n: int
    counts: list[int]
    matrix: list[list[Share]]
    measures: dict[str, Interval]


class CurvePoint(_Part):
    """Mean risk (1 - correctness) of the most confident share of the claims."""

    coverage: Share
    risk: Share


class WorkloadPoint(_Part):
    """The share of the responses that is read, least confident first, and the share of the errors that this catches."""

    read: Share
    caught: Share
    perfect: Share
    """What reading as much would catch if the responses with most errors came first."""


class Null(_Part):
    """The ECE of a perfectly calibrated method with the same confidences, and how likely it is to be this large."""

    mean: float
    low: float
    high: float
    p: float


class Seeds(_Part):
    """The training seeds whose mean a row is."""

    seeds: list[int]
    metrics: dict[str, list[float | None]]
    """The headline metrics of each seed."""


class Cost(_Part):
    """What an example takes if the method runs alone."""

    tokens_read: float = Field(ge=0)
    tokens_written: float = Field(ge=0)
    training_steps: float = Field(ge=0)
    """Steps of the method's training, as planned."""
    times: float | None
    """Tokens read and written, over those of the method `base`; null where the task has none."""


class Subgroup(_Part):
    """The claims that a row of `subgroups` is restricted to."""

    column: str
    value: str
    warning: str | None


class Row(_Part):
    """One method on one task."""

    task: str
    method: str
    n: int = Field(ge=0)
    n_clusters: int = Field(ge=0)
    effective_clusters: float | None = None
    """Kish's effective number of clusters."""
    warning: str | None = None
    """What to bear in mind where these are few."""
    claims: int = Field(ge=1)
    unparsed: dict[str, int]
    unparsed_rate: float = Field(ge=0, le=1)
    metrics: dict[str, Interval]
    """With `seeds`: means over them, and intervals that know how they differ."""
    seeds: Seeds | None = None
    judges: dict[str, float | None] | None = None
    """Where several judges scored, the mean correctness by each; `metrics` are of their mean, and intervals know how
    they differ."""
    readings: dict[str, int] | None = None
    thoughts: int | None = Field(default=None, ge=0)
    cost: Cost | None = None
    worst_case: dict[str, float | None] | None = None
    collapse: Collapse | None = None
    grouping: Literal["level", "bin"] | None = None
    reliability: list[Point] | None = None
    difference: Difference | None = None
    flagging: Flagging | None = None
    tokens: TokenInfo | None = None
    risk_coverage: list[CurvePoint] | None = None
    workload: list[WorkloadPoint] | None = None
    ece_null: Null | None = None
    ece_null_reason: str | None = None
    """Why there is no null band."""


class SubgroupRow(Row):
    """One method on a part of one task's examples."""

    subgroup: Subgroup


class SubgroupGap(_Part):
    """One method's best subgroup against its worst, in one metric; `value` is never negative."""

    task: str
    method: str
    column: str
    metric: str
    best: str
    worst: str
    n_subgroups: int
    """Number of subgroups that were compared."""
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    """Adjusted for the number of methods."""


class BetweenPair(Pair):
    """A paired difference of one method with two models, a minus b."""

    method: str


class BetweenModels(_Part):
    """One method of several models against each other, on one task."""

    task: str
    pairs: list[BetweenPair]


class Counterfactual(_Part):
    """What becomes of one method's confidences under other pictures (`board.counterfactuals`)."""

    task: str
    method: str
    replacement: str
    """"blank", "swapped", "noised-0.1", ..."""
    reading: Literal["anew", "given"]
    """anew: the method did all again. given: it judged the responses to the original pictures."""
    n: int = Field(ge=1)
    """Pairs: claims (given) or examples (anew), over all training seeds."""
    n_clusters: int = Field(ge=1)
    drop: Interval
    rises: Interval
    turned: int | None
    stayed: int | None
    """How many that were right are wrong, or still right, under the other pictures; null where nothing says so."""
    ccg_auc: Interval | None
    explained: Interval


class RunInfo(_Part):
    """A run that a merged leaderboard was made of."""

    name: str
    model: str
    version: str
    commit: str
    finished: bool


class Board(_Part):
    """leaderboard.json."""

    format: int
    title: str
    model: str
    data: str
    phantom: bool
    version: str
    commit: str
    seed: int = Field(ge=0)
    replicates: int = Field(ge=1, le=MOST_REPLICATES)
    unit: Literal["cluster", "claim"]
    baseline: str = "verbalized"
    runs: list[RunInfo] = []
    caveats: list[str] = []
    notes: list[str] = []
    methods: dict[str, str]
    variants: dict[str, str] = {}
    seeds: dict[str, tuple[str, int]] = {}
    """Name of records -> the row's name, and the training seed."""
    random: list[str] = []
    """Methods that learn or sample."""
    models: dict[str, tuple[str, str]] = {}
    """Boards of several models: key of `tasks` -> the task, and the model."""
    metrics: list[MetricInfo]
    tasks: dict[str, TaskInfo]
    rows: list[Row]
    between_models: list[BetweenModels] = []
    subgroups: list[SubgroupRow] = []
    subgroup_gaps: list[SubgroupGap] = []
    counterfactuals: list[Counterfactual] = []


def read_board(path: Path) -> dict[str, Any]:
    """Return the content of a leaderboard.json. Raises DataError, naming file and key, if it is none."""
    try:
        board = load_json(path)
        Board.model_validate(board)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(key) for key in first["loc"]) or "the whole file"
        raise DataError(f"{path}: {where}: {first['msg']}; write it anew with `conrad-bench leaderboard`") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON in UTF-8; write it anew with `conrad-bench leaderboard`") from error
    return dict(board)


def json_schema() -> str:
    """Return the text of leaderboard.schema.json."""
    return json.dumps(Board.model_json_schema(), indent=1, sort_keys=True) + "\n"
