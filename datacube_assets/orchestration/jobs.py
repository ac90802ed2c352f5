"""Jobs, and the tags by which runs are told apart and ordered.

What a job does is in `assets/`; when it starts is in `sensors/`.
"""

from __future__ import annotations

from typing import Any

from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DagsterRun,
    PartitionedConfig,
    define_asset_job,
)

from datacube_assets.assets.aggregates import global_aggregates, grid_cells, regional_aggregates
from datacube_assets.assets.datacube import DATACUBE_ASSETS, grid_stats, of_task, spatial_tiles
from datacube_assets.assets.dojo import dojo_request, raw_dojo_output
from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.assets.results import pipeline_results
from datacube_assets.checks.check import EVERYTHING
from datacube_assets.checks.steps import CHECKS
from datacube_assets.orchestration.withdrawal import withdraw_datacube
from datacube_assets.partitions import (
    AS_PUBLISHED,
    FROM_DOJO,
    FROM_SCRATCH,
    SOURCE_TAG,
    WANTED_VERSION,
    model_runs,
)
from datacube_assets.storage.history import PREVIOUS

ASSETS: list[AssetsDefinition] = [
    dojo_request,
    raw_dojo_output,
    normalized_points,
    temporal_cells,
    global_aggregates,
    regional_aggregates,
    grid_cells,
    *DATACUBE_ASSETS,
    pipeline_results,
]
ASSET_KEYS: frozenset[AssetKey] = frozenset(definition.key for definition in ASSETS)

process_model_run = define_asset_job(
    "process_model_run",
    selection=AssetSelection.assets(*ASSETS),
    # A run that died is repeated as a whole: what is unchanged is not published again, whereas a retry
    # "from failure" is refused by Dagster when the run died after its last step.
    tags={"dagster/retry_strategy": "ALL_STEPS"},
    description="From the request of a model run or dataset to its complete datacube.",
)

republish_datacube = define_asset_job(
    "republish_datacube",
    selection=AssetSelection.assets(*DATACUBE_ASSETS, pipeline_results),
    tags={"dagster/retry_strategy": "ALL_STEPS", FROM_SCRATCH: "yes", AS_PUBLISHED: "yes"},
    description="Formats all objects again from the tables in the lake and writes every one of them, "
    "results.json last: for a bucket that was changed by hand, or lost. Computes nothing, fetches nothing.",
)

recompute_tiles = define_asset_job(
    "recompute_tiles",
    selection=AssetSelection.assets(grid_cells, spatial_tiles, grid_stats, pipeline_results),
    tags={"dagster/retry_strategy": "ALL_STEPS", FROM_SCRATCH: "yes", AS_PUBLISHED: "yes"},
    description="Sums the grid cells again from the temporal cells in the lake and writes all tiles and grid "
    "statistics, then results.json: for what is wrong on the map only.",
)

check_model_run = define_asset_job(
    "check_model_run",
    selection=AssetSelection.checks(*CHECKS),
    # Of a job without assets Dagster would not see by itself that it has partitions.
    config=PartitionedConfig(model_runs, run_config_for_partition_key_fn=lambda _: {}),
    tags={EVERYTHING: "yes"},
    description="All checks of a model run or dataset as it stands, every object in the bucket included.",
)

rollback_datacube = define_asset_job(
    "rollback_datacube",
    selection=AssetSelection.assets(*ASSETS),
    tags={"dagster/retry_strategy": "ALL_STEPS", WANTED_VERSION: PREVIOUS},
    description="Publishes an earlier version again, from the tables that it keeps: the one before the "
    f"published one, unless the tag {WANTED_VERSION} gives the number of another.",
)

JOBS: list[Any] = [
    process_model_run,
    rollback_datacube,
    republish_datacube,
    recompute_tiles,
    check_model_run,
    withdraw_datacube,
]

PRIORITY_TAG = "dagster/priority"
SENSED = {SOURCE_TAG: FROM_DOJO, PRIORITY_TAG: "10"}
"""Tags of runs that a sensor started: they go before backfills, whose priority is 0."""
BY_HAND = {SOURCE_TAG: "request", PRIORITY_TAG: "20"}
"""Tags of runs that somebody asked for."""
FORCED = {**BY_HAND, PRIORITY_TAG: "30"}
"""Tags of those that shall go before all others."""


_TABLES: dict[str, AssetsDefinition] = {
    "compute_global_timeseries": global_aggregates,
    "compute_regional_stats": regional_aggregates,
    "compute_regional_timeseries": regional_aggregates,
    "compute_regional_aggregation": regional_aggregates,
    "compute_tiles": grid_cells,
}
_TASKS: dict[str, list[AssetsDefinition]] = {task: [table, *of_task(task)] for task, table in _TABLES.items()}
"""What each output task of the original stands for."""
_ALWAYS: list[AssetsDefinition] = [
    dojo_request,
    raw_dojo_output,
    normalized_points,
    temporal_cells,
    *of_task(None),
]


def selection(tasks: tuple[str, ...] | None) -> list[AssetKey] | None:
    """Assets of a selection of output tasks; None for the full selection.

    What a selection means: docs/specification/requests.md#output-tasks.

    None and all five stand for everything. An empty selection is everything but `results.json`; unknown
    names are ignored.
    """
    if tasks is None or set(tasks) >= set(_TASKS):
        return None
    if not tasks:
        return [definition.key for definition in ASSETS if definition is not pipeline_results]
    chosen = [definition for task, assets in _TASKS.items() if task in tasks for definition in assets]
    return list(dict.fromkeys(definition.key for definition in (*_ALWAYS, *chosen)))


def is_full(run: DagsterRun) -> bool:
    """Whether a run materializes every asset of its partition, whichever way it was started."""
    if not run.asset_selection:  # none, or an empty one when executed in process
        return run.job_name in (process_model_run.name, rollback_datacube.name)
    return run.asset_selection >= ASSET_KEYS
