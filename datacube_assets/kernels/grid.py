"""The web-mercator grid: quadkeys, cells of the deepest precision, and the pyramid above them.

A *subtile* is a bin of a tile: subtiles of precision p are the bins of tiles of zoom p - 6, 64 by 64
(docs/objects.md#13-tiles). A subtile's quadkey is its Morton code, x in the even bits and y in the odd ones,
so the parent is `code >> 2` and the tile `code >> 12`, and a sorted table needs no further sort for any
level above. How tiles are written is in `encode.py`.

Work on many points goes in blocks that stay in a core's cache: the arrays between two steps would
otherwise cost more than the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar, cast

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
    Mask,
    build_table,
    column,
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

BLOCK_POINTS = 1 << 14
"""Points binned at once."""
BLOCK_CELLS = 1 << 16
"""Cells grouped at once, where their times allow it."""
PIECE_CELLS = 1 << 16
"""Cells of a piece of the pyramid, where subtiles of precision 6 allow it."""

Quadkeys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.intp]
T = TypeVar("T", np.int64, np.float64)


# --- points to subtiles ----------------------------------------------------------------------------


def wrap_longitude(lng: Floats) -> Floats:
    """Longitudes in [-180, 180); those already inside stay bit by bit. 190 and -170 are one place."""
    outside = (lng < -180) | (lng >= 180)
    wrapped = np.mod(lng + 180, 360) - 180
    # The remainder of a number just below zero rounds up to the divisor.
    return np.where(outside, np.where(wrapped >= 180, -180.0, wrapped), lng)


def on_map(lat: Floats, lng: Floats) -> Mask:
    """Which points have a place on the map: both coordinates finite, latitude within the limit."""
    on: Mask = np.isfinite(lng) & (np.abs(lat) < MERCATOR_LIMIT)
    return on


def quadkeys(lat: Floats, lng: Floats, precision: int = MAX_PRECISION) -> Quadkeys:
    """Quadkey of points in degrees, which must be `on_map` (the formula of slippy maps)."""
    codes = np.empty(len(lat), np.uint32)
    rows_of_latitude = _LatitudeRows.table()
    spread = _spread_table()
    size = min(BLOCK_POINTS, len(lat))
    numbers, whole = np.empty(size), np.empty(size, np.int64)
    for start in range(0, len(lat), BLOCK_POINTS):
        block = slice(start, start + BLOCK_POINTS)
        out = codes[block]
        x, index = numbers[: len(out)], whole[: len(out)]
        np.take(spread, rows_of_latitude(lat[block], x, index), out=out, mode="clip")
        np.left_shift(out, np.uint32(1), out=out)
        turned = lng[block]
        if turned.min() < -180 or turned.max() >= 180:
            turned = wrap_longitude(turned)
        np.add(turned, 180.0, out=x)
        # Dividing by a power of two is exact: this is (lng + 180) / 360 * 2**14.
        np.divide(x, 360.0 / 2**MAX_PRECISION, out=x)
        np.copyto(index, x, casting="unsafe")
        # Rounding may carry a point at the very edge one subtile too far, hence "clip".
        np.bitwise_or(out, spread.take(index, mode="clip"), out=out)
    return codes if precision == MAX_PRECISION else codes >> np.uint32(2 * (MAX_PRECISION - precision))


def mercator_rows(lat: Floats) -> Ints:
    """Row of subtiles of precision 14, from the north, by the formula of slippy maps."""
    y = (1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * 2**MAX_PRECISION
    # Rounding may carry a point at the very edge one subtile too far.
    rows: Ints = np.clip(y.astype(np.int64), 0, 2**MAX_PRECISION - 1)
    return rows


@dataclass(frozen=True)
class _LatitudeRows:
    """`mercator_rows` by lookup: several times faster where the processor has no vector tangent.

    The map is cut into strips of equal height in degrees, so low that each meets at most one edge between
    rows. A latitude's strip tells the edge, and the side of the edge the row. The formula decides only
    where a latitude is so near an edge that rounding matters; so its rows and these are the same ones.
    """

    northern: npt.NDArray[np.uint16]
    """Row at the northern end of each strip; the row at its southern end is this or the next."""
    edges: Floats
    """Latitude of the edge between each row and the next."""

    STRIPS = 1 << 17
    SOUTH, DEGREES = -86.0, 172.0
    NEAR_EDGE = 1e-9
    """Degrees. The formula is right to about 1e-12, and the strip of a latitude to 1e-13."""

    @classmethod
    @cache
    def table(cls) -> _LatitudeRows:
        rows = 2**MAX_PRECISION
        edges = north_edges(np.arange(1, rows + 1), MAX_PRECISION)
        # A little further north than the strip ends, so that a latitude rounded into it is of its rows.
        ends = cls.SOUTH + np.arange(1, cls.STRIPS + 1) * (cls.DEGREES / cls.STRIPS) + cls.NEAR_EDGE
        northern = np.searchsorted(-edges, -ends, side="left")
        return cls(np.minimum(northern, rows - 1).astype(np.uint16), edges)

    def __call__(self, lat: Floats, numbers: Floats, index: Ints) -> Ints:
        """Rows of some latitudes, which are within the limit, in `index`; `numbers` is room to work in."""
        np.subtract(lat, self.SOUTH, out=numbers)
        np.multiply(numbers, self.STRIPS / self.DEGREES, out=numbers)
        np.copyto(index, numbers, casting="unsafe")
        np.copyto(index, self.northern.take(index, mode="clip"))
        np.take(self.edges, index, out=numbers, mode="clip")
        np.subtract(numbers, lat, out=numbers)
        np.add(index, numbers >= 0, out=index, casting="unsafe")
        np.abs(numbers, out=numbers)
        if numbers.min() < self.NEAR_EDGE:
            near = np.flatnonzero(numbers < self.NEAR_EDGE)
            index[near] = mercator_rows(lat[near])
        return index


# --- subtiles to places ----------------------------------------------------------------------------


def west_edges(x: npt.NDArray[np.integer], precision: int) -> Floats:
    """Longitude in degrees of the western edges of columns of subtiles; column x + 1 has the eastern one."""
    edges: Floats = x * (360.0 / 2**precision) - 180.0
    return edges


def north_edges(y: npt.NDArray[np.integer], precision: int) -> Floats:
    """Latitude in degrees of the northern edges of rows of subtiles; row y + 1 has the southern one."""
    edges: Floats = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y.astype(np.float64) / 2**precision))))
    return edges


# --- Morton codes ----------------------------------------------------------------------------------


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


@cache
def _spread_table() -> Quadkeys:
    """Spread bits of every coordinate of precision 14."""
    return _spread(np.arange(2**MAX_PRECISION, dtype=np.uint32))


@cache
def _bin_table() -> npt.NDArray[np.uint32]:
    """Index of the bin, row-major from the north-west corner, of each quadkey inside a tile."""
    x, y = deinterleave(np.arange(BINS_PER_TILE, dtype=np.uint32))
    return (y << np.uint32(BIN_BITS)) | x


# --- cells of the deepest precision ----------------------------------------------------------------


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
        runs = _Runs.of_starts(groups.starts, groups.rows)
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


def _summed(values: npt.NDArray[T], groups: Groups, runs: _Runs | None) -> npt.NDArray[T]:
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
    starts = _bucket_starts(codes, time)
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


def _bucket_starts(feature: npt.NDArray[np.integer], time: Ints) -> Rows:
    """Rows at which another feature or time begins."""
    if not len(time):
        return np.zeros(0, np.intp)
    changed = time[1:] != time[:-1]
    changed |= feature[1:] != feature[:-1]
    return np.concatenate(([0], np.flatnonzero(changed) + 1))


# --- the pyramid -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
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
    def of(cls, first: Mask) -> _Runs | None:
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
    def of_starts(cls, starts: Rows, rows: int) -> _Runs | None:
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


@dataclass(frozen=True)
class Level:
    """Subtiles of one precision in a piece of the grid, ordered by bucket and quadkey.

    A bucket is a feature and time. Levels of one piece share arrays where nothing is added up between them.
    """

    precision: int
    quadkey: Quadkeys
    begins: npt.NDArray[np.uint8]
    """Coarsest precision at which the subtile is another one than that before it; 0: a bucket begins."""
    s_count: Ints
    s_sum_t_sum: Floats
    s_sum_t_mean: Floats
    earlier: int = 0
    """Buckets that begin before the piece."""

    def __len__(self) -> int:
        return len(self.quadkey)

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
        return _bin_table().take(self.quadkey & np.uint32(BINS_PER_TILE - 1))

    @property
    def bucket(self) -> Ints:
        """Number of the bucket of each subtile."""
        return np.cumsum(self.begins == 0, dtype=np.int64) + (self.earlier - 1)

    def slice(self, start: int, end: int) -> Level:
        """Some neighbouring subtiles."""
        return Level(
            self.precision,
            self.quadkey[start:end],
            self.begins[start:end],
            self.s_count[start:end],
            self.s_sum_t_sum[start:end],
            self.s_sum_t_mean[start:end],
            self.earlier + int(np.count_nonzero(self.begins[:start] == 0)),
        )

    @classmethod
    def concat(cls, pieces: Sequence[Level]) -> Level:
        """One piece of at least one, which follow one another."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(
            pieces[0].precision,
            np.concatenate([piece.quadkey for piece in pieces]),
            np.concatenate([piece.begins for piece in pieces]),
            np.concatenate([piece.s_count for piece in pieces]),
            np.concatenate([piece.s_sum_t_sum for piece in pieces]),
            np.concatenate([piece.s_sum_t_mean for piece in pieces]),
            pieces[0].earlier,
        )

    def parents(self) -> Level:
        """The level above: four subtiles become one."""
        quadkey = self.quadkey >> np.uint32(2)
        if self.begins.max(initial=0) < self.precision:
            # Each subtile is the only one of its parent.
            return replace(self, precision=self.precision - 1, quadkey=quadkey)
        first = np.empty(len(self) + 1, np.bool_)
        np.less(self.begins, self.precision, out=first[:-1])
        first[-1] = True
        runs = _Runs.of(first)
        assert runs is not None, "some subtiles share a parent"
        with np.errstate(over="ignore", invalid="ignore"):
            return Level(
                self.precision - 1,
                quadkey[runs.first],
                self.begins[runs.first],
                runs.sums(self.s_count),
                runs.sums(self.s_sum_t_sum),
                runs.sums(self.s_sum_t_mean),
                self.earlier,
            )


