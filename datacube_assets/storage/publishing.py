"""Publishing an asset's objects: PUT what changed, delete what is gone, remember what is there.

The protocol of docs/concepts.md#versions-manifests-and-resultsjson-last. Every batch of objects is first
written down in the lake (keys, sizes, checksums: a *fragment* of the manifest), then PUT; when all are
there, stale objects are written down, deleted, and the new fragments become the manifest. Fragments that no
manifest names are the traces of an attempt that died: their objects are never trusted, so a re-run writes
or deletes each of them.

Whether manifests may be believed at all is a matter of the lease (`leases.py`, `ownership.py`): they say what
is in the bucket as long as nobody else has published there.

`results.json` says that a datacube is complete. It is withdrawn before the first object of another
version is published, and written by `complete` only when every asset stands at the same version.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.encode import JSON, Objects
from datacube_assets.kernels.groups import Mask
from datacube_assets.storage.lake import PARQUET, Lake, file_name
from datacube_assets.storage.leases import OwnedBucket
from datacube_assets.storage.stores import LISTING, MissingObjectError, Store

RESULTS_ASSET = "pipeline_results"
MANIFESTS = "manifests"
"""Name of the folder of a run's manifests."""
HEAD = "manifest.json"
"""Name of the document that makes a manifest of fragments."""
_STALE = "stale.parquet"
_LISTED = 10
_READERS = 16
"""Fragments of a manifest fetched at the same time."""


@dataclass(frozen=True)
class Published:
    """What one piece of work, or a whole asset, published."""

    objects: int = 0
    bytes: int = 0
    put: int = 0
    """Objects written because they were new or changed."""
    deleted: int = 0
    left_out: int = 0
    """Objects that would stop the reader, whose key is too long for the store, or that share a key."""
    shared: tuple[str, ...] = ()
    """The first of the keys that several objects would have."""

    def __add__(self, other: Published) -> Published:
        return Published(
            self.objects + other.objects,
            self.bytes + other.bytes,
            self.put + other.put,
            self.deleted + other.deleted,
            self.left_out + other.left_out,
            (self.shared + other.shared)[:_LISTED],
        )


@dataclass(frozen=True)
class _Fragments:
    """The fragments of one attempt at publishing an asset."""

    folder: str
    names: dict[str, list[str]]
    """Names of the fragments of each piece of work."""


