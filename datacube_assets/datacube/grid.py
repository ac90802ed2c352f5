"""The web-mercator grid: quadkeys, cells of the deepest precision, and the pyramid above them.

A *subtile* is a bin of a tile: subtiles of precision p are the bins of tiles of zoom p - 6, 64 by 64
(CONTRACTS D.4). A subtile's quadkey is its Morton code, x in the even bits and y in the odd ones, so
the parent is `code >> 2` and the tile `code >> 12`, and a sorted table needs no further sort for any
level above. How tiles are written is in `encode.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.datacube.groups import (
    Digit,
    Floats,
    Groups,
    Ints,
    Mask,
    build_table,
    column,
    encode_floats,
    encode_ints,
    encode_text,
    group_by,
)

MAX_PRECISION = 14
BIN_BITS = 6
"""Tiles are 2**6 = 64 bins wide."""
PRECISIONS = tuple(range(BIN_BITS, MAX_PRECISION + 1))
"""Subtile precisions 6..14; the zoom of their tiles is 0..8."""
BINS_PER_TILE = 4**BIN_BITS

MERCATOR_LIMIT = 85.0511287798066
"""Latitude in degrees where web-mercator ends: atan(sinh(pi))."""

Quadkeys = npt.NDArray[np.uint32]
T = TypeVar("T", np.int64, np.float64)


def wrap_longitude(lng: Floats) -> Floats:
    """Longitudes in [-180, 180); those already inside stay bit by bit (DESIGN 5, 9)."""
    outside = (lng < -180) | (lng >= 180)
    wrapped = np.mod(lng + 180, 360) - 180
    # The remainder of a number just below zero rounds up to the divisor.
    return np.where(outside, np.where(wrapped >= 180, -180.0, wrapped), lng)


def on_map(lat: Floats, lng: Floats) -> Mask:
    """Which points have a place on the map: both coordinates finite, latitude within the limit."""
    on: Mask = np.isfinite(lng) & (np.abs(lat) < MERCATOR_LIMIT)
    return on


def quadkeys(lat: Floats, lng: Floats, precision: int = MAX_PRECISION) -> Quadkeys:
    """Quadkey of points in degrees, which must be `on_map` (slippy-map formula of CONTRACTS D.4)."""
    n = 2**precision
    x = (wrap_longitude(lng) + 180.0) / 360.0 * n
    y = (1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * n
    # Rounding may carry a point at the very edge one subtile too far.
    last = n - 1
    return interleave(
        np.clip(x.astype(np.int64), 0, last).astype(np.uint32),
        np.clip(y.astype(np.int64), 0, last).astype(np.uint32),
    )


_SPREAD = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))


def interleave(x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32]) -> Quadkeys:
    """Morton code of coordinates of up to 16 bits."""
    return _spread(x) | (_spread(y) << np.uint32(1))


def deinterleave(code: Quadkeys) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Coordinates x and y of Morton codes."""
    return _gather(code), _gather(code >> np.uint32(1))


def _spread(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    for shift, mask in _SPREAD:
        values = (values | (values << np.uint32(shift))) & np.uint32(mask)
    return values


def _gather(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    values = values & np.uint32(0x55555555)
    for shift, mask in ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)):
        values = (values | (values >> np.uint32(shift))) & np.uint32(mask)
    return values


def grid_cells(cells: pa.Table) -> pa.Table:
    """Temporal cells summed per feature, time and subtile of precision 14 (`schema.GRID_COLUMNS`).

    Ordered by feature, time and quadkey. Cells that are not `on_map` are left out; how many points that
    concerns is in the report of `normalize.py`. Weights play no part (CONTRACTS D.4).
    """
    lat, lng = (cast(Floats, column(cells, name)) for name in ("lat", "lng"))
    on = on_map(lat, lng)
    if not on.all():
        cells, lat, lng = cells.filter(pa.array(on)), lat[on], lng[on]
    t_mean = cast(Floats, column(cells, "t_mean"))
    present = ~np.isnan(t_mean)
    keys = {
        "feature": encode_text(cells["feature"]),
        "timestamp": encode_ints(cast(Ints, column(cells, "timestamp"))),
    }
    codes = _quadkeys_of_distinct(lat, lng)
    groups = group_by([*keys.values(), Digit(codes.astype(np.int64), 4**MAX_PRECISION)])
    with np.errstate(over="ignore", invalid="ignore"):
        return build_table(
            {
                **{name: coded.take(groups.first) for name, coded in keys.items()},
                "quadkey": codes[groups.first],
                "s_count": groups.reduce(np.add, present.astype(np.int64)),
                "s_sum_t_sum": groups.reduce(np.add, column(cells, "t_sum")),
                "s_sum_t_mean": groups.reduce(np.add, np.where(present, t_mean, 0.0)),
            }
        )


