"""What is told when a version replaces another: metadata, a picture, a check, and `datacube diff`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.operations.versions import difference, open_history
from datacube_assets.storage.comparing import Side, changes_between, pieces_of
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set
from datacube_assets_tests.integration.support import Datacube, House, rows

RUN = ModelRun("model", "run")
OTHER: dict[str, Any] = {"admin1": ["Nairobi", "Amhara"] * 2, "value": [1.0, 2.0, 30.0, 4.0]}
"""A region goes and another comes, and a figure of the other country changes."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with nothing_set():
        yield Place(tmp_path / "home")


def test_a_version_that_replaces_another_says_what_changed(house: House) -> None:
    house = house.with_settings(pictures=True)
    first = house.publish(rows())
    assert first.assets["pipeline_results"]["version"] == 1
    assert "figures changed" not in first.assets["pipeline_results"]
    assert first.warnings == []
    second = house.publish(rows(**OTHER))
    said = second.assets["pipeline_results"]
    assert (said["version"], said["changed against version"]) == (2, 1)
    assert said["figures changed"] == sum(said["figures changed by"].values()) > 0
    assert said["came or went"]["admin1"] == {
        "before": 2,
        "after": 2,
        "came": ["Ethiopia__Amhara"],
        "went": ["Ethiopia__Oromia"],
    }
    movers = said["largest movers"].records
    assert movers[0].data["region"] == "Kenya__Nairobi"
    assert (movers[0].data["before"], movers[0].data["after"]) == (3.0, 30.0)
    assert said["picture"].startswith("![picture](data:image/png;base64,")
    (warning,) = second.warnings
    assert "pipeline_results, regions_stay_as_they_were" in warning
    assert "100% of rain, admin1" in warning
    # The same is told later, too, and nothing is compared again.
    again = house.publish(rows(**OTHER)).assets["pipeline_results"]
    assert (again["version"], again["figures changed"]) == (2, said["figures changed"])
    (newest,) = [one for one in open_history(house.settings, RUN).versions() if one.number == 2]
    assert newest.changes is not None
    assert newest.changes["figures"]["changed"] == said["figures changed"]


def test_going_back_on_purpose_is_nothing_to_warn_of(house: House) -> None:
    house.publish(rows())
    house.publish(rows(**OTHER))
    done = house.run_job("rollback_datacube", RUN)
    (check,) = [
        one for one in done.get_asset_check_evaluations() if one.check_name.startswith("regions_stay")
    ]
    assert check.passed
    assert "Somebody went back to version 1" in str(check.description)


@pytest.mark.parametrize(
    ("limits", "warned"),
    [
        pytest.param("", 1, marks=pytest.mark.slow),
        pytest.param("max_moved_share = 1.0", 0, marks=pytest.mark.slow),
        ("max_region_move = 1e9\n[models.model]\nmax_moved_share = 0.5", 0),
        ("max_moved_share = 1.0\n[models.model]\nmax_moved_share = 0.4", 1),
    ],
)
def test_how_much_may_change_is_set_for_all_models_and_for_single_ones(
    limits: str, warned: int, house: House
) -> None:
    file = house.folder / "limits.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(limits)
    limited = house.with_settings(check_limits=str(file))
    limited.publish(rows(value=[1.0, 2.0, 3.0, 4.0]))
    assert len(limited.publish(rows(value=[1.0, 2.0, 30.0, 4.0])).warnings) == warned


def test_counts_are_those_of_the_published_objects(house: House) -> None:
    before = rows(crop=list("abab"))
    after = rows(
        crop=list("abcb"), value=[1.0, None, 3.5, 4.0], admin1=["Nairobi", "Oromia", "Coast", "Oromia"]
    )
    house.publish(before, qualifier_map={"rain": ["crop"]})
    first = house.datacube()
    house.publish(after, qualifier_map={"rain": ["crop"]})
    second = house.datacube()
    found = difference(house.settings, f"{RUN.key}@1", RUN.key)
    for level in ("country", "admin1"):
        # Maps hold each figure once: by region, and by region and value.
        old, new = (_cells(cube, f"/regional/{level}/aggs/") for cube in (first, second))
        counts = found.levels[level]["rain"]
        assert counts.compared == len(old.keys() & new.keys())
        assert counts.came == len(new.keys() - old.keys())
        assert counts.went == len(old.keys() - new.keys())
        assert counts.changed == sum(old[key] != new[key] for key in old.keys() & new.keys())
    assert found.names["values of crop"].came == ("c",)
    assert found.names["admin1"].came == ("Kenya__Coast",)


