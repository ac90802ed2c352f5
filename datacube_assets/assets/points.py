"""Group `points`: clean rows, and one row per place and period.

Cleaning is in `datacube/normalize.py`, the temporal step in `datacube/temporal.py`. How
rows get from the parts into shards is in `storage/points.py`.
"""

import time
from dataclasses import dataclass

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue

from datacube_assets.assets.tables import report_metadata, table_asset, table_metadata
from datacube_assets.datacube.errors import InputError
from datacube_assets.datacube.schema import CELL_COLUMNS, POINT_COLUMNS
from datacube_assets.datacube.temporal import temporal_cells as cells_of_points
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import Lake, LakeTable, TableFile
from datacube_assets.storage.points import POINTS, normalize_parts
from datacube_assets.storage.run_info import RunInfo

GROUP = "points"


@table_asset(
    GROUP,
    POINT_COLUMNS,
    "The run's rows, clean and typed, in shards such that all rows of a place are in one. "
    "What was dropped or repaired is counted in the metadata. Beside the shards lie the regions and the "
    "qualifier values of each feature.",
)
def normalized_points(
    context: AssetExecutionContext, raw_dojo_output: LakeTable, lake: LakeResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    run = ModelRun.from_key(context.partition_key)
    try:
        table = normalize_parts(lake.open(), run, raw_dojo_output, lake.shard_rows)
    except InputError as error:
        raise error.in_run(str(run)) from error
    info = RunInfo.of(table)
    if info.report.dropped:
        context.log.warning(
            f"{info.report.dropped:,} of {info.report.num_rows:,} rows are dropped; the metadata says why"
        )
    return MaterializeResult(
        value=table,
        metadata={
            **report_metadata(info.report),
            "features": MetadataValue.json(list(info.features)),
            "region levels": MetadataValue.json(list(info.layout.levels)),
            "qualifier columns": MetadataValue.json(list(info.layout.qualifiers)),
            "weight column": info.layout.weight or "(none)",
            "has tiles": info.layout.mappable,
            "shards": len(table.names(POINTS)),
            **table_metadata(table, started),
            "dagster/row_count": info.report.points,
        },
    )


@table_asset(
    GROUP,
    CELL_COLUMNS,
    "Points summed over each month, year and (for model runs) the whole period: one row per place, "
    "feature and combination of qualifiers.",
)
def temporal_cells(
    context: AssetExecutionContext, normalized_points: LakeTable, lake: LakeResource, dask: DaskResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    info, store = RunInfo.of(normalized_points), lake.open()
    folder = store.table_folder(info.run, "temporal_cells", normalized_points.version)
    shards = normalized_points.names(POINTS)
    work = _CellsOfShard(store, normalized_points, folder)
    files = dask.map(work, shards, name="temporal-cells", run_id=context.run.run_id)
    table = LakeTable(
        folder,
        normalized_points.version,
        tuple(file for shard in files for file in shard),
        normalized_points.info,
    )
    per_period = {
        period: sum(file.rows for file in table.files if file.name.startswith(f"{period}-"))
        for period in info.periods
    }
    return MaterializeResult(
        value=table,
        metadata={
            "rows in": info.report.points,
            **{f"cells per {period}": rows for period, rows in per_period.items()},
            **table_metadata(table, started),
        },
    )


@dataclass(frozen=True)
class _CellsOfShard:
    """The temporal step for one shard; runs on a worker."""

    lake: Lake
    points: LakeTable
    folder: str

    def __call__(self, shard: str) -> list[TableFile]:
        info = RunInfo.of(self.points)
        tables = cells_of_points(self.lake.read(self.points, shard), info.layout, info.periods)
        number = shard.removeprefix(POINTS)
        return [
            self.lake.write_file(self.folder, f"{period}-{number}", table) for period, table in tables.items()
        ]
