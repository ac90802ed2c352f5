"""What changed between two datacubes: figures that are other ones, and rows that came or went.

Two aggregate tables of the same kind are matched by their keys (feature, time, and region, value or subtile),
and the figures that are published of them compared. Results of parts add up, as long as all rows of a region
are in one part. Which tables are compared, and where they lie, is decided in `storage/comparing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.groups import (
    Coded,
    Codes,
    Floats,
    Ints,
    Key,
    Mask,
    Tuples,
    column,
    encode_ints,
    encode_text,
    group_by,
)
from datacube_assets.kernels.pyramid import in_tiles
from datacube_assets.kernels.schema import is_text, published_columns
from datacube_assets.kernels.shards import text_hashes
from datacube_assets.kernels.spatial import finish, table_measures

TOLERANCE = 1e-9
"""Relative: what agrees so well is the same figure."""
CLASSES = ("up to 1 %", "up to 10 %", "up to 50 %", "more")
"""By how much figures change, relative to what they were; a figure that appears, or vanishes, is `more`."""
_EDGES = (0.01, 0.1, 0.5)
MOVING = ("s_sum_t_sum", "s_mean_t_mean")
"""Figures by which a region moves."""
MOVERS = 20
"""Figures, at most, that are listed because they changed most."""
_KEYS = ("feature", "timestamp", "region_id", "value", "quadkey")
_GRID = ("s_sum_t_sum", "s_sum_t_mean", "s_mean_t_mean", "s_count")
"""Of subtiles, which do not know how many cells they have."""


@dataclass
class Counts:
    """What became of the figures of one feature at one level; counts of parts add up."""

    compared: int = 0
    """Figures that both have."""
    changed: int = 0
    classes: tuple[int, ...] = (0,) * len(CLASSES)
    """Changed figures by `CLASSES`."""
    came: int = 0
    """Figures that only the later one has."""
    went: int = 0
    regions: int = 0
    """Regions of the earlier one."""
    moved: int = 0
    """Those whose figures moved by more than the limit, or that went."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.compared + other.compared,
            self.changed + other.changed,
            tuple(a + b for a, b in zip(self.classes, other.classes, strict=True)),
            self.came + other.came,
            self.went + other.went,
            self.regions + other.regions,
            self.moved + other.moved,
        )


@dataclass(frozen=True)
class Mover:
    """A figure that changed much."""

    feature: str
    timestamp: int
    """Milliseconds UTC."""
    region: str
    """Empty over all places."""
    figure: str
    before: float
    after: float
    share: float
    """The change beside the largest figure of its feature and level that there was."""


@dataclass(frozen=True)
class Compared:
    """Two tables, or two parts of them."""

    features: dict[str, Counts] = field(default_factory=dict)
    movers: tuple[Mover, ...] = ()

    def __add__(self, other: Compared) -> Compared:
        features = dict(self.features)
        for name, counts in other.features.items():
            features[name] = features[name] + counts if name in features else counts
        return Compared(features, largest((*self.movers, *other.movers)))


def largest(movers: Sequence[Mover]) -> tuple[Mover, ...]:
    """The ones that changed most, in an order that depends on nothing else."""
    ordered = sorted(movers, key=lambda one: (-one.share, one.feature, one.timestamp, one.region, one.figure))
    return tuple(ordered[:MOVERS])


