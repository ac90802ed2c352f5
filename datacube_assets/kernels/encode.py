"""Tables to the bytes of objects: CSV, JSON and tiles (docs/objects.md#how-text-is-written).

All rows of a family are formatted at once and then cut at the objects' boundaries; objects of one
family share one buffer. Which rows make which object is decided in `views.py`, keys in `keys.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.groups import Coded, Floats
from datacube_assets.kernels.morton import BINS_PER_TILE

CSV = "text/csv; charset=utf-8"
JSON = "application/json"
PROTOBUF = "application/x-protobuf"

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """A batch of objects whose bodies lie one after the other in one buffer."""

    names: pa.Array
    """Text, shape (objects,): the keys relative to the run's prefix."""
    buffer: Bytes
    """The bodies and nothing else."""
    offsets: Offsets
    """Shape (objects + 1,), from 0; body i is `buffer[offsets[i]:offsets[i + 1]]`."""
    content_type: str
    left_out: int = 0
    """Objects that belong to the batch but would stop the reader, and were not made."""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def keys(self) -> list[str]:
        """`names` as Python texts, which cost more to make than small bodies do."""
        keys: list[str] = self.names.to_pylist()
        return keys

    @property
    def nbytes(self) -> int:
        """Size of all bodies."""
        return len(self.buffer)

    def sizes(self) -> Offsets:
        """Size of each body in bytes."""
        return np.diff(self.offsets)

    def bodies(self, chosen: npt.NDArray[np.integer] | None = None) -> Iterator[memoryview]:
        """Each body, or the chosen ones by number, in this order."""
        view = self.buffer.data
        starts, ends = self.offsets[:-1], self.offsets[1:]
        if chosen is not None:
            starts, ends = starts[chosen], ends[chosen]
        return (view[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True))

    @classmethod
    def of(cls, bodies: Mapping[str, bytes] | Sequence[tuple[str, bytes]], content_type: str) -> Objects:
        """A batch of a few objects that were made one by one: bodies by key, or pairs of both."""
        pairs = list(bodies.items()) if isinstance(bodies, Mapping) else bodies
        offsets = np.concatenate(([0], np.cumsum([len(body) for _, body in pairs], dtype=np.int64)))
        buffer = np.frombuffer(b"".join(body for _, body in pairs), np.uint8)
        made = pa.array([key for key, _ in pairs], pa.string())
        return cls(made, buffer, offsets.astype(np.int64), content_type)

    @classmethod
    def concat(cls, batches: Sequence[Objects]) -> Objects:
        """One batch of at least one, all of one content type."""
        if len(batches) == 1:
            return batches[0]
        sizes = np.concatenate([batch.sizes() for batch in batches])
        return cls(
            pa.concat_arrays([batch.names for batch in batches]),
            np.concatenate([batch.buffer for batch in batches]),
            np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
            batches[0].content_type,
            sum(batch.left_out for batch in batches),
        )


# --- numbers and text as CSV cells -----------------------------------------------------------------

_BLOCK = 1 << 18
"""Bytes searched at once, which stay in a core's cache."""
_LEAST_PLAIN = 1e-4
"""Below it Python's repr turns to exponents, and the fast formatter to another form of them."""


def float_cells(values: Floats) -> pl.Series:
    """Floats as CSV cells: shortest text that reads back the same, as Python's repr; empty if not finite.

    -0.0 is written 0.0, as the original does.
    """
    finite = np.isfinite(values)
    cells = pl.Series(values + 0.0, dtype=pl.Float64)
    if not finite.all():
        cells = cells.set(pl.Series(~finite), None)
    with np.errstate(invalid="ignore"):
        small = finite & (np.abs(values) < _LEAST_PLAIN) & (values != 0)
    if not small.any():
        return cells
    rows = np.flatnonzero(small)
    return cells.cast(pl.String).scatter(rows, _small_cells(values[rows]))


def _small_cells(values: Floats) -> pl.Series:
    """Floats below `_LEAST_PLAIN` as Python writes them: with an exponent of at least two digits."""
    texts = pl.Series(values).cast(pl.String)
    texts = texts.str.replace(r"e-(\d)$", "e-0$1")
    texts = texts.str.replace(r"^(-?)0\.0000(\d)(\d+)$", "$1$2.${3}e-05")
    return texts.str.replace(r"^(-?)0\.0000(\d)$", "$1${2}e-05")


def quote(texts: pa.Array) -> pa.Array:
    """Texts as CSV cells: in double quotes, these doubled, where they hold a comma, quote or line break."""
    special = pc.match_substring_regex(texts, '[,"\r\n]')
    if not pc.any(special).as_py():
        return texts
    doubled = pc.replace_substring(texts, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), texts)


