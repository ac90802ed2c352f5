"""Materializing a whole partition in this process: what `datacube publish` and the demo do.

Runs the same job as the UI and the sensors, on the same Dagster storage; tells its progress as it goes.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterEventType,
    DagsterInstance,
    DagsterResourceFunctionError,
    DagsterRunStatus,
    InitLoggerContext,
    LoggerDefinition,
    RunsFilter,
)

from datacube_assets.checks.judging.verdict import ChecksFailedError
from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.orchestration.dagster_private import BlockingCheckFailed
from datacube_assets.orchestration.jobs import ASSETS, process_model_run
from datacube_assets.orchestration.locks import Locked, locked
from datacube_assets.orchestration.run_launcher import process_of
from datacube_assets.orchestration.side_by_side import execute_job
from datacube_assets.partitions import (
    AT_COMMAND_LINE,
    FROM_SCRATCH,
    PARTITION_TAG,
    SOURCE_TAG,
    model_runs,
    run_tags,
)
from datacube_assets.resources.storage import buckets_of
from datacube_assets.resources.ui import untold
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import WAIT, Holder, LeaseHeldError, acquire
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import leave_request
from datacube_assets.storage.stores import StoreError

STEPS = len(ASSETS)


@dataclass
class Outcome:
    """What materializing a partition did."""

    run: ModelRun
    seconds: float = 0.0
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Materialization metadata by asset, in the order of completion."""
    warnings: list[str] = field(default_factory=list)
    """What failed checks say."""

    def total(self, name: str) -> int:
        """Sum of a figure over all assets that publish."""
        return sum(int(data[name]) for data in self.assets.values() if "objects" in data)


Progress = Callable[[str, dict[str, Any], int], None]
"""Called after each asset with its name, its metadata and the number of assets done."""


def process(
    settings: Settings,
    instance: DagsterInstance,
    request: DatacubeRequest,
    progress: Progress,
    *,
    begun: Callable[[str], None] = lambda _: None,
    from_scratch: bool = False,
) -> Outcome:
    """Leave the request, register its partition and materialize all assets of it.

    `begun` is called before each asset, with its name. `from_scratch` makes and publishes everything
    again, whether it is there or not.
    Raises what the failing asset raised: InputError for input that cannot be processed, or while another
    process is at work on the same partition; ChecksFailedError when a check stops publication.
    """
    run = ModelRun.of(request)

    def leave(lake: Lake) -> None:
        leave_request(lake, Seal.of(settings).close_all(request))
        instance.add_dynamic_partitions(str(model_runs.name), [run.key])

    tags = {FROM_SCRATCH: "yes"} if from_scratch else {}
    return materialize(settings, instance, request, progress, begun=begun, first=leave, tags=tags)


def materialize(
    settings: Settings,
    instance: DagsterInstance,
    request: DatacubeRequest,
    progress: Progress,
    *,
    begun: Callable[[str], None] = lambda _: None,
    first: Callable[[Lake], None] = lambda _: None,
    job: str = process_model_run.name,
    tags: Mapping[str, str] | None = None,
) -> Outcome:
    """Materialize all assets of the partition that a request is of, alone; `first` is done before.

    Raises as `process` does.
    """
    run, run_id = ModelRun.of(request), str(uuid.uuid4())
    run.check()
    refuse_beside_another(instance, run)
    try:
        with locked(instance, run.key, run_id), _owned(settings, request, run_id):
            first(Lake(open_store(settings.lake, settings.s3_endpoint)))
            return _materialize(settings, instance, run, progress, begun, run_id, job, tags or {})
    except Locked:
        raise InputError(
            "another command is processing it right now",
            run=str(run),
            remedy="Wait until that command is through, or end it",
        ) from None


