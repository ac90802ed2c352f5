"""The bytes of objects to tables: CSV and tiles, the way back from `encode.py`.

What the original wrote is read as well: bins in any order, counts with a fraction. Which object holds what
is the business of `storage/published.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from datacube_assets.kernels.groups import Floats
from datacube_assets.kernels.morton import BIN_BITS, BINS_PER_TILE

TIME = pa.timestamp("ms", tz="UTC")
"""Times in tables for people: milliseconds UTC, which pandas shows as dates."""

CellType = Literal["text", "whole", "float", "time"]
_TYPES: dict[CellType, pa.DataType] = {
    "text": pa.string(),
    "whole": pa.int64(),
    "float": pa.float64(),
    "time": pa.int64(),
}


class UnreadableObjectError(ValueError):
    """Bytes that are no object of a datacube."""


# --- CSV -------------------------------------------------------------------------------------------


def csv_names(body: bytes) -> list[str]:
    """Names in the header line of a CSV."""
    return _header(body)[0]


def csv_table(body: bytes, types: Sequence[CellType], names: Sequence[str] | None = None) -> pa.Table:
    """A CSV as a table; `types` are those of its columns in order, `names` replace those of its header.

    An empty cell is null, in a column of text an empty text. Times become `TIME`. Two columns may have the
    same name, since a value of a qualifier may be called as anything. Raises UnreadableObjectError.
    """
    header, start = _header(body)
    if len(header) != len(types):
        raise UnreadableObjectError(f"{len(header)} columns, not {len(types)}")
    numbers = [str(number) for number in range(len(types))]
    arrow = {number: _TYPES[type_] for number, type_ in zip(numbers, types, strict=True)}
    if start == len(body):
        columns = [pa.array([], type_) for type_ in arrow.values()]
    else:
        columns = _csv_columns(body, start, arrow)
    columns = [
        values.cast(TIME) if type_ == "time" else values for values, type_ in zip(columns, types, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=list(names or header))


def _header(body: bytes) -> tuple[list[str], int]:
    """Names in the header line, and where the line after it starts; names may hold line breaks."""
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        while at < len(body):
            start, at = at, body.find(b"\n", at) + 1 or len(body)
            yield body[start:at].decode()

    try:
        return next(csv.reader(lines(), strict=True)), at
    except (StopIteration, csv.Error, UnicodeDecodeError):
        raise UnreadableObjectError("no header line of a CSV") from None


def _csv_columns(body: bytes, start: int, types: dict[str, pa.DataType]) -> list[pa.ChunkedArray]:
    def read(types: dict[str, pa.DataType]) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.py_buffer(memoryview(body)[start:]),
            pyarrow.csv.ReadOptions(column_names=list(types), use_threads=False),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False),
        )

    try:
        try:
            return list(read(types).columns)
        except pa.ArrowInvalid:
            # The original wrote whole numbers as `1.0` where others of the column were missing.
            floats = {name: pa.float64() if type_ == pa.int64() else type_ for name, type_ in types.items()}
            columns = zip(read(floats).columns, types.values(), strict=True)
            return [values.cast(type_) for values, type_ in columns]
    except pa.ArrowInvalid as error:
        raise UnreadableObjectError(str(error).splitlines()[0]) from None


# --- tiles -----------------------------------------------------------------------------------------

_COORD, _BINS, _STATS, _TOTAL = 0x0A, 0x12, 0x0A, 0x10
_X, _Y, _Z = 0x08, 0x10, 0x18
_KEY, _VALUE = 0x08, 0x12
_OLD_SUM, _OLD_AVERAGE = 0x11, 0x19
_FIGURES = (0x21, 0x29, 0x31)
"""Tags: field number and wire type; see `encode.py` and docs/objects.md."""


@dataclass(frozen=True)
class Tile:
    """A tile of the web-mercator map, and the bins of it that have data, by number."""

    zoom: int
    x: int
    y: int
    bin: npt.NDArray[np.uint32]
    """Shape (bins,): 0 to 4095, row by row from the north-west corner, ascending."""
    s_sum_t_sum: Floats
    s_sum_t_mean: Floats
    s_count: Floats
    """`weight` in the object: how many cells have a mean."""

    def __len__(self) -> int:
        return len(self.bin)

    @property
    def precision(self) -> int:
        """Precision of the subtiles that are the tile's bins."""
        return self.zoom + BIN_BITS

    @property
    def subtile_x(self) -> npt.NDArray[np.uint32]:
        """Column of each bin among all subtiles of its precision, from -180 degrees."""
        return np.uint32(self.x << BIN_BITS) | self.bin & np.uint32((1 << BIN_BITS) - 1)

    @property
    def subtile_y(self) -> npt.NDArray[np.uint32]:
        """Row of each bin among all subtiles of its precision, from the north."""
        return np.uint32(self.y << BIN_BITS) | self.bin >> np.uint32(BIN_BITS)


