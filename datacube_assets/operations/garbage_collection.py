"""What `datacube gc` does: look through lake and buckets for what nothing refers to.

What that is, is said in `storage/garbage_collection.py`; here it meets settings and Dagster's runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.operations.inventory import orphaned
from datacube_assets.orchestration.home import open_instance
from datacube_assets.orchestration.locks import died_at_command_line
from datacube_assets.partitions import PARTITION_TAG, REQUEST_TAG
from datacube_assets.resources.storage import buckets_of
from datacube_assets.settings import Settings
from datacube_assets.storage.garbage_collection import Orphan, Search
from datacube_assets.storage.history import Retention
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.run_info import request_key
from datacube_assets.storage.stores import Store

_OVER = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
_UNFINISHED = tuple(status for status in DagsterRunStatus if status not in _OVER)


@dataclass(frozen=True)
class Collected:
    """What was found."""

    found: tuple[Orphan, ...]
    """When it was to be deleted, only what was."""
    unfinished: tuple[ModelRun, ...]
    """Partitions with a publication that broke off, and that only a run can mend."""
    deleted: bool
    orphaned: tuple[ModelRun, ...] = ()
    """Partitions that are published and that Dagster does not know: only `datacube withdraw` takes them."""

    @property
    def bytes(self) -> int:
        return sum(orphan.entry.bytes for orphan in self.found)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of each kind."""
        kinds: dict[str, tuple[int, int]] = {}
        for orphan in self.found:
            number, size = kinds.get(orphan.kind, (0, 0))
            kinds[orphan.kind] = number + 1, size + orphan.entry.bytes
        return dict(sorted(kinds.items()))

    def to_json(self) -> dict[str, Any]:
        found = [
            {
                "kind": orphan.kind,
                "address": f"{orphan.store.url}/{orphan.entry.key}",
                "bytes": orphan.entry.bytes,
                "modified": round(orphan.entry.modified, 3),
            }
            for orphan in self.found
        ]
        return {
            "deleted": self.deleted,
            "orphans": len(found),
            "bytes": self.bytes,
            "unfinished": [run.key for run in self.unfinished],
            "orphaned": [run.key for run in self.orphaned],
            "found": found,
        }


def collect(
    settings: Settings,
    older_than: float,
    *,
    delete: bool,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Collected:
    """Look for what nothing refers to and has not changed for so many seconds, and delete it if told so.

    Raises StoreError when the lake or a bucket cannot be used.
    """
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    lake.store.check("DATACUBE_LAKE", write=delete)
    buckets = buckets_of(settings)

    def bucket_of(run: ModelRun) -> Store:
        document = lake.read_document(request_key(run))
        if document is not None:
            return buckets.open(DatacubeRequest.model_validate(document))
        url = settings.bucket_for(indicator=run.is_indicator)
        return open_store(url, settings.s3_endpoint)

    with open_instance(settings) as instance:
        search = Search(
            lake=lake,
            before=time.time() - older_than,
            bucket_of=bucket_of,
            open_bucket=lambda url: open_store(url, settings.s3_endpoint),
            busy=lambda run: is_busy(instance, run),
            term=settings.lease_seconds,
            retention=Retention(settings.keep_versions, settings.keep_days),
            # A storage without any run is hardly the one that these reports are about.
            known_run=instance.has_run if instance.get_runs_count() else lambda _: True,
            known_request=(
                (lambda name: bool(instance.get_runs_count(RunsFilter(tags={REQUEST_TAG: name}))))
                if instance.get_runs_count()
                else lambda _: True
            ),
        )
        found: list[Orphan] = []
        unfinished: list[ModelRun] = []
        for number, orphans in enumerate(search.orphans(), 1):
            if orphans.unfinished and orphans.run is not None:
                unfinished.append(orphans.run)
            progress(number, number, f"places looked at, last {orphans.run or 'requests and reports'}")
            if delete and (orphans.run is None or not is_busy(instance, orphans.run)):
                found += orphans.delete()
            elif not delete:
                found += orphans.found
        forgotten = tuple(orphaned(lake, instance))
    return Collected(tuple(found), tuple(unfinished), delete, forgotten)


def is_busy(instance: DagsterInstance, run: ModelRun) -> bool:
    """Whether a run of the partition is waiting or at work; that of a command that died is neither."""
    filters = RunsFilter(tags={PARTITION_TAG: run.key}, statuses=list(_UNFINISHED))
    return not all(died_at_command_line(instance, one) for one in instance.get_runs(filters=filters))
