"""The cells of a column of any type as text or as numbers.

What kinds of columns there are (`kind_of`), and how each prints and reads. What a column means is no
business of this module; times are in `times.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.groups import Floats, Ints, Mask
from datacube_assets.kernels.schema import REQUIRED_COLUMNS, is_text

READABLE = "Write text, numbers, booleans, dates or timestamps"
"""What a column may hold, as a remedy."""
MAX_TEXT_BYTES = 1 << 16
"""The longest text. It is a name of something, and stands in every row of an object that it is about."""
Columns = Mapping[str, pa.ChunkedArray]
"""The columns of a batch by name."""


def kind_of(name: str, type_: pa.DataType) -> str:
    """What a column of a type is read as (`ColumnProfile.kinds`). Raises InputError, naming the column."""
    if pa.types.is_dictionary(type_):
        return kind_of(name, type_.value_type)
    if is_text(type_) or pa.types.is_null(type_):
        return "O"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "f"
    if pa.types.is_integer(type_):
        return "i"
    if pa.types.is_boolean(type_):
        return "b"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "M"
    raise unreadable_type(name, type_)


def unreadable_type(name: str, type_: pa.DataType) -> InputError:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    unmarked = ": bytes that are not marked as text" if "binary" in str(type_) else ""
    remedy = READABLE if name in REQUIRED_COLUMNS else f"{READABLE}, or leave the column out"
    return InputError(f"cells of type {type_} cannot be read{unmarked}", column=name, remedy=remedy)


def is_readable(type_: pa.DataType) -> bool:
    """Whether there are cells of a type that can be read."""
    try:
        return bool(kind_of("", type_))
    except InputError:
        return False


def by_name(batch: pa.Table) -> Columns:
    """The columns by name. Asking a table for a column by name takes as long as the table is wide."""
    return dict(zip(batch.column_names, batch.columns, strict=True))


@contextmanager
def naming_column(name: str, column: pa.ChunkedArray) -> Iterator[None]:
    """Turn what Arrow and Python say of cells that break their type's rules into an InputError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            "a text is not UTF-8", column=name, example=error.object, remedy="Write all text as UTF-8"
        ) from error
    except pa.ArrowException as error:
        raise InputError(
            f"cells of type {column.type} cannot be read: {str(error).splitlines()[0]}",
            column=name,
            remedy=READABLE,
        ) from error


