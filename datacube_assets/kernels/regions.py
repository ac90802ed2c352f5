"""Region ids: the names of the levels joined, for every level of the hierarchy.

What a region id is: docs/specification/from-rows-to-figures.md#regions.

Only how regions are named and coded belongs here; sums over them are in `spatial.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.groups import Coded, Mask, Tuples, encode_text
from datacube_assets.kernels.schema import MISSING, REGION_LEVELS, REGION_SEPARATOR, RegionLevel


def answerable(ids: pa.Array) -> Mask:
    """Which ids the reader can be asked for: it splits them at `__`, and more than four parts stop it."""
    separators = pc.count_substring(ids, REGION_SEPARATOR)
    mask: Mask = separators.to_numpy(zero_copy_only=False) < len(REGION_LEVELS)
    return mask


@dataclass(frozen=True)
class Regions:
    """The distinct combinations of region names of a table, and their ids at each level."""

    tuples: Coded
    """Combination of each row, shape (rows,); values are the numbers of the combinations."""
    names: dict[RegionLevel, pa.Array]
    """Names of each combination, per level present."""

    @classmethod
    def of(cls, table: pa.Table, levels: tuple[RegionLevel, ...]) -> Regions:
        """The regions of a table that holds the levels as text columns."""
        coded = [encode_text(table[level]) for level in levels]
        tuples = Tuples.of(coded, table.num_rows)
        names = {
            level: column.values.take(pa.array(member))
            for level, column, member in zip(levels, coded, tuples.members, strict=True)
        }
        return cls(Coded(tuples.codes, pa.array(np.arange(len(tuples)))), names)

    def ids(self, level: RegionLevel) -> pa.Array:
        """Id of each combination at a level: `Kenya__Nairobi__None`; `None` for an absent column."""
        depth = REGION_LEVELS.index(level) + 1
        parts = [self.names.get(above, pa.scalar(MISSING)) for above in REGION_LEVELS[:depth]]
        joined = pc.binary_join_element_wise(*parts, REGION_SEPARATOR)
        return joined.cast(pa.string())

    def level(self, level: RegionLevel) -> Coded:
        """Region id of each combination at a level."""
        return self._levels[level]

    @cached_property
    def _levels(self) -> dict[RegionLevel, Coded]:
        return {level: encode_text(self.ids(level)) for level in self.names}

    def lines(self, level: RegionLevel) -> Coded:
        """Each combination's id at a level together with its ids at the levels above, in order of the id.

        Names that hold `__` may give one id to regions of different parents: `A__B`, `C` and `A`, `B__C`.
        """
        levels = list(self._levels)
        ids = [self._levels[one] for one in reversed(levels[: levels.index(level) + 1])]
        lines = Tuples.of(ids, len(self.tuples.values))
        return Coded(lines.codes, pa.array(np.arange(len(lines))))
