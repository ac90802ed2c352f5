"""Sums of temporal cells over any set of places, and the published figures formed from them.

The spatial step of CONTRACTS D.2 as a registry of measures with the three moves of every aggregation:
`lift` a cell into measures, `reduce` measures of a group, `finish` into the published columns. Measures
add up, so partial results of shards merge by reducing once more. Grids belong to `grid.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.datacube.groups import (
    Coded,
    Floats,
    Groups,
    Ints,
    build_table,
    column,
    combine,
    encode_ints,
    encode_text,
    group,
    group_by,
)
from datacube_assets.datacube.regions import Regions
from datacube_assets.datacube.schema import (
    MEANS,
    WEIGHTED_MEANS,
    Layout,
    RegionLevel,
    cell_column,
    published_columns,
)

Measures = dict[str, npt.NDArray[np.generic]]

_REDUCTIONS: dict[str, np.ufunc] = {
    **{f"s_min_{measure}": np.fmin for measure in WEIGHTED_MEANS},
    **{f"s_max_{measure}": np.fmax for measure in WEIGHTED_MEANS},
}
"""How a measure merges; all others are sums."""


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
            # Only weights of present values count (DESIGN 5, 6).
            measures[f"weight_{name}"] = np.where(present, weight, 0.0)
            with np.errstate(over="ignore", invalid="ignore"):
                measures[f"weighted_{name}"] = np.where(present, values * weight, 0.0)
    if ranges:
        for name, values in t.items():
            measures[f"s_min_{name}"] = values
            measures[f"s_max_{name}"] = values
    return measures


def reduce(measures: Measures, groups: Groups) -> Measures:
    """The measures of each group."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: groups.reduce(_REDUCTIONS.get(name, np.add), values) for name, values in measures.items()
        }


def finish(measures: Mapping[str, npt.NDArray[np.generic]], columns: Sequence[str]) -> Measures:
    """Published columns (`schema.published_columns`, `schema.summary_columns`) from measures.

    `s_mean_t_sum` divides by all cells, `s_mean_t_mean` and `s_mean_t_wavg` by the cells that have one
    (CONTRACTS D.2). Whatever is not finite is NaN (DESIGN 5, 14).
    """
    return {name: _figure(measures, name) for name in columns}


def _figure(measures: Mapping[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    if name == "s_count":
        return measures[name]
    _, aggregation, measure = name.split("_", 2)
    with np.errstate(all="ignore"):
        if aggregation == "mean":
            cells = {"t_sum": "cells", "t_mean": "s_count", "t_wavg": "wavg_cells"}[measure]
            values = cast(Floats, measures[f"s_sum_{measure}"]) / cast(Ints, measures[cells])
        elif aggregation == "wavg":
            weight = cast(Floats, measures[f"weight_{measure}"])
            values = cast(Floats, measures[f"weighted_{measure}"]) / weight
        else:
            values = cast(Floats, measures[name])
    return np.where(np.isfinite(values), values, np.nan) + 0.0


def table_measures(table: pa.Table) -> Measures:
    """The measures of an aggregate table, as arrays."""
    keys = {"feature", "timestamp", "region_id", "value"}
    return {name: column(table, name) for name in table.column_names if name not in keys}


# --- aggregates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breakdown:
    """One qualifier, with the features it breaks down."""

    qualifier: str
    features: frozenset[str]


def global_aggregates(
    cells: pa.Table, layout: Layout, breakdown: Breakdown | None = None, *, ranges: bool = False
) -> pa.Table:
    """Measures per feature and time [and qualifier value] (`schema.GLOBAL_COLUMNS`), in that order."""
    cells, keys = _keys(cells, breakdown)
    groups = group_by(list(keys.values()))
    measures = reduce(lift(cells, weighted=layout.weighted, ranges=ranges), groups)
    return build_table({**_take(keys, groups), **measures})


def regional_aggregates(
    cells: pa.Table, layout: Layout, breakdown: Breakdown | None = None
) -> dict[RegionLevel, pa.Table]:
    """Measures per feature, time, region [and qualifier value] of every level.

    Tables by region level (`schema.REGIONAL_COLUMNS`), ordered by feature, time, region and value; none
    without levels. The cells are reduced once, to the deepest level; the levels above add that up.
    """
    if not layout.levels:
        return {}
    cells, keys = _keys(cells, breakdown)
    regions = Regions.of(cells, layout.levels)
    feature, time, *value = keys.values()
    groups = group_by([feature, time, regions.tuples, *value])
    measures = reduce(lift(cells, weighted=layout.weighted), groups)
    keys = _take(keys, groups)
    tuples = regions.tuples.codes[groups.first]
    tables: dict[RegionLevel, pa.Table] = {}
    for level in layout.levels:
        feature, time, *value = keys.values()
        region = regions.level(level, tuples)
        groups = group_by([feature, time, region, *value])
        taken = _take({"feature": feature, "timestamp": time, "region_id": region}, groups)
        if value:
            taken["value"] = value[0].take(groups.first)
        tables[level] = build_table({**taken, **reduce(measures, groups)})
    return tables


def merge(tables: Sequence[pa.Table], keys: Sequence[str]) -> pa.Table:
    """One table from the partial tables of shards, ordered by the keys."""
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables).unify_dictionaries()
    coded = {
        name: encode_text(table[name])
        if pa.types.is_dictionary(table.schema.field(name).type)
        else encode_ints(cast(Ints, column(table, name)))
        for name in keys
    }
    groups = group(*combine(list(coded.values())))
    measures = {name: column(table, name) for name in table.column_names if name not in coded}
    return build_table({**_take(coded, groups), **reduce(measures, groups)})


def _keys(cells: pa.Table, breakdown: Breakdown | None) -> tuple[pa.Table, dict[str, Coded]]:
    """The cells that count, and the codes of feature, time [and qualifier value]."""
    feature = encode_text(cells["feature"])
    if breakdown is not None:
        mapped = np.array([name in breakdown.features for name in feature.values.to_pylist()], np.bool_)
        if not mapped.all():
            cells = cells.filter(pa.array(mapped[feature.codes]))
            feature = encode_text(cells["feature"])
    keys = {"feature": feature, "timestamp": encode_ints(cast(Ints, column(cells, "timestamp")))}
    if breakdown is not None:
        keys["value"] = encode_text(cells[cell_column(breakdown.qualifier)])
    return cells, keys


def _take(keys: Mapping[str, Coded], groups: Groups) -> dict[str, Coded]:
    first = groups.first
    return {name: coded.take(first) for name, coded in keys.items()}


def published(table: pa.Table, layout: Layout) -> Measures:
    """The published columns of an aggregate table."""
    return finish(table_measures(table), published_columns(layout.weighted))
