"""Between degrees and the web-mercator grid: which subtile a place is in, and where a subtile lies.

Subtiles and their numbers are in `morton.py`. Work on many points goes in blocks that stay in a core's
cache: the arrays between two steps would otherwise cost more than the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from datacube_assets.kernels.groups import Floats, Ints, Mask
from datacube_assets.kernels.morton import MAX_PRECISION, Quadkeys, spread_table

MERCATOR_LIMIT = 85.0511287798066
"""Latitude in degrees where web-mercator ends: atan(sinh(pi))."""

BLOCK_POINTS = 1 << 14
"""Points binned at once."""


def wrap_longitude(lng: Floats) -> Floats:
    """Longitudes in [-180, 180); those already inside, and infinite ones, stay bit by bit."""
    outside = ((lng < -180) | (lng >= 180)) & np.isfinite(lng)
    if not outside.any():
        return lng
    turned = np.where(outside, lng, 0.0)
    # A number of 350 has fewer digits than one of -10: without those that it lacks, both are one place.
    wrapped = np.round(np.mod(turned + 180, 360) - 180, 11)
    # The remainder of a number just below zero rounds up to the divisor.
    return np.where(outside, np.where(wrapped >= 180, -180.0, wrapped), lng)


def on_map(lat: Floats, lng: Floats) -> Mask:
    """Which points have a place on the map: both coordinates finite, latitude within the limit."""
    on: Mask = np.isfinite(lng) & (np.abs(lat) < MERCATOR_LIMIT)
    return on


def quadkeys(lat: Floats, lng: Floats, precision: int = MAX_PRECISION) -> Quadkeys:
    """Quadkey of points in degrees, which must be `on_map` (the formula of slippy maps)."""
    codes = np.empty(len(lat), np.uint32)
    rows_of_latitude = _LatitudeRows.table()
    spread = spread_table()
    size = min(BLOCK_POINTS, len(lat))
    numbers, whole = np.empty(size), np.empty(size, np.int64)
    for start in range(0, len(lat), BLOCK_POINTS):
        block = slice(start, start + BLOCK_POINTS)
        out = codes[block]
        x, index = numbers[: len(out)], whole[: len(out)]
        np.take(spread, rows_of_latitude(lat[block], x, index), out=out, mode="clip")
        np.left_shift(out, np.uint32(1), out=out)
        turned = lng[block]
        if turned.min() < -180 or turned.max() >= 180:
            turned = wrap_longitude(turned)
        np.add(turned, 180.0, out=x)
        # Dividing by a power of two is exact: this is (lng + 180) / 360 * 2**14.
        np.divide(x, 360.0 / 2**MAX_PRECISION, out=x)
        np.copyto(index, x, casting="unsafe")
        # Rounding may carry a point at the very edge one subtile too far, hence "clip".
        np.bitwise_or(out, spread.take(index, mode="clip"), out=out)
    return codes if precision == MAX_PRECISION else codes >> np.uint32(2 * (MAX_PRECISION - precision))


def mercator_rows(lat: Floats) -> Ints:
    """Row of subtiles of precision 14, from the north, by the formula of slippy maps."""
    y = (1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * 2**MAX_PRECISION
    # Rounding may carry a point at the very edge one subtile too far.
    rows: Ints = np.clip(y.astype(np.int64), 0, 2**MAX_PRECISION - 1)
    return rows


@dataclass(frozen=True)
class _LatitudeRows:
    """`mercator_rows` by lookup: several times faster where the processor has no vector tangent.

    The map is cut into strips of equal height in degrees, so low that each meets at most one edge between
    rows. A latitude's strip tells the edge, and the side of the edge the row. The formula decides only
    where a latitude is so near an edge that rounding matters; so its rows and these are the same ones.
    """

    northern: npt.NDArray[np.uint16]
    """Row at the northern end of each strip; the row at its southern end is this or the next."""
    edges: Floats
    """Latitude of the edge between each row and the next."""

    STRIPS = 1 << 17
    SOUTH, DEGREES = -86.0, 172.0
    NEAR_EDGE = 1e-9
    """Degrees. The formula is right to about 1e-12, and the strip of a latitude to 1e-13."""

    @classmethod
    @cache
    def table(cls) -> _LatitudeRows:
        rows = 2**MAX_PRECISION
        edges = north_edges(np.arange(1, rows + 1), MAX_PRECISION)
        # A little further north than the strip ends, so that a latitude rounded into it is of its rows.
        ends = cls.SOUTH + np.arange(1, cls.STRIPS + 1) * (cls.DEGREES / cls.STRIPS) + cls.NEAR_EDGE
        northern = np.searchsorted(-edges, -ends, side="left")
        return cls(np.minimum(northern, rows - 1).astype(np.uint16), edges)

    def __call__(self, lat: Floats, numbers: Floats, index: Ints) -> Ints:
        """Rows of some latitudes, which are within the limit, in `index`; `numbers` is room to work in."""
        np.subtract(lat, self.SOUTH, out=numbers)
        np.multiply(numbers, self.STRIPS / self.DEGREES, out=numbers)
        np.copyto(index, numbers, casting="unsafe")
        np.copyto(index, self.northern.take(index, mode="clip"))
        np.take(self.edges, index, out=numbers, mode="clip")
        np.subtract(numbers, lat, out=numbers)
        np.add(index, numbers >= 0, out=index, casting="unsafe")
        np.abs(numbers, out=numbers)
        if numbers.min() < self.NEAR_EDGE:
            near = np.flatnonzero(numbers < self.NEAR_EDGE)
            index[near] = mercator_rows(lat[near])
        return index


def west_edges(x: npt.NDArray[np.integer], precision: int) -> Floats:
    """Longitude in degrees of the western edges of columns of subtiles; column x + 1 has the eastern one."""
    edges: Floats = x * (360.0 / 2**precision) - 180.0
    return edges


def north_edges(y: npt.NDArray[np.integer], precision: int) -> Floats:
    """Latitude in degrees of the northern edges of rows of subtiles; row y + 1 has the southern one."""
    edges: Floats = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y.astype(np.float64) / 2**precision))))
    return edges
