"""Jobs for tests of executors, as workers load them: by the name of a function of this module."""

from pathlib import Path

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Definitions,
    DynamicPartitionsDefinition,
    ExecutorDefinition,
    JobDefinition,
    asset,
    define_asset_job,
)
from dagster_dask import dask_executor

from datacube_assets.definitions import build_definitions
from datacube_assets.orchestration.dask_executor import build_dask_executor
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.settings import Settings
from datacube_assets_tests.integration.dask_cluster import wait_until

PARTITIONS = DynamicPartitionsDefinition(name="toys")
FOLDER_TAG, FAIL_TAG = "toys/folder", "toys/fail"


def _toys(partitions: DynamicPartitionsDefinition | None) -> list[AssetsDefinition]:
    """Two assets, one after the other; the first waits for a gate. They note which run they are of."""

    @asset(partitions_def=partitions)
    def first(context: AssetExecutionContext) -> None:
        folder = Path(context.run.tags[FOLDER_TAG])
        (folder / f"first-{context.run.run_id}").touch()
        wait_until((folder / "open").exists)
        if FAIL_TAG in context.run.tags:
            raise ValueError("first has failed")

    @asset(partitions_def=partitions, deps=[first])
    def second(context: AssetExecutionContext) -> None:
        (Path(context.run.tags[FOLDER_TAG]) / f"second-{context.run.run_id}").touch()

    return [first, second]


def _job(partitions: DynamicPartitionsDefinition | None, executor: ExecutorDefinition) -> JobDefinition:
    job = define_asset_job("toys", "*", executor_def=executor)
    return Definitions(assets=_toys(partitions), jobs=[job]).resolve_job_def("toys")


def plain() -> JobDefinition:
    """With the executor of dagster-dask."""
    return _job(None, dask_executor)


def plain_partitioned() -> JobDefinition:
    """The same with partitions."""
    return _job(PARTITIONS, dask_executor)


def ours() -> JobDefinition:
    """With our executor, partitioned."""
    return _job(PARTITIONS, build_dask_executor(Settings.from_environment()))


def datacube() -> JobDefinition:
    """The main job, as the environment says."""
    return build_definitions(Settings.from_environment()).resolve_job_def(process_model_run.name)
