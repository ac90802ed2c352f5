"""From a published figure back to the rows that made it.

A `Scope` says which figure it is; here is which delivered rows and which cells lie in it, which rows did not
count and why, and the arithmetic of the figure in words. Everything is decided by the functions that made
the figure, so the two cannot disagree. Where rows and cells are read from is the business of `read/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import Columns, as_numbers, kind_of, plain
from datacube_assets.kernels.grid import grid_cells
from datacube_assets.kernels.groups import Floats, Ints, Mask, column, encode_text
from datacube_assets.kernels.morton import BIN_BITS, BINS_PER_TILE, check_tile, deinterleave
from datacube_assets.kernels.normalize import (
    ABSENT_FEATURE,
    as_values,
    degrees_of,
    delivered_columns,
    describing_columns,
    names_of,
)
from datacube_assets.kernels.plan import Plan
from datacube_assets.kernels.projection import on_map, quadkeys
from datacube_assets.kernels.pyramid import pyramid
from datacube_assets.kernels.regions import Regions
from datacube_assets.kernels.schema import (
    COORDINATES,
    Layout,
    Period,
    RegionLevel,
    cell_column,
    published_columns,
    summary_columns,
)
from datacube_assets.kernels.spatial import (
    DIVISORS,
    Breakdown,
    Cells,
    finish,
    global_aggregates,
    regional_aggregates,
    table_measures,
)
from datacube_assets.kernels.temporal import bucket_starts
from datacube_assets.kernels.times import times_of

TILE_FIGURES = ("s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean", "s_count")
"""What a bin of a tile says; its means divide by `s_count`, which is the bin's weight."""

# Why a row does not count, the first that applies.
NO_FEATURE = "names no feature"
BAD_TIMESTAMP = "timestamp out of range"
NO_NUMBER = "value is no number"
MISSING_VALUE = "value is missing"
INFINITE_VALUE = "value is infinite"
OFF_MAP = "not on the map"
DROPPED = (NO_FEATURE, BAD_TIMESTAMP, NO_NUMBER)
"""Those for which a row is in no table at all."""
NO_TIMESTAMP = "timestamp is missing"
NO_WEIGHT = "weight is missing"
TURNED = "longitude is wrapped"


@dataclass(frozen=True)
class Bin:
    """A bin of a tile: its zoom, the tile's column and row, and its number in the tile."""

    zoom: int
    x: int
    y: int
    number: int

    def __post_init__(self) -> None:
        """Raises ValueError for a bin that no map has."""
        check_tile(self.zoom, self.x, self.y)
        if not 0 <= self.number < BINS_PER_TILE:
            raise ValueError(f"bin {self.number}: give 0 to {BINS_PER_TILE - 1}")

    @property
    def precision(self) -> int:
        return self.zoom + BIN_BITS

    def square(self) -> tuple[int, int]:
        """Column and row of the bin among all bins of its zoom."""
        row, column = divmod(self.number, 1 << BIN_BITS)
        return (self.x << BIN_BITS) + column, (self.y << BIN_BITS) + row


