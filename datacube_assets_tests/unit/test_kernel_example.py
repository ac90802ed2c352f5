"""The worked example (docs/specification/from-rows-to-figures.md#a-worked-example) and the observations of
docs/specification/observed-original.md, line by line.

Where docs/differences.md makes us differ, the test says which difference and asserts ours.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from inline_snapshot import snapshot

from datacube_assets_tests.unit.kernel_helpers import DAY, FEB_2020, JAN_2020, Datacube, Row, datacube, ms

JUNE_1960 = -302486400000


def rows() -> list[Row]:
    oromia = {"country": "Ethiopia", "admin1": "Oromia"}
    bale = {**oromia, "admin2": "Bale", "admin3": "X", "lat": 7.0, "lng": 40.0}
    guji = {**oromia, "admin2": "Guji", "admin3": "Y", "lat": 5.5, "lng": 39.0}
    kericho = {"country": "Kenya", "admin1": "Kericho", "lat": -0.4, "lng": 35.1}
    east = {**kericho, "admin1": "Kericho//East"}
    nyamira = {"country": "Kenya", "admin1": "Nyamira", "admin2": "NM", "lat": -0.5, "lng": 35.0}
    table = [
        (ms(2020, 1, 5), bale, 1.5, "maize", 2),
        (ms(2020, 1, 25), bale, 2.5, "maize", 4),
        (ms(2020, 2, 25), bale, 10.0, "teff", 1),
        (ms(2020, 2, 25), guji, 20.0, "maize", None),
        (ms(2020, 2, 25), kericho, 30.0, "maize", 3),
        (ms(2020, 2, 25), east, 3.0, "maize", 3),
        (ms(1960, 6, 15), nyamira, float("inf"), "maize", 3),
    ]
    return [
        {"timestamp": time, **place, "feature": "yield", "value": value, "crop": crop, "wt": wt, "year": 2020}
        for time, place, value, crop, wt in table
    ]


def example(**options: Any) -> Datacube:
    return datacube(rows(), qualifiers={"yield": ["crop"]}, **options)


GLOBAL = "month/yield/timeseries/global/global.csv"


def test_d8_global_timeseries_without_a_weight_column() -> None:
    # Difference 15: ascending, so 1960 comes first.
    assert example().text(GLOBAL) == snapshot("""\
timestamp,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
-302486400000,0.0,0.0,0.0,,0
1577836800000,4.0,2.0,4.0,2.0,2
1580515200000,63.0,15.75,63.0,15.75,4
""")


def test_d8_global_timeseries_with_a_weight_column() -> None:
    # Differences 6 and 15: the original wrote 0.0 for the means of 1960, where no value is present.
    assert example(weight_column="wt").text(GLOBAL) == snapshot("""\
timestamp,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count,s_sum_t_wavg,s_mean_t_wavg,s_wavg_t_sum,s_wavg_t_mean,s_wavg_t_wavg
-302486400000,0.0,0.0,0.0,,0,0.0,,0.0,,
1577836800000,4.0,4.0,2.0,2.0,1,2.1666666666666665,2.1666666666666665,4.0,2.0,2.1666666666666665
1580515200000,63.0,15.75,63.0,15.75,4,43.0,14.333333333333334,15.571428571428571,15.571428571428571,15.571428571428571
""")


def test_d8_qualifier_timeseries() -> None:
    # Differences 5 and 15: ascending, columns by name, counts are integers in a column with a gap too.
    assert example().text("month/yield/timeseries/qualifiers/crop/s_count.csv") == (
        "timestamp,maize,teff\n-302486400000,0,\n1577836800000,2,\n1580515200000,3,1\n"
    )


def test_d8_regional_map() -> None:
    assert example().text(f"month/yield/regional/admin1/aggs/{FEB_2020}/default/default.csv") == snapshot("""\
