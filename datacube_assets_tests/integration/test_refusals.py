"""Whoever is refused keeps what was published before, byte by byte; sound data is not refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datacube_assets.assets import estimates as estimating
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.results import pipeline_results
from datacube_assets.checks.judging.verdict import ChecksFailedError
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import spatial
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.estimate import Estimate
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import manifest, manifest_entries
from datacube_assets_tests.integration.support import JANUARY, House, rows

RUN = ModelRun("model", "run")

# --- sums that cancel ------------------------------------------------------------------------------


def net(values: list[float], **columns: Any) -> pa.Table:
    """A feature that has both signs, in one month."""
    count = len(values)
    return rows(
        timestamp=[JANUARY] * count,
        country=["Avaria"] * count,
        admin1=["A"] * (count - 1) + ["B"],
        lat=[float(1 + number % 60) for number in range(count)],
        lng=[float(30 + number // 60) for number in range(count)],
        feature=["net"] * count,
        value=values,
        **columns,
    )


def test_values_that_cancel_are_published(house: House) -> None:
    house.publish(net([0.1, 0.2, -0.3]))
    datacube = house.datacube()
    datacube.check()
    for key in (
        "month/net/timeseries/global/global.csv",
        f"month/net/regional/country/aggs/{JANUARY}/default/default.csv",
    ):
        (line,) = datacube.csv(key)
        assert abs(float(line["s_sum_t_sum"])) <= 1e-16
        assert line["s_count"] == "3"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([1e16, 1.0, -1e16, 3.0, -4.0, 0.1], id="huge and small"),
        pytest.param([5e-324, -5e-324, 1e-310, -1e-310, 2.5e-320], id="denormal"),
        pytest.param([1.7e308, 1.7e308, -1.7e308, -1.7e308], id="overflow on the way"),
        pytest.param([1e308, -1e308, None, 1e-308, float("inf")], id="missing and infinite"),
        pytest.param([0.1] * 30 + [-0.1] * 30 + [1e-17], id="many"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_sound_values_of_any_size_are_published(house: House, values: list[Any], weighted: bool) -> None:
    weights = [1.0, -1.0] * (len(values) // 2) + [1.0] * (len(values) % 2)
    crops = [f"crop {number % 3}" for number in range(len(values))]
    table = net(values, crop=crops, wt=weights)
    house.publish(table, qualifier_map={"net": ["crop"]}, weight_column="wt" if weighted else "")
    house.datacube().check()


# --- what a refusal leaves ---------------------------------------------------------------------------


def losing(lost: str) -> Callable[..., Any]:
    """The regional tables, but for one region of a level."""
    real = spatial.regional_aggregates

    def tables(*arguments: Any, **options: Any) -> dict[Any, pa.Table]:
        made = real(*arguments, **options)
        return {level: table.slice(1) if level == lost else table for level, table in made.items()}

    return tables


def test_a_refusal_by_a_check_leaves_the_older_datacube_whole(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.publish(rows())
    before, times = house.datacube(), house.datacube().times()
    monkeypatch.setattr(spatial, "regional_aggregates", losing("admin1"))
    with pytest.raises(ChecksFailedError, match="regions_add_up"):
        house.publish(rows(value=[5.0, 6.0, 7.0, 8.0], feature=["snow"] * 4))
    after = house.datacube()
    assert after.complete
    assert after.objects == before.objects
    assert after.times() == times


def test_what_a_check_refused_is_not_published_by_a_run_that_does_not_check_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.publish(rows())
    before = house.datacube()
    refused = rows(value=[5.0, 6.0, 7.0, 8.0])
    with monkeypatch.context() as patch:
        patch.setattr(spatial, "regional_aggregates", losing("admin1"))
        with pytest.raises(ChecksFailedError, match="regions_add_up"):
            house.publish(refused)
    # As by "Materialize unsynced": everything that comes after the tables and their checks.
    families = [asset.key.path[-1] for asset in (*DATACUBE_ASSETS, pipeline_results)]
    with pytest.raises(InputError, match=r"refused by a check: regions_add_up.*Process the whole partition"):
        house.materialize(RUN, *families)
    assert house.datacube().objects == before.objects
    # What was refused is made again, and passes.
    house.publish(refused, from_scratch=True)
    assert house.datacube().objects != before.objects
    house.materialize(RUN, *families)
    house.datacube().check()


def test_more_objects_than_allowed_are_refused_before_the_first_one(house: House) -> None:
    house.publish(rows())
    before = house.datacube()
    small = house.with_settings(max_objects=len(before.objects) - 2)
    with pytest.raises(ChecksFailedError, match="objects_within_limit") as refused:
        small.publish(rows(value=[5.0, 6.0, 7.0, 8.0]))
    assert f"{len(before.objects) - 1:,} objects" in str(refused.value)
    assert "DATACUBE_MAX_OBJECTS" in str(refused.value)
    assert "compute_tiles" in str(refused.value)
    assert house.datacube().objects == before.objects
    house.with_settings(max_objects=len(before.objects) - 1).publish(rows(value=[5.0, 6.0, 7.0, 8.0]))


# --- estimates ---------------------------------------------------------------------------------------


def spread(count: int, **columns: Any) -> pa.Table:
    chance = np.random.default_rng(5)
    countries = chance.integers(0, 9, count)
    return rows(
        timestamp=JANUARY + chance.integers(0, 500, count) * 86_400_000,
        country=[f"country {number}" for number in countries],
        admin1=[f"state {number}" for number in chance.integers(0, 50, count)],
        lat=chance.uniform(-80, 80, count),
        lng=chance.uniform(-180, 180, count),
        feature=[f"feature {number}" for number in chance.integers(0, 3, count)],
        value=chance.normal(0, 100, count),
        crop=[f"crop {number}" for number in chance.integers(0, 7, count)],
        wt=chance.uniform(0, 3, count),
        **columns,
    )


MAPPED = {f"feature {number}": ["crop"] for number in (0, 2)}


@pytest.mark.parametrize(
    ("table", "options"),
    [
        pytest.param(rows(), {}, id="few"),
        pytest.param(spread(3000), {"qualifier_map": MAPPED}, id="qualifiers", marks=pytest.mark.slow),
        pytest.param(spread(3000), {"qualifier_map": MAPPED, "weight_column": "wt"}, id="weights"),
        pytest.param(rows(value=[None, None, 3.0, 4.0]), {}, id="a month without values"),
        pytest.param(rows(value=[0.0, -1.0, 1.0, 0.0]), {}, id="zeros"),
        pytest.param(rows(lat=None), {}, id="no map"),
        pytest.param(rows(country=None, admin1=None), {}, id="no regions"),
        pytest.param(rows(country=["A__B__C__D__E", "F", "G", "H"]), {}, id="regions of many parts"),
    ],
)
def test_objects_are_counted_and_their_bytes_estimated_before_they_are_made(
    house: House, table: pa.Table, options: dict[str, Any]
) -> None:
    house.publish(table, **options)
    lake = Lake(open_store(house.settings.lake))
    for asset, estimate in estimating.estimates(lake, RUN).items():
        head = manifest(lake, RUN, asset)
        assert head is not None
        assert estimate.objects == head["objects"], asset
        assert estimate.bytes == pytest.approx(head["bytes"], rel=0.1, abs=30), asset
    assert sum(estimating.estimates(lake, RUN).values(), Estimate()).objects + 1 == len(
        house.datacube().objects
    )


# --- names that share a key ----------------------------------------------------------------------------


def test_objects_that_would_have_one_key_are_left_out_counted_and_shown(house: House) -> None:
    # Kenya grows the first and the third of them.
    crops = ["a/b", "x", "a///b", "trail/"]
    outcome = house.publish(rows(crop=crops), qualifier_map={"rain": ["crop"]})
    datacube = house.datacube()
    datacube.check()
    folder = "month/rain/regional/country/timeseries/qualifiers/crop"
    assert datacube.keys(folder) == [f"{folder}/trail/Ethiopia.csv", f"{folder}/x/Ethiopia.csv"]
    told = outcome.assets["regional_timeseries"]
    shown = told["keys that several objects would have"]
    assert f"{folder}/a/b/Kenya.csv" in shown
    assert len(shown) == 4, "by month and year, at two levels"
    assert sum(value for name, value in told.items() if "left out" in name) == 2 * len(shown)
    lake = Lake(open_store(house.settings.lake))
    recorded = manifest_entries(lake, RUN, "regional_timeseries")["key"].to_pylist()
    assert len(recorded) == told["objects"] == len(set(recorded))


def test_features_that_share_their_keys_are_both_left_out(house: House) -> None:
    house.publish(rows(), rows(feature=["snow"] * 4), rows(feature=["/snow/"] * 4))
    datacube = house.datacube()
    assert datacube.complete
    assert "month/rain/timeseries/global/global.csv" in datacube.objects
    assert datacube.keys("/snow/") == []
