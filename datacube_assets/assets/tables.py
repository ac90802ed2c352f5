"""How tables of the lake and reports about rows present themselves in the UI.

Column schemas and the lineage of columns are read from `kernels/schema.py`; nothing is computed here.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
    asset,
)

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import Column
from datacube_assets.partitions import CODE_VERSION, FROM_SCRATCH, model_runs
from datacube_assets.resources.retries import repeated
from datacube_assets.resources.ui import told
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake, LakeTable, MixedVersionsError


def table_asset(
    group: str, columns: Sequence[Column], description: str, *, of: str | None = None, long: bool = False
) -> Callable[[Callable[..., Any]], AssetsDefinition]:
    """An asset that keeps a table in the lake, made from the columns of the table asset `of`."""
    schema = [
        TableColumn(name=column.name, type=column.type, description=column.description) for column in columns
    ]
    define = datacube_asset(
        group, {"parquet"}, description, {"dagster/column_schema": TableSchema(columns=schema)}, long=long
    )
    if of is None:
        return define
    above = AssetKey(of)
    lineage = TableColumnLineage(
        {
            column.name: [TableColumnDep(asset_key=above, column_name=name) for name in column.origins]
            for column in columns
        }
    )
    return lambda compute: define(_with_metadata(compute, {"dagster/column_lineage": lineage}))


def _with_metadata(compute: Callable[..., Any], metadata: Mapping[str, Any]) -> Callable[..., Any]:
    @functools.wraps(compute)
    def with_metadata(*args: Any, **kwargs: Any) -> MaterializeResult[Any]:
        result: MaterializeResult[Any] = compute(*args, **kwargs)
        return result._replace(metadata={**(result.metadata or {}), **metadata})

    return with_metadata


def datacube_asset(
    group: str,
    kinds: set[str],
    description: str,
    metadata: Mapping[str, Any] | None = None,
    deps: Sequence[AssetsDefinition] = (),
    *,
    long: bool = False,
) -> Callable[[Callable[..., Any]], AssetsDefinition]:
    """An asset as all are: partitioned by model run, in a group, patient, its errors told to people.

    It waits for `deps` and their checks, too, if it does not take them as input anyway. Of several that may
    begin, those go first that take `long`.
    """

    def define(compute: Callable[..., Any]) -> AssetsDefinition:
        inputs = inspect.signature(compute).parameters
        defined: AssetsDefinition = asset(
            group_name=group,
            partitions_def=model_runs,
            code_version=CODE_VERSION,
            kinds=kinds,
            op_tags={"dagster/priority": "1"} if long else None,
            owners=[OWNER],
            metadata={DOCUMENTATION: MetadataValue.text(PAGES[group]), **(metadata or {})},
            deps=[other for other in deps if other.key.path[-1] not in inputs],
            description=description,
        )(told(repeated(compute)))
        return defined

    return define


OWNER = "team:datacube"
DOCUMENTATION = "documentation"
"""Name of the metadata that leads from an asset to its page."""
PAGES = {
    "dojo": "docs/dojo-to-causemos.md",
    "points": "docs/lake.md",
    "aggregates": "docs/lake.md",
    "datacube": "docs/objects.md",
    "results": "docs/objects.md",
}
"""The page that describes the assets of a group."""


def made_before(context: AssetExecutionContext, lake: Lake, version: str) -> LakeTable | None:
    """The asset's table, current or kept, if it is whole and made from the same input by the same code."""
    if FROM_SCRATCH in context.run.tags:
        return None
    run = ModelRun.from_key(context.partition_key)
    return History(lake, run).table(context.asset_key.path[-1], version)


def table_result(
    table: LakeTable,
    started: float,
    *,
    reused: bool,
    metadata: Mapping[str, Any],
    picture: Mapping[str, Any] | None = None,
) -> MaterializeResult[LakeTable]:
    """A table, with its size, place and origin; `started` is a reading of the monotonic clock."""
    return MaterializeResult(
        value=table,
        # What it was made from, so that Dagster knows which assets are out of date.
        data_version=DataVersion(table.version),
        metadata={
            **(picture or {}),
            "dagster/row_count": table.rows,
            "rows per file": MetadataValue.json(_sizes(table)),
            "bytes": table.bytes,
            "folder in the lake": table.folder,
            "input version": table.version,
            "made before": reused,
            "seconds": round(time.monotonic() - started, 3),
            **metadata,
        },
    )


_LISTED = 100
"""Files of a table that its metadata lists: the event log is no place for thousands."""


def _sizes(table: LakeTable) -> dict[str, int]:
    sizes = {file.name: file.rows for file in table.files[:_LISTED]}
    if len(table.files) > _LISTED:
        sizes[f"({len(table.files) - _LISTED:,} more)"] = sum(file.rows for file in table.files[_LISTED:])
    return sizes


def report_metadata(report: Report) -> dict[str, Any]:
    """A report for the UI: what came in, what was dropped or repaired and why, where and when."""
    metadata: dict[str, Any] = {
        "rows in": report.num_rows,
        "rows out": report.points,
        "rows dropped": report.dropped,
        "share dropped": round(report.dropped / report.num_rows, 6) if report.num_rows else 0.0,
        "drop: no feature": report.missing_features,
        "drop: no number": report.unreadable_values,
        "drop: odd time": report.num_invalid_ts,
        "filled: no time": report.num_missing_ts,
        "emptied: infinite": report.infinite_values,
        "zeroed: no weight": report.missing_weights,
        "kept: no value": report.num_missing_val,
        "unmapped: no place": report.missing_coordinates,
        "unmapped: polar": report.beyond_mercator,
        "wrapped: longitude": report.wrapped_longitudes,
        "kept: odd place": report.impossible_coordinates,
        "rows per feature": dict(report.num_rows_per_feature),
    }
    if report.min_timestamp is not None and report.max_timestamp is not None:
        metadata["first time"] = iso(report.min_timestamp)
        metadata["last time"] = iso(report.max_timestamp)
    if report.bounding_box is not None:
        names = ("west", "south", "east", "north")
        metadata["bounding box"] = dict(zip(names, report.bounding_box, strict=True))
    return metadata


def iso(milliseconds: int) -> str:
    """A time in ms UTC as ISO 8601, years beyond the calendar of Python included."""
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="seconds")


def same_version(*tables: LakeTable) -> str:
    """The version that all tables share. Raises MixedVersionsError, saying what to materialize."""
    versions = {table.version for table in tables}
    if len(versions) > 1:
        names = ", ".join(table.folder.split("/")[-2] for table in tables)
        raise MixedVersionsError(
            f"{names} were made from different inputs: materialize them all, or the whole partition"
        )
    return tables[0].version
