"""Taking a datacube back from the command line, while nothing is at work on it.

What goes, and in which order, is in `orchestration/withdrawal.py`.
"""

from __future__ import annotations

import uuid

from dagster import DagsterInstance

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.errors import InputError
from datacube_assets.operations.garbage_collection import is_busy
from datacube_assets.orchestration.locks import Locked, locked
from datacube_assets.orchestration.withdrawal import Progress, Withdrawn
from datacube_assets.orchestration.withdrawal import withdraw as take_back
from datacube_assets.resources.storage import buckets_of
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store


def withdraw(
    settings: Settings,
    instance: DagsterInstance,
    run: ModelRun,
    *,
    tables: bool = False,
    parts: bool = False,
    tell: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Withdrawn:
    """Take a datacube back. Raises InputError while a run of it waits or is at work."""
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    buckets = buckets_of(settings)
    by = str(uuid.uuid4())
    busy = InputError(
        "a run of it waits or is at work",
        run=str(run),
        remedy="Cancel that run in the Dagster UI, or wait until it is over; then withdraw it",
    )
    if is_busy(instance, run):
        raise busy
    try:
        with locked(instance, run.key, by):
            return take_back(
                instance,
                lake,
                buckets.of,
                buckets.at,
                run,
                by,
                tables=tables,
                parts=parts,
                tell=tell,
                progress=progress,
            )
    except Locked:
        raise busy from None
