"""Having an earlier version of a datacube back, in this process: what `datacube rollback` does.

What a run does that goes back is in `assets/versions.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from dagster import DagsterInstance

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.operations.publish import Outcome, Progress, materialize
from datacube_assets.operations.versions import open_history
from datacube_assets.orchestration.jobs import rollback_datacube
from datacube_assets.partitions import WANTED_VERSION, model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.history import RAW_PARTS, Version


def roll_back(
    settings: Settings,
    instance: DagsterInstance,
    run: ModelRun,
    to: Version,
    progress: Progress,
    *,
    begun: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Publish an earlier version again. Raises as `operations.publish.process` does."""
    history = open_history(settings, run)
    published = history.published()
    if published is not None and published.version == to.version:
        raise InputError(
            f"version {to.number} is what is published",
            run=str(run),
            remedy=f"Give another one: `datacube history {run.key}` lists them",
        )
    raw = history.tables_of(to.version)[RAW_PARTS]
    return materialize(
        settings,
        instance,
        DatacubeRequest.model_validate(raw.info["request"]),
        progress,
        begun=begun,
        # It may have been withdrawn.
        first=lambda _: instance.add_dynamic_partitions(str(model_runs.name), [run.key]),
        job=rollback_datacube.name,
        tags={WANTED_VERSION: str(to.number)},
    )
