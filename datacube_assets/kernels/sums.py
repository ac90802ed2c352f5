"""Sums that do not depend on the order of what is added.

Floating-point addition is not associative, so the same rows in another order, or in other shards, would
give other last digits. Here every number is cut at fixed powers of two into slices of 27 bits; slices of
the three highest places that matter in a group are added as integers, which is exact, and the total is
rounded once. That is the binned summation of Demmel, Ahrens and Nguyen ("Efficient reproducible floating
point summation and BLAS", 2016). At least 53 bits from the largest number of a group down are kept, so a
number alone is its own sum, and a sum is at least as accurate as one added up in any order.

Only adding belongs here; which rows are a group is decided in `groups.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from datacube_assets.kernels.groups import Floats, Groups, Ints

WIDTH = 27
"""Bits of a slice."""
SLICES = 3
_LOWEST, _SPECIAL = -39, 1000
"""Lowest place, below which floats end, and that of a group with infinity or NaN."""
_LOWEST_POWER = -37
"""Lowest place whose unit and its inverse are normal floats."""
_BLOCK_ROWS = 1 << 15
"""Rows cut at a time: temporaries stay in the processor's cache."""
_ROUND = tuple(1.5 * 2.0 ** (52 - WIDTH * i) for i in range(SLICES))
"""Adding and subtracting one of these rounds to a multiple of the slice's unit."""
_UNITS = tuple(2.0 ** (WIDTH * i) for i in range(SLICES))
_SUFFIXES = ("#place", *(f"#{i}" for i in range(SLICES)))


