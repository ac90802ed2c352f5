"""Dagster resource through which every datacube asset publishes, all in the same way.

The protocol is in `storage/publishing.py`; this spreads its pieces over workers, shows progress and
tells the UI what was done.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource, MaterializeResult, MetadataValue

from datacube_assets.datacube.encode import Objects
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.storage.lake import LakeTable
from datacube_assets.storage.publishing import Publication, Published
from datacube_assets.storage.stores import Store

View = Callable[[], Iterable[Objects]]
"""Formats the objects of one piece of work; can be sent to a worker."""


class Publisher(ConfigurableResource["Publisher"]):
    """Publishes objects of an asset into the bucket of its run."""

    lake: LakeResource
    buckets: BucketsResource
    dask: DaskResource

    def bucket(self, table: LakeTable) -> Store:
        """The bucket of the run that a table belongs to."""
        return self.buckets.open(DatacubeRequest.model_validate(table.info["request"]))

    def publish(
        self,
        context: AssetExecutionContext,
        table: LakeTable,
        works: Mapping[str, View],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> MaterializeResult[None]:
        """Publish the objects that the views make of a table.

        `works` names the pieces of work; the names have to stay the same from run to run, and no two
        pieces may make the same key.
        """
        started = time.monotonic()
        asset, run = context.asset_key.path[-1], ModelRun.from_key(context.partition_key)
        bucket = self.bucket(table)
        attempt = f"{context.run.run_id}-{uuid.uuid4().hex[:8]}"
        publication = Publication.begin(self.lake.open(), bucket, run, asset, table.version, attempt)
        pieces = list(works.items())
        done = self.dask.map(_Piece(publication), pieces, name=f"publish-{asset}", run_id=context.run.run_id)
        published = sum((one for one, _ in done), Published())
        fragments = {name: names for (name, _), (_, names) in zip(pieces, done, strict=True)}
        published = publication.finish(published, fragments)
        seconds = time.monotonic() - started
        context.log.info(
            f"{published.objects:,} objects: {published.put:,} written, {published.deleted:,} deleted, "
            f"{published.objects - published.put:,} unchanged, in {seconds:.1f} s"
        )
        return MaterializeResult(
            metadata={
                **published_metadata(published, seconds),
                "address": address(bucket, run),
                "input version": table.version,
                **(metadata or {}),
            }
        )


@dataclass(frozen=True)
class _Piece:
    """Formats and publishes one piece of work; runs on a worker."""

    publication: Publication

    def __call__(self, piece: tuple[str, View]) -> tuple[Published, list[str]]:
        name, view = piece
        return self.publication.publish(name, view())


def published_metadata(published: Published, seconds: float) -> dict[str, Any]:
    """What was published, for the UI."""
    return {
        "objects": published.objects,
        "bytes": published.bytes,
        "objects written": published.put,
        "objects deleted": published.deleted,
        "objects unchanged": published.objects - published.put,
        "objects left out: unreadable for CauseMos, or key too long": published.left_out,
        "objects per second": round(published.objects / seconds, 1) if seconds else 0.0,
        "seconds": round(seconds, 3),
    }


def address(bucket: Store, run: ModelRun) -> MetadataValue[Any]:
    """Where a run's objects are."""
    path = bucket.local_path(run.prefix.rstrip("/"))
    return MetadataValue.path(path) if path else MetadataValue.text(f"{bucket.url}/{run.prefix}")
