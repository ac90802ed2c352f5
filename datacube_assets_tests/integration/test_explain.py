"""Where a number comes from: every published figure, recomputed from the rows that its explanation names.

Tables are random, with hostile names and with rows that do not count; datacubes are really published, and
what is compared with is read from their objects.
"""

from __future__ import annotations

import csv
import decimal
import json
import math
import re
import shlex
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from datacube_assets.assets.asking import HOW_TO_ASK, ON_A_PAGE
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.results import pipeline_results
from datacube_assets.cli import main
from datacube_assets.development.s3_server import S3Server
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.provenance import (
    BAD_TIMESTAMP,
    INFINITE_VALUE,
    MISSING_VALUE,
    NO_FEATURE,
    NO_NUMBER,
    OFF_MAP,
    Bin,
)
from datacube_assets.kernels.schema import RESOLUTIONS, RegionLevel
from datacube_assets.read import Datacube, Explanation, NoDataError, explain, open_datacube, open_tables
from datacube_assets_tests.integration.support import DAY, FEBRUARY, JANUARY, House, open_house, rows

LATE = 9_999_999_999_999_999
"""A timestamp beyond 2262."""
COUNTRIES = ('Côte "d\'Ivoire"', "Kenya, north", "None", "a\\b%41")
CROPS = ("maize", 'x,"y"', "élan", "../..")
LEVELS: tuple[RegionLevel, ...] = ("country", "admin1")


def random_parts(seed: int) -> list[pa.Table]:
    """Two parts whose rows share places and cells; some of them do not count."""
    chance = np.random.default_rng(seed)
    parts = []
    for size in (60, 40):
        place = chance.integers(0, 9, size)
        values = chance.normal(size=size) * 10.0 ** chance.integers(-3, 6, size)
        values[chance.random(size) < 0.1] = np.nan
        values[chance.random(size) < 0.05] = np.inf
        texts = [None if math.isnan(value) else repr(float(value)) for value in values]
        texts = ["n/a" if odd else text for odd, text in zip(chance.random(size) < 0.04, texts, strict=True)]
        times = JANUARY + chance.integers(-400, 400, size) * DAY
        times[chance.random(size) < 0.05] = LATE
        features = [None if missing else "yield" for missing in chance.random(size) < 0.05]
        parts.append(
            pa.table(
                {
                    "timestamp": times,
                    "country": [COUNTRIES[number % 4] for number in place],
                    "admin1": [f"west/{number % 3}" for number in place],
                    "lat": [None if number == 8 else 89.0 if number == 7 else number / 3 for number in place],
                    "lng": [number * 20.0 - 60 for number in place],
                    "feature": features,
                    "value": texts
                    if seed % 2
                    else [value if math.isfinite(value) else None for value in values],
                    "crop": [CROPS[number] for number in chance.integers(0, 4, size)],
                    "area": chance.integers(0, 4, size) * 0.5,
                }
            )
        )
    return parts


@pytest.fixture(scope="module", params=[*(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1)), 2])
def random(request: pytest.FixtureRequest) -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder)) as house:
        house.publish(
            *random_parts(request.param),
            qualifier_map={"yield": ["crop"]},
            weight_column="area" if request.param == 2 else "",
        )
        yield house


def recomputed(explanation: Explanation, *, weighted: bool) -> dict[str, float | None]:
    """The figures of an explanation, in plain Python from nothing but its rows."""
    cells: dict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in explanation.table().to_pylist():
        if row["reason"] in (None, MISSING_VALUE, INFINITE_VALUE):
            names = ("country", "admin1", "lat", "lng", "crop", *(() if weighted else ("area",)))
            value = float(row["delivered.value"]) if row["counted"] else math.nan
            cells[tuple(row[f"delivered.{name}"] for name in names)].append((value, row["delivered.area"]))
    sums, means, pairs = [], [], []
    for members in cells.values():
        present = [(value, weight) for value, weight in members if not math.isnan(value)]
        sums.append(math.fsum(value for value, _ in present))
        weight = math.fsum(weight for _, weight in members) / len(members)
        if present:
            means.append(sums[-1] / len(present))
        pairs.append((sums[-1], means[-1] if present else None, weight))
    figures: dict[str, float | None] = {
        "s_sum_t_sum": math.fsum(sums),
        "s_mean_t_sum": math.fsum(sums) / len(sums),
        "s_sum_t_mean": math.fsum(means),
        "s_mean_t_mean": math.fsum(means) / len(means) if means else None,
        "s_count": len(means),
    }
    if explanation.scope.bin is not None:
        figures["s_mean_t_sum"] = math.fsum(sums) / len(means) if means else None
    if weighted and explanation.scope.bin is None:
        weights = math.fsum(weight for _, _, weight in pairs)
        total = math.fsum(t_sum * weight for t_sum, _, weight in pairs)
        figures["s_wavg_t_sum"] = total / weights if weights else None
    return figures


