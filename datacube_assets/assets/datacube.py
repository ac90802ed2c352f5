"""Group `datacube`: the objects that CauseMos fetches, published as views over the tables.

Which rows make which object is in `datacube/views.py`; how objects reach the bucket and what becomes of
stale ones is in `storage/publishing.py`. Every asset here does the same: cut its table into pieces of
work and hand them to the publisher.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue, asset

from datacube_assets.assets.aggregates import breakdowns, file_of
from datacube_assets.assets.partitions import model_runs
from datacube_assets.assets.tables import same_version
from datacube_assets.datacube import views
from datacube_assets.datacube.encode import Objects
from datacube_assets.datacube.normalize import join_rows, raw_rows
from datacube_assets.datacube.schema import RESOLUTIONS, RegionLevel, Resolution
from datacube_assets.datacube.spatial import Breakdown
from datacube_assets.resources.publishing import Publisher, View
from datacube_assets.storage.lake import Lake, LakeTable
from datacube_assets.storage.points import QUALIFIER_VALUES, REGIONS, RawParts
from datacube_assets.storage.run_info import RunInfo

GROUP = "datacube"


def _published(description: str) -> Callable[[Callable[..., Any]], AssetsDefinition]:
    """An asset of this group."""
    return asset(
        group_name=GROUP, partitions_def=model_runs, code_version="1", kinds={"s3"}, description=description
    )


# --- rows and lists --------------------------------------------------------------------------------


@_published("raw.csv of each feature that has few enough rows: the rows as they were delivered.")
def raw_data(
    context: AssetExecutionContext,
    raw_dojo_output: LakeTable,
    normalized_points: LakeTable,
    publisher: Publisher,
) -> MaterializeResult[None]:
    same_version(raw_dojo_output, normalized_points)
    info = RunInfo.of(normalized_points)
    limit = info.request.raw_count_threshold
    rows = info.report.num_rows_per_feature
    few = sorted(feature for feature in rows if rows[feature] <= limit)
    view = partial(_raw_data, publisher.lake.open(), raw_dojo_output, info, few)
    return publisher.publish(
        context,
        normalized_points,
        {"raw": view} if few else {},
        metadata={"features with too many rows": MetadataValue.json(sorted(set(rows) - set(few)))},
    )


def _raw_data(lake: Lake, raw: LakeTable, info: RunInfo, features: list[str]) -> Iterator[Objects]:
    wanted = pa.array(features, pa.string())
    tables = []
    for _, batch in RawParts.of(lake, raw).batches():
        rows = raw_rows(batch, info.plan)
        tables.append(rows.filter(pc.is_in(rows["feature"].cast(pa.string()), wanted)))
    table = join_rows(tables)
    if table.num_rows:
        yield views.raw_data(table)


@_published("region_lists.json of each feature: the ids of its regions at every level.")
def region_lists(
    context: AssetExecutionContext, normalized_points: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    view = partial(_region_lists, publisher.lake.open(), normalized_points)
    return publisher.publish(context, normalized_points, {"regions": view})


def _region_lists(lake: Lake, points: LakeTable) -> Iterator[Objects]:
    yield views.region_lists(lake.read(points, REGIONS), RunInfo.of(points).layout)


@_published("The values of every qualifier per feature, their number, and the thresholds in force.")
def qualifier_lists(
    context: AssetExecutionContext, normalized_points: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    view = partial(_qualifier_lists, publisher.lake.open(), normalized_points)
    counts = breakdowns(publisher.lake.open(), normalized_points).counts
    return publisher.publish(
        context,
        normalized_points,
        {"qualifiers": view},
        metadata={
            "values per qualifier": MetadataValue.json({name: dict(of) for name, of in counts.items()})
        },
    )


def _qualifier_lists(lake: Lake, points: LakeTable) -> Iterator[Objects]:
    values = lake.read(points, QUALIFIER_VALUES)
    yield views.qualifier_lists(values, RunInfo.of(points).features, breakdowns(lake, points))


# --- timeseries ------------------------------------------------------------------------------------


@_published("Month and year timeseries of each feature over all places, and by each mapped qualifier.")
def global_timeseries(
    context: AssetExecutionContext, global_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    works: dict[str, View] = {}
    lake, qualifiers = publisher.lake.open(), global_aggregates.info["qualifiers"]
    for resolution in RESOLUTIONS:
        works[resolution] = partial(_global_timeseries, lake, global_aggregates, resolution)
        for qualifier in qualifiers:
            works[f"{resolution}-{qualifier}"] = partial(
                _qualifier_timeseries, lake, global_aggregates, resolution, qualifier
            )
    return publisher.publish(context, global_aggregates, works)


def _global_timeseries(lake: Lake, table: LakeTable, resolution: Resolution) -> Iterator[Objects]:
    yield views.global_timeseries(resolution, lake.read(table, file_of(resolution)), RunInfo.of(table).layout)


def _qualifier_timeseries(
    lake: Lake, table: LakeTable, resolution: Resolution, qualifier: str
) -> Iterable[Objects]:
    rows = lake.read(table, file_of(resolution, qualifier=qualifier))
    return views.qualifier_timeseries(resolution, qualifier, rows, RunInfo.of(table).layout)


@_published("A timeseries per region of every level, and per qualifier value where the thresholds allow it.")
def regional_timeseries(
    context: AssetExecutionContext,
    regional_aggregates: LakeTable,
    normalized_points: LakeTable,
    publisher: Publisher,
) -> MaterializeResult[None]:
    same_version(regional_aggregates, normalized_points)
    lake, layout = publisher.lake.open(), RunInfo.of(regional_aggregates).layout
    used = breakdowns(lake, normalized_points)
    works: dict[str, View] = {}
    for resolution in RESOLUTIONS:
        for level in layout.levels:
            for breakdown in (None, *used.in_timeseries(level)):
                name = "-".join((resolution, level, *([breakdown.qualifier] if breakdown else [])))
                works[name] = partial(
                    _regional_timeseries, lake, regional_aggregates, resolution, level, breakdown
                )
    return publisher.publish(context, regional_aggregates, works)


def _regional_timeseries(
    lake: Lake, table: LakeTable, resolution: Resolution, level: RegionLevel, breakdown: Breakdown | None
) -> Iterable[Objects]:
    qualifier = breakdown.qualifier if breakdown else None
    rows = lake.read(table, file_of(resolution, level, qualifier=qualifier))
    if breakdown:
        # The table holds features up to the larger limit of the regional tables.
        features = pa.array(sorted(breakdown.features), pa.string())
        rows = rows.filter(pc.is_in(rows["feature"].cast(pa.string()), features))
    return views.regional_timeseries(resolution, level, rows, RunInfo.of(table).layout, qualifier)


# --- regional tables -------------------------------------------------------------------------------


@_published("A table of all regions of a level per feature and time, and by each mapped qualifier.")
def regional_maps(
    context: AssetExecutionContext, regional_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    lake, layout = publisher.lake.open(), RunInfo.of(regional_aggregates).layout
    qualifiers = regional_aggregates.info["qualifiers"]
    works: dict[str, View] = {}
    for resolution in RESOLUTIONS:
        for level in layout.levels:
            for qualifier in (None, *qualifiers):
                name = "-".join((resolution, level, *([qualifier] if qualifier is not None else [])))
                works[name] = partial(_regional_maps, lake, regional_aggregates, resolution, level, qualifier)
    return publisher.publish(context, regional_aggregates, works)


def _regional_maps(
    lake: Lake, table: LakeTable, resolution: Resolution, level: RegionLevel, qualifier: str | None
) -> Iterable[Objects]:
    rows = lake.read(table, file_of(resolution, level, qualifier=qualifier))
    return views.regional_maps(resolution, level, rows, RunInfo.of(table).layout, qualifier)


@_published("The regions and times of the smallest and largest figures, per feature and level.")
def regional_extrema(
    context: AssetExecutionContext, regional_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    lake, layout = publisher.lake.open(), RunInfo.of(regional_aggregates).layout
    works: dict[str, View] = {
        f"{resolution}-{level}": partial(_regional_extrema, lake, regional_aggregates, resolution, level)
        for resolution in RESOLUTIONS
        for level in layout.levels
    }
    return publisher.publish(context, regional_aggregates, works)


def _regional_extrema(
    lake: Lake, table: LakeTable, resolution: Resolution, level: RegionLevel
) -> Iterator[Objects]:
    rows = lake.read(table, file_of(resolution, level))
    yield views.regional_extrema(resolution, level, rows, RunInfo.of(table).layout)


# --- grid ------------------------------------------------------------------------------------------


@_published("Web-mercator tiles of zoom 0 to 8, 64 by 64 bins each, per feature and time.")
def spatial_tiles(
    context: AssetExecutionContext, grid_cells: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    lake = publisher.lake.open()
    works: dict[str, View] = {
        resolution: partial(_spatial_tiles, lake, grid_cells, resolution)
        for resolution in _resolutions(grid_cells)
    }
    return publisher.publish(context, grid_cells, works)


def _spatial_tiles(lake: Lake, table: LakeTable, resolution: Resolution) -> Iterable[Objects]:
    return views.spatial_tiles(resolution, lake.read(table, file_of(resolution)))


@_published("The smallest and largest figures of the subtiles at every zoom, per feature and time.")
def grid_stats(
    context: AssetExecutionContext, grid_cells: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    lake = publisher.lake.open()
    works: dict[str, View] = {
        resolution: partial(_grid_stats, lake, grid_cells, resolution)
        for resolution in _resolutions(grid_cells)
    }
    return publisher.publish(context, grid_cells, works)


def _grid_stats(lake: Lake, table: LakeTable, resolution: Resolution) -> Iterator[Objects]:
    yield views.grid_stats(resolution, lake.read(table, file_of(resolution)))


def _resolutions(grid: LakeTable) -> list[Resolution]:
    """Resolutions of which there are grid cells: all or none."""
    return [resolution for resolution in RESOLUTIONS if grid.names(f"{resolution}/")]


DATACUBE_ASSETS = [
    raw_data,
    region_lists,
    qualifier_lists,
    global_timeseries,
    regional_timeseries,
    regional_maps,
    regional_extrema,
    spatial_tiles,
    grid_stats,
]
