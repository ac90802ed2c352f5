"""Runs that Dagster meant to repeat and could not.

A run whose process died is repeated by Dagster's daemon. If the code server is away in just that moment,
the daemon notes so in the run's log, takes back its announcement, and does not try again. What is found here
is started by the sensor `requests`; what CauseMos is told of it is in `reports.py`.
"""

from __future__ import annotations

import datetime as dt
import time

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, RunsFilter

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.orchestration.jobs import JOBS, PRIORITY_TAG, process_model_run
from datacube_assets.partitions import PARTITION_TAG

_JOB_NAMES = frozenset(job.name for job in JOBS)
WILL_RETRY = "dagster/will_retry"
"""Tag by which Dagster announces that it will repeat a run; set a moment after the run failed."""
NOT_MADE = "Failed to retry run"
"""What Dagster writes into the log of a run that it could not repeat."""
LOOKED_AT = "datacube/repeated"
"""Tag of a failed run that was looked at here: `yes` if a run takes its place, else `no`."""
LOOK_BACK = dt.timedelta(days=1)
"""How far looks at runs that failed overlap; nothing is too old to be looked at for the first time."""


def could_not_be_repeated(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether Dagster tried to repeat a failed run, and failed at that."""
    if run.status != DagsterRunStatus.FAILURE or run.tags.get(WILL_RETRY) != "false":
        return False
    log = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    return any(entry.dagster_event and entry.dagster_event.message == NOT_MADE for entry in log)


def repetitions(instance: DagsterInstance, looked: float) -> list[RunRequest]:
    """The runs that take the place of those; the same ones again until Dagster has them.

    `looked` is when that was looked for last (seconds UTC), 0 if never.
    """
    seen = min(looked, time.time()) - LOOK_BACK.total_seconds()
    since = dt.datetime.fromtimestamp(max(seen, 0.0), dt.UTC)
    filters = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY: "false"}, updated_after=since)
    wanted = []
    for run in instance.get_runs(filters):
        if LOOKED_AT in run.tags or not _is_ours(run):
            continue
        if not could_not_be_repeated(instance, run):
            instance.add_run_tags(run.run_id, {LOOKED_AT: "no"})
        elif instance.get_runs_count(RunsFilter(tags={"dagster/run_key": _key(run)})):
            instance.add_run_tags(run.run_id, {LOOKED_AT: "yes"})
        else:
            _forget_what_was_begun(instance, run)
            wanted.append(_repetition(run))
    return wanted


def _is_ours(run: DagsterRun) -> bool:
    """Whether the run is one that the sensor can start: of one of our jobs, or of assets that are named."""
    partition = run.tags.get(PARTITION_TAG)
    known = ModelRun.known(partition) is not None
    return known and bool(run.asset_selection or run.job_name in _JOB_NAMES)


def _key(run: DagsterRun) -> str:
    return f"instead of {run.run_id}"


def _forget_what_was_begun(instance: DagsterInstance, run: DagsterRun) -> None:
    """Delete a repetition that was created and never handed to the queue: nobody would ever start it."""
    begun = instance.get_run_by_id(run.tags.get("dagster/auto_retry_run_id", ""))
    if begun is not None and begun.status == DagsterRunStatus.NOT_STARTED:
        instance.delete_run(begun.run_id)


def _repetition(run: DagsterRun) -> RunRequest:
    kept = {
        name: value
        for name, value in run.tags.items()
        if not name.startswith("dagster/") or name == PRIORITY_TAG
    }
    return RunRequest(
        run_key=_key(run),
        partition_key=run.tags[PARTITION_TAG],
        # Of named assets Dagster has a job of its own, which no sensor can start.
        job_name=run.job_name if run.job_name in _JOB_NAMES else process_model_run.name,
        asset_selection=sorted(run.asset_selection) if run.asset_selection else None,
        tags=kept,
    )
