"""Neighbouring rows that become one: where runs begin in ordered rows, and the sums of runs.

Rows in another order are grouped by `groups.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import Ints, Mask, column, encode_text

Rows = npt.NDArray[np.intp]
T = TypeVar("T", np.int64, np.float64)


@dataclass(frozen=True)
class Runs:
    """Neighbouring rows that become one.

    On the way up a pyramid most runs are of one row and none is of more than four: then gathering the second,
    third and fourth rows costs half of what reducing a column run by run does, and the sums are the same bit
    by bit.
    """

    first: Rows | Mask
    """Where runs begin: a mask where nearly all rows do, which is the quicker index then."""
    reduced: bool
    """Columns are reduced run by run, at `first`; the following is empty."""
    into: Rows
    """Runs of more than one row."""
    second: Rows
    """Their second rows."""
    third: tuple[Rows, Rows]
    """Which of them have a third row, and these rows."""
    fourth: tuple[Rows, Rows]

    FEW, MANY = 0.03, 0.7
    """Of the rows: fewer than this, or more, are not the first of their run."""

    @classmethod
    def of(cls, first: Mask) -> Runs | None:
        """`first`: whether a run begins at each row, and True behind the last. None: all are of one row."""
        rows = len(first) - 1
        later = np.flatnonzero(~first)
        if not len(later):
            return None
        none = later[:0]
        if len(later) > cls.MANY * rows:
            return cls(np.flatnonzero(first[:-1]), True, none, none, (none, none), (none, none))
        number = np.flatnonzero(first[later - 1])
        second = later[number]
        third = fourth = (none, none)
        if len(later) > len(second):
            which = np.flatnonzero(~first[second + 1])
            third = (which, second[which] + 1)
            further = np.flatnonzero(~first[third[1] + 1])
            fourth = (which[further], third[1][further] + 1)
        if len(later) > len(second) + len(third[0]) + len(fourth[0]):
            return cls(np.flatnonzero(first[:-1]), True, none, none, (none, none), (none, none))
        starts = first[:-1] if len(later) < cls.FEW * rows else np.flatnonzero(first[:-1])
        return cls(starts, False, second - number - 1, second, third, fourth)

    @classmethod
    def of_starts(cls, starts: Rows, rows: int) -> Runs | None:
        """`starts`: rows at which runs begin."""
        if len(starts) == rows:
            return None
        first = np.zeros(rows + 1, np.bool_)
        first[starts] = first[rows] = True
        return cls.of(first)

    def sums(self, values: npt.NDArray[T]) -> npt.NDArray[T]:
        """The sum of each run, added up as NumPy does: the first row and the sum of the others."""
        if self.reduced:
            return np.add.reduceat(values, self.first)
        others = values[self.second]
        for which, rows in (self.third, self.fourth):
            if len(rows):
                others[which] += values[rows]
        sums = values[self.first]
        sums[self.into] += others
        return sums


def bucket_starts(table: pa.Table) -> Rows:
    """Rows of an ordered table at which another feature or time begins."""
    feature = table["feature"].combine_chunks()
    if isinstance(feature, pa.ChunkedArray) or not pa.types.is_dictionary(feature.type):
        codes: npt.NDArray[np.integer] = encode_text(table["feature"]).codes
    else:
        codes = feature.indices.to_numpy()
    return starts_of_buckets(codes, cast(Ints, column(table, "timestamp")))


def starts_of_buckets(feature: npt.NDArray[np.integer], time: Ints) -> Rows:
    """Rows at which another feature or time begins."""
    if not len(time):
        return np.zeros(0, np.intp)
    changed = time[1:] != time[:-1]
    changed |= feature[1:] != feature[:-1]
    return np.concatenate(([0], np.flatnonzero(changed) + 1))
