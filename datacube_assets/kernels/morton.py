"""Subtiles by number: Morton codes, or quadkeys, of the bins of map tiles.

A *subtile* is a bin of a tile: subtiles of precision p are the bins of tiles of zoom p - 6, 64 by 64. A
subtile's quadkey is its Morton code, x in the even bits and y in the odd ones, so the parent is
`code >> 2` and the tile `code >> 12`, and a sorted table needs no further sort for any level above.
Which subtile a place is in is in `projection.py`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

MAX_PRECISION = 14
BIN_BITS = 6
"""Tiles are 2**6 = 64 bins wide."""
PRECISIONS = tuple(range(BIN_BITS, MAX_PRECISION + 1))
"""Subtile precisions 6..14; the zoom of their tiles is 0..8."""
ZOOMS = range(len(PRECISIONS))
"""Zooms of tiles, 0..8."""
BINS_PER_TILE = 4**BIN_BITS

Quadkeys = npt.NDArray[np.uint32]

_SPREAD = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))


def check_tile(zoom: int, x: int = 0, y: int = 0) -> None:
    """Raises ValueError for a zoom, column or row that no map has."""
    if zoom not in ZOOMS:
        raise ValueError(f"zoom {zoom}: give 0 to {ZOOMS[-1]}")
    for name, number in (("x", x), ("y", y)):
        if not 0 <= number < 1 << zoom:
            raise ValueError(f"{name} {number} at zoom {zoom}: give 0 to {(1 << zoom) - 1}")


def interleave(x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32]) -> Quadkeys:
    """Morton code of coordinates of up to 16 bits."""
    return _spread(x) | (_spread(y) << np.uint32(1))


def deinterleave(code: Quadkeys) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Coordinates x and y of Morton codes."""
    return _gather(code), _gather(code >> np.uint32(1))


def _spread(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    for shift, mask in _SPREAD:
        values = (values | (values << np.uint32(shift))) & np.uint32(mask)
    return values


def _gather(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    values = values & np.uint32(0x55555555)
    for shift, mask in ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)):
        values = (values | (values >> np.uint32(shift))) & np.uint32(mask)
    return values


@cache
def spread_table() -> Quadkeys:
    """Spread bits of every coordinate of precision 14."""
    return _spread(np.arange(2**MAX_PRECISION, dtype=np.uint32))


@cache
def bin_table() -> npt.NDArray[np.uint32]:
    """Index of the bin, row-major from the north-west corner, of each quadkey inside a tile."""
    x, y = deinterleave(np.arange(BINS_PER_TILE, dtype=np.uint32))
    return (y << np.uint32(BIN_BITS)) | x
