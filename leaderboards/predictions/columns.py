"""Columns of predictions: what they may hold, and records made of them.

Needed are `confidence` and `correctness`, both in [0, 1]. As far as they are there: `method`, `task`, `example`,
`cluster` (or `patient`, `patient_id`, `subject_id`), `claim`, `status`, `seed`. Columns `judge:NAME` hold the scores of
several judges, whose mean is the correctness. Any other column is one of subgroups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.predictions.files import PLACE
from conrad_bench.records import COLUMNS, MEAN_TOLERANCE, RESERVED, judge_columns
from conrad_bench.registry import name_problem
from conrad_bench.seeds import seed_variant
from conrad_bench.types import STATUSES

if TYPE_CHECKING:
    import pandas as pd

UNNAMED_METHOD, UNNAMED_TASK = "predictions", "task"
_TRUE, _FALSE = ("true", "yes"), ("false", "no")
SCALES = (1, 10, 100)
PATIENTS = ("patient", "patient_id", "subject_id")
"""Names of a column of clusters, beside `cluster`."""


@dataclass(frozen=True)
class Predictions:
    """Predictions as records."""

    records: dict[tuple[str, str], pd.DataFrame]
    """As `records.read_records` returns them, by (task, method); a method with several seeds has one for each."""
    seeds: dict[str, tuple[str, int]] = field(default_factory=dict)
    """For records of one seed among several: the name of the method's row, and the seed."""
    clustered: bool = True
    """Whether a column said which patient (or image) an example is of."""
    several: frozenset[str] = frozenset()
    """Tasks whose examples have several claims."""


