"""Requests that wait in the lake: left by a user, by CauseMos, or by the command line.

The newest one for a partition says what its datacube is made of, before Dojo is asked. A
request may also ask for a run, which a sensor then starts; until Dagster has it, it waits in a queue whose
order is that of its names. Who may put something into the queue, and how full it may get, belongs to
`gateway/`; deriving requests from Dojo's documents to `dojo/derive.py`.

    requests/waiting/NAME.json          a run that was asked for
    requests/started/NAME.json          the same, once Dagster has the run
    requests/joined/NAME/ANY.json       further documents that wait for the outcome of that run
    requests/forced/NAME.json           it starts before all others, though the queue be paused
    requests/paused.json                there while the queue is paused
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from datacube_assets.dojo.documents import reason_of
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest, digest
from datacube_assets.kernels.errors import InputError, shown
from datacube_assets.storage.lake import DamagedError, Lake
from datacube_assets.storage.stores import MissingObjectError

_WAITING = "requests/waiting"
STARTED = "requests/started"
JOINED = "requests/joined"
_FORCED = "requests/forced"
_PAUSED = "requests/paused.json"
UNREADABLE = "requests/unreadable"
"""Where requests are put aside that cannot be started."""
_SUFFIX = ".json"
_THREADS = 16


def _key(run: ModelRun) -> str:
    return f"{run.folder}/requested/request.json"


def left_since(lake: Lake, run: ModelRun, moment: float) -> bool:
    """Whether a request was left for a partition after a moment (seconds UTC, by the clock of the store)."""
    entries = lake.store.entries(_key(run).rpartition("/")[0] + "/")
    return any(one.key == _key(run) and one.modified > moment for one in entries)


def leave_request(lake: Lake, request: DatacubeRequest) -> ModelRun:
    """Leave a request for its partition, in place of an earlier one; its addresses are sealed by the caller.

    Raises InputError when an id would leave its folder.
    """
    run = ModelRun.of(request)
    run.check()
    lake.store.put(_key(run), request.model_dump_json().encode(), durably=True)
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


# --- names -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ticket:
    """What the name of a requested run tells without its being read."""

    asked_at: int
    """Milliseconds UTC."""
    partition: str
    """Digest of the partition; empty in names of another kind."""
    meaning: str
    """Digest of what is asked for: equal in requests that ask for the same."""

    @classmethod
    def of(cls, name: str) -> Ticket:
        """The ticket of a name; anybody may have put in files of other names."""
        moment, _, rest = name.partition("-")
        parts = rest.split("-")
        asked_at = int(moment) // 1_000_000 if moment.isascii() and moment.isdecimal() else 0
        return cls(asked_at, parts[0], parts[1]) if len(parts) == 3 else cls(asked_at, "", "")


def partition_mark(run: ModelRun) -> str:
    """The digest of a partition in names."""
    return digest(run.key)[:16]


def meaning_mark(request: DatacubeRequest) -> str:
    """The digest of what is asked for, in names: however it was written, whoever waits for the outcome."""
    return digest([request.fingerprint(), request.data_paths, request.source_version])[:16]


class _Clock:
    """Moments that never come twice and never go back, so that names keep the order of a process."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """Nanoseconds UTC."""
        with self._lock:
            self._last = max(time.time_ns(), self._last + 1)
            return self._last


_CLOCK = _Clock()


# --- the queue -------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class RunRequested:
    """A run that somebody asked for and no sensor has started yet."""

    asked_at: int
    """Milliseconds UTC."""
    name: str
    """Unique; also the key under which Dagster starts no second run."""
    partition: str
    tasks: tuple[str, ...] | None
    """Output tasks selected; None for all."""
    forced: bool = False
    """Whether it starts before all others."""


class _Waiting(BaseModel):
    """What is kept of a requested run, under its name."""

    model_config = ConfigDict(strict=True)

    asked_at: int
    partition: str
    tasks: list[str] | None
    parameters: dict[str, Any] | None = None
    """What was asked for, as it came; addresses are sealed."""
    doc_ids: list[str] = []
    """Documents in CauseMos that wait for the outcome of this run."""


def _read(body: bytes) -> _Waiting:
    """A requested run, by the parser that bodies are admitted with. Raises ValueError."""
    try:
        return _Waiting.model_validate(json.loads(body))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@dataclass(frozen=True)
class Asked:
    """What is known of a requested run, whether it waits or Dagster has it."""

    name: str
    partition: str
    tasks: tuple[str, ...] | None
    parameters: Mapping[str, Any] | None
    doc_ids: tuple[str, ...]


def ask_for_run(
    lake: Lake,
    request: DatacubeRequest,
    *,
    leave: bool = True,
    parameters: Mapping[str, Any] | None = None,
    meaning: str = "",
) -> RunRequested:
    """Leave a request and ask for a run of it. Durable once this returns.

    The selection of tasks is for this run only: it makes no other datacube. Without `leave` the run
    works on what it finds: the request left before, or what Dojo's documents imply by then. `parameters`
    are the request as it came, with whatever else it said; `meaning` is its mark, where that is known.
    """
    run = ModelRun.of(request)
    run.check()
    if leave:
        leave_request(lake, request.model_copy(update={"selected_output_tasks": None}))
    now = _CLOCK.next()
    marks = f"{partition_mark(run)}-{meaning or meaning_mark(request)}"
    name = f"{now:020}-{marks}-{uuid.uuid4().hex[:16]}"
    asked = RunRequested(now // 1_000_000, name, run.key, request.selected_output_tasks)
    document = {
        "asked_at": asked.asked_at,
        "partition": asked.partition,
        "tasks": None if asked.tasks is None else list(asked.tasks),
        "parameters": request.model_dump(mode="json") if parameters is None else dict(parameters),
        "doc_ids": list(request.doc_ids or ()),
    }
    # What cannot be read again must not be accepted: whoever asked would wait for ever.
    body = json.dumps(document, allow_nan=False).encode()
    if _read(body).model_dump() != document:
        raise ValueError("the request cannot be kept as it came")
    lake.store.put(f"{_WAITING}/{name}{_SUFFIX}", body, durably=True)
    return asked


def names_waiting(lake: Lake) -> list[str]:
    """Names of the runs that wait to be started, oldest first; quick, as nothing is read."""
    keys = lake.store.listing(f"{_WAITING}/")["key"].to_pylist()
    return sorted(_name(key) for key in keys if key.endswith(_SUFFIX))


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(_SUFFIX)


def runs_requested(lake: Lake, limit: int) -> list[RunRequested]:
    """Runs that wait to be started, oldest first, at most `limit`; before them those that are forced.

    One that cannot be read names no partition: it must not keep the others waiting.
    """
    forced = set(names_forced(lake))
    names = names_waiting(lake)
    first = [name for name in names if name in forced]
    others = [name for name in names if name not in forced]
    waiting = []
    for name in first + others[: max(limit - len(first), 0)]:
        try:
            one = _read(lake.store.get(f"{_WAITING}/{name}{_SUFFIX}"))
        except MissingObjectError:
            continue
        except ValueError:
            one = _Waiting(asked_at=0, partition="", tasks=None)
        tasks = None if one.tasks is None else tuple(one.tasks)
        waiting.append(RunRequested(one.asked_at, name, one.partition, tasks, name in forced))
    return waiting


def runs_started(lake: Lake, names: Sequence[str]) -> None:
    """Take requested runs out of the queue: Dagster has them. What was asked for stays on record."""
    for name in names:
        try:
            body = lake.store.get(f"{_WAITING}/{name}{_SUFFIX}")
        except MissingObjectError:
            continue
        lake.store.put(f"{STARTED}/{name}{_SUFFIX}", body, durably=True)
    drop(lake, names)


def drop(lake: Lake, names: Sequence[str]) -> None:
    """Take requested runs out of the queue."""
    lake.store.delete_many([f"{folder}/{name}{_SUFFIX}" for folder in (_WAITING, _FORCED) for name in names])


@dataclass(frozen=True)
class Unusable:
    """What can be made out of a request that no run can be started for."""

    name: str
    model_id: str
    run_id: str
    doc_ids: tuple[str, ...]


def unusable(lake: Lake, name: str) -> Unusable:
    """Who waits for a request that cannot be used, as far as that can be made out."""
    document: Any = None
    with contextlib.suppress(MissingObjectError, ValueError, RecursionError):
        document = json.loads(lake.store.get(f"{_WAITING}/{name}{_SUFFIX}"))
    document = document if isinstance(document, dict) else {}
    parameters = document.get("parameters")
    said = parameters if isinstance(parameters, dict) else {}
    run = ModelRun.known(document.get("partition") if isinstance(document.get("partition"), str) else None)
    ids = [said.get(field) for field in ("model_id", "run_id")]
    model_id, run_id = (run.model_id, run.run_id) if run else ids
    listed = [one for one in (document.get("doc_ids"), said.get("doc_ids")) if isinstance(one, list)]
    joined = doc_ids_of(lake, name)
    waiting = dict.fromkeys(one for some in (*listed, joined) for one in some if isinstance(one, str))
    return Unusable(
        name,
        model_id if isinstance(model_id, str) else "",
        run_id if isinstance(run_id, str) else "",
        tuple(waiting),
    )


def put_aside(lake: Lake, name: str) -> None:
    """Take a request out of the queue that cannot be used; it stays to be looked at."""
    with contextlib.suppress(MissingObjectError):
        body = lake.store.get(f"{_WAITING}/{name}{_SUFFIX}")
        lake.store.put(f"{UNREADABLE}/{name}{_SUFFIX}", body, durably=True)
    drop(lake, [name])


def asked_for(lake: Lake, name: str) -> Asked | None:
    """A requested run, None when nothing (readable) is known of it; what joined it is not included."""
    # In this order: it is on record as started before it stops waiting.
    for folder in (_WAITING, STARTED):
        try:
            one = _read(lake.store.get(f"{folder}/{name}{_SUFFIX}"))
        except (MissingObjectError, ValueError):
            continue
        tasks = None if one.tasks is None else tuple(one.tasks)
        return Asked(name, one.partition, tasks, one.parameters, tuple(one.doc_ids))
    return None


def waits(lake: Lake, name: str) -> bool:
    """Whether a requested run is in the queue of the lake."""
    try:
        lake.store.get(f"{_WAITING}/{name}{_SUFFIX}")
    except MissingObjectError:
        return False
    return True


def join(lake: Lake, name: str, doc_ids: Sequence[str]) -> None:
    """Have further documents of CauseMos wait for the outcome of a requested run. Durable."""
    # Named after what it holds: the same ones again are not one more to be read.
    joined = digest(sorted(doc_ids))
    lake.write_document(f"{JOINED}/{name}/{joined}{_SUFFIX}", {"doc_ids": list(doc_ids)}, durably=True)


def doc_ids_of(lake: Lake, name: str) -> tuple[str, ...]:
    """All documents that wait for the outcome of a requested run."""
    asked = asked_for(lake, name)
    found = list(asked.doc_ids) if asked else []
    joined = sorted(lake.store.listing(f"{JOINED}/{name}/")["key"].to_pylist())
    if joined:
        with ThreadPoolExecutor(_THREADS) as threads:
            for document in threads.map(lake.read_document, joined):
                found += (document or {}).get("doc_ids", [])
    return tuple(dict.fromkeys(found))


def force(lake: Lake, name: str) -> None:
    """Have a requested run started before all others, though the queue be paused. Durable."""
    lake.write_document(f"{_FORCED}/{name}{_SUFFIX}", {}, durably=True)


def names_forced(lake: Lake) -> list[str]:
    """Names of requested runs that start before all others, oldest first."""
    return sorted(_name(key) for key, _ in lake.store.list(f"{_FORCED}/") if key.endswith(_SUFFIX))


def pause(lake: Lake) -> None:
    """Start no requested run until told otherwise; more may be asked for. Durable."""
    lake.write_document(_PAUSED, {"paused_at": time.time_ns() // 1_000_000}, durably=True)


def resume(lake: Lake) -> None:
    """Start requested runs again."""
    lake.store.delete_many([_PAUSED])


def is_paused(lake: Lake) -> bool:
    """Whether requested runs are held back."""
    try:
        lake.store.get(_PAUSED)
    except MissingObjectError:
        return False
    return True
