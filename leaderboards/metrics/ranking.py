"""Claims in the order of a key, and sums over them under resampling weights, block by block.

Metrics of order need sums by distinct confidence, and running sums down to each of them, in every replicate. Those of
all claims and replicates together would be far larger than the processor's cache, so they are made and used up in
blocks of levels, and every sum that is wanted of an order is taken on one way through its blocks (`Ranking.fold`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DENSE = 2
"""Up to this many pairs of a unit and a level for each claim, the matrix of their sums is dense, above it is sparse."""
_TIED = 16
"""Where levels have fewer claims than this on average, there is no matrix: claims are gathered one by one."""
_BLOCK_CELLS = 2**15
"""Numbers in each array of a block: 256 KiB, so that several of them lie within a core's cache."""


@dataclass(frozen=True)
class Levels:
    """Sums under weights at consecutive distinct values of a key, the highest first; each of shape (levels, replicates)
    but for `before`.
    """

    claims: FloatArray
    """Claims at the level."""
    correct: FloatArray
    """Sum of their correctness."""
    through: FloatArray
    """Claims at this level and all higher ones, those of earlier blocks included."""
    correct_through: FloatArray
    """Sum of their correctness."""
    before: FloatArray
    """Claims above the first level of the block (replicates,)."""
    most: int
    """The largest number of claims in any replicate."""

    @cached_property
    def above(self) -> FloatArray:
        """Claims above the level."""
        return self.through - self.claims

    @cached_property
    def loss(self) -> FloatArray:
        """Sum of the risks, 1 - correctness, of the claims at the level."""
        return self.claims - self.correct


Term = Callable[[Levels], FloatArray]
"""What a block of levels adds to a fold, (replicates,)."""


