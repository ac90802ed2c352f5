"""Requests that wait in the lake: left by a user, by CauseMos, or by the command line.

The newest one for a partition says what its datacube is made of, before Dojo is asked (DESIGN 2). A
request may also ask for a run, which a sensor then starts. Deriving requests from Dojo's documents
belongs to `dojo/derive.py`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.storage.lake import Lake

_WAITING = "requests/waiting"


def _key(run: ModelRun) -> str:
    return f"{run.folder}/requested/request.json"


def leave_request(lake: Lake, request: DatacubeRequest) -> ModelRun:
    """Leave a request for its partition, in place of an earlier one; its addresses are sealed by the caller.

    Raises InputError when an id would leave its folder.
    """
    run = ModelRun.of(request)
    run.check()
    lake.write_document(_key(run), request.model_dump(mode="json"))
    return run


def requested(lake: Lake, run: ModelRun) -> DatacubeRequest | None:
    """The request left for a partition, None when there is none."""
    document = lake.read_document(_key(run))
    return None if document is None else DatacubeRequest.model_validate(document)


@dataclass(frozen=True, order=True)
class RunRequested:
    """A run that somebody asked for and no sensor has started yet."""

    asked_at: int
    """Milliseconds UTC."""
    name: str
    """Unique; also the key under which Dagster starts no second run."""
    partition: str
    tasks: tuple[str, ...] | None
    """Output tasks selected (CONTRACTS C); None for all."""


def ask_for_run(lake: Lake, request: DatacubeRequest, *, leave: bool = True) -> RunRequested:
    """Leave a request and ask for a run of it. Durable once this returns.

    The selection of tasks is for this run only: it makes no other datacube. Without `leave` the run
    works on what it finds: the request left before, or what Dojo's documents imply by then.
    """
    run = ModelRun.of(request)
    run.check()
    if leave:
        leave_request(lake, request.model_copy(update={"selected_output_tasks": None}))
    now = time.time_ns()
    asked = RunRequested(
        now // 1_000_000, f"{now:020}-{uuid.uuid4().hex}", run.key, request.selected_output_tasks
    )
    lake.write_document(
        f"{_WAITING}/{asked.name}.json",
        {"asked_at": asked.asked_at, "partition": asked.partition, "tasks": asked.tasks},
    )
    return asked


def runs_requested(lake: Lake, limit: int) -> list[RunRequested]:
    """Runs that wait to be started, oldest first, at most `limit`."""
    keys = sorted(key for key, _ in lake.store.list(f"{_WAITING}/"))[:limit]
    waiting = []
    for key in keys:
        document = lake.read_document(key)
        if document is not None:
            tasks = document["tasks"]
            name = key.removeprefix(f"{_WAITING}/").removesuffix(".json")
            partition, asked_at = document["partition"], document["asked_at"]
            waiting.append(RunRequested(asked_at, name, partition, None if tasks is None else tuple(tasks)))
    return waiting


def runs_started(lake: Lake, names: list[str]) -> None:
    """Forget requested runs: Dagster has them."""
    lake.store.delete_many([f"{_WAITING}/{name}.json" for name in names])
