"""The sensor that starts the runs somebody asked for: a user at the command line, or CauseMos.

It also starts anew what Dagster could not repeat (`repeating.py`).

Requests wait in the lake (`storage/requests.py`) until Dagster has created their runs. Only as many are
handed over as Dagster can soon start: what still waits in the lake can be paused, ordered and dropped.
"""

import json

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.orchestration.jobs import BY_HAND, FORCED, process_model_run, selection
from datacube_assets.partitions import REQUEST_TAG, SOURCE_TAG, model_runs, run_tags
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.repeating import repetitions
from datacube_assets.sensors.tick_log import count, listed
from datacube_assets.storage.requests import RunRequested, drop, is_paused, runs_requested, runs_started


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
        paused = is_paused(store)
        # One that was never queued, because its submission died, is submitted again, and takes no room.
        queued = [run for run in queued_runs(context.instance) if run.status == DagsterRunStatus.QUEUED]
        room = 0 if paused else max(limit - len(queued), 0)
        waiting = runs_requested(store, room)
        broken = [one for one in waiting if ModelRun.known(one.partition) is None]
        if broken:
            context.log.error(
                f"Dropped, because they name no partition: {listed([one.name for one in broken])}"
            )
            drop(store, [one.name for one in broken])
            waiting = [one for one in waiting if one not in broken]
        again = repetitions(context.instance)
        if again:
            instead = listed([str(one.partition_key) for one in again])
            context.log.warning(f"Dagster could not repeat what died, so it is started anew: {instead}.")
        if not waiting and not again:
            return SensorResult(skip_reason=why_none(paused=paused, room=room), cursor="[]")
        if waiting:
            names = listed([one.partition for one in waiting])
            context.log.info(f"Requested {count(len(waiting), 'run')} that somebody asked for: {names}.")
        return SensorResult(
            run_requests=[*again, *(request_run(one) for one in waiting)],
            dynamic_partitions_requests=[model_runs.build_add_request([one.partition for one in waiting])],
            cursor=json.dumps([one.name for one in waiting]),
        )

    return requests


def why_none(*, paused: bool, room: int) -> str:
    """Why a tick started nothing, as a line of a log."""
    if paused:
        return "The queue is paused; `PUT /data-pipeline/start` at the gateway resumes it."
    return (
        "Nobody asked for a run." if room else "As many requested runs as a tick may start wait in Dagster."
    )


def queued_runs(instance: DagsterInstance) -> list[DagsterRun]:
    """Requested runs that Dagster has and has not started yet, newest first."""
    # One that is being created is not queued yet.
    statuses = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED]
    return list(instance.get_runs(RunsFilter(statuses=statuses, tags={SOURCE_TAG: BY_HAND[SOURCE_TAG]})))


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
        tags={**run_tags(run), **(FORCED if asked.forced else BY_HAND), REQUEST_TAG: asked.name},
    )