def pyramid(table: pa.Table) -> Iterator[Level]:
    """Levels of precision 14 down to 6 of one piece of a table of grid cells after the other.

    Each level is a linear scan of the one before. No subtile is in two pieces, but a bucket or a tile may
    be: the pieces of one precision make up the level of the whole table.
    """
    for level in deepest(table):
        yield level
        while level.precision > BIN_BITS:
            level = level.parents()
            yield level


def deepest(table: pa.Table) -> Iterator[Level]:
    """The level of precision 14, in pieces of about `PIECE_CELLS`."""
    quadkey = cast(Quadkeys, column(table, "quadkey"))
    count = cast(Ints, column(table, "s_count"))
    sums, means = (cast(Floats, column(table, name)) for name in ("s_sum_t_sum", "s_sum_t_mean"))
    buckets = bucket_starts(table)
    begins = _begins(quadkey, buckets)
    start = 0
    while start < len(quadkey):
        rows = slice(start, _next_piece(begins, start))
        earlier = int(np.searchsorted(buckets, start))
        yield Level(MAX_PRECISION, quadkey[rows], begins[rows], count[rows], sums[rows], means[rows], earlier)
        start = rows.stop


def _begins(quadkey: Quadkeys, buckets: Rows) -> npt.NDArray[np.uint8]:
    """`Level.begins` of rows in order of bucket and quadkey, no two of them the same."""
    begins = np.zeros(len(quadkey), np.uint8)
    for start in range(1, len(quadkey), BLOCK_POINTS):
        after = quadkey[start : start + BLOCK_POINTS]
        differing = (after ^ quadkey[start - 1 : start - 1 + len(after)]) * 2.0
        # A number's exponent is the place of its highest bit, and a precision has two bits.
        pairs = (differing.view(np.int64) >> 53) - 512
        np.subtract(MAX_PRECISION, pairs, out=begins[start : start + len(after)], casting="unsafe")
    begins[buckets] = 0
    return begins


def _next_piece(begins: npt.NDArray[np.uint8], start: int) -> int:
    """Where a piece ends that begins at a row: the last fitting row that begins a subtile of precision 6."""
    if start + PIECE_CELLS >= len(begins):
        return len(begins)
    fitting = np.flatnonzero(begins[start + 1 : start + PIECE_CELLS + 1] <= BIN_BITS)
    if len(fitting):
        return start + 1 + int(fitting[-1])
    for at in range(start + PIECE_CELLS + 1, len(begins), PIECE_CELLS):
        ends = np.flatnonzero(begins[at : at + PIECE_CELLS] <= BIN_BITS)
        if len(ends):
            return at + int(ends[0])
    return len(begins)


def bucket_starts(table: pa.Table) -> Rows:
    """Rows of an ordered table at which another feature or time begins."""
    feature = table["feature"].unify_dictionaries().combine_chunks()
    if isinstance(feature, pa.ChunkedArray) or not pa.types.is_dictionary(feature.type):
        codes: npt.NDArray[np.integer] = encode_text(table["feature"]).codes
    else:
        codes = feature.indices.to_numpy()
    return _bucket_starts(codes, cast(Ints, column(table, "timestamp")))


# --- statistics ------------------------------------------------------------------------------------


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
