"""Sums of temporal cells over any set of places, and the published figures formed from them.

The spatial step (docs/specification/from-rows-to-figures.md#figures) as a registry of measures with the
three moves of every aggregation: `lift` a cell into measures, `reduce` measures of a group, `finish` into
the published columns. Each shard gives partial results, which merge into the tables of all shards. Grids
belong to `grid.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import (
    Coded,
    Codes,
    Floats,
    Groups,
    Ints,
    build_table,
    column,
    encode_ints,
    encode_text,
    group_by,
)
from datacube_assets.kernels.regions import Regions
from datacube_assets.kernels.schema import (
    FURTHER_MEASURES,
    MEANS,
    REGION_LEVELS,
    WEIGHTED_MEANS,
    Layout,
    RegionLevel,
    cell_column,
    published_columns,
)
from datacube_assets.kernels.sums import ExactSums, exact_sums

Measures = dict[str, npt.NDArray[np.generic]]

_REDUCTIONS: dict[str, np.ufunc] = {
    **{f"s_min_{measure}": np.fmin for measure in WEIGHTED_MEANS},
    **{f"s_max_{measure}": np.fmax for measure in WEIGHTED_MEANS},
    **{measure.name: {"min": np.fmin, "max": np.fmax}[measure.merge] for measure in FURTHER_MEASURES},
}
"""How a measure merges; all others are sums."""
DIVISORS: Mapping[str, str] = {"t_sum": "cells", "t_mean": "s_count", "t_wavg": "wavg_cells"}
"""The measure that counts the cells of which a mean over places is taken, by what it is the mean of."""


def lift(cells: pa.Table, *, weighted: bool, ranges: bool = False) -> Measures:
    """Each temporal cell as the measures of a group of one cell.

    `ranges` adds smallest and largest values, which only the summary of the whole period needs.
    """
    t = {name: cast(Floats, column(cells, name)) for name in (WEIGHTED_MEANS if weighted else MEANS)}
    has_mean = ~np.isnan(t["t_mean"])
    measures: Measures = {
        "cells": np.ones(cells.num_rows, np.int64),
        "s_count": has_mean.astype(np.int64),
        "s_sum_t_sum": t["t_sum"],
        "s_sum_t_mean": np.where(has_mean, t["t_mean"], 0.0),
    }
    if weighted:
        weight = cast(Floats, column(cells, "weight"))
        has_wavg = ~np.isnan(t["t_wavg"])
        measures["wavg_cells"] = has_wavg.astype(np.int64)
        measures["s_sum_t_wavg"] = np.where(has_wavg, t["t_wavg"], 0.0)
        for name, values in t.items():
            present = ~np.isnan(values)
            # Only weights of present values count.
            measures[f"weight_{name}"] = np.where(present, weight, 0.0)
            with np.errstate(over="ignore", invalid="ignore"):
                measures[f"weighted_{name}"] = np.where(present, values * weight, 0.0)
    for further in FURTHER_MEASURES:
        measures[further.name] = t[further.of]
    if ranges:
        for name, values in t.items():
            measures.setdefault(f"s_min_{name}", values)
            measures.setdefault(f"s_max_{name}", values)
    return measures


def reduce(measures: Measures, groups: Groups) -> Measures:
    """The measures of each group; float sums do not depend on the order of the rows."""
    return {
        name: exact_sums(cast(Floats, values), groups)
        if _is_float_sum(name, values)
        else groups.reduce(_REDUCTIONS.get(name, np.add), values)
        for name, values in measures.items()
    }


def _is_float_sum(name: str, values: npt.NDArray[np.generic]) -> bool:
    return values.dtype.kind == "f" and name not in _REDUCTIONS


def finish(measures: Mapping[str, npt.NDArray[np.generic]], columns: Sequence[str]) -> Measures:
    """Published columns (`schema.published_columns`, `schema.summary_columns`) from measures.

    `s_mean_t_sum` divides by all cells, `s_mean_t_mean` and `s_mean_t_wavg` by the cells that have one.
    Whatever is not finite is NaN: infinity is never published.
    """
    return {name: _figure(measures, name) for name in columns}


def _figure(measures: Mapping[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    if name == "s_count":
        return measures[name]
    _, aggregation, measure = name.split("_", 2)
    with np.errstate(all="ignore"):
        if aggregation == "mean":
            values = cast(Floats, measures[f"s_sum_{measure}"]) / cast(Ints, measures[DIVISORS[measure]])
        elif aggregation == "wavg":
            weight = cast(Floats, measures[f"weight_{measure}"])
            values = cast(Floats, measures[f"weighted_{measure}"]) / weight
        else:
            values = cast(Floats, measures[name])
    return np.where(np.isfinite(values), values, np.nan) + 0.0


def table_measures(table: pa.Table) -> Measures:
    """The measures of an aggregate table, as arrays."""
    keys = {"feature", "timestamp", "region_id", "value", *REGION_LEVELS}
    return {name: column(table, name) for name in table.column_names if name not in keys}


# --- aggregates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breakdown:
    """One qualifier, with the features it breaks down."""

    qualifier: str
    features: frozenset[str]


@dataclass(frozen=True)
class Cells:
    """Temporal cells of a period, taken apart once for everything that is added up of them."""

    table: pa.Table
    """`schema.CELL_COLUMNS`, of which those that nothing needs may be missing."""
    layout: Layout
    ranges: bool = False
    """Whether smallest and largest values are wanted (`lift`)."""

    @cached_property
    def feature(self) -> Coded:
        return encode_text(self.table["feature"])

    @cached_property
    def time(self) -> Coded:
        return encode_ints(cast(Ints, column(self.table, "timestamp")))

    @cached_property
    def regions(self) -> Regions:
        return Regions.of(self.table, self.layout.levels)

    @cached_property
    def measures(self) -> Measures:
        return lift(self.table, weighted=self.layout.weighted, ranges=self.ranges)

    def of(self, breakdown: Breakdown | None) -> Cells:
        """Those that count for a breakdown."""
        if breakdown is None:
            return self
        names = self.feature.values.to_pylist()
        mapped = np.array([name in breakdown.features for name in names], np.bool_)
        if mapped.all():
            return self
        return replace(self, table=self.table.filter(pa.array(mapped[self.feature.codes])))

    def keys(self, breakdown: Breakdown | None) -> dict[str, Coded]:
        """Codes of feature, time [and qualifier value]."""
        keys = {"feature": self.feature, "timestamp": self.time}
        if breakdown is not None:
            keys["value"] = encode_text(self.table[cell_column(breakdown.qualifier)])
        return keys


def global_aggregates(cells: Cells, breakdown: Breakdown | None = None) -> pa.Table:
    """Measures per feature and time [and qualifier value] (`schema.GLOBAL_COLUMNS`), in that order.

    `cells` are all of the run, or a part that holds whole features.
    """
    keys, groups, measures = _global(cells, breakdown)
    return build_table({**_take(keys, groups), **reduce(measures, groups)})


def global_partial(cells: Cells, breakdown: Breakdown | None = None) -> pa.Table:
    """The same of one shard of several, for `merge_global`.

    Sums are not rounded yet (`sums.ExactSums.columns`), so that it does not matter how cells were
    distributed over shards.
    """
    keys, groups, measures = _global(cells, breakdown)
    return build_table({**_take(keys, groups), **_reduce_exactly(measures, groups)})


def merge_global(partials: Sequence[pa.Table]) -> pa.Table:
    """What `global_aggregates` makes of the cells of all shards."""
    table = pa.concat_tables(partials).unify_dictionaries()
    keys = _coded(table)
    groups = group_by(list(keys.values()))
    return build_table({**_take(keys, groups), **_merge(table_measures(table), groups)})


def _global(cells: Cells, breakdown: Breakdown | None) -> tuple[dict[str, Coded], Groups, Measures]:
    cells = cells.of(breakdown)
    keys = cells.keys(breakdown)
    return keys, group_by(list(keys.values())), cells.measures


def regional_aggregates(cells: Cells, breakdown: Breakdown | None = None) -> dict[RegionLevel, pa.Table]:
    """Measures per feature, time, region [and qualifier value] of every level.

    Tables by region level (`schema.REGIONAL_COLUMNS`), ordered by their keys; none without levels. The
    cells are reduced once, to the deepest level; each level above adds up the one below it.
    """
    keys, regions, groups, measures = _regional(cells, breakdown)
    return _roll_up(keys, regions, groups, reduce(measures, groups), cells.layout)


def regional_partial(cells: Cells, breakdown: Breakdown | None = None) -> pa.Table:
    """Measures of one shard of several, per feature, time, region of the deepest level [and value].

    For `merge_regional`. The region is named by the columns of all its levels; sums as in
    `global_partial`.
    """
    keys, regions, groups, measures = _regional(cells, breakdown)
    tuples = regions.tuples.codes[groups.first]
    levels: dict[str, Coded] = {
        level: encode_text(names.take(pa.array(tuples))) for level, names in regions.names.items()
    }
    return build_table({**_take(keys, groups), **levels, **_reduce_exactly(measures, groups)})


def merge_regional(partials: Sequence[pa.Table], layout: Layout) -> dict[RegionLevel, pa.Table]:
    """What `regional_aggregates` makes of the cells of all shards."""
    table = pa.concat_tables(partials).unify_dictionaries()
    regions = Regions.of(table, layout.levels)
    keys = _coded(table)
    feature, time, *value = keys.values()
    groups = group_by([feature, time, regions.tuples, *value])
    return _roll_up(keys, regions, groups, _merge(table_measures(table), groups), layout)


def _regional(
    cells: Cells, breakdown: Breakdown | None
) -> tuple[dict[str, Coded], Regions, Groups, Measures]:
    cells = cells.of(breakdown)
    keys = cells.keys(breakdown)
    feature, time, *value = keys.values()
    groups = group_by([feature, time, cells.regions.tuples, *value])
    return keys, cells.regions, groups, cells.measures


def _roll_up(
    keys: Mapping[str, Coded],
    regions: Regions,
    groups: Groups,
    measures: Measures,
    layout: Layout,
) -> dict[RegionLevel, pa.Table]:
    """The tables of all levels, from the measures of the deepest."""
    keys = _take(keys, groups)
    tuples = regions.tuples.codes[groups.first]
    tables: dict[RegionLevel, pa.Table] = {}
    for level in reversed(layout.levels):
        ids, lines = regions.level(level), regions.lines(level)
        # What is left of a group stands for all of it: they share this level and all above.
        keys, tuples, measures = _added_up(keys, lines, tuples, measures)
        shown, places, figures = keys, tuples, measures
        if len(lines.values) > len(ids.values):
            shown, places, figures = _added_up(keys, ids, tuples, measures)
        feature, time, *value = shown.values()
        columns = {"feature": feature, "timestamp": time, "region_id": ids.take(places)}
        if value:
            columns["value"] = value[0]
        tables[level] = build_table({**columns, **figures})
    return {level: tables[level] for level in layout.levels}


def _added_up(
    keys: Mapping[str, Coded], regions: Coded, tuples: Codes, measures: Measures
) -> tuple[dict[str, Coded], Codes, Measures]:
    """Rows of the same keys and region as one, whose combination of names is that of the first of them."""
    feature, time, *value = keys.values()
    groups = group_by([feature, time, regions.take(tuples), *value])
    return _take(keys, groups), tuples[groups.first], reduce(measures, groups)


def _coded(table: pa.Table) -> dict[str, Coded]:
    """The codes of feature, time [and qualifier value] of partial results."""
    return {
        name: encode_text(table[name])
        if pa.types.is_dictionary(table.schema.field(name).type)
        else encode_ints(cast(Ints, column(table, name)))
        for name in ("feature", "timestamp", "value")
        if name in table.column_names
    }


def _reduce_exactly(measures: Measures, groups: Groups) -> Measures:
    reduced: Measures = {}
    for name, values in measures.items():
        if _is_float_sum(name, values):
            reduced.update(ExactSums.of(cast(Floats, values), groups).columns(name))
        else:
            reduced[name] = groups.reduce(_REDUCTIONS.get(name, np.add), values)
    return reduced


def _merge(partial: Measures, groups: Groups) -> Measures:
    """The measures of each group of partial results, rounded."""
    merged: Measures = {}
    for name, values in partial.items():
        measure, _, slice_ = name.partition("#")
        if not slice_:
            merged[name] = groups.reduce(_REDUCTIONS.get(name, np.add), values)
        elif measure not in merged:
            merged[measure] = ExactSums.from_columns(measure, partial).merge(groups).values()
    return merged


def _take(keys: Mapping[str, Coded], groups: Groups) -> dict[str, Coded]:
    first = groups.first
    return {name: coded.take(first) for name, coded in keys.items()}


def published(table: pa.Table, layout: Layout) -> Measures:
    """The published columns of an aggregate table."""
    return finish(table_measures(table), published_columns(layout.weighted))
