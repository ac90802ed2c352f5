"""The sensor that starts the runs somebody asked for: a user at the command line, or CauseMos.

Requests wait in the lake (`storage/requests.py`) until Dagster has created their runs.
"""

import json

from dagster import (
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from datacube_assets.assets.partitions import model_runs, run_tags
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.jobs import BY_HAND, process_model_run, selection
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.words import count, listed
from datacube_assets.storage.requests import RunRequested, runs_requested, runs_started


def build_requests_sensor(*, interval: int, limit: int) -> SensorDefinition:
    """The sensor, looking every `interval` seconds and starting at most `limit` runs a tick."""

    @sensor(
        name="requests",
        job=process_model_run,
        minimum_interval_seconds=interval,
        default_status=DefaultSensorStatus.RUNNING,
        description="Starts the runs that were asked for with `datacube reprocess`, or by CauseMos.",
    )
    def requests(context: SensorEvaluationContext, lake: LakeResource) -> SensorResult:
        store = lake.open()
        # The cursor names what the last tick requested; Dagster stored it after creating the runs.
        runs_started(store, started_last(context.cursor))
        waiting = runs_requested(store, limit)
        broken = [one for one in waiting if ModelRun.known(one.partition) is None]
        if broken:
            context.log.error(
                f"Dropped, because they name no partition: {listed([one.name for one in broken])}"
            )
            runs_started(store, [one.name for one in broken])
            waiting = [one for one in waiting if one not in broken]
        if not waiting:
            return SensorResult(skip_reason="Nobody asked for a run.", cursor="[]")
        names = listed([one.partition for one in waiting])
        context.log.info(f"Requested {count(len(waiting), 'run')} that somebody asked for: {names}.")
        return SensorResult(
            run_requests=[request_run(one) for one in waiting],
            dynamic_partitions_requests=[model_runs.build_add_request([one.partition for one in waiting])],
            cursor=json.dumps([one.name for one in waiting]),
        )

    return requests


def started_last(cursor: str | None) -> list[str]:
    """Names of the requests that the last tick started; none when the cursor is lost."""
    try:
        names = json.loads(cursor or "[]")
    except json.JSONDecodeError:
        return []
    return names if isinstance(names, list) else []


def request_run(asked: RunRequested) -> RunRequest:
    """The run that was asked for."""
    run = ModelRun.from_key(asked.partition)
    return RunRequest(
        run_key=asked.name,
        partition_key=asked.partition,
        asset_selection=selection(asked.tasks),
        tags={**run_tags(run), **BY_HAND},
    )
