"""What the columns of a run hold, batch by batch, as far as it decides how they are treated.

Profiles of batches add up. What follows from them is in `plan.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import by_name, distinct_texts, kind_of, naming_column, plain


@dataclass(frozen=True)
class ColumnProfile:
    """What a column holds, as far as it decides how the column is treated."""

    kinds: frozenset[str]
    """NumPy-like kinds of its parts: f float, i integer, b bool, M date, O text."""
    filled: bool
    """Whether any cell is neither null nor blank."""
    whole: bool
    """Whether all numbers are whole (all dates midnight)."""
    scales: frozenset[int | None] = frozenset()
    """How many decimals its numbers have, none of integers; None stands for floats."""

    def __add__(self, other: ColumnProfile) -> ColumnProfile:
        return ColumnProfile(
            self.kinds | other.kinds,
            self.filled or other.filled,
            self.whole and other.whole,
            self.scales | other.scales,
        )


Profile = dict[str, ColumnProfile]


def profile(batch: pa.Table) -> Profile:
    """Profile each column of a batch. Raises InputError for columns that cannot be read."""
    profiles = {}
    for name, column in by_name(batch).items():
        with naming_column(name, column):
            profiles[name] = _profile_column(name, column)
    return profiles


def merge_profiles(profiles: Iterable[Profile]) -> Profile:
    """The profile of all batches together; columns in order of first appearance."""
    merged: Profile = {}
    for one in profiles:
        for name, column in one.items():
            merged[name] = merged[name] + column if name in merged else column
    return merged


def _profile_column(name: str, column: pa.ChunkedArray) -> ColumnProfile:
    kind = kind_of(name, column.type)
    if kind == "O":
        texts = [text for text in distinct_texts(name, column) if text is not None]
        return ColumnProfile(frozenset(kind), any(not _is_blank(text) for text in texts), whole=True)
    values = plain(column).drop_null()
    if kind == "f":
        # Decimals and half floats have no arithmetic of their own.
        floats = values.cast(pa.float64(), safe=False).to_numpy()
        floats = floats[~np.isnan(floats)]
        whole = bool(np.all((np.floor(floats) == floats) & (np.abs(floats) < 2**53)))
        scale = values.type.scale if pa.types.is_decimal(values.type) else None
        # Where there is no value, the type may be anything.
        scales = frozenset((scale,)) if len(floats) else frozenset[int | None]()
        return ColumnProfile(frozenset(kind), len(floats) > 0, whole, scales)
    if kind == "M":
        if pa.types.is_timestamp(values.type) and values.type.tz:
            # By the clock: where it is set forward or back at midnight, the day may begin at no such time.
            values = pc.local_timestamp(values)
        midnight = pc.equal(values, pc.floor_temporal(values, unit="day"))
        return ColumnProfile(frozenset(kind), len(values) > 0, pc.all(midnight).as_py() is not False)
    scales = frozenset((0,)) if kind == "i" and len(values) else frozenset[int | None]()
    return ColumnProfile(frozenset(kind), len(values) > 0, whole=True, scales=scales)


def _is_blank(text: str) -> bool:
    # An empty text is a value; a text of spaces is none.
    return text.isspace()
