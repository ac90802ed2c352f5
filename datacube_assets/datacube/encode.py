"""Tables to the bytes of objects: CSV, JSON and tiles (CONTRACTS D.2 Formatting, D.4-D.7).

All rows of a family are formatted at once and then cut at the objects' boundaries; objects of one
family share one buffer. Which rows make which object is decided in `views.py`, keys in `keys.py`.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.datacube.groups import Coded, Floats

CSV = "text/csv; charset=utf-8"
JSON = "application/json"
PROTOBUF = "application/x-protobuf"

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """A batch of objects whose bodies lie one after the other in a buffer."""

    keys: list[str]
    """Relative to the run's prefix."""
    buffer: memoryview
    offsets: Offsets
    """Shape (len(keys) + 1,); body i is `header + buffer[offsets[i]:offsets[i + 1]]`."""
    content_type: str
    header: bytes = b""
    """What every body begins with."""
    left_out: int = 0
    """Objects that belong to the batch but would stop the reader, and were not made (DESIGN 5, 8)."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Size of all bodies."""
        return len(self.keys) * len(self.header) + int(self.offsets[-1] - self.offsets[0])

    def sizes(self) -> Offsets:
        """Size of each body in bytes."""
        return np.diff(self.offsets) + len(self.header)

    def bodies(self) -> Iterator[memoryview | bytes]:
        """Each body, in the order of the keys."""
        for start, end in itertools.pairwise(self.offsets.tolist()):
            body = self.buffer[start:end]
            yield b"".join((self.header, body)) if self.header else body

    @classmethod
    def of(cls, bodies: Mapping[str, bytes], content_type: str) -> Objects:
        """A batch of a few objects that were made one by one."""
        offsets = np.concatenate(([0], np.cumsum([len(body) for body in bodies.values()], dtype=np.int64)))
        return cls(
            list(bodies), memoryview(b"".join(bodies.values())), offsets.astype(np.int64), content_type
        )


# --- numbers and text as CSV cells -----------------------------------------------------------------

_LEAST_PLAIN = 1e-4
"""Below it Python's repr turns to exponents, and the fast formatter to another form of them."""


def float_cells(values: Floats) -> pl.Series:
    """Floats as CSV cells: shortest text that reads back the same, as Python's repr; empty if not finite.

    -0.0 is written 0.0 (CONTRACTS J.2).
    """
    finite = np.isfinite(values)
    cells = pl.Series(values + 0.0, dtype=pl.Float64)
    if not finite.all():
        cells = cells.set(pl.Series(~finite), None)
    with np.errstate(invalid="ignore"):
        small = finite & (np.abs(values) < _LEAST_PLAIN) & (values != 0)
    if not small.any():
        return cells
    text = cells.cast(pl.String)
    rows = np.flatnonzero(small)
    return text.scatter(rows, values[rows].astype("S32").astype(str).tolist())


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


def csv_lines(columns: Sequence[pl.Series]) -> tuple[memoryview, Offsets]:
    """CSV lines of columns of cells, and where each line starts, the end included.

    Text cells must be quoted already.
    """
    frame = pl.DataFrame([cells.alias(str(i)) for i, cells in enumerate(columns)])
    sink = io.BytesIO()
    frame.write_csv(sink, include_header=False, quote_style="never")
    written = sink.getbuffer()
    ends = np.flatnonzero(np.frombuffer(written, np.uint8) == ord("\n")) + 1
    if len(ends) != frame.height:
        # Quoted cells hold line breaks: a row ends at the break after its own.
        inner = np.zeros(frame.height, np.int64)
        for cells in columns:
            if cells.dtype == pl.String:
                inner += cells.str.count_matches("\n", literal=True).fill_null(0).to_numpy()
        ends = ends[np.cumsum(inner + 1) - 1]
    return written, np.concatenate(([0], ends)).astype(np.int64)


def csv_objects(
    keys: list[str], header: Sequence[str], columns: Sequence[pl.Series], cuts: Offsets
) -> Objects:
    """One CSV object for each run of rows between two cuts; `cuts` has shape (len(keys) + 1,)."""
    buffer, lines = csv_lines(columns)
    return Objects(keys, buffer, lines[cuts], CSV, csv_header(header))


def json_body(document: object) -> bytes:
    """JSON text as Python writes it; NaN and infinity are refused."""
    return json.dumps(document, allow_nan=False).encode()


# --- tiles -----------------------------------------------------------------------------------------

_ENTRY = 34
"""Longest map entry: tag, length, key (3), value tag and length, three doubles with their tags (27)."""
_PREFIX = 14
"""Longest text before the entries: coord (10), bins tag and length (4)."""
_SUFFIX = np.frombuffer(b"\x10\x80\x20", np.uint8)
"""totalBins = 4096."""


