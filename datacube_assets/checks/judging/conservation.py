"""Is nothing lost and nothing counted twice on the way from points to aggregates and tiles?

Totals of tables are compared, per feature and time: whole numbers exactly, sums of floats within what
rounding can do. That depends on what was added up, not on what came out: numbers that cancel leave little,
and the rounding of much. The tables hold sums only. So totals are first compared as if nothing had
cancelled, and only where they differ by more than that, `Sizes` are found in the cells or points. Where a
sum overflowed nothing can be told. Which tables are compared with which is in `checks/aggregates.py` and
`checks/datacube.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.checks.judging.verdict import EXAMPLES
from datacube_assets.kernels.groups import (
    Floats,
    Groups,
    Ints,
    column,
    encode_ints,
    encode_text,
    group_by,
)
from datacube_assets.kernels.morton import MAX_PRECISION, ZOOMS, Quadkeys, deinterleave
from datacube_assets.kernels.projection import on_map
from datacube_assets.kernels.pyramid import pyramid
from datacube_assets.kernels.runs import bucket_starts
from datacube_assets.kernels.schema import COORDINATES
from datacube_assets.kernels.spatial import lift

GRID_MEASURES = ("s_count", "s_sum_t_sum", "s_sum_t_mean")
KEYS = ("feature", "timestamp")


Sizes: TypeAlias = pa.Table
"""What totals were added up from: feature, timestamp, `addends` (how many numbers), and of each float
measure the sum of the absolute numbers, as `MEASURE, absolute`. Rows of one feature and time add up."""


@dataclass(frozen=True)
class Compared:
    """How many totals were compared, and which differ. Comparisons add up."""

    totals: int = 0
    differing: int = 0
    examples: tuple[Mapping[str, Any], ...] = ()

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            self.totals + other.totals,
            self.differing + other.differing,
            (self.examples + other.examples)[:EXAMPLES],
        )


def rounding(addends: npt.ArrayLike, size: npt.ArrayLike) -> Floats:
    """How far apart two sums of the same numbers may be, added up in any order and in any steps.

    `size` is the sum of the absolute numbers. Each of `addends` - 1 additions rounds by 2**-53 of it at
    most, in whatever order; each step between tables rounds once more.
    """
    count = np.asarray(addends, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        bound: Floats = 4 * (count + _STEPS) * (_UNIT * np.asarray(size, np.float64) + _SMALLEST)
    return bound


_UNIT, _SMALLEST = 2.0**-53, 2.0**-1074
_STEPS = 1 << 16
"""Room for the steps from a value to the total of a table: 3e-11 of the size, however few the numbers."""


def compare(
    parts: pa.Table,
    whole: pa.Table,
    measures: Sequence[str],
    where: Mapping[str, Any] | None = None,
    sizes: Sizes | None = None,
) -> Compared:
    """Compare the sums of the parts of each feature and time with the whole.

    Both tables have feature, timestamp and the measures; of either, many rows may be of one feature and
    time. `sizes` are of what both were added up from; without them, what differs may only have cancelled.
    `where` is added to the examples of what differs.
    """
    added = [sums(table, measures, sizes=True) for table in (parts, whole)]
    if sizes is not None:
        added.append(_as_sums(sizes, added[0].schema))
    table = pa.concat_tables(added).unify_dictionaries()
    feature, time = encode_text(table["feature"]), encode_ints(cast(Ints, column(table, "timestamp")))
    groups = group_by([feature, time])
    if not len(groups):
        return Compared()
    of_table = np.repeat(np.arange(len(added)), [one.num_rows for one in added])
    sides = (of_table == 0, of_table == 1)
    there = [groups.reduce(np.logical_or, side) for side in sides]
    wrong = {"(presence)": there[0] != there[1]}
    totals: dict[str, list[npt.NDArray[np.generic]]] = {"(presence)": there}
    addends = groups.reduce(np.add, column(table, _ADDENDS))
    for name in measures:
        values = column(table, name)
        with np.errstate(over="ignore", invalid="ignore"):
            of_parts, of_whole = (groups.reduce(np.add, np.where(side, values, 0)) for side in sides)
            totals[name] = [of_parts, of_whole]
            if values.dtype.kind == "f":
                size = cast(Floats, groups.reduce(np.add, column(table, f"{name}{_SIZE}")))
                apart = np.abs(cast(Floats, of_parts) - cast(Floats, of_whole))
                wrong[name] = np.isfinite(size) & (apart > rounding(addends, size))
            else:
                wrong[name] = of_parts != of_whole
    return Compared(
        int(np.count_nonzero(np.logical_or(*there))) * len(measures),
        sum(int(np.count_nonzero(differs)) for differs in wrong.values()),
        tuple(
            {
                **(where or {}),
                "feature": feature.values[int(feature.codes[groups.first[at]])].as_py(),
                "timestamp": int(time.values[int(time.codes[groups.first[at]])].as_py()),
                "figure": name,
                "parts": totals[name][0][at].item(),
                "whole": totals[name][1][at].item(),
            }
            for name, differs in wrong.items()
            for at in np.flatnonzero(differs)[:EXAMPLES]
        )[:EXAMPLES],
    )


_SIZE = ", absolute"
_ADDENDS = "addends"


def sizes_of_cells(cells: pa.Table, *, weighted: bool) -> Sizes:
    """Sizes of the measures of cells, which are in order of feature and time."""
    lifted = {
        f"{name}{_SIZE}": np.abs(values)
        for name, values in lift(cells, weighted=weighted).items()
        if values.dtype.kind == "f"
    }
    return _sizes(cells, lifted)


def sizes_of_points(points: pa.Table) -> Sizes:
    """Sizes of the sums of values over all times, of points with feature and value."""
    values = np.nan_to_num(np.abs(cast(Floats, column(points, "value"))), nan=0.0, posinf=np.inf)
    order = np.argsort(encode_text(points["feature"]).codes, kind="stable")
    always = pa.array(np.zeros(len(order), np.int64))
    table = points.select(["feature"]).take(pa.array(order)).append_column("timestamp", always)
    return _sizes(table, {f"s_sum_t_sum{_SIZE}": values[order]})


def _sizes(table: pa.Table, sizes: Mapping[str, npt.NDArray[np.generic]]) -> Sizes:
    starts = bucket_starts(table)
    groups = Groups(None, starts, table.num_rows)
    with np.errstate(over="ignore", invalid="ignore"):
        added = {name: pa.array(groups.reduce(np.add, values)) for name, values in sizes.items()}
    keys = {name: table[name].take(pa.array(starts)) for name in KEYS}
    return pa.table({**keys, _ADDENDS: pa.array(groups.sizes), **added})


def _as_sums(sizes: Sizes, schema: pa.Schema) -> pa.Table:
    """Sizes beside sums that are zero, so that both can be added up in one table."""
    nothing = pa.array(np.zeros(sizes.num_rows, np.int64))
    known = set(sizes.column_names)
    return pa.table({f.name: sizes[f.name] if f.name in known else nothing.cast(f.type) for f in schema})


def sums(table: pa.Table, measures: Sequence[str], *, sizes: bool = False) -> pa.Table:
    """The measures of a table, added up over neighbouring rows of one feature and time.

    `sizes` adds the number of rows and the sums of the absolute floats.
    """
    starts = bucket_starts(table)
    groups = Groups(None, starts, table.num_rows)
    added = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name in measures:
            values = column(table, name)
            added[name] = groups.reduce(np.add, values)
            if sizes and values.dtype.kind == "f":
                added[f"{name}{_SIZE}"] = groups.reduce(np.add, np.abs(values))
    if sizes:
        added[_ADDENDS] = groups.sizes
    rows = pa.array(starts)
    keys = {name: table[name].take(rows) for name in KEYS}
    # NaN stays NaN here: it is no missing sum, but one that cannot be told.
    return pa.table({**keys, **{name: pa.array(values) for name, values in added.items()}})


def whole_period(table: pa.Table, measures: Sequence[str]) -> pa.Table:
    """The same per feature, all times together."""
    always = pa.array(np.zeros(table.num_rows, np.int64))
    return sums(table.select(["feature", *measures]).append_column("timestamp", always), measures)


OFF_MAP_COLUMNS = (*KEYS, *COORDINATES, "t_sum", "t_mean")


def off_map(cells: pa.Table) -> pa.Table:
    """What the cells that have no place on the map add up to, in the measures of the grid.

    `cells` have `OFF_MAP_COLUMNS`.
    """
    lat, lng = (cast(Floats, column(cells, name)) for name in COORDINATES)
    off = cells.filter(pa.array(~on_map(lat, lng)))
    mean = cast(Floats, column(off, "t_mean"))
    measures = {
        "s_count": (~np.isnan(mean)).astype(np.int64),
        "s_sum_t_sum": cast(Floats, column(off, "t_sum")),
        "s_sum_t_mean": np.nan_to_num(mean, nan=0.0, posinf=np.inf, neginf=-np.inf),
    }
    table = pa.table({**{name: off[name] for name in KEYS}, **{k: pa.array(v) for k, v in measures.items()}})
    return sums(table, GRID_MEASURES)


# --- tiles -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """What the tiles of a table of grid cells have to be."""

    count: Ints
    """Number of tiles of each zoom, 0 to 8; meaningless where a sum is not finite."""
    points: Ints
    """What the counts of all bins of each zoom add up to."""
    finite: bool
    samples: tuple[Tile, ...]
    """Some tiles, at least one of each zoom."""


@dataclass(frozen=True)
class Tile:
    """A tile, and what its bins add up to."""

    feature: str
    timestamp: int
    zoom: int
    x: int
    y: int
    bins: tuple[float, float, float]
    """s_sum_t_sum, s_sum_t_mean and weight."""
    scale: tuple[float, float, float]
    """The same of the absolute numbers."""
    addends: int
    """Rows of the table that it is added up from."""

    def agrees(self, found: tuple[float, float, float]) -> bool:
        """Whether a published tile holds the same.

        Bins that overflowed are left out of tiles: where any may have, nothing can be told.
        """
        return not np.isfinite(self.scale).all() or all(
            abs(mine - other) <= rounding(self.addends, scale)
            for mine, other, scale in zip(self.bins, found, self.scale, strict=True)
        )


def expected_tiles(table: pa.Table, chance: np.random.Generator) -> Tiles:
    """What the tiles of a table of grid cells have to be; samples are drawn.

    Cells without any value have no place in tiles.
    """
    count, points = np.zeros(len(ZOOMS), np.int64), np.zeros(len(ZOOMS), np.int64)
    table = table.filter(pa.array(cast(Ints, column(table, "s_count")) > 0))
    if not table.num_rows:
        return Tiles(count, points, finite=True, samples=())
    for level in pyramid(table):
        count[level.zoom] += np.count_nonzero(level.begins <= level.zoom)
        points[level.zoom] += level.s_count.sum()
    figures = [cast(Floats, column(table, name).astype(np.float64)) for name in _TILE_FIGURES]
    with np.errstate(over="ignore"):
        # What adds up to infinity anywhere is left out of tiles there.
        finite = all(bool(np.isfinite(np.abs(values).sum())) for values in figures)
    return Tiles(count, points, finite, tuple(_samples(table, figures, chance)) if finite else ())


def one_bucket(table: pa.Table, chance: np.random.Generator) -> pa.Table:
    """The rows of one feature and time of a table of at least one row, by chance."""
    starts = np.append(bucket_starts(table), table.num_rows)
    start, end = starts[(bucket := int(chance.integers(len(starts) - 1))) : bucket + 2].tolist()
    return table.slice(start, end - start)


_TILE_FIGURES = ("s_sum_t_sum", "s_sum_t_mean", "s_count")


def _samples(table: pa.Table, figures: Sequence[Floats], chance: np.random.Generator) -> Iterator[Tile]:
    """A tile of each zoom, around a random subtile of a random feature and time."""
    starts = np.append(bucket_starts(table), table.num_rows)
    quadkeys = cast(Quadkeys, column(table, "quadkey"))
    for zoom in ZOOMS:
        bucket = int(chance.integers(len(starts) - 1))
        start, end = int(starts[bucket]), int(starts[bucket + 1])
        shift = np.uint32(2 * (MAX_PRECISION - zoom))
        tile = quadkeys[int(chance.integers(start, end))] >> shift
        # Rows of a bucket are in order of the quadkey.
        within = quadkeys[start:end] >> shift
        first, last = (start + int(np.searchsorted(within, tile, side=side)) for side in ("left", "right"))
        x, y = deinterleave(np.array([tile], np.uint32))
        of_tile = [values[first:last] for values in figures]
        bins = (float(of_tile[0].sum()), float(of_tile[1].sum()), float(of_tile[2].sum()))
        scale = tuple(float(np.abs(values).sum()) for values in of_tile)
        yield Tile(
            table["feature"][start].as_py(),
            table["timestamp"][start].as_py(),
            zoom,
            int(x[0]),
            int(y[0]),
            bins,
            (scale[0], scale[1], scale[2]),
            last - first,
        )
