"""When a run was asked for, so that it can be said how long somebody has waited for its datacube.

What is judged by it is in `checks/judging/waiting.py`; what Prometheus is told, in `gateway/metrics.py`.
"""

from __future__ import annotations

from dagster import DagsterInstance, RunRecord

from datacube_assets.partitions import REQUEST_TAG
from datacube_assets.storage.requests import Ticket


def asked_at(instance: DagsterInstance, record: RunRecord) -> float:
    """Seconds since 1970, UTC: of the request, or else of the creation of the first of the run's tries."""
    run = record.dagster_run
    requested = Ticket.of(run.tags.get(REQUEST_TAG, "")).asked_at
    if requested:
        return requested / 1000
    first = instance.get_run_record_by_id(run.root_run_id) if run.root_run_id else None
    return (first or record).create_timestamp.timestamp()