@dataclass(frozen=True)
class Publication:
    """One attempt at publishing an asset of a partition. Can be sent to workers."""

    lake: Lake
    bucket: Store
    run: ModelRun
    asset: str
    version: str
    """What the objects are made from (`LakeTable.version`)."""
    attempt: str
    previous: _Fragments | None
    """The manifest that stands, where it is about this bucket."""
    abandoned: tuple[str, ...] = field(default=())
    """Keys in the lake of fragments of attempts that died."""
    anew: bool = False
    may_share: bool = True
    """Whether two objects may have one key (`keys.may_share`)."""
    began: float = field(default_factory=time.time)
    """Seconds UTC."""

    @property
    def folder(self) -> str:
        return f"{manifests_folder(self.run)}/{self.asset}"

    @classmethod
    def begin(
        cls,
        lake: Lake,
        bucket: Store,
        run: ModelRun,
        asset: str,
        version: str,
        attempt: str,
        *,
        anew: bool = False,
        may_share: bool = True,
    ) -> Publication:
        """Start publishing; withdraws results.json when it belongs to another version.

        `anew` writes every object, also those that the manifest says are there. Without `may_share` nobody
        looks for keys that are made twice.
        """
        withdraw_results(lake, bucket, run, unless=version)
        folder = f"{manifests_folder(run)}/{asset}"
        head = lake.read_document(f"{folder}/{HEAD}")
        previous = None
        if head is not None and is_ours(head, bucket):
            previous = _Fragments(f"{folder}/{head['attempt']}", head["fragments"])
        known = (
            {f"{previous.folder}/{name}" for names in previous.names.values() for name in names}
            if previous
            else set()
        )
        listed = {key for key, _ in lake.store.list(f"{folder}/") if not key.endswith(f"/{HEAD}")}
        # A fragment of this attempt's own name is of no earlier one: a retry begins with a new name.
        abandoned = tuple(sorted(listed - known))
        return cls(lake, bucket, run, asset, version, attempt, previous, abandoned, anew, may_share)

    def publish(self, work: str, batches: Iterable[Objects]) -> tuple[Published, list[str]]:
        """Publish the objects of one piece of work; returns what was done and the fragments' names.

        Pieces may run at the same time and in any order; no two may hold the same key.
        """
        total, names = Published(), []
        trusted = self._trusted(work)
        for number, objects in enumerate(batches):
            fragment, storable = described(objects, self.bucket, self.run)
            left_out = objects.left_out + len(objects) - int(storable.sum())
            name = f"{file_name(work)}-{number:05}.parquet"
            kept = fragment if storable.all() else fragment.filter(pa.array(storable))
            self._put_fragment(name, kept)
            names.append(name)
            chosen = np.flatnonzero(_changed(fragment, trusted) & storable)
            if len(chosen):
                keys_, bodies = fragment["key"].take(pa.array(chosen)), objects.bodies(chosen)
                self.bucket.put_many(keys_.to_pylist(), bodies, objects.content_type)
            size = pc.sum(kept["size"]).as_py() or 0
            total += Published(kept.num_rows, size, len(chosen), left_out=left_out)
        return total, names

    def finish(self, published: Published, fragments: dict[str, list[str]]) -> Published:
        """Delete stale objects, and what attempts that died left half written; then make the new fragments
        the manifest. Call once, after all pieces.
        """
        if self.may_share:
            published += self._without_shared(fragments)
        stale = self._stale(fragments)
        if stale:
            # Written down first: should this attempt die, the old manifest must not be believed about them.
            self._put_fragment(_STALE, pa.table({"key": pa.array(stale, pa.string())}))
            self.bucket.delete_many(stale)
        published += Published(deleted=len(stale))
        for fragment in self.abandoned:
            doubtful = self._keys_if_there(fragment)["key"].to_pylist()
            self.bucket.sweep(doubtful, self.began)
        if isinstance(self.bucket, OwnedBucket):
            self.bucket.tenure.check()
        self.lake.write_document(
            f"{self.folder}/{HEAD}",
            {
                "version": self.version,
                **ownership(self.bucket),
                "attempt": self.attempt,
                "fragments": fragments,
                "objects": published.objects,
                "bytes": published.bytes,
                "left_out": published.left_out,
                "shared": list(published.shared),
            },
        )
        current = {f"{self.folder}/{self.attempt}/{name}" for names in fragments.values() for name in names}
        current.add(f"{self.folder}/{HEAD}")
        old = [key for key, _ in self.lake.store.list(f"{self.folder}/") if key not in current]
        if isinstance(self.bucket, OwnedBucket):
            # Somebody who took the lease by now has traces here of its own.
            self.bucket.tenure.check()
        self.lake.store.delete_many(old)
        return published

    def _without_shared(self, fragments: Mapping[str, Sequence[str]]) -> Published:
        """Take back the objects of keys that were made more than once; returns what that changes.

        Names with `/` can make one key of two: `a/b` in `c`, and `a` in `b/c`. Whoever asks for it may mean
        either, so neither is published.
        """
        names = [name for some in fragments.values() for name in some]
        tables = [self._read(f"{self.folder}/{self.attempt}/{name}") for name in names]
        shared = made_twice(pa.concat_tables([LISTING.empty_table(), *tables])["key"])
        if not len(shared):
            return Published()
        keys_ = shared.to_pylist()
        self.bucket.delete_many(keys_)
        taken, size = 0, 0
        for name, table in zip(names, tables, strict=True):
            there = pc.is_in(table["key"], shared)
            if pc.any(there).as_py():
                gone = table.filter(there)
                taken, size = taken + gone.num_rows, size + pc.sum(gone["size"]).as_py()
                self._put_fragment(name, table.filter(pc.invert(there)))
        listed = tuple(key.removeprefix(self.run.prefix) for key in keys_[:_LISTED])
        return Published(-taken, -size, -taken, left_out=taken, shared=listed)

    def _put_fragment(self, name: str, entries: pa.Table) -> None:
        self.lake.store.put(f"{self.folder}/{self.attempt}/{name}", _to_parquet(entries))

    def _read(self, key: str) -> pa.Table:
        return _read(self.lake, key)

    def _trusted(self, work: str) -> pa.Table | None:
        """Entries of the piece's objects that are certainly in the bucket as recorded."""
        if self.anew or self.previous is None or work not in self.previous.names:
            return None
        names = self.previous.names[work]
        if not names:
            return None
        try:
            table = pa.concat_tables([self._read(f"{self.previous.folder}/{name}") for name in names])
        except MissingObjectError:
            # Without its record nothing is certain; writing everything anew is always right.
            return None
        if self.abandoned:
            doubtful = pa.concat_tables([self._keys_if_there(key) for key in self.abandoned])
            table = table.filter(pc.invert(pc.is_in(table["key"], doubtful["key"])))
        return table

    def _keys_if_there(self, fragment: str) -> pa.Table:
        try:
            return self._read(fragment).select(["key"])
        except MissingObjectError:
            return LISTING.empty_table().select(["key"])

    def _stale(self, fragments: dict[str, list[str]]) -> list[str]:
        """Keys of earlier attempts that this one did not publish."""
        earlier = list(self.abandoned)
        if self.previous:
            earlier += [
                f"{self.previous.folder}/{name}" for names in self.previous.names.values() for name in names
            ]
        if not earlier:
            return []
        now = [f"{self.folder}/{self.attempt}/{name}" for names in fragments.values() for name in names]
        old_keys = pa.concat_tables([self._keys_if_there(key) for key in earlier])["key"]
        if not now:
            return sorted(set(old_keys.to_pylist()))
        new_keys = pa.concat_tables([self._read(key).select(["key"]) for key in now])["key"]
        gone = old_keys.filter(pc.invert(pc.is_in(old_keys, new_keys)))
        return sorted(set(gone.to_pylist()))