@dataclass(frozen=True)
class ExactSums:
    """The sums of one column over groups, not rounded yet."""

    place: Ints
    """Which power of 2**27 the first slice of each group counts: shape (groups,)."""
    slices: tuple[Ints, ...]
    """Slices from the highest down, each of shape (groups,)."""

    @classmethod
    def of(cls, values: Floats, groups: Groups) -> ExactSums:
        """The sums of a float column within each group of its rows.

        A group may have 2**27 rows; merged groups may add up to 2**37.
        """
        arranged = cast(Floats, groups.arrange(values))
        count = len(groups)
        place = np.full(count, _LOWEST, np.int64)
        slices = tuple(np.zeros(count, np.int64) for _ in range(SLICES))
        if not count:
            return cls(place, slices)
        bounds = np.append(groups.starts, groups.rows)
        finite = bool(np.isfinite(arranged).all())
        special = None if finite else _special(arranged, groups.starts)
        if special is not None:
            arranged = np.where(np.isfinite(arranged), arranged, 0.0)
        first = 0
        while first < count:
            # As many whole groups as fit a block, one at least.
            last = int(np.searchsorted(bounds, bounds[first] + _BLOCK_ROWS, side="right")) - 1
            last = min(max(last, first + 1), count)
            rows = arranged[bounds[first] : bounds[last]]
            starts = bounds[first:last] - bounds[first]
            sizes = np.diff(bounds[first : last + 1])
            place[first:last] = _cut(rows, starts, sizes, [one[first:last] for one in slices])
            first = last
        if special is not None:
            positive, negative = special
            there = (positive > 0) | (negative > 0)
            place[there] = _SPECIAL
            for one, counted in zip(slices, (positive, negative, np.zeros_like(positive)), strict=True):
                one[there] = counted[there]
        return cls(place, slices)

    def merge(self, groups: Groups) -> ExactSums:
        """The sums of groups of groups: what adding all their numbers at once would give."""
        if not len(groups):
            return ExactSums(self.place[:0], tuple(one[:0] for one in self.slices))
        place = cast(Ints, groups.arrange(self.place))
        highest = np.maximum.reduceat(place, groups.starts)
        parts = [cast(Ints, groups.arrange(one)) for one in self.slices]
        drop = np.repeat(highest, groups.sizes) - place
        if drop.any():
            # A group of lower place starts further down; what falls off the end counts for nothing.
            parts = [
                np.sum([np.where(drop == j, parts[i - j], 0) for j in range(i + 1)], axis=0)
                for i in range(SLICES)
            ]
        return ExactSums(highest, tuple(np.add.reduceat(one, groups.starts) for one in parts))

    def values(self) -> Floats:
        """The sums as floats, rounded once; infinite or NaN where any number was or the sum is too large."""
        total = np.zeros(len(self.place))
        for one, unit in zip(reversed(self.slices), reversed(_UNITS), strict=True):
            total += one / unit
        place = np.minimum(self.place, -_LOWEST)
        low = place < _LOWEST_POWER
        with np.errstate(over="ignore", under="ignore"):
            rounded: Floats = total * _power(np.where(low, place + 2, place))
            rounded[low] *= 2.0 ** (-2 * WIDTH)
        special = self.place == _SPECIAL
        if special.any():
            positive, negative = self.slices[0] > 0, self.slices[1] > 0
            rounded[special & positive] = np.inf
            rounded[special & negative] = -np.inf
            rounded[special & positive & negative] = np.nan
        return rounded

    def columns(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The sums as columns of a table of partial results."""
        return {
            f"{name}{suffix}": values
            for suffix, values in zip(_SUFFIXES, (self.place, *self.slices), strict=True)
        }

    @classmethod
    def from_columns(cls, name: str, columns: Mapping[str, npt.NDArray[Any]]) -> ExactSums:
        """The sums that `columns` wrote."""
        place, *slices = (cast(Ints, columns[f"{name}{suffix}"]) for suffix in _SUFFIXES)
        return cls(place, tuple(slices))


def _special(values: Floats, starts: npt.NDArray[np.intp]) -> tuple[Ints, Ints]:
    """How many numbers of each group push it to infinity and to minus infinity; NaN does both."""
    missing = np.isnan(values)
    positive = (missing | (values == np.inf)).astype(np.int64)
    negative = (missing | (values == -np.inf)).astype(np.int64)
    return np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)


def _cut(rows: Floats, starts: npt.NDArray[np.intp], sizes: Ints, slices: list[Ints]) -> Ints:
    """Cut the numbers of whole groups into slices and add these up; returns the place of each group."""
    largest = np.maximum.reduceat(np.abs(rows), starts)
    # Bits of the exponent; every number is below 2**(bits - 1022).
    exponent = (largest.view(np.int64) >> 52) - 1022
    # Numbers up to half a unit of the place above round to nothing there, so that a number's slices are
    # the same in whatever company it is added.
    place: Ints = np.maximum((exponent + WIDTH) // WIDTH - 1, _LOWEST)
    low = place < _LOWEST_POWER
    rest = rows * np.repeat(_power(np.where(low, -2 - place, -place)), sizes)
    if low.any():
        rest *= np.repeat(np.where(low, 2.0 ** (2 * WIDTH), 1.0), sizes)
    for one, rounder, unit in zip(slices, _ROUND, _UNITS, strict=True):
        part = rest + rounder
        part -= rounder
        rest -= part
        one[:] = np.add.reduceat(part, starts) * unit
    return place


def _power(place: Ints) -> Floats:
    """2**27 to the power of each place, made of the bits of the float."""
    power: Floats = ((WIDTH * place + 1023) << 52).view(np.float64)
    return power


def exact_sums(values: Floats, groups: Groups) -> Floats:
    """The sum of a float column within each group of its rows, rounded once."""
    if groups.single:
        return cast(Floats, groups.arrange(values)) + 0.0
    alone = groups.alone
    if 2 * np.count_nonzero(alone) < len(alone):
        return ExactSums.of(values, groups).values()
    # A number alone is its own sum: only the others have to be added.
    arranged = cast(Floats, groups.arrange(values))
    sums: Floats = arranged[groups.starts] + 0.0
    rows, several = groups.together
    sums[~alone] = ExactSums.of(arranged[rows], several).values()
    return sums