def distinct_texts(name: str, column: pa.ChunkedArray) -> list[str | None]:
    if pa.types.is_dictionary(column.type):
        encoded = _one_chunk(column)
        column = encoded.dictionary.take(encoded.indices.unique().drop_null())
    found = column.unique().cast(pa.string())
    sizes = pc.binary_length(found)
    if (pc.max(sizes).as_py() or 0) > MAX_TEXT_BYTES:
        longest = pc.index(sizes, pc.max(sizes)).as_py()
        raise InputError(
            f"a text has {sizes[longest].as_py():,} bytes, and more than {MAX_TEXT_BYTES:,} cannot be read",
            column=name,
            example=found[longest].as_py(),
            remedy="Shorten the texts, or leave the column out",
        )
    distinct: list[str | None] = found.to_pylist()
    return distinct


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, with one dictionary if it has dictionaries; a file may have thousands."""
    type_ = column.type
    if pa.types.is_dictionary(type_) and not column.num_chunks:
        # Arrow itself makes one of no chunks of most types only, and of decimals none.
        return pa.DictionaryArray.from_arrays(pa.array([], type_.index_type), pa.array([], type_.value_type))
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], type_)
    return whole


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def first_value(column: pa.ChunkedArray) -> object:
    values = column.drop_null()
    return python_values(values.slice(0, 1))[0] if len(values) else None


def python_values(values: pa.ChunkedArray) -> list[Any]:
    """Cells as Python values; times that Python has no name for, such as infinity, as what is stored."""
    try:
        found: list[Any] = values.to_pylist()
        return found
    except (OverflowError, ValueError):
        return [_python_value(cell) for cell in plain(values)]


def _python_value(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except (OverflowError, ValueError):
        return f"{cell.value} {_unit(cell.type)} since 1970"


def count_texts(column: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null())
    names, counts = counted.field("values"), counted.field("counts")
    return dict(sorted(zip(names.to_pylist(), counts.to_pylist(), strict=True)))


def as_text(name: str, column: pa.ChunkedArray, *, whole: bool, floats: bool = False) -> pa.DictionaryArray:
    """A column as a dictionary of texts, null where null or NaN was; what is there prints as in Python.

    `whole` and `floats` say that numbers print as integers, or all as floats (`Plan`).
    """
    column = _encodable(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = _one_chunk(column)
    indices = encoded.indices.cast(pa.int32())
    texts = _print_values(name, encoded.dictionary, whole=whole, floats=floats)
    if texts.null_count:
        # NaN is a value to Arrow; as a null among the texts, dictionaries of parts could not be joined.
        there = pc.is_valid(texts).to_numpy(zero_copy_only=False)
        places = pa.array((np.cumsum(there) - 1).astype(np.int32), mask=~there)
        indices, texts = places.take(indices), texts.drop_null()
    return pa.DictionaryArray.from_arrays(indices, texts)


def map_texts(column: pa.DictionaryArray, change: Callable[[str | None], str | None]) -> pa.Array:
    """Apply a function to the distinct texts, None where null was; equal results share a code."""
    texts, indices = column.dictionary.to_pylist(), column.indices
    if indices.null_count:
        # A null cell has no text to point to.
        indices = pc.fill_null(indices, len(texts))
        texts.append(None)
    encoded = pa.array([change(text) for text in texts], pa.string()).dictionary_encode()
    indices = encoded.indices.take(indices)
    return pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), encoded.dictionary)


def _encodable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, or the same in a type that Arrow can make a dictionary of."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal32(column.type) or pa.types.is_decimal64(column.type):
        return column.cast(pa.decimal128(column.type.precision, column.type.scale))
    return column


def _print_values(name: str, values: pa.Array, *, whole: bool, floats: bool) -> pa.Array:
    kind = kind_of(name, values.type)
    if kind == "O":
        return values.cast(pa.string())
    if floats and not whole and (kind == "i" or pa.types.is_decimal(values.type)):
        # Another part has other numbers in this column: one value must not have two spellings.
        return _print_as_floats(values)
    if kind == "f" and not pa.types.is_decimal(values.type):
        numbers = shortest(values)
        if not whole:
            return _float_texts(numbers)
        texts = np.where(np.isnan(numbers), 0, numbers).astype(np.int64).astype(str)
        return pa.array(texts, pa.string(), mask=np.isnan(numbers))
    if kind == "f" and whole:
        return pa.array(
            [None if value is None else str(int(value)) for value in values.to_pylist()], pa.string()
        )
    if kind == "b":
        return pc.if_else(values, "True", "False")
    if kind == "M":
        texts = pc.strftime(values, format="%Y-%m-%d") if whole else _print_times(values)
        named = _has_name(values)
        if named.all():
            return texts
        # Beyond its calendar, Arrow names other years.
        stored = [f"{number} {_unit(values.type)} since 1970" for number in _numbers(values).tolist()]
        return pc.if_else(pa.array(named), texts, stored)
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())


def _float_texts(numbers: Floats) -> pa.Array:
    return pa.array(numbers.astype("S32").astype(str), pa.string(), mask=np.isnan(numbers))


_EXACT_DIGITS = 15
"""Of a decimal, that its nearest float always gives back (IEEE 754)."""


def _print_as_floats(values: pa.Array) -> pa.Array:
    """Integers and decimals as the floats that they are; what no float is, such as a long id, exactly."""
    numbers = as_floats(pa.chunked_array([values]))
    if pa.types.is_decimal(values.type):
        exact = values.type.precision <= _EXACT_DIGITS
    else:
        exact = bool(np.nanmax(np.abs(numbers), initial=0.0) < 2**53)
    if exact:
        return _float_texts(numbers)

    def text(value: int | Decimal) -> str:
        number = float(value)
        return str(number) if Decimal(str(number)) == value else f"{Decimal(value):f}"

    return pa.array([None if value is None else text(value) for value in values.to_pylist()], pa.string())


_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
"""Of the years 1 to 9999, since 1970."""
_PER_DAY = {"days": 1, "s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def _unit(type_: pa.DataType) -> str:
    return "days" if pa.types.is_date32(type_) else getattr(type_, "unit", "ms")


def _numbers(times: pa.Array) -> Ints:
    """Times as they are stored, 0 for null."""
    stored = times.cast(pa.int32()) if pa.types.is_date32(times.type) else times
    numbers: Ints = pc.fill_null(stored.cast(pa.int64()), 0).to_numpy()
    return numbers


def _has_name(times: pa.Array) -> Mask:
    """Which times are in a year that Python has a name for."""
    per_day = _PER_DAY[_unit(times.type)]
    days = _numbers(times) // per_day
    named: Mask = (days >= _FIRST_DAY) & (days <= _LAST_DAY)
    return named


_FRACTIONS = ((r"\.0+$", ""), (r"(\.\d{3})$", r"\1000"), (r"(\.\d{6})000$", r"\1"))
"""How Python prints fractions of a second: none, six digits, or nine where there are nanoseconds."""


def _print_times(values: pa.Array) -> pa.Array:
    """By the clock of their zone; with the offset where that clock showed the same time twice."""
    texts = pc.strftime(values, format="%Y-%m-%d %H:%M:%S")
    for pattern, replacement in _FRACTIONS:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
    zone = values.type.tz if pa.types.is_timestamp(values.type) else None
    if zone is None:
        return texts
    shown = pc.local_timestamp(values)
    first, last = (
        pc.assume_timezone(shown, zone, ambiguous=which, nonexistent=which)
        for which in ("earliest", "latest")
    )
    offsets = pc.replace_substring_regex(
        pc.strftime(values, format="%z"), pattern=r"(\d\d)$", replacement=r":\1"
    )
    return pc.binary_join_element_wise(texts, pc.if_else(pc.equal(first, last), "", offsets), "")


def shortest(values: pa.Array | pa.ChunkedArray) -> Floats:
    """Floats as float64, NaN for null; from fewer bits, the number that their shortest text names."""
    floats: npt.NDArray[Any] = (
        values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
    )
    return floats if floats.dtype == np.float64 else floats.astype("S32").astype(np.float64)


def used_texts(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A text column as a dictionary; what no row holds is not in it, and cannot be found fault with."""
    texts = plain(column).cast(pa.string())
    return as_text("", texts, whole=True)


