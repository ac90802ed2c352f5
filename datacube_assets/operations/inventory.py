"""Which datacubes there are, and how each is: for looking, and for choosing what to process again.

What the states mean belongs here. Which runs count as failed is decided in `operations/reprocess.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import unquote

from dagster import DagsterInstance, DagsterRunStatus, RunRecord

from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.dojo.model_run import ModelRun, UnknownPartitionError
from datacube_assets.kernels import keys
from datacube_assets.orchestration.failures import reason
from datacube_assets.orchestration.jobs import is_full
from datacube_assets.orchestration.locks import died_at_command_line
from datacube_assets.partitions import PARTITION_TAG, REQUEST_TAG, model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest, manifests_folder
from datacube_assets.storage.requests import runs_requested
from datacube_assets.storage.stores import StoreError

State = Literal[
    "READY",
    "PROCESSING",
    "QUEUED",
    "FAILED",
    "CANCELED",
    "INCOMPLETE",
    "NEW",
    "ORPHANED",
    "WITHDRAWN",
    "UNKNOWN",
]
STATES: Mapping[State, str] = {
    "READY": "complete, and its newest run did not fail",
    "PROCESSING": "a run is at work on it",
    "QUEUED": "a run waits for its turn, or is asked for",
    "FAILED": "its newest run failed, or its command died; an older datacube may still stand",
    "CANCELED": "its newest run was canceled; an older datacube may still stand",
    "INCOMPLETE": "objects are published, but results.json is not",
    "NEW": "known, and nothing of it is published",
    "ORPHANED": "Dagster does not know it, and objects are published: withdraw it, or process it again",
    "WITHDRAWN": "Dagster does not know it, and nothing is published; the lake still has tables",
    "UNKNOWN": "what is stored of it cannot be read; the error says why",
}
_DIED = "the command that processed it died, or was killed. Process it again"
_WAITING = 100_000
_READERS = 16
_RUNNING = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)
_QUEUED = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.MANAGED)
_ENDED: Mapping[DagsterRunStatus, State] = {
    DagsterRunStatus.FAILURE: "FAILED",
    DagsterRunStatus.CANCELED: "CANCELED",
}


@dataclass(frozen=True)
class Listed:
    """One partition."""

    key: str
    model_id: str
    run_id: str
    state: State
    published: float | None
    """Seconds UTC when results.json was written; None where there is none."""
    objects: int
    bytes: int
    newest_run: str | None
    """Id of the newest run of all assets."""
    ended: float | None
    """Seconds UTC when that run ended."""
    error: str | None
    """Why it failed, as the modeller was told."""

    @property
    def changed(self) -> float | None:
        """Seconds UTC of the last that happened to it."""
        return max((at for at in (self.published, self.ended) if at), default=None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def list_partitions(settings: Settings, instance: DagsterInstance, only: Iterable[str] = ()) -> list[Listed]:
    """Every partition that Dagster or the lake knows (or `only` these keys), by key.

    Reads of each partition the heads of its manifests and when its results.json was written. Raises
    StoreError when the lake cannot be read, UnknownPartitionError for a key of `only` that nobody knows.
    """
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    lake.store.check("DATACUBE_LAKE", write=False)
    known = set(instance.get_dynamic_partitions(str(model_runs.name)))
    everything = known | partitions_in(lake)
    newest = _newest_runs(instance)
    # A request waits until the sensor's next tick, though Dagster has its run and may be through with it.
    has_run = {record.dagster_run.tags.get(REQUEST_TAG) for record in newest.values()}
    asked = {one.partition for one in runs_requested(lake, _WAITING) if one.name not in has_run}
    wanted = set(only) or everything
    for key in wanted - everything - asked:
        raise UnknownPartitionError(key, everything)
    runs = sorted(run for key in wanted if (run := ModelRun.known(key)))

    def look(run: ModelRun) -> Listed:
        return _look(
            settings, lake, instance, run, newest.get(run.key), run.key in asked, known=run.key in known
        )

    with ThreadPoolExecutor(_READERS, "list") as readers:
        return list(readers.map(look, runs))


def check_known(settings: Settings, instance: DagsterInstance, keys: Iterable[str]) -> None:
    """Raise UnknownPartitionError for the first key that nobody knows."""
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    everything = set(instance.get_dynamic_partitions(str(model_runs.name))) | partitions_in(lake)
    for key in keys:
        if key not in everything:
            raise UnknownPartitionError(key, everything)


def partitions_in(lake: Lake) -> set[str]:
    """Keys of the partitions that the lake has something of, beside requests that wait."""
    return {
        ModelRun(unquote(model), unquote(run)).key
        for model in lake.store.folders("runs/")
        for run in lake.store.folders(f"runs/{model}/")
    }


def orphaned(lake: Lake, instance: DagsterInstance) -> list[ModelRun]:
    """Partitions of which something is published and which Dagster does not know, sorted.

    So it is after a partition was deleted in the UI, or when Dagster's storage was lost. One that a request
    waits for is about to be known.
    """
    known = set(instance.get_dynamic_partitions(str(model_runs.name)))
    unknown = partitions_in(lake) - known - {one.partition for one in runs_requested(lake, _WAITING)}
    found = sorted(run for key in unknown if (run := ModelRun.known(key)))
    return [run for run in found if lake.store.folders(f"{manifests_folder(run)}/")]


def _newest_runs(instance: DagsterInstance) -> dict[str, RunRecord]:
    newest: dict[str, RunRecord] = {}
    for record in instance.get_run_records():
        partition = record.dagster_run.tags.get(PARTITION_TAG)
        if partition and is_full(record.dagster_run):
            # Dagster lists the newest first.
            newest.setdefault(partition, record)
    return newest


def _look(
    settings: Settings,
    lake: Lake,
    instance: DagsterInstance,
    run: ModelRun,
    newest: RunRecord | None,
    asked: bool,
    *,
    known: bool,
) -> Listed:
    status = newest.dagster_run.status if newest else None
    error: str | None = None
    heads: Sequence[Mapping[str, Any]] = ()
    published: float | None = None
    readable = True
    try:
        names = [*(asset.key.path[-1] for asset in DATACUBE_ASSETS), RESULTS_ASSET]
        heads = [head for name in names if (head := manifest(lake, run, name))]
        results = manifest(lake, run, RESULTS_ASSET)
        if results is not None:
            bucket = open_store(results["bucket"], settings.s3_endpoint)
            key = f"{run.prefix}{keys.RESULTS}"
            folder = f"{run.prefix}results/"
            published = next((one.modified for one in bucket.entries(folder) if one.key == key), None)
    except (StoreError, OSError) as problem:
        readable, error = False, str(problem).splitlines()[0]
    state: State
    died = newest is not None and died_at_command_line(instance, newest.dagster_run)
    if died:
        status = DagsterRunStatus.FAILURE
    if status in _RUNNING:
        state = "PROCESSING"
    elif status in _QUEUED or asked:
        state = "QUEUED"
    elif not readable:
        state = "UNKNOWN"
    elif not known:
        state = "ORPHANED" if heads else "WITHDRAWN"
    elif status is not None and status in _ENDED:
        state = _ENDED[status]
    elif published is not None:
        state = "READY"
    else:
        state = "INCOMPLETE" if heads else "NEW"
    if newest is not None and state in ("FAILED", "CANCELED"):
        error = _DIED if died else reason(instance, newest.dagster_run.run_id) or error
    return Listed(
        run.key,
        run.model_id,
        run.run_id,
        state,
        published,
        sum(head["objects"] for head in heads),
        sum(head["bytes"] for head in heads),
        newest.dagster_run.run_id if newest else None,
        newest.end_time if newest else None,
        error,
    )


def chosen(
    listed: Iterable[Listed],
    *,
    states: Sequence[str] = (),
    models: Sequence[str] = (),
    older_than: float | None = None,
    newer_than: float | None = None,
) -> list[Listed]:
    """Those of these states and models, whose last change is so many seconds ago or more, or less."""
    now = time.time()

    def fits(one: Listed) -> bool:
        age = None if one.changed is None else now - one.changed
        return (
            (not states or one.state in states)
            and (not models or one.model_id in models)
            and (older_than is None or (age is not None and age >= older_than))
            and (newer_than is None or (age is not None and age <= newer_than))
        )

    return [one for one in listed if fits(one)]
