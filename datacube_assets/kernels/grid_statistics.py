"""Statistics of a map: the smallest and largest figures of each precision.

The levels they are taken of are in `pyramid.py`, the files they make in `views.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datacube_assets.kernels.groups import Floats, Ints
from datacube_assets.kernels.morton import BIN_BITS, MAX_PRECISION, PRECISIONS
from datacube_assets.kernels.pyramid import Level, pyramid
from datacube_assets.kernels.runs import bucket_starts

GRID_STATISTICS = tuple(
    f"{extreme}_{figure}"
    for figure in ("s_sum_t_sum", "s_sum_t_mean", "s_mean_t_sum", "s_mean_t_mean")
    for extreme in ("min", "max")
)
"""Columns of a grid statistics file after `zoom` (docs/objects.md#12-grid-statistics)."""


def grid_statistics(table: pa.Table) -> tuple[Floats, Ints]:
    """Smallest and largest figures over the subtiles of each precision.

    Returns an array of shape (buckets, 9, 8), precisions 6..14 ascending and `GRID_STATISTICS` in
    order, NaN where no subtile has a figure; and the row of `table` where each bucket starts.
    """
    buckets = bucket_starts(table).astype(np.int64)
    shape = (len(PRECISIONS), len(GRID_STATISTICS))
    statistics = [np.empty((0, *shape))]
    numbers = [np.zeros(0, np.int64)]
    counted: Ints | None = None
    for level in pyramid(table):
        at = level.precision - BIN_BITS
        if level.precision == MAX_PRECISION:
            starts = np.flatnonzero(level.begins == 0)
            if level.begins[0]:
                starts = np.concatenate(([0], starts))
            numbers.append(level.bucket[starts])
            statistics.append(np.empty((len(starts), *shape)))
        elif level.s_count is counted:
            # Nothing was added up: the figures are the same.
            statistics[-1][:, at] = statistics[-1][:, at + 1]
            continue
        statistics[-1][:, at] = _extremes(level).T
        counted = level.s_count
    parts, number = np.concatenate(statistics), np.concatenate(numbers)
    if len(number) > len(buckets):
        firsts = np.searchsorted(number, np.arange(len(buckets)))
        smallest = np.fmin.reduceat(parts[..., ::2], firsts)
        largest = np.fmax.reduceat(parts[..., 1::2], firsts)
        parts = np.stack([smallest, largest], axis=-1).reshape(len(buckets), *shape)
    return parts + 0.0, buckets


def _extremes(level: Level) -> Floats:
    """The smallest and largest of each figure in each bucket of the piece: shape (8, buckets)."""
    starts = np.flatnonzero(level.begins == 0)
    if level.begins[0]:
        starts = np.concatenate(([0], starts))

    def of(figure: Floats) -> list[Floats]:
        finite = np.isfinite(figure)
        known = figure if finite.all() else np.where(finite, figure, np.nan)
        return [extreme.reduceat(known, starts) for extreme in (np.fmin, np.fmax)]

    sums = (level.s_sum_t_sum, level.s_sum_t_mean)
    found = [extreme for figure in sums for extreme in of(figure)]
    if (level.s_count == 1).all():
        return np.stack([*found, *found])
    # Divided by s_count, unlike elsewhere: so the reader divides a bin by its weight.
    count = level.s_count.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.stack([*found, *(extreme for figure in sums for extreme in of(figure / count))])
