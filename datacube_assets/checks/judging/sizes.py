"""Does a datacube have so many objects that nobody can want it?

How many there will be is counted in `kernels/estimate.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from datacube_assets.checks.judging.verdict import Verdict
from datacube_assets.kernels.estimate import Estimate, total

_REMEDIES = {
    "spatial_tiles": "round the coordinates, or leave out the output task compute_tiles",
    "regional_timeseries": "leave out levels of regions, qualifiers with many values from the qualifier map, "
    "or the output task compute_regional_timeseries",
    "regional_maps": "leave out qualifiers from the qualifier map, or the output task "
    "compute_regional_aggregation",
}
"""What makes an asset smaller."""


def within_limit(estimates: Mapping[str, Estimate], limit: int) -> Verdict:
    """Whether the objects of all assets are within the limit."""
    whole = total(estimates.values())
    by_asset = {name: {"objects": one.objects, "bytes": one.bytes} for name, one in estimates.items()}
    figures = {"objects": whole.objects, "bytes, about": whole.bytes, "by asset": by_asset, "limit": limit}
    if whole.objects <= limit:
        says = f"{whole.objects:,} objects of about {size_text(whole.bytes)} will be published."
        return Verdict(True, says, figures)
    most = max(estimates, key=lambda name: estimates[name].objects)
    remedy = _REMEDIES.get(most, "publish fewer features in a run")
    return Verdict(
        False,
        f"It would have {whole.objects:,} objects of about {size_text(whole.bytes)}, and {limit:,} are "
        f"allowed; {estimates[most].objects:,} of them are of {most}. To make them fewer, {remedy}; every "
        "feature and every month has objects of its own. Or raise DATACUBE_MAX_OBJECTS",
        figures,
    )


def size_text(count: int) -> str:
    """A number of bytes as a person reads it: `1.2 MB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
