"""The sensor that starts the runs somebody asked for: a user at the command line, or CauseMos.

It also starts anew what Dagster could not repeat (`repeating.py`).

Requests wait in the lake (`storage/requests.py`) until Dagster has created their runs. Only as many are
handed over as Dagster can soon start: what still waits in the lake can be paused, ordered and dropped.
"""

import json
import time
from dataclasses import dataclass
from typing import Self

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
from datacube_assets.orchestration.home import faults_of_settings
from datacube_assets.orchestration.jobs import BY_HAND, FORCED, JOBS, process_model_run, selection
from datacube_assets.orchestration.telling import tell_failure
from datacube_assets.partitions import REQUEST_TAG, SOURCE_TAG, model_runs, run_tags
from datacube_assets.redaction import redacting
from datacube_assets.resources.storage import LakeResource
from datacube_assets.sensors.repeating import repetitions
from datacube_assets.sensors.tick_log import count, listed
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.requests import (
    UNREADABLE,
    RunRequested,
    is_paused,
    put_aside,
    runs_requested,
    runs_started,
    unusable,
)


def build_requests_sensor(*, interval: int, limit: int) -> SensorDefinition:
    """The sensor, looking every `interval` seconds and starting at most `limit` runs a tick."""

    @sensor(
        name="requests",
        jobs=JOBS,
        minimum_interval_seconds=interval,
        default_status=DefaultSensorStatus.RUNNING,
        description="Starts the runs that were asked for with `datacube reprocess`, or by CauseMos.",
    )
    @redacting()
    def requests(context: SensorEvaluationContext, lake: LakeResource) -> SensorResult:
        store = lake.open()
        # The cursor names what the last tick requested; Dagster stored it after creating the runs.
        last = Cursor.read(context.cursor)
        runs_started(store, last.started)
        for line in faults_of_settings(context.instance) if not last.looked else ():
            context.log.warning(line)
        paused = is_paused(store)
        # One that was never queued, because its submission died, is submitted again, and takes no room.
        queued = [run for run in queued_runs(context.instance) if run.status == DagsterRunStatus.QUEUED]
        room = 0 if paused else max(limit - len(queued), 0)
        waiting = runs_requested(store, room)
        broken = [one for one in waiting if ModelRun.known(one.partition) is None]
        if broken:
            told = [refuse(store, one.name) for one in broken]
            context.log.error(
                f"Put aside in {UNREADABLE}, because they name no partition: "
                f"{listed([one.name for one in broken])}. CauseMos is told of {sum(told)} that they failed."
            )
            waiting = [one for one in waiting if one not in broken]
        now = time.time()
        again = repetitions(context.instance, last.looked)
        if again:
            instead = listed([str(one.partition_key) for one in again])
            context.log.warning(f"Dagster could not repeat what died, so it is started anew: {instead}.")
        if not waiting and not again:
            return SensorResult(skip_reason=why_none(paused=paused, room=room), cursor=Cursor((), now).text)
        if waiting:
            names = listed([one.partition for one in waiting])
            context.log.info(f"Requested {count(len(waiting), 'run')} that somebody asked for: {names}.")
        return SensorResult(
            run_requests=[*again, *(request_run(one) for one in waiting)],
            dynamic_partitions_requests=[model_runs.build_add_request([one.partition for one in waiting])],
            cursor=Cursor(tuple(one.name for one in waiting), now).text,
        )

    return requests


def refuse(lake: Lake, name: str) -> bool:
    """Put a request aside that no run can be started for, and have CauseMos told, if it says who waits."""
    found = unusable(lake, name)
    told = bool(found.model_id and found.run_id and found.doc_ids)
    if told:
        # Before it leaves the queue: whoever dies in between does it once more.
        tell_failure(lake, name, ModelRun(found.model_id, found.run_id), found.doc_ids)
    put_aside(lake, name)
    return told


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


@dataclass(frozen=True)
class Cursor:
    """What a tick leaves to the next one."""

    started: tuple[str, ...] = ()
    """Names of the requests that it started."""
    looked: float = 0.0
    """When it looked for runs that Dagster could not repeat (seconds UTC); 0 if nobody has yet."""

    @classmethod
    def read(cls, cursor: str | None) -> Self:
        """The cursor of the last tick; an empty one when it is lost."""
        try:
            kept = json.loads(cursor or "[]")
        except json.JSONDecodeError:
            return cls()
        if isinstance(kept, list):  # of an earlier version
            return cls(tuple(map(str, kept)))
        try:
            return cls(tuple(map(str, kept["started"])), float(kept["looked"]))
        except (TypeError, KeyError, ValueError):
            return cls()

    @property
    def text(self) -> str:
        return json.dumps({"started": self.started, "looked": self.looked})


def request_run(asked: RunRequested) -> RunRequest:
    """The run that was asked for."""
    run = ModelRun.from_key(asked.partition)
    return RunRequest(
        run_key=asked.name,
        partition_key=asked.partition,
        job_name=process_model_run.name,
        asset_selection=selection(asked.tasks),
        tags={**run_tags(run), **(FORCED if asked.forced else BY_HAND), REQUEST_TAG: asked.name},
    )
