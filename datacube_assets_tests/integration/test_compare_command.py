"""`datacube compare`: what counts as equal, which differences are wanted, and which are found.

The other bucket holds objects as the original writes them, made from ours by hand
(docs/specification/observed-original.md);
agreement with real ones is tried in `golden/test_comparing.py`.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datacube_assets.operations.compare import WANTED
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set

MONTHS = [1_577_836_800_000, 1_577_923_200_000, 1_580_515_200_000]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home with one datacube that has a qualifier, one whose coordinates are missing in a row."""
    with nothing_set():
        place = Place(tmp_path_factory.mktemp("comparing") / "home")
        columns: dict[str, Any] = {"crop": ["1", None, "2", "1"], "value": [1.0, 2.0, 3.5, 4.25]}
        assert place.publish(**columns).exit_code == 0
        assert place.publish("lost", lat=[None, 7.5, -1.25, 7.5]).exit_code == 0
        # A level of regions is left out; a timestamp is before 1677; sums are beyond any number.
        assert place.publish("hole", admin1=None, admin2=["a", "b", "a", "b"]).exit_code == 0
        assert place.publish("old", timestamp=[-(10**13), *MONTHS]).exit_code == 0
        assert place.publish("huge", value=[1.7e308] * 4).exit_code == 0
        weighted = {"people": [1.0, 2.0, 3.0, 4.0], "value": [1.0, None, 3.5, 4.25]}
        assert place.publish("weighted", "--weight-column", "people", **weighted).exit_code == 0
        yield place


@pytest.fixture
def theirs(place: Place, tmp_path: Path) -> Path:
    """The same bucket elsewhere."""
    return Path(shutil.copytree(place.bucket, tmp_path / "theirs", symlinks=True))


def found(place: Place, theirs: Path, *arguments: str, status: int = 0, run: str = KEY) -> dict[str, Any]:
    answer = place.json("compare", str(place.bucket), str(theirs), "--run", run, *arguments, status=status)
    (one,) = answer["runs"]
    assert one["agrees"] is (status == 0)
    return dict(one)


def test_order_and_last_digits_do_not_count(place: Place, theirs: Path) -> None:
    table = theirs / "toy/one/month/rain/regional/country/aggs/1577836800000/default/default.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join((head, *reversed(lines))) + "\n")
    series = theirs / "toy/one/month/rain/timeseries/global/global.csv"
    assert "3.0" in series.read_text()
    series.write_text(series.read_text().replace("3.0", "3.0000000000001"))
    lists = theirs / "toy/one/raw/rain/info/region_lists.json"
    document = json.loads(lists.read_text())
    lists.write_text(json.dumps({level: list(reversed(names)) for level, names in document.items()}))
    one = found(place, theirs)
    assert set(one["objects"]) == {"same"}
    strict = found(place, theirs, "--tolerance", "1e-15", status=1)
    assert strict["objects"]["differs"] == 1


def test_what_is_missing_unexpected_or_otherwise_is_told(place: Place, theirs: Path) -> None:
    (theirs / "toy/one/year/rain/timeseries/global/global.csv").unlink()
    (theirs / "toy/one/month/rain/more.csv").write_text("timestamp\n1\n")
    series = theirs / "toy/one/month/rain/timeseries/global/global.csv"
    series.write_text(series.read_text().replace("3.0", "4.0"))
    one = found(place, theirs, status=1)
    assert {kind: one["objects"][kind] for kind in ("missing", "unexpected", "differs")} == {
        "missing": 1, "unexpected": 1, "differs": 1,
    }  # fmt: skip
    shown = place.run("compare", str(place.bucket), str(theirs))
    assert shown.exit_code == 1
    assert f"DIFFERS  {KEY}" in shown.output
    assert "missing: month/rain/more.csv" in shown.output
    assert "theirs '4.0'" in shown.output
    assert "5 of 6 agree" in shown.output


def test_a_run_that_is_not_complete_is_not_compared(place: Place, theirs: Path, tmp_path: Path) -> None:
    (theirs / "toy/one/results/results.json").unlink()
    assert "not complete in theirs" in found(place, theirs, status=2)["problem"]
    rest = place.json("compare", str(place.bucket), str(theirs))["runs"]
    assert "toy:lost" in {run["partition"] for run in rest}
    assert KEY not in {run["partition"] for run in rest}
    (tmp_path / "empty").mkdir()
    assert place.run("compare", str(place.bucket), str(tmp_path / "empty")).exit_code == 1