def long_form(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return a table with a row for each method, of one with a column of confidences for each.

    Raises ConfigError for a column that is not there.
    """
    import pandas as pd

    missing = [method for method in methods if method not in frame.columns]
    if missing:
        raise ConfigError(f"--wide: there is no column {missing[0]!r}; there are {', '.join(map(repr, frame.columns))}")
    if "confidence" in frame.columns or "method" in frame.columns:
        raise ConfigError("--wide is for tables without the columns method and confidence; leave it out")
    rest = frame.drop(columns=list(methods))
    return pd.concat([rest.assign(method=method, confidence=frame[method]) for method in methods], ignore_index=True)


def records_of(frame: pd.DataFrame, scale: int = 1) -> Predictions:
    """Return the records of a table of predictions; `scale` is what its confidences are out of (1, 10 or 100).

    Raises DataError, naming file, row and column, for what is no prediction.
    """
    frame = frame.copy()
    if PLACE not in frame:
        frame[PLACE] = [f"row {index}" for index in frame.index]
    patients = [name for name in PATIENTS if name in frame]
    if patients and "cluster" not in frame:
        frame = frame.rename(columns={patients[0]: "cluster"})
    by_judge = judge_columns(frame)
    if by_judge:
        frame = _judged(frame, by_judge)
    for name in ("confidence", "correctness"):
        if name not in frame:
            there = ", ".join(repr(column) for column in frame.columns if column != PLACE)
            raise DataError(
                f"there is no column {name!r} among {there}; name the one that holds it: --map {name}=COLUMN"
                + (", or --wide METHOD,METHOD for a column of confidences a method" * (name == "confidence"))
            )
    clustered = "cluster" in frame
    frame["status"] = as_texts(frame, "status", "ok")
    refuse(frame, "status", ~frame["status"].isin(STATUSES), f"is none of {', '.join(STATUSES)}")
    ok = frame["status"] == "ok"
    for name in ("confidence", "correctness"):
        frame[name] = as_numbers(frame, name)
    frame["confidence"] = _on_scale(frame, scale)
    outside = frame["correctness"].notna() & ~frame["correctness"].between(0, 1)
    refuse(frame, "correctness", outside, "is outside [0, 1]")
    for name in ("confidence", "correctness"):
        refuse(
            frame,
            name,
            ok & frame[name].isna(),
            "is missing; give the row a status that says why (no_confidence, empty, scorer_failed, ...), or drop it",
        )
    for name, stands_in in (("method", UNNAMED_METHOD), ("task", UNNAMED_TASK)):
        frame[name] = as_texts(frame, name, stands_in)
        refuse(
            frame,
            name,
            frame[name].map(lambda text: name_problem(text) is not None),
            "is no name: letters, digits and _ . + - only, at most 64; rename it",
        )
    if "claim" not in frame:
        frame["claim"] = 0
    frame["claim"] = _whole(frame, "claim")
    by = ["task", "method"]
    if "seed" in frame:
        seeded = frame["seed"].notna().groupby(frame["method"]).transform("any")
        refuse(frame, "seed", frame["seed"].isna() & seeded, "is empty, and other rows of the method have one")
        frame["seed"] = frame["seed"].where(seeded, 0)
        frame["seed"] = _whole(frame, "seed")
        by.append("seed")
    if "example" not in frame:
        frame["example"] = frame.groupby(by).cumcount().map("{:07d}".format)
    frame["example"] = as_texts(frame, "example", None)
    refuse(
        frame,
        "claim",
        frame.duplicated([*by, "example", "claim"]),
        "occurs twice for this method and example; number the claims of an example in a column `claim`",
    )
    frame["cluster"] = as_texts(frame, "cluster", None) if clustered else frame["example"]
    first = frame.groupby(["task", "example"])["cluster"].transform("first")
    refuse(frame, "cluster", frame["cluster"] != first, "is not the one that the example has in another row")
    frame["response"] = ""
    several = frame.groupby("task")["claim"].max()
    return Predictions(*_by_method(frame, by), clustered, frozenset(str(task) for task in several.index[several > 0]))


def _by_method(
    frame: pd.DataFrame, by: Sequence[str]
) -> tuple[dict[tuple[str, str], pd.DataFrame], dict[str, tuple[str, int]]]:
    """Return the records by (task, method), those of several seeds apart, and the row that each seed belongs to."""
    others = [str(c) for c in frame.columns if c not in (*COLUMNS, "seed", PLACE) and c not in RESERVED]
    columns = {name: _attribute(frame[name]) for name in others}
    frame = frame.assign(**columns)[[*COLUMNS, *columns, *([by[2]] if len(by) > 2 else [])]]
    numbers: Any = frame.groupby("method")["seed"].nunique() if "seed" in frame else {}
    records, seeds = {}, {}
    for key, part in frame.groupby(list(by), sort=True):
        task, method = str(key[0]), str(key[1])
        if len(by) > 2 and numbers[method] > 1:
            seed = int(str(key[2]))
            name = seed_variant(method, seed)
            seeds[name] = method, seed
            part, method = part.assign(method=name), name
        records[task, method] = part.drop(columns="seed", errors="ignore").reset_index(drop=True)
    return records, seeds


def _judged(frame: pd.DataFrame, by_judge: Sequence[str]) -> pd.DataFrame:
    """Return a table with the mean of the judges' scores as its correctness.

    Raises DataError for one judge alone, for scores outside [0, 1] and for a correctness that is another number.
    """
    if len(by_judge) < 2:
        raise DataError(f"{by_judge[0]!r} is the only judge's column; two are needed, or name it correctness")
    scores = {name: as_numbers(frame, name) for name in by_judge}
    for name, values in scores.items():
        refuse(frame, name, values.notna() & ~values.between(0, 1), "is outside [0, 1]")
    frame = frame.assign(**scores)
    mean = frame[list(by_judge)].mean(axis=1, skipna=False)
    if "correctness" in frame:
        given = as_numbers(frame, "correctness")
        wrong = given.notna() & ~((given - mean).abs() <= MEAN_TOLERANCE)
        refuse(frame, "correctness", wrong, f"is not the mean of {', '.join(by_judge)}; leave the column out")
        return frame
    status = frame["status"].where(frame["status"].notna(), "ok") if "status" in frame else "ok"
    frame = frame.assign(correctness=mean, status=status)
    frame.loc[mean.isna() & (frame["status"] == "ok"), "status"] = "scorer_failed"
    return frame


def as_texts(frame: pd.DataFrame, name: str, stands_in: str | None) -> pd.Series[Any]:
    """Return a column of names. Raises DataError for a missing one, unless `stands_in` takes its place."""
    import pandas as pd

    if name not in frame:
        assert stands_in is not None
        return pd.Series(stands_in, index=frame.index, dtype=object)
    values = frame[name]
    if stands_in is None or name in ("method", "task"):
        refuse(frame, name, values.isna(), "is missing")
    else:
        values = values.where(values.notna(), stands_in)
    if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
        values = values.astype("int64")  # what was whole before a missing value made it a float
    return values.astype(str)


def as_numbers(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column as numbers, "yes" and "true" as 1; a missing one is NaN. Raises DataError for anything else."""
    import pandas as pd

    values = frame[name]
    if pd.api.types.is_bool_dtype(values):
        return values.astype(float)
    words = values.map(lambda value: value.strip().lower() if isinstance(value, str) else value)
    words = words.map(lambda value: 1.0 if value in _TRUE else 0.0 if value in _FALSE else value)
    numbers = pd.to_numeric(words, errors="coerce").astype(float)
    wrong = values.notna() & (numbers.isna() | np.isinf(numbers)) & ~(values.map(_is_nan))
    refuse(frame, name, wrong, "is no number")
    return numbers


def _is_nan(value: object) -> bool:
    return (isinstance(value, float) and value != value) or (isinstance(value, str) and value.strip().lower() == "nan")


def _whole(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    numbers = as_numbers(frame, name)
    refuse(frame, name, numbers.isna() | (numbers < 0) | (numbers != numbers.round()), "is no whole number from 0")
    return numbers.astype("int64")


def _on_scale(frame: pd.DataFrame, scale: int) -> pd.Series[Any]:
    values = frame["confidence"]
    highest = values.max()
    advice = ""
    if scale == 1 and highest > 1:
        fitting = next((known for known in SCALES if highest <= known), None)
        advice = (
            f"; are they out of {fitting}? then add --scale {fitting} (scale={fitting} in Python)" if fitting else ""
        )
    refuse(frame, "confidence", values.notna() & ~values.between(0, scale), f"is outside [0, {scale}]{advice}")
    if scale > 1 and highest <= 1 and (values % 1 > 0).any():
        said = "all confidences are in [0, 1], and some are fractions; leave it out"
        raise DataError(f"--scale {scale} (scale={scale} in Python): {said}")
    return values / scale


def _attribute(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of subgroups as numbers where all of it is, else as texts."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce")
    if not pd.api.types.is_bool_dtype(values) and (numbers.notna() == values.notna()).all():
        return numbers.astype(float)
    return values.where(values.isna(), values.astype(str)).astype(object)


def refuse(frame: pd.DataFrame, name: str, wrong: Any, problem: str) -> None:
    """Raise DataError for the first row that is wrong; the value is shown where it is a number."""
    wrong = np.asarray(wrong, bool)
    if not wrong.any():
        return
    row = int(wrong.argmax())
    value = frame[name].iloc[row]
    try:
        shown = "" if value != value else f" {float(value):g}"
    except (TypeError, ValueError):
        shown = ""
    more = f" ({int(wrong.sum()):,} such rows)" if wrong.sum() > 1 else ""
    raise DataError(f"{frame[PLACE].iloc[row]}, column {name!r}:{shown} {problem}{more}")


def check_scale(scale: int) -> None:
    """Raise ConfigError for a scale that confidences are not given on."""
    if scale not in SCALES:
        raise ConfigError(f"--scale {scale}: confidences are out of {', '.join(map(str, SCALES[:-1]))} or {SCALES[-1]}")


def names_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return the mapping of `--map confidence=score`. Raises ConfigError for what is no such pair."""
    found: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise ConfigError(f"--map {pair}: write it as our name, =, your column: --map confidence=score")
        found[ours] = theirs
    return found
