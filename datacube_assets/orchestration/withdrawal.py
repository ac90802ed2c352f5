"""Taking a datacube back: what is published of a partition, what waits for it, and the partition itself.

`withdraw` is the plain function; the job `withdraw_datacube` is the same for the Dagster UI, and
`operations/withdraw.py` for the command line. Who calls it has made sure that no run is at work on the
partition.

The order is that of publishing, backwards: results.json goes first, so that nobody takes what is left for a
datacube; then the other objects; then their records. Broken off anywhere, it is made good by doing it again.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dagster import Config, DagsterInstance, OpExecutionContext, job, op

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.telling import tell_failure
from datacube_assets.partitions import model_runs
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.resources.ui import telling
from datacube_assets.storage.history import HISTORY, RAW_PARTS, History
from datacube_assets.storage.lake import TABLES, Lake
from datacube_assets.storage.leases import Holder
from datacube_assets.storage.ownership import overwriting
from datacube_assets.storage.publishing import manifest, manifests_folder, withdraw_results
from datacube_assets.storage.refusals import REFUSED
from datacube_assets.storage.requests import Ticket, doc_ids_of, drop, names_waiting, partition_mark
from datacube_assets.storage.run_info import request_key
from datacube_assets.storage.stores import Store

_AT_ONCE = 5_000
"""Objects deleted between two looks at how far it is."""

Progress = Callable[[int, int, str], None]
"""Called with how many are deleted, of how many, and what."""


@dataclass(frozen=True)
class Withdrawn:
    """What was taken back."""

    key: str
    objects: int
    bytes: int
    tables: int
    """Files of the lake that were deleted."""
    requests: int
    """Requests that waited and were dropped."""
    partition: bool
    """Whether Dagster knew the partition, and does no more."""
    told: int
    """Documents of CauseMos that a report of failure waits for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def withdraw(
    instance: DagsterInstance,
    lake: Lake,
    buckets: Callable[[ModelRun], Store],
    open_bucket: Callable[[str], Store],
    run: ModelRun,
    by: str,
    *,
    tables: bool = False,
    parts: bool = False,
    tell: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Withdrawn:
    """Take a datacube back; `by` names whoever does, as CauseMos is told.

    `tables` deletes what the lake computed of it and its history, `parts` the raw parts; with both nothing
    of it remains. Without, it can be published again from what is there. CauseMos is told (as a failure, for
    which it has a word) only where `tell` says so. Raises LeaseHeldError while somebody publishes it, here or
    elsewhere.
    """
    run.check()
    waiting = [name for name in names_waiting(lake) if Ticket.of(name).partition == partition_mark(run)]
    told = _tell(lake, run, by, waiting) if tell else 0
    # First: whoever looks meanwhile must not start a run of it.
    drop(lake, waiting)
    objects = size = 0
    for bucket in _buckets_of(lake, buckets, open_bucket, run):
        # Somebody else may publish there, from another machine or home.
        with overwriting(bucket, run, Holder(lake.store.url, f"withdrawal {by}")) as owned:
            found = list(bucket.entries(run.prefix))
            History(lake, run).settle()
            withdraw_results(lake, owned, run, unless="")
            _delete(owned, [entry.key for entry in found], "objects", progress)
        objects += len(found)
        size += sum(entry.bytes for entry in found)
    # Records go after what they record.
    _delete(lake.store, _keys(lake, f"{manifests_folder(run)}/"), "records", progress)
    files = 0
    for folder in _folders(run, tables=tables, parts=parts):
        doomed = _keys(lake, folder)
        _delete(lake.store, doomed, "files of the lake", progress)
        files += len(doomed)
    known = instance.has_dynamic_partition(str(model_runs.name), run.key)
    if known:
        instance.delete_dynamic_partition(str(model_runs.name), run.key)
    return Withdrawn(run.key, objects, size, files, len(waiting), known, told)


def _buckets_of(
    lake: Lake, buckets: Callable[[ModelRun], Store], open_bucket: Callable[[str], Store], run: ModelRun
) -> Iterator[Store]:
    """Where its objects are: the bucket of such runs, and those that its manifests name."""
    own = buckets(run)
    yield own
    assets = lake.store.folders(f"{manifests_folder(run)}/")
    named = {head["bucket"] for asset in assets if (head := manifest(lake, run, asset))}
    for url in sorted(named - {own.url}):
        yield open_bucket(url)


def _folders(run: ModelRun, *, tables: bool, parts: bool) -> list[str]:
    if tables and parts:
        return [f"{run.folder}/"]
    chosen = [HISTORY, REFUSED, *sorted(TABLES - {RAW_PARTS})] if tables else []
    return [f"{run.folder}/{name}/" for name in (*chosen, *([RAW_PARTS] if parts else []))]


def _keys(lake: Lake, folder: str) -> list[str]:
    return [entry.key for entry in lake.store.entries(folder)]


def _delete(store: Store, keys: list[str], what: str, progress: Progress) -> None:
    for start in range(0, len(keys), _AT_ONCE):
        progress(start, len(keys), what)
        store.delete_many(keys[start : start + _AT_ONCE])
    progress(len(keys), len(keys), what)


def _tell(lake: Lake, run: ModelRun, by: str, waiting: list[str]) -> int:
    """Have CauseMos told of every document that shows the datacube or waits for it; returns how many."""
    document = lake.read_document(request_key(run))
    request = DatacubeRequest.model_validate(document) if document else None
    ids = list((request and request.doc_ids) or ([] if run.is_indicator else [run.run_id]))
    ids += [name for one in waiting for name in doc_ids_of(lake, one)]
    doc_ids = tuple(dict.fromkeys(ids))
    if doc_ids:
        tell_failure(lake, by, run, doc_ids)
    return len(doc_ids)


class WithdrawalConfig(Config):
    """What else goes with the datacube, and whether CauseMos is told."""

    tables: bool = False
    parts: bool = False
    tell: bool = False


@op(description="Deletes results.json, then all objects, waiting requests and the partition.")
def take_back(
    context: OpExecutionContext, config: WithdrawalConfig, lake: LakeResource, buckets: BucketsResource
) -> None:
    run = ModelRun.from_key(context.partition_key)

    def progress(done: int, total: int, what: str) -> None:
        if done and total:
            context.log.info(f"{done:,} of {total:,} {what} deleted")

    with telling():
        done = withdraw(
            context.instance,
            lake.open(),
            buckets.of,
            buckets.at,
            run,
            context.run.run_id,
            tables=config.tables,
            parts=config.parts,
            tell=config.tell,
            progress=progress,
        )
    context.add_output_metadata({**done.to_json(), "partition of Dagster": done.partition})


@job(
    partitions_def=model_runs,
    description="Takes a datacube back: results.json first, then all objects, requests that wait for it, and "
    "its partition. Tables and raw parts stay unless the run config says otherwise, and nobody is told.",
)
def withdraw_datacube() -> None:
    take_back()