def assert_explained(explanation: Explanation, published: dict[str, Any], *, weighted: bool) -> None:
    for name, value in recomputed(explanation, weighted=weighted).items():
        wanted = published[name]
        said = explanation.figures[name]
        assert said == wanted, f"{name} is published as {wanted}, and explained as {said}"
        if value is None or wanted is None:
            assert (value, wanted) == (None, None), name
        else:
            assert value == pytest.approx(wanted, rel=1e-9, abs=1e-9), name


def test_every_published_figure_is_recomputed_from_the_rows_of_its_explanation(random: House) -> None:
    cube = open_datacube(random.bucket(), "model", "run")
    tables = open_tables(random.folder / "lake", "model", "run")
    weighted = cube.has_weights
    explained = 0
    for resolution in RESOLUTIONS:
        for line in cube.timeseries("yield", resolution=resolution).to_pylist():
            found = tables.explain("yield", line["timestamp"], resolution=resolution)
            assert_explained(found, line, weighted=weighted)
            explained += 1
            for level in LEVELS:
                for region in cube.regions(
                    "yield", level, line["timestamp"], resolution=resolution
                ).to_pylist()[::2]:
                    found = tables.explain(
                        "yield",
                        line["timestamp"],
                        resolution=resolution,
                        region=region["region_id"],
                        level=level,
                    )
                    assert_explained(found, region, weighted=weighted)
                    explained += 1
        for line in cube.timeseries("yield", resolution=resolution, qualifier="crop").to_pylist()[::3]:
            if line["s_count"] is None:
                continue
            found = tables.explain(
                "yield", line["timestamp"], resolution=resolution, qualifier="crop", value=line["value"]
            )
            assert_explained(found, line, weighted=weighted)
            explained += 1
        for time in cube.timestamps("yield", resolution)[::4]:
            for zoom in (0, 3, 8):
                for square in cube.bins("yield", time, zoom=zoom, resolution=resolution).to_pylist():
                    if square["s_count"]:
                        found = tables.explain(
                            "yield", time, resolution=resolution, bin=bin_of(zoom, square["x"], square["y"])
                        )
                        assert_explained(found, square, weighted=weighted)
                        explained += 1
    assert explained > 100


def bin_of(zoom: int, x: int, y: int) -> tuple[int, int, int, int]:
    return zoom, x // 64, y // 64, x % 64 + y % 64 * 64


def test_the_rows_of_all_months_are_all_rows_of_the_files_and_each_says_why_it_does_not_count(
    random: House,
) -> None:
    tables = open_tables(random.folder / "lake", "model", "run")
    months = tables.timestamps("yield", "month")
    seen: dict[tuple[str, int], str | None] = {}
    for month in months:
        for row in tables.explain("yield", month).table().to_pylist():
            seen[row["part"], row["row"]] = row["reason"]
            delivered = {name.removeprefix("delivered."): value for name, value in row.items()}
            assert row["reason"] == reason_of(delivered), row
    assert sorted(row for _, row in seen) == sorted([*range(60), *range(40)])
    assert len(set(seen.values())) >= 3


def reason_of(row: dict[str, Any]) -> str | None:
    """Why a row does not count, in plain Python."""
    if row["feature"] is None:
        return NO_FEATURE
    if row["timestamp"] == LATE:
        return BAD_TIMESTAMP
    if row["value"] == "n/a":
        return NO_NUMBER
    if row["value"] is None:
        return MISSING_VALUE
    return INFINITE_VALUE if math.isinf(float(row["value"])) else None


def test_rows_that_are_not_on_the_map_are_told_with_a_bin(random: House) -> None:
    tables = open_tables(random.folder / "lake", "model", "run")
    year = "2020"
    x, y = (
        int(tables.bins("yield", year, zoom=0, resolution="year")[name][0].as_py()) for name in ("x", "y")
    )
    found = tables.explain("yield", year, resolution="year", bin=bin_of(0, x, y)).table().to_pylist()
    off = [row for row in found if row["reason"] == OFF_MAP]
    assert off
    assert all(row["delivered.lat"] in (None, 89.0) for row in off)


