"""Requests that wait in the lake: left by a user, by CauseMos, or by the command line.

The newest one for a partition says what its datacube is made of, before Dojo is asked (DESIGN 2). A
request may also ask for a run, which a sensor then starts. Deriving requests from Dojo's documents
belongs to `dojo/derive.py`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from datacube_assets.datacube.errors import InputError, shown
from datacube_assets.dojo.documents import reason_of
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.storage.lake import DamagedError, Lake
from datacube_assets.storage.stores import MissingObjectError

_WAITING = "requests/waiting"
_SUFFIX = ".json"


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
    """The request left for a partition, None when there is none.

    Raises InputError when somebody left one that is none.
    """
    try:
        document = lake.read_document(_key(run))
        return None if document is None else DatacubeRequest.model_validate(document)
    except (DamagedError, ValueError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, ValidationError) else "it is no JSON document"
        raise InputError(
            f"the request left for it cannot be read: {shown(reason)}",
            run=str(run),
            file=f"{lake.store.url}/{_key(run)}",
            remedy="Leave it again, with `datacube reprocess` or `datacube publish`, or delete this file",
        ) from error


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


class _Waiting(BaseModel):
    """What is kept of a requested run, under its name."""

    model_config = ConfigDict(strict=True)

    asked_at: int
    partition: str
    tasks: list[str] | None


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
    """Runs that wait to be started, oldest first, at most `limit`.

    One that cannot be read names no partition: it must not keep the others waiting.
    """
    listed = (key for key, _ in lake.store.list(f"{_WAITING}/") if key.endswith(_SUFFIX))
    waiting = []
    for key in sorted(listed)[:limit]:
        name = key.removeprefix(f"{_WAITING}/").removesuffix(_SUFFIX)
        try:
            one = _Waiting.model_validate_json(lake.store.get(key))
        except MissingObjectError:
            continue
        except ValidationError:
            one = _Waiting(asked_at=0, partition="", tasks=None)
        tasks = None if one.tasks is None else tuple(one.tasks)
        waiting.append(RunRequested(one.asked_at, name, one.partition, tasks))
    return waiting


def runs_started(lake: Lake, names: list[str]) -> None:
    """Forget requested runs: Dagster has them."""
    lake.store.delete_many([f"{_WAITING}/{name}.json" for name in names])
