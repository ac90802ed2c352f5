"""Are published objects as they were written, and do they say what the tables of the lake say?

Manifests are compared with the bucket, and manifests with what formatting the tables again gives, by the
functions that published them. How tables come about is checked in `checks/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.assets.datacube import DATACUBE_ASSETS, Works, works_of
from datacube_assets.assets.results import results_of
from datacube_assets.checks.datacube import Reading
from datacube_assets.checks.judging.objects import look
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.settings import Settings
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError
from datacube_assets.storage.leases import read_lease
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import (
    RESULTS_ASSET,
    described,
    made_twice,
    manifest,
    manifest_entries,
)
from datacube_assets.storage.stores import LISTING, MissingObjectError, Store, StoreError

ASSETS = tuple(asset.key.path[-1] for asset in DATACUBE_ASSETS)
_READ_AT_ONCE = 2_000
EXAMPLES = 10
"""Keys of a fault that are listed."""

Progress = Callable[[str, int, int], None]
"""What is at hand, pieces done, pieces in all."""


@dataclass
class Verified:
    """What was found of one partition."""

    key: str
    recorded: int = 0
    """Objects that manifests name."""
    read: int = 0
    """Objects whose bytes or checksum were compared with the manifests."""
    formatted: int = 0
    """Objects that were formatted again from the tables."""
    faults: dict[str, int] = field(default_factory=dict)
    """Number of objects by fault."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What could not be compared at all, and why."""

    @property
    def is_well(self) -> bool:
        return not self.faults and not self.problems

    def found(self, fault: str, objects: Sequence[str]) -> None:
        if objects:
            self.faults[fault] = self.faults.get(fault, 0) + len(objects)
            listed = self.examples.setdefault(fault, [])
            listed += objects[: EXAMPLES - len(listed)]

    def to_json(self) -> dict[str, Any]:
        return {"well": self.is_well, **asdict(self)}


def verify(settings: Settings, run: ModelRun, progress: Progress, *, tables: bool = True) -> Verified:
    """Verify one partition; without `tables` only manifests and bucket are compared.

    Faults are `missing` (recorded, not in the bucket), `altered` (other size or checksum), `stray` (in the
    bucket, recorded nowhere), `other than the tables` (recorded with another checksum than the tables
    give), `not published` (made of the tables, recorded nowhere) and `not of the tables` (the reverse).
    """
    verified = Verified(run.key)
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    try:
        heads = {asset: head for asset in (*ASSETS, RESULTS_ASSET) if (head := manifest(lake, run, asset))}
        if not heads:
            verified.problems.append("nothing is published: there is no manifest. Process it first")
            return verified
        _check_heads(heads, verified)
        entries = {asset: manifest_entries(lake, run, asset) for asset in heads}
        _verify_objects(settings, run, heads, entries, verified, progress)
        if tables:
            _verify_tables(settings, lake, run, heads, entries, verified, progress)
    except (StoreError, MissingTableError, MissingObjectError) as error:
        verified.problems.append(str(error).strip("'\""))
    return verified


def _check_heads(heads: Mapping[str, Mapping[str, Any]], verified: Verified) -> None:
    lacking = [asset for asset in (*ASSETS, RESULTS_ASSET) if asset not in heads]
    if lacking:
        verified.problems.append(f"not complete: {', '.join(lacking)} not published")
    for what in ("version", "bucket"):
        if len({head[what] for head in heads.values()}) > 1:
            verified.problems.append(f"its assets are of more than one {what}: process it again")


