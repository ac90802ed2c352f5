"""Dagster resource through which every datacube asset publishes, all in the same way.

The protocol is in `storage/publishing.py`; this spreads its pieces over workers, shows progress and
tells the UI what was done.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    DataVersion,
    InitResourceContext,
    MaterializeResult,
    MetadataValue,
)
from pydantic import PrivateAttr

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.encode import Objects
from datacube_assets.kernels.errors import InputError
from datacube_assets.partitions import AS_PUBLISHED, FROM_SCRATCH, WANTED_VERSION
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.drawing import Draw
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.resources.ui import UserInterface
from datacube_assets.storage.comparing import NEEDED
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake, LakeTable
from datacube_assets.storage.leases import TERM, Holder, OwnedBucket, Tenure, acquire
from datacube_assets.storage.ownership import settled
from datacube_assets.storage.publishing import RESULTS_ASSET, Publication, Published, manifest, standing
from datacube_assets.storage.refusals import refusal
from datacube_assets.storage.stores import Store

View = Callable[[Lake, LakeTable, str], Iterable[Objects]]
"""Formats the objects of one piece of work of a table, given its name; can be sent to a worker."""


_TAKING = threading.Lock()
"""Steps of a run share its lease; the first one takes it."""


class Publisher(ConfigurableResource["Publisher"]):
    """Publishes objects of an asset into the bucket of its run."""

    lake: LakeResource
    buckets: BucketsResource
    dask: DaskResource
    ui: UserInterface
    lease_seconds: float = TERM
    limits: str = "{}"
    """Limits that checks judge by, as JSON."""

    _held: dict[tuple[str, str], Tenure] = PrivateAttr(default_factory=dict)
    """Leases by bucket and partition, from the first step that publishes to the end of the run."""

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[Publisher]:
        """Give back what leases were taken when the run ends, however it ends."""
        try:
            yield self
        finally:
            while self._held:
                self._held.popitem()[1].release()

    def bucket(self, context: AssetExecutionContext, table: LakeTable) -> OwnedBucket:
        """The bucket of the run that a table belongs to, in which nobody else publishes meanwhile.

        Raises LeaseHeldError while somebody else does; InputError where a check refused the table, or what is
        published is to be written again and the tables in the lake are not of it.
        """
        run = ModelRun.from_key(context.partition_key)
        if AS_PUBLISHED in context.run.tags:
            _check_last(History(self.lake.open(), run))
        if said := refusal(self.lake.open(), run, table.version):
            raise InputError(
                f"its tables were refused by a check: {said}",
                run=str(run),
                remedy="Process the whole partition, which checks them again",
            )
        bucket = self.buckets.open(DatacubeRequest.model_validate(table.info["request"]))
        with _TAKING:
            tenure = self._held.get((bucket.url, run.key))
            if tenure is None or tenure.is_lost:
                me = Holder(self.lake.url, context.run.run_id, self.lease_seconds)
                tenure = self._held[bucket.url, run.key] = acquire(bucket, run, me)
                History(self.lake.open(), run).settle()
        return settled(self.lake.open(), tenure, table.version, anew=FROM_SCRATCH in context.run.tags)

    def publish(
        self,
        context: AssetExecutionContext,
        table: LakeTable,
        works: Mapping[str, View],
        *,
        metadata: Mapping[str, Any] | None = None,
        draw: Draw | None = None,
    ) -> MaterializeResult[None]:
        """Publish the objects that the views make of a table.

        `works` names the pieces of work, after the files of the table that they format; the names have
        to stay the same from run to run, and no two pieces may make the same key. Where everything
        stands as published from the same input before, there is nothing to do. `draw` makes a picture.
        """
        started = time.monotonic()
        picture = self.ui.begin_picture(context.log, draw) if draw else dict
        asset, run = context.asset_key.path[-1], ModelRun.from_key(context.partition_key)
        lake, bucket = self.lake.open(), self.bucket(context, table)
        anew = FROM_SCRATCH in context.run.tags
        published = None if anew else standing(lake, bucket, run, asset, table.version)
        if published is None:
            attempt = f"{context.run.run_id}-{uuid.uuid4().hex[:8]}"
            may_share = table.info.get("may_share", True)
            publication = Publication.begin(
                lake, bucket, run, asset, table.version, attempt, anew=anew, may_share=may_share
            )
            work = _Publish(publication, table, dict(works))
            rows = {file.name: file.rows for file in table.files}
            done = self.dask.map(
                work,
                list(works),
                name=f"publish-{asset}",
                run_id=context.run.run_id,
                sizes=[rows.get(name, 0) for name in works],
                objects=lambda result: result[0].objects,
            )
            fragments = {name: names for name, (_, names) in zip(works, done, strict=True)}
            published = publication.finish(sum((one for one, _ in done), Published()), fragments)
        seconds = time.monotonic() - started
        context.log.info(
            f"{published.objects:,} objects: {published.put:,} written, {published.deleted:,} deleted, "
            f"{published.objects - published.put:,} unchanged, in {seconds:.1f} s"
        )
        return MaterializeResult(
            data_version=DataVersion(table.version),
            metadata={
                **picture(),
                **published_metadata(published, seconds),
                "address": address(bucket, run),
                "input version": table.version,
                **self.ui.links(run, asset),
                **(metadata or {}),
            },
        )


def _check_last(history: History) -> None:
    """Raise InputError where the tables are not those of the last publication: checks may have refused them.

    Those of all assets, or some would be published before another one is refused.
    """
    newest, head = history.newest(), manifest(history.lake, history.run, RESULTS_ASSET)
    # What an earlier release published has no history yet.
    last = newest.version if newest else head["version"] if head else None
    if {history.lake.table(history.run, name).version for name in NEEDED} == {last}:
        return
    tags = f"{WANTED_VERSION}: {newest.number} and {FROM_SCRATCH}: yes" if newest else ""
    raise InputError(
        "its tables are not those of what is published: they are of a run that came no further"
        if last
        else "there is nothing published that could be written again",
        run=str(history.run),
        remedy="Process the partition again"
        + (f", or start the job rollback_datacube with the tags {tags}" if tags else ""),
    )


@dataclass(frozen=True)
class _Publish:
    """Formats and publishes one piece of work; runs on a worker."""

    publication: Publication
    table: LakeTable
    views: Mapping[str, View]

    def __call__(self, work: str) -> tuple[Published, list[str]]:
        objects = self.views[work](self.publication.lake, self.table, work)
        return self.publication.publish(work, objects)


def published_metadata(published: Published, seconds: float) -> dict[str, Any]:
    """What was published, for the UI."""
    shared = {"keys that several objects would have": MetadataValue.json(list(published.shared))}
    return {
        **(shared if published.shared else {}),
        "objects": published.objects,
        "bytes": published.bytes,
        "objects written": published.put,
        "objects deleted": published.deleted,
        "objects unchanged": published.objects - published.put,
        "objects left out": published.left_out,
        "objects per second": round(published.put / seconds, 1) if seconds else 0.0,
        "seconds": round(seconds, 3),
    }


def address(bucket: Store, run: ModelRun) -> MetadataValue[Any]:
    """Where a run's objects are."""
    path = bucket.local_path(run.prefix.rstrip("/"))
    return MetadataValue.path(path) if path else MetadataValue.text(f"{bucket.url}/{run.prefix}")
