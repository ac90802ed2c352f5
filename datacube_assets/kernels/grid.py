"""Cells of the web-mercator grid: temporal cells summed per subtile of the deepest precision.

Which subtile a place is in is in `projection.py`, the levels above in `pyramid.py`. Work on many cells
goes in blocks that stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import (
    Coded,
    Codes,
    Digit,
    Floats,
    Groups,
    Ints,
    build_table,
    column,
    encode_ints,
    encode_text,
    group_by,
)
from datacube_assets.kernels.morton import MAX_PRECISION, Quadkeys
from datacube_assets.kernels.projection import on_map, quadkeys
from datacube_assets.kernels.runs import Rows, Runs, T, starts_of_buckets

BLOCK_CELLS = 1 << 16
"""Cells grouped at once, where their times allow it."""


def grid_cells(cells: pa.Table) -> pa.Table:
    """Temporal cells summed per feature, time and subtile of precision 14 (`schema.GRID_COLUMNS`).

    Ordered by feature, time and quadkey. Cells that are not `on_map` are left out; how many points that
    concerns is in the report of `normalize.py`. Weights play no part: tiles have no field for them.
    """
    lat, lng = (cast(Floats, column(cells, name)) for name in ("lat", "lng"))
    t_sum, t_mean = (cast(Floats, column(cells, name)) for name in ("t_sum", "t_mean"))

    def sums_of(block: slice) -> _Sums:
        rows = None
        here, there, sums, means = lat[block], lng[block], t_sum[block], t_mean[block]
        on = on_map(here, there)
        if not on.all():
            rows = np.flatnonzero(on)
            here, there, sums, means = here[rows], there[rows], sums[rows], means[rows]
        present, count = ~np.isnan(means), None
        if not present.all():
            means, count = np.where(present, means, 0.0), present.astype(np.int64)
        return _Sums(rows, quadkeys(here, there), count, sums, means)

    return _grid_table(cells, sums_of)


def merge_grid(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of grid cells from the partial tables of shards."""
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables).unify_dictionaries()
    quadkey = cast(Quadkeys, column(table, "quadkey"))
    count = cast(Ints, column(table, "s_count"))
    sums, means = (cast(Floats, column(table, name)) for name in ("s_sum_t_sum", "s_sum_t_mean"))
    return _grid_table(
        table, lambda block: _Sums(None, quadkey[block], count[block], sums[block], means[block])
    )


@dataclass(frozen=True)
class _Sums:
    """Part of a table's rows, as sums of one subtile each."""

    rows: Rows | None
    """Where in the part they come from; None: they are all of its rows."""
    quadkey: Quadkeys
    s_count: Ints | None
    """None: one each."""
    s_sum_t_sum: Floats
    s_sum_t_mean: Floats


def _grid_table(table: pa.Table, sums_of: Callable[[slice], _Sums]) -> pa.Table:
    """The table's rows summed per feature, time and quadkey, in that order."""
    feature, time = encode_text(table["feature"]), cast(Ints, column(table, "timestamp"))
    bucket, blocks = _blocks(feature, time)
    made: list[tuple[npt.NDArray[np.generic], ...]] = [
        tuple(np.zeros(0, type_) for type_ in (np.intp, np.uint32, np.int64, np.float64, np.float64))
    ]
    for block in blocks:
        part, numbers = sums_of(block), bucket[block]
        if part.rows is not None:
            numbers = numbers[part.rows]
        if not len(numbers):
            continue
        lowest = numbers.min()
        digits = Digit(numbers - lowest, int(numbers.max() - lowest) + 1)
        groups = group_by([digits, Digit(part.quadkey.astype(np.int64), 4**MAX_PRECISION)])
        first = groups.first
        runs = Runs.of_starts(groups.starts, groups.rows)
        made.append(
            (
                (first if part.rows is None else part.rows[first]) + block.start,
                part.quadkey[first],
                groups.sizes if part.s_count is None else _summed(part.s_count, groups, runs),
                _summed(part.s_sum_t_sum, groups, runs),
                _summed(part.s_sum_t_mean, groups, runs),
            )
        )
    rows, *figures = (np.concatenate(parts) for parts in zip(*made, strict=True))
    rows = cast(Rows, rows)
    names = ("quadkey", "s_count", "s_sum_t_sum", "s_sum_t_mean")
    return build_table(
        {"feature": feature.take(rows), "timestamp": time[rows], **dict(zip(names, figures, strict=True))}
    )


def _summed(values: npt.NDArray[T], groups: Groups, runs: Runs | None) -> npt.NDArray[T]:
    arranged = cast("npt.NDArray[T]", groups.arrange(values))
    if runs is None:
        return arranged
    with np.errstate(over="ignore", invalid="ignore"):
        return runs.sums(arranged)


def _blocks(feature: Coded, time: Ints) -> tuple[Codes, Iterable[slice]]:
    """A number for each feature and time, ascending with both, and the rows to be grouped at once.

    Rows of one number are in one block. A table that is not in order of feature and time is one block.
    """
    codes = feature.codes
    starts = starts_of_buckets(codes, time)
    later = starts[1:]
    before = later - 1
    in_order = (codes[later] > codes[before]) | (
        (codes[later] == codes[before]) & (time[later] > time[before])
    )
    if not in_order.all():
        times = encode_ints(time)
        return codes * times.radix + times.codes, [slice(0, len(codes))]
    ends = np.append(starts, len(codes))
    return np.repeat(np.arange(len(starts)), np.diff(ends)), _cut(ends)


def _cut(starts: Rows) -> Iterator[slice]:
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_CELLS, side="right")) - 1
        last = max(last, first + 1)
        yield slice(int(starts[first]), int(starts[last]))
        first = last
