"""Columns of extension types: a plain type, and a note of Arrow's or Parquet's that says what is meant.

Whether Arrow shows such a column as its extension type or as the plain one depends on what else was imported
into the process, so the note is read here. What other columns become is in `columns.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import InputError, shorten

_NAME, _NOTE = b"ARROW:extension:name", b"ARROW:extension:metadata"


@dataclass(frozen=True)
class Meant:
    """What is meant by a column of an extension type."""

    type: pa.DataType
    """As which it is read."""
    values: Callable[[pa.ChunkedArray], pa.ChunkedArray]
    """What is meant, from what is stored."""

    def read(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if isinstance(column.type, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        return self.values(column)


def meant_by(field: pa.Field) -> Meant | None:
    """What is meant by a column; None where that is what its type says, or where nothing can be made of it.

    Raises InputError for periods of which nobody can say when they begin.
    """
    extended = isinstance(field.type, pa.BaseExtensionType)
    name = (
        field.type.extension_name
        if extended
        else (field.metadata or {}).get(_NAME, b"").decode(errors="replace")
    )
    if name == "arrow.json":
        return Meant(pa.string(), lambda column: column)
    if name == "arrow.uuid":
        return UUIDS
    if name == "arrow.bool8":
        return Meant(pa.bool_(), lambda column: column.cast(pa.bool_()))
    if name == "pandas.period":
        note = field.type.__arrow_ext_serialize__() if extended else (field.metadata or {}).get(_NOTE, b"")
        return _periods(field.name, note)
    return None


# --- UUIDs -----------------------------------------------------------------------------------------

_DASHED = np.array([2 * byte + sum(byte >= dash for dash in (4, 6, 8, 10)) for byte in range(16)])
"""Where the two digits of each byte stand in the text of a UUID (RFC 9562, 4)."""
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def _uuid_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """UUIDs, each of 16 bytes, as their texts."""
    stored = pa.concat_arrays([pa.array([], column.type), *column.chunks])
    end = stored.offset + len(stored)
    values = np.frombuffer(stored.buffers()[1] or b"", np.uint8, 16 * end).reshape(-1, 16)[stored.offset :]
    texts = np.full((len(values), 36), ord("-"), np.uint8)
    texts[:, _DASHED], texts[:, _DASHED + 1] = _DIGITS[values >> 4], _DIGITS[values & 15]
    ends = np.arange(0, 36 * len(values) + 1, 36, dtype=np.int32)
    found = pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(texts))
    return pa.chunked_array([pc.if_else(stored.is_valid(), found, None)])


UUIDS = Meant(pa.string(), _uuid_texts)


# --- periods ---------------------------------------------------------------------------------------

_FREQUENCY = re.compile(r"\d*([A-Za-z]+)(?:-([A-Z]{3}))?")
_UNITS = {
    **dict.fromkeys(("Y", "A"), ("M", 12)),
    "Q": ("M", 3),
    "M": ("M", 1),
    "W": ("D", 7),
    "D": ("D", 1),
    "H": ("h", 1),
    **dict.fromkeys(("MIN", "T"), ("m", 1)),
    "S": ("s", 1),
    **dict.fromkeys(("MS", "L"), ("ms", 1)),
    **dict.fromkeys(("US", "U"), ("us", 1)),
    **dict.fromkeys(("NS", "N"), ("ns", 1)),
}
"""What pandas counts for each of its frequencies: so many of a unit of NumPy."""
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LAST_MONTHS: dict[str | None, int] = {month: number - 11 for number, month in enumerate(_MONTHS)}
_LAST_DAYS: dict[str | None, int] = {day: number - 10 for number, day in enumerate(_DAYS)}
_LASTS = {"Y": _LAST_MONTHS, "A": _LAST_MONTHS, "Q": _LAST_MONTHS, "W": _LAST_DAYS}
"""Last month of a year, last day of a week; and when period 0 begins, months or days from 1970."""
_ENDS_OF_TIME = {"M": 10**6, "D": 10**8, "h": 10**9, "m": 10**11, "s": 10**12}
"""Beyond any time that is kept, and near enough to be counted in seconds."""


def _periods(name: str, note: bytes) -> Meant:
    """Each period as the time at which it begins."""
    try:
        frequency = str(json.loads(note)["freq"])
    except (ValueError, KeyError, TypeError, RecursionError):
        frequency = "an unknown frequency"
    match = _FREQUENCY.fullmatch(frequency)
    base, last = (match[1].upper(), match[2]) if match else ("", None)
    lasts = _LASTS.get(base, {None: 0})
    if base not in _UNITS or last not in lasts:
        raise InputError(
            f"periods of {shorten(frequency)} cannot be read",
            column=name,
            remedy="Write the first day of each period, as a date",
        )
    unit, count = _UNITS[base]
    first, limit = lasts[last], _ENDS_OF_TIME.get(unit, 2**63 - 1)
    type_ = pa.timestamp(unit if unit in ("ms", "us", "ns") else "s")

    def begins(column: pa.ChunkedArray) -> pa.ChunkedArray:
        numbers: npt.NDArray[np.int64] = column.fill_null(0).to_numpy()
        numbers = np.clip(numbers, -limit, limit) * count + first
        times = numbers.astype(f"datetime64[{unit}]").astype(f"datetime64[{type_.unit}]")
        return pa.chunked_array([pa.array(times, type_, mask=column.is_null().to_numpy())])

    return Meant(type_, begins)