def compare(before: pa.Table, after: pa.Table, limit: float, *, by_region: bool) -> Compared:
    """Compare two aggregate tables of one kind.

    `by_region` says whether regions that moved by more than the limit are counted, and movers listed: where
    the tables are by a qualifier, they would be counted several times.
    """
    if "quadkey" in before.column_names:
        before, after = _in_tiles(before), _in_tiles(after)
    keys = _keys(before, after)
    feature = cast(Coded, keys["feature"])
    size, first = len(feature.values), before.num_rows
    figures = figures_of(before, after)
    of_before, of_after = (len(figures_of(one, one)) for one in (before, after))
    # Rows of both that belong together; those of the later table begin at `first`.
    b, a = _matched(list(keys.values()))
    classes = np.zeros((size, len(CLASSES)), np.int64)
    movers: list[Mover] = []
    moves: list[tuple[Floats, Floats]] = []
    if not (len(b) == before.num_rows == after.num_rows and before.equals(after)):
        old, new = _figures(before, figures), _figures(after, figures)
        for name in figures:
            was, now = old[name][b], new[name][a - first]
            change, relative = _changes(was, now)
            rows = np.flatnonzero(relative > TOLERANCE)
            np.add.at(classes, (feature.codes[b[rows]], np.searchsorted(_EDGES, relative[rows])), 1)
            if name in MOVING and by_region:
                moves.append((change, np.abs(np.nan_to_num(was))))
                movers += _movers(name, keys, b, rows, was, now, change)
    regions, moved = _regions(keys, first, b, moves, limit) if by_region else (np.zeros(size, np.int64),) * 2
    both, older, newer = (
        np.bincount(feature.codes[rows], minlength=size)
        for rows in (b, slice(None, first), slice(first, None))
    )
    return Compared(
        {
            name: Counts(
                compared=len(figures) * int(both[code]),
                changed=int(classes[code].sum()),
                classes=tuple(classes[code].tolist()),
                came=of_after * int(newer[code]) - len(figures) * int(both[code]),
                went=of_before * int(older[code]) - len(figures) * int(both[code]),
                regions=int(regions[code]),
                moved=int(moved[code]),
            )
            for code, name in enumerate(feature.values.to_pylist())
        },
        largest(movers),
    )


def figures_of(before: pa.Table, after: pa.Table) -> tuple[str, ...]:
    """The figures that are published of both tables."""
    both = set(before.column_names) & set(after.column_names)
    if "cells" not in both:
        return _GRID
    return published_columns("wavg_cells" in both)


def _in_tiles(subtiles: pa.Table) -> pa.Table:
    """Those that are in a tile."""
    count = cast(Ints, column(subtiles, "s_count"))
    there = in_tiles(count, *(cast(Floats, column(subtiles, name)) for name in _GRID[:2]))
    return subtiles if there.all() else subtiles.filter(pa.array(there))


def _figures(table: pa.Table, figures: Sequence[str]) -> dict[str, Floats]:
    measures = {name: values for name, values in table_measures(table).items() if name != "quadkey"}
    return {name: values.astype(np.float64) for name, values in finish(measures, figures).items()}


def _keys(before: pa.Table, after: pa.Table) -> dict[str, Key]:
    """The key columns of both tables, one behind the other, as codes of the same values."""
    keys: dict[str, Key] = {}
    for name in _KEYS:
        if name in before.column_names:
            chunks = [*before[name].chunks, *after[name].chunks]
            kind = before.schema.field(name).type
            if is_text(getattr(kind, "value_type", kind)):
                plain = [chunk.cast(pa.dictionary(pa.int32(), pa.string())) for chunk in chunks]
                joined = pa.chunked_array(plain, pa.dictionary(pa.int32(), pa.string()))
                keys[name] = encode_text(joined)
            else:
                numbers = pa.chunked_array([chunk.cast(pa.int64()) for chunk in chunks], pa.int64())
                keys[name] = encode_ints(numbers.to_numpy())
    return keys


def _matched(keys: Sequence[Key]) -> tuple[Codes, Codes]:
    """Rows that have the same key in both tables: those of the earlier table, and those of the later one."""
    groups = group_by(keys)
    starts = groups.starts[groups.sizes == 2]
    order = np.arange(groups.rows) if groups.order is None else groups.order
    # Ties are in the order of rows, so the earlier table's row comes first.
    return order[starts], order[starts + 1]


def _changes(was: Floats, now: Floats) -> tuple[Floats, Floats]:
    """By how much figures changed, and relative to what they were; missing ones count as 0."""
    known = np.isnan(was).astype(np.int8) + np.isnan(now)
    with np.errstate(over="ignore"):
        change = np.abs(np.nan_to_num(now) - np.nan_to_num(was))
    base = np.abs(np.nan_to_num(was))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.where(change == 0, 0.0, change / base)
    # A figure that appears, or vanishes, is no small change.
    relative[known == 1] = np.inf
    return change, relative


