"""The one place where everything is wired: assets, resources, jobs.

`build_definitions` takes settings, so that tests and the command line wire the same graph to other
places. Each part is defined in its own package; nothing is defined here.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagster import (
    AssetsDefinition,
    AssetSelection,
    Definitions,
    EnvVar,
    LoggerDefinition,
    define_asset_job,
    in_process_executor,
)

from datacube_assets.assets.aggregates import global_aggregates, grid_cells, regional_aggregates
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.dojo import dojo_request, raw_dojo_output
from datacube_assets.assets.partitions import model_runs
from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.assets.results import pipeline_results
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.publishing import Publisher
from datacube_assets.resources.storage import BucketsResource, LakeIOManager, LakeResource
from datacube_assets.settings import Settings

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


process_model_run = define_asset_job(
    "process_model_run",
    selection=AssetSelection.assets(*ASSETS),
    partitions_def=model_runs,
    description="From the request of a model run or dataset to its complete datacube.",
)


def build_resources(settings: Settings) -> dict[str, object]:
    """The resources of the graph, by the names that assets ask for."""
    lake = LakeResource(url=settings.lake, s3_endpoint=settings.s3_endpoint, shard_rows=settings.shard_rows)
    buckets = BucketsResource(
        models=settings.models_bucket, indicators=settings.indicators_bucket, s3_endpoint=settings.s3_endpoint
    )
    dask = DaskResource(
        mode=settings.dask_mode,
        workers=settings.dask_workers,
        scheduler=settings.dask_scheduler,
        stores=[settings.lake, settings.models_bucket, settings.indicators_bucket],
    )
    return {
        "lake": lake,
        "buckets": buckets,
        "dask": dask,
        "publisher": Publisher(lake=lake, buckets=buckets, dask=dask),
        "io_manager": LakeIOManager(lake=lake),
        "dojo": DojoResource(
            url=settings.dojo_url,
            username=settings.dojo_username,
            # Read when a run starts, so that it is in no configuration that the UI shows.
            password=EnvVar("DOJO_PASSWORD") if settings.dojo_password.get_secret_value() else "",
        ),
    }


def build_definitions(
    settings: Settings, *, loggers: Mapping[str, LoggerDefinition] | None = None
) -> Definitions:
    """The whole code location for these settings; `loggers` replace Dagster's own."""
    return Definitions(
        assets=ASSETS,
        jobs=[process_model_run],
        resources=build_resources(settings),
        loggers=loggers,
        # In process: with a process per step, starting them costs more than the work (DESIGN 2).
        executor=in_process_executor,
    )


defs = build_definitions(Settings.from_environment())