def parse_number(text: str | None) -> float | None:
    """The number a text stands for; NaN when it is blank, None when it is no number."""
    if text is None or not text.strip():
        return np.nan
    try:
        return float(text)
    except ValueError:
        return None


def take_coded(values: Floats, indices: pa.Array) -> Floats:
    """Values by code, NaN where the code is null."""
    padded = np.append(values, np.nan)
    taken: Floats = padded[_filled(indices)]
    return taken


def mask_coded(values: Mask, indices: pa.Array) -> Mask:
    taken: Mask = np.append(values, np.False_)[_filled(indices)]
    return taken


def _filled(indices: pa.Array) -> npt.NDArray[np.int64]:
    # -1 addresses the element appended for null.
    filled: npt.NDArray[np.int64] = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return filled


def as_floats(column: pa.ChunkedArray) -> Floats:
    """A numeric column as a new float64 array, nulls as NaN."""
    column = plain(column)
    if pa.types.is_decimal(column.type):
        # Arrow makes some floats of decimals that are not the nearest; of text it makes those that are.
        column = column.cast(pa.string())
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return np.array(values)


_NOTHING = frozenset(("-", "--", ".", "na", "n/a", "nat", "none", "null", "<na>", "unknown"))
"""How a missing number reads where somebody made text of it, in small letters."""


def no_numbers(column: pa.ChunkedArray) -> tuple[Mask, str | None]:
    """Which cells of a column of text are no number though they say something, and one of them."""
    encoded = used_texts(column)
    texts = encoded.dictionary.to_pylist()
    bad = np.array(
        [parse_number(text) is None and text.strip().lower() not in _NOTHING for text in texts], np.bool_
    )
    example = next((text for text, one in zip(texts, bad.tolist(), strict=True) if one), None)
    return mask_coded(bad, encoded.indices), example


def as_numbers(name: str, column: pa.ChunkedArray) -> Floats:
    """A column as numbers, NaN for whatever is none."""
    kind = kind_of(name, column.type)
    if kind in "fib":
        return as_floats(column)
    if kind == "M":
        return np.full(len(column), np.nan)
    encoded = as_text(name, column, whole=True)
    parsed = [parse_number(text) for text in encoded.dictionary.to_pylist()]
    return take_coded(
        np.array([np.nan if one is None else one for one in parsed], np.float64), encoded.indices
    )