def manifests_folder(run: ModelRun) -> str:
    """Where the manifests of a partition lie in the lake."""
    return f"{run.folder}/{MANIFESTS}"


def manifest(lake: Lake, run: ModelRun, asset: str) -> dict[str, Any] | None:
    """The head of an asset's manifest: version, bucket, objects, bytes; None when nothing is published."""
    return lake.read_document(f"{manifests_folder(run)}/{asset}/{HEAD}")


def ownership(bucket: Store) -> dict[str, Any]:
    """What a manifest says of the bucket that its objects are in, and of who owns the datacube there."""
    if not isinstance(bucket, OwnedBucket):
        return {"bucket": bucket.url}
    return {"bucket": bucket.url, "owner": bucket.owner, "number": bucket.number}


def is_ours(head: Mapping[str, Any], bucket: Store) -> bool:
    """Whether a manifest is about what is in the bucket: nobody else has published there since."""
    if head["bucket"] != bucket.url:
        return False
    return not isinstance(bucket, OwnedBucket) or head.get("owner") == bucket.owner


def standing(lake: Lake, bucket: Store, run: ModelRun, asset: str, version: str) -> Published | None:
    """What an asset has published from this version, if nothing was begun since; else None."""
    head = manifest(lake, run, asset)
    if head is None or head["version"] != version or not is_ours(head, bucket):
        return None
    folder = f"{manifests_folder(run)}/{asset}"
    known = fragments(run, asset, head)
    if {key for key, _ in lake.store.list(f"{folder}/")} != {*known, f"{folder}/{HEAD}"}:
        return None
    shared = tuple(head.get("shared", ()))
    return Published(head["objects"], head["bytes"], left_out=head["left_out"], shared=shared)


def manifest_entries(lake: Lake, run: ModelRun, asset: str) -> pa.Table:
    """Key, size in bytes and checksum of every object of an asset."""
    head = manifest(lake, run, asset)
    return LISTING.empty_table() if head is None else fragment_entries(lake, fragments(run, asset, head))


def fragments(run: ModelRun, asset: str, head: Mapping[str, Any]) -> list[str]:
    """Keys in the lake of the fragments of a manifest, whose head is given."""
    folder = f"{manifests_folder(run)}/{asset}/{head['attempt']}"
    return [f"{folder}/{name}" for names in head["fragments"].values() for name in names]


def fragment_entries(lake: Lake, fragments: Sequence[str], columns: Sequence[str] = ()) -> pa.Table:
    """Key, size in bytes and checksum of the objects of some fragments, or only some `columns` of it."""
    if fragments and lake.store.local_path(fragments[0]) is None:
        with ThreadPoolExecutor(_READERS, "manifest") as readers:
            tables = list(readers.map(partial(_read, lake), fragments))
    else:
        tables = [_read(lake, fragment) for fragment in fragments]
    names = list(columns) or LISTING.names
    return pa.concat_tables([table.select(names) for table in (LISTING.empty_table(), *tables)])


