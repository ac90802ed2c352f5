"""Group-by on integer codes: the one mechanism behind every aggregate.

Text and floats become codes once; codes are packed into one 64-bit key; the key is sorted; groups are
runs of equal keys, reduced with `ufunc.reduceat`. What the groups mean is the business of
`temporal.py`, `spatial.py` and `grid.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_KEY_BITS = 63
_FLAGS_PER_ROW, _FEW = 8, 65_536
"""How many keys may be possible, per row and in any case, for a table of flags to be cheaper than a sort."""


class Key(Protocol):
    """Anything that can be part of a packed key."""

    @property
    def codes(self) -> Codes: ...
    @property
    def radix(self) -> int: ...


@dataclass(frozen=True)
class Digit:
    """Codes in [0, radix) whose values nobody needs."""

    codes: Codes
    radix: int


@dataclass(frozen=True)
class Coded:
    """A column as codes into its distinct values; codes follow the order of the values."""

    codes: Codes
    """Shape (rows,), each in [0, len(values))."""
    values: pa.Array
    """The distinct values, ascending."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def radix(self) -> int:
        return max(len(self.values), 1)

    def take(self, rows: npt.NDArray[np.integer]) -> Coded:
        """The column at these rows; values that no row uses any more stay."""
        return Coded(self.codes[rows], self.values)

    def to_arrow(self) -> pa.Array:
        """The column as an Arrow dictionary (text) or plain array (numbers)."""
        if pa.types.is_string(self.values.type):
            indices = pa.array(self.codes.astype(np.int32))
            return pa.DictionaryArray.from_arrays(indices, self.values)
        return self.values.take(pa.array(self.codes))


def _sorted_codes(codes: npt.NDArray[np.integer], values: pa.Array) -> Coded:
    # Null, the value that NaN became, sorts last.
    order = pc.sort_indices(values).to_numpy()
    if bool(np.all(order[1:] > order[:-1])):
        # The values of tables that were made of codes are in order already.
        return Coded(codes.astype(np.int64), values)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    used = rank[codes] if len(order) else np.zeros(len(codes), np.int64)
    return Coded(used, values.take(pa.array(order)))


def encode_text(column: pa.ChunkedArray | pa.Array) -> Coded:
    """Codes of a text column without nulls, in order of the text (by code point)."""
    if isinstance(column, pa.ChunkedArray):
        # This makes one dictionary of several, and looks at those that are one only once.
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # a chunked array of no chunks stays one
        column = pa.array([], column.type)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return _sorted_codes(column.indices.to_numpy(), column.dictionary.cast(pa.string()))


def encode_floats(values: Floats) -> Coded:
    """Codes of a float column; NaN is a value of its own (null), -0.0 is 0.0."""
    encoded = pa.array(values + 0.0, from_pandas=True).dictionary_encode(null_encoding="encode")
    return _sorted_codes(encoded.indices.to_numpy(), encoded.dictionary)


def encode_ints(values: Ints) -> Coded:
    """Codes of an integer column."""
    encoded = pa.array(values).dictionary_encode()
    return _sorted_codes(encoded.indices.to_numpy(), encoded.dictionary)


def combine(columns: Sequence[Key]) -> tuple[Codes, int]:
    """Pack columns into one key, the first most significant; returns the key and the number of keys.

    The key sorts as the tuple of columns does. Where the product of the radices passes 63 bits, what
    has been packed so far is first reduced to the combinations that occur.
    """
    rows = len(columns[0].codes) if columns else 0
    key = np.zeros(rows, np.int64)
    size = 1
    for column in columns:
        if (size * column.radix).bit_length() > _KEY_BITS:
            key, distinct = _dense(key, size)
            size = max(len(distinct), 1)
        # In place: the key is as long as the table.
        key *= column.radix
        key += column.codes
        size *= column.radix
    return key, size


@dataclass(frozen=True)
class Tuples:
    """Several columns as one: the combinations that occur, numbered in the order of the columns."""

    codes: Codes
    """Number of the combination of each row, shape (rows,)."""
    members: tuple[Codes, ...]
    """For each column the code of each combination, shape (combinations,)."""

    def __len__(self) -> int:
        return len(self.members[0]) if self.members else 1

    @property
    def radix(self) -> int:
        return max(len(self), 1)

    @classmethod
    def of(cls, columns: Sequence[Key], rows: int) -> Tuples:
        """Number the combinations; without columns all rows are one."""
        codes = np.zeros(rows, np.int64)
        members: list[Codes] = []
        size = 1
        for column in columns:
            codes, distinct = _dense(codes * column.radix + column.codes, size * column.radix)
            above = distinct // column.radix
            members = [member[above] for member in members]
            members.append(distinct - above * column.radix)
            size = max(len(distinct), 1)
        return cls(codes, tuple(members))


