"""Group `points`: clean rows, and one row per place and period.

Cleaning is in `kernels/normalize.py`, the temporal step in `kernels/temporal.py`. How
rows get from the parts into shards is in `storage/points.py`.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue

from datacube_assets.assets import pictures
from datacube_assets.assets.tables import made_before, report_metadata, table_asset, table_result
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.schema import CELL_COLUMNS, POINT_COLUMNS
from datacube_assets.kernels.temporal import temporal_cells as cells_of_points
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.resources.ui import UserInterface
from datacube_assets.storage.lake import Lake, LakeTable, TableFile
from datacube_assets.storage.points import POINTS, normalize_parts, shards_of
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
    context: AssetExecutionContext,
    raw_dojo_output: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
    ui: UserInterface,
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    run = ModelRun.from_key(context.partition_key)
    table = made_before(context, lake.open(), raw_dojo_output.version)
    reused = table is not None
    if table is None:
        mapped = partial(dask.map, run_id=context.run.run_id)
        try:
            table = normalize_parts(lake.open(), run, raw_dojo_output, lake.shard_rows, mapped)
        except InputError as error:
            raise error.in_run(str(run)) from error
    picture = ui.begin_picture(context.log, partial(pictures.of_points, lake.open(), table))
    info = RunInfo.of(table)
    if info.report.dropped:
        context.log.warning(
            f"{info.report.dropped:,} of {info.report.num_rows:,} rows are dropped; the metadata says why"
        )
    return table_result(
        table,
        started,
        reused=reused,
        picture=picture(),
        metadata={
            **report_metadata(info.report),
            "features": MetadataValue.json(list(info.features)),
            "region levels": MetadataValue.json(list(info.layout.levels)),
            "qualifier columns": MetadataValue.json(list(info.layout.qualifiers)),
            "weight column": info.layout.weight or "(none)",
            "has tiles": info.report.has_tiles,
            "shards": len(shards_of(table)),
            "dagster/row_count": info.report.points,
        },
    )


@table_asset(
    GROUP,
    CELL_COLUMNS,
    "Points summed over each month, year and (for model runs) the whole period: one row per place, "
    "feature and combination of qualifiers.",
    of="normalized_points",
)
def temporal_cells(
    context: AssetExecutionContext, normalized_points: LakeTable, lake: LakeResource, dask: DaskResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    info = RunInfo.of(normalized_points)
    table = made_before(context, lake.open(), normalized_points.version)
    reused = table is not None
    if table is None:
        store = lake.open()
        folder = store.table_folder(info.run, "temporal_cells", normalized_points.version)
        work = _CellsOfShard(store, normalized_points, folder)
        made = dask.map(work, shards_of(normalized_points), name="temporal-cells", run_id=context.run.run_id)
        files = tuple(file for shard in made for file in shard)
        table = LakeTable(folder, normalized_points.version, files, normalized_points.info)
    cells = {
        f"cells per {period}": sum(file.rows for file in table.files if file.name.startswith(f"{period}-"))
        for period in info.periods
    }
    return table_result(table, started, reused=reused, metadata={"rows in": info.report.points, **cells})


@dataclass(frozen=True)
class _CellsOfShard:
    """The temporal step for one shard; runs on a worker."""

    lake: Lake
    points: LakeTable
    folder: str

    def __call__(self, shard: str) -> list[TableFile]:
        info = RunInfo.of(self.points)
        batches = self.lake.batches(self.points, shard)
        number = shard.removeprefix(POINTS).rstrip("-")
        # Writing a table takes about as long as making the next.
        with ThreadPoolExecutor(1, "writer") as writer:
            written = [
                writer.submit(self.lake.write_file, self.folder, f"{period}-{number}", table)
                for period, table in cells_of_points(batches, info.layout, info.periods)
            ]
            return [file.result() for file in written]