def _cells(cube: Datacube, folder: str) -> dict[tuple[str, ...], str]:
    return {
        (key, line.get("id", ""), line.get("qualifier", ""), name): cell
        for key in cube.keys(folder)
        for line in cube.csv(key)
        for name, cell in line.items()
        if name not in ("id", "qualifier")
    }


def test_how_tables_are_cut_changes_nothing_of_what_is_told(house: House) -> None:
    chance = np.random.default_rng(7)
    size = 240

    def many(factor: float) -> Any:
        return rows(
            timestamp=(chance.integers(0, 600, size) * 86_400_000).tolist(),
            country=[f"c{number}" for number in chance.integers(0, 7, size)],
            admin1=[f"a{number}" for number in chance.integers(0, 40, size)],
            lat=(chance.integers(-80, 80, size) / 2).tolist(),
            lng=chance.integers(-170, 170, size).astype(float).tolist(),
            feature=[f"f{number}" for number in chance.integers(0, 5, size)],
            value=(chance.random(size) * factor).tolist(),
        )

    parts = [many(1.0), many(2.0)]
    house.with_settings(shard_rows=80).publish(parts[0])
    house.with_settings(shard_rows=130).publish(parts[1])
    history = open_history(house.settings, RUN)
    before, after = (Side(history.lake, history.tables_of(one.version)) for one in history.versions())
    assert max(len(piece.before) for piece in pieces_of(before, after)) > 1, "chunks of others do not overlap"
    whole = changes_between(before, after, 0.5)
    cut = changes_between(before, after, 0.5, rows_at_once=20)
    assert len(pieces_of(before, after, 20)) > 3 * len(pieces_of(before, after))
    assert (cut.levels, cut.names, cut.total) == (whole.levels, whole.names, whole.total)
    assert whole.total.changed > 100
    # And the same rows in one shard are the same version for whoever compares.
    house.publish(parts[1], from_scratch=True)
    assert difference(house.settings, RUN.key, f"{RUN.key}@2").total.changed == 0


def test_diff_compares_versions_and_runs(place: Place) -> None:
    for run, columns in (("one", {}), ("one", OTHER), ("two", OTHER)):
        assert place.publish(run, **columns).exit_code == 0
    found = place.json("diff", f"{KEY}@1", f"{KEY}@2")
    assert found["figures"]["changed"] > 0
    assert found["names"]["admin1"]["came"] == ["Ethiopia__Amhara"]
    assert found["before"] == f"{KEY}@1"
    assert place.json("diff", KEY, "toy:two")["figures"]["changed"] == 0
    assert place.json("diff", f"{KEY}@1", "toy:two")["figures"] == found["figures"]
    said = place.run("diff", f"{KEY}@1", KEY)
    assert said.exit_code == 0
    assert "admin1 that went: Ethiopia__Oromia" in said.stdout
    assert "What changed most" in said.stdout
    assert "Kenya__Nairobi" in said.stdout
    json.dumps(found, allow_nan=False)


def test_what_cannot_be_compared_is_refused_with_what_to_do(place: Place) -> None:
    assert place.publish().exit_code == 0
    for named in ("toy:none", f"{KEY}@9", f"{KEY}@", f"{KEY}@x", "toy", "toy:..@1", "@1"):
        for arguments in ((KEY, named), (named, KEY)):
            refused = place.run("diff", *arguments)
            assert refused.exit_code == 1, refused.output
            assert "Traceback" not in refused.output
            assert refused.output.startswith("Error: ")


def test_odd_names_and_runs_of_other_levels_are_told_as_they_are(place: Place) -> None:
    odd = ["a\x1b[31m/b", "é", "x" * 300, "values of rain"]
    assert place.publish("one", feature=odd).exit_code == 0
    assert place.publish("two", feature=odd, admin1=None, lat=None, lng=None, value=[9.0] * 4).exit_code == 0
    found = place.json("diff", KEY, "toy:two")
    assert found["names"]["admin1"]["went_count"] == 2
    levels = {one["level"]: one for one in found["by_feature"] if one["feature"] == "é"}
    assert levels["admin1"]["went"] > 0
    assert levels["admin1"]["compared"] == 0
    assert levels["grid"]["went"] > 0
    said = place.run("diff", KEY, "toy:two", "--rows", "50")
    assert said.exit_code == 0
    assert "\x1b" not in said.stdout