@dataclass(frozen=True)
class Scope:
    """Which figures are explained: those of a feature at a time, of a place, of a qualifier's value."""

    feature: str
    period: Period
    start: int
    """Start of the month or year, ms UTC; 0 for the whole period."""
    level: RegionLevel | None = None
    region: str = ""
    """Region id at the level."""
    bin: Bin | None = None
    qualifier: str | None = None
    value: str = ""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that a weighted datacube may have in it."""
        if self.bin is not None:
            return TILE_FIGURES
        return summary_columns(True) if self.period == "all" else published_columns(True)


# --- rows ------------------------------------------------------------------------------------------


def rows_in_scope(batch: pa.Table, what: Plan, scope: Scope) -> pa.Table:
    """The delivered rows of a batch that a figure is about, whether they count or not.

    Columns: `row`, int64, the row's number in the batch; `reason`, string, why it does not count, null where
    it does; `cleaning`, string, what cleaning changed, null where nothing; then the columns as delivered.
    A row without a feature, or with a timestamp out of range, belongs to no feature or time. It is in the
    scope of each, so that nobody looks for it in vain; so is, for a bin, one that is not on the map.
    """
    numbers = np.arange(batch.num_rows)
    feature = names_of(delivered_columns(batch), "feature", what, absent=ABSENT_FEATURE)
    batch, numbers = _narrowed(batch, numbers, _equal(feature, scope.feature) | _is_null(feature))
    times = times_of(delivered_columns(batch)["timestamp"], what.options)
    in_time = times.invalid | (bucket_starts(times.milliseconds, scope.period) == scope.start)
    batch, numbers = _narrowed(batch, numbers, in_time)
    filled, invalid = times.missing[in_time], times.invalid[in_time]
    delivered = delivered_columns(batch)
    cleaned = describing_columns(delivered, what, degrees_of(delivered, what.layout))
    placed = _placed(cleaned, batch.num_rows, what.layout)
    here = _in_place(cleaned, batch.num_rows, what.layout, scope)
    off_map = ~placed if scope.bin else np.zeros(batch.num_rows, np.bool_)
    batch, numbers = _narrowed(batch, numbers, here)
    filled, invalid, off_map = filled[here], invalid[here], off_map[here]
    cleaned = {name: column.filter(pa.array(here)) for name, column in cleaned.items()}

    delivered = delivered_columns(batch)
    values, missing, unreadable, _ = as_values(delivered["value"])
    conditions: dict[str, Mask] = {
        NO_FEATURE: _is_null(names_of(delivered, "feature", what, absent=ABSENT_FEATURE)),
        BAD_TIMESTAMP: invalid,
        NO_NUMBER: unreadable,
        MISSING_VALUE: missing,
        INFINITE_VALUE: np.isinf(values),
        OFF_MAP: off_map,
    }
    reasons = np.full(batch.num_rows, len(conditions), np.int32)
    for code, applies in reversed(list(enumerate(conditions.values()))):
        reasons[applies] = code
    reason = pa.array([*conditions, None], pa.string()).take(pa.array(reasons))
    changed = _changes(delivered, cleaned, what, filled & ~invalid)
    columns = {"row": pa.array(numbers), "reason": reason, "cleaning": changed}
    return pa.table([*columns.values(), *batch.columns], names=[*columns, *batch.column_names])


def faults(batch: pa.Table, what: Plan) -> dict[str, Mask]:
    """Which rows of a batch were dropped, and which of the others were repaired or are not everywhere.

    A row is dropped for one reason, the first of `DROPPED` that applies; it may have several other faults.
    """
    delivered = delivered_columns(batch)
    times = times_of(delivered["timestamp"], what.options)
    values, missing, unreadable, _ = as_values(delivered["value"])
    found: dict[str, Mask] = {}
    kept = np.ones(batch.num_rows, np.bool_)
    no_feature = _is_null(names_of(delivered, "feature", what, absent=ABSENT_FEATURE))
    for reason, applies in zip(DROPPED, (no_feature, times.invalid, unreadable), strict=True):
        found[reason] = applies & kept
        kept &= ~applies
    layout, others = what.layout, {NO_TIMESTAMP: times.missing}
    others |= {MISSING_VALUE: missing, INFINITE_VALUE: np.isinf(values)}
    if layout.coordinates:
        degrees = degrees_of(delivered, layout)
        if layout.mappable:
            lat, lng = (degrees[name] for name in COORDINATES)
            others[OFF_MAP] = ~on_map(lat, lng)
        if "lng" in degrees:
            others[TURNED] = (degrees["lng"] < -180) | (degrees["lng"] >= 180)
    if layout.weight:
        others[NO_WEIGHT] = ~np.isfinite(as_numbers(layout.weight, delivered[layout.weight]))
    return found | {fault: applies & kept for fault, applies in others.items()}


def _narrowed(batch: pa.Table, numbers: Ints, kept: Mask) -> tuple[pa.Table, Ints]:
    return (batch, numbers) if kept.all() else (batch.filter(pa.array(kept)), numbers[kept])


def _is_null(texts: pa.Array) -> Mask:
    missing: Mask = pc.is_null(texts).to_numpy(zero_copy_only=False)
    return missing


def _equal(texts: pa.Array | pa.ChunkedArray, wanted: str) -> Mask:
    """Which texts are one; null is none."""
    coded = encode_text(pc.fill_null(texts.cast(pa.string()), ""))
    equal = pc.equal(coded.values, wanted).to_numpy(zero_copy_only=False)
    found: Mask = equal[coded.codes] if len(equal) else np.zeros(len(coded.codes), np.bool_)
    if not wanted:
        found &= ~np.asarray(pc.is_null(texts).to_numpy(zero_copy_only=False))
    return found


Described = Mapping[str, pa.Array | pa.ChunkedArray]
"""Regions, coordinates and qualifiers by the names that they have among points."""


def _placed(columns: Described, rows: int, layout: Layout) -> Mask:
    """Which rows are on the map."""
    if not layout.mappable:
        return np.zeros(rows, np.bool_)
    lat, lng = (_floats(columns[name]) for name in COORDINATES)
    return on_map(lat, lng)


def _floats(values: pa.Array | pa.ChunkedArray) -> Floats:
    array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    floats: Floats = array.to_numpy()
    return floats


def _in_place(columns: Described, rows: int, layout: Layout, scope: Scope) -> Mask:
    """Which rows are of the region, bin and qualifier's value; of a bin, also those not on the map."""
    here = np.ones(rows, np.bool_)
    if scope.level is not None:
        regions = Regions.of(pa.table({level: columns[level] for level in layout.levels}), layout.levels)
        ids = pc.equal(regions.ids(scope.level), scope.region).to_numpy(zero_copy_only=False)
        here &= ids[regions.tuples.codes] if len(ids) else False
    if scope.bin is not None:
        on = _placed(columns, rows, layout)
        if on.any():
            lat, lng = (_floats(columns[name])[on] for name in COORDINATES)
            x, y = deinterleave(quadkeys(lat, lng, scope.bin.precision))
            column_, row = scope.bin.square()
            here[on] &= (x == column_) & (y == row)
    if scope.qualifier is not None:
        here &= _equal(columns[scope.qualifier], scope.value)
    return here