def withdraw_results(lake: Lake, bucket: Store, run: ModelRun, *, unless: str) -> bool:
    """Delete results.json if it belongs to another version: the datacube is about to become a mixture."""
    head = manifest(lake, run, RESULTS_ASSET)
    if head is not None and head["version"] == unless and is_ours(head, bucket):
        return False
    # The record goes first: were it left without its object, the object would never be written again.
    lake.store.delete_many([f"{manifests_folder(run)}/{RESULTS_ASSET}/{HEAD}"])
    # Also without a record: a crash may have come between the object and its record.
    bucket.delete_many([f"{run.prefix}{keys.RESULTS}"])
    return True


class IncompleteDatacubeError(RuntimeError):
    """Assets of a partition are published from different inputs, or not at all."""


def complete(
    lake: Lake,
    bucket: Store,
    run: ModelRun,
    version: str,
    attempt: str,
    body: bytes,
    assets: Sequence[str],
    *,
    anew: bool = False,
    first: Callable[[], None] = lambda: None,
) -> Published:
    """Write results.json, the mark of a complete datacube; `anew` also where it is known to be there.

    `first` is called right before, when nothing is in its way. Raises IncompleteDatacubeError unless every
    one of the `assets` is published from `version`.
    """
    _check_complete(lake, bucket, run, version, assets)
    first()
    publication = Publication.begin(lake, bucket, run, RESULTS_ASSET, version, attempt, anew=anew)
    published, fragments = publication.publish("results", [Objects.of([(keys.RESULTS, body)], JSON)])
    published = publication.finish(published, {"results": fragments})
    try:
        # Another run may have begun with another input meanwhile.
        _check_complete(lake, bucket, run, version, assets)
    except IncompleteDatacubeError:
        withdraw_results(lake, bucket, run, unless="")
        raise
    return published


def _check_complete(lake: Lake, bucket: Store, run: ModelRun, version: str, assets: Sequence[str]) -> None:
    for asset in assets:
        head = manifest(lake, run, asset)
        if head is None or head["version"] != version or not is_ours(head, bucket):
            state = "is not published yet" if head is None else "is published from another input"
            raise IncompleteDatacubeError(
                f"{run} is not complete: {asset} {state}. Materialize {asset}, or all assets of the partition"
            )


def described(objects: Objects, bucket: Store, run: ModelRun) -> tuple[pa.Table, Mask]:
    """What a manifest says of objects (key, size in bytes, checksum), and which the store takes."""
    # MD5 tells changes, not forgeries; it is also what S3 answers as the tag of an object.
    checksums = [hashlib.md5(body, usedforsecurity=False).digest() for body in objects.bodies()]
    keys_ = pc.binary_join_element_wise(pa.scalar(run.prefix), objects.names, "")
    fragment = pa.table(
        [keys_, pa.array(objects.sizes(), pa.int64()), pa.array(checksums, pa.binary(16))], schema=LISTING
    )
    return fragment, bucket.storable(fragment["key"].combine_chunks())


def _changed(fragment: pa.Table, trusted: pa.Table | None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if trusted is None or trusted.num_rows == 0:
        return np.ones(fragment.num_rows, np.bool_)
    found = pc.index_in(fragment["key"], trusted["key"].combine_chunks())
    before = trusted["checksum"].take(found)
    same = pc.fill_null(pc.equal(before, fragment["checksum"]), False)
    unchanged: np.ndarray[Any, np.dtype[np.bool_]] = same.to_numpy()
    return ~unchanged


def made_twice(made: pa.ChunkedArray) -> pa.Array:
    """The keys that occur more than once, sorted."""
    if pc.count_distinct(made).as_py() == len(made):
        return pa.array([], pa.string())
    counted = pc.value_counts(made.combine_chunks())
    shared = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    return shared.take(pc.sort_indices(shared))


def _read(lake: Lake, key: str) -> pa.Table:
    # Opening a file as a data set takes three times as long.
    return lake.parsed(key, lambda body: pq.ParquetFile(pa.BufferReader(body)).read(use_threads=False))


def _to_parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **PARQUET)
    return memoryview(sink.getvalue())
