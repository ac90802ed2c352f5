"""Which regions the places of a bin belong to.

Published objects give regions no shape, so the rows tell: those of the lake where it is there, else those
of raw.csv; of a version that keeps its tables, these. CauseMos' own reader knows nothing of this; it only
ever gets ids of regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datacube_assets.kernels.groups import Mask
from datacube_assets.kernels.morton import BIN_BITS, interleave
from datacube_assets.kernels.projection import on_map, quadkeys
from datacube_assets.kernels.regions import Regions
from datacube_assets.kernels.schema import (
    COORDINATES,
    MISSING,
    TEXT,
    RegionLevel,
    has_coordinates,
    region_levels,
)
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError, StoreError

_TABLE = "temporal_cells"
_SHORTEST = ("all-", "year-")
"""Files of the table that name every place, those with the fewest rows first."""
_BATCH_ROWS = 1 << 17


class UnknownPlacesError(LookupError):
    """Neither the lake nor raw.csv tells the places of a feature."""


def regions_in(
    places: Iterable[pa.Table], zoom: int, x: int, y: int, bin_: int
) -> list[dict[RegionLevel, str]]:
    """Region ids by level of each region that has a place in a bin, sorted."""
    wanted = quadkey_of(x, y, bin_)
    found: dict[tuple[str, ...], dict[RegionLevel, str]] = {}
    for rows in places:
        levels = region_levels(rows.column_names)
        inside = rows.filter(pa.array(_in_bin(rows, zoom, wanted)))
        if not levels or not inside.num_rows:
            continue
        regions = Regions.of(inside.select(levels), levels)
        ids = {level: regions.ids(level).to_pylist() for level in levels}
        for one in zip(*ids.values(), strict=True):
            found[one] = dict(zip(levels, one, strict=True))
    return [found[one] for one in sorted(found)]


def middles_of(places: Iterable[pa.Table], level: RegionLevel) -> dict[str, tuple[float, float]]:
    """Latitude and longitude of the middle of each region's places, by region id, sorted.

    Every row counts once: where a region has most of its data, there it is shown.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for rows in places:
        levels = region_levels(rows.column_names)
        lat, lng = (rows[name].to_numpy().astype(np.float64) for name in COORDINATES)
        placed = on_map(lat, lng)
        if level not in levels or not placed.any():
            continue
        regions = Regions.of(rows.select(levels), levels)
        ids = regions.level(level).take(regions.tuples.codes)
        # As directions from the middle of the earth: 179 and -179 degrees are neighbours.
        phi, theta = np.radians(lat), np.radians(lng)
        directions = (np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi))
        names = ids.values.to_pylist()
        totals = [
            np.bincount(ids.codes[placed], weights=one[placed], minlength=len(names)) for one in directions
        ]
        for name, total in zip(names, np.stack(totals, axis=1), strict=True):
            if total.any():
                sums[name] = sums.get(name, 0.0) + total
    return {
        name: (
            math.degrees(math.atan2(z, math.hypot(x, y))),
            math.degrees(math.atan2(y, x)),
        )
        for name, (x, y, z) in sorted(sums.items())
    }


def quadkey_of(x: int, y: int, bin_: int) -> int:
    """Quadkey of a tile's bin among the subtiles of its precision."""
    column = x << BIN_BITS | bin_ & ((1 << BIN_BITS) - 1)
    row = y << BIN_BITS | bin_ >> BIN_BITS
    return int(interleave(np.array([column], np.uint32), np.array([row], np.uint32))[0])


def _in_bin(rows: pa.Table, zoom: int, wanted: int) -> Mask:
    lat, lng = (rows[name].to_numpy().astype(np.float64) for name in COORDINATES)
    inside = on_map(lat, lng)
    placed = np.flatnonzero(inside)
    inside[placed] = quadkeys(lat[placed], lng[placed], zoom + BIN_BITS) == wanted
    return inside


def rows_published(lake: Lake, published: Published, feature: str) -> Iterator[pa.Table]:
    """Coordinates and region names of a feature's rows in what is published, some at a time.

    Raises UnknownPlacesError.
    """
    try:
        table = History(lake, published.run).published_table(_TABLE)
        known = any(table.names(prefix) for prefix in _SHORTEST)
    except (MissingTableError, StoreError):
        known = False
    yield from rows_of_table(lake, table, feature) if known else _raw_rows(published, feature)


def rows_of_table(lake: Lake, table: LakeTable, feature: str) -> Iterator[pa.Table]:
    """The same of a table of temporal cells. Raises UnknownPlacesError."""
    names = next(filter(None, map(table.names, _SHORTEST)), [])
    if not names:
        raise UnknownPlacesError(feature)
    for name in names:
        with pq.ParquetFile(lake.open_file(table, name)) as file:
            there = file.schema_arrow.names
            if not has_coordinates(there):
                return
            columns = ["feature", *region_levels(there), *COORDINATES]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                rows = pa.Table.from_batches([batch])
                yield rows.filter(pc.equal(rows["feature"].cast(pa.string()), feature)).drop_columns(
                    "feature"
                )


def _raw_rows(published: Published, feature: str) -> Iterator[pa.Table]:
    try:
        rows = published.raw(feature)
    except MissingObjectError:
        raise UnknownPlacesError(feature) from None
    # A column may be in the file and yet hold no name; then the datacube does not have the level.
    kept = published.results()["data_info"]["region_levels"]
    levels = region_levels(name for name in rows.column_names if name in kept)
    if not has_coordinates(rows.column_names):
        return
    for level in levels:
        # As the pipeline cleans names; an empty cell was a missing one.
        filled = pc.if_else(pc.equal(rows[level], ""), MISSING, pc.replace_substring(rows[level], "//", ""))
        rows = rows.set_column(rows.column_names.index(level), level, filled.cast(TEXT))
    yield rows.select([*levels, *COORDINATES])
