"""Judging without Dagster: each check fails for what it is there for, and for nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from datacube_assets.check_limits import Limits, LimitsError, LimitsFile
from datacube_assets.checks.judging import columns, conservation, objects, plausibility, sizes
from datacube_assets.checks.judging.plausibility import Summary, summary
from datacube_assets.kernels.encode import tile_objects
from datacube_assets.kernels.estimate import Estimate
from datacube_assets.kernels.qualifiers import feature_regions
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import GLOBAL_COLUMNS, Layout
from datacube_assets.settings import Settings, SettingsError
from datacube_assets_tests import fuzz
from datacube_assets_tests.unit.kernel_helpers import normalized

IN_2019, IN_2021 = 1_546_318_800, 1_609_459_200
"""Seconds UTC."""
LIMITS = Limits()

# --- plausibility ----------------------------------------------------------------------------------


def test_difference_13_times_in_seconds_are_warned_of() -> None:
    verdict = plausibility.timestamps(Report(min_timestamp=IN_2019, max_timestamp=IN_2021), unit="ms")
    assert not verdict.passed
    assert "--timestamp-unit s" in verdict.says


@pytest.mark.parametrize(
    ("first", "last", "unit"),
    [
        (IN_2019 * 1000, IN_2021 * 1000, "ms"),
        (IN_2019, IN_2021, "s"),
        (-IN_2021, IN_2021, "ms"),
        (0, 0, "ms"),
        (None, None, "ms"),
    ],
)
def test_other_times_pass(first: int | None, last: int | None, unit: str) -> None:
    report = Report(min_timestamp=first, max_timestamp=last)
    assert plausibility.timestamps(report, unit=unit).passed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"points": 95}, ""),
        ({"points": 94}, "6.0% of the rows are dropped"),
        ({"num_missing_val": 30, "infinite_values": 20}, ""),
        ({"num_missing_val": 30, "infinite_values": 21}, "51.0% of the rows are without a value"),
    ],
)
def test_too_many_rows_that_are_dropped_or_without_a_value_are_warned_of(
    changes: dict[str, Any], says: str
) -> None:
    report = replace(Report(num_rows=100, points=100), **changes)
    verdict = plausibility.usable_rows(report, LIMITS)
    assert verdict.passed == (not says)
    assert says in verdict.says


def points(count: int, **changed: Any) -> pa.Table:
    """Rows of a feature in a square of five degrees of Kenya."""
    spread = np.arange(count) % 50 / 10
    base = {
        "feature": ["rain"] * count,
        "value": np.arange(count, dtype=np.float64),
        "country": ["Kenya"] * count,
        "lat": spread - 2,
        "lng": spread + 35,
    }
    return pa.table(base | changed)


def test_a_feature_with_one_value_everywhere_is_warned_of_when_it_has_many() -> None:
    assert plausibility.varying_values(summary(points(1000)), LIMITS).passed
    constant = plausibility.varying_values(summary(points(1000, value=[2.5] * 1000)), LIMITS)
    assert not constant.passed
    assert constant.figures["constant"] == {"rain": 2.5}
    assert plausibility.varying_values(summary(points(999, value=[2.5] * 999)), LIMITS).passed


def test_a_feature_without_any_value_is_warned_of_when_it_has_many_rows() -> None:
    values = pa.array([None] * 1000, pa.float64())
    verdict = plausibility.varying_values(summary(points(1000, value=values)), LIMITS)
    assert not verdict.passed
    assert verdict.figures["without any value"] == ["rain"]


@pytest.mark.parametrize(("lat", "lng"), [(0.0, 0.0), (36.5, -1.25), (90.0, 0.0), (1e9, 36.5)])
def test_rows_far_from_the_others_of_their_country_are_warned_of(lat: float, lng: float) -> None:
    table = pa.concat_tables([points(1000), points(3, lat=[lat] * 3, lng=[lng] * 3)])
    verdict = plausibility.places_in_their_country(summary(table), LIMITS)
    assert not verdict.passed
    assert "3 rows lie far away" in verdict.says
    assert "Kenya" in verdict.figures["far away"]


def test_some_rows_far_away_pass_when_the_limits_allow_it() -> None:
    table = pa.concat_tables([points(1000), points(3, lat=[0.0] * 3, lng=[0.0] * 3)])
    found = summary(table)
    assert plausibility.places_in_their_country(found, Limits(max_far_share=0.01)).passed
    assert plausibility.places_in_their_country(found, Limits(far_degrees=90.0)).passed


@pytest.mark.parametrize(
    ("lat", "lng"),
    [
        ([-17.0, -16.0, -18.0] * 9, [178.0, -179.0, 179.5] * 9),  # on both sides of 180 degrees
        ([60.0] * 27, [float(lng) for lng in range(27, 189, 6)]),  # wide
        ([1.0] * 27, [36.0] * 26 + [396.0]),  # the same place, once around
        ([float("nan")] * 27, [1.0] * 27),
        ([47.0] * 14 + [-21.0] * 13, [2.0] * 14 + [55.5] * 13),  # in two halves, far apart
    ],
)
def test_countries_of_any_shape_pass(lat: list[float], lng: list[float]) -> None:
    verdict = plausibility.places_in_their_country(summary(points(27, lat=lat, lng=lng)), LIMITS)
    assert verdict.passed


def test_rows_without_a_country_are_in_none() -> None:
    table = points(4, country=["None"] * 4, lat=[0.0, 80.0, -80.0, 5.0])
    assert summary(table).squares == {}
    assert plausibility.places_in_their_country(summary(table), LIMITS).passed
    assert summary(table.select(["feature", "value"])).squares == {}


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_summaries_of_shards_add_up(first: int, second: int) -> None:
    table = points(3000, feature=["rain", "heat", "rain"] * 1000)
    low, high = sorted((first, second))
    cuts = [table.slice(0, low), table.slice(low, high - low), table.slice(high)]
    added = sum(map(summary, cuts), Summary({}, {}))
    assert added == summary(table)


def test_features_that_most_other_runs_have_are_missed() -> None:
    others = {"m:1": ["rain", "heat", "wind"], "m:2": ["rain", "heat"], "m:3": ["rain"]}
    assert plausibility.same_features(["rain", "heat", "new"], others).passed
    lost = plausibility.same_features(["rain"], others)
    assert not lost.passed
    assert lost.figures["missing"] == ["heat"]
    assert plausibility.same_features(["rain"], {}).passed


# --- conservation ----------------------------------------------------------------------------------


def totals(**changed: Any) -> pa.Table:
    base = {"feature": ["a", "a", "b"], "timestamp": [0, 1, 0], "cells": [1, 2, 3], "sum": [0.1, 0.2, 1e300]}
    table = pa.table(base | changed)
    return table.set_column(0, "feature", table["feature"].combine_chunks().dictionary_encode())


def compare(parts: pa.Table, whole: pa.Table) -> conservation.Compared:
    return conservation.compare(parts, whole, ["cells", "sum"], {"level": "country"})


def test_parts_in_any_number_and_order_agree_with_their_whole() -> None:
    parts = totals(
        feature=["b", "a", "a", "a"], timestamp=[0, 1, 0, 1], cells=[3, 1, 1, 1], sum=[1e300, 0.15, 0.1, 0.05]
    )
    assert compare(parts, totals()) == conservation.Compared(6, 0)
    assert compare(totals().slice(0, 0), totals().slice(0, 0)) == conservation.Compared()


@pytest.mark.parametrize(
    ("parts", "figure"),
    [
        (totals(cells=[1, 2, 4]), "cells"),
        (totals(sum=[0.1, 0.2 + 1e-9, 1e300]), "sum"),
        (totals().slice(0, 2), "(presence)"),
        (totals(timestamp=[0, 1, 1]), "(presence)"),
        (totals(feature=["a", "a", "c"]), "(presence)"),
    ],
)
def test_what_is_lost_or_counted_twice_is_found(parts: pa.Table, figure: str) -> None:
    compared = compare(parts, totals())
    assert compared.differing
    assert compared.examples[0]["figure"] == figure
    assert compared.examples[0]["level"] == "country"


def test_sums_that_overflowed_or_differ_by_rounding_are_no_fault() -> None:
    assert not compare(totals(sum=[0.1, 0.2 + 1e-12, 1e300]), totals()).differing
    overflowed = totals(sum=[0.1, 0.2, float("inf")])
    assert not compare(overflowed, totals()).differing
    assert compare(totals(cells=[1, 2, 4], sum=[0.1, 0.2, float("inf")]), totals()).differing


@given(**fuzz.TARGETS["sums"][1])
def test_sound_data_is_never_refused_however_its_values_cancel(**arguments: Any) -> None:
    fuzz.sums_law(**arguments)


@pytest.mark.parametrize("shift", [0.0, 1.0, 1e6], ids=["cancelling", "around one", "far from zero"])
def test_one_ordinary_row_less_among_a_million_is_found_by_sums_alone(shift: float) -> None:
    chance = np.random.default_rng(7)
    values = chance.normal(0, 1, 1_000_000) + shift
    lost = int(np.flatnonzero(np.abs(values) > 0.5)[0])

    def table(numbers: Any) -> pa.Table:
        feature = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(numbers), np.int32)), ["a"])
        return pa.table(
            {"feature": feature, "timestamp": np.zeros(len(numbers), np.int64), "s_sum_t_sum": numbers}
        )

    added = conservation.sizes_of_points(table(values).rename_columns(["feature", "timestamp", "value"]))
    whole = table(np.array([math.fsum(values)]))
    assert not fuzz.judged(table(values[::-1].copy()), whole, ["s_sum_t_sum"], added).differing
    assert fuzz.judged(table(np.delete(values, lost)), whole, ["s_sum_t_sum"], added).differing == 1


def test_what_cancelled_is_told_from_what_is_lost_by_what_was_added_up() -> None:
    added = conservation.sizes_of_cells(
        totals(t_sum=[0.1, 5e15, 1.0], t_mean=[0.1, 5e15, 1.0]).drop_columns(["cells", "sum"]), weighted=False
    ).rename_columns({"s_sum_t_sum, absolute": "sum, absolute"})
    cancelled = totals(sum=[0.1, 0.4, 1e300])
    assert compare(cancelled, totals()).differing == 1
    assert not conservation.compare(cancelled, totals(), ["cells", "sum"], sizes=added).differing
    lost = totals(sum=[0.2, 0.2, 1e300])
    assert conservation.compare(lost, totals(), ["cells", "sum"], sizes=added).differing == 1


def test_a_datacube_of_more_objects_than_allowed_is_told_what_makes_most_of_them() -> None:
    found = {"spatial_tiles": Estimate(70, 4_100_000_000), "regional_maps": Estimate(30, 900)}
    assert sizes.within_limit(found, 100).passed
    refused = sizes.within_limit(found, 99)
    assert not refused.passed
    assert "100 objects of about 4.1 GB, and 99 are allowed; 70 of them are of spatial_tiles" in refused.says
    assert "compute_tiles" in refused.says
    assert refused.figures["by asset"]["regional_maps"] == {"objects": 30, "bytes": 900}


def test_regions_that_the_reader_cannot_be_asked_for_are_named() -> None:
    points = normalized([{"country": "A__B__C__D__E"}, {"country": "F", "admin1": "G__H"}])
    regions = feature_regions(points.table, points.layout)
    verdict = plausibility.askable_regions(regions, points.layout)
    assert not verdict.passed
    assert verdict.figures["examples"] == ["A__B__C__D__E", "A__B__C__D__E__None"]
    assert "A__B__C__D__E" in verdict.says
    plain = normalized([{"country": "F", "admin1": "G__H"}])
    assert plausibility.askable_regions(feature_regions(plain.table, plain.layout), plain.layout).passed


# --- columns ---------------------------------------------------------------------------------------

LAYOUT = Layout(("country",), ("lat", "lng"), ("crop",), None)


def test_columns_are_as_declared_in_name_type_and_order() -> None:
    wanted = columns.declared(GLOBAL_COLUMNS, LAYOUT, by_qualifier=True)
    assert [name for name, _ in wanted] == snapshot(
        ["feature", "timestamp", "value", "cells", "s_count", "s_sum_t_sum", "s_sum_t_mean"]
    )
    types = {"string": pa.dictionary(pa.int32(), pa.string()), "int64": pa.int64(), "double": pa.float64()}
    right = pa.schema([(name, types[kind]) for name, kind in wanted])
    assert columns.columns_as_declared({"file": (wanted, right)}).passed
    wrong = {
        "another order": pa.schema(list(right)[::-1]),
        "missing: s_count": right.remove(right.get_field_index("s_count")),
        "not declared: more": right.append(pa.field("more", pa.int64())),
        "cells is int32 instead of int64": right.set(3, pa.field("cells", pa.int32())),
    }
    for says, schema in wrong.items():
        verdict = columns.columns_as_declared({"file": (wanted, schema)})
        assert not verdict.passed
        assert says in verdict.figures["differing"]["file"]


# --- objects ---------------------------------------------------------------------------------------


def records(names: str, sizes: list[int | None], checksums: list[bytes | None]) -> pa.Table:
    columns_ = {"key": list(names), "size": sizes, "checksum": checksums}
    schema = pa.schema([("key", pa.string()), ("size", pa.int64()), ("checksum", pa.binary(16))])
    return pa.table(columns_, schema=schema)


RECORDED = records("abcde", [1, 2, 3, 4, 5], [bytes([i]) * 16 for i in range(5)])


def test_a_listing_tells_what_is_missing_altered_suspect_unread_and_stray() -> None:
    listed = records(
        "zbcde",
        [9, 9, 3, 4, None],
        [None, bytes([1]) * 16, bytes([9]) * 16, bytes([3]) * 16, None],
    )
    looked = objects.look(RECORDED, listed)
    assert looked.missing.tolist() == [True, False, False, False, False]
    assert looked.altered.tolist() == [False, True, False, False, False]
    assert looked.suspect.tolist() == [False, False, True, False, False]
    assert looked.unread.tolist() == [False, False, False, False, True]
    assert looked.stray == ["z"]


def test_a_store_whose_tags_are_no_checksums_is_not_taken_for_a_fault() -> None:
    listed = records("abcde", [1, 2, 3, 4, 5], [b"x" * 16] * 5)
    looked = objects.look(RECORDED, listed)
    assert not (looked.altered | looked.suspect).any()
    assert looked.unread.all()


def test_a_tile_is_read_back_as_it_was_written() -> None:
    bins = np.array([0, 5, 127, 128, 4095], np.uint32)
    figures = [np.array([1.0, 0.0, -2.5, 0.0, 4.0]), np.array([1.0, 2.0, 0.0, 0.0, 4.0]), np.ones(5)]
    x, y = np.array([5], np.uint32), np.array([0], np.uint32)
    tiles = tile_objects(pa.array(["x"]), 3, x, y, np.array([0, 5]), bins, figures)
    body = bytes(next(tiles.bodies()))
    assert objects.bins_of_tile(body) == (2.5, 7.0, 5.0)
    for damaged in (body[:-1], body[:9] + b"\xff" + body[10:], b"\xff", b"{}"):
        with pytest.raises(ValueError, match=r"tile|bins|early"):
            objects.bins_of_tile(damaged)


def test_the_zoom_of_a_tile_is_read_from_its_key() -> None:
    keys = pa.array(["m/r/month/a-b/tiles/-5-8-155-128.tile", "m/r/month/a/tiles/5-0-0-0.tile"])
    assert objects.zooms(keys).tolist() == [8, 0]


# --- limits ----------------------------------------------------------------------------------------


def test_limits_hold_for_all_models_and_differ_for_some(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text('max_dropped_share = 0.2\n[models."a model"]\nmax_missing_share = 1.0\n')
    limits = LimitsFile.read(str(path))
    assert limits.of("other") == Limits(max_dropped_share=0.2)
    assert limits.of("a model") == Limits(max_dropped_share=0.2, max_missing_share=1.0)
    assert LimitsFile.read("").of("any") == Limits()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_droped_share = 0.2", "max_droped_share: there is no such limit; give max_dropped_share"),
        ('[models."m"]\nother_runs = -1', "other_runs: Input should be greater than or equal to 0"),
        ("max_dropped_share = 'half'", "max_dropped_share: Input should be a valid number"),
        ("=", "is no TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_limits_that_cannot_be_used_is_refused_by_name(
    text: str | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "limits.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LimitsError) as error:
        LimitsFile.read(str(path))
    assert says in str(error.value)
    with pytest.raises(SettingsError, match="DATACUBE_CHECK_LIMITS cannot be used"):
        Settings.from_environment(DATACUBE_CHECK_LIMITS=str(path))