@contextlib.contextmanager
def _owned(settings: Settings, request: DatacubeRequest, run_id: str) -> Iterator[None]:
    """Hold the datacube's lease from the start, which the steps that publish share.

    Raises InputError while somebody else holds it.
    """
    run, bucket = ModelRun.of(request), buckets_of(settings).open(request)
    with contextlib.ExitStack() as held:
        # What else is wrong with a bucket is better said by the first step, which names the setting.
        with contextlib.suppress(StoreError, OSError):
            try:
                tenure = acquire(bucket, run, Holder(settings.lake, run_id, settings.lease_seconds))
            except LeaseHeldError as error:
                raise InputError(
                    str(error).removesuffix(WAIT),
                    run=str(run),
                    remedy=WAIT.strip(),
                ) from None
            held.callback(tenure.release)
        yield


def _materialize(
    settings: Settings,
    instance: DagsterInstance,
    run: ModelRun,
    progress: Progress,
    begun: Callable[[str], None],
    run_id: str,
    job: str,
    tags: Mapping[str, str],
) -> Outcome:
    outcome = Outcome(run)
    started = time.monotonic()

    def materialized(asset: str, metadata: dict[str, Any]) -> None:
        outcome.assets[asset] = metadata
        progress(asset, metadata, len(outcome.assets))

    stopping: list[str] = []

    def failed(check: AssetCheckEvaluation) -> None:
        stops = check.blocking and check.severity == AssetCheckSeverity.ERROR
        told = f"{check.asset_key.path[-1]}, {check.check_name}: {check.description}"
        (stopping if stops else outcome.warnings).append(told)

    definitions = build_definitions(settings, loggers={"progress": events_to(begun, materialized, failed)})
    try:
        with untold():
            execute_job(
                definitions.resolve_job_def(job),
                instance,
                partition_key=run.key,
                run_id=run_id,
                tags={**run_tags(run), SOURCE_TAG: AT_COMMAND_LINE, **tags},
                run_config={"loggers": {"progress": {}}},
            )
    except BlockingCheckFailed:
        raise ChecksFailedError(str(run), stopping) from None
    except DagsterResourceFunctionError as error:
        # Such as a cluster that cannot be reached: people are told that, not how Dagster came to know.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
    outcome.seconds = time.monotonic() - started
    return outcome


def refuse_beside_another(instance: DagsterInstance, run: ModelRun) -> None:
    """Raise InputError while a run of the same partition is under way: both would write the same objects.

    Runs of the UI and the sensors wait for each other in Dagster's queue, which this process is not in.
    """
    running = instance.get_runs(
        filters=RunsFilter(tags={PARTITION_TAG: run.key}, statuses=[DagsterRunStatus.STARTED])
    )
    for other in running:
        if process_of(other.run_id) is not None:
            raise InputError(
                f"Dagster's run {other.run_id} is processing it right now",
                run=str(run),
                remedy="Wait until that run is over, or cancel it in the UI",
            )


def events_to(
    begun: Callable[[str], None],
    materialized: Callable[[str, dict[str, Any]], None],
    failed: Callable[[AssetCheckEvaluation], None],
    passed: Callable[[AssetCheckEvaluation], None] = lambda _: None,
) -> LoggerDefinition:
    """A Dagster logger that hands on what assets begin and make, and what checks find; silent otherwise."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event = getattr(record, "dagster_meta", {}).get("dagster_event")
            if event is not None and event.event_type == DagsterEventType.STEP_START:
                begun(event.step_key)
            elif event is not None and event.is_step_materialization:
                data = event.step_materialization_data.materialization
                metadata = {name: value.value for name, value in data.metadata.items()}
                materialized(data.asset_key.path[-1], metadata)
            elif event is not None and event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                (passed if check.passed else failed)(check)

    def build(_: InitLoggerContext) -> logging.Logger:
        # A logger of its own, outside the tree: nothing else may listen or change its level.
        logger = logging.Logger("datacube.progress", logging.DEBUG)  # noqa: LOG001
        logger.addHandler(Handler())
        return logger

    return LoggerDefinition(logger_fn=build, config_schema={})
