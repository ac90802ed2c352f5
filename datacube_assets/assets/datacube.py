"""Group `datacube`: the objects that CauseMos fetches, published as views over the tables.

Which rows make which object is in `kernels/views.py`; how objects reach the bucket and what becomes of
stale ones is in `storage/publishing.py`. Every asset here does the same: name the files of its table that
are to be formatted, and how, and hand them to the publisher.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetExecutionContext, AssetsDefinition, MaterializeResult, MetadataValue

from datacube_assets.assets import pictures
from datacube_assets.assets.aggregates import breakdowns, global_aggregates, grid_cells, regional_aggregates
from datacube_assets.assets.asking import how_to_ask
from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.assets.tables import datacube_asset, same_version
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import views
from datacube_assets.kernels.encode import Objects
from datacube_assets.kernels.parts import BATCH_ROWS
from datacube_assets.kernels.raw_rows import join_rows, raw_rows
from datacube_assets.kernels.schema import RESOLUTIONS, RegionLevel, Resolution
from datacube_assets.kernels.shards import Chunks
from datacube_assets.kernels.spatial import Breakdown
from datacube_assets.resources.publishing import Publisher, View
from datacube_assets.storage.lake import Lake, LakeTable, aggregate_folder, scratch_folder
from datacube_assets.storage.points import QUALIFIER_VALUES, REGIONS, RawParts
from datacube_assets.storage.run_info import RunInfo

GROUP = "datacube"

Works = dict[str, View]
"""How the objects of an asset are formatted, by piece of work."""


TABLES = (normalized_points, temporal_cells, global_aggregates, regional_aggregates, grid_cells)
"""No object is touched before all of them, and their checks, are done: whoever is refused keeps the older
datacube as it was."""


WorksOf = Callable[[Lake, LakeTable, LakeTable], Works]
"""What is formatted, and how, of the lake, the asset's table and the table `normalized_points`."""


@dataclass(frozen=True)
class Family:
    """A family of objects: the asset that publishes it, and what it is made of."""

    asset: AssetsDefinition
    table: str
    """Name of the table that it is formatted from."""
    works: WorksOf
    task: str | None
    """The output task that it belongs to; None for what is always made."""


FAMILIES: dict[str, Family] = {}
"""Every family of objects, by the name of its asset: the graph, the jobs, `verify` and the completeness of
`results.json` go by it.
"""


def _published(
    description: str, *, of: str, works: WorksOf, task: str | None = None, long: bool = False
) -> Callable[[Callable[..., Any]], AssetsDefinition]:
    """An asset of this group, which publishes a family of objects."""

    def define(compute: Callable[..., Any]) -> AssetsDefinition:
        asset = datacube_asset(GROUP, {"s3"}, description, deps=TABLES, long=long)(
            _telling_how_to_ask(compute)
        )
        FAMILIES[asset.key.path[-1]] = Family(asset, of, works, task)
        return asset

    return define


def _telling_how_to_ask(compute: Callable[..., Any]) -> Callable[..., MaterializeResult[None]]:
    """The same, with an example of how to ask where a number comes from among the metadata."""
    names = inspect.signature(compute)

    @functools.wraps(compute)
    def telling(*args: Any, **kwargs: Any) -> MaterializeResult[None]:
        result: MaterializeResult[None] = compute(*args, **kwargs)
        given = names.bind(*args, **kwargs).arguments
        context, publisher = given["context"], given["publisher"]
        run, asset = ModelRun.from_key(context.partition_key), context.asset_key.path[-1]
        example = how_to_ask(publisher.lake.open(), run, asset, publisher.ui)
        return result._replace(metadata={**(result.metadata or {}), **example})

    return telling


# --- rows and lists --------------------------------------------------------------------------------