def _verify_objects(
    settings: Settings,
    run: ModelRun,
    heads: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, pa.Table],
    verified: Verified,
    progress: Progress,
) -> None:
    recorded_in: dict[str, list[pa.Table]] = {}
    for asset, head in heads.items():
        recorded_in.setdefault(head["bucket"], []).append(entries[asset])
    for url, tables in recorded_in.items():
        bucket = open_store(url, settings.s3_endpoint)
        bucket.check("the bucket of a manifest", write=False)
        _check_owner(bucket, run, [head for head in heads.values() if head["bucket"] == url], verified)
        recorded = pa.concat_tables(tables).combine_chunks()
        verified.recorded += recorded.num_rows
        looked = look(recorded, bucket.listing(run.prefix))
        verified.found("missing", recorded["key"].filter(pa.array(looked.missing)).to_pylist())
        verified.found("altered", recorded["key"].filter(pa.array(looked.altered)).to_pylist())
        verified.found("stray", list(looked.stray))
        verified.read += int(np.count_nonzero(looked.told))
        unread = recorded.take(pa.array(np.flatnonzero(looked.unread | looked.suspect)))
        for start in range(0, unread.num_rows, _READ_AT_ONCE):
            some = unread.slice(start, _READ_AT_ONCE)
            faults = Reading(bucket)(some)
            verified.found("missing", [key for key, there in faults if not there])
            verified.found("altered", [key for key, there in faults if there])
            verified.read += some.num_rows
            progress("objects", start + some.num_rows, unread.num_rows)


def _check_owner(
    bucket: Store, run: ModelRun, heads: Sequence[Mapping[str, Any]], verified: Verified
) -> None:
    lease = read_lease(bucket, run)
    if lease is not None and lease.owner and any(head.get("owner") != lease.owner for head in heads):
        verified.problems.append(
            f"{bucket.url} was published into by another home since: {lease.home}, on {lease.host}. "
            "Process it again, if this home is to own it"
        )


def _verify_tables(
    settings: Settings,
    lake: Lake,
    run: ModelRun,
    heads: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, pa.Table],
    verified: Verified,
    progress: Progress,
) -> None:
    published_table = History(lake, run).published_table
    for asset in ASSETS:
        if asset not in heads:
            continue
        head = heads[asset]
        table, works = works_of(lake, published_table, asset)
        if table.version != head["version"]:
            verified.problems.append(f"{asset} is published from another version of its table")
            continue
        bucket = open_store(head["bucket"], settings.s3_endpoint)
        made = pa.concat_tables(
            [LISTING.empty_table(), *_formatted(lake, bucket, run, table, works, asset, progress)]
        )
        made = made.filter(pc.invert(pc.is_in(made["key"], made_twice(made["key"]))))
        _compare(made, entries[asset], verified)
    if RESULTS_ASSET in heads:
        tables = (published_table(name) for name in ("normalized_points", "global_aggregates"))
        body = results_of(lake, *tables)
        checksum = hashlib.md5(body, usedforsecurity=False).digest()
        one = pa.table([[f"{run.prefix}{keys.RESULTS}"], [len(body)], [checksum]], schema=LISTING)
        _compare(one, entries[RESULTS_ASSET], verified)


def _formatted(
    lake: Lake,
    bucket: Store,
    run: ModelRun,
    table: LakeTable,
    works: Works,
    asset: str,
    progress: Progress,
) -> Iterator[pa.Table]:
    for number, (work, view) in enumerate(works.items(), 1):
        for objects in view(lake, table, work):
            entries, published = described(objects, bucket, run)
            yield entries.filter(pa.array(published))
        progress(asset, number, len(works))


def _compare(made: pa.Table, recorded: pa.Table, verified: Verified) -> None:
    verified.formatted += made.num_rows
    at = pc.index_in(made["key"], recorded["key"].combine_chunks())
    known = pc.is_valid(at)
    same = pc.equal(recorded["checksum"].take(at), made["checksum"])
    other = pc.fill_null(pc.invert(same), False)
    verified.found("other than the tables", made["key"].filter(other).to_pylist())
    verified.found("not published", made["key"].filter(pc.invert(known)).to_pylist())
    extra = pc.is_in(recorded["key"], made["key"].combine_chunks())
    verified.found("not of the tables", recorded["key"].filter(pc.invert(extra)).to_pylist())