id,s_sum_t_sum,s_mean_t_sum,s_sum_t_mean,s_mean_t_mean,s_count
Ethiopia__Oromia,30.0,15.0,30.0,15.0,2
Kenya__Kericho,30.0,30.0,30.0,30.0,1
Kenya__KerichoEast,3.0,3.0,3.0,3.0,1
""")


def test_d8_grid_stats_and_tile() -> None:
    made = example()
    _, *lines = made.text(f"month/yield/stats/grid/{FEB_2020}.csv").splitlines()
    assert lines == [f"{zoom},10.0,33.0,10.0,33.0,10.0,20.0,10.0,20.0" for zoom in range(6, 15)]
    assert made.tile(f"month/yield/tiles/{FEB_2020}-0-0-0.tile") == {
        2086: (33.0, 33.0, 2.0),
        2022: (20.0, 20.0, 1.0),
        1959: (10.0, 10.0, 1.0),
    }
    # Difference 8: no statistics of the bucket whose only value is infinite.
    assert not made.keys("stats/grid", str(JUNE_1960))


def test_d8_extrema_and_summary() -> None:
    made = example()
    extrema = made.json("month/yield/regional/country/stats/default/extrema.json")
    assert extrema["max"]["s_sum_t_sum"] == [{"region_id": "Kenya", "timestamp": FEB_2020, "value": 33.0}]
    assert extrema["min"]["s_sum_t_sum"] == [{"region_id": "Kenya", "timestamp": JUNE_1960, "value": 0.0}]
    assert made.summary["yield"]["s_sum_t_sum"] == 67.0
    assert made.summary["yield"]["s_mean_t_sum"] == round(67 / 7, 10)
    assert made.summary["yield"]["s_mean_t_mean"] == round(67 / 6, 10)
    assert made.data_info["region_levels"] == ["country", "admin1", "admin2", "admin3", "grid data"]
    assert made.data_info["num_missing_val"] == 0, "infinities are not missing in the original's count"


# --- what the original was seen to do -----------------------------------------------------------------

KENYA: Row = {"country": "Kenya", "lat": 1.0, "lng": 37.0}
PLAIN = "month/f/timeseries/global/global.csv"


def test_identical_rows_are_summed_and_places_that_differ_in_the_last_digit_are_different() -> None:
    twice = datacube([{**KENYA, "value": 2.0}, {**KENYA, "value": 2.0}])
    assert twice.line(PLAIN, JAN_2020) == snapshot("1577836800000,4.0,4.0,2.0,2.0,1")
    near = datacube([{**KENYA, "value": 2.0}, {**KENYA, "value": 2.0, "lat": 1.0 + 1e-12}])
    assert near.line(PLAIN, JAN_2020) == snapshot("1577836800000,4.0,2.0,4.0,2.0,2")


def test_year_and_summary_are_means_of_the_rows_not_of_the_months() -> None:
    values = [(JAN_2020, 1.0), (JAN_2020 + DAY, 2.0), (FEB_2020, 9.0)]
    made = datacube([{**KENYA, "timestamp": time, "value": value} for time, value in values])
    assert made.line("year/f/timeseries/global/global.csv", JAN_2020) == snapshot(
        "1577836800000,12.0,12.0,4.0,4.0,1"
    )
    assert made.summary["f"]["s_mean_t_mean"] == 4.0


def test_negative_zero_and_overflow() -> None:
    zero = datacube([{**KENYA, "value": -0.0}])
    assert zero.line(PLAIN, JAN_2020) == snapshot("1577836800000,0.0,0.0,0.0,0.0,1")
    assert "-0.0" not in zero.text("month/f/regional/country/stats/default/extrema.json")
    huge = datacube([{**KENYA, "value": 1.7e308}, {**KENYA, "value": 1.7e308}])
    # Difference 14: empty, where the original wrote `inf`.
    assert huge.line(PLAIN, JAN_2020) == snapshot("1577836800000,,,,,1")
    assert huge.summary["f"]["s_sum_t_sum"] is None


@pytest.mark.parametrize("other", [{}, {"lng": None}])
def test_without_one_of_the_coordinates_there_are_no_tiles_but_everything_else(other: Row) -> None:
    made = datacube([{"country": "Kenya", "lat": 1.0, **other, "value": 2.0}])
    assert made.keys(".tile") == made.keys("stats/grid") == []
    assert made.data_info["has_tiles"] is False
    assert made.data_info["region_levels"] == ["country"]
    assert made.line(PLAIN, JAN_2020) == snapshot("1577836800000,2.0,2.0,2.0,2.0,1")


@pytest.mark.parametrize(
    ("timestamp", "month", "year"),
    [
        (-1, -2678400000, -31536000000),
        (JAN_2020 - 1, 1575158400000, 1546300800000),
        (9223372036854, ms(2262, 4), ms(2262)),
        (0, 0, 0),
    ],
)
def test_times_fall_into_the_month_and_year_that_hold_them(timestamp: int, month: int, year: int) -> None:
    made = datacube([{**KENYA, "timestamp": timestamp, "value": 2.0}])
    assert [row["timestamp"] for row in made.rows(PLAIN)] == [str(month)]
    assert [row["timestamp"] for row in made.rows("year/f/timeseries/global/global.csv")] == [str(year)]


def test_the_first_millisecond_too_late_is_removed_and_counted() -> None:
    made = datacube([{**KENYA, "timestamp": time} for time in (9223372036854, 9223372036855)])
    assert made.data_info["num_invalid_ts"] == 1
    assert len(made.rows(PLAIN)) == 1


def test_missing_region_names_are_none_and_odd_ones_stay() -> None:
    names = [None, "None", "  ", "", "A"]
    made = datacube([{**KENYA, "admin1": name, "value": 1.0} for name in names])
    lists = made.json("raw/f/info/region_lists.json")
    assert lists["admin1"] == ["Kenya__", "Kenya__  ", "Kenya__A", "Kenya__None"]
    line = made.line(f"month/f/regional/admin1/aggs/{JAN_2020}/default/default.csv", "Kenya__None")
    assert line == snapshot("Kenya__None,2.0,2.0,1.0,1.0,1")


def test_double_slashes_leave_region_names_but_not_the_raw_rows() -> None:
    names = ["A//B", "A///B", "//", "A////B", "A/B"]
    made = datacube([{**KENYA, "admin1": name} for name in names])
    lists = made.json("raw/f/info/region_lists.json")
    assert lists["admin1"] == ["Kenya__", "Kenya__A/B", "Kenya__AB"]
    assert [row["admin1"] for row in made.rows("raw/f/raw/raw.csv")] == names
    assert "month/f/regional/admin1/timeseries/default/Kenya__A/B.csv" in made.objects


def test_numeric_regions_print_like_python() -> None:
    ones, halves = pa.array([1, 1]), pa.array([1.5, 2.0])
    made = datacube({"country": ["Kenya", "Kenya"], "admin1": ones, "admin2": halves})
    assert made.json("raw/f/info/region_lists.json")["admin2"] == ["Kenya__1__1.5", "Kenya__1__2.0"]


def test_a_weight_column_that_is_not_selected_is_a_qualifier_like_any_other() -> None:
    made = datacube([{**KENYA, "wt": 1.5}, {**KENYA, "wt": 2.5}])
    assert made.json("raw/f/info/qualifiers/wt.json") == ["1.5", "2.5"]
    assert made.row(PLAIN, JAN_2020)["s_count"] == "2"


def weighted(*pairs: tuple[float | None, float]) -> Datacube:
    return datacube([{**KENYA, "value": value, "wt": wt} for value, wt in pairs], weight_column="wt")


def test_two_weighted_rows_in_one_cell() -> None:
    line = weighted((1.0, 1.0), (2.0, 3.0)).line(PLAIN, JAN_2020)
    assert line == snapshot("1577836800000,3.0,3.0,1.5,1.5,1,1.75,1.75,3.0,1.5,1.75")


def test_all_weights_zero_leave_a_sum_of_zero_and_nothing_else() -> None:
    made = weighted((1.0, 0.0), (2.0, 0.0))
    assert made.line(PLAIN, JAN_2020) == snapshot("1577836800000,3.0,3.0,1.5,1.5,1,0.0,,,,")
    assert made.summary["f"]["s_sum_t_wavg"] == 0.0
    assert made.summary["f"]["s_wavg_t_sum"] is None
    assert made.summary["f"]["s_mean_t_wavg"] is None


def test_weights_that_cancel_give_an_empty_cell_and_null() -> None:
    made = datacube(
        [{**KENYA, "value": 1.0, "wt": 1.0}, {**KENYA, "lat": 2.0, "value": 2.0, "wt": -1.0}],
        weight_column="wt",
    )
    # Difference 14: the original wrote `-inf`.
    assert made.line(PLAIN, JAN_2020) == snapshot("1577836800000,3.0,1.5,3.0,1.5,2,3.0,1.5,,,")
    assert made.summary["f"]["s_wavg_t_mean"] is None


def test_of_equal_extrema_the_newest_twenty_are_listed() -> None:
    made = datacube([{**KENYA, "timestamp": ms(1990 + i), "value": 5.0} for i in range(25)])
    extrema = made.json("year/f/regional/country/stats/default/extrema.json")
    newest = [ms(1990 + i) for i in reversed(range(5, 25))]
    for side in ("min", "max"):
        assert [item["timestamp"] for item in extrema[side]["s_sum_t_sum"]] == newest


def test_a_point_lies_in_the_bins_that_the_original_computed() -> None:
    made = datacube([{**KENYA, "value": 4.0}])
    assert made.tile(f"month/f/tiles/{JAN_2020}-8-154-127.tile") == {1171: (4.0, 4.0, 1.0)}
    assert made.tile(f"month/f/tiles/{JAN_2020}-0-0-0.tile") == {2022: (4.0, 4.0, 1.0)}
    assert len(made.keys("month/", ".tile")) == 9