@_published(
    "raw.csv of each feature that has few enough rows: the rows as they were delivered.",
    of="raw_dojo_output",
    works=lambda lake, table, points: _works_of_rows(points),
)
def raw_data(
    context: AssetExecutionContext,
    raw_dojo_output: LakeTable,
    normalized_points: LakeTable,
    publisher: Publisher,
) -> MaterializeResult[None]:
    same_version(raw_dojo_output, normalized_points)
    info = RunInfo.of(normalized_points)
    many = sorted(set(info.report.num_rows_per_feature) - set(features_with_few_rows(info)))
    return publisher.publish(
        context,
        raw_dojo_output,
        _works_of_rows(normalized_points),
        metadata={"features with too many rows": MetadataValue.json(many)},
    )


def features_with_few_rows(info: RunInfo) -> list[str]:
    """Features whose rows are published as they were delivered."""
    rows = info.report.num_rows_per_feature
    return sorted(feature for feature in rows if rows[feature] <= info.request.raw_count_threshold)


def _works_of_rows(points: LakeTable) -> Works:
    info = RunInfo.of(points)
    few = features_with_few_rows(info)
    return {"raw": partial(_raw_data, info=info, features=few)} if few else {}


def _raw_data(lake: Lake, raw: LakeTable, _: str, info: RunInfo, features: list[str]) -> Iterator[Objects]:
    rows = {feature: info.report.num_rows_per_feature[feature] for feature in features}
    chunks = Chunks.of(rows, BATCH_ROWS)
    wanted = pa.array(features, pa.string())
    with scratch_folder() as scratch:
        # What is too much to be held at once waits on the disk until its turn.
        spilled: list[list[Path]] = [[] for _ in range(len(chunks))]
        held: list[pa.Table] = []
        for number, (_, batch) in enumerate(RawParts(lake, raw).batches()):
            table = raw_rows(batch, info.plan)
            table = table.filter(pc.is_in(table["feature"].cast(pa.string()), wanted))
            if len(chunks) == 1:
                held.append(table)
                continue
            for chunk, part in enumerate(chunks.split(table)):
                if part.num_rows:
                    path = Path(scratch, f"{chunk}-{number}.arrow")
                    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, part.schema) as writer:
                        writer.write(part)
                    spilled[chunk].append(path)
        for paths in spilled:
            tables = held or [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
            if any(table.num_rows for table in tables):
                yield views.raw_data(join_rows(tables))


@_published(
    "region_lists.json of each feature: the ids of its regions at every level.",
    of="normalized_points",
    works=lambda lake, table, points: {REGIONS: _region_lists},
)
def region_lists(
    context: AssetExecutionContext, normalized_points: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    return publisher.publish(context, normalized_points, {REGIONS: _region_lists})


def _region_lists(lake: Lake, points: LakeTable, file: str) -> Iterator[Objects]:
    yield views.region_lists(lake.read(points, file), RunInfo.of(points).layout)


@_published(
    "The values of every qualifier per feature, their number, and the thresholds in force.",
    of="normalized_points",
    works=lambda lake, table, points: {QUALIFIER_VALUES: _qualifier_lists},
)
def qualifier_lists(
    context: AssetExecutionContext, normalized_points: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    counts = breakdowns(publisher.lake.open(), normalized_points).counts
    return publisher.publish(
        context,
        normalized_points,
        {QUALIFIER_VALUES: _qualifier_lists},
        metadata={
            "values per qualifier": MetadataValue.json({name: dict(of) for name, of in counts.items()})
        },
    )


def _qualifier_lists(lake: Lake, points: LakeTable, file: str) -> Iterator[Objects]:
    values = lake.read(points, file)
    yield views.qualifier_lists(values, RunInfo.of(points).features, breakdowns(lake, points))


# --- timeseries ------------------------------------------------------------------------------------


@_published(
    "Month and year timeseries of each feature over all places, and by each mapped qualifier.",
    of="global_aggregates",
    works=lambda lake, table, points: _works_of_timeseries(table),
    task="compute_global_timeseries",
)
def global_timeseries(
    context: AssetExecutionContext, global_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    lake = publisher.lake.open()
    return publisher.publish(
        context,
        global_aggregates,
        _works_of_timeseries(global_aggregates),
        metadata=pictures.mean_figures(lake, global_aggregates),
        draw=partial(pictures.of_timeseries, lake, global_aggregates),
    )


def _works_of_timeseries(table: LakeTable) -> Works:
    works: Works = {}
    for resolution in RESOLUTIONS:
        view: View = partial(_global_timeseries, resolution=resolution)
        works |= dict.fromkeys(table.names(aggregate_folder(resolution)), view)
        for qualifier in table.info["qualifiers"]:
            view = partial(_qualifier_timeseries, resolution=resolution, qualifier=qualifier)
            works |= dict.fromkeys(table.names(aggregate_folder(resolution, qualifier=qualifier)), view)
    return works


def _global_timeseries(lake: Lake, table: LakeTable, file: str, resolution: Resolution) -> Iterator[Objects]:
    yield views.global_timeseries(resolution, lake.read(table, file), RunInfo.of(table).layout)


def _qualifier_timeseries(
    lake: Lake, table: LakeTable, file: str, resolution: Resolution, qualifier: str
) -> Iterable[Objects]:
    return views.qualifier_timeseries(resolution, qualifier, lake.read(table, file), RunInfo.of(table).layout)


@_published(
    "A timeseries per region of every level, and per qualifier value where the thresholds allow it.",
    of="regional_aggregates",
    works=lambda lake, *tables: _works_of_regional_timeseries(lake, *tables),  # noqa: PLW0108  (it is below)
    task="compute_regional_timeseries",
    long=True,
)
def regional_timeseries(
    context: AssetExecutionContext,
    regional_aggregates: LakeTable,
    normalized_points: LakeTable,
    publisher: Publisher,
) -> MaterializeResult[None]:
    same_version(regional_aggregates, normalized_points)
    works = _works_of_regional_timeseries(publisher.lake.open(), regional_aggregates, normalized_points)
    return publisher.publish(context, regional_aggregates, works)


def _works_of_regional_timeseries(lake: Lake, table: LakeTable, points: LakeTable) -> Works:
    used = breakdowns(lake, points)
    works: Works = {}
    for resolution in RESOLUTIONS:
        for level in RunInfo.of(table).layout.levels:
            for breakdown in (None, *used.in_timeseries(level)):
                qualifier = breakdown.qualifier if breakdown else None
                folder = aggregate_folder(resolution, level, qualifier=qualifier)
                view = partial(_regional_timeseries, resolution=resolution, level=level, breakdown=breakdown)
                works |= dict.fromkeys(table.names(folder), view)
    return works


def _regional_timeseries(
    lake: Lake,
    table: LakeTable,
    file: str,
    resolution: Resolution,
    level: RegionLevel,
    breakdown: Breakdown | None,
) -> Iterable[Objects]:
    rows = lake.read(table, file)
    if breakdown:
        # The table holds features up to the larger limit of the regional tables.
        features = pa.array(sorted(breakdown.features), pa.string())
        rows = rows.filter(pc.is_in(rows["feature"].cast(pa.string()), features))
    qualifier = breakdown.qualifier if breakdown else None
    return views.regional_timeseries(resolution, level, rows, RunInfo.of(table).layout, qualifier)


# --- regional tables -------------------------------------------------------------------------------


@_published(
    "A table of all regions of a level per feature and time, and by each mapped qualifier.",
    of="regional_aggregates",
    works=lambda lake, table, points: _works_of_maps(table),
    task="compute_regional_aggregation",
    long=True,
)
def regional_maps(
    context: AssetExecutionContext, regional_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    draw = partial(pictures.of_regions, publisher.lake.open(), regional_aggregates)
    return publisher.publish(
        context,
        regional_aggregates,
        _works_of_maps(regional_aggregates),
        draw=draw,
    )


def _works_of_maps(table: LakeTable) -> Works:
    works: Works = {}
    for resolution in RESOLUTIONS:
        for level in RunInfo.of(table).layout.levels:
            for qualifier in (None, *table.info["qualifiers"]):
                folder = aggregate_folder(resolution, level, qualifier=qualifier)
                view = partial(_regional_maps, resolution=resolution, level=level, qualifier=qualifier)
                works |= dict.fromkeys(table.names(folder), view)
    return works


def _regional_maps(
    lake: Lake,
    table: LakeTable,
    file: str,
    resolution: Resolution,
    level: RegionLevel,
    qualifier: str | None,
) -> Iterable[Objects]:
    return views.regional_maps(resolution, level, lake.read(table, file), RunInfo.of(table).layout, qualifier)


@_published(
    "The regions and times of the smallest and largest figures, per feature and level.",
    of="regional_aggregates",
    works=lambda lake, table, points: _works_of_extrema(table),
    task="compute_regional_stats",
)
def regional_extrema(
    context: AssetExecutionContext, regional_aggregates: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    return publisher.publish(context, regional_aggregates, _works_of_extrema(regional_aggregates))


def _works_of_extrema(table: LakeTable) -> Works:
    works: Works = {}
    for resolution in RESOLUTIONS:
        for level in RunInfo.of(table).layout.levels:
            view = partial(_regional_extrema, resolution=resolution, level=level)
            works |= dict.fromkeys(table.names(aggregate_folder(resolution, level)), view)
    return works


def _regional_extrema(
    lake: Lake, table: LakeTable, file: str, resolution: Resolution, level: RegionLevel
) -> Iterator[Objects]:
    yield views.regional_extrema(resolution, level, lake.read(table, file), RunInfo.of(table).layout)


# --- grid ------------------------------------------------------------------------------------------


@_published(
    "Web-mercator tiles of zoom 0 to 8, 64 by 64 bins each, per feature and time.",
    of="grid_cells",
    works=lambda lake, table, points: _works_of_grid(table, _spatial_tiles),
    task="compute_tiles",
    long=True,
)
def spatial_tiles(
    context: AssetExecutionContext, grid_cells: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    draw = partial(pictures.of_tiles, publisher.lake.open(), grid_cells)
    works = _works_of_grid(grid_cells, _spatial_tiles)
    return publisher.publish(context, grid_cells, works, draw=draw)


def _works_of_grid(table: LakeTable, form: Callable[..., Iterable[Objects]]) -> Works:
    works: Works = {}
    for resolution in RESOLUTIONS:
        view = partial(form, resolution=resolution)
        works |= dict.fromkeys(table.names(aggregate_folder(resolution)), view)
    return works


def _spatial_tiles(lake: Lake, table: LakeTable, file: str, resolution: Resolution) -> Iterable[Objects]:
    return views.spatial_tiles(resolution, lake.read(table, file))


@_published(
    "The smallest and largest figures of the subtiles at every zoom, per feature and time.",
    of="grid_cells",
    works=lambda lake, table, points: _works_of_grid(table, _grid_stats),
    task="compute_tiles",
)
def grid_stats(
    context: AssetExecutionContext, grid_cells: LakeTable, publisher: Publisher
) -> MaterializeResult[None]:
    draw = partial(pictures.of_grid_stats, publisher.lake.open(), grid_cells)
    works = _works_of_grid(grid_cells, _grid_stats)
    return publisher.publish(context, grid_cells, works, draw=draw)


def _grid_stats(lake: Lake, table: LakeTable, file: str, resolution: Resolution) -> Iterator[Objects]:
    yield views.grid_stats(resolution, lake.read(table, file))


DATACUBE_ASSETS = [family.asset for family in FAMILIES.values()]


def works_of(lake: Lake, table: Callable[[str], LakeTable], asset: str) -> tuple[LakeTable, Works]:
    """The table that an asset of this group is formatted from, and how; `table` gives a table by its name.

    Raises what `table` does, and KeyError for another asset.
    """
    family = FAMILIES[asset]
    of = table(family.table)
    return of, family.works(lake, of, table("normalized_points"))


def of_task(task: str | None) -> list[AssetsDefinition]:
    """The assets of an output task; of None, those that are always made."""
    return [family.asset for family in FAMILIES.values() if family.task == task]
