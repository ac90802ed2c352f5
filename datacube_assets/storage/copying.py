"""Copying a published datacube from one bucket to another.

The order of things, and which datacubes may be copied, belong here. As in `publishing.py`, `results.json`
says that a datacube is complete: at the target it is gone before the first object changes, and back when
everything is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.encode import CSV, JSON, PROTOBUF
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import Holder
from datacube_assets.storage.ownership import overwriting
from datacube_assets.storage.publishing import RESULTS_ASSET, IncompleteDatacubeError, manifest
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError

BATCH_OBJECTS, BATCH_BYTES = 2000, 64 << 20
"""How much is held at once: so many objects and bytes, or one object that is larger."""
READERS = 32
"""Objects read at the same time."""
_TYPES = {".csv": CSV, ".json": JSON, ".tile": PROTOBUF}


@dataclass(frozen=True)
class Copied:
    """What a copy did."""

    objects: int
    bytes: int
    deleted: int
    """Objects of an older copy that the datacube no longer has."""


def copy(
    lake: Lake,
    source: Store,
    target: Store,
    run: ModelRun,
    progress: Callable[[int, int], None],
    *,
    me: Holder | None = None,
) -> Copied:
    """Copy all objects of a run, results.json last; `progress` is told objects done and objects in all.

    Copying again makes good a copy that was interrupted. The target is owned meanwhile, so that nobody else
    publishes into it. Raises IncompleteDatacubeError when the datacube is not complete, or is published anew
    meanwhile; then there is no results.json at the target. Raises StoreError when the target cannot take it.
    """
    _check_target(lake, source, target, run)
    with overwriting(target, run, me or Holder(lake.store.url, f"copy {uuid.uuid4().hex}")) as bucket:
        return _copy(lake, source, bucket, run, progress)


def _copy(
    lake: Lake, source: Store, target: Store, run: ModelRun, progress: Callable[[int, int], None]
) -> Copied:
    results = f"{run.prefix}{keys.RESULTS}"
    before = _state(lake, source, run)
    sizes = dict(source.list(run.prefix))
    stale = sorted({key for key, _ in target.list(run.prefix)} - sizes.keys())
    target.delete_many([results])
    size = sizes.pop(results, 0)
    done = 0
    for kind, batch in batches(sizes):
        try:
            bodies = _read(source, batch)
        except MissingObjectError:
            raise _changed(run) from None
        if any(len(body) != sizes[key] for key, body in zip(batch, bodies, strict=True)):
            # Or the answer of a server was cut short.
            raise _changed(run)
        target.put_many(batch, bodies, kind)
        done += len(batch)
        progress(done + 1, len(sizes) + 1)
    target.delete_many(stale)
    if _state(lake, source, run) != before:
        raise _changed(run)
    target.put_many([results], [before[0]], JSON)
    return Copied(len(sizes) + 1, sum(sizes.values()) + size, len(stale))


def _check_target(lake: Lake, source: Store, target: Store, run: ModelRun) -> None:
    if source.url == target.url:
        raise StoreError(f"{source.url} is both source and target of the copy; name another target")
    head = manifest(lake, run, RESULTS_ASSET)
    if head is not None and head["bucket"] == target.url:
        # What the lake believes to be in the bucket would no longer be true.
        raise StoreError(
            f"{run} is published into {target.url} from here: materialize it, do not copy over it"
        )


def _state(lake: Lake, source: Store, run: ModelRun) -> tuple[bytes, object]:
    """What tells one complete datacube from the next. Raises IncompleteDatacubeError."""
    head = manifest(lake, run, RESULTS_ASSET)
    # Of a bucket that others publish into, the lake knows nothing.
    attempt = head["attempt"] if head is not None and head["bucket"] == source.url else None
    try:
        return source.get(f"{run.prefix}{keys.RESULTS}"), attempt
    except MissingObjectError:
        raise IncompleteDatacubeError(
            f"{run} is not complete in {source.url}: there is no {keys.RESULTS}. Materialize all its assets"
        ) from None


def _changed(run: ModelRun) -> IncompleteDatacubeError:
    return IncompleteDatacubeError(f"{run} was published anew while it was copied. Copy it again")


def batches(sizes: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Content type and keys, as many as may be held at once."""
    batch: list[str] = []
    size, current = 0, ""
    for kind, key in sorted((content_type(key), key) for key in sizes):
        if batch and (kind != current or len(batch) == BATCH_OBJECTS or size + sizes[key] > BATCH_BYTES):
            yield current, batch
            batch, size = [], 0
        current = kind
        batch.append(key)
        size += sizes[key]
    if batch:
        yield current, batch


def _read(source: Store, batch: list[str]) -> list[bytes]:
    with ThreadPoolExecutor(min(READERS, len(batch)), "copy") as readers:
        return list(readers.map(source.get, batch))


def content_type(key: str) -> str:
    """Content type of an object, by its key."""
    suffix = key[key.rfind(".") :]
    return _TYPES.get(suffix, "application/octet-stream")
