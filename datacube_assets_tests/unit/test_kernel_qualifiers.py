"""Which qualifiers break which features down, and how far."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest
from inline_snapshot import snapshot

from datacube_assets.kernels.qualifiers import Thresholds, merge_values, qualifier_values
from datacube_assets.kernels.schema import Layout
from datacube_assets_tests.unit.kernel_helpers import JAN_2020, Datacube, Row, datacube, normalized

PLACE: Row = {"country": "Kenya", "admin1": "A", "admin2": "B", "lat": 1.0, "lng": 2.0}


def crops(count: int, thresholds: Thresholds) -> Datacube:
    rows = [{**PLACE, "crop": f"c{i}"} for i in range(count)]
    return datacube(rows, qualifiers={"f": ["crop"]}, thresholds=thresholds)


@pytest.mark.parametrize(("count", "there"), [(2, True), (3, True), (4, False)])
def test_a_qualifier_with_as_many_values_as_the_limit_is_kept(count: int, there: bool) -> None:
    made = crops(count, Thresholds(max_count=3))
    assert bool(made.keys("timeseries/qualifiers/crop/s_count.csv")) is there
    assert bool(made.keys("aggs", "qualifiers/crop.csv")) is there
    assert bool(made.keys("regional/country/timeseries/qualifiers/")) is there


@pytest.mark.parametrize(("count", "there"), [(2, True), (3, True), (4, False)])
def test_the_limit_of_regional_timeseries_is_inclusive_too(count: int, there: bool) -> None:
    made = crops(count, Thresholds(max_count=10, regional_timeseries_count=3))
    assert bool(made.keys("regional/country/timeseries/qualifiers/crop/c0/Kenya.csv")) is there
    assert made.keys("aggs", "qualifiers/crop.csv")
    assert made.keys("month/f/timeseries/qualifiers/crop/")


def test_a_regional_limit_above_the_general_one_does_not_bring_a_qualifier_back() -> None:
    made = crops(4, Thresholds(max_count=3, regional_timeseries_count=10))
    assert not made.keys("timeseries/qualifiers")


def test_a_qualifier_over_the_limit_leaves_every_output_but_the_info_lists() -> None:
    made = crops(4, Thresholds(max_count=3))
    assert made.keys("crop") == ["raw/f/info/qualifiers/crop.json"]
    assert made.json("raw/f/info/qualifier_counts.json") == {
        "thresholds": {"max_count": 3, "regional_timeseries_count": 100, "regional_timeseries_max_level": 1},
        "counts": {"crop": 4},
    }


@pytest.mark.parametrize(
    ("deepest", "levels"),
    [(-1, set()), (0, {"country"}), (1, {"country", "admin1"}), (3, {"country", "admin1", "admin2"})],
)
def test_regional_timeseries_by_qualifier_end_at_the_level_of_the_request(
    deepest: int, levels: set[str]
) -> None:
    made = crops(2, Thresholds(regional_timeseries_max_level=deepest))
    found = {key.split("/")[3] for key in made.keys("/regional/", "timeseries/qualifiers")}
    assert found == levels
    assert {key.split("/")[3] for key in made.keys("aggs", "qualifiers/crop.csv")} == {
        "country",
        "admin1",
        "admin2",
    }


def test_without_thresholds_in_the_request_those_of_the_original_hold() -> None:
    assert Thresholds() == Thresholds(10_000, 100, 1)


def test_a_mapped_qualifier_that_is_no_column_is_ignored() -> None:
    made = datacube(
        [{**PLACE, "crop": "maize"}], qualifiers={"f": ["variety", "crop", "country"], "g": ["crop"]}
    )
    assert {key.split("/")[4] for key in made.keys("month/f/timeseries/qualifiers/")} == {"crop"}
    assert not made.keys("/g/")


def test_a_qualifier_that_is_not_mapped_is_listed_and_splits_cells_but_breaks_nothing_down() -> None:
    made = datacube([{**PLACE, "crop": "maize"}, {**PLACE, "crop": "teff"}])
    assert made.keys("crop") == ["raw/f/info/qualifiers/crop.json"]
    assert made.line("month/f/timeseries/global/global.csv", JAN_2020) == snapshot(
        "1577836800000,2.0,1.0,2.0,1.0,2"
    )


def test_a_qualifier_is_mapped_feature_by_feature() -> None:
    rows = [{**PLACE, "feature": feature, "crop": "maize"} for feature in ("f", "g")]
    made = datacube(rows, qualifiers={"g": ["crop"]})
    assert made.keys("month/g/timeseries/qualifiers/crop")
    assert not made.keys("month/f/timeseries/qualifiers")
    assert not made.keys("month/f/regional", "qualifiers")


def test_counts_are_of_the_values_of_each_feature() -> None:
    rows = [{**PLACE, "crop": "maize"}, {**PLACE, "crop": None}, {**PLACE, "feature": "g", "crop": "maize"}]
    made = datacube(rows)
    assert made.json("raw/f/info/qualifier_counts.json")["counts"] == {"crop": 2}
    assert made.json("raw/g/info/qualifier_counts.json")["counts"] == {"crop": 1}


def test_a_feature_without_qualifiers_has_empty_counts() -> None:
    made = datacube([PLACE])
    assert made.json("raw/f/info/qualifier_counts.json")["counts"] == {}
    assert not made.keys("info/qualifiers/")


def test_an_inventory_of_parts_holds_every_value_once() -> None:
    points = normalized([{**PLACE, "crop": crop} for crop in ("b", "a", "b")])
    once = qualifier_values(points.table, points.layout)
    assert merge_values([once, once]).to_pylist() == once.to_pylist()
    assert once["value"].to_pylist() == ["a", "b"]
    assert merge_values([]).num_rows == 0
    assert qualifier_values(points.table, Layout((), (), (), None)).num_rows == 0


@pytest.mark.parametrize(
    "name", ["rows", "t_sum", "weight", "value_x", "region_id", "s_count", "quadkey", "cells"]
)
def test_a_qualifier_may_be_called_like_one_of_our_own_columns(name: str) -> None:
    rows = [{**PLACE, name: "a", "value": 1.0}, {**PLACE, name: "b", "value": 4.0}]
    made = datacube(rows, qualifiers={"f": [name]})
    assert (
        made.text(f"month/f/timeseries/qualifiers/{name}/s_sum_t_sum.csv")
        == f"timestamp,a,b\n{JAN_2020},1.0,4.0\n"
    )
    assert made.keys("regional/admin1/timeseries/qualifiers", "/b/Kenya__A.csv")


@pytest.mark.parametrize("name", ["rows", "t_sum", "weight", "region_id"])
def test_a_weight_column_may_be_called_like_one_of_our_own_columns(name: str) -> None:
    rows = [{**PLACE, name: 1.0, "value": 1.0}, {**PLACE, name: 3.0, "value": 2.0}]
    (row,) = datacube(rows, weight_column=name).rows("month/f/timeseries/global/global.csv")
    assert row["s_wavg_t_wavg"] == "1.75"


def test_the_inventory_of_many_columns_takes_no_longer_than_their_values_do() -> None:
    columns, rows = 300, 1_000
    tables = [
        pa.table(
            {
                "feature": pa.array(["rain"] * rows).dictionary_encode(),
                "qualifier": pa.array([f"q{column:03}"] * rows).dictionary_encode(),
                "value": pa.array([f"{column} {row}" for row in range(rows)]).dictionary_encode(),
            }
        )
        for column in range(columns)
    ]
    begun = time.process_time()
    merged = merge_values(tables)
    # Looking at all values once for each column would take twenty times as long.
    assert time.process_time() - begun < 3
    assert merged.num_rows == columns * rows
    assert merged.slice(0, 2).to_pylist() == [
        {"feature": "rain", "qualifier": "q000", "value": "0 0"},
        {"feature": "rain", "qualifier": "q000", "value": "0 1"},
    ]