def _quadkeys_of_distinct(lat: Floats, lng: Floats) -> Quadkeys:
    """Quadkeys, computed once for each distinct place: many cells share one."""
    places = group_by([encode_floats(lat), encode_floats(lng)])
    first = places.first
    distinct: Quadkeys = quadkeys(lat[first], lng[first])
    return distinct[places.number_rows()]


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: subtiles of one precision, ordered by bucket and quadkey."""

    precision: int
    bucket: Ints
    """Number of the (feature, time) bucket of each subtile."""
    quadkey: Quadkeys
    s_count: Ints
    s_sum_t_sum: Floats
    s_sum_t_mean: Floats

    @property
    def zoom(self) -> int:
        """Zoom of the tiles whose bins these subtiles are."""
        return self.precision - BIN_BITS

    @property
    def tile(self) -> Quadkeys:
        return self.quadkey >> np.uint32(2 * BIN_BITS)

    @property
    def bin(self) -> npt.NDArray[np.uint32]:
        """Index of the bin inside its tile, row-major from the north-west corner."""
        x, y = deinterleave(self.quadkey & np.uint32(BINS_PER_TILE - 1))
        return (y << np.uint32(BIN_BITS)) | x

    def parents(self) -> Level:
        """The level above: four subtiles become one."""
        quadkey = self.quadkey >> np.uint32(2)
        starts = _changes(self.bucket, quadkey)
        with np.errstate(over="ignore", invalid="ignore"):
            return Level(
                self.precision - 1,
                self.bucket[starts],
                quadkey[starts],
                _sums(self.s_count, starts),
                _sums(self.s_sum_t_sum, starts),
                _sums(self.s_sum_t_mean, starts),
            )


def _changes(bucket: Ints, quadkey: Quadkeys) -> npt.NDArray[np.intp]:
    if len(bucket) == 0:
        return np.zeros(0, np.intp)
    changed = (bucket[1:] != bucket[:-1]) | (quadkey[1:] != quadkey[:-1])
    return np.flatnonzero(np.concatenate(([True], changed)))


def _sums(values: npt.NDArray[T], starts: npt.NDArray[np.intp]) -> npt.NDArray[T]:
    return np.add.reduceat(values, starts) if len(starts) else values[:0]


def pyramid(table: pa.Table) -> Iterator[Level]:
    """Levels of precision 14 down to 6 of a table of grid cells, each a linear scan of the one before."""
    bucket = bucket_numbers(table)
    level = Level(
        MAX_PRECISION,
        bucket,
        cast(Quadkeys, column(table, "quadkey")),
        cast(Ints, column(table, "s_count")),
        cast(Floats, column(table, "s_sum_t_sum")),
        cast(Floats, column(table, "s_sum_t_mean")),
    )
    while True:
        yield level
        if level.precision == BIN_BITS:
            return
        level = level.parents()


def bucket_numbers(table: pa.Table) -> Ints:
    """Number of the (feature, time) bucket of each row of an ordered table."""
    feature = encode_text(table["feature"]).codes
    time = cast(Ints, column(table, "timestamp"))
    if not len(time):
        return time
    changed = (feature[1:] != feature[:-1]) | (time[1:] != time[:-1])
    return np.concatenate(([0], np.cumsum(changed)))


GRID_STATISTICS = tuple(
    f"{extreme}_{figure}"
    for figure in ("s_sum_t_sum", "s_sum_t_mean", "s_mean_t_sum", "s_mean_t_mean")
    for extreme in ("min", "max")
)
"""Columns of a grid statistics file after `zoom` (CONTRACTS D.6)."""


def grid_statistics(table: pa.Table) -> tuple[Floats, Ints]:
    """Smallest and largest figures over the subtiles of each precision (CONTRACTS D.6).

    Returns an array of shape (buckets, 9, 8), precisions 6..14 ascending and `GRID_STATISTICS` in
    order, NaN where no subtile has a figure; and the row of `table` where each bucket starts.
    """
    levels = []
    starts = np.zeros(0, np.intp)
    for level in pyramid(table):
        starts = _changes(level.bucket, np.zeros(len(level.bucket), np.uint32))
        with np.errstate(divide="ignore", invalid="ignore"):
            count = level.s_count
            figures = (
                level.s_sum_t_sum,
                level.s_sum_t_mean,
                # Divided by s_count, unlike elsewhere: so the reader divides a bin by its weight.
                level.s_sum_t_sum / count,
                level.s_sum_t_mean / count,
            )
        columns: list[Floats] = []
        for figure in figures:
            finite = np.where(np.isfinite(figure), figure, np.nan)
            columns.extend(
                extreme.reduceat(finite, starts) if len(starts) else finite[:0]
                for extreme in (np.fmin, np.fmax)
            )
        levels.append(np.stack(columns, axis=-1))
    levels.reverse()
    bucket_starts = _changes(bucket_numbers(table), np.zeros(table.num_rows, np.uint32))
    return np.stack(levels, axis=1) + 0.0, bucket_starts.astype(np.int64)


def merge_grid(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of grid cells from the partial tables of shards."""
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables).unify_dictionaries()
    keys = {
        "feature": encode_text(table["feature"]),
        "timestamp": encode_ints(cast(Ints, column(table, "timestamp"))),
    }
    codes = cast(Quadkeys, column(table, "quadkey"))
    groups: Groups = group_by([*keys.values(), Digit(codes.astype(np.int64), 4**MAX_PRECISION)])
    sums = {
        name: groups.reduce(np.add, column(table, name))
        for name in ("s_count", "s_sum_t_sum", "s_sum_t_mean")
    }
    first = groups.first
    return build_table({**{name: c.take(first) for name, c in keys.items()}, "quadkey": codes[first], **sums})