def _changes(delivered: Columns, cleaned: Described, what: Plan, filled: Mask) -> pa.Array:
    """What cleaning changed in each row, in words; null where nothing."""
    layout = what.layout
    rows = len(filled)
    notes: list[pa.Array] = []
    if filled.any():
        fill = np.datetime64(what.options.fill_timestamp, "ms").astype("datetime64[D]")
        notes.append(_note(filled, pa.scalar(f"timestamp missing, counted in {fill}")))
    for level in layout.levels:
        came, is_now = (
            plain(delivered[level]).cast(pa.string()),
            pa.chunked_array([cleaned[level]]).cast(pa.string()),
        )
        differs = pc.fill_null(pc.not_equal(came, is_now), False).to_numpy()
        if differs.any():
            notes.append(_note(differs, _join(f"{level} ", came, " became ", is_now)))
    for name in layout.coordinates:
        if kind_of(name, delivered[name].type) not in "fi":
            continue
        came_, now = _floats(plain(delivered[name]).cast(pa.float64(), safe=False)), _floats(cleaned[name])
        differs = ~np.isnan(came_) & (came_ != now)
        if differs.any():
            text, now_text = pa.array(came_).cast(pa.string()), pa.array(now).cast(pa.string())
            notes.append(_note(differs, _join(f"{name} ", text, " became ", now_text)))
    if layout.weight:
        lost = ~np.isfinite(as_numbers(layout.weight, delivered[layout.weight]))
        if lost.any():
            notes.append(_note(lost, pa.scalar("weight missing, counts as 0")))
    if not notes:
        return pa.nulls(rows, pa.string())
    # Each note begins with what stands between two.
    joined = pc.utf8_slice_codeunits(_join(*notes), len(_BETWEEN))
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


_BETWEEN = "; "
"""Between two changes of a row."""


def _join(*parts: pa.Array | pa.ChunkedArray | pa.Scalar | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "", null_handling="replace")


def _note(applies: Mask, text: pa.Array | pa.Scalar) -> pa.Array:
    noted = pc.if_else(pa.array(applies), _join(_BETWEEN, text), "")
    return noted.combine_chunks() if isinstance(noted, pa.ChunkedArray) else noted


