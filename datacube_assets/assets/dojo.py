"""Group `dojo`: what was asked for, and the files as they came.

Where requests wait and how they are derived is in `storage/requests.py` and `dojo/derive.py`; reading
bytes from outside is in `dojo/fetch.py`.
"""

import time
from collections.abc import Callable
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    DataVersion,
    MaterializeResult,
    MetadataValue,
)

from datacube_assets.assets.tables import datacube_asset
from datacube_assets.assets.versions import held_version, wanted_version
from datacube_assets.dojo.documents import is_string_part
from datacube_assets.dojo.fetch import Source, fetch
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest, digest
from datacube_assets.kernels.errors import InputError
from datacube_assets.partitions import CODE_VERSION, FROM_DOJO, FROM_SCRATCH, SOURCE_TAG
from datacube_assets.redaction import public
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.storage.history import RAW_PARTS
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError, TableFile, scratch_folder
from datacube_assets.storage.requests import requested

GROUP = "dojo"


@datacube_asset(
    GROUP,
    {"dojo", "json"},
    "What this model run or dataset is to become: its Parquet parts, qualifiers, weights and thresholds. "
    "The newest request left for the partition, else one derived from Dojo's documents.",
)
def dojo_request(
    context: AssetExecutionContext, lake: LakeResource, buckets: BucketsResource, dojo: DojoResource
) -> MaterializeResult[DatacubeRequest]:
    run = ModelRun.from_key(context.partition_key)
    run.check()
    lake.open().store.check("DATACUBE_LAKE")
    back = wanted_version(lake.open(), run, context.run)
    held = held_version(lake.open(), run, context.run)
    if held:
        context.log.warning(
            f"{run}: somebody went back from this state to version {held.number}, which stays published "
            "until Dojo or a person brings something newer"
        )
    if kept := back or held:
        request, source = kept.request, f"version {kept.number}"
    else:
        left = requested(lake.open(), run)
        if left and not left.source_version and context.run.tags.get(SOURCE_TAG) == FROM_DOJO:
            # Dojo has news since then; what was left from elsewhere knows nothing of them.
            left = None
        request = dojo.renew_request(left) if left else dojo.derive_request(run)
        source = "request left in the lake" if left else "Dojo"
    # Now, not when everything is computed and about to be published.
    buckets.open(request).check(_bucket_setting(request))
    context.log.info(f"{run}: {len(request.data_paths)} parts, from {source}")
    return MaterializeResult(
        value=request,
        data_version=DataVersion(digest([request.source_version, request.fingerprint()])),
        metadata={
            "source": source,
            "parts": MetadataValue.json([public(address) for address in request.data_paths]),
            "qualifiers": MetadataValue.json({name: list(q) for name, q in request.qualifier_map.items()}),
            "weight column": request.weight_column or "(none)",
            "request": MetadataValue.json(
                {
                    **request.model_dump(mode="json"),
                    "data_paths": [public(address) for address in request.data_paths],
                }
            ),
        },
    )


@datacube_asset(
    GROUP,
    {"parquet"},
    "The numeric Parquet parts of the run as Dojo left them, with size and checksum. "
    "Parts of text values (`_str`) are left out.",
)
def raw_dojo_output(
    context: AssetExecutionContext, dojo_request: DatacubeRequest, lake: LakeResource, dojo: DojoResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    run = ModelRun.from_key(context.partition_key)
    numeric = [address for address in dojo_request.data_paths if not is_string_part(address)]
    ignored = [public(address) for address in dojo_request.data_paths if is_string_part(address)]
    if not numeric:
        raise InputError(
            "there are no Parquet parts" if not ignored else "all parts hold text values (`_str`)",
            run=str(run),
            remedy="Check that the run wrote numeric output and that its data_paths name it",
        )
    scratch = FROM_SCRATCH in context.run.tags
    store = lake.open()
    kept = wanted_version(store, run, context.run) or held_version(store, run, context.run)
    table = kept.raw if kept else None if scratch else fetched_before(store, run, dojo_request)
    reused = table is not None
    if table is None:
        try:
            table = fetch_parts(lake.open(), run, dojo_request, numeric, dojo.source(), context.log.info)
        except InputError as error:
            raise error.in_run(str(run)) from error
    return MaterializeResult(
        value=table,
        data_version=DataVersion(table.version),
        metadata={
            "parts": len(table.files),
            "bytes": table.bytes,
            "text parts left out": MetadataValue.json(ignored),
            "files": MetadataValue.json(table.info["parts"]),
            "fetched": not reused,
            "input version": table.version,
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def fetched_before(lake: Lake, run: ModelRun, request: DatacubeRequest) -> LakeTable | None:
    """The parts of an earlier run, if Dojo's version vouches for it that they are the same.

    It does for model runs, which name the time of their execution. The files of a dataset keep their
    addresses when they are replaced, so these are always fetched.
    """
    if run.is_indicator or not request.source_version:
        return None
    try:
        table = lake.table(run, RAW_PARTS)
    except MissingTableError:
        return None
    before = DatacubeRequest.model_validate(table.info["request"])
    same = (
        all(getattr(before, name) == getattr(request, name) for name in ("source_version", "data_paths"))
        and before.fingerprint() == request.fingerprint()
    )
    return table if same and lake.is_whole(table) else None


def fetch_parts(
    lake: Lake,
    run: ModelRun,
    request: DatacubeRequest,
    addresses: list[str],
    source: Source,
    log: Callable[[str], None],
) -> LakeTable:
    """Copy parts into the lake. Raises InputError, or FetchError when retries did not help."""
    with scratch_folder() as scratch:
        parts = []
        for number, address in enumerate(addresses, 1):
            parts.append(fetch(address, Path(scratch, str(number)), source))
            log(f"Fetched part {number} of {len(addresses)}: {parts[-1].size:,} bytes")
        version = digest(
            {
                "code": CODE_VERSION,
                "request": request.fingerprint(),
                "parts": [part.sha256 for part in parts],
            }
        )
        # Named after their content: what several versions were made of is there once.
        folder = lake.table_folder(run, RAW_PARTS, "parts")
        files = []
        for number, part in enumerate(parts, 1):
            # Also one that is there: the clock by which it is old starts anew.
            lake.store.put_file(f"{folder}/{part.sha256}.parquet", Path(scratch, str(number)))
            files.append(TableFile(part.sha256, 0, part.size))
    info = {"request": request.model_dump(mode="json"), "parts": [part.__dict__ for part in parts]}
    return LakeTable(folder, version, tuple(files), info)


def _bucket_setting(request: DatacubeRequest) -> str:
    """What says which bucket a request is published into, for messages."""
    if request.indicator_bucket if request.is_indicator else request.model_bucket:
        return "the bucket that the request names"
    return "DATACUBE_INDICATORS_BUCKET" if request.is_indicator else "DATACUBE_MODELS_BUCKET"
