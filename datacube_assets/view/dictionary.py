"""What a datacube holds, in words and numbers: its data dictionary, and its tables page by page.

Which tables can be asked for, and by which parameters, belongs here, for the page and for `downloads.py`.
How they are read is `read/`; how they look as files is `downloads.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.dojo.documents import OutputDocument
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.morton import ZOOMS
from datacube_assets.kernels.schema import RESOLUTIONS
from datacube_assets.read import Datacube, NoDataError, PublishedDatacube
from datacube_assets.storage.history import History, Listed
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest, manifests_folder
from datacube_assets.storage.run_info import request_key
from datacube_assets.storage.stores import StoreError
from datacube_assets.view.query import Query

LARGEST_PAGE = 500
"""Rows of a table that are shown at once, at most."""

COLUMNS: Mapping[str, str] = {
    "timestamp": "start of the month or year, UTC",
    "region_id": "names of the levels down to this one, joined by `__`",
    "value": "value of the qualifier; in rows, the value as it was delivered",
    "s_sum_t_sum": "sum over places of the sums over time",
    "s_mean_t_sum": "mean over places of the sums over time",
    "s_sum_t_mean": "sum over places of the means over time",
    "s_mean_t_mean": "mean over places of the means over time",
    "s_count": "places that have a mean",
    "s_sum_t_wavg": "sum over places of the weighted means over time",
    "s_mean_t_wavg": "mean over places of the weighted means over time",
    "s_wavg_t_sum": "weighted mean over places of the sums over time",
    "s_wavg_t_mean": "weighted mean over places of the means over time",
    "s_wavg_t_wavg": "weighted mean over places of the weighted means over time",
    "lat": "degrees north",
    "lng": "degrees east",
    "west": "edge of the bin, degrees east",
    "east": "edge of the bin, degrees east",
    "south": "edge of the bin, degrees north",
    "north": "edge of the bin, degrees north",
    "x": "column of the bin from 180 degrees west",
    "y": "row of the bin from the north",
    "extreme": "`min` or `max`",
    "figure": "which figure is extreme",
}
"""What columns hold; others are qualifiers."""


def _timeseries(cube: Datacube, query: Query) -> pa.Table:
    region = query.text("region") if query.has("region") else None
    level = query.level if region is not None else None
    qualifier, value = query.breakdown if query.has("value") else (_qualifier(query), None)
    return cube.timeseries(
        query.feature,
        region=region,
        level=level,
        qualifier=qualifier,
        value=value,
        resolution=query.resolution,
    )


def _qualifier(query: Query) -> str | None:
    return query.text("qualifier") if query.has("qualifier") else None


def _regions(cube: Datacube, query: Query) -> pa.Table:
    qualifier = _qualifier(query)
    resolution, time = query.time if query.has("time") else (query.resolution, None)
    return cube.regions(query.feature, query.level, time, qualifier=qualifier, resolution=resolution)


def _bins(cube: Datacube, query: Query) -> pa.Table:
    resolution, time = query.time
    zoom = query.whole("zoom", len(ZOOMS), default=ZOOMS[-1])
    return cube.bins(query.feature, time, zoom=zoom, resolution=resolution)


def _objects(cube: Datacube, query: Query) -> PublishedDatacube:
    if not isinstance(cube, PublishedDatacube):
        raise NoDataError(f"the table {query.text('table')} is there of the published version only")
    return cube


TABLES: Mapping[str, Callable[[Datacube, Query], pa.Table]] = {
    "timeseries": _timeseries,
    "regions": _regions,
    "extrema": lambda cube, query: _objects(cube, query).extrema(
        query.feature, query.level, resolution=query.resolution
    ),
    "bins": _bins,
    "rows": lambda cube, query: _objects(cube, query).raw(query.feature),
    "summary": lambda cube, query: cube.summary(),
}
"""The tables of a datacube, by name. Each raises NoDataError where there is none."""


def table_of(cube: Datacube, query: Query) -> pa.Table:
    """The table that a request names, whole."""
    return TABLES[query.one_of("table", TABLES)](cube, query)


def page_of(table: pa.Table, query: Query) -> dict[str, Any]:
    """Some rows of a table, as JSON."""
    offset = query.whole("offset", 2**53, default=0)
    limit = query.whole("limit", LARGEST_PAGE + 1, at_least=1, default=50)
    rows = table.slice(offset, limit)
    columns = [_shown(rows[name]) for name in rows.column_names]
    return {
        "columns": [
            {"name": name, "holds": COLUMNS.get(name, ""), "is_number": _is_number(table[name].type)}
            for name in table.column_names
        ],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "total": table.num_rows,
    }


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as text files hold it: times as ISO 8601."""
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _shown(column: pa.ChunkedArray) -> list[Any]:
    values = readable(column).to_pylist()
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]