# --- cells and figures -----------------------------------------------------------------------------


def cells_in_scope(cells: pa.Table, layout: Layout, scope: Scope) -> pa.Table:
    """Temporal cells (`schema.CELL_COLUMNS`) that a figure is made of, of a table of the scope's period."""
    times = cast(Ints, column(cells, "timestamp"))
    cells = cells.filter(pa.array(_equal(cells["feature"], scope.feature) & (times == scope.start)))
    described = {name: cells[name] for name in (*layout.levels, *layout.coordinates)}
    described |= {name: cells[cell_column(name)] for name in layout.qualifiers}
    here = _in_place(described, cells.num_rows, layout, scope)
    if scope.bin is not None:
        here &= _placed(described, cells.num_rows, layout)
    return cells.filter(pa.array(here))


def figures_of(cells: pa.Table, layout: Layout, scope: Scope) -> dict[str, float | int | None]:
    """The published figures of the cells of a scope, and the sums and counts they are formed from.

    None where a figure does not exist. Empty without cells.
    """
    if not cells.num_rows:
        return {}
    if scope.bin is not None:
        return _of_bin(cells, scope.bin)
    breakdown = scope.qualifier and Breakdown(scope.qualifier, frozenset((scope.feature,)))
    whole = Cells(cells, layout, ranges=scope.period == "all")
    if scope.level is not None:
        table = regional_aggregates(whole, breakdown or None)[scope.level]
    else:
        table = global_aggregates(whole, breakdown or None)
    measures = table_measures(table)
    names = summary_columns if scope.period == "all" else published_columns
    made = {**measures, **finish(measures, names(layout.weighted))}
    return {name: _scalar(values[0]) for name, values in made.items()}


def _of_bin(cells: pa.Table, bin_: Bin) -> dict[str, float | int | None]:
    for level in pyramid(grid_cells(cells)):
        if level.zoom == bin_.zoom and len(level):
            count = int(level.s_count[0])
            sums = {"t_sum": float(level.s_sum_t_sum[0]), "t_mean": float(level.s_sum_t_mean[0])}
            means = {name: total / count if count else None for name, total in sums.items()}
            return {
                "s_count": count,
                **{f"s_sum_{name}": total for name, total in sums.items()},
                **{f"s_mean_{name}": mean for name, mean in means.items()},
            }
    return {}


def _scalar(value: np.generic) -> float | int | None:
    number: float | int = value.item()
    return None if isinstance(number, float) and not np.isfinite(number) else number


_ADDENDS = 6
"""Addends that a formula shows."""


def formula(figure: str, cells: pa.Table, figures: Mapping[str, float | int | None], scope: Scope) -> str:
    """The arithmetic of a figure, with its numbers: `s_sum_t_sum / cells = 10 / 3`."""
    number = cells.num_rows
    if figure == "s_count":
        return f"temporal cells that have a mean, of {number:,}"
    _, aggregation, measure = figure.split("_", 2)
    total = f"s_sum_{measure}"
    if aggregation == "mean":
        divisor = "s_count" if scope.bin is not None else DIVISORS[measure]
        return f"{total} / {divisor} = {_shown(figures[total])} / {_shown(figures[divisor])}"
    if aggregation == "wavg":
        over, under = f"weighted_{measure}", f"weight_{measure}"
        return (
            f"sum of weight * {measure} / sum of weights = {_shown(figures[over])} / {_shown(figures[under])}"
        )
    values = cast(Floats, column(cells, measure))
    values = values[~np.isnan(values)]
    if aggregation != "sum":
        return f"{'smallest' if aggregation == 'min' else 'largest'} {measure} of {number:,} cells"
    shown = " + ".join(_shown(float(value)) for value in values[:_ADDENDS]) or "0"
    more = f" + ... ({len(values):,} addends)" if len(values) > _ADDENDS else ""
    return f"sum of {measure} over {number:,} cells = {shown}{more}"


def _shown(number: float | int | None) -> str:
    return "nothing" if number is None else repr(number) if isinstance(number, float) else str(number)