def test_the_summary_of_results_json_is_explained_with_its_smallest_and_largest(house: House) -> None:
    house.publish(rows(value=[1.0, 2.0, 3.0, -4.5]))
    summary = house.datacube().json("results/results.json")["output_agg_values"][0]
    tables = open_tables(house.folder / "lake", "model", "run")
    for name, value in summary.items():
        if name != "name":
            assert tables.explain("rain", "all", figure=name).value == pytest.approx(value, abs=1e-10)
    assert tables.explain("rain", "all", figure="s_min_t_sum").formula == "smallest t_sum of 2 cells"


def test_what_cleaning_changed_stands_beside_the_row(house: House) -> None:
    house.publish(
        rows(
            timestamp=[JANUARY, None, FEBRUARY, FEBRUARY],
            admin1=["A//B", "A", "A", "A"],
            wt=[1.0, None, 1.0, 1.0],
        ),
        weight_column="wt",
    )
    tables = open_tables(house.folder / "lake", "model", "run")
    (first,) = tables.explain("rain", "2020-01").table().to_pylist()
    assert first["cleaning"] == "admin1 A//B became AB"
    (filled,) = tables.explain("rain", "1970-01").table().to_pylist()
    assert filled["cleaning"] == "timestamp missing, counted in 1970-01-01; weight missing, counts as 0"
    # Some rows were cleaned, of one thing or of two, and some were not.
    whole = sorted(tables.explain("rain", "all").table().to_pylist(), key=lambda row: row["row"])
    assert [row["cleaning"] for row in whole] == [first["cleaning"], filled["cleaning"], None, None]


@pytest.mark.parametrize(
    ("columns", "cleaning"),
    [
        ({"lng": [30.0, 200.0, 31.0, -180.0]}, [None, "lng 200 became -160", None, None]),
        ({"wt": [1.0, float("inf"), 2.0, None]}, [None, "weight missing, counts as 0"] * 2),
        ({"timestamp": [0, None, 0, 0]}, [None, "timestamp missing, counted in 1970-01-01", None, None]),
    ],
    ids=["wrapped", "weights", "times"],
)
def test_rows_that_were_cleaned_stand_among_others(
    house: House, columns: dict[str, Any], cleaning: list[str | None]
) -> None:
    """A scope with both gave a traceback."""
    house.publish(rows(**columns), weight_column="wt" if "wt" in columns else "")
    table = open_tables(house.folder / "lake", "model", "run").explain("rain", "all").table()
    found = sorted(table.to_pylist(), key=lambda row: row["row"])
    assert [row["cleaning"] for row in found] == cleaning


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({"region": "Kenya__Nowhere"}, "no admin1 'Kenya__Nowhere'"),
        ({"region": "Kenya__a__b"}, "no level 'admin2'"),
        ({"figure": "s_wavg_t_sum"}, "no figure 's_wavg_t_sum'"),
        ({"bin": (8, 0, 0, 0)}, "this bin has no row"),
        ({"qualifier": "crop", "value": "maize"}, "no qualifier 'crop'"),
        ({"feature": "rian"}, "no feature 'rian': there is 'rain'"),
        ({"time": "2021-01"}, "no 'rain' in 2021-01"),
    ],
)
def test_what_is_not_there_is_said(house: House, place: dict[str, Any], says: str) -> None:
    house.publish(rows())
    asked = {"feature": "rain", "time": "2020-01", **place}
    with pytest.raises(NoDataError, match=says):
        explain(house.folder / "lake", "model", "run", **asked)