def _regions(
    keys: Mapping[str, Key], first: int, both: Codes, moves: Sequence[tuple[Floats, Floats]], limit: float
) -> tuple[Ints, Ints]:
    """For each feature the regions that there were, and how many of them moved or went."""
    feature, region = cast(Coded, keys["feature"]), keys.get("region_id")
    size = len(feature.values)
    if region is None:
        return np.zeros(size, np.int64), np.zeros(size, np.int64)
    places = Tuples.of([feature, region], len(feature))
    there, stays = (np.zeros(len(places), np.bool_) for _ in range(2))
    there[places.codes[:first]] = True
    stays[places.codes[first:]] = True
    moved: Mask = there & ~stays
    for change, base in moves:
        with np.errstate(over="ignore", invalid="ignore"):
            changed = np.bincount(places.codes[both], change, len(places))
            moved |= changed > limit * np.bincount(places.codes[both], base, len(places))
    of_feature = places.members[0]
    return (
        np.bincount(of_feature[there], minlength=size),
        np.bincount(of_feature[moved], minlength=size),
    )


def _movers(
    figure: str, keys: Mapping[str, Key], both: Codes, rows: Codes, was: Floats, now: Floats, change: Floats
) -> list[Mover]:
    """The figures that changed most, beside the largest that their feature had."""
    if not len(rows):
        return []
    feature, time, region = (cast(Coded | None, keys.get(name)) for name in _KEYS[:3])
    assert feature is not None
    assert time is not None
    of = feature.codes[both]
    scale = np.zeros(len(feature.values))
    np.maximum.at(scale, of, np.abs(np.nan_to_num(was)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(scale[of[rows]] > 0, change[rows] / scale[of[rows]], 1.0)
    count = min(MOVERS, len(rows))
    # Of equal ones, those that sort first.
    chosen = rows[np.lexsort((rows, -share))[:count]]
    shares = np.sort(share)[::-1][:count]

    def values(coded: Coded | None) -> list[Any]:
        if coded is None:
            return [""] * count
        taken: list[Any] = coded.values.take(pa.array(coded.codes[both[chosen]])).to_pylist()
        return taken

    return [
        Mover(name, when, place, figure, float(old), float(new), float(one))
        for name, when, place, old, new, one in zip(
            values(feature), values(time), values(region), was[chosen], now[chosen], shares, strict=True
        )
    ]


# --- names, and parts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What one kind of thing is called in both: how many there are, and which came or went."""

    before: int
    after: int
    came: tuple[str, ...]
    """The first of them, sorted."""
    went: tuple[str, ...]
    came_count: int
    went_count: int


LISTED = 20
"""Names that are listed of what came or went."""


def names(before: pa.Array | pa.ChunkedArray, after: pa.Array | pa.ChunkedArray) -> Names:
    """What came and went between two columns of texts or numbers, of which each may occur often."""
    old, new = (_distinct(one) for one in (before, after))
    came = new.filter(pc.invert(pc.is_in(new, old)))
    went = old.filter(pc.invert(pc.is_in(old, new)))
    return Names(len(old), len(new), _listed(came), _listed(went), len(came), len(went))


def _distinct(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    kind = getattr(values.type, "value_type", values.type)
    plain = values.unique().cast(pa.string() if is_text(kind) else kind)
    return plain.drop_null()


def _listed(values: pa.Array) -> tuple[str, ...]:
    chosen = values.take(pc.sort_indices(values)[:LISTED])
    return tuple(map(str, chosen.to_pylist()))


def part_of(table: pa.Table, part: int, parts: int) -> pa.Table:
    """The rows of a part of several: whole regions, values or subtiles, the same ones of every table."""
    name = next(one for one in ("region_id", "value", "quadkey", "timestamp") if one in table.column_names)
    return table.filter(pa.array(_numbers(table, name) % np.uint64(parts) == part))


def _numbers(table: pa.Table, name: str) -> Any:
    """A number for each value of a column that depends on nothing but the value."""
    values = table[name]
    kind = getattr(values.type, "value_type", values.type)
    if not is_text(kind):
        return column(table, name).astype(np.uint64)
    coded = encode_text(values)
    return text_hashes(coded.values)[coded.codes]
