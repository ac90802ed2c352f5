"""Checks on the points: do they look like what they claim to be?

A check warns; what cannot be processed at all is an error of `datacube/normalize.py`.
"""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, asset_check

from datacube_assets.assets.partitions import model_runs
from datacube_assets.assets.points import normalized_points
from datacube_assets.assets.tables import iso
from datacube_assets.datacube.normalize import Report
from datacube_assets.storage.lake import LakeTable
from datacube_assets.storage.run_info import RunInfo

LAST_SECOND = 4_102_444_800
"""1 January 2100 in seconds UTC; as milliseconds it is 17 February 1970."""


@asset_check(
    asset=normalized_points,
    partitions_def=model_runs,
    description="Times do not look like seconds that were taken for milliseconds (all in early 1970).",
)
def timestamps_are_milliseconds(
    context: AssetCheckExecutionContext, normalized_points: LakeTable
) -> AssetCheckResult:
    info = RunInfo.of(normalized_points)
    return seconds_taken_for_milliseconds(info.report, unit=info.request.timestamp_unit)


def seconds_taken_for_milliseconds(report: Report, *, unit: str) -> AssetCheckResult:
    """Result for the time range of a run (DESIGN 5, 13)."""
    first, last = report.min_timestamp or 0, report.max_timestamp or 0
    suspicious = unit == "ms" and first >= 0 and 0 < last <= LAST_SECOND
    return AssetCheckResult(
        passed=not suspicious,
        severity=AssetCheckSeverity.WARN,
        description=f"All times are between {iso(first)} and {iso(last)}, as when seconds are taken for "
        "milliseconds: if so, publish again with --timestamp-unit s"
        if suspicious
        else "The times look like milliseconds.",
        metadata={"first time": iso(first), "last time": iso(last)},
    )
