"""Group `aggregates`: the truth, as tables of sums, counts, minima and maxima that add up.

The sums are in `datacube/spatial.py` and `datacube/grid.py`. Here each shard gives partial tables,
which are merged where there is more than one shard. Everything published is a view over these tables.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from dagster import AssetExecutionContext, MaterializeResult

from datacube_assets.assets.tables import same_version, table_asset, table_metadata
from datacube_assets.datacube import grid, spatial
from datacube_assets.datacube.qualifiers import Breakdowns
from datacube_assets.datacube.schema import (
    GLOBAL_COLUMNS,
    GRID_COLUMNS,
    REGIONAL_COLUMNS,
    RESOLUTIONS,
    Layout,
    Period,
)
from datacube_assets.datacube.spatial import Breakdown
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import Lake, LakeTable, TableFile, file_name
from datacube_assets.storage.points import QUALIFIER_VALUES
from datacube_assets.storage.run_info import RunInfo

GROUP = "aggregates"


def file_of(period: Period, *parts: str, qualifier: str | None = None) -> str:
    """Name of a file of an aggregate table: `month/admin1/default`, `year/qualifiers/crop`."""
    last = "default" if qualifier is None else f"qualifiers/{file_name(qualifier)}"
    return "/".join((period, *parts, last))


@table_asset(
    GROUP,
    GLOBAL_COLUMNS,
    "Sums over all places, per feature and time, and per value of each mapped qualifier.",
)
def global_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    steps = _steps(lake.open(), normalized_points)
    if "all" in RunInfo.of(temporal_cells).periods:
        steps.append(_Step("all", None))
    return _aggregate(context, lake, dask, temporal_cells, steps, _global_tables, _merge_aggregates)


@table_asset(
    GROUP,
    REGIONAL_COLUMNS,
    "Sums over the places of each region, at every level of the hierarchy, per feature and time, and per "
    "value of each mapped qualifier.",
)
def regional_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    has_regions = bool(RunInfo.of(temporal_cells).layout.levels)
    steps = _steps(lake.open(), normalized_points) if has_regions else []
    return _aggregate(context, lake, dask, temporal_cells, steps, _regional_tables, _merge_aggregates)


@table_asset(
    GROUP,
    GRID_COLUMNS,
    "Sums over subtiles of precision 14, the deepest level of the tile pyramid, per feature and time. "
    "Points without coordinates or beyond the web-mercator limit have no place in it.",
)
def grid_cells(
    context: AssetExecutionContext, temporal_cells: LakeTable, lake: LakeResource, dask: DaskResource
) -> MaterializeResult[LakeTable]:
    mappable = RunInfo.of(temporal_cells).layout.mappable
    steps = [_Step(period, None) for period in RESOLUTIONS if mappable]
    return _aggregate(context, lake, dask, temporal_cells, steps, _grid_tables, grid.merge_grid)


def breakdowns(lake: Lake, points: LakeTable) -> Breakdowns:
    """The qualifiers in use, from the inventory beside the points."""
    info = RunInfo.of(points)
    values = lake.read(points, QUALIFIER_VALUES)
    return Breakdowns.of(values, info.request.qualifier_map, info.thresholds)


# --- steps, shards, merging ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One period, by one qualifier or by none."""

    period: Period
    breakdown: Breakdown | None

    @property
    def qualifier(self) -> str | None:
        return self.breakdown.qualifier if self.breakdown else None


def _steps(lake: Lake, points: LakeTable) -> list[_Step]:
    """Month and year, as a whole and by each qualifier in use."""
    by = (None, *breakdowns(lake, points).everywhere())
    return [_Step(period, breakdown) for period, breakdown in itertools.product(RESOLUTIONS, by)]


Tables = dict[str, pa.Table]
Kernel = Callable[[pa.Table, Layout, _Step], Tables]
"""From the cells of a shard to its part of the tables, by file name."""
Merge = Callable[[Sequence[pa.Table]], pa.Table]


def _global_tables(cells: pa.Table, layout: Layout, step: _Step) -> Tables:
    table = spatial.global_aggregates(cells, layout, step.breakdown, ranges=step.period == "all")
    return {file_of(step.period, qualifier=step.qualifier): table}


def _regional_tables(cells: pa.Table, layout: Layout, step: _Step) -> Tables:
    tables = spatial.regional_aggregates(cells, layout, step.breakdown)
    return {file_of(step.period, level, qualifier=step.qualifier): table for level, table in tables.items()}


def _grid_tables(cells: pa.Table, layout: Layout, step: _Step) -> Tables:
    return {file_of(step.period): grid.grid_cells(cells)}


def _merge_aggregates(tables: Sequence[pa.Table]) -> pa.Table:
    names = tables[0].column_names
    return spatial.merge(
        tables, [name for name in ("feature", "timestamp", "region_id", "value") if name in names]
    )


def _aggregate(
    context: AssetExecutionContext,
    lake: LakeResource,
    dask: DaskResource,
    cells: LakeTable,
    steps: Sequence[_Step],
    kernel: Kernel,
    merge: Merge,
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    name, store = context.asset_key.path[-1], lake.open()
    folder = store.table_folder(RunInfo.of(cells).run, name, cells.version)
    pieces = [(step, shard) for step in steps for shard in cells.names(f"{step.period}-")]
    shards = len(cells.names("month-"))
    target = folder if shards == 1 else f"{folder}/partial"
    made = dask.map(
        partial(_aggregate_shard, store, cells, target, kernel, shards > 1),
        pieces,
        name=f"{name}-of-shards",
        run_id=context.run.run_id,
    )
    files = [file for piece in made for file in piece]
    if shards > 1:
        partials: dict[str, list[str]] = {}
        for file in files:
            shard, _, final = file.name.partition("/")
            partials.setdefault(final, []).append(f"{shard}/{final}")
        source = LakeTable(target, cells.version, tuple(files), cells.info)
        files = dask.map(
            partial(_merge_partials, store, source, folder, merge),
            sorted(partials.items()),
            name=f"{name}-merged",
            run_id=context.run.run_id,
        )
    qualifiers = sorted({step.qualifier for step in steps if step.qualifier is not None})
    info = {**cells.info, "qualifiers": qualifiers}
    table = LakeTable(folder, cells.version, tuple(sorted(files, key=lambda file: file.name)), info)
    return MaterializeResult(value=table, metadata={"rows in": cells.rows, **table_metadata(table, started)})


def _aggregate_shard(
    lake: Lake, cells: LakeTable, folder: str, kernel: Kernel, by_shard: bool, piece: tuple[_Step, str]
) -> list[TableFile]:
    step, shard = piece
    tables = kernel(lake.read(cells, shard), RunInfo.of(cells).layout, step)
    prefix = f"{shard}/" if by_shard else ""
    return [lake.write_file(folder, f"{prefix}{name}", table) for name, table in tables.items()]


def _merge_partials(
    lake: Lake, source: LakeTable, folder: str, merge: Merge, piece: tuple[str, list[str]]
) -> TableFile:
    name, partials = piece
    return lake.write_file(folder, name, merge([lake.read(source, one) for one in partials]))
