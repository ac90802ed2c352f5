"""Check on the results: has CauseMos been told?

Reports wait in an outbox until they are delivered (`storage/reports.py`); here somebody can see it.
"""

from collections.abc import Sequence

from dagster import AssetCheckResult, AssetCheckSeverity, asset_check

from datacube_assets.assets.results import pipeline_results
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.reports import Outbox, Report

NAME = "reports_delivered"


@asset_check(
    asset=pipeline_results,
    name=NAME,
    description="No report to CauseMos waits because an attempt to deliver it failed.",
)
def reports_delivered(lake: LakeResource) -> AssetCheckResult:
    return undelivered(Outbox(lake.open()).waiting())


def undelivered(waiting: Sequence[Report]) -> AssetCheckResult:
    """Result of the check for the reports that wait; those never tried yet are no fault."""
    stuck = [report for report in waiting if report.attempts]
    oldest = stuck[0] if stuck else None
    return AssetCheckResult(
        asset_key=pipeline_results.key,
        check_name=NAME,
        passed=not stuck,
        severity=AssetCheckSeverity.WARN,
        description=f"{len(stuck)} reports could not be delivered: is CauseMos up, and CAUSEMOS_URL right?"
        if stuck
        else "All reports are delivered.",
        metadata={
            "undelivered": len(stuck),
            "partitions": sorted({report.partition for report in stuck}),
            **({"last error": oldest.last_error, "attempts": oldest.attempts} if oldest else {}),
        },
    )
