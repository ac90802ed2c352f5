"""Timestamps of any type as milliseconds UTC: numbers, dates and the spellings of text.

What numbers are taken for follows from the request alone; what they look like is told here, too, and judged
by the checks. The table of spellings is in `docs/bad-input.md`.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import as_floats, first_value, kind_of, plain, take_coded, used_texts
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.groups import Floats, Ints, Mask
from datacube_assets.kernels.plan import Options, TimeUnit

MAX_TIMESTAMP = 9_223_372_036_854
"""Last and (negated) first millisecond kept: what 64-bit nanoseconds hold."""
LARGEST = 2**63 - 1
"""What stands, with its sign, for times that 64 bits do not hold."""

_PER_MILLISECOND = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_MILLISECONDS = {"s": 1_000, "day": 86_400_000}
REMEDY = "Give milliseconds UTC, dates or ISO 8601 text"


@dataclass(frozen=True)
class Times:
    """The timestamps of a batch."""

    milliseconds: Ints
    """UTC. The time to fill in where there was none; out of range as it came, as far as 64 bits hold it."""
    missing: Mask
    invalid: Mask
    """Out of range."""
    looks: Mapping[str, int]
    """Timestamps that were numbers, by what numbers of their size mostly are (`LOOKS`)."""


def times_of(column: pa.ChunkedArray, options: Options) -> Times:
    """The timestamps of a column. Raises InputError when they are none."""
    kind, unit = kind_of("timestamp", column.type), options.timestamp_unit
    if kind == "b":
        raise InputError(
            "booleans are no timestamps", column="timestamp", example=first_value(column), remedy=REMEDY
        )
    if kind == "O":
        return _of_texts(column, options)
    if kind == "f":
        floats = as_floats(column)
        missing = np.isnan(floats)
        return _filled(_from_floats(floats, unit), missing, options, _looks(floats[~missing]))
    column = plain(column)
    missing = column.is_null().to_numpy()
    # Integers must not pass through floats: beyond 2**53 these lose the millisecond.
    numbers, of_dates = _whole_numbers(column)
    if kind == "M":
        return _filled(_from_integers(numbers, of_dates), missing, options, {})
    looks = _looks(numbers[~missing] if column.null_count else numbers)
    return _filled(_from_integers(numbers, unit), missing, options, looks)


def _filled(times: Ints, missing: Mask, options: Options, looks: Mapping[str, int]) -> Times:
    if missing.any():
        times = np.where(missing, options.fill_timestamp, times)
    return Times(times, missing, (times > MAX_TIMESTAMP) | (times < -MAX_TIMESTAMP), looks)


def _whole_numbers(column: pa.ChunkedArray) -> tuple[Ints, str]:
    """Integers or dates as 64-bit integers, 0 where null; and the unit of dates."""
    type_ = column.type
    if pa.types.is_uint64(type_):
        column = pc.min_element_wise(column, pa.scalar(LARGEST, pa.uint64()), skip_nulls=False)
    unit = "day" if pa.types.is_date32(type_) else "ms" if pa.types.is_date64(type_) else ""
    if pa.types.is_date32(type_):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(type_):
        unit = type_.unit
    column = column.cast(pa.int64())
    return (pc.fill_null(column, 0) if column.null_count else column).to_numpy(), unit


def _from_integers(numbers: Ints, unit: str) -> Ints:
    """Milliseconds of times in a unit; the last one that has begun."""
    if unit in _MILLISECONDS:
        factor = _MILLISECONDS[unit]
        # Where it would not fit, the largest number stands for it.
        highest = LARGEST // factor
        inside = np.clip(numbers, -highest, highest)
        return np.where(inside == numbers, inside * factor, np.sign(numbers) * LARGEST)
    per = _PER_MILLISECOND[unit]
    # The smallest number stands for no time at all, in NumPy and pandas.
    return numbers if per == 1 else _last_begun(numbers // per, (numbers % per != 0) & (numbers >= -LARGEST))


def _from_floats(numbers: Floats, unit: TimeUnit) -> Ints:
    with np.errstate(over="ignore", invalid="ignore"):
        times = np.floor(numbers * _MILLISECONDS["s"] if unit == "s" else numbers / _PER_MILLISECOND[unit])
        fits = np.abs(times) < 2.0**63
        whole = np.where(fits, times, 0).astype(np.int64)
        return np.where(
            fits, _last_begun(whole, numbers != np.floor(numbers)), np.where(times > 0, LARGEST, -LARGEST)
        )


def _last_begun(times: Ints, fraction: Mask) -> Ints:
    """The times, the first one that is kept among them where what came is a fraction before it."""
    return np.where((times == -MAX_TIMESTAMP - 1) & fraction, -MAX_TIMESTAMP, times)


# --- texts -----------------------------------------------------------------------------------------

_MISSING = frozenset(("", "nan", "nat", "none", "null", "<na>"))
"""How a missing time reads where somebody made text of it, in small letters."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_DIGITS = re.compile(r"(\d{4}|\d{6}|\d{8})(?:\.0+)?")
"""Digits as many as those of a year, month or day; the point comes of missing ones elsewhere."""
_WRITTEN = re.compile(r"(\d{4})(?:([-/_])(\d{1,2})|([-/._])(\d{1,2})\4(\d{1,2})(?:(?:T| +)(\d.*))?)")
"""A month, or a day and maybe a time, in one of the ways in which years come first."""
_ORDINAL = re.compile(r"\d{4}-\d{3}")
_MIDNIGHT = re.compile(r"24:00(?::00(?:\.0+)?)?")
_LEAP = "23:59:60"
_ZONE = re.compile(r"(?<=\d) ?(?:UTC|GMT|z)$")
_NAMED_ZONE = re.compile(r"(?i)(z|[+-]\d\d:?\d\d)\[[^\[\]]+\]$")
"""The name of a zone behind the offset, which says all there is to say."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)


def _of_texts(column: pa.ChunkedArray, options: Options) -> Times:
    encoded = used_texts(column)
    parsed = [_parse(text, options.timestamp_unit) for text in encoded.dictionary.to_pylist()]
    codes = pc.fill_null(encoded.indices, len(parsed)).to_numpy()
    times = np.array([*(time or 0 for time, _ in parsed), 0], np.int64)[codes]
    missing = np.array([*(time is None for time, _ in parsed), True], np.bool_)[codes]
    numbers = take_coded(np.array([number for _, number in parsed], np.float64), encoded.indices)
    return _filled(times, missing, options, _looks(numbers[~np.isnan(numbers)]))


def _parse(text: str | None, unit: TimeUnit) -> tuple[int | None, float]:
    """Milliseconds UTC of a text, None if it says that there is none; and the number if it is one, or NaN.

    Four, six and eight digits are a year, month and day: no time in any unit is that close to 1970.
    Raises InputError for what is neither a number nor a date and time with the year first.
    """
    text = (text or "").strip()
    if text.lower() in _MISSING:
        return None, math.nan
    try:
        if match := _DIGITS.fullmatch(text):
            digits = match[1]
            return _since_epoch(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:] or 1)), math.nan
        if _NUMBER.fullmatch(text):
            return _parse_number(text, unit)
        return _parse_date(text), math.nan
    except (ValueError, OverflowError):
        raise InputError(
            "a timestamp cannot be read", column="timestamp", example=text, remedy=REMEDY
        ) from None


def _parse_number(text: str, unit: TimeUnit) -> tuple[int, float]:
    number: Any = float(text)
    try:
        exact = int(text)
    except ValueError:
        return int(_from_floats(np.array([number]), unit)[0]), number
    time = exact * _MILLISECONDS["s"] if unit == "s" else exact // _PER_MILLISECOND[unit]
    return max(-LARGEST, min(time, LARGEST)), number


def _parse_date(text: str) -> int:
    """Raises ValueError or OverflowError."""
    if _ORDINAL.fullmatch(text):
        moment = dt.datetime.strptime(text, "%Y-%j").replace(tzinfo=dt.UTC)
        if moment.year != int(text[:4]):
            raise ValueError("the year has 365 days")
        return (moment - _EPOCH) // _MILLISECOND
    later = 0
    if match := _WRITTEN.fullmatch(text):
        year, _, month, _, month_of_day, day_of_month, time = match.groups()
        if not time:
            return _since_epoch(int(year), int(month or month_of_day), int(day_of_month or 1))
        if time[1:2] == ":":
            time = f"0{time}"
        # The end of a day, which is the beginning of the next, and a second that is put in before it.
        if midnight := _MIDNIGHT.match(time):
            later, time = _MILLISECONDS["day"], "00:00" + time[midnight.end() :]
        elif time.startswith(_LEAP):
            later, time = _MILLISECONDS["s"], "23:59:59" + time[len(_LEAP) :]
        text = f"{year}-{int(month_of_day):02}-{int(day_of_month):02}T{time}"
    moment = dt.datetime.fromisoformat(_ZONE.sub("Z", _NAMED_ZONE.sub(r"\1", text)))
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // _MILLISECOND + later


def _since_epoch(year: int, month: int, day: int) -> int:
    return (dt.datetime(year, month, day, tzinfo=dt.UTC) - _EPOCH) // _MILLISECOND


# --- what numbers look like ------------------------------------------------------------------------

LOOKS: Mapping[str, str] = {
    "year": "years, such as 2020",
    "month": "years and months, such as 202001",
    "day": "dates, such as 20200131",
    "day of year": "years and days of the year, such as 2020031",
    "hour": "dates and hours, such as 2020013112",
    "minute": "dates and times, such as 202001311200",
    "second": "dates and times, such as 20200131120000",
    "days": "days since 1970",
    "Excel": "day numbers of a spreadsheet (43831 is 2020-01-01)",
    "Julian": "Julian day numbers",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "": "none of these",
}
"""What numbers of some size mostly are, by name; units of time by their own names."""

_FIRST_YEAR, _LAST_YEAR = 1500, 2200
_SIZES: tuple[tuple[float, str], ...] = (
    (0, ""),
    (_FIRST_YEAR, "year"),
    (_LAST_YEAR, ""),
    (4_000, "days"),
    (25_000, "Excel"),
    (80_000, ""),
    (_FIRST_YEAR * 100, "month"),
    (_LAST_YEAR * 100, ""),
    (_FIRST_YEAR * 1_000, "day of year"),
    (_LAST_YEAR * 1_000, ""),
    (2_300_000, "Julian"),
    (2_500_000, ""),
    (_FIRST_YEAR * 10_000, "day"),
    (_LAST_YEAR * 10_000, ""),
    (1e8, "s"),
    (1e10, "ms"),
    (1e14, "us"),
    (1e17, "ns"),
)
"""From which number on numbers look like what."""
_DATED = {"hour": 1e2, "minute": 1e4, "second": 1e6}
"""By how much the digits of a date come before those of a time, in numbers that may as well be times."""


def _looks(numbers: npt.NDArray[np.int64] | Floats) -> dict[str, int]:
    if not len(numbers):
        return {}
    if numbers.min() >= _LAST_YEAR * 1e8 and numbers.max() < _FIRST_YEAR * 1e10:
        return {"ms": len(numbers)}
    sizes = np.abs(numbers.astype(np.float64))
    sizes = np.where(np.isfinite(sizes), sizes, 0)
    place = np.searchsorted([size for size, _ in _SIZES], sizes, side="right") - 1
    counts: dict[str, int] = {}
    for at in np.unique(place).tolist():
        look, here = _SIZES[at][1], place == at
        if look in ("month", "day", "day of year"):
            of_calendar = _of_calendar(look, sizes[here])
            counts[""] = counts.get("", 0) + int((~of_calendar).sum())
            counts[look] = int(of_calendar.sum())
        else:
            counts[look] = counts.get(look, 0) + int(here.sum())
    for dated, times in _DATED.items():
        if count := _of_clock(sizes, times):
            counts["s" if dated == "hour" else "ms"] -= count
            counts[dated] = count
    return {look: count for look, count in counts.items() if count}


def _of_calendar(look: str, numbers: Floats) -> Mask:
    """Which numbers have digits of a month, a day of a month or a day of a year."""
    if look == "day of year":
        return (numbers % 1000 >= 1) & (numbers % 1000 <= 366)
    month, day = (numbers % 100, 1.0) if look == "month" else (numbers // 100 % 100, numbers % 100)
    found: Mask = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    return found


def _of_clock(numbers: Floats, times: float) -> int:
    """How many numbers have the digits of a day, and behind them those of hours, minutes and seconds."""
    first, last = (year * 10_000 * times for year in (_FIRST_YEAR, _LAST_YEAR))
    days, rest = np.divmod(numbers[(numbers >= first) & (numbers < last)], times)
    found: Mask = _of_calendar("day", days) & (rest == np.floor(rest)) & (rest < 24 * times / 100)
    while times > 100:
        times /= 100
        found &= rest % 100 < 60
        rest //= 100
    return int(found.sum())


def other_look(looks: Mapping[str, int], unit: str) -> str:
    """What most of the numbers look like, if it is something else than what they are read as."""
    look, count = max(looks.items(), key=lambda item: item[1], default=("", 0))
    return look if look not in ("", unit) and 2 * count > sum(looks.values()) else ""


def advice(look: str) -> str:
    """What to do about numbers that look so."""
    if look in ("s", "ms", "us", "ns"):
        return f"publish again with --timestamp-unit {look}"
    return "write dates or text, such as 2020-01-31, or milliseconds UTC"
