"""Keys of the published objects (docs/objects.md#where-objects-are), built here and nowhere else.

Names from outside enter keys as they are, because the reader builds its keys from the same names. A key is
changed as a whole, and only in two cases. Empty parts vanish, because S3 clients, the reader's too, make one
`/` of several before they ask. What would leave its folder, or cannot be asked for, is percent-encoded: a
part that is `.` or `..`, an empty name, and the character NUL. What objects contain is in `encode.py`.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import InputError, shorten
from datacube_assets.kernels.groups import Mask
from datacube_assets.kernels.key_safety import Keys, as_array, has_control
from datacube_assets.kernels.schema import RegionLevel, Resolution

Texts: TypeAlias = pa.Array

_EMPTY = "%empty"
_DOTS = r"/(\.{1,2})/"
_MAY_SHARE = r"/|\x00|^\.{0,2}$"


def segment(name: str) -> str:
    """The name of a feature, region or value as it enters a key.

    What becomes of the key as a whole is decided when it is joined.
    """
    return _without_nul(name) or _EMPTY


def _without_nul(name: str) -> str:
    return name.replace("\x00", "%00")


def segments(names: Texts) -> Texts:
    """`segment` of each name of a text array."""
    return pa.array([segment(name) for name in names.to_pylist()], pa.string())


def may_share(names: Texts) -> bool:
    """Whether objects with such names may have a key in common, as `a/b` in `c` and `a` in `b/c` have.

    Without a `/` in a name, and without names that are changed, every key is made once.
    """
    return _any(pc.match_substring_regex(names, _MAY_SHARE))


RESERVED = ".datacube~"
"""Folder of a bucket in which leases lie."""


def check_identity(kind: str, name: str) -> None:
    """Refuse a model id or run id that would leave or lose its folder.

    Raises InputError for an empty name, for `.`, `..` and `.datacube~`, and for `/`, `\\` and control
    characters.
    """
    if not name or "/" in name or "\\" in name or has_control(name):
        problem = "must be a plain name"
    elif name in (".", ".."):
        problem = "would leave its folder"
    elif name == RESERVED:
        problem = "is the name of what a bucket keeps for itself"
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
    return _whole(f"raw/{segment(feature)}/raw/raw.csv")


def region_lists(feature: str) -> str:
    return _whole(f"raw/{segment(feature)}/info/region_lists.json")


def qualifier_list(feature: str, qualifier: str) -> str:
    return _whole(f"raw/{segment(feature)}/info/qualifiers/{_without_nul(qualifier)}.json")


def qualifier_counts(feature: str) -> str:
    return _whole(f"raw/{segment(feature)}/info/qualifier_counts.json")


def global_timeseries(resolution: Resolution, feature: str) -> str:
    return _whole(f"{resolution}/{segment(feature)}/timeseries/global/global.csv")


def qualifier_timeseries(resolution: Resolution, feature: str, qualifier: str, column: str) -> str:
    return _whole(
        f"{resolution}/{segment(feature)}/timeseries/qualifiers/{_without_nul(qualifier)}/{column}.csv"
    )


def regional_timeseries(resolution: Resolution, level: RegionLevel, feature: Texts, region: Texts) -> Texts:
    """Keys of the timeseries of many regions, from text arrays of equal length."""
    return _join(f"{resolution}/", feature, f"/regional/{level}/timeseries/default/", region, ".csv")


def regional_qualifier_timeseries(
    resolution: Resolution, level: RegionLevel, feature: Texts, qualifier: str, value: Texts, region: Texts
) -> Texts:
    middle = f"/regional/{level}/timeseries/qualifiers/{_without_nul(qualifier)}/"
    return _join(f"{resolution}/", feature, middle, value, "/", region, ".csv")


def regional_map(
    resolution: Resolution, level: RegionLevel, feature: str, timestamp: int, qualifier: str | None
) -> str:
    last = "default/default" if qualifier is None else f"qualifiers/{_without_nul(qualifier)}"
    return _whole(f"{resolution}/{segment(feature)}/regional/{level}/aggs/{timestamp}/{last}.csv")


def regional_extrema(resolution: Resolution, level: RegionLevel, feature: str) -> str:
    return _whole(f"{resolution}/{segment(feature)}/regional/{level}/stats/default/extrema.json")


def grid_stats(resolution: Resolution, feature: str, timestamp: int) -> str:
    return _whole(f"{resolution}/{segment(feature)}/stats/grid/{timestamp}.csv")


def tiles(resolution: Resolution, zoom: int, feature: Texts, timestamp: Texts, x: Texts, y: Texts) -> Texts:
    """Keys of many tiles of one zoom, from text arrays of equal length."""
    return _join(f"{resolution}/", feature, "/tiles/", timestamp, f"-{zoom}-", x, "-", y, ".tile")


RESULTS = "results/results.json"

_GOES_ON = r"\.(csv|json|tile)/"
_OBJECT = (
    r"/(raw/raw\.csv|info/(region_lists|qualifier_counts)\.json|info/qualifiers/.*\.json"
    r"|timeseries/global/global\.csv|timeseries/(qualifiers|default)/.*\.csv"
    r"|aggs/-?[0-9]+/(default/default|qualifiers/.*)\.csv"
    r"|stats/default/extrema\.json|stats/grid/-?[0-9]+\.csv|tiles/[0-9-]+\.tile)/"
)


def go_on_from_objects(keys: Keys) -> Mask:
    """Which keys go on where the key of another object may end, as `.../default/A.csv/B.csv` does.

    Shape (keys,). Only names with a `/` make such keys. Where objects are files, nothing can lie below one.
    """
    texts = as_array(keys)
    if not _any(pc.match_substring_regex(texts, _GOES_ON)):
        return np.zeros(len(texts), np.bool_)
    found: Mask = pc.match_substring_regex(texts, _OBJECT).to_numpy(zero_copy_only=False)
    return found


def _join(*parts: str | Texts) -> Texts:
    scalars = (pa.scalar(part) if isinstance(part, str) else part for part in parts)
    joined = pc.binary_join_element_wise(*scalars, "")
    if _any(pc.match_substring(joined, "//")):
        joined = pc.replace_substring_regex(joined, "//+", "/")
    if _any(pc.match_substring(joined, "/.")) and _any(pc.match_substring_regex(joined, _DOTS)):
        if isinstance(joined, pa.Scalar):
            return pa.scalar(_undotted(joined.as_py()))
        joined = pa.array([_undotted(key) for key in joined.to_pylist()], pa.string())
    return joined


def _any(mask: Any) -> bool:
    return bool(mask.as_py() if isinstance(mask, pa.Scalar) else pc.any(mask).as_py())


def _whole(key: str) -> str:
    """A key as it is asked for, none of whose parts leaves the folder."""
    return _undotted(re.sub("//+", "/", key))


def _undotted(key: str) -> str:
    parts = (part.replace(".", "%2E") if part in (".", "..") else part for part in key.split("/"))
    return "/".join(parts)
