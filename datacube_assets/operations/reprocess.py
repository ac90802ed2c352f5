"""Asking for runs by hand: of given partitions, of a model, of whatever failed.

What is asked for waits in the lake until the `requests` sensor starts it; nothing runs here.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagster import DagsterInstance, DagsterRunStatus

from datacube_assets.dojo.client import DojoError
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.jobs import is_full
from datacube_assets.orchestration.locks import died_at_command_line
from datacube_assets.partitions import PARTITION_TAG, model_runs
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import RunRequested, ask_for_run, requested
from datacube_assets.storage.run_info import request_key


class NoRequestError(RuntimeError):
    """Dojo was asked for the request of a run and did not give it."""


def reprocess(settings: Settings, key: str, changes: Mapping[str, object]) -> RunRequested:
    """Ask for a run of a partition, with some parameters of its request replaced.

    Raises ValueError for a key that is none, ValidationError for a parameter that cannot be used,
    InputError or NoRequestError when there is no request to start from.
    """
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    run = ModelRun.named(key)
    fields = {**current_request(settings, lake, run).model_dump(), **changes}
    # A selection of tasks is for this once; whatever else was asked for before stays.
    fields["selected_output_tasks"] = changes.get("selected_output_tasks")
    # What Dojo's documents imply is not written down without need: it may change with them. And what was
    # left is not left again: somebody may have gone back from it since.
    known = settings.dojo_url or requested(lake, run)
    leave = not known or not changes.keys() <= {"selected_output_tasks"}
    return ask_for_run(lake, DatacubeRequest.model_validate(fields), leave=leave)


def current_request(settings: Settings, lake: Lake, run: ModelRun) -> DatacubeRequest:
    """The request that a run of the partition would work on now."""
    left = requested(lake, run)
    if left is not None:
        return left
    if settings.dojo_url:
        dojo = DojoResource(
            url=settings.dojo_url,
            username=settings.dojo_username,
            password=settings.dojo_password.get_secret_value(),
            home=str(settings.home),
            address_key=settings.address_key.get_secret_value(),
        )
        try:
            return dojo.derive_request(run)
        except DojoError as error:
            raise NoRequestError(str(error)) from error
    document = lake.read_document(request_key(run))
    return DatacubeRequest.model_validate(document) if document else DojoResource().derive_request(run)


def partitions_of(instance: DagsterInstance, model_id: str) -> list[str]:
    """Partitions of a model or dataset, sorted."""
    keys = instance.get_dynamic_partitions(str(model_runs.name))
    runs = [run for key in keys if (run := ModelRun.known(key))]
    return sorted(run.key for run in runs if run.model_id == model_id)


def failed_partitions(instance: DagsterInstance) -> list[str]:
    """Partitions that Dagster knows, and whose newest finished run of all assets failed, sorted.

    A run that was canceled did not fail: somebody wanted it so.
    """
    known = set(instance.get_dynamic_partitions(str(model_runs.name)))
    newest: dict[str, DagsterRunStatus] = {}
    for run in instance.get_runs():
        partition = run.tags.get(PARTITION_TAG)
        died = died_at_command_line(instance, run)
        if (run.is_finished or died) and partition in known and ModelRun.known(partition) and is_full(run):
            # Dagster lists the newest first.
            newest.setdefault(str(partition), DagsterRunStatus.FAILURE if died else run.status)
    return sorted(partition for partition, status in newest.items() if status == DagsterRunStatus.FAILURE)
