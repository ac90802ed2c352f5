"""The levels of a map above its cells of the deepest precision.

Each level is a linear scan of the one below. The cells are made in `grid.py`, how tiles are written is in
`encode.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import Floats, Ints, Mask, column
from datacube_assets.kernels.morton import (
    BIN_BITS,
    BINS_PER_TILE,
    MAX_PRECISION,
    Quadkeys,
    bin_table,
    interleave,
)
from datacube_assets.kernels.runs import Rows, Runs, bucket_starts

PIECE_CELLS = 1 << 16
"""Cells of a piece of the pyramid, where subtiles of precision 6 allow it."""
BLOCK_CELLS = 1 << 14
"""Subtiles compared at once."""


@dataclass(frozen=True)
class Level:
    """Subtiles of one precision in a piece of the grid, ordered by bucket and quadkey.

    A bucket is a feature and time. Levels of one piece share arrays where nothing is added up between them.
    """

    precision: int
    quadkey: Quadkeys
    begins: npt.NDArray[np.uint8]
    """Coarsest precision at which the subtile is another one than that before it; 0: a bucket begins."""
    s_count: Ints
    s_sum_t_sum: Floats
    s_sum_t_mean: Floats
    earlier: int = 0
    """Buckets that begin before the piece."""

    def __len__(self) -> int:
        return len(self.quadkey)

    @property
    def zoom(self) -> int:
        """Zoom of the tiles whose bins these subtiles are."""
        return self.precision - BIN_BITS

    @property
    def tile(self) -> Quadkeys:
        return self.quadkey >> np.uint32(2 * BIN_BITS)

    @property
    def bin(self) -> npt.NDArray[np.uint32]:
        """Index of the bin inside its tile, row-major from the north-west corner."""
        return bin_table().take(self.quadkey & np.uint32(BINS_PER_TILE - 1))

    @property
    def bucket(self) -> Ints:
        """Number of the bucket of each subtile."""
        return np.cumsum(self.begins == 0, dtype=np.int64) + (self.earlier - 1)

    def slice(self, start: int, end: int) -> Level:
        """Some neighbouring subtiles."""
        return Level(
            self.precision,
            self.quadkey[start:end],
            self.begins[start:end],
            self.s_count[start:end],
            self.s_sum_t_sum[start:end],
            self.s_sum_t_mean[start:end],
            self.earlier + int(np.count_nonzero(self.begins[:start] == 0)),
        )

    @classmethod
    def concat(cls, pieces: Sequence[Level]) -> Level:
        """One piece of at least one, which follow one another."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(
            pieces[0].precision,
            np.concatenate([piece.quadkey for piece in pieces]),
            np.concatenate([piece.begins for piece in pieces]),
            np.concatenate([piece.s_count for piece in pieces]),
            np.concatenate([piece.s_sum_t_sum for piece in pieces]),
            np.concatenate([piece.s_sum_t_mean for piece in pieces]),
            pieces[0].earlier,
        )

    def parents(self) -> Level:
        """The level above: four subtiles become one."""
        quadkey = self.quadkey >> np.uint32(2)
        if self.begins.max(initial=0) < self.precision:
            # Each subtile is the only one of its parent.
            return replace(self, precision=self.precision - 1, quadkey=quadkey)
        first = np.empty(len(self) + 1, np.bool_)
        np.less(self.begins, self.precision, out=first[:-1])
        first[-1] = True
        runs = Runs.of(first)
        assert runs is not None, "some subtiles share a parent"
        with np.errstate(over="ignore", invalid="ignore"):
            return Level(
                self.precision - 1,
                quadkey[runs.first],
                self.begins[runs.first],
                runs.sums(self.s_count),
                runs.sums(self.s_sum_t_sum),
                runs.sums(self.s_sum_t_mean),
                self.earlier,
            )


def pyramid(table: pa.Table) -> Iterator[Level]:
    """Levels of precision 14 down to 6 of one piece of a table of grid cells after the other.

    Each level is a linear scan of the one before. No subtile is in two pieces, but a bucket or a tile may
    be: the pieces of one precision make up the level of the whole table.
    """
    for level in deepest(table):
        yield level
        while level.precision > BIN_BITS:
            level = level.parents()
            yield level