def tile_objects(
    keys: list[str],
    zoom: int,
    x: npt.NDArray[np.uint32],
    y: npt.NDArray[np.uint32],
    cuts: Offsets,
    bins: npt.NDArray[np.uint32],
    figures: Sequence[Floats],
) -> Objects:
    """Tiles of one zoom in the protobuf of CONTRACTS D.4.

    `x`, `y`: shape (tiles,). Tile i holds the bins of rows `cuts[i]:cuts[i + 1]`; `figures` are
    s_sum_t_sum, s_sum_t_mean and weight, each of shape (rows,).
    """
    entries, kept = _entries(bins, figures)
    entry_sizes = kept.sum(axis=1, dtype=np.int64)
    entry_ends = np.concatenate(([0], np.cumsum(entry_sizes)))
    body_sizes = entry_ends[cuts[1:]] - entry_ends[cuts[:-1]] + len(_SUFFIX)
    prefixes, prefix_kept = _prefixes(zoom, x, y, body_sizes)

    # A line per bin: the prefix before the first bin of a tile, the suffix behind its last.
    rows = len(bins)
    width = _PREFIX + _ENTRY + len(_SUFFIX)
    line = np.zeros((rows, width), np.uint8)
    keep = np.zeros((rows, width), np.bool_)
    line[:, _PREFIX : _PREFIX + _ENTRY], keep[:, _PREFIX : _PREFIX + _ENTRY] = entries, kept
    line[cuts[:-1], :_PREFIX], keep[cuts[:-1], :_PREFIX] = prefixes, prefix_kept
    line[cuts[1:] - 1, -len(_SUFFIX) :], keep[cuts[1:] - 1, -len(_SUFFIX) :] = _SUFFIX, True
    sizes = body_sizes + prefix_kept.sum(axis=1)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Objects(keys, memoryview(line[keep].tobytes()), offsets, PROTOBUF)


def _entries(bins: npt.NDArray[np.uint32], figures: Sequence[Floats]) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Map entries `{key: bin, value: {4: ..., 5: ..., 6: ...}}`; zero figures are not written."""
    rows = len(bins)
    entries = np.zeros((rows, _ENTRY), np.uint8)
    kept = np.ones((rows, _ENTRY), np.bool_)
    present = [values != 0 for values in figures]
    value_size = 9 * np.sum(present, axis=0, dtype=np.uint8)
    long_bin = bins >= 128
    entries[:, 0] = 0x0A
    entries[:, 1] = 4 + long_bin + value_size
    entries[:, 2] = 0x08
    entries[:, 3] = (bins & 0x7F) | (long_bin.astype(np.uint32) << np.uint32(7))
    entries[:, 4] = bins >> 7
    kept[:, 4] = long_bin
    entries[:, 5] = 0x12
    entries[:, 6] = value_size
    for i, (values, there) in enumerate(zip(figures, present, strict=True)):
        at = 7 + 9 * i
        entries[:, at] = ((4 + i) << 3) | 1
        entries[:, at + 1 : at + 9] = values.astype("<f8").view(np.uint8).reshape(rows, 8)
        kept[:, at : at + 9] = there[:, None]
    return entries, kept


def _prefixes(
    zoom: int, x: npt.NDArray[np.uint32], y: npt.NDArray[np.uint32], body_sizes: Offsets
) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """`coord`, zero coordinates not written, and the head of `bins`."""
    tiles = len(x)
    prefix = np.zeros((tiles, _PREFIX), np.uint8)
    kept = np.ones((tiles, _PREFIX), np.bool_)
    coord_size = np.full(tiles, 2 if zoom else 0, np.uint8)
    prefix[:, 0] = 0x0A
    for at, tag, values in ((2, 0x08, x), (5, 0x10, y)):
        there, long = values != 0, values >= 128
        coord_size += (2 * there + long).astype(np.uint8)
        prefix[:, at] = tag
        prefix[:, at + 1] = (values & 0x7F) | (long.astype(np.uint32) << np.uint32(7))
        prefix[:, at + 2] = values >> 7
        kept[:, at] = kept[:, at + 1] = there
        kept[:, at + 2] = long
    prefix[:, 8:10] = 0x18, zoom
    kept[:, 8:10] = zoom != 0
    prefix[:, 1] = coord_size
    prefix[:, 10] = 0x12
    # A varint of up to three bytes: 4096 bins of at most 34 bytes.
    prefix[:, 11] = (body_sizes & 0x7F) | np.where(body_sizes >= 1 << 7, 0x80, 0)
    prefix[:, 12] = ((body_sizes >> 7) & 0x7F) | np.where(body_sizes >= 1 << 14, 0x80, 0)
    prefix[:, 13] = body_sizes >> 14
    kept[:, 12] = body_sizes >= 1 << 7
    kept[:, 13] = body_sizes >= 1 << 14
    return prefix, kept
