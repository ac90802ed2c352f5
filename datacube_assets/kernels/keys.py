"""Keys of the published objects (docs/objects.md#where-objects-are), built here and nowhere else.

Names from outside enter keys as they are, because the reader builds its keys from the same names;
`segment` is the one rule that keeps them from leaving their folder. What the objects contain is in
`encode.py`.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import InputError, shorten
from datacube_assets.kernels.schema import RegionLevel, Resolution

Texts: TypeAlias = pa.Array

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED = re.compile(r"[\x00-\x1f\x7f%]")
_NEEDS_CARE = re.compile(r"[\x00-\x1f\x7f]|^$|^\.{1,2}$|(^|/)\.{0,2}/|/\.{0,2}$")


def segment(name: str) -> str:
    """A name as it stands in a key.

    Unchanged, a `/` included (which nests the key), except that it can neither climb nor vanish:
    control characters, the dots of a part that is `.` or `..`, and a `/` that would leave an empty part
    are percent-encoded, and with them a `%` of the same name; an empty name is `%empty`. No two such
    names get the same key. The readers cannot ask for them anyway
    (docs/specification/reader.md#names-in-keys).
    """
    if not _NEEDS_CARE.search(name):
        return name
    safe = _ENCODED.sub(lambda match: f"%{ord(match[0]):02X}", name)
    parts: list[str] = []
    for part in safe.split("/"):
        if parts and (part == "" or parts[-1] == ""):
            parts[-1] += f"%2F{part}"
        else:
            parts.append(part)
    dotted = (part.replace(".", "%2E") if part in (".", "..") else part for part in parts)
    return "/".join(dotted) or "%empty"


def segments(names: Texts) -> Texts:
    """`segment` of each name of a text array."""
    return pa.array([segment(name) for name in names.to_pylist()], pa.string())


def check_identity(kind: str, name: str) -> None:
    """Refuse a model id or run id that would leave or lose its folder.

    Raises InputError for an empty name, for `.` and `..`, and for `/`, `\\` and control characters.
    """
    if not name or "/" in name or "\\" in name or _CONTROL.search(name):
        problem = "must be a plain name"
    elif name in (".", ".."):
        problem = "would leave its folder"
    else:
        return
    raise InputError(
        f"the {kind} {shorten(name)} {problem}",
        remedy=f"Give a {kind} that is not empty, without `/`, `\\`, control characters or a part that is "
        "`.` or `..`",
    )


def check_feature(name: str) -> None:
    """Refuse a feature that would leave its folder. Raises InputError for `.` and `..` as a part."""
    if any(part in (".", "..") for part in name.split("/")):
        raise InputError(
            f"the feature {shorten(name)} would leave its folder",
            column="feature",
            remedy="Give a feature of which no part between `/` is `.` or `..`",
        )


def run_prefix(model_id: str, run_id: str) -> str:
    """Prefix of all objects of a model run, with its final `/`."""
    return f"{model_id}/{run_id}/"


def raw(feature: str) -> str:
    return f"raw/{segment(feature)}/raw/raw.csv"


def region_lists(feature: str) -> str:
    return f"raw/{segment(feature)}/info/region_lists.json"


def qualifier_list(feature: str, qualifier: str) -> str:
    return f"raw/{segment(feature)}/info/qualifiers/{segment(qualifier)}.json"


def qualifier_counts(feature: str) -> str:
    return f"raw/{segment(feature)}/info/qualifier_counts.json"


def global_timeseries(resolution: Resolution, feature: str) -> str:
    return f"{resolution}/{segment(feature)}/timeseries/global/global.csv"


def qualifier_timeseries(resolution: Resolution, feature: str, qualifier: str, column: str) -> str:
    return f"{resolution}/{segment(feature)}/timeseries/qualifiers/{segment(qualifier)}/{column}.csv"


def regional_timeseries(resolution: Resolution, level: RegionLevel, feature: Texts, region: Texts) -> Texts:
    """Keys of the timeseries of many regions, from text arrays of equal length."""
    return _join(f"{resolution}/", feature, f"/regional/{level}/timeseries/default/", region, ".csv")


def regional_qualifier_timeseries(
    resolution: Resolution, level: RegionLevel, feature: Texts, qualifier: str, value: Texts, region: Texts
) -> Texts:
    middle = f"/regional/{level}/timeseries/qualifiers/{segment(qualifier)}/"
    return _join(f"{resolution}/", feature, middle, value, "/", region, ".csv")


def regional_map(
    resolution: Resolution, level: RegionLevel, feature: str, timestamp: int, qualifier: str | None
) -> str:
    last = "default/default" if qualifier is None else f"qualifiers/{segment(qualifier)}"
    return f"{resolution}/{segment(feature)}/regional/{level}/aggs/{timestamp}/{last}.csv"


def regional_extrema(resolution: Resolution, level: RegionLevel, feature: str) -> str:
    return f"{resolution}/{segment(feature)}/regional/{level}/stats/default/extrema.json"


def grid_stats(resolution: Resolution, feature: str, timestamp: int) -> str:
    return f"{resolution}/{segment(feature)}/stats/grid/{timestamp}.csv"


def tiles(resolution: Resolution, zoom: int, feature: Texts, timestamp: Texts, x: Texts, y: Texts) -> Texts:
    """Keys of many tiles of one zoom, from text arrays of equal length."""
    return _join(f"{resolution}/", feature, "/tiles/", timestamp, f"-{zoom}-", x, "-", y, ".tile")


RESULTS = "results/results.json"


def _join(*parts: str | Texts) -> Texts:
    scalars = (pa.scalar(part) if isinstance(part, str) else part for part in parts)
    return pc.binary_join_element_wise(*scalars, "")
