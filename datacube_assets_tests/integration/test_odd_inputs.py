"""Inputs that are odd but legal: each becomes a datacube that the reader can read to the end."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from datacube_assets_tests.integration.support import (
    DAY,
    FEBRUARY,
    JANUARY,
    Datacube,
    House,
    open_house,
    read_csv,
    read_tile,
    rows,
)

GLOBAL = "month/rain/timeseries/global/global.csv"
CROP = {"qualifier_map": {"rain": ["crop"]}}


@pytest.fixture
def published(house: House) -> Any:
    """Publishes parts and holds every object to what the reader accepts."""

    def publish(*parts: pa.Table, **fields: Any) -> Datacube:
        outcome = house.publish(*parts, **fields)
        datacube = house.datacube(outcome.run.model_id, outcome.run.run_id)
        datacube.check()
        assert outcome.total("objects") == len(datacube.objects)
        assert outcome.total("bytes") == sum(len(body) for body in datacube.objects.values())
        return datacube

    return publish


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Datacube:
    """The datacube of the plain rows."""
    with open_house(tmp_path_factory.mktemp("plain")) as house:
        house.publish(rows())
        return house.datacube()


def sums(datacube: Datacube, key: str = GLOBAL) -> dict[int, str]:
    """Sum by timestamp of a timeseries."""
    return {int(line["timestamp"]): line["s_sum_t_sum"] for line in datacube.csv(key)}


ALL = {JANUARY: "3.0", FEBRUARY: "7.0"}


# --- names -----------------------------------------------------------------------------------------

NAMES = [
    "a/b",
    "a/b/c",
    'she said "no"',
    "'",
    "one, two",
    "two\nlines",
    "carriage\r\nreturn",
    "tab\there",
    "Côte d'Ivoire",
    "日本 🌾",
    "e\u0301",  # not in composed form
    " spaces ",
    "-1",
    "=1+1",
    "100 %",
    "a%2Fb",
    "back\\slash",
    "[x]{y}$(z)",
    "ends in dots..",
    "timestamp",
    "None ",
    "nan.",
    "x" * 120,
]


def test_a_run_with_every_odd_name_at_once_has_each_of_them_in_its_lists_and_tables(published: Any) -> None:
    table = pa.table(
        {
            "timestamp": [JANUARY] * len(NAMES),
            "country": NAMES,
            "admin1": NAMES[::-1],
            "lat": [float(number) for number in range(len(NAMES))],
            "lng": [float(number) for number in range(len(NAMES))],
            "feature": ["rain"] * len(NAMES),
            "value": [float(number) for number in range(len(NAMES))],
            "crop": NAMES,
            'who, "what"/where': NAMES,
        }
    )
    odd = 'who, "what"/where'
    datacube = published(table, qualifier_map={"rain": ["crop", odd]})
    assert sorted(datacube.json("raw/rain/info/region_lists.json")["country"]) == sorted(NAMES)
    assert sorted(datacube.json(f"raw/rain/info/qualifiers/{odd}.json")) == sorted(NAMES)
    table_of_regions = datacube.csv(f"month/rain/regional/country/aggs/{JANUARY}/default/default.csv")
    assert {line["id"]: float(line["s_sum_t_sum"]) for line in table_of_regions} == {
        name: float(number) for number, name in enumerate(NAMES)
    }
    by_crop = datacube.csv(f"month/rain/regional/country/aggs/{JANUARY}/qualifiers/crop.csv")
    assert {(line["id"], line["qualifier"]) for line in by_crop} == {(name, name) for name in NAMES}
    header, line = read_csv(datacube.objects["month/rain/timeseries/qualifiers/crop/s_sum_t_sum.csv"])
    assert dict(zip(header[1:], map(float, line[1:]), strict=True)) == {
        name: float(number) for number, name in enumerate(NAMES)
    }
    raw = datacube.csv("raw/rain/raw/raw.csv")
    assert [one["country"] for one in raw] == NAMES
    regional = datacube.keys("month/rain/regional/country/timeseries/default/")
    assert len(regional) == len(NAMES)
    # The reader asks for keys with the name as it is.
    for name in NAMES:
        assert f"month/rain/regional/country/timeseries/default/{name}.csv" in regional


def test_features_of_odd_names_are_published_under_them(published: Any) -> None:
    plain, nested = ("a\nb", "日本", 'x "y", z', "a.b ", "...", "-1"), ("crop/yield", "crop/yield/2")
    refined = {"crop//yields": "crop/yields", "/yield/": "yield"}
    names = [*plain, *nested, *refined]
    datacube = published(*(rows(feature=[name] * 4) for name in names))
    assert sorted(datacube.info["features"]) == sorted(names)
    summary = datacube.json("results/results.json")["output_agg_values"]
    assert sorted(one["name"] for one in summary) == sorted(names)
    for name in names:
        assert sums(datacube, f"month/{refined.get(name, name)}/timeseries/global/global.csv") == ALL


def test_double_slashes_leave_region_names_and_stay_in_the_raw_rows(published: Any) -> None:
    datacube = published(rows(country=["A//B", "A///B", "A////B", "//"], admin1=None))
    assert datacube.json("raw/rain/info/region_lists.json")["country"] == ["", "A/B", "AB"]
    assert [line["country"] for line in datacube.csv("raw/rain/raw/raw.csv")] == [
        "A//B",
        "A///B",
        "A////B",
        "//",
    ]
    assert "month/rain/regional/country/timeseries/default/A/B.csv" in datacube.objects


def test_regions_called_as_folders_are_called_cannot_climb(published: Any) -> None:
    names = ["..", ".", "../../../x", "a/../../b"]
    datacube = published(rows(country=names, admin1=names, crop=names), **CROP)
    assert datacube.json("raw/rain/info/region_lists.json")["country"] == sorted(names)
    assert len(datacube.keys("month/rain/regional/country/timeseries/default/")) == 4
    assert len(datacube.keys("month/rain/regional/country/timeseries/qualifiers/crop/")) == 4


def test_empty_texts_are_names_of_regions_and_missing_values_of_qualifiers(published: Any) -> None:
    datacube = published(
        rows(country=["Kenya", "", "Kenya", ""], admin1=["", "", "A", "A"], crop=["", "maize", "nan", None]),
        **CROP,
    )
    lists = datacube.json("raw/rain/info/region_lists.json")
    assert lists["country"] == ["", "Kenya"]
    assert lists["admin1"] == ["Kenya__", "Kenya__A", "__", "__A"]
    assert datacube.json("raw/rain/info/qualifiers/crop.json") == ["None", "maize"]


def test_qualifiers_may_be_called_as_the_columns_of_our_tables_are(published: Any) -> None:
    names = (
        "rows",
        "t_sum",
        "weight",
        "region_id",
        "qualifier",
        "timestamp_",
        "s_count",
        "month",
        "all",
        "id",
    )
    columns = {name: ["a", "b", "a", "b"] for name in names}
    datacube = published(rows(**columns), qualifier_map={"rain": list(names)})
    for name in names:
        assert datacube.json(f"raw/rain/info/qualifiers/{name}.json") == ["a", "b"]
        series = datacube.csv(f"month/rain/timeseries/qualifiers/{name}/s_sum_t_sum.csv")
        assert [(line["a"], line["b"]) for line in series] == [("1.0", "2.0"), ("3.0", "4.0")]


# --- rows that are few, or miss something ----------------------------------------------------------


def test_one_row_is_a_datacube(published: Any) -> None:
    datacube = published(rows().slice(0, 1))
    assert sums(datacube) == {JANUARY: "1.0"}
    assert len(datacube.keys("month/rain/tiles/")) == 9
    assert datacube.info["num_rows"] == 1


def test_a_feature_without_any_value_is_listed_and_has_no_extremes_for_the_reader_to_fail_on(
    published: Any,
) -> None:
    datacube = published(rows(feature=["rain", "wind", "rain", "wind"], value=[1.0, None, 3.0, None]))
    assert datacube.info["features"] == ["rain", "wind"]
    assert datacube.info["num_missing_val"] == 2
    assert [line["s_sum_t_sum"] for line in datacube.csv("month/wind/timeseries/global/global.csv")] == [
        "0.0"
    ] * 2
    assert [line["s_mean_t_mean"] for line in datacube.csv("month/wind/timeseries/global/global.csv")] == [
        ""
    ] * 2
    assert not datacube.keys("/wind/", "extrema.json")
    assert not datacube.keys("/wind/", "stats/grid")
    assert datacube.keys("/rain/", "extrema.json")
    wind = datacube.json("results/results.json")["output_agg_values"][1]
    assert (wind["name"], wind["s_mean_t_mean"]) == ("wind", None)


def test_a_run_of_nothing_but_missing_values_is_a_datacube_too(published: Any) -> None:
    datacube = published(rows(value=pa.nulls(4, pa.float64())))
    assert sums(datacube) == {JANUARY: "0.0", FEBRUARY: "0.0"}


def test_without_region_columns_there_is_everything_but_regions(published: Any) -> None:
    datacube = published(rows(country=None, admin1=None))
    assert sums(datacube) == ALL
    assert datacube.info["region_levels"] == ["grid data"]
    assert not datacube.keys("/regional/")
    assert not datacube.keys("region_lists.json")
    assert datacube.keys("/tiles/")


@pytest.mark.parametrize("columns", [{"lat": None}, {"lng": [None] * 4}], ids=["no lat", "empty lng"])
def test_without_coordinates_there_is_everything_but_the_map(published: Any, columns: dict[str, Any]) -> None:
    datacube = published(rows(**columns))
    assert sums(datacube) == ALL
    assert not datacube.info["has_tiles"]
    assert datacube.info["region_levels"] == ["country", "admin1"]
    assert not datacube.keys("/tiles/")
    assert not datacube.keys("/stats/grid/")


def test_only_the_three_needed_columns_are_enough(published: Any) -> None:
    datacube = published(rows(country=None, admin1=None, lat=None, lng=None))
    assert sums(datacube) == ALL
    assert datacube.info["region_levels"] == []


def test_admin1_alone_is_published_as_admin1(published: Any) -> None:
    datacube = published(rows(country=None))
    assert datacube.info["region_levels"] == ["admin1", "grid data"]
    assert datacube.json("raw/rain/info/region_lists.json") == {
        "country": [],
        "admin1": ["None__Nairobi", "None__Oromia"],
        "admin2": [],
        "admin3": [],
    }
    assert "month/rain/regional/admin1/timeseries/default/None__Nairobi.csv" in datacube.objects
    assert not datacube.keys("regional/country/")


def test_rows_without_coordinates_count_everywhere_but_on_the_map(published: Any) -> None:
    datacube = published(rows(lat=[None, 7.5, -1.25, math.nan], lng=[36.75, None, 36.75, 40.5]))
    assert sums(datacube) == ALL
    assert {key.split("/")[-1].split("-")[0] for key in datacube.keys("month/rain/tiles/")} == {str(FEBRUARY)}
    (key,) = datacube.keys(f"month/rain/tiles/{FEBRUARY}-0-0-0.tile")
    assert [stats.s_sum_t_sum for stats in read_tile(datacube.objects[key]).bins.stats.values()] == [3.0]


def test_points_beyond_the_map_and_beyond_180_degrees_make_no_unreachable_tile(published: Any) -> None:
    datacube = published(rows(lat=[90.0, -90.0, 1.0, 1.0], lng=[0.0, 0.0, 200.0, 180.0]))
    assert sums(datacube) == ALL
    assert not datacube.keys(f"month/rain/tiles/{JANUARY}")
    assert len(datacube.keys(f"month/rain/tiles/{FEBRUARY}-8-")) == 2


def test_rows_without_a_feature_are_left_out_and_counted(published: Any) -> None:
    datacube = published(rows(feature=["rain", None, "rain", ""]))
    assert sums(datacube) == {JANUARY: "1.0", FEBRUARY: "3.0"}
    assert datacube.info["num_rows"] == 4
    assert datacube.info["num_rows_per_feature"] == {"rain": 2}


# --- numbers ---------------------------------------------------------------------------------------


def test_infinite_values_count_as_missing(published: Any) -> None:
    datacube = published(rows(value=[math.inf, 2.0, -math.inf, 4.0]))
    assert sums(datacube) == {JANUARY: "2.0", FEBRUARY: "4.0"}
    assert [line["value"] for line in datacube.csv("raw/rain/raw/raw.csv")] == ["", "2.0", "", "4.0"]


def test_sums_that_overflow_are_empty_instead_of_infinite(published: Any) -> None:
    datacube = published(
        rows(value=[1.5e308, 1.5e308, 1.0, 2.0], country=["Kenya"] * 4, admin1=["Nairobi"] * 4)
    )
    assert sums(datacube) == {JANUARY: "", FEBRUARY: "3.0"}
    assert datacube.json("results/results.json")["output_agg_values"][0]["s_sum_t_sum"] is None


def test_weights_that_cancel_out_or_are_missing_leave_cells_empty(published: Any) -> None:
    datacube = published(rows(people=[1.0, -1.0, None, 0.0]), weight_column="people")
    assert sums(datacube) == ALL
    assert [line["s_wavg_t_mean"] for line in datacube.csv(GLOBAL)] == ["", ""]


VALUES = {
    "small integers": pa.array([1, 2, 3, 4], pa.int8()),
    "unsigned integers": pa.array([1, 2, 3, 4], pa.uint64()),
    "floats of 32 bits": pa.array([1, 2, 3, 4], pa.float32()),
    "decimals": pa.array([Decimal(number) for number in (1, 2, 3, 4)], pa.decimal128(10, 2)),
    "texts": pa.array(["1", " 2 ", "3.0", "4e0"]),
    "categories": pa.array(["1", "2", "3", "4"]).dictionary_encode(),
    "large texts": pa.array(["1", "2", "3", "4"], pa.large_string()),
}


def test_values_of_any_type_that_holds_numbers_are_numbers(published: Any) -> None:
    truths = rows(feature=["truth values"] * 4, value=[True, False, True, True])
    datacube = published(*(rows(feature=[name] * 4, value=values) for name, values in VALUES.items()), truths)
    for name in VALUES:
        assert sums(datacube, f"month/{name}/timeseries/global/global.csv") == ALL
    assert sums(datacube, "month/truth values/timeseries/global/global.csv") == {
        JANUARY: "1.0",
        FEBRUARY: "2.0",
    }


def test_nullable_categorical_and_boolean_columns_are_qualifiers_like_any_other(published: Any) -> None:
    table = rows(
        season=pa.array([1, None, 2, 1], pa.int64()),
        share=pa.array([0.5, 1e20, None, 0.5]),
        crop=pa.array(["maize", None, "teff", "maize"]).dictionary_encode(),
        dry=pa.array([True, None, False, True]),
        day=pa.array([dt.date(2020, 1, 1), None, dt.date(2020, 1, 2), dt.date(2020, 1, 1)]),
        empty=pa.nulls(4),
    )
    names = ["season", "share", "crop", "dry", "day", "empty"]
    datacube = published(table, qualifier_map={"rain": names})
    values = {name: datacube.json(f"raw/rain/info/qualifiers/{name}.json") for name in names[:-1]}
    assert values == {
        "season": ["1", "2", "None"],
        "share": ["0.5", "1e+20", "None"],
        "crop": ["None", "maize", "teff"],
        "dry": ["False", "None", "True"],
        "day": ["2020-01-01", "2020-01-02", "None"],
    }
    assert "empty" not in datacube.json("raw/rain/info/qualifier_counts.json")["counts"]
    assert "month/rain/timeseries/qualifiers/dry/s_sum_t_sum.csv" in datacube.objects


def test_categorical_regions_and_features_are_texts_like_any_other(published: Any, plain: Datacube) -> None:
    names = ("country", "admin1", "feature")
    encoded = {name: rows()[name].combine_chunks().dictionary_encode() for name in names}
    assert published(rows(**encoded)).hash == plain.hash


@pytest.mark.parametrize(
    ("other", "names"),
    [(["a", "b", None, "a"], ["a", "b"]), ([None] * 4, []), ([True, False, None, True], ["False", "True"])],
    ids=["text", "nothing", "booleans"],
)
def test_a_number_that_is_none_beside_a_part_of_another_type_is_a_missing_value(
    published: Any, other: list[Any], names: list[str]
) -> None:
    datacube = published(rows(crop=[0.5, math.nan, 2.0, 0.5]), rows(crop=other), **CROP)
    assert datacube.json("raw/rain/info/qualifiers/crop.json") == ["0.5", "2.0", *sorted(["None", *names])]
    assert [line["crop"] for line in datacube.csv("raw/rain/raw/raw.csv")] == [
        *("0.5", "", "2.0", "0.5"),
        *("" if cell is None else str(cell) for cell in other),
    ]


def test_whole_numbers_of_different_sizes_in_parts_stay_whole_in_the_raw_rows(published: Any) -> None:
    large = 2**63 - 1
    columns = {
        "season": (pa.array([1, 2, None, large]), pa.array([1, 2, 3, None], pa.int16())),
        "event": (pa.array([1, 2, None, -large]), pa.array([1, 2, 3, 2**64 - 1], pa.uint64())),
    }
    first, second = ({name: parts[at] for name, parts in columns.items()} for at in (0, 1))
    raw = published(rows(**first), rows(**second)).csv("raw/rain/raw/raw.csv")
    assert [line["season"] for line in raw] == ["1", "2", "", str(large), "1", "2", "3", ""]
    assert [line["event"] for line in raw] == ["1", "2", "", str(-large), "1", "2", "3", str(2**64 - 1)]


# --- time ------------------------------------------------------------------------------------------

MOMENTS = [dt.datetime.fromtimestamp(int(one) / 1000, dt.UTC) for one in rows()["timestamp"].to_pylist()]


TIMESTAMPS = {
    "dates as text": pa.array([f"{moment:%Y-%m-%d}" for moment in MOMENTS]),
    "ISO 8601": pa.array([f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in MOMENTS]),
    "categories": pa.array([f"{moment:%Y-%m-%d %H:%M:%S}+00:00" for moment in MOMENTS]).dictionary_encode(),
    "digits": pa.array([str(int(moment.timestamp() * 1000)) for moment in MOMENTS]),
    "floats": pa.array([moment.timestamp() * 1000 for moment in MOMENTS], pa.float64()),
    "nanoseconds": pa.array(MOMENTS, pa.timestamp("ns")),
    "UTC": pa.array(MOMENTS, pa.timestamp("s", "UTC")),
    "with a zone": pa.array(MOMENTS, pa.timestamp("us", "Africa/Nairobi")),
    "dates": pa.array([moment.date() for moment in MOMENTS]),
}


def test_timestamps_in_any_form_give_the_objects_that_milliseconds_give(published: Any) -> None:
    parts = (rows(feature=[name] * 4, timestamp=times) for name, times in TIMESTAMPS.items())
    datacube = published(rows(), *parts)
    expected = {key: body for key, body in datacube.objects.items() if "/rain/" in key}
    for name in TIMESTAMPS:
        ours = {
            key.replace(f"/{name}/", "/rain/"): body
            for key, body in datacube.objects.items()
            if f"/{name}/" in key
        }
        assert ours == expected, name


def test_a_run_with_datetimes_alone_gives_the_datacube_of_milliseconds(
    published: Any, plain: Datacube
) -> None:
    assert published(rows(timestamp=TIMESTAMPS["with a zone"])).hash == plain.hash


def test_times_before_1970_missing_and_out_of_range_are_kept_filled_and_dropped(published: Any) -> None:
    times = [-302_486_400_000 + DAY, None, 2**62, -(2**62), -1]
    table = pa.concat_tables([rows(), rows().slice(0, 1)]).set_column(0, "timestamp", pa.array(times))
    datacube = published(table, fill_timestamp=JANUARY)
    assert list(sums(datacube)) == [-302_486_400_000, -2_678_400_000, JANUARY]
    assert datacube.info["num_missing_ts"] == 1
    assert datacube.info["num_invalid_ts"] == 2
    assert datacube.keys("month/rain/tiles/-302486400000-8-")
    assert "month/rain/regional/country/aggs/-2678400000/default/default.csv" in datacube.objects


# --- parts -----------------------------------------------------------------------------------------


def test_parts_may_have_different_columns_of_different_types(published: Any) -> None:
    first = rows(
        country=["1", "1", "2", "2"], admin1=None, crop=["a", "b", "a", "b"], year=[2020, 2020, 2021, 2021]
    )
    second = rows(
        country=pa.array([1, 1, 2, 2]),
        admin1=["X"] * 4,
        lat=None,
        lng=None,
        timestamp=[f"{moment:%Y-%m-%d}" for moment in MOMENTS],
        value=["1", "2", "3", "4"],
        year=["2020", None, "2021", "x"],
        market=[True, False, None, True],
    )
    datacube = published(first, second, qualifier_map={"rain": ["crop", "market", "year"]})
    assert sums(datacube) == {JANUARY: "6.0", FEBRUARY: "14.0"}
    assert datacube.info["num_rows"] == 8
    assert datacube.json("raw/rain/info/region_lists.json")["admin1"] == [
        "1__None",
        "1__X",
        "2__None",
        "2__X",
    ]
    assert datacube.json("raw/rain/info/qualifiers/crop.json") == ["None", "a", "b"]
    assert datacube.json("raw/rain/info/qualifiers/market.json") == ["False", "None", "True"]
    assert datacube.json("raw/rain/info/qualifiers/year.json") == ["2020", "2021", "None", "x"]
    assert len(datacube.csv("raw/rain/raw/raw.csv")) == 8


def test_a_part_without_rows_beside_others_changes_nothing(published: Any, plain: Datacube) -> None:
    assert published(rows().slice(0, 0), rows()).hash == plain.hash


def test_index_columns_of_data_frames_are_no_qualifiers(published: Any, plain: Datacube) -> None:
    indexed = rows(**{"__index_level_0__": [5, 6, 7, 8], "Unnamed: 0": [1, 2, 3, 4]})
    assert published(indexed).hash == plain.hash


def test_the_order_of_rows_and_parts_shows_only_in_the_raw_rows(published: Any) -> None:
    one, other = rows(crop=list("abab")), rows(crop=list("cdcd"), country=["Chad"] * 4)
    expected = published(one, other, **CROP)
    reversed_ = published(other.take([3, 2, 1, 0]), one.take([2, 0, 3, 1]), **CROP)
    changed = {key for key in expected.objects if expected.objects[key] != reversed_.objects[key]}
    assert expected.objects.keys() == reversed_.objects.keys()
    assert changed == {"raw/rain/raw/raw.csv"}
