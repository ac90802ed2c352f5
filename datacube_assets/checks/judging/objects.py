"""Are the published objects those that are recorded, and do they say what the tables say?

What is judged are listings and bodies that somebody else fetched. What is published, and recorded, is
decided in `storage/publishing.py`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict
from datacube_assets.kernels.decode import read_tile
from datacube_assets.kernels.groups import Floats, Ints, Mask, encode_text, slices
from datacube_assets.kernels.schema import Layout
from datacube_assets.kernels.spatial import published


@dataclass(frozen=True)
class Found:
    """The objects of a datacube that are in the bucket, beside what manifests record."""

    recorded: Mapping[str, int]
    """Objects by asset."""
    missing: Sequence[str] = ()
    altered: Sequence[str] = ()
    """Of another size or checksum."""
    stray: Sequence[str] = ()
    """That no manifest records."""
    compared: int = 0
    """Objects whose checksum was compared."""
    sampled: bool = False
    """Whether only these were looked at."""


def as_recorded(found: Found) -> Verdict:
    """Whether exactly the recorded objects are there, as they were written."""
    faults = {
        "are missing": found.missing,
        "are not as they were written": found.altered,
        "are recorded nowhere": found.stray,
    }
    told = [f"{len(keys):,} {what}" for what, keys in faults.items() if keys]
    only_stray = not found.missing and not found.altered
    remedy = (
        "Delete them, if they are left over from something else"
        if only_stray
        else "Publish from scratch (docs/checks.md), and find out what changed the bucket"
    )
    recorded = sum(found.recorded.values())
    return Verdict(
        not told,
        f"Of the objects {', '.join(told)}. {remedy}"
        if told
        else f"{found.compared:,} of {recorded:,} recorded objects were looked at: as they were written."
        if found.sampled
        else f"All objects that are recorded ({recorded:,}) are there as they were written, and no others.",
        {
            "objects recorded": dict(found.recorded),
            "checksums compared": found.compared,
            **{f"objects that {what}": len(keys) for what, keys in faults.items()},
            "examples": {what: sorted(keys)[:EXAMPLES] for what, keys in faults.items() if keys},
        },
        only_warns=only_stray,
    )


@dataclass(frozen=True)
class Looked:
    """A listing beside records; masks are of the records."""

    missing: Mask
    """Not listed."""
    altered: Mask
    """Listed with another size."""
    suspect: Mask
    """Listed with another checksum, which may be no checksum: reading the object tells."""
    unread: Mask
    """Listed without a checksum: only reading the object would tell."""
    stray: Sequence[str]
    """Keys that are listed and not recorded."""

    @property
    def told(self) -> Mask:
        """Of which the listing tells enough."""
        return ~(self.missing | self.suspect | self.unread)


def look(recorded: pa.Table, listed: pa.Table) -> Looked:
    """Compare records (key, size, checksum) with a listing, in which sizes and checksums may be null.

    A store may give another tag to its objects than their MD5, as S3 does where it encrypts with keys of
    its own: where not one of many is right, although sizes are, they say nothing. Where some are right, the
    others may have been written since it encrypts.
    """
    keys = listed["key"].combine_chunks()
    at = pc.index_in(recorded["key"], keys)
    sizes, checksums = (listed[name].take(at) for name in ("size", "checksum"))
    altered = _true(pc.not_equal(sizes, recorded["size"]))
    told = _true(pc.is_valid(checksums))
    other = _true(pc.not_equal(checksums, recorded["checksum"]))
    if np.count_nonzero(told) > _SURELY and other[told].all() and not altered[told].any():
        told[:] = other[:] = False
    suspect = other & ~altered
    missing = _true(pc.is_null(at))
    known = np.zeros(listed.num_rows, np.bool_)
    known[at.drop_null().to_numpy()] = True
    unread = ~missing & ~told & ~altered
    return Looked(missing, altered, suspect, unread, keys.filter(pa.array(~known)).to_pylist())


_SURELY = 3
"""Objects that cannot all have been altered, so that it must be the store."""


def _true(mask: Any) -> Mask:
    if isinstance(mask, pa.ChunkedArray):
        mask = mask.combine_chunks()
    return np.array(pc.fill_null(mask, False).to_numpy(zero_copy_only=False), np.bool_)


# --- extrema ---------------------------------------------------------------------------------------

_Place = tuple[str, int]
"""A region and a time."""


@dataclass(frozen=True)
class Extreme:
    """The smallest or largest figure of a feature, and where it is."""

    value: float
    places: frozenset[_Place]


def table_extrema(table: pa.Table, layout: Layout) -> dict[str, dict[str, Extreme]]:
    """The extremes of each feature of a table of regions, by `min figure` or `max figure`.

    Without the features of which some figure exists nowhere: nothing is published of these.
    """
    feature = encode_text(table["feature"])
    figures = {name: values for name, values in published(table, layout).items() if name != "s_count"}
    found: dict[str, dict[str, Extreme]] = {}
    for start, end in itertools.pairwise(slices(feature.codes).tolist()):
        extremes: dict[str, Extreme] = {}
        for name, values in figures.items():
            here = cast(Floats, values[start:end])
            if np.isnan(here).all():
                break
            for side, value in (("min", np.nanmin(here)), ("max", np.nanmax(here))):
                rows = pa.array(np.flatnonzero(here == value) + start)
                places = (table[key].take(rows).to_pylist() for key in ("region_id", "timestamp"))
                extremes[f"{side} {name}"] = Extreme(float(value), frozenset(zip(*places, strict=True)))
        else:
            found[feature.values[int(feature.codes[start])].as_py()] = extremes
    return found


def same_extrema(body: bytes, wanted: Mapping[str, Extreme]) -> str:
    """What an extrema.json says other than the table; empty when it says the same."""
    try:
        document = json.loads(body)
        listed = {
            f"{side} {name}": [(item["region_id"], item["timestamp"], item["value"]) for item in items]
            for side in ("min", "max")
            for name, items in document[side].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return "it is no list of extrema"
    for name, extreme in wanted.items():
        items = listed.get(name, [])
        if not items:
            return f"{name} is missing"
        if any(value != extreme.value for _, _, value in items):
            return f"{name} is {items[0][2]}, in the table {extreme.value}"
        if any((region, time) not in extreme.places for region, time, _ in items):
            return f"{name} is at other places in the table"
    return ""


# --- tiles -----------------------------------------------------------------------------------------


def bins_of_tile(body: bytes) -> tuple[float, float, float]:
    """What the bins of a tile add up to: s_sum_t_sum, s_sum_t_mean and weight. Raises ValueError."""
    tile = read_tile(body)
    return float(tile.s_sum_t_sum.sum()), float(tile.s_sum_t_mean.sum()), float(tile.s_count.sum())


def zooms(keys: pa.ChunkedArray | pa.Array) -> Ints:
    """The zoom of each tile, from its key."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    # FEATURE/tiles/TIME-ZOOM-X-Y.tile
    parts = pc.list_element(pc.split_pattern(keys, "-", max_splits=3, reverse=True), 1)
    found: Ints = parts.cast(pa.int64()).to_numpy()
    return found
