"""Every spelling of a time becomes that time, or is refused by name; numbers of another unit are told."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.checks.judging import plausibility
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.plan import Options
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.times import LARGEST, MAX_TIMESTAMP, Times, advice, other_look, times_of

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
IN_2020 = 1_577_836_800
"""Seconds UTC."""


def read(values: Any, type_: pa.DataType | None = None, **options: Any) -> Times:
    return times_of(pa.chunked_array([pa.array(values, type_)]), Options(**options))


def spelled(text: str) -> str:
    """The time that a text is read as, as ISO 8601."""
    times = read([text])
    assert not times.missing[0]
    moment = EPOCH + dt.timedelta(milliseconds=int(times.milliseconds[0]))
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds" if moment.microsecond else "seconds")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        *((year, "2020-01-01T00:00:00") for year in ("2020", "2020.0", " 2020 ")),
        *((month, "2020-03-01T00:00:00") for month in ("202003", "2020-03", "2020/3", "2020_03", "202003.0")),
        *(
            (day, "2020-03-05T00:00:00")
            for day in (
                "20200305",
                "2020-03-05",
                "2020/3/5",
                "2020_03_05",
                "2020.03.05",
                "2020-065",
                "20200305.0",
            )
        ),
        *((day, "2020-01-27T00:00:00") for day in ("2020-W05", "2020-W05-1", "2020W051")),
        ("1986/11/05 00:00:00", "1986-11-05T00:00:00"),
        ("1986/11/5T07:08", "1986-11-05T07:08:00"),
        ("1986/11/5 7:08", "1986-11-05T07:08:00"),
        ("1986-11-05 7:08:09+01:00", "1986-11-05T06:08:09"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        ("2016-12-31 23:59:60.5", "2017-01-01T00:00:00.500000"),
        ("1986-11-05  07:08:09.125", "1986-11-05T07:08:09.125000"),
        ("20200305T070809Z", "2020-03-05T07:08:09"),
        ("2020-03-05T07:08:09.123456789", "2020-03-05T07:08:09.123000"),
        ("2020-03-05 07:08:09 UTC", "2020-03-05T07:08:09"),
        ("2020-03-05T07:08:09+0530", "2020-03-05T01:38:09"),
        ("2020-03-05T07:08:09+03:00[Africa/Nairobi]", "2020-03-05T04:08:09"),
        ("2020-03-05T07:08:09Z[UTC]", "2020-03-05T07:08:09"),
        ("2020-12-31 24:00", "2021-01-01T00:00:00"),
        ("2020/12/31 24:00:00.0-01:00", "2021-01-01T01:00:00"),
    ],
)
def test_a_time_may_be_spelled_in_any_way_in_which_the_year_comes_first(text: str, time: str) -> None:
    assert spelled(text) == dt.datetime.fromisoformat(time).isoformat(
        timespec="milliseconds" if "." in time else "seconds"
    )
    assert read([text]).looks == {}


@pytest.mark.parametrize(
    "text",
    [
        *("05.01.2020", "05/01/2020", "01/05/20", "20-01-05", "31012020", "20201301", "202013", "200131"),
        *(
            "2020-13",
            "2020-02-30",
            "2021-366",
            "2020-000",
            "2020-W54",
            "2020-01-05T24:30",
            "2020-01-05 25:00",
        ),
        *("Jan 2020", "2020Q1", "2020-Q1", "1_577_836_800", "0000", "2020-01-", "2020-01/05", "5 Jan 2020"),
        *(
            "2020-01-05 07:08:09 PM",
            "2020-01-05 07:08:09 CET",
            "2020-01-05 07:08[CET]",
            "--",
            "n/a",
            "0x10",
            "2020-01-05 25:00",
        ),
    ],
)
def test_a_text_that_could_be_two_times_or_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="a timestamp cannot be read") as caught:
        read(["2020-01-05", text])
    assert (caught.value.column, caught.value.example) == ("timestamp", text)


@pytest.mark.parametrize("text", ["", " ", "nan", "NaN", "NaT", "None", "null", "<NA>", None])
def test_a_missing_time_may_be_spelled_as_data_frames_do(text: str | None) -> None:
    times = read([text, "2020"], pa.string(), fill_timestamp=7)
    assert times.missing.tolist() == [True, False]
    assert times.milliseconds.tolist() == [7, IN_2020 * 1000]


def test_spellings_may_differ_within_a_column() -> None:
    times = read(["2020", "2020-01-01T00:00+00:00", "1577836800000", "1577836800000.0", "1.5778368e12"])
    assert set(times.milliseconds.tolist()) == {IN_2020 * 1000}
    assert times.looks == {"ms": 3}


@pytest.mark.parametrize("per_second", [1, 1000, 10**6, 10**9], ids=["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string(), pa.float64()], ids=str)
@pytest.mark.parametrize("gap", [False, True])
def test_numbers_are_read_in_the_unit_of_the_request(per_second: int, kind: pa.DataType, gap: bool) -> None:
    unit: Any = {1: "s", 1000: "ms", 10**6: "us", 10**9: "ns"}[per_second]
    # A number whose neighbours no float can tell apart.
    moments = [IN_2020 * per_second, (IN_2020 + 3) * per_second + per_second // 1000]
    column = pa.array([*moments, *([None] if gap else [])], pa.int64()).cast(kind, safe=False)
    times = times_of(pa.chunked_array([column]), Options(timestamp_unit=unit))
    exact = [IN_2020 * 1000, (IN_2020 + 3) * 1000 + (per_second > 1), *([0] if gap else [])]
    assert all(
        abs(a - b) <= (kind == pa.float64()) for a, b in zip(times.milliseconds.tolist(), exact, strict=True)
    )
    assert times.looks == {unit: 2}


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_a_time_is_the_last_millisecond_that_has_begun_whatever_the_type(number: int, unit: Any) -> None:
    time = number * 1000 if unit == "s" else number // {"ms": 1, "us": 1000, "ns": 10**6}[unit]
    time = max(-LARGEST, min(time, LARGEST))
    ways = [
        read([number], pa.int64(), timestamp_unit=unit),
        read([number, None], pa.int64(), timestamp_unit=unit),
        read([number], pa.timestamp(unit)),
    ]
    if len(str(abs(number))) > 8:
        ways.append(read([str(number)], timestamp_unit=unit))
    for way in ways:
        found = int(way.milliseconds[0])
        # The first instant that is kept is a fraction of a millisecond before the first number that is.
        assert found == time or (found, time) == (-MAX_TIMESTAMP, -MAX_TIMESTAMP - 1)
        assert bool(way.invalid[0]) == (abs(found) > MAX_TIMESTAMP)


# --- what numbers look like ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "look", "told"),
    [
        ([1950, 2020, 2021], "year", "write dates or text, such as 2020-01-31"),
        ([2020.0, 2020.5], "year", "write dates"),
        ([202001, 202012], "month", "write dates"),
        ([20200131, 20201201], "day", "write dates"),
        ([2020031, 2020366], "day of year", "write dates"),
        ([2020013100, 2020020123], "hour", "write dates"),
        ([202001310000, 202002012359], "minute", "write dates"),
        (["202001310000", "202002012359"], "minute", "write dates"),
        ([18262, 18293], "days", "write dates"),
        ([43831, 43862.5], "Excel", "write dates"),
        ([2458849, 2458880], "Julian", "write dates"),
        ([IN_2020, -86_400 * 4000], "s", "--timestamp-unit s"),
        ([IN_2020 * 10**6, -IN_2020 * 10**6], "us", "--timestamp-unit us"),
        ([IN_2020 * 10**9], "ns", "--timestamp-unit ns"),
        (["1577836800", "1580515200"], "s", "--timestamp-unit s"),
    ],
)
def test_numbers_that_look_like_something_else_are_told_with_what_to_do(
    numbers: list[Any], look: str, told: str
) -> None:
    report = Report(timestamps_look_like=read(numbers).looks, min_timestamp=0, max_timestamp=IN_2020)
    assert other_look(report.timestamps_look_like, "ms") == look
    verdict = plausibility.timestamps(report, unit="ms")
    assert not verdict.passed
    assert told in verdict.says
    assert told in advice(look)


@pytest.mark.parametrize(
    ("numbers", "unit"),
    [
        ([IN_2020 * 1000] * 2, "ms"),
        ([-3_000_000_000_000, 20_000_000_000], "ms"),
        # The beginning of 1970 among later times.
        ([0, 86_400_000, 2_678_400_000, 15_638_400_000, 31_536_000_000, 63_072_000_000], "ms"),
        ([IN_2020, None], "s"),
        ([IN_2020 * 10**9], "ns"),
        # As many digits, and no months of a year.
        ([202013, 202099], "ms"),
        # Of 1974 and 1975, when milliseconds begin as years do, and of 2020.
        ([157_766_400_000, 160_444_800_000, 162_864_000_000, 165_542_400_000], "ms"),
        ([201_601_310_000, IN_2020 * 1000, IN_2020 * 1000], "ms"),
        ([1_512_129_600, 1_514_808_000, IN_2020], "s"),
        ([202001312400, 202001310060], "ms"),
        ([], "ms"),
    ],
)
def test_numbers_in_the_unit_of_the_request_are_not_told(numbers: list[Any], unit: Any) -> None:
    assert other_look(read(numbers, pa.int64(), timestamp_unit=unit).looks, unit) == ""


def test_dates_with_times_that_are_out_of_range_are_told_so() -> None:
    times = read([20200131120000, 20200201235959])
    assert times.invalid.all()
    assert other_look(times.looks, "ms") == "second"


def test_milliseconds_read_as_seconds_are_told_as_well() -> None:
    looks = read([IN_2020 * 1000], timestamp_unit="s").looks
    says = plausibility.timestamps(Report(timestamps_look_like=looks), unit="s").says
    assert says.startswith("The timestamps look like milliseconds, and are read as seconds: publish again")
    assert says.endswith("--timestamp-unit ms")


def test_a_sentinel_or_a_gap_does_not_hide_the_unit() -> None:
    looks = read([None, -9999, 0, *([IN_2020] * 5)], pa.int64()).looks
    assert other_look(looks, "ms") == "s"


@pytest.mark.parametrize("unit", ["ns", "us"])
def test_what_stands_for_no_time_in_numpy_is_none(unit: str) -> None:
    # As pandas gives it, where missing times were made integers.
    times = read([-(2**63), -(2**63) + 1], timestamp_unit=unit)
    assert times.invalid.tolist() == [True, unit == "us"]
