"""Has CauseMos been told?

Reports wait in an outbox until they are delivered (`storage/reports.py`); here somebody can see it.
"""

from collections.abc import Sequence

from datacube_assets.checks.judging.verdict import Verdict
from datacube_assets.storage.reports import Report

NAME = "reports_delivered"


def undelivered(waiting: Sequence[Report]) -> Verdict:
    """What is to be said of the reports that wait; those never tried yet are no fault."""
    stuck = [report for report in waiting if report.attempts]
    oldest = stuck[0] if stuck else None
    return Verdict(
        not stuck,
        f"{len(stuck)} reports could not be delivered: is CauseMos up, and CAUSEMOS_URL right?"
        if stuck
        else "All reports are delivered.",
        {
            "undelivered": len(stuck),
            "partitions": sorted({report.partition for report in stuck}),
            **({"last error": oldest.last_error, "attempts": oldest.attempts} if oldest else {}),
        },
    )
