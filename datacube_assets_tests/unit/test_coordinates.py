"""Coordinates, values and qualifiers that are not what they claim to be are warned of, with what to do."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from datacube_assets.check_limits import Limits
from datacube_assets.checks.judging import plausibility
from datacube_assets.checks.judging.coordinates import coordinates
from datacube_assets.checks.judging.countries import BOXES
from datacube_assets.checks.judging.verdict import Verdict
from datacube_assets.kernels.report import Report
from datacube_assets_tests.unit.kernel_helpers import Points, Row, normalized

LIMITS = Limits()
NAIROBI = {"country": "Kenya", "lat": -1.29, "lng": 36.82}


def judged(*rows: Row) -> Verdict:
    points = normalized(list(rows))
    return coordinates(points.report, points.layout, plausibility.summary(points.table).squares)


@pytest.mark.parametrize(
    "rows",
    [
        [NAIROBI],
        [{"country": "Kenya"}],
        [{"value": 1.0}],
        [{**NAIROBI, "lng": -323.18}, {"country": "Japan", "lat": 36.0, "lng": 138.0}],
        # Exchanged they would lie in their country as well.
        [{"country": "Nigeria", "lat": 8.0, "lng": 8.0}],
        [{"country": "Nowhere", "lat": 37.0, "lng": -1.0}],
        [{"lat": 89.0, "lng": 1.0}, {"lat": 80.0, "lng": 1.0}],
        [{**NAIROBI, "x": "control", "latitude": 1.0}],
        [{"x": 1.0, "country": "Kenya"}],
    ],
)
def test_sound_coordinates_pass(rows: list[Row]) -> None:
    assert judged(*rows).passed


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        # Metres of a projection.
        (
            [{"lat": 9_857_000.0, "lng": 257_000.0}] * 2,
            ["latitude 9.857e+06", "metres?", "no tiles"],
        ),
        ([{"lat": 90.0, "lng": 5.0}], ["No row has a place on the map"]),
        # One that is impossible among others.
        (
            [NAIROBI] * 9 + [{"lat": 279.8, "lng": 1.0}],
            ["1 rows have impossible", "latitude 279.8", "exchanged?"],
        ),
        ([NAIROBI] * 9 + [{"lat": -9999.0, "lng": -9999.0}], ["latitude -9999, longitude -9999", "empty"]),
        # Exchanged, seen from the numbers, and from the country.
        ([{"lat": 138.0, "lng": 36.0}] * 3, ["are latitude and longitude exchanged?"]),
        (
            [{"country": "Kenya", "lat": 36.82, "lng": -1.29}] * 9,
            ["rows of Kenya", "exchange the columns"],
        ),
        # Other names.
        (
            [{"longitude": 36.0, "latitude": 1.0}],
            ["no column lat, lng", "'latitude', 'longitude'", "call"],
        ),
        ([{"lon": 36.0, "lat": 1.0}], ["no column lng", "'lon' is taken for a qualifier", "no tiles"]),
        ([{"long": 36.0, "lat": 1.0}], ["'long'"]),
        ([{"X": 36.0, "Y": 1.0}], ["'Y', 'X'"]),
        ([{"Lat": 36.0, "LNG": 1.0}], ["'Lat', 'LNG'"]),
        ([{"Country": "Kenya", "admin_1": "Nairobi"}], ["no column country, admin1", "'Country', 'admin_1'"]),
        ([{"lat": 1.0}], ["the column lng", "no tiles without it"]),
        # No two numbers in any row.
        ([{"lat": 1.0, "lng": None}, {"lat": None, "lng": 36.0}], ["no row has a latitude and a longitude"]),
    ],
)
def test_coordinates_that_are_none_are_warned_of_with_what_to_do(rows: list[Row], told: list[str]) -> None:
    verdict = judged(*rows)
    assert not verdict.passed
    assert [text for text in told if text.lower() not in verdict.says.lower()] == [], verdict.says


def test_a_column_that_is_there_is_not_missed_because_another_has_its_name_in_other_letters() -> None:
    row: Row = {
        "Value": 1.0,
        "VALUE": 2.0,
        "Feature": "x",
        "timestamp ": 1,
        "lat": 1.0,
        "Lat": 2.0,
        "lng": 36.0,
    }
    assert judged(row).passed, judged(row).says


def test_a_file_without_coordinates_does_not_say_that_no_row_lacks_them() -> None:
    assert normalized([{"country": "Kenya"}] * 3).report.missing_coordinates == 3
    assert normalized([{"lat": 1.0}] * 3).report.missing_coordinates == 3


def test_the_boxes_of_countries_are_boxes() -> None:
    assert len(BOXES) > 200
    for south, north, west, east in BOXES.values():
        assert -90 <= south < north <= 90
        assert -180 <= west < east <= 180


# --- stand-ins -------------------------------------------------------------------------------------


def of_values(values: list[float], limits: Limits = LIMITS) -> Verdict:
    points = normalized([{"value": value} for value in values])
    return plausibility.values_are_values(plausibility.summary(points.table), limits)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([-9999.0] * 2 + [1.0] * 8, "2 of 10 values of f are -9999"),
        ([-999.0] * 5 + [280.0] * 95, "5 of 100 values of f are -999"),
        ([9999.0] * 5 + [280.0] * 95, "are 9999"),
        ([-3.4e38] + [1.0] * 999, "1 of 1,000 values of f are -3.4e+38"),
        ([-3.4028234663852886e38] + [1.0] * 9, "are -3.40282e+38"),
        ([1.0000000200408773e20] + [1.0] * 9, "are 1e+20"),
        ([9.969209968386869e36, -9999.0] + [1.0] * 9, "are -9999 or 9.96921e+36"),
    ],
)
def test_values_that_stand_for_missing_ones_are_told_and_left_as_they_are(
    values: list[float], told: str
) -> None:
    verdict = of_values(values)
    assert not verdict.passed
    assert told in verdict.says
    assert "leave such cells empty" in verdict.says
    assert normalized([{"value": value} for value in values]).column("value") == values


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0],
        # One among thousands may be what it says.
        [-999.0] + [1.0] * 999,
        # Not an extreme: a number like others.
        [9999.0] * 5 + [10_001.0, 3.0],
        [],
    ],
)
def test_other_values_are_not_told(values: list[float]) -> None:
    assert of_values(values or [0.0]).passed


def test_how_many_stand_ins_are_suspicious_can_be_set() -> None:
    values = [-9999.0] * 2 + [1.0] * 8
    assert of_values(values, Limits(max_stand_in_share=0.2)).passed


def test_stand_ins_of_shards_add_up() -> None:
    parts = [normalized([{"value": value}]) for value in (-9999.0, 1.0, -9999.0)]
    found = sum((plausibility.summary(part.table) for part in parts), plausibility.Summary({}, {}))
    assert "2 of 3 values" in plausibility.values_are_values(found, LIMITS).says


# --- the qualifier map -----------------------------------------------------------------------------


def of_map(points: Points, **qualifier_map: list[str]) -> Verdict:
    report: Report = points.report
    return plausibility.qualifiers_are_there(qualifier_map, ["f"], report, points.layout)


def test_what_the_qualifier_map_names_and_the_data_lack_is_told() -> None:
    points = normalized([{"crop": "maize", "empty": None}])
    assert of_map(points, f=["crop"]).passed
    verdict = of_map(points, f=["crop", "corp", "empty"], g=["crop"])
    assert not verdict.passed
    figures: dict[str, Any] = dict(verdict.figures)
    assert figures == {"unknown features": ["g"], "unknown columns": ["corp", "empty"]}
    assert "g" in verdict.says
    assert "corp, empty" in verdict.says


def test_a_map_that_follows_dojos_documents_may_name_the_date_column_of_before() -> None:
    points = normalized([{"crop": "maize"}])
    columns = {"f": ["crop", "event_date"]}
    verdict = plausibility.qualifiers_are_there(columns, ["f"], points.report, points.layout, of_dojo=True)
    assert verdict.passed
    assert dict(verdict.figures)["unknown columns"] == ["event_date"]
    verdict = plausibility.qualifiers_are_there({"g": []}, ["f"], points.report, points.layout, of_dojo=True)
    assert not verdict.passed, "a feature that nobody has is worth a look all the same"


@pytest.mark.parametrize(
    ("lat", "says"),
    [
        ("-1.5", ""),
        ("-1,5", "1 of 3 rows have no place, as a coordinate is text that is no number, such as '-1,5'"),
        ("1°30'S", "such as"),
    ],
)
def test_coordinates_that_are_text_and_no_number_are_told(lat: str, says: str) -> None:
    there = {"lat": pa.array(["-1", lat, "NA"]), "lng": pa.array(["36", "36", ""])}
    points = normalized(there)
    verdict = coordinates(points.report, points.layout, {})
    assert verdict.passed == (not says)
    assert says in verdict.says
    assert not says or "decimal point" in verdict.says
    assert points.report.missing_coordinates == (2 if says else 1)