def about(
    cube: PublishedDatacube,
    run: ModelRun,
    described: Mapping[str, OutputDocument],
    lake: Lake,
    checks: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """The data dictionary of a datacube: features, times, levels, qualifiers, objects, checks."""
    info = cube.results["data_info"]
    return {
        "key": run.key,
        "address": f"{cube.url}/{run.prefix}",
        "rows": info["num_rows"],
        "levels": cube.levels,
        "has_tiles": cube.has_tiles,
        "has_weights": cube.has_weights,
        "has_summary": cube.results.get("output_agg_values") is not None,
        "features": [_feature(cube, name, described.get(name)) for name in cube.features],
        "columns": COLUMNS,
        **_from_lake(lake, run),
        "checks": checks,
    }


def _feature(cube: PublishedDatacube, name: str, described: OutputDocument | None) -> dict[str, Any]:
    info = cube.results["data_info"]
    times = {}
    for resolution in RESOLUTIONS:
        try:
            found = cube.timestamps(name, resolution).astype("int64").tolist()
        except NoDataError:
            found = []
        times[resolution] = {"number": len(found), "all": found}
    rows = info.get("num_rows_per_feature", {}).get(name)
    return {
        "name": name,
        "display_name": described.display_name if described else "",
        "unit": described.unit if described else "",
        "description": described.description if described else "",
        "rows": rows,
        "has_rows": rows is not None and rows <= info.get("raw_count_threshold", 0),
        "times": times,
        "regions": {level: len(cube.region_ids(name, level)) for level in cube.levels},
        "qualifiers": cube.qualifiers(name),
    }


def _from_lake(lake: Lake, run: ModelRun) -> dict[str, Any]:
    """What only the lake tells: objects by asset, the input's version, the request, the history; nothing
    where it is not to be had.
    """
    try:
        heads = {
            name: head
            for name in lake.store.folders(f"{manifests_folder(run)}/")
            if (head := manifest(lake, run, name))
        }
        request = lake.read_document(request_key(run)) or {}
        versions = versions_of(lake, run)
    except (StoreError, OSError):
        return {"objects": {}, "input_version": None, "request": {}, "versions": []}
    asked = ("qualifier_map", "weight_column", "qualifier_thresholds", "fill_timestamp", "timestamp_unit")
    return {
        "objects": {
            name: {kind: head[kind] for kind in ("objects", "bytes", "left_out")}
            for name, head in heads.items()
        },
        "input_version": heads[RESULTS_ASSET]["version"] if RESULTS_ASSET in heads else None,
        "request": {name: request[name] for name in asked if request.get(name)},
        "versions": versions,
    }


def versions_of(lake: Lake, run: ModelRun) -> list[dict[str, Any]]:
    """The versions of a datacube, the newest first. Raises StoreError."""
    listed = History(lake, run).listed()
    found = []
    before: Listed | None = None
    for one in listed:
        found.append(_version(one, before))
        before = one if one.version.complete else before
    return found[: -_VERSIONS - 1 : -1]


def _version(one: Listed, before: Listed | None) -> dict[str, Any]:
    version = one.version
    figures = (version.changes or {}).get("figures")
    movers = (version.changes or {}).get("movers") or [None]
    return {
        "number": version.number,
        "state": one.state,
        "published": version.published,
        "kept": one.is_kept,
        "rows": version.rows,
        "executed_at": version.executed_at,
        "back_to": version.back_to,
        "changed": figures and {name: figures[name] for name in ("compared", "changed", "came", "went")},
        # Between which two what changed can be shown, and where most did.
        "before": before.version.number if before and before.is_kept and one.is_kept else None,
        "most": movers[0] and {name: movers[0][name] for name in ("feature", "month")},
    }


_VERSIONS = 50
"""The newest ones, which the page lists."""
