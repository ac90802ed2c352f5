"""Does a version look like the one that it replaces? Judged from what changed between them.

How versions are compared is in `kernels/changes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datacube_assets.check_limits import Limits
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict


def regions_stay(changes: Mapping[str, Any], limits: Limits, *, since_back: int | None = None) -> Verdict:
    """Whether few enough regions of each feature and level moved much, or went.

    What somebody went back to on purpose is other than what it replaces: it passes.
    """
    shares = {
        f"{one['feature']}, {one['level']}": one["moved"] / one["regions"] for one in changes["moved_most"]
    }
    over = {name: share for name, share in shares.items() if share > limits.max_moved_share}
    by = f"by more than {changes['limit']:.0%} of what they were"
    figures = {
        "share of regions that moved": {name: round(share, 6) for name, share in shares.items()},
        "moved by more than": changes["limit"],
        "allowed share": limits.max_moved_share,
        "figures changed": changes["figures"]["changed"],
    }
    if not over:
        return Verdict(True, f"Few regions, or none, moved {by}, or went.", figures)
    told = "; ".join(f"{share:.0%} of {name}" for name, share in list(over.items())[:EXAMPLES])
    if since_back:
        return Verdict(True, f"Somebody went back to version {since_back}: {told} moved {by}.", figures)
    return Verdict(
        False,
        f"Of these regions, so many moved {by}, or went: {told}. The metadata of pipeline_results say what "
        "changed; `datacube rollback` brings the version before back",
        figures,
    )