def text_cells(column: Coded) -> pl.Series:
    """A coded text column as CSV cells; each distinct text is quoted once."""
    quoted = pl.Series(quote(column.values))
    return quoted.gather(pl.Series(column.codes))


def csv_header(names: Sequence[str]) -> bytes:
    """The header line."""
    cells: list[str] = quote(pa.array(names, pa.string())).to_pylist()
    return ",".join(cells).encode() + b"\n"


def csv_lines(columns: Sequence[pl.Series]) -> tuple[Bytes, Offsets]:
    """CSV lines of columns of cells, and where each line starts, the end included.

    Text cells must be quoted already.
    """
    frame = pl.DataFrame([cells.alias(str(i)) for i, cells in enumerate(columns)])
    sink = io.BytesIO()
    frame.write_csv(sink, include_header=False, quote_style="never")
    written = np.frombuffer(sink.getbuffer(), np.uint8)
    breaks = [
        np.flatnonzero(written[start : start + _BLOCK] == ord("\n")) + (start + 1)
        for start in range(0, len(written), _BLOCK)
    ]
    ends = np.concatenate([np.zeros(0, np.int64), *breaks])
    if len(ends) != frame.height:
        # Quoted cells hold line breaks: a row ends at the break after its own.
        inner = np.zeros(frame.height, np.int64)
        for cells in columns:
            if cells.dtype == pl.String:
                inner += cells.str.count_matches("\n", literal=True).fill_null(0).to_numpy()
        ends = ends[np.cumsum(inner + 1) - 1]
    return written, np.concatenate(([0], ends)).astype(np.int64)


def csv_objects(
    names: pa.Array, header: Sequence[str], columns: Sequence[pl.Series], cuts: Offsets
) -> Objects:
    """One CSV object for each run of rows between two cuts; `cuts` has shape (len(names) + 1,)."""
    buffer, lines = csv_lines(columns)
    type_, ends = pa.large_binary(), np.ascontiguousarray(lines[cuts])
    parts = pa.Array.from_buffers(type_, len(names), [None, pa.py_buffer(ends), pa.py_buffer(buffer)])
    bodies = pc.binary_join_element_wise(pa.scalar(csv_header(header), type_), parts, pa.scalar(b"", type_))
    _, offsets, joined = bodies.buffers()
    return Objects(
        names, np.frombuffer(joined, np.uint8), np.frombuffer(offsets, np.int64)[: len(names) + 1], CSV
    )


def json_body(document: object) -> bytes:
    """JSON text as Python writes it; NaN and infinity are refused."""
    return json.dumps(document, allow_nan=False).encode()


# --- tiles -----------------------------------------------------------------------------------------

_SUFFIX = np.frombuffer(b"\x10\x80\x20", "V3")
"""totalBins = 4096."""
_FIELDS = (4, 5, 6)
"""Field numbers of s_sum_t_sum, s_sum_t_mean and weight."""
_MAP_ENTRY, _KEY, _VALUE = 0x0A, 0x08, 0x12
_COORD, _X, _Y, _Z, _TILE_BINS = 0x0A, 0x08, 0x10, 0x18, 0x12
"""Tags: field number and wire type."""


def tile_objects(
    names: pa.Array,
    zoom: int,
    x: npt.NDArray[np.uint32],
    y: npt.NDArray[np.uint32],
    cuts: Offsets,
    bins: npt.NDArray[np.uint32],
    figures: Sequence[Floats],
) -> Objects:
    """Tiles of one zoom in the protobuf of docs/objects.md#13-tiles.

    `x`, `y`: shape (tiles,), below 2**14. Tile i holds the bins of rows `cuts[i]:cuts[i + 1]`, at least
    one; `figures` are s_sum_t_sum, s_sum_t_mean and weight, each of shape (rows,). What is zero is not
    written.
    """
    shape = _shapes(bins, figures)
    entry_sizes = _SHAPE_SIZES.take(shape)
    entry_ends = np.cumsum(entry_sizes)
    body_sizes = np.diff(entry_ends[cuts[1:] - 1], prepend=0) + _SUFFIX.itemsize
    coord, coord_sizes = _coordinates(zoom, x, y)
    bins_head, bins_head_sizes = _bins_heads(body_sizes)
    head_sizes = 2 + coord_sizes + bins_head_sizes
    offsets = np.concatenate(([0], np.cumsum(head_sizes + body_sizes))).astype(np.int64)
    buffer = np.empty(offsets[-1], np.uint8)

    # Of what is written at full width the excess falls on bytes of the same tile that are written later.
    tiles = offsets[:-1]
    _put(buffer, tiles, (_COORD | coord_sizes << 8).astype("<u2"))
    _put(buffer, tiles + 2, coord)
    _put(buffer, tiles + 2 + coord_sizes, bins_head)
    entries = entry_ends - entry_sizes
    entries += np.repeat(tiles + head_sizes - entries[cuts[:-1]], np.diff(cuts))
    shapes = np.flatnonzero(np.bincount(shape)).tolist()
    for one in shapes:
        rows = np.flatnonzero(shape == one) if len(shapes) > 1 else slice(None)
        _put(buffer, entries[rows], _entries(one, bins[rows], [values[rows] for values in figures]))
    _put(buffer, offsets[1:] - _SUFFIX.itemsize, np.broadcast_to(_SUFFIX, len(tiles)))
    return Objects(names, buffer, offsets, PROTOBUF)