def _dense(key: Codes, size: int) -> tuple[Codes, Codes]:
    """The rank of each key among those that occur, and these, ascending."""
    if size <= _FLAGS_PER_ROW * len(key) + _FEW:
        # Marking what occurs is linear, where sorting is not.
        there = np.zeros(size, np.bool_)
        there[key] = True
        rank = np.cumsum(there, dtype=np.int64)
        rank -= 1
        return rank[key], np.flatnonzero(there)
    groups = group(key, size)
    return groups.number_rows(), key[groups.first]


@dataclass(frozen=True)
class Groups:
    """Rows ordered by key and cut where the key changes."""

    order: npt.NDArray[np.intp] | None
    """Row numbers in key order, ties in row order; None when the rows were in order already."""
    starts: npt.NDArray[np.intp]
    """Position, in that order, of the first row of each group."""
    rows: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> npt.NDArray[np.intp]:
        """Row number of the first row of each group."""
        return self.starts if self.order is None else self.order[self.starts]

    @cached_property
    def sizes(self) -> Ints:
        """Rows in each group."""
        sizes = np.empty(len(self.starts), np.int64)
        if len(sizes):
            np.subtract(self.starts[1:], self.starts[:-1], out=sizes[:-1])
            sizes[-1] = self.rows - self.starts[-1]
        return sizes

    @property
    def single(self) -> bool:
        """Whether every group is one row."""
        return len(self.starts) == self.rows

    @cached_property
    def alone(self) -> Mask:
        """Which groups are one row."""
        alone: Mask = self.sizes == 1
        return alone

    @cached_property
    def together(self) -> tuple[npt.NDArray[np.intp], Groups]:
        """The groups of several rows: where, in key order, their rows are, and the groups of these rows."""
        sizes = self.sizes[~self.alone]
        rows = np.flatnonzero(np.repeat(~self.alone, self.sizes))
        return rows, Groups(None, np.cumsum(sizes) - sizes, len(rows))

    def arrange(self, column: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The column in key order."""
        return column if self.order is None else column[self.order]

    def reduce(self, ufunc: np.ufunc, column: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The column reduced within each group."""
        if self.single:
            return self.arrange(column)
        reduced: npt.NDArray[np.generic] = ufunc.reduceat(self.arrange(column), self.starts)
        return reduced

    def number_rows(self) -> Codes:
        """For each row the number of its group."""
        in_order = np.repeat(np.arange(len(self)), self.sizes)
        if self.order is None:
            return in_order
        numbers = np.empty(self.rows, np.int64)
        numbers[self.order] = in_order
        return numbers


def group(key: Codes, size: int) -> Groups:
    """Group the rows of equal key; `size` bounds the keys, which are in [0, size)."""
    rows = len(key)
    if rows == 0:
        return Groups(None, np.zeros(0, np.intp), 0)
    if bool(np.all(key[1:] >= key[:-1])):
        in_order, order = key, None
    else:
        row_bits = max(rows - 1, 1).bit_length()
        if max(size - 1, 1).bit_length() + row_bits <= _KEY_BITS:
            # Sorting (key, row) as one integer is several times faster than an argsort, and stable.
            packed = (key << row_bits) | np.arange(rows)
            packed.sort()
            order = packed & ((1 << row_bits) - 1)
            in_order = packed >> row_bits
        else:
            order = np.argsort(key, kind="stable")
            in_order = key[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
    return Groups(order, starts, rows)


def group_by(columns: Sequence[Key]) -> Groups:
    """Group rows by several columns, in the order of the columns."""
    return group(*combine(columns))


def slices(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """Offsets of the runs of equal values, the end included: shape (runs + 1,)."""
    if len(codes) == 0:
        return np.zeros(1, np.intp)
    changes = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    return np.concatenate(([0], changes, [len(codes)]))


def column(table: pa.Table, name: str) -> npt.NDArray[np.generic]:
    """A numeric column as one NumPy array, nulls as NaN."""
    combined = table[name].combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = pa.array([], combined.type)
    array: npt.NDArray[np.generic] = combined.to_numpy(zero_copy_only=False)
    return array


def nullable(values: Floats) -> pa.Array:
    """A float column for the lake, NaN as null."""
    return pa.array(values, from_pandas=True)


def build_table(columns: Mapping[str, Coded | npt.NDArray[np.generic]]) -> pa.Table:
    """An Arrow table of coded and numeric columns, NaN as null."""
    arrays = {
        name: values.to_arrow()
        if isinstance(values, Coded)
        else nullable(cast(Floats, values))
        if values.dtype.kind == "f"
        else pa.array(values)
        for name, values in columns.items()
    }
    return pa.table(arrays)
