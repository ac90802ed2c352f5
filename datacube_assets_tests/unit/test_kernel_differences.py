"""Where we deliberately differ from the original, by the numbers of docs/differences.md.

Tests of 13, 17, 18 and 19 are also, or only, beside those of the code that they are about.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from datacube_assets.kernels import grid, spatial, views
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.temporal import temporal_cells
from datacube_assets_tests.unit.kernel_helpers import (
    DAY,
    FEB_2020,
    JAN_2020,
    Datacube,
    Row,
    datacube,
    ms,
    normalized,
)

KENYA: Row = {"country": "Kenya", "lat": 1.0, "lng": 37.0}
GLOBAL = "month/f/timeseries/global/global.csv"
RAW = "raw/f/raw/raw.csv"
NAN, INF = math.nan, math.inf


def test_difference_01_rows_without_coordinates_count_everywhere_but_on_the_map() -> None:
    rows = [
        {**KENYA, "value": 1.0},
        {**KENYA, "lat": None, "value": 2.0},
        {**KENYA, "lng": None, "value": 4.0},
    ]
    made = datacube(rows, qualifiers={"f": ["crop"]})
    assert made.line(GLOBAL, JAN_2020) == snapshot(
        "1577836800000,7.0,2.3333333333333335,7.0,2.3333333333333335,3"
    )
    key = f"month/f/regional/country/aggs/{JAN_2020}/default/default.csv"
    assert made.line(key, "Kenya").startswith("Kenya,7.0,")
    assert made.summary["f"]["s_sum_t_sum"] == 7.0
    assert list(made.tile(f"month/f/tiles/{JAN_2020}-0-0-0.tile").values()) == [(1.0, 1.0, 1.0)]
    assert made.rows(f"month/f/stats/grid/{JAN_2020}.csv")[0]["max_s_sum_t_sum"] == "1.0"
    assert made.points.report.missing_coordinates == 2


def test_difference_01_a_feature_without_any_coordinates_is_whole_beside_a_gridded_one() -> None:
    rows = [{**KENYA, "value": 1.0}, {"country": "Kenya", "feature": "admin", "value": 5.0}]
    made = datacube(rows)
    assert made.line("month/admin/timeseries/global/global.csv", JAN_2020) == snapshot(
        "1577836800000,5.0,5.0,5.0,5.0,1"
    )
    assert made.keys("month/admin/tiles") == made.keys("month/admin/stats/grid") == []
    assert set(made.summary) == {"admin", "f"}


def test_difference_02_a_hole_in_the_region_levels_labels_every_level_by_its_true_name() -> None:
    made = datacube([{**KENYA, "admin1": "A", "admin3": "C"}])
    lists = made.json("raw/f/info/region_lists.json")
    assert lists == {
        "country": ["Kenya"],
        "admin1": ["Kenya__A"],
        "admin2": [],
        "admin3": ["Kenya__A__None__C"],
    }
    levels = {key.split("/")[3] for key in made.keys("month/f/regional/")}
    assert levels == {"country", "admin1", "admin3"}
    for kind in ("timeseries/default/Kenya__A__None__C.csv", f"aggs/{JAN_2020}/default/default.csv"):
        assert f"month/f/regional/admin3/{kind}" in made.objects
    assert made.data_info["region_levels"] == ["country", "admin1", "admin3", "grid data"]


def test_difference_02_a_lone_admin1_is_called_admin1() -> None:
    made = datacube([{"admin1": "A"}])
    lists = made.json("raw/f/info/region_lists.json")
    assert lists == {"country": [], "admin1": ["None__A"], "admin2": [], "admin3": []}
    assert {key.split("/")[3] for key in made.keys("/regional/")} == {"admin1"}


def test_difference_03_index_columns_are_no_qualifiers() -> None:
    rows = [{**KENYA, "__index_level_0__": i, "Unnamed: 0": i, "crop": "maize"} for i in range(2)]
    made = datacube(rows)
    assert made.json("raw/f/info/qualifier_counts.json")["counts"] == {"crop": 1}
    assert made.row(GLOBAL, JAN_2020)["s_count"] == "1", "they do not split cells"
    assert made.text(RAW).splitlines()[0] == "country,lat,lng,crop,timestamp,value"


def test_difference_04_an_absent_qualifier_is_always_none() -> None:
    rows = [{**KENYA, "crop": crop} for crop in (None, "", "nan", "None", "maize")]
    made = datacube(rows, [KENYA], qualifiers={"f": ["crop"]})
    assert made.json("raw/f/info/qualifiers/crop.json") == ["None", "maize"]
    assert made.text("month/f/timeseries/qualifiers/crop/s_sum_t_sum.csv") == (
        f"timestamp,None,maize\n{JAN_2020},5.0,1.0\n"
    )
    assert not made.keys("//")


@pytest.mark.parametrize("later", [2021, None])
def test_difference_05_an_integral_qualifier_prints_as_integers_whether_or_not_some_are_missing(
    later: int | None,
) -> None:
    floats = pa.array([2020.0, None if later is None else float(later)])
    integers = pa.array([2020, later])
    expected = ["2020", "None" if later is None else "2021"]
    for column in (floats, integers):
        made = datacube({"country": ["Kenya"] * 2, "year": column})
        assert made.json("raw/f/info/qualifiers/year.json") == expected
    mixed = datacube({"year": pa.array([2020.0, 2020.5])})
    assert mixed.json("raw/f/info/qualifiers/year.json") == ["2020.0", "2020.5"]


def test_difference_06_weights_of_missing_values_are_left_out_of_the_weighted_mean() -> None:
    rows = [{**KENYA, "value": None, "wt": 2.0}, {**KENYA, "value": 4.0, "wt": 2.0}]
    made = datacube(rows, weight_column="wt")
    # The original: 2.0 for t_wavg.
    assert made.rows(GLOBAL)[0]["s_mean_t_wavg"] == "4.0"
    # A cell without any value: its weight counts for t_sum, which is 0.0, but not for the means.
    empty = [{**KENYA, "value": 4.0, "wt": 1.0}, {**KENYA, "lat": 2.0, "value": None, "wt": 3.0}]
    (row,) = datacube(empty, weight_column="wt").rows(GLOBAL)
    assert (row["s_wavg_t_sum"], row["s_wavg_t_mean"], row["s_wavg_t_wavg"]) == ("1.0", "4.0", "4.0")


def test_difference_07_raw_rows_have_integer_times_and_no_infinity() -> None:
    made = datacube(
        {
            "timestamp": pa.array([float(JAN_2020), None, 1e300]),
            "value": [1.5, INF, NAN],
            "lat": [1.0, -INF, 2.0],
            "lng": [1.0, 1.0, 2.0],
            "depth": [INF, 0.5, None],
        }
    )
    assert made.text(RAW) == (
        f"timestamp,value,lat,lng,depth\n{JAN_2020},1.5,1.0,1.0,\n0,,,1.0,0.5\n{2**63 - 1},,2.0,2.0,\n"
    )


def test_difference_07_a_missing_time_reads_as_the_time_under_which_its_row_counts() -> None:
    made = datacube([{**KENYA, "timestamp": time} for time in (None, JAN_2020)], fill_timestamp=FEB_2020)
    assert [row["timestamp"] for row in made.rows(RAW)] == [str(FEB_2020), str(JAN_2020)]
    assert [row["timestamp"] for row in made.rows(GLOBAL)] == [str(JAN_2020), str(FEB_2020)]


@pytest.mark.parametrize(
    ("times", "reads"),
    [
        (pa.array([2**62, -(2**63) + 1]), [2**62, -(2**63) + 1]),
        (pa.array([253_402_300_799], pa.timestamp("s")), [253_402_300_799_000]),
        (pa.array(["9999-12-31", "9223372036854775807"]), [253_402_214_400_000, 2**63 - 1]),
        # The largest that the reader takes, where 64 bits do not hold it.
        (pa.array([2**64 - 1], pa.uint64()), [2**63 - 1]),
        (pa.array([-INF, -1e300]), [-(2**63) + 1] * 2),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_difference_07_a_time_out_of_range_reads_as_it_came(times: pa.Array, reads: list[int]) -> None:
    made = datacube({"timestamp": times})
    assert made.data_info["num_invalid_ts"] == len(reads)
    assert [int(row["timestamp"]) for row in made.rows(RAW)] == reads


def test_difference_08_a_bucket_without_values_publishes_nothing_that_breaks_the_reader() -> None:
    rows = [{**KENYA, "value": 3.0}, {**KENYA, "timestamp": FEB_2020, "value": None}]
    made = datacube(rows)
    assert made.line(GLOBAL, FEB_2020) == snapshot("1580515200000,0.0,0.0,0.0,,0"), (
        "an empty cell skips the point"
    )
    assert made.keys("month/f/stats/grid") == [f"month/f/stats/grid/{JAN_2020}.csv"]
    for key in made.keys("stats/grid"):
        assert all(all(row.values()) for row in made.rows(key))


def test_difference_08_a_feature_without_any_value_has_no_extrema_and_no_grid_stats() -> None:
    made = datacube([{**KENYA, "value": 3.0}, {**KENYA, "feature": "empty", "value": None}])
    assert made.keys("empty", "extrema") == made.keys("empty", "stats/grid") == []
    assert made.keys("month/f/", "extrema")
    assert made.summary["empty"]["s_mean_t_mean"] is None
    for key in made.keys("extrema.json"):
        document = made.json(key)
        assert all(items for side in document.values() for items in side.values())


def test_difference_08_the_number_of_left_out_objects_is_known() -> None:
    points = normalized([{**KENYA, "value": 3.0}, {**KENYA, "feature": "empty", "value": None}])
    cells = dict(temporal_cells([points.table], points.layout, ("month",)))["month"]
    assert views.grid_stats("month", grid.grid_cells(cells)).left_out == 1
    country = spatial.regional_aggregates(spatial.Cells(cells, points.layout))["country"]
    assert views.regional_extrema("month", "country", country, points.layout).left_out == 1


def tiles_of(*places: tuple[float, float]) -> Datacube:
    return datacube([{"lat": lat, "lng": lng, "value": 1.0} for lat, lng in places])


@pytest.mark.parametrize(("lng", "inside"), [(180.0, -180.0), (200.0, -160.0), (360.0, 0.0), (-181.0, 179.0)])
def test_difference_09_longitudes_are_wrapped(lng: float, inside: float) -> None:
    wrapped, plain = tiles_of((10.0, lng)), tiles_of((10.0, inside))
    keys = wrapped.keys("tiles/")
    assert keys == plain.keys("tiles/")
    assert [wrapped.objects[key] for key in keys] == [plain.objects[key] for key in keys]


def test_difference_09_points_beyond_the_mercator_limit_are_in_no_tile_and_no_statistics_but_counted() -> (
    None
):
    polar = [(85.06, 10.0), (90.0, 10.0), (-85.06, 10.0), (-90.0, 10.0), (95.0, 10.0), (INF, 1.0)]
    made = tiles_of((10.0, 10.0), *polar)
    for key in made.keys("month/", ".tile"):
        assert sum(weight for _, _, weight in made.tile(key).values()) == 1.0
    assert made.rows(f"month/f/stats/grid/{JAN_2020}.csv")[0]["max_s_sum_t_sum"] == "1.0"
    assert made.row(GLOBAL, JAN_2020)["s_count"] == "7"
    assert made.points.report.beyond_mercator == 6
    assert made.points.report.missing_coordinates == 0


@pytest.mark.parametrize(
    ("one", "other"), [(190.0, -170.0), (350.1, -9.9), (180.0, -180.0), (359.999, -0.001), (-190.7, 169.3)]
)
def test_difference_09_a_longitude_and_its_wrapped_one_are_one_place(one: float, other: float) -> None:
    made = tiles_of((10.0, one), (10.0, other))
    assert made.row(GLOBAL, JAN_2020)["s_count"] == "1", "one cell, not two"
    assert made.points.report.wrapped_longitudes == 1
    assert [float(row["lng"]) for row in made.rows(RAW)] == [one, other], "as it came"
    assert set(made.points.column("lng")) == {other}


@given(st.floats(-180, 180, exclude_max=True))
def test_difference_09_longitudes_inside_stay_bit_by_bit(lng: float) -> None:
    (kept,) = normalized([{"lat": 1.0, "lng": lng}]).column("lng")
    assert kept.hex() == lng.hex()


@pytest.mark.parametrize(
    ("places", "tiles"),
    [
        ([(10.0, 10.0)], True),
        ([(10.0, 10.0), (90.0, 10.0)], True),
        ([(90.0, 10.0), (-89.0, 0.0)], False),
        ([(500_000.0, 4_000_000.0)], False),
        ([(10.0, NAN), (NAN, 10.0)], False),
    ],
)
@pytest.mark.parametrize("valued", [True, False])
def test_there_are_tiles_and_grid_data_where_there_is_a_tile(
    places: list[tuple[float, float]], tiles: bool, valued: bool
) -> None:
    made = datacube([{"lat": lat, "lng": lng, "value": 1.0 if valued else None} for lat, lng in places])
    assert made.data_info["has_tiles"] is (tiles and valued)
    assert made.data_info["region_levels"] == (["grid data"] if tiles and valued else [])


def test_difference_10_times_before_1677_are_dropped_and_counted_like_those_after_2262() -> None:
    times = [-9223372036855, -9223372036854, JAN_2020, 9223372036854, 9223372036855]
    made = datacube([{**KENYA, "timestamp": time} for time in times])
    assert made.data_info["num_invalid_ts"] == 2
    assert made.data_info["num_rows"] == 5
    assert [row["timestamp"] for row in made.rows(GLOBAL)] == [
        str(ms(1677, 9)),
        str(JAN_2020),
        str(ms(2262, 4)),
    ]


def test_difference_11_parts_with_different_columns_work() -> None:
    made = datacube([{**KENYA, "admin1": "A", "crop": "maize"}], [{"country": "Kenya", "value": 2.0}])
    assert made.json("raw/f/info/region_lists.json")["admin1"] == ["Kenya__A", "Kenya__None"]
    assert made.json("raw/f/info/qualifiers/crop.json") == ["None", "maize"]
    assert made.line(GLOBAL, JAN_2020).startswith(f"{JAN_2020},3.0,")
    assert made.text(RAW) == (
        f"country,lat,lng,admin1,crop,timestamp,value\n"
        f"Kenya,1.0,37.0,A,maize,{JAN_2020},1.0\nKenya,,,,,{JAN_2020},2.0\n"
    )


def test_difference_11_what_cannot_be_read_fails_naming_column_and_example() -> None:
    with pytest.raises(InputError) as caught:
        normalized({"timestamp": pa.array(["2020-01-01", "first of May"])})
    assert (caught.value.column, caught.value.example) == ("timestamp", "first of May")


def test_difference_12_a_value_that_is_no_number_drops_its_row_only() -> None:
    values = ["1.5", "n/a", None, *["2"] * 10]
    made = datacube({"country": ["Kenya"] * 13, "value": pa.array(values)})
    assert made.line(GLOBAL, JAN_2020).startswith(f"{JAN_2020},21.5,")
    report = made.points.report
    assert (report.unreadable_values, report.unreadable_example, report.num_missing_val) == (1, "n/a", 1)
    assert report.points == 12


def test_difference_12_too_many_values_that_are_no_numbers_fail_the_run() -> None:
    values = pa.array(["low", "high", *["1"] * 8])
    with pytest.raises(InputError, match="2 of 10 values") as caught:
        normalized({"value": values})
    assert (caught.value.column, caught.value.example) == ("value", "low")
    assert normalized({"value": values}, max_unreadable_share=0.2).report.points == 8


def test_difference_13_timestamps_are_milliseconds_unless_the_request_says_seconds() -> None:
    seconds = [{**KENYA, "timestamp": JAN_2020 // 1000}, {**KENYA, "timestamp": FEB_2020 // 1000}]
    assert [row["timestamp"] for row in datacube(seconds).rows(GLOBAL)] == ["0"]
    right = datacube(seconds, timestamp_unit="s")
    assert [row["timestamp"] for row in right.rows(GLOBAL)] == [str(JAN_2020), str(FEB_2020)]
    assert [row["timestamp"] for row in right.rows(RAW)] == [str(JAN_2020), str(FEB_2020)]


def test_difference_14_infinities_are_empty_cells_and_null() -> None:
    rows = [{**KENYA, "value": 1.7e308}, {**KENYA, "value": 1.7e308}, {**KENYA, "lat": 60.0, "value": 1.0}]
    made = datacube(rows)
    (row,) = made.rows(GLOBAL)
    assert (row["s_sum_t_sum"], row["s_mean_t_mean"], row["s_count"]) == ("", "", "2")
    assert made.summary["f"]["s_max_t_sum"] is None
    assert made.summary["f"]["s_min_t_sum"] == 1.0
    for key in made.keys(".tile"):
        figures = [figure for stats in made.tile(key).values() for figure in stats]
        assert all(math.isfinite(figure) for figure in figures)
    text = b"".join(body for key, body in made.objects.items() if not key.endswith(".tile")).lower()
    assert b"inf," not in text
    assert b"nan" not in text
    assert b"infinity" not in text


def test_difference_15_rows_lists_and_columns_are_sorted() -> None:
    places, crops = ["Ü", "b", "B", "a"], ["teff", "maize", "Wheat", "maize"]
    rows: list[dict[str, Any]] = [
        {
            "country": place,
            "admin1": "x",
            "crop": crop,
            "timestamp": JAN_2020 - i * 40 * DAY,
            "feature": feature,
        }
        for i, (place, crop) in enumerate(zip(places, crops, strict=True))
        for feature in ("g", "f")
    ]
    made = datacube(rows, qualifiers={"f": ["crop"]})
    assert made.json("raw/f/info/region_lists.json")["country"] == ["B", "a", "b", "Ü"]
    assert made.json("raw/f/info/qualifiers/crop.json") == ["Wheat", "maize", "teff"]
    times = [int(row["timestamp"]) for row in made.rows(GLOBAL)]
    assert times == sorted(times)
    assert list(made.rows("month/f/timeseries/qualifiers/crop/s_count.csv")[0]) == [
        "timestamp", "Wheat", "maize", "teff",
    ]  # fmt: skip
    year = made.rows(f"year/f/regional/country/aggs/{ms(2019)}/qualifiers/crop.csv")
    assert [(row["id"], row["qualifier"]) for row in year] == [("B", "Wheat"), ("a", "maize"), ("b", "maize")]
    assert made.data_info["features"] == ["f", "g"]


def test_difference_16_the_same_input_gives_the_same_bytes_in_whatever_order_the_rows_come() -> None:
    random = np.random.default_rng(1)
    rows = [
        {**KENYA, "lat": float(random.integers(0, 5)), "crop": str(random.integers(0, 3)), "value": float(i)}
        for i in range(50)
    ]
    options: dict[str, Any] = {"qualifiers": {"f": ["crop"]}}
    first = datacube(rows, **options).objects
    assert datacube(rows, **options).objects == first
    other = datacube([rows[i] for i in random.permutation(50)], **options).objects
    assert {key for key in first if first[key] != other.get(key)} == {RAW}, "raw rows stay in file order"


def test_the_words_for_infinity_do_not_hide_in_tiles() -> None:
    made = datacube([{**KENYA, "value": INF}, {**KENYA, "value": 1.0}])
    tiles = made.keys(".tile")
    assert tiles
    for key in tiles:
        assert struct.pack("<d", INF) not in made.objects[key]
