"""Group `points`: clean rows, and one row per place and period.

Cleaning is in `datacube/normalize.py`, the temporal step in `datacube/temporal.py`. Here rows stream
from the parts into shards, and shards go to the workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, asset

from datacube_assets.assets.partitions import model_runs
from datacube_assets.assets.run_info import RunInfo, options, report_metadata, rows_by_file
from datacube_assets.assets.tables import column_schema
from datacube_assets.datacube import keys
from datacube_assets.datacube.errors import InputError
from datacube_assets.datacube.normalize import (
    Plan,
    Report,
    check_values,
    merge_profiles,
    normalize,
    plan,
    profile,
)
from datacube_assets.datacube.parts import Part
from datacube_assets.datacube.qualifiers import feature_regions, merge_values, qualifier_values
from datacube_assets.datacube.schema import CELL_COLUMNS, POINT_COLUMNS
from datacube_assets.datacube.shards import shard_numbers
from datacube_assets.datacube.temporal import temporal_cells as cells_of_points
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import PARQUET, Lake, LakeTable, TableFile, parquet_path, scratch_folder

GROUP = "points"
POINTS = "points"
"""Prefix of the shards among the files of `normalized_points`."""


@asset(
    group_name=GROUP,
    partitions_def=model_runs,
    code_version="1",
    kinds={"parquet"},
    metadata={"dagster/column_schema": column_schema(POINT_COLUMNS)},
    description=(
        "The run's rows, clean and typed, in shards such that all rows of a place are in one. "
        "What was dropped or repaired is counted in the metadata. Beside the shards lie the regions and the "
        "qualifier values of each feature."
    ),
)
def normalized_points(
    context: AssetExecutionContext, raw_dojo_output: LakeTable, lake: LakeResource
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    run = ModelRun.from_key(context.partition_key)
    request = DatacubeRequest.model_validate(raw_dojo_output.info["request"])
    store = lake.open()
    folder = store.table_folder(run, "normalized_points", raw_dojo_output.version)
    try:
        table = _normalize(RawParts.of(store, raw_dojo_output), request, store, folder, lake.shard_rows)
    except InputError as error:
        raise error.in_run(str(run)) from error
    info = RunInfo.of(table)
    if info.report.dropped:
        context.log.warning(f"{info.report.dropped:,} of {info.report.num_rows:,} rows are dropped; see metadata")
    shards = table.names(POINTS)
    return MaterializeResult(
        value=table,
        metadata={
            **report_metadata(info.report),
            "features": MetadataValue.json(list(info.features)),
            "region levels": MetadataValue.json(list(info.layout.levels)),
            "qualifier columns": MetadataValue.json(list(info.layout.qualifiers)),
            "weight column": info.layout.weight or "(none)",
            "has tiles": info.layout.mappable,
            "shards": len(shards),
            "bytes": table.bytes,
            "dagster/row_count": info.report.points,
            "input version": table.version,
            "seconds": round(time.monotonic() - started, 3),
        },
    )


@dataclass(frozen=True)
class RawParts:
    """The fetched parts of a run, opened for reading."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, lake: Lake, raw: LakeTable) -> RawParts:
        """Raises InputError for a part that is no Parquet or lacks a column, named by its address."""
        addresses = [part["address"] for part in raw.info["parts"]]
        return cls(
            tuple(
                Part(lake.open_file(raw, name), address)
                for name, address in zip(raw.names(), addresses, strict=True)
            )
        )

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def batches(self) -> Iterator[tuple[str, pa.Table]]:
        """Address of the part and a batch of its rows, in order."""
        for part in self.parts:
            for batch in part.batches():
                yield part.name, batch

    def plan(self, request: DatacubeRequest) -> Plan:
        """What the columns of all parts together become. Raises InputError."""
        return plan(merge_profiles(naming(name, partial(profile, batch)) for name, batch in self.batches()), options(request))


def naming[R](file: str, work):  # placeholder
    raise NotImplementedError