def _put(buffer: Bytes, at: Offsets, values: npt.NDArray[np.generic]) -> None:
    """Copy the bytes of each value to its place in the buffer; places may not be aligned."""
    size = values.dtype.itemsize
    anywhere = np.ndarray((len(buffer) - size + 1,), f"V{size}", buffer, strides=(1,))
    anywhere[at] = values.view(f"V{size}")


def _shapes(bins: npt.NDArray[np.uint32], figures: Sequence[Floats]) -> Bytes:
    """Which parts each map entry has: bit 0 for a second byte of the key, bits 1 to 3 for the figures."""
    shape = (bins >= 128).astype(np.uint8)
    for i, values in enumerate(figures):
        shape |= (values != 0).view(np.uint8) << np.uint8(i + 1)
    return shape


_SHAPE_SIZES = np.array([6 + (one & 1) + 9 * (one >> 1).bit_count() for one in range(16)])
"""Size of an entry of each shape: key with tag, value with tag and length, figures with tags."""


@cache
def _shape_type(one: int) -> tuple[list[int], np.dtype[np.void]]:
    """Figures in an entry of a shape, and its bytes, of which the first two, or one, are no part of it."""
    there = [i for i in range(len(_FIELDS)) if one >> (i + 1) & 1]
    fields = [("head", "<u8"), *(part for i in there for part in ((f"tag{i}", "u1"), (f"figure{i}", "<f8")))]
    return there, np.dtype(fields)


@cache
def _entry_keys() -> npt.NDArray[np.uint64]:
    """Each bin as a varint, where `_entries` has it."""
    bins = np.arange(BINS_PER_TILE, dtype=np.uint64)
    long = bins & np.uint64(127) | np.uint64(128) | bins >> np.uint64(7) << np.uint64(8)
    return np.where(bins < 128, bins << np.uint64(40), long << np.uint64(32))


def _entries(one: int, bins: npt.NDArray[np.uint32], figures: Sequence[Floats]) -> npt.NDArray[np.void]:
    """Map entries `{key: bin, value: {4: ..., 5: ..., 6: ...}}` of one shape."""
    there, type_ = _shape_type(one)
    size = int(_SHAPE_SIZES[one])
    unused = type_.itemsize - size
    value_size = 9 * len(there)
    front = _MAP_ENTRY | (size - 2) << 8 | _KEY << 16
    entries = np.empty(len(bins), type_)
    entries["head"] = _entry_keys().take(bins) + np.uint64(
        front << 8 * unused | _VALUE << 48 | value_size << 56
    )
    for i in there:
        entries[f"tag{i}"] = _FIELDS[i] << 3 | 1
        entries[f"figure{i}"] = figures[i]
    return np.ndarray((len(bins),), f"V{size}", entries, unused, (type_.itemsize,))


def _coordinates(
    zoom: int, x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint64], Offsets]:
    """The text of `coord`, as up to eight bytes, and its size; zero coordinates are not written."""
    text, sizes = np.zeros(len(x), np.uint64), np.zeros(len(x), np.int64)
    for tag, values in ((_X, x), (_Y, y), (_Z, np.full(len(x), zoom, np.uint32))):
        value = values.astype(np.uint64)
        long = value >= 128
        low = np.where(long, value & np.uint64(127) | np.uint64(128), value)
        field = np.uint64(tag) | low << np.uint64(8) | value >> np.uint64(7) << np.uint64(16)
        text |= np.where(value > 0, field, np.uint64(0)) << (8 * sizes).astype(np.uint64)
        sizes += np.where(value > 0, 2 + long, 0)
    return text.astype("<u8"), sizes


def _bins_heads(body_sizes: Offsets) -> tuple[npt.NDArray[np.uint32], Offsets]:
    """Tag and length of `bins`, as up to four bytes, and their size: 4096 bins of 34 bytes need three."""
    long, longer = body_sizes >= 1 << 7, body_sizes >= 1 << 14
    length = (
        body_sizes & 127 | long << 7 | (body_sizes >> 7 & 127 | longer << 7) << 8 | body_sizes >> 14 << 16
    )
    return (_TILE_BINS | length << 8).astype("<u4"), 2 + long.astype(np.int64) + longer
