"""Group `dojo`: what was asked for, and the files as they came.

Where requests wait and how they are derived is in `storage/requests.py` and `dojo/derive.py`; reading
bytes from outside is in `dojo/fetch.py`.
"""

import time
from pathlib import Path

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, asset

from datacube_assets.assets.partitions import model_runs
from datacube_assets.datacube.errors import InputError
from datacube_assets.dojo.documents import is_string_part
from datacube_assets.dojo.fetch import fetch
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest, digest
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import LakeTable, TableFile, scratch_folder
from datacube_assets.storage.requests import requested

GROUP = "dojo"
FORMAT_VERSION = 1
"""Raise it when the same input gives other objects than before: everything is then published anew."""


@asset(
    group_name=GROUP,
    partitions_def=model_runs,
    code_version="1",
    kinds={"dojo", "json"},
    description=(
        "What this model run or dataset is to become: its Parquet parts, qualifiers, weights and thresholds. "
        "The newest request left for the partition, else one derived from Dojo's documents."
    ),
)
def dojo_request(
    context: AssetExecutionContext, lake: LakeResource, dojo: DojoResource
) -> MaterializeResult[DatacubeRequest]:
    run = ModelRun.from_key(context.partition_key)
    run.check()
    left = requested(lake.open(), run)
    request = left or dojo.derive_request(run)
    context.log.info(f"{run}: {len(request.data_paths)} parts, {'as requested' if left else 'derived from Dojo'}")
    return MaterializeResult(
        value=request,
        metadata={
            "source": "request left in the lake" if left else "Dojo",
            "parts": MetadataValue.json(list(request.data_paths)),
            "qualifiers": MetadataValue.json({name: list(q) for name, q in request.qualifier_map.items()}),
            "weight column": request.weight_column or "(none)",
            "request": MetadataValue.json(request.model_dump(mode="json")),
        },
    )


@asset(
    group_name=GROUP,
    partitions_def=model_runs,
    code_version="1",
    kinds={"parquet"},
    description="The numeric Parquet parts of the run as Dojo left them, with size and checksum. "
    "Parts of text values (`_str`) are left out.",
)
def raw_dojo_output(
    context: AssetExecutionContext, dojo_request: DatacubeRequest, lake: LakeResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    run = ModelRun.from_key(context.partition_key)
    numeric = [address for address in dojo_request.data_paths if not is_string_part(address)]
    ignored = [address for address in dojo_request.data_paths if is_string_part(address)]
    if not numeric:
        raise InputError(
            "there are no Parquet parts" if not ignored else "all parts hold text values (`_str`)",
            run=str(run),
            remedy="Check that the run wrote numeric output and that its data_paths name it",
        )
    with scratch_folder() as scratch:
        parts = []
        for number, address in enumerate(numeric, 1):
            try:
                parts.append(fetch(address, Path(scratch, str(number))))
            except InputError as error:
                raise error.in_run(str(run)) from error
            context.log.info(f"Fetched part {number} of {len(numeric)}: {parts[-1].size:,} bytes")
        version = digest(
            {
                "format": FORMAT_VERSION,
                "request": dojo_request.fingerprint(),
                "parts": [part.sha256 for part in parts],
            }
        )
        store = lake.open().store
        folder = lake.open().table_folder(run, "raw_dojo_output", version)
        files = []
        for number, part in enumerate(parts, 1):
            name = f"part-{number:05}"
            store.put_file(f"{folder}/{name}.parquet", Path(scratch, str(number)))
            files.append(TableFile(name, 0, part.size))
    info = {
        "request": dojo_request.model_dump(mode="json"),
        "parts": [part.__dict__ for part in parts],
    }
    return MaterializeResult(
        value=LakeTable(folder, version, tuple(files), info),
        metadata={
            "parts": len(parts),
            "bytes": sum(part.size for part in parts),
            "text parts left out": MetadataValue.json(ignored),
            "files": MetadataValue.json([part.__dict__ for part in parts]),
            "input version": version,
            "seconds": round(time.monotonic() - started, 3),
        },
    )
