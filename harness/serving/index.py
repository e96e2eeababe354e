"""The claims of a run in memory, read once, and what filters and orders make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from conrad_bench.records import reserved
from conrad_bench.serving.filters import NAMES, NUMBERS, Column, Wanted
from conrad_bench.serving.marks import Judged

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_MOST_CHOICES = 40
"""A column of texts with more of them is asked for by a part of a text."""
_FEW = 10
"""A column of numbers is asked for by a range, unless it holds so few, all whole, as codes or scores of a form are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A method's response to an example, as the records have it."""

    method: str
    response: str
    """Key of the rollout."""
    claims: tuple[Judged, ...]
    quality: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """What is left of the claims, in order."""

    rows: np.ndarray[Any, Any]
    """Rows of claims."""
    items: np.ndarray[Any, Any]
    """Their examples, each once."""


class Index:
    """Claims in the order of task, example, method and place. An *item* is an example of a task, by its number."""

    def __init__(self, records: pd.DataFrame) -> None:
        """Take records with their texts, as `Run.responses` returns them."""
        texts = records.drop_duplicates("response")
        self.texts: Mapping[str, str] = {
            str(key): text for key, text in zip(texts["response"], texts["text"], strict=True) if isinstance(text, str)
        }
        frame = records.drop(columns="text")
        frame = frame.assign(item=frame.groupby(["task", "example"]).ngroup())
        frame = frame.sort_values(["item", "method", "claim"], kind="stable", ignore_index=True)
        self.frame = frame
        self.starts = frame["item"].searchsorted(range(int(frame["item"].iloc[-1]) + 2))
        firsts = frame.iloc[self.starts[:-1]]
        self.items = list(zip(firsts["task"].astype(str), firsts["example"].astype(str), strict=True))
        """Task and id of each example."""
        self.numbers = {item: number for number, item in enumerate(self.items)}
        self.choices = {name: sorted({str(value) for value in frame[name].unique()}) for name in NAMES}
        self._codes = {name: _codes(frame[name], self.choices[name]) for name in NAMES}
        attributes = [str(column) for column in frame if not reserved(str(column)) and column != "item"]
        self.columns = [_column(name, frame[name]) for name in attributes if frame[name].notna().any()]
        self._values = {name: frame[name].to_numpy() for name in NUMBERS}
        self._qualities = frame["quality"].to_numpy() if "quality" in frame else None
        self._claims = frame["claim"].to_numpy()
        self._ids = frame["example"].astype("category")
        self._attributes: dict[str, pd.Series[Any]] = {
            column.name: frame[column.name]
            if column.kind == "range"
            else frame[column.name].map(_shown, na_action="ignore").astype("category")
            for column in self.columns
        }
        self.find = lru_cache(16)(self._find)
        """Return what a `Wanted` leaves of the claims."""

    def answers(self, item: int) -> list[Answer]:
        """Return the responses to an example, one a method."""
        claims: dict[str, list[Judged]] = {}
        firsts: dict[str, int] = {}
        for row in range(self.starts[item], self.starts[item + 1]):
            method, status = (self.choices[name][self._codes[name][row]] for name in ("method", "status"))
            confidence, correctness = (_known(self._values[name][row]) for name in NUMBERS)
            firsts.setdefault(method, row)
            claims.setdefault(method, []).append(Judged(int(self._claims[row]), confidence, correctness, status))
        responses, qualities = self.frame["response"], self._qualities
        return [
            Answer(
                method,
                str(responses.iat[row]),
                tuple(claims[method]),
                None if qualities is None else _known(qualities[row]),
            )
            for method, row in firsts.items()
        ]

    def attributes(self, item: int) -> dict[str, str]:
        """Return the subgroup columns of an example, without those that say nothing of it."""
        row = self.frame.iloc[self.starts[item]]
        there = {column.name: row[column.name] for column in self.columns}
        return {name: _shown(value) for name, value in there.items() if value == value and value is not None}

    def cluster(self, item: int) -> str:
        """Return the patient (or image) of an example."""
        return str(self.frame["cluster"].iloc[self.starts[item]])

    def clusters(self, task: str) -> dict[str, str]:
        """Return the patient (or image) of each example of a task."""
        part = self.frame[self.frame["task"] == task].drop_duplicates("example")
        return dict(zip(part["example"].astype(str), part["cluster"].astype(str), strict=True))

    def _find(self, wanted: Wanted) -> Found:
        import numpy as np

        left = np.ones(len(self.frame), bool)
        for name in NAMES:
            if value := wanted.text(name):
                left &= self._codes[name] == (self.choices[name].index(value) if value in self.choices[name] else -1)
        if part := wanted.text("example"):
            left &= _holds(self._ids, part)
        for name in NUMBERS:
            left &= _within(self._values[name], *wanted.span(name))
        for column in self.columns:
            values = self._attributes[column.name]
            if column.kind == "range":
                left &= _within(values.to_numpy(), *wanted.span(f"by.{column.name}"))
            elif value := wanted.text(f"by.{column.name}"):
                left &= _holds(values, value) if column.kind == "text" else values.eq(value).to_numpy()
        rows = np.flatnonzero(left)
        rows = rows[np.argsort(self._keys(wanted.sort)[rows], kind="stable")]  # unknown values come last
        items = self.frame["item"].to_numpy()[rows]
        _, first = np.unique(items, return_index=True)
        return Found(rows, items[np.sort(first)])

    def _keys(self, sort: str) -> np.ndarray[Any, Any]:
        """Return a number for each claim; the smallest is the first."""
        import numpy as np

        confidence, correctness = self._values["confidence"], self._values["correctness"]
        if sort == "example":
            return np.arange(len(self.frame))
        if sort in ("gap", "over", "under"):
            over = confidence - correctness
            found = {"gap": -np.abs(over), "over": -over, "under": over}[sort]
        else:
            found = {"doubtful": confidence, "sure": -confidence, "wrong": correctness, "right": -correctness}[sort]
        return np.asarray(found)


def _codes(values: pd.Series[Any], names: list[str]) -> np.ndarray[Any, Any]:
    """Return the place of each value among the names."""
    import pandas as pd

    return pd.Categorical(values, names).codes


def _column(name: str, values: pd.Series[Any]) -> Column:
    import pandas as pd

    different = values.dropna().unique()
    if pd.api.types.is_numeric_dtype(values):
        if len(different) > _FEW or any(value != int(value) for value in different):
            return Column(name, "range")
    elif len(different) > _MOST_CHOICES:
        return Column(name, "text")
    return Column(name, "choice", tuple(_shown(value) for value in sorted(different)))


def _within(values: np.ndarray[Any, Any], low: float, high: float) -> Any:
    """Tell which values lie in a range; unknown ones lie in one without ends alone."""
    import numpy as np

    if low == -np.inf and high == np.inf:
        return True
    return (values >= low) & (values <= high)


def _holds(values: pd.Series[Any], part: str) -> Any:
    """Tell which texts of a categorical column hold a part, in letters of either case."""
    import numpy as np

    holds = [part.casefold() in str(value).casefold() for value in values.cat.categories]
    return np.array([*holds, False])[values.cat.codes.to_numpy()]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _known(value: Any) -> float | None:
    return float(value) if value == value and value is not None else None
