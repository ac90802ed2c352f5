"""Has CauseMos been told?

Reports wait in an outbox until they are delivered (`storage/reports.py`); here somebody can see it.
"""

from collections.abc import Sequence

from datacube_assets.checks.judging.verdict import Verdict
from datacube_assets.storage.reports import Report

NAME = "reports_delivered"


MOST = 20
"""Reports that are named, at most."""


def undelivered(number: int, stuck: Sequence[Report]) -> Verdict:
    """What is to be said of the reports that were tried in vain, of which the oldest are given."""
    oldest = stuck[0] if stuck else None
    return Verdict(
        not number,
        f"{number:,} reports could not be delivered: is CauseMos up, and CAUSEMOS_URL right?"
        if number
        else "All reports are delivered.",
        {
            "undelivered": number,
            "partitions": sorted({report.partition for report in stuck}),
            **({"last error": oldest.last_error, "attempts": oldest.attempts} if oldest else {}),
        },
    )
