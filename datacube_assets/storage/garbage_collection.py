"""Finding what nothing refers to any more, in the lake and in the buckets, and deleting it.

What dies half-way leaves files behind: versions of tables that were never committed, traces of a
publication, objects that no manifest names. The next run of the partition clears them; where none comes,
this does. What waits or says what is (requests, waiting reports, descriptors, manifests) is never
touched, nor anything that is not ours. How tables and manifests are written is in `lake.py` and
`publishing.py`.

It may run beside runs: whatever is younger than a limit is left alone, and so are partitions that a run
is at work on. Before something is deleted it is looked for again, under the lease of the partition, so that
what a run has made meanwhile stays. In a bucket where another home has published since, nothing is ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.history import HISTORY, History, Retention, keys_of
from datacube_assets.storage.lake import DESCRIPTOR, TABLES, Lake, described_table
from datacube_assets.storage.leases import (
    TERM,
    Holder,
    LeaseHeldError,
    OwnedBucket,
    acquire,
    read_lease,
)
from datacube_assets.storage.publishing import HEAD, MANIFESTS, manifest, manifest_entries, manifests_folder
from datacube_assets.storage.reports import SETTLED
from datacube_assets.storage.requests import JOINED, STARTED, names_waiting
from datacube_assets.storage.stores import Entry, MissingObjectError, Store, is_leftover

Kind = Literal[
    "version no longer kept",
    "file of an abandoned table",
    "trace of a publication",
    "stray object",
    "unfinished write",
    "old report",
    "old request",
]

_OUTLIVED: Kind = "version no longer kept"


@dataclass(frozen=True)
class Orphan:
    """Something that nothing refers to."""

    kind: Kind
    store: Store
    entry: Entry


@dataclass(frozen=True)
class Orphans:
    """What was found in one place, deleted as a whole."""

    run: ModelRun | None
    """The partition it belongs to, if any."""
    found: Sequence[Orphan]
    """In the order in which it has to be deleted."""
    unfinished: bool = False
    """Whether a publication died in a way that only materializing the partition again can mend."""
    search: Search | None = None
    """What found it."""

    def delete(self) -> Sequence[Orphan]:
        """Delete what nothing refers to yet and nobody has changed since; what that was is returned.

        Calling this again after it broke off deletes the rest.
        """
        if self.run is None or self.search is None:
            return _delete([orphan for orphan in self.found if orphan in _as_they_were(self.found)], {})
        return self.search.delete(self.run, self.found)


@dataclass(frozen=True)
class Search:
    """Where and for what to look."""

    lake: Lake
    before: float
    """Seconds UTC: what changed since is left alone."""
    bucket_of: Callable[[ModelRun], Store]
    """The bucket that a partition is published into."""
    open_bucket: Callable[[str], Store]
    """A bucket by the URL that a manifest names."""
    busy: Callable[[ModelRun], bool] = lambda _: False
    """Whether a run is at work on a partition."""
    known_run: Callable[[str], bool] = lambda _: True
    """Whether Dagster still has a run of that id."""
    known_request: Callable[[str], bool] = lambda _: True
    """Whether Dagster still has a run of the request of that name."""
    term: float = TERM
    """Seconds of the leases under which is deleted."""
    retention: Retention = field(default_factory=Retention)

    def orphans(self) -> Iterator[Orphans]:
        """What nothing refers to, partition by partition; each is looked at when it is asked for."""
        for folder, entries in itertools.groupby(self.lake.store.entries("runs/"), key=_run_folder):
            run = _run_of(folder)
            if run is not None and not self.busy(run):
                found = replace(self._of_run(run, list(entries)), search=self)
                if found.found or found.unfinished:
                    yield found
        rest = self._reports() + self._requests()
        for folder in ("requests/", "reports/", "sensors/"):
            rest += self._leftovers(folder)
        if rest:
            yield Orphans(None, rest)

    def delete(self, run: ModelRun, found: Sequence[Orphan]) -> Sequence[Orphan]:
        """Delete what was found of a partition, and is found again while nobody else may publish."""
        buckets = {orphan.store.url: orphan.store for orphan in found if orphan.store != self.lake.store}
        if not buckets:
            own = self.bucket_of(run)
            buckets[own.url] = own
        me = Holder(self.lake.store.url, f"gc {uuid.uuid4().hex}", self.term)
        with contextlib.ExitStack() as leases:
            owned: dict[str, Store] = {}
            try:
                for url, bucket in buckets.items():
                    tenure = acquire(bucket, run, me, patient=False)
                    leases.callback(tenure.release)
                    owned[url] = OwnedBucket(bucket, tenure)
            except LeaseHeldError:
                return []
            if self.busy(run):
                return []
            again = self._of_run(run, list(self.lake.store.entries(f"{run.folder}/"))).found
            return _delete([orphan for orphan in found if orphan in set(again)], owned)

    def _of_run(self, run: ModelRun, entries: list[Entry]) -> Orphans:
        of: dict[tuple[str, ...], list[Entry]] = {}
        leftovers = [entry for entry in entries if is_leftover(entry.key)]
        for entry in entries:
            parts = entry.key.split("/")[3:]
            if len(parts) > 1 and not is_leftover(entry.key):
                folder = tuple(parts[:2]) if len(parts) > 2 and parts[0] == MANIFESTS else (parts[0],)
                of.setdefault(folder, []).append(entry)
        traces = {
            folder[1]: found
            for folder, some in of.items()
            if len(folder) == 2 and (found := self._traces(run, folder[1], some))
        }
        if any(entry.modified >= self.before for some in traces.values() for entry in some):
            return Orphans(run, [])  # A publication may be under way.
        in_lake = self._old("unfinished write", self.lake.store, leftovers)
        history = History(self.lake, run)
        told = of.get((HISTORY,), [])
        versions = history.outlived(self.retention) if told else []
        outlived = {history.tables_key(version): version for version in versions}
        documents = (entry for entry in told if entry.key in outlived)
        in_lake += self._old(_OUTLIVED, self.lake.store, documents)
        still = history.files(besides=versions) if told else set()
        gone = {key for version in outlived.values() for key in keys_of(history.tables_of(version))}
        for name in sorted(TABLES):
            in_lake += self._of_table(run, name, of.get((name,), []), still, gone)
        of_buckets = self._strays(run, traces)
        if of_buckets is None:
            return Orphans(run, [])
        strays, doubtful = of_buckets
        sure = (entry for asset, some in traces.items() if asset not in doubtful for entry in some)
        of_traces = self._old("trace of a publication", self.lake.store, sure)
        # Objects go first: without its trace, a stray object would never be found.
        return Orphans(run, [*strays, *of_traces, *in_lake], unfinished=bool(doubtful))

    def _of_table(
        self, run: ModelRun, name: str, entries: list[Entry], still: Set[str], gone: Set[str]
    ) -> list[Orphan]:
        """Files that neither the current table nor one that is `still` kept names."""
        folder = f"{run.folder}/{name}"
        document = self.lake.read_document(f"{folder}/{DESCRIPTOR}")
        named = {f"{folder}/{DESCRIPTOR}", *still}
        if document is not None:
            named.update(described_table(run, name, document).keys())
        unknown = [entry for entry in entries if entry.key not in named]
        outlived = self._old(_OUTLIVED, self.lake.store, (one for one in unknown if one.key in gone))
        others = (one for one in unknown if one.key not in gone)
        return [*outlived, *self._old("file of an abandoned table", self.lake.store, others)]

    def _traces(self, run: ModelRun, asset: str, entries: list[Entry]) -> list[Entry]:
        """Fragments that no manifest names."""
        folder = f"{manifests_folder(run)}/{asset}"
        head = manifest(self.lake, run, asset)
        known = {f"{folder}/{HEAD}"}
        if head is not None:
            known |= {
                f"{folder}/{head['attempt']}/{name}" for names in head["fragments"].values() for name in names
            }
        return [entry for entry in entries if entry.key not in known]

    def _strays(self, run: ModelRun, traces: dict[str, list[Entry]]) -> tuple[list[Orphan], set[str]] | None:
        """Objects of a run that no manifest names, and the assets whose traces put others in doubt.

        None while any is young: it may be just about to be named.
        """
        heads = [head for asset in self._assets(run) if (head := manifest(self.lake, run, asset))]
        published = {head["bucket"] for head in heads}
        # Where nothing of ours is published, all may be of others: only what our traces name is ours.
        buckets = {url: self.open_bucket(url) for url in sorted(published)}
        if traces:
            own = self.bucket_of(run)
            buckets.setdefault(own.url, own)
        named = {asset: self._keys(some) for asset, some in traces.items()}
        strays: list[Orphan] = []
        doubtful: set[str] = set()
        for url, bucket in buckets.items():
            lease = read_lease(bucket, run)
            owners = {head.get("owner") for head in heads if head["bucket"] == url}
            if lease is not None and lease.owner and lease.owner not in owners:
                # Another home has published there since.
                doubtful |= named.keys()
                continue
            recorded = self._recorded(run, url)
            entries = list(bucket.entries(run.prefix))
            leftovers = [entry for entry in entries if is_leftover(entry.key)]
            unknown = [entry for entry in entries if entry.key not in recorded and not is_leftover(entry.key)]
            if url not in published:
                ours = set().union(*named.values())
                unknown = [entry for entry in unknown if entry.key in ours]
            if any(entry.modified >= self.before for entry in unknown):
                return None
            strays += self._old("stray object", bucket, unknown)
            strays += self._old("unfinished write", bucket, leftovers)
            for asset, keys in named.items():
                if not all(
                    _is_as_recorded(bucket, key, recorded[key]) for key in sorted(keys & recorded.keys())
                ):
                    doubtful.add(asset)
        return strays, doubtful

    def _assets(self, run: ModelRun) -> list[str]:
        keys = self.lake.store.list(f"{manifests_folder(run)}/")
        return sorted({key.split("/")[4] for key, _ in keys})

    def _recorded(self, run: ModelRun, bucket: str) -> dict[str, bytes]:
        """Key and checksum of every object that a manifest of ours says is in the bucket."""
        recorded: dict[str, bytes] = {}
        for asset in self._assets(run):
            head = manifest(self.lake, run, asset)
            if head is not None and head["bucket"] == bucket:
                entries = manifest_entries(self.lake, run, asset)
                recorded |= zip(entries["key"].to_pylist(), entries["checksum"].to_pylist(), strict=True)
        return recorded

    def _keys(self, fragments: Iterable[Entry]) -> set[str]:
        keys: set[str] = set()
        for fragment in fragments:
            try:
                content = self.lake.store.get(fragment.key)
            except MissingObjectError:
                continue
            keys |= set(pq.read_table(pa.BufferReader(content), columns=["key"])["key"].to_pylist())
        return keys

    def _reports(self) -> list[Orphan]:
        """Settled reports about runs that Dagster no longer has: nobody can post them anew."""
        entries = [
            entry
            for entry in self.lake.store.entries(f"{SETTLED}/")
            if not is_leftover(entry.key)
            and not self.known_run(entry.key.rpartition("/")[2].partition(".")[0])
        ]
        return self._old("old report", self.lake.store, entries)

    def _requests(self) -> list[Orphan]:
        """What is on record about requests that wait no more, and whose runs Dagster no longer has."""
        waiting = set(names_waiting(self.lake))
        entries = [
            entry
            for folder in (STARTED, JOINED)
            for entry in self.lake.store.entries(f"{folder}/")
            if not is_leftover(entry.key)
            and (name := entry.key.split("/")[2].removesuffix(".json")) not in waiting
            and not self.known_request(name)
        ]
        return self._old("old request", self.lake.store, entries)

    def _leftovers(self, prefix: str) -> list[Orphan]:
        entries = (entry for entry in self.lake.store.entries(prefix) if is_leftover(entry.key))
        return self._old("unfinished write", self.lake.store, entries)

    def _old(self, kind: Kind, store: Store, entries: Iterable[Entry]) -> list[Orphan]:
        return [Orphan(kind, store, entry) for entry in entries if entry.modified < self.before]


def _delete(found: Sequence[Orphan], owned: Mapping[str, Store]) -> Sequence[Orphan]:
    for store, some in itertools.groupby(found, key=lambda orphan: orphan.store):
        owned.get(store.url, store).delete_many([orphan.entry.key for orphan in some])
    return found


def _as_they_were(found: Sequence[Orphan]) -> set[Orphan]:
    """Those that nobody has changed since."""
    folders = {(orphan.store.url, orphan.entry.key.rpartition("/")[0]): orphan.store for orphan in found}
    now = {
        (url, entry.key): entry
        for (url, folder), store in folders.items()
        for entry in store.entries(f"{folder}/")
    }
    return {orphan for orphan in found if now.get((orphan.store.url, orphan.entry.key)) == orphan.entry}


def _run_folder(entry: Entry) -> str:
    return "/".join(entry.key.split("/")[:3])


def _run_of(folder: str) -> ModelRun | None:
    """The run of a folder in the lake, None for a folder that is of no run."""
    parts = folder.split("/")
    run = ModelRun(*map(unquote, parts[1:])) if len(parts) == 3 else None
    return run if run is not None and run.folder == folder else None


def _is_as_recorded(bucket: Store, key: str, checksum: bytes) -> bool:
    try:
        return hashlib.md5(bucket.get(key), usedforsecurity=False).digest() == checksum
    except MissingObjectError:
        return False