# --- differences that are wanted -------------------------------------------------------------------


def test_the_numbers_are_those_of_the_page_about_differences() -> None:
    page = (Path(__file__).parents[2] / "docs" / "differences.md").read_text()
    numbered = set(re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE))
    # Of these nothing is left to compare, and order counts as equal.
    assert numbered - {"11", "12", "13", "15", "18"} == set(WANTED) - {"ties"}


def _put(folder: Path, key: str, text: str) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _edit(folder: Path, key: str, change: Callable[[str], str]) -> None:
    before = (folder / key).read_text()
    after = change(before)
    assert after != before
    (folder / key).write_text(after)


def _float_timestamps(folder: Path) -> None:
    _edit(folder, "raw/rain/raw/raw.csv", lambda text: text.replace("00000,", "00000.0,"))


def _empty_grid(folder: Path) -> None:
    _put(folder, "month/rain/stats/grid/1583020800000.csv", "zoom,min_s_sum_t_sum\n6,\n")


def _empty_extrema(folder: Path) -> None:
    _put(folder, "month/rain/regional/admin2/stats/default/extrema.json", '{"min":{"s":[]},"max":{"s":[]}}')


def _junk_tile(folder: Path) -> None:
    tile = next((folder / "month/rain/tiles").glob("*-0-0-0.tile"))
    shutil.copy(tile, tile.with_name("1577836800000-8-256-127.tile"))


def _index(folder: Path) -> None:
    _put(folder, "raw/rain/info/qualifiers/__index_level_0__.json", '["0", "1"]')

    def count(text: str) -> str:
        document = json.loads(text)
        document["counts"]["__index_level_0__"] = 4
        return json.dumps(document)

    _edit(folder, "raw/rain/info/qualifier_counts.json", count)


def _missing_spelled(folder: Path) -> None:
    _edit(folder, "raw/rain/info/qualifiers/crop.json", lambda text: text.replace('"None"', '"nan"'))


def _numbers_spelled(folder: Path) -> None:
    key = "raw/rain/info/qualifiers/crop.json"
    _edit(folder, key, lambda text: text.replace('"1"', '"1.0"').replace('"2"', '"2.0"'))


def _infinite(folder: Path) -> None:
    def overflow(text: str) -> str:
        document = json.loads(text)
        document["output_agg_values"][0]["s_sum_t_sum"] = math.inf
        return json.dumps(document)

    _edit(folder, "results/results.json", overflow)


def _stale(folder: Path) -> None:
    _put(folder, "month/rain/regional/country/timeseries/default/Uganda.csv", "timestamp,s_sum_t_sum\n1,2\n")


@pytest.mark.parametrize(
    ("rule", "change", "objects"),
    [
        ("3", _index, 2),
        ("4", _missing_spelled, 1),
        ("5", _numbers_spelled, 1),
        ("7", _float_timestamps, 1),
        ("8", _empty_grid, 1),
        ("8", _empty_extrema, 1),
        ("9", _junk_tile, 1),
        ("16", _stale, 1),
    ],
)
def test_a_difference_that_is_wanted_is_named_and_counted_apart(
    rule: str, change: Callable[[Path], None], objects: int, place: Place, theirs: Path
) -> None:
    change(theirs / "toy/one")
    one = found(place, theirs)
    assert one["intended differences"] == {rule: {"objects": objects, "says": WANTED[rule]}}
    assert one["objects"]["intended"] == objects
    assert f"because of difference {rule}: " in place.run("compare", str(place.bucket), str(theirs)).output


def test_infinity_against_another_number_is_no_wanted_difference(place: Place, theirs: Path) -> None:
    # Where ours is a number, theirs has to be the same one.
    _infinite(theirs / "toy/one")
    assert found(place, theirs, status=1)["objects"]["differs"] == 1


