"""Publishing under a lease: what was in the bucket's folder before is known, or it is not there.

What becomes of a home's knowledge when it gets the lease of a partition belongs here. Manifests in the lake
say what is in the bucket. They are believed as long as no other home has published there since; after one
that has, whatever lies in the folder is deleted, and everything is published anew. The lease itself is in
`leases.py`, what manifests are in `publishing.py`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import Holder, LeaseHeldError, OwnedBucket, Tenure, acquire
from datacube_assets.storage.publishing import (
    HEAD,
    RESULTS_ASSET,
    fragment_entries,
    manifest,
    manifests_folder,
)
from datacube_assets.storage.stores import Store

_DONE = "yes"
_LOOKS, _PAUSE = 600, 1.0
"""How often, and after how many seconds, one looks whether another step of the run is through with this."""


@contextlib.contextmanager
def overwriting(bucket: Store, run: ModelRun, me: Holder) -> Iterator[OwnedBucket]:
    """The bucket of a run for as long as one writes all of its folder anew: a copy, an import.

    No manifest that was written before says anything about it any more. Raises LeaseHeldError while somebody
    else is at work there.
    """
    tenure = acquire(bucket, run, me)
    try:
        tenure.renew(owner=_new_owner(), sound=True, settled=_DONE)
        yield OwnedBucket(bucket, tenure)
    finally:
        tenure.release()


def settled(lake: Lake, tenure: Tenure, version: str, *, anew: bool = False) -> OwnedBucket:
    """The bucket of a lease, when manifests and bucket agree; `version` is what is about to be published.

    `anew` also deletes what no manifest names, where nobody else has published.
    """
    bucket = OwnedBucket(tenure.store, tenure)
    with tenure.settling:
        if _claimed(tenure):
            _settle(lake, bucket, version, anew=anew)
        elif tenure.lease.version != version:
            tenure.renew(version=version)
    return bucket


def _claimed(tenure: Tenure) -> bool:
    """Whether it is left to us to see to what was there before; waits while another step is at it."""
    me = uuid.uuid4().hex[:8]
    for _ in range(_LOOKS):
        if tenure.lease.settled == _DONE:
            return False
        if not tenure.lease.settled:
            tenure.renew(settled=me)
        if tenure.lease.settled == me:
            return True
        tenure.clock.sleep(_PAUSE)
        tenure.look()
    raise LeaseHeldError(
        f"{tenure.run}: a step that looks through {tenure.store.url} does not come to its end"
    )


def _settle(lake: Lake, bucket: OwnedBucket, version: str, *, anew: bool) -> None:
    run, lease = bucket.tenure.run, bucket.tenure.lease
    heads = _heads(lake, run)
    ours = {
        asset: head
        for asset, head in heads.items()
        if head["bucket"] == bucket.url and lease.owner and head.get("owner") == lease.owner
    }
    owner = lease.owner
    if not ours:
        owner = _new_owner()
        # Before the first change: should we die at it, nobody's manifests are to be believed.
        bucket.tenure.renew(owner=owner)
        _begin_anew(lake, bucket, heads)
    elif not lease.sound:
        # Whoever died may only have been asleep: what it writes down yet is not to be believed.
        owner = _new_owner()
        for asset, head in ours.items():
            lake.write_document(_head_key(run, asset), {**head, "owner": owner, "number": lease.number})
    elif anew:
        _delete_unknown(lake, bucket)
    bucket.tenure.renew(owner=owner, sound=True, settled=_DONE, version=version)


def _new_owner() -> str:
    return uuid.uuid4().hex[:16]


def _head_key(run: ModelRun, asset: str) -> str:
    return f"{manifests_folder(run)}/{asset}/{HEAD}"


def _heads(lake: Lake, run: ModelRun) -> dict[str, Mapping[str, Any]]:
    assets = lake.store.folders(f"{manifests_folder(run)}/")
    return {asset: head for asset in assets if (head := manifest(lake, run, asset)) is not None}


def _begin_anew(lake: Lake, bucket: OwnedBucket, heads: Mapping[str, Any]) -> None:
    """Forget what was published from here, and delete what lies in the folder, results.json first."""
    run = bucket.tenure.run
    results = f"{run.prefix}{keys.RESULTS}"
    # As when results.json is withdrawn: records go before what they are about.
    for asset in sorted(heads, key=lambda name: name != RESULTS_ASSET):
        lake.store.delete_many([_head_key(run, asset)])
    there = [key for key, _ in bucket.list(run.prefix)]
    if results in there:
        bucket.delete_many([results])
    bucket.delete_many([key for key in there if key != results])
    traces = [key for key, _ in lake.store.list(f"{manifests_folder(run)}/")]
    lake.store.delete_many(traces)


def _delete_unknown(lake: Lake, bucket: OwnedBucket) -> None:
    """Delete what neither a manifest names nor an attempt that died."""
    run = bucket.tenure.run
    fragments = [
        key for key, _ in lake.store.list(f"{manifests_folder(run)}/") if not key.endswith(f"/{HEAD}")
    ]
    known = fragment_entries(lake, fragments, ["key"])["key"].combine_chunks()
    there = bucket.listing(run.prefix)["key"]
    bucket.delete_many(there.filter(pc.invert(pc.is_in(there, known))).to_pylist())
