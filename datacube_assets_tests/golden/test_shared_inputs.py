"""The real inputs against what the original published for them: every difference has its rule.

The inputs, the archives and the comparison are not in this repository; without them the tests skip.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datacube_assets_tests.integration.support import Datacube, House, check_object, read_csv, read_json

FLOODS = ("Area", "Dead", "Displaced", "Ended", "Severity")


@dataclass(frozen=True)
class Differences:
    """Keys in which ours and the original's objects are not the same, and what differs."""

    missing: Sequence[str]
    unexpected: Sequence[str]
    differing: Mapping[str, tuple[bytes, str]]
    """The original's body and what the comparison says."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.differing)


Compare = Callable[[str, Datacube], Differences]


@pytest.fixture(scope="module")
def compare(shared: Path) -> Compare:
    """Compares a datacube with the archive of a name."""
    spec = importlib.util.spec_from_file_location(
        "compare_datacubes", shared / "tools" / "compare_datacubes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    comparison = tool.Comparison(rtol=1e-9)

    def with_archive(name: str, ours: Datacube) -> Differences:
        archive = pq.read_table(shared / "golden" / f"{name}.parquet")
        keys = [key.split("/", 2)[2] for key in archive["key"].to_pylist()]
        golden = dict(zip(keys, archive["body"].to_pylist(), strict=True))
        differing: dict[str, tuple[bytes, str]] = {}
        for key in golden.keys() & ours.objects.keys():
            difference = comparison.one(f"model/run/{key}", golden[key], ours.objects[key])
            if difference:
                differing[key] = (golden[key], difference)
        return Differences(
            sorted(golden.keys() - ours.objects.keys()),
            sorted(ours.objects.keys() - golden.keys()),
            differing,
        )

    return with_archive


def test_hoppers_agree_with_the_original_in_every_object(
    house: House, shared: Path, compare: Compare
) -> None:
    house.publish(str(shared / "data" / "hopper_presence.1.parquet.gzip"), model_id="hopper", run_id="run-1")
    ours = house.datacube("hopper", "run-1")
    ours.check()
    assert not compare("hopper", ours)
    assert len(ours.objects) == 499


def test_the_sample_of_dojos_documentation_agrees_in_every_object(
    house: House, shared: Path, compare: Compare
) -> None:
    house.publish(
        str(shared / "data" / "geotemporal_example.parquet.gzip"),
        model_id="geotemporal",
        run_id="run-1",
        qualifier_map={"feature1": ["qualifier_1"], "feature2": ["qualifier_1"]},
    )
    ours = house.datacube("geotemporal", "run-1")
    ours.check()
    assert not compare("geotemporal", ours)


def test_a_census_in_a_numeric_and_a_text_part_agrees_in_every_object(
    house: House, shared: Path, compare: Compare
) -> None:
    house.publish(
        *(str(shared / "data" / f"{name}.parquet.gzip") for name in ("census", "census_str")),
        model_id="census",
        run_id="indicator",
        is_indicator=True,
        qualifier_map={"pop": ["primary_industry"], "health_ind": ["primary_industry"]},
    )
    ours = house.datacube("census", "indicator")
    ours.check()
    assert not compare("census", ours)


def test_floods_agree_but_for_which_of_many_equal_regions_are_listed_as_extremes(
    house: House, shared: Path, compare: Compare
) -> None:
    house.publish(
        str(shared / "data" / "floods.parquet.gzip"),
        model_id="floods",
        run_id="indicator",
        is_indicator=True,
        qualifier_map={feature: ["MainCause"] for feature in FLOODS},
    )
    ours = house.datacube("floods", "indicator")
    assert len(ours.objects) > 315_000
    differences = compare("floods", ours)
    # The archive was made without tiles: they are not in it, and neither is the mark of completion.
    assert not differences.missing
    left_out = {key.split("/")[2] for key in differences.unexpected if key != "results/results.json"}
    assert left_out == {"tiles", "stats"}
    assert not [key for key in differences.unexpected if "/stats/" in key and "/stats/grid/" not in key]
    assert ours.info["has_tiles"]
    # The other objects are the original's; of tiles a sample is parsed, as there are 235,000 of them.
    for key in differences.unexpected[::50]:
        check_object(key, ours.objects[key])
    assert set(differences.differing) == EXTREMA_WITH_MANY_TIES
    for key, (original, _) in differences.differing.items():
        assert_differs_only_among_ties(ours, key, read_json(original))


EXTREMA_WITH_MANY_TIES = {
    *(
        f"month/Severity/regional/{level}/stats/default/extrema.json"
        for level in ("country", "admin1", "admin2")
    ),
    *(
        f"year/{feature}/regional/{level}/stats/default/extrema.json"
        for feature in ("Dead", "Displaced", "Severity")
        for level in ("country", "admin1", "admin2")
    ),
}
"""DESIGN 5, 15: of more than 20 equals the original lists those that came first, we the first by name."""


def assert_differs_only_among_ties(ours: Datacube, key: str, original: dict[str, Any]) -> None:
    """Both list 20 genuine ties of one value, equally new; ours are first by name."""
    published = extremes(ours, key)
    document = ours.json(key)
    many = 0
    for side in ("min", "max"):
        assert document[side].keys() == original[side].keys()
        for column, items in document[side].items():
            theirs = original[side][column]
            if sorted(map(_entry, items)) == sorted(map(_entry, theirs)):
                continue
            many += 1
            value, ties = published[side, column]
            assert len(items) == len(theirs) == 20
            assert {item["value"] for item in [*items, *theirs]} == {value}
            assert {_entry(item) for item in [*items, *theirs]} <= ties
            assert len(ties) > 20
            newest_by_name = sorted(ties, key=lambda entry: (-entry[1], entry[0]))
            assert [_entry(item) for item in items] == newest_by_name[:20]
            assert sorted(item["timestamp"] for item in items) == sorted(item["timestamp"] for item in theirs)
    assert many


def _entry(item: dict[str, Any]) -> tuple[str, int]:
    return item["region_id"], item["timestamp"]


def extremes(ours: Datacube, key: str) -> dict[tuple[str, str], tuple[float, set[tuple[str, int]]]]:
    """Smallest and largest figure of each column in the published regional tables, and who has it."""
    tables = f"{key.partition('/stats/')[0]}/aggs/"
    figures: dict[str, list[tuple[float, tuple[str, int]]]] = {}
    for table in ours.keys(tables, "/default/default.csv"):
        timestamp = int(table.removeprefix(tables).split("/")[0])
        header, *lines = read_csv(ours.objects[table])
        for line in lines:
            for column, cell in zip(header[1:], line[1:], strict=True):
                if cell:
                    figures.setdefault(column, []).append((float(cell), (line[0], timestamp)))
    found = {}
    for column, entries in figures.items():
        for side, value in (("min", min(entries)[0]), ("max", max(entries)[0])):
            found[side, column] = (value, {entry for figure, entry in entries if figure == value})
    return found
