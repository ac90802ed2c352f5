"""Checks on the points: do they look like what they claim to be?

A check warns; what cannot be processed at all is an error of `datacube/normalize.py`.
"""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, asset_check

from datacube_assets.assets.points import normalized_points
from datacube_assets.datacube.normalize import Report
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.run_info import RunInfo

LAST_SECOND = 4_102_444_800
"""1 January 2100 in seconds UTC; as milliseconds it is 17 February 1970."""


@asset_check(
    asset=normalized_points,
    description="Times do not look like seconds that were taken for milliseconds (all in early 1970).",
)
def timestamps_are_milliseconds(context: AssetCheckExecutionContext, lake: LakeResource) -> AssetCheckResult:
    # Checks of partitions are a preview in Dagster; the run knows its partition all the same.
    run = ModelRun.from_key(context.run.tags["dagster/partition"])
    info = RunInfo.of(lake.open().table(run, normalized_points.key.path[-1]))
    return seconds_taken_for_milliseconds(info.report, unit=info.request.timestamp_unit)


def seconds_taken_for_milliseconds(report: Report, *, unit: str) -> AssetCheckResult:
    """Result for the time range of a run (DESIGN 5, 13); `unit` is what the request says of numbers."""
    first, last = report.min_timestamp or 0, report.max_timestamp or 0
    suspicious = unit == "ms" and first >= 0 and 0 < last <= LAST_SECOND
    return AssetCheckResult(
        passed=not suspicious,
        severity=AssetCheckSeverity.WARN,
        description="All times are in early 1970, as when seconds are taken for milliseconds: if so, publish "
        "again with --timestamp-unit s"
        if suspicious
        else "The times look like milliseconds.",
        metadata={"first time (ms UTC)": first, "last time (ms UTC)": last},
    )
