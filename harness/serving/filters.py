"""What a page is asked for, as it stands in its address: which claims, in which order. An address can be passed on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

SORTS = {
    "gap": "largest gap first",
    "over": "most overconfident first",
    "under": "most underconfident first",
    "doubtful": "least confident first",
    "sure": "most confident first",
    "wrong": "least correct first",
    "right": "most correct first",
    "example": "by example",
}
"""Orders of the claims, the default first. The gap is |confidence - correctness|."""

NAMES = ("task", "method", "status")
"""Filters by a name."""
NUMBERS = ("confidence", "correctness")
"""Filters by a range."""


class WrongAddressError(Exception):
    """A part of an address that cannot be read; the message does not quote it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of subgroups and how it is asked for: one of its values, a range, or a part of a text."""

    name: str
    kind: Literal["choice", "range", "text"]
    choices: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in an address."""
        return (f"by.{self.name}.from", f"by.{self.name}.to") if self.kind == "range" else (f"by.{self.name}",)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters and order; those that are not there hold for every claim."""

    given: tuple[tuple[str, str], ...] = ()
    """Names and values of the filters that were set, in the order of `filter_names`."""
    sort: str = "gap"
    numbers: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    """Of these the ones that are numbers, read."""

    def text(self, name: str) -> str:
        """Return a filter's value, "" where it is not set."""
        return dict(self.given).get(name, "")

    def span(self, name: str) -> tuple[float, float]:
        """Return the ends of a range, infinite where they are not set."""
        found = dict(self.numbers)
        return found.get(f"{name}.from", -math.inf), found.get(f"{name}.to", math.inf)

    def query(self, **more: object) -> str:
        """Return the part of an address behind its "?", with `more` in front."""
        pairs = [(name, str(value)) for name, value in more.items()]
        return urlencode([*pairs, *self.given, *([("sort", self.sort)] if self.sort != "gap" else [])])


def filter_names(columns: Sequence[Column]) -> list[str]:
    """Return the names of all filters in an address."""
    ranges = [f"{name}.{end}" for name in NUMBERS for end in ("from", "to")]
    return [*NAMES, "example", *ranges, *(name for column in columns for name in column.parameters)]


def read_wanted(parameters: Mapping[str, str], columns: Sequence[Column]) -> Wanted:
    """Read filters and order from an address; what is empty or unknown is no filter. Raises WrongAddressError."""
    given = tuple((name, parameters[name]) for name in filter_names(columns) if parameters.get(name))
    numbers = tuple((name, _number(value)) for name, value in given if name.endswith((".from", ".to")))
    sort = parameters.get("sort") or "gap"
    if sort not in SORTS:
        raise WrongAddressError("there is no such order of the claims")
    return Wanted(given, sort, numbers)


def read_page(parameters: Mapping[str, str]) -> int:
    """Read the page's number, from 1. Raises WrongAddressError."""
    page = parameters.get("page") or "1"
    if not (page.isascii() and page.isdigit() and len(page) < 10 and int(page)):
        raise WrongAddressError("the page is no number")
    return int(page)


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise WrongAddressError("the end of a range is no number")
    return number