@pytest.mark.parametrize(
    ("bin_", "says"),
    [
        ((9, 0, 0, 0), "zoom 9: give 0 to 8"),
        ((-1, 0, 0, 0), "zoom -1"),
        ((1, 2, 0, 0), "x 2 at zoom 1: give 0 to 1"),
        ((1, 0, -1, 0), "y -1 at"),
        ((8, 0, 0, 4096), "bin 4096: give"),
        ((8, 10**20, 0, 0), "x 1000"),
    ],
)
def test_a_bin_that_no_map_has_is_refused(bin_: tuple[int, int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Bin(*bin_)


@pytest.mark.parametrize("place", [(9, 0, 0), (1, 2, 0), (0, 0, -1), (8, 10**20, 0)])
def test_a_tile_that_no_map_has_is_refused_by_both_readers(house: House, place: tuple[int, int, int]) -> None:
    house.publish(rows())
    readers: list[Datacube] = [
        open_tables(house.folder / "lake", "model", "run"),
        open_datacube(house.bucket(), "model", "run"),
    ]
    for cube in readers:
        with pytest.raises(ValueError, match="give 0 to"):
            cube.tile("rain", "2020-01", *place)


def test_the_command_says_that_no_map_has_a_bin(house: House) -> None:
    house.publish(rows())
    asked = ["explain", "model:run", "--feature", "rain", "--time", "2020-01", "--bin", "9/0/0/1"]
    done = CliRunner().invoke(main, [*asked, "--home", str(house.folder)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "zoom 9: give 0 to 8" in done.output


def run(house: House, *arguments: str) -> str:
    done = CliRunner().invoke(
        main, ["explain", "model:run", "--home", str(house.folder), *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_reads_like_a_persons_explanation_and_writes_json_and_csv(
    house: House, tmp_path: Path
) -> None:
    part = house.write(rows(value=[1.5, 2.0, 3.0, None], crop=["maize", "teff", "maize", "teff"]))
    house.publish(part, qualifier_map={"rain": ["crop"]})
    asked = ("--feature", "rain", "--time", "2020", "--figure", "s_mean_t_sum")
    told = run(house, *asked)
    assert "s_mean_t_sum of rain in 2020, all places: 3.25" in told
    assert "s_mean_t_sum = s_sum_t_sum / cells = 6.5 / 2" in told
    assert "3 count, 1 do not" in told
    assert "1: value is missing" in told

    document = json.loads(run(house, *asked, "--json", "--csv", str(tmp_path / "rows.csv")))
    assert document["figure"] == {
        "name": "s_mean_t_sum",
        "value": 3.25,
        "formula": "s_sum_t_sum / cells = 6.5 / 2",
    }
    assert [
        (row["part"], row["row"], row["value"], row["counted"], row["reason"]) for row in document["rows"]
    ] == [
        (part, 0, 1.5, True, None),
        (part, 1, 2.0, True, None),
        (part, 2, 3.0, True, None),
        (part, 3, None, False, MISSING_VALUE),
    ]
    assert document["rows"][0]["timestamp"] == JANUARY + 4 * DAY
    written = list(csv.reader((tmp_path / "rows.csv").open()))
    assert written[0] == ["part", "row", "timestamp", "value", "counted", "reason"]
    assert len(written) == 5

    maize = json.loads(
        run(house, "--feature", "rain", "--time", "2020-02", "--qualifier", "crop=maize", "--json")
    )
    assert maize["figure"]["value"] == 3.0
    assert len(maize["rows"]) == 1


def test_the_name_of_a_qualifier_may_hold_the_sign_before_its_value(house: House) -> None:
    crops = {"a=b": ["x", "y", "x", "y=z"], "a": ["u"] * 4}
    house.publish(rows(value=[1.0, 2.0, 4.0, 8.0], **crops), qualifier_map={"rain": ["a=b", "a"]})
    for asked, value in (("a=b=x", 5.0), ("a=b=y=z", 8.0), ("a=u", 15.0)):
        told = run(house, "--feature", "rain", "--time", "2020", "--qualifier", asked, "--json")
        assert json.loads(told)["figure"]["value"] == value, asked


@pytest.mark.parametrize("figure", ["cells", "wavg_cells", "weighted_t_sum", "weight_t_wavg", "nonsense"])
@pytest.mark.parametrize("when", ["2020", "all"])
def test_what_is_no_published_figure_is_refused_with_those_that_are(
    house: House, figure: str, when: str
) -> None:
    house.publish(rows(people=[1.0, 2.0, 3.0, 4.0]), weight_column="people")
    asked = ["explain", "model:run", "--home", str(house.folder), "--feature", "rain", "--time", when]
    refused = CliRunner().invoke(main, [*asked, "--figure", figure])
    assert refused.exit_code == 1
    listed = refused.stderr.partition("there is no figure")[2].partition("there is ")[2].strip().split(", ")
    assert "s_sum_t_sum" in listed
    for name in listed:
        assert CliRunner().invoke(main, [*asked, "--figure", name], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    "command", ["explain model:run --feature rain --time 2020 --csv", "check {part} --html"]
)
def test_a_file_whose_folder_is_not_there_is_refused_before_the_work(command: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(
        main, [*command.format(part=__file__).split(), str(tmp_path / "none" / "file")]
    )
    assert refused.exit_code == 2
    assert f"there is no folder {tmp_path / 'none'}" in refused.stderr


def test_an_unknown_region_is_an_error_of_one_line(house: House) -> None:
    house.publish(rows())
    done = CliRunner().invoke(
        main,
        [
            "explain",
            "model:run",
            "--home",
            str(house.folder),
            "--feature",
            "rain",
            "--time",
            "2020-01",
            "--region",
            "X",
        ],
    )
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "no country 'X'" in done.stderr


# --- odd files -------------------------------------------------------------------------------------


def test_times_that_python_has_no_name_for_are_told_as_they_are_stored(house: House) -> None:
    infinity = 2**63 - 1
    table = rows(
        timestamp=pa.array([JANUARY * 1000, infinity, -infinity, JANUARY * 1000], pa.timestamp("us"))
    )
    house.publish(table)
    told = open_tables(house.settings.lake, "model", "run").explain("rain", "2020-01").to_json()
    assert [(row["timestamp"], row["reason"]) for row in told["rows"]] == [
        ("2020-01-01T00:00:00", None),
        (f"{infinity} us since 1970", BAD_TIMESTAMP),
        (f"{-infinity} us since 1970", BAD_TIMESTAMP),
        ("2020-01-01T00:00:00", None),
    ]


def test_parts_with_other_kinds_of_cells_are_explained_in_one_table(house: House) -> None:
    house.publish(
        rows(crop=["a", "b", "a", "b"]),
        rows(crop=pa.array([decimal.Decimal(number) for number in (1, 2, 3, 4)], pa.decimal128(5, 2))),
        rows(crop=[1, 2, 3, 4], timestamp=["2020-01-05", "2020-01-25", "2020-02-05", "2020-02-15"]),
        # Nothing of this one is in January; no row at all of decimals is a case of its own.
        rows(crop=pa.array([decimal.Decimal(1)] * 4, pa.decimal128(5, 2)), timestamp=[FEBRUARY] * 4),
    )
    explanation = open_tables(house.settings.lake, "model", "run").explain("rain", "2020-01")
    assert explanation.value == 9.0
    table = explanation.table()
    assert table["delivered.crop"].to_pylist() == ["a", "b", "1.00", "2.00", "1", "2"]
    assert table["delivered.value"].to_pylist() == [1.0, 2.0] * 3
    times = [str(JANUARY + days * DAY) for days in (4, 24)]
    assert table["delivered.timestamp"].to_pylist() == [*times, *times, "2020-01-05", "2020-01-25"]


def test_columns_may_be_called_as_those_of_explanations_and_of_cells_are(house: House) -> None:
    names = (
        "row",
        "reason",
        "cleaning",
        "part",
        "rows",
        "t_sum",
        "qualifier:rows",
        "qualifier:qualifier:rows",
    )
    columns = {name: [f"{name} {letter}" for letter in "abab"] for name in names}
    house.publish(rows(**columns), qualifier_map={"rain": list(names)})
    for name in names:
        explanation = open_tables(house.settings.lake, "model", "run").explain(
            "rain", "2020-01", qualifier=name, value=f"{name} b"
        )
        assert explanation.value == 2.0
        table = explanation.table()
        assert (table["row"].to_pylist(), table["reason"].to_pylist()) == ([1], [None])
        assert table[f"delivered.{name}"].to_pylist() == [f"{name} b"]


# --- how to ask ------------------------------------------------------------------------------------


def test_every_family_tells_how_to_ask_with_a_number_of_its_own(random: House) -> None:
    run = ModelRun("model", "run")
    settings = random.settings.model_copy(update={"view_url": "http://127.0.0.1:3003"})
    result = House(random.folder, settings, random.instance).materialize(
        run, *(asset.key.path[-1] for asset in (*DATACUBE_ASSETS, pipeline_results))
    )
    asked = set()
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        told = str(metadata[HOW_TO_ASK].value)
        command, value = re.fullmatch(r"(.*) tells which rows made (\S+) .*", told, re.DOTALL).groups()  # type: ignore[union-attr]
        answer = CliRunner().invoke(
            main, [*shlex.split(command)[1:], "--json", "--lake", random.settings.lake]
        )
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["figure"]["value"] == pytest.approx(float(value), rel=1e-9, abs=1e-9)
        assert str(metadata[ON_A_PAGE].value).startswith(
            "http://127.0.0.1:3003/explain.html#model=model&run=run&"
        )
        assert event.asset_key
        asked.add(event.asset_key.path[-1])
    assert asked == {asset.key.path[-1] for asset in (*DATACUBE_ASSETS, pipeline_results)}


# --- on S3 -----------------------------------------------------------------------------------------


def test_it_is_the_same_on_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    table = random_parts(0)[0]
    found = []
    with open_house(tmp_path) as house:
        for lake in (house.settings.lake, "s3://models/lake-of-explanations"):
            at = house.with_settings(lake=lake, s3_endpoint=s3_server.endpoint)
            at.publish(table, qualifier_map={"yield": ["crop"]})
            explanation = explain(
                lake, "model", "run", feature="yield", time="2020", s3_endpoint=s3_server.endpoint
            )
            found.append(explanation.to_json())
    assert found[0] == found[1]
    assert len(found[0]["rows"]) > 10