def read_tile(body: bytes) -> Tile:
    """A tile from its protobuf, fields and bins in any order. Raises UnreadableObjectError."""
    coord = {_X: 0, _Y: 0, _Z: 0}
    starts: list[int] = []
    try:
        at = 0
        while at < len(body):
            tag = body[at]
            length, start = _varint(body, at + 1)
            at = start + length
            if tag == _COORD:
                coord |= _coordinates(body, start, at)
            elif tag == _BINS:
                starts += _entry_starts(body, start, at)
            else:
                raise UnreadableObjectError(f"no tile: an unknown field {tag:#x}")
        if at != len(body):
            raise IndexError
        bins, figures = _entries(np.frombuffer(body, np.uint8), np.array(starts, np.int64))
    except IndexError:
        raise UnreadableObjectError("a tile that ends too early") from None
    if len(bins) and bins.max() >= BINS_PER_TILE:
        raise UnreadableObjectError(f"a tile with a bin {bins.max()}")
    order = np.argsort(bins)
    return Tile(coord[_Z], coord[_X], coord[_Y], bins[order], *figures[:, order])


def _coordinates(body: bytes, at: int, end: int) -> dict[int, int]:
    """Numbers by tag."""
    numbers = {}
    while at < end:
        tag = body[at]
        numbers[tag], at = _varint(body, at + 1)
    return numbers


def _entry_starts(body: bytes, at: int, end: int) -> list[int]:
    """Where the text of each map entry starts.

    A loop, because only the length of an entry says where the next one is. Nothing else goes bin by bin.
    """
    starts = []
    while at < end:
        if body[at] == _STATS:
            at += 2
            starts.append(at)
            at += body[at - 1]
        elif body[at] == _TOTAL:
            _, at = _varint(body, at + 1)
        else:
            raise UnreadableObjectError(f"no tile: an unknown field {body[at]:#x} among the bins")
    if at != end:
        raise IndexError
    return starts


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next field is."""
    number = shift = 0
    while True:
        byte = body[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _entries(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Bin and figures, of shape (3, entries), of map entries.

    All entries are read at once, field by field; what an entry lacks is zero.
    """
    at, end = starts.copy(), starts + data[starts - 1]
    bins = np.zeros(len(at), np.uint32)
    value, value_end = np.zeros_like(at), np.zeros_like(at)
    while len(rows := np.flatnonzero(at < end)):
        tag, here = data[at[rows]], at[rows] + 1
        is_key = tag == _KEY
        if not (is_key | (tag == _VALUE)).all():
            raise UnreadableObjectError("no tile: an unknown field in a bin")
        low = data[here].astype(np.uint32)
        # A bin needs at most two bytes; the value of one bin is shorter than 128.
        high = np.where(low >= 128, data[np.minimum(here + 1, len(data) - 1)], 0).astype(np.uint32)
        number, after = low & np.uint32(127) | high << np.uint32(7), here + 1 + (low >= 128)
        bins[rows[is_key]] = number[is_key]
        values = rows[~is_key]
        value[values], value_end[values] = after[~is_key], after[~is_key] + number[~is_key]
        at[rows] = np.where(is_key, after, after + number)
    if (at != end).any():
        raise IndexError
    return bins, _figures(data, value, value_end)


def _figures(
    data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    figures = np.zeros((len(_FIGURES), len(at)))
    doubles = np.ndarray((max(len(data) - 7, 0),), "<f8", data, strides=(1,))
    while len(rows := np.flatnonzero(at < end)):
        tag, here = data[at[rows]], at[rows] + 1
        known = (tag == _OLD_SUM) | (tag == _OLD_AVERAGE)
        for number, figure in enumerate(_FIGURES):
            there = tag == figure
            known |= there
            figures[number, rows[there]] = doubles[here[there]]
        if not known.all():
            raise UnreadableObjectError("no tile: an unknown figure in a bin")
        at[rows] = here + 8
    if (at != end).any():
        raise IndexError
    return figures