def test_rows_without_coordinates_explain_what_the_original_lost(place: Place, theirs: Path) -> None:
    series = theirs / "toy/lost/month/rain/timeseries/global/global.csv"
    head, first, *rest = series.read_text().splitlines()
    time, *_ = first.split(",")
    series.write_text("\n".join((head, f"{time},2.0,2.0,2.0,2.0,1", *rest)) + "\n")
    gone = theirs / "toy/lost/month/rain/regional/country/timeseries/default/Kenya.csv"
    gone.unlink()
    one = found(place, theirs, run="toy:lost")
    assert one["objects"]["explained"] == 2
    assert one["intended differences"]["1"]["objects"] == 2
    # The same without the lake, which knows of these rows: nothing explains it then.
    elsewhere = place.run(
        "compare", str(place.bucket), str(theirs), "--run", "toy:lost", "--lake", str(theirs / "no-lake")
    )
    assert elsewhere.exit_code == 1
    assert "because of difference" not in elsewhere.output


def rules_of(one: dict[str, Any]) -> dict[str, int]:
    return {rule: told["objects"] for rule, told in one["intended differences"].items()}


def test_levels_that_the_original_mislabels_are_known(place: Place, theirs: Path) -> None:
    regional = theirs / "toy/hole/month/rain/regional"
    moved = sum(path.is_file() for path in (regional / "admin2").rglob("*"))
    (regional / "admin2").rename(regional / "admin1")
    one = found(place, theirs, run="toy:hole")
    # Each is missing under one name, and too many under the other.
    assert rules_of(one) == {"2": 2 * moved}


def test_times_that_the_original_moves_to_1970_are_known(place: Place, theirs: Path) -> None:
    aggregates = theirs / "toy/old/month/rain/regional/country/aggs"
    shutil.copytree(aggregates / str(MONTHS[0]), aggregates / "0")
    one = found(place, theirs, run="toy:old")
    assert rules_of(one) == {"10": 1}


def test_infinite_figures_of_the_original_are_known(place: Place, theirs: Path) -> None:
    def infinite(text: str) -> str:
        return re.sub(r",(?=,)", ",inf", text)

    _edit(theirs / "toy/huge", "month/rain/timeseries/global/global.csv", infinite)
    one = found(place, theirs, run="toy:huge")
    assert rules_of(one) == {"14": 1}


def test_weighted_means_over_missing_values_are_explained(place: Place, theirs: Path) -> None:
    key = "month/rain/timeseries/global/global.csv"

    def other(name: str) -> Callable[[str], str]:
        def change(text: str) -> str:
            head, first, *rest = text.splitlines()
            at, fields = head.split(",").index(name), first.split(",")
            fields[at] = "0.125"
            return "\n".join((head, ",".join(fields), *rest)) + "\n"

        return change

    (weighted, *_) = (name for name in (theirs / "toy/weighted" / key).read_text().splitlines()[0].split(",")
                      if "wavg" in name)  # fmt: skip
    _edit(theirs / "toy/weighted", key, other(weighted))
    assert rules_of(found(place, theirs, run="toy:weighted")) == {"6": 1}
    # Weights explain nothing of a sum.
    _edit(theirs / "toy/weighted", key, other("s_sum_t_sum"))
    assert found(place, theirs, run="toy:weighted", status=1)["objects"]["differs"] == 1


def test_ties_beyond_twenty_are_known(place: Place, theirs: Path) -> None:
    key = "toy/one/month/rain/regional/country/stats/default/extrema.json"

    def document(names: list[str]) -> str:
        items = [{"region_id": name, "timestamp": 1, "value": 2.0} for name in names]
        return json.dumps({"min": {"s_sum_t_sum": items}, "max": {"s_sum_t_sum": items}})

    ours = Path(shutil.copytree(place.bucket, theirs.parent / "ours", symlinks=True))
    for bucket, first in ((ours, 0), (theirs, 5)):
        (bucket / key).write_text(document([f"region {n}" for n in range(first, first + 20)]))
    answer = place.json("compare", str(ours), str(theirs), "--run", KEY)
    assert answer["runs"][0]["intended differences"] == {"ties": {"objects": 1, "says": WANTED["ties"]}}
    (theirs / key).write_text(document([f"region {n}" for n in range(5, 15)]))
    assert place.json("compare", str(ours), str(theirs), "--run", KEY, status=1)
