"""Timestamps of any type as milliseconds UTC: numbers, dates and the spellings of text.

Whether the times that come out are plausible is judged by the checks.
"""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import (
    as_floats,
    first_value,
    kind_of,
    parse_number,
    plain,
    take_coded,
    used_texts,
)
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.groups import Floats, Mask
from datacube_assets.kernels.plan import Options

MAX_TIMESTAMP = 9_223_372_036_854
"""Last and (negated) first millisecond kept: what 64-bit nanoseconds hold."""
_YEAR = re.compile(r"\d{4}")
_DATE = re.compile(r"(?:1[5-9]|2[01])\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""Eight digits that read as a date; as milliseconds they would be an hour of January 1970."""
_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:[-/](\d{1,2}))?(?:[-/](\d{1,2}))?")


def milliseconds(column: pa.ChunkedArray, options: Options) -> tuple[npt.NDArray[np.int64], Mask, Mask]:
    """Timestamps in ms UTC, which were missing (and filled), and which are out of range."""
    kind = kind_of("timestamp", column.type)
    scale = 1000 if options.timestamp_unit == "s" else 1
    if kind == "b":
        raise InputError(
            "booleans are no timestamps",
            column="timestamp",
            example=first_value(column),
            remedy="Give milliseconds UTC, dates or ISO 8601 text",
        )
    if kind == "i" and not pa.types.is_uint64(column.type) and column.null_count == 0:
        # Integers must not pass through floats: beyond 2**53 these lose the millisecond.
        times = plain(column).cast(pa.int64()).to_numpy()
        invalid = (times > MAX_TIMESTAMP // scale) | (times < -(MAX_TIMESTAMP // scale))
        return np.where(invalid, 0, times) * scale, np.zeros(len(times), np.bool_), invalid
    if kind in "fi":
        times = as_floats(plain(column)) * scale
    elif kind == "M":
        # Seconds hold every date that 64 bits of any unit can name; below a second only what is kept.
        seconds = plain(column).cast(pa.timestamp("s"), safe=False)
        inside = pc.and_(
            pc.less_equal(seconds.cast(pa.int64()), MAX_TIMESTAMP // 1000),
            pc.greater_equal(seconds.cast(pa.int64()), -(MAX_TIMESTAMP // 1000)),
        )
        fine = pc.if_else(inside, plain(column), None).cast(pa.timestamp("ms"), safe=False)
        outside = np.where(pc.fill_null(pc.invert(inside), False).to_numpy(), np.inf, np.nan)
        exact = as_floats(fine.cast(pa.int64()))
        times = np.where(np.isnan(exact), outside, exact)
    else:
        times = _parse_times(column, scale)
    missing = np.isnan(times)
    times[missing] = options.fill_timestamp
    invalid = (times >= MAX_TIMESTAMP + 0.775807) | (times < -MAX_TIMESTAMP - 0.775)
    times[invalid] = 0
    return np.floor(times).astype(np.int64), missing, invalid


def _parse_times(column: pa.ChunkedArray, scale: int) -> Floats:
    encoded = used_texts(column)
    parsed = [_parse_time(text, scale) for text in encoded.dictionary.to_pylist()]
    return take_coded(np.array(parsed, np.float64), encoded.indices)


def _parse_time(text: str | None, scale: int) -> float:
    """Milliseconds UTC of a text: a number in the request's unit, or a date and time of ISO 8601.

    Four digits are a year, eight that read so a date: no numeric timestamp is that close to 1970.
    Raises InputError for any other text.
    """
    text = (text or "").strip()
    number = None if _YEAR.fullmatch(text) or _DATE.fullmatch(text) else parse_number(text)
    if number is not None:
        return number * scale
    if match := _YEAR_OR_MONTH.fullmatch(text):
        year, month, day = (int(part or 1) for part in match.groups())
        text = f"{year:04}-{month:02}-{day:02}"
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            "a timestamp cannot be read",
            column="timestamp",
            example=text,
            remedy="Give milliseconds UTC, dates or ISO 8601 text",
        ) from None
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1)