def level_at(table: pa.Table, zoom: int) -> Level:
    """The level whose subtiles are the bins of tiles of a zoom, without those that no tile has.

    A tile has no bin in which every value is missing, and none whose sums are not finite.
    """
    pieces = [level for level in pyramid(table) if level.zoom == zoom]
    if not pieces:
        none = np.zeros(0)
        return Level(zoom + BIN_BITS, np.zeros(0, np.uint32), np.zeros(0, np.uint8), none.astype(np.int64),
                     none, none)  # fmt: skip
    level = Level.concat(pieces)
    there = in_tiles(level.s_count, level.s_sum_t_sum, level.s_sum_t_mean)
    return replace(
        level,
        quadkey=level.quadkey[there],
        begins=level.begins[there],
        s_count=level.s_count[there],
        s_sum_t_sum=level.s_sum_t_sum[there] + 0.0,
        s_sum_t_mean=level.s_sum_t_mean[there] + 0.0,
    )


def in_tiles(s_count: Ints, s_sum_t_sum: Floats, s_sum_t_mean: Floats) -> Mask:
    """Which bins are in a tile: not those without a value, nor those whose sums are not finite."""
    mask: Mask = (s_count > 0) & np.isfinite(s_sum_t_sum) & np.isfinite(s_sum_t_mean)
    return mask


def within_tile(table: pa.Table, zoom: int, x: int, y: int) -> pa.Table:
    """The rows of a tile, of a table of grid cells of one feature and time."""
    quadkey = cast(Quadkeys, column(table, "quadkey"))
    tile = int(interleave(np.array([x], np.uint32), np.array([y], np.uint32))[0])
    depth = 2 * (MAX_PRECISION - zoom)
    first, end = np.searchsorted(quadkey, [tile << depth, (tile + 1) << depth])
    return table.slice(first, end - first)


def deepest(table: pa.Table) -> Iterator[Level]:
    """The level of precision 14, in pieces of about `PIECE_CELLS`."""
    quadkey = cast(Quadkeys, column(table, "quadkey"))
    count = cast(Ints, column(table, "s_count"))
    sums, means = (cast(Floats, column(table, name)) for name in ("s_sum_t_sum", "s_sum_t_mean"))
    buckets = bucket_starts(table)
    begins = first_differences(quadkey, buckets)
    start = 0
    while start < len(quadkey):
        rows = slice(start, _next_piece(begins, start))
        earlier = int(np.searchsorted(buckets, start))
        yield Level(MAX_PRECISION, quadkey[rows], begins[rows], count[rows], sums[rows], means[rows], earlier)
        start = rows.stop


def first_differences(quadkey: Quadkeys, buckets: Rows) -> npt.NDArray[np.uint8]:
    """`Level.begins` of rows in order of bucket and quadkey, no two of them the same."""
    begins = np.zeros(len(quadkey), np.uint8)
    for start in range(1, len(quadkey), BLOCK_CELLS):
        after = quadkey[start : start + BLOCK_CELLS]
        differing = (after ^ quadkey[start - 1 : start - 1 + len(after)]) * 2.0
        # A number's exponent is the place of its highest bit, and a precision has two bits.
        pairs = (differing.view(np.int64) >> 53) - 512
        np.subtract(MAX_PRECISION, pairs, out=begins[start : start + len(after)], casting="unsafe")
    begins[buckets] = 0
    return begins


def _next_piece(begins: npt.NDArray[np.uint8], start: int) -> int:
    """Where a piece ends that begins at a row: the last fitting row that begins a subtile of precision 6."""
    if start + PIECE_CELLS >= len(begins):
        return len(begins)
    fitting = np.flatnonzero(begins[start + 1 : start + PIECE_CELLS + 1] <= BIN_BITS)
    if len(fitting):
        return start + 1 + int(fitting[-1])
    for at in range(start + PIECE_CELLS + 1, len(begins), PIECE_CELLS):
        ends = np.flatnonzero(begins[at : at + PIECE_CELLS] <= BIN_BITS)
        if len(ends):
            return at + int(ends[0])
    return len(begins)