class Ranking:
    """Claims in falling order of a key (n,), those with one key tied. They are given in rising order of their units."""

    def __init__(self, key: FloatArray, correctness: FloatArray, unit: IntArray, units: int) -> None:
        keys = rank_keys(key)
        self.order = np.argsort(-keys, kind="stable")
        keys = keys[self.order]
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        self.level = np.cumsum(first) - 1
        """Level of each claim in this order, from 0 for the highest key, shape (n,)."""
        self.size = int(first.sum())
        """Number of levels."""
        self._count = np.bincount(unit, minlength=units).astype(np.float64)
        self._cells: tuple[Any, ...] | None = None
        """Claims and their summed correctness, each of shape (levels, units), where levels are few."""
        terms, shape = (np.ones(len(keys)), correctness), (self.size, units)
        if self.size * units <= _DENSE * len(keys):
            cell = self.rows() * units + unit
            self._cells = tuple(np.bincount(cell, term, self.size * units).reshape(shape) for term in terms)
        elif _TIED * self.size <= len(keys):
            from scipy.sparse import csc_array

            # By unit: weights are read in their order, and the sums of the few levels stay in the cache.
            level, unit_starts = self.rows().astype(np.int32), np.searchsorted(unit, np.arange(units + 1))
            self._cells = tuple(csc_array((term, level, unit_starts), shape) for term in terms)
        else:
            self._unit, self._correctness = unit[self.order], correctness[self.order]
            self._ends = np.flatnonzero(np.append(first[1:], True))
        # Sums live as long as the statistics that hold them; those that nobody holds any more are not computed.
        self._folds: WeakValueDictionary[Term, Fold] = WeakValueDictionary()
        self._last: tuple[FloatArray, dict[Term, FloatArray]] | None = None

    def blocks(self, weights: FloatArray) -> Iterator[Levels]:
        """Yield the sums by level under weights (replicates, units), the highest levels first."""
        most, before = int((weights @ self._count).max(initial=0)), np.zeros(len(weights))
        for (claims, through), (correct, correct_through) in self._sums(weights, 2):
            yield Levels(claims, correct, through, correct_through, before, most)
            before = through[-1]

    def _sums(self, weights: FloatArray, terms: int) -> Iterator[list[tuple[FloatArray, FloatArray]]]:
        """Yield sums by level and running sums for blocks of levels: of claims, and (with 2 terms) of correctness."""
        if self._cells is not None:
            # Replicates lie next to each other, so that every step runs along whole rows.
            columns = np.ascontiguousarray(weights.T)
            sums = [cells @ columns for cells in self._cells[:terms]]
            if self.size:
                yield [(each, np.cumsum(each, axis=0)) for each in sums]
            return
        copies = by_unit(weights)
        running = [np.zeros(len(weights))] * terms  # down to the last claim
        before = running  # down to the last level
        cut = False  # whether that level goes on
        for part in parts(len(self._unit), len(weights)):
            count = copies.take(self._unit[part], axis=0).astype(np.float64)
            own = [count, count * self._correctness[part, None]] if terms == 2 else [count]
            through = [np.cumsum(each, axis=0) for each in own]
            for each, start in zip(through, running, strict=True):
                each += start
            running = [each[-1] for each in through]
            ends = self._ends[slice(*np.searchsorted(self._ends, (part.start, part.stop)))] - part.start
            tied = cut or len(ends) < len(count)
            cut = not len(ends) or bool(ends[-1] < len(count) - 1)
            if not len(ends):
                continue
            if tied:
                through = [each.take(ends, axis=0) for each in through]
                own = [np.diff(each, axis=0, prepend=start[None]) for each, start in zip(through, before, strict=True)]
            yield list(zip(own, through, strict=True))
            before = [each[-1] for each in through]

    def rows(self) -> IntArray:
        """Return the level of each claim in the order in which the claims were given, shape (n,)."""
        level = np.empty_like(self.level)
        level[self.order] = self.level
        return level

    def sums(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the claims of each level and the sum of their correctness, each of shape (levels, replicates)."""
        claims, correct = (np.empty((self.size, len(weights))) for _ in range(2))
        done = 0
        for block in self.blocks(weights):
            rows = slice(done, done + len(block.claims))
            claims[rows], correct[rows] = block.claims, block.correct
            done = rows.stop
        return claims, correct

    def ranks(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the mean rank of each level's claims less that of all claims, and the sum of its squares over claims.

        Of shapes (levels, replicates) and (replicates,), under weights (replicates, units).
        """
        middle = weights @ self._count / 2
        ranks, spread, done = np.empty((self.size, len(weights))), np.zeros(len(weights)), 0
        for ((claims, through),) in self._sums(weights, 1):
            rank = ranks[done : done + len(claims)]
            np.subtract(through, claims / 2, out=rank)
            rank -= middle
            spread += np.einsum("ij,ij,ij->j", claims, rank, rank)
            done += len(rank)
        return ranks, spread

    def fold(self, term: Term, combine: np.ufunc = np.add) -> Fold:
        """Return the sum (or by `combine`, the maximum) of a term over blocks as a function of weights.

        All folds of a ranking are computed together, when the first of them is asked for under new weights. They are
        known by their terms, so a term that several metrics want should be one function.
        """
        fold = self._folds.get(term)
        if fold is None:
            fold = self._folds[term] = Fold(self, term, combine)
        return fold

    def folded(self, fold: Fold, weights: FloatArray) -> FloatArray:
        """Return a fold under weights (replicates, units), and keep all others for the same weights."""
        if self._last is None or self._last[0] is not weights:
            self._last = weights, {}
        found = self._last[1]
        if fold.term not in found:
            wanted = [each for each in self._folds.values() if each.term not in found]
            found |= {each.term: np.zeros(len(weights)) for each in wanted}
            for block in self.blocks(weights):
                for each in wanted:
                    each.combine(found[each.term], each.term(block), out=found[each.term])
        return found[fold.term]


@dataclass(frozen=True, eq=False)
class Fold:
    """A sum over the levels of a ranking, as a function of weights (replicates, units), which must not change."""

    ranking: Ranking
    term: Term
    combine: np.ufunc

    def __call__(self, weights: FloatArray) -> FloatArray:
        """Return the fold in each replicate (replicates,)."""
        return self.ranking.folded(self, weights)


def by_unit(weights: FloatArray) -> NDArray[np.unsignedinteger[Any]]:
    """Return weights (replicates, units) as (units, replicates), of the smallest type that holds them.

    Claims that are not in the order of their units read it here and there, so it should be small.
    """
    return weights.T.astype(np.min_scalar_type(int(weights.max(initial=0))), order="C")


def parts(claims: int, replicates: int) -> Iterator[slice]:
    """Yield the slices of `claims` claims whose weights in `replicates` replicates fit into the cache."""
    step = max(1, _BLOCK_CELLS // max(replicates, 1))
    for start in range(0, claims, step):
        yield slice(start, min(start + step, claims))


def rank_keys(values: FloatArray) -> FloatArray:
    """Return values (n,) to twelve significant digits: 3 * 0.1 ties with 0.3, and 1e-30 does not tie with 0."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40))
