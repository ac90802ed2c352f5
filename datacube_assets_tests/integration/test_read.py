"""Numbers for analysts: what is published and what is in the lake, read back and compared with each other.

The datacubes are really published. Of what a reader asks a store for, the store itself keeps the list.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nbclient import NotebookClient

from datacube_assets.development.s3_server import READER_KEY, READER_SECRET, S3Server
from datacube_assets.development.sample import write_sample_requests
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.decode import TIME
from datacube_assets.kernels.schema import REGION_LEVELS, RESOLUTIONS
from datacube_assets.operations.publish import process
from datacube_assets.read import (
    Datacube,
    LakeDatacube,
    NoDataError,
    PublishedDatacube,
    UnreadableObjectError,
    list_datacubes,
    list_tables,
    open_datacube,
    open_tables,
)
from datacube_assets.read.datacube import bucket, level_of
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import Store
from datacube_assets_tests.conftest import MEMORY_BACKED
from datacube_assets_tests.integration.support import DAY, FEBRUARY, JANUARY, House, open_house, rows

YIELD, NAKURU = "yield", "Kenya__Nakuru"
ODD_FEATURE, ODD_REGION, ODD_CROP = 'rain, "mm"/day', "Côte d'Ivoire__a/b, c", 'x,"y"\nz'


@pytest.fixture(scope="module")
def published() -> Iterator[House]:
    """The datacubes of `make demo`, and one with the example of the docs and with odd names."""
    with (
        tempfile.TemporaryDirectory(prefix="datacube-test-", dir=_memory()) as folder,
        open_house(Path(folder) / "home") as house,
    ):
        for request in write_sample_requests(house.folder / "sample"):
            process(house.settings, house.instance, request, lambda asset, metadata, done: None)
        house.publish(example(), odd(), qualifier_map={ODD_FEATURE: ["crop"], YIELD: ["crop"]})
        yield house


def _memory() -> str | None:
    return str(MEMORY_BACKED) if os.access(MEMORY_BACKED, os.W_OK) else None


def example() -> pa.Table:
    """The four rows of docs/concepts.md."""
    return pa.table(
        {
            "timestamp": [JANUARY + day * DAY for day in (4, 24, 9, 11)],
            "country": ["Kenya"] * 4,
            "admin1": ["Kitui", "Kitui", "Kitui", "Makueni"],
            "lat": [-1.4, -1.4, -1.3, -2.2],
            "lng": [38.0, 38.0, 38.2, 37.8],
            "feature": [YIELD] * 4,
            "value": [1.5, 2.5, 6.0, None],
        }
    )


def odd() -> pa.Table:
    """Names that are hard to write, times before 1970, a place without coordinates and one off the map."""
    return rows(
        timestamp=[-302486400000, JANUARY, FEBRUARY, FEBRUARY],
        country=["Côte d'Ivoire", "Côte d'Ivoire", "Kenya", "Kenya"],
        admin1=["a/b, c", "a/b, c", None, "Nairobi"],
        lat=[7.5, None, 89.0, -1.25],
        lng=[-5.5, None, 0.0, 396.75],
        feature=[ODD_FEATURE] * 4,
        value=[1e-7, None, -2.5, 1e15],
        crop=[ODD_CROP, "timestamp", ODD_CROP, "2020"],
    )


BROKEN_DOWN = {YIELD: ["crop"], "price": ["market"], ODD_FEATURE: ["crop"]}
CROPS, PRICES, OWN = ("toy-crop-model", "rainfall-low"), ("toy-market-prices", "indicator"), ("model", "run")


def both(house: House, model_id: str, run_id: str) -> tuple[PublishedDatacube, LakeDatacube]:
    bucket = house.bucket(indicators=run_id == "indicator")
    return (
        open_datacube(bucket, model_id, run_id),
        open_tables(house.folder / "lake", model_id, run_id),
    )


# --- both sources answer alike ---------------------------------------------------------------------


def questions(cube: Datacube) -> Iterator[tuple[str, tuple[object, ...], dict[str, object]]]:
    """Method, arguments and named arguments of whatever both kinds of datacube can be asked."""
    for feature, resolution in itertools.product(cube.features, RESOLUTIONS):
        by: dict[str, object] = {"resolution": resolution}
        time = cube.timestamps(feature, resolution)[-1]
        yield "timestamps", (feature, resolution), {}
        yield "timeseries", (feature,), by
        yield "qualifiers", (feature,), {}
        for level in cube.levels:
            region = cube.region_ids(feature, level)[0]
            yield "region_ids", (feature, level), {}
            yield "regions", (feature, level), by
            yield "regions", (feature, level, time), by
            yield "timeseries", (feature,), by | {"region": region}
        for qualifier in BROKEN_DOWN.get(feature, ()):
            region, value = (
                cube.region_ids(feature, "admin1")[0],
                cube.qualifier_values(feature, qualifier)[0],
            )
            breakdown = by | {"qualifier": qualifier}
            yield "qualifier_values", (feature, qualifier), {}
            yield "timeseries", (feature,), breakdown
            yield "timeseries", (feature,), breakdown | {"region": region}
            yield (
                "timeseries",
                (feature,),
                breakdown | {"value": value, "figures": ["s_count", "s_mean_t_mean"]},
            )
            yield "regions", (feature, "admin1"), breakdown
        for zoom in range(9) if cube.has_tiles else ():
            yield "bins", (feature, time), by | {"zoom": zoom}


@pytest.mark.parametrize(("model_id", "run_id"), [CROPS, PRICES, OWN])
def test_what_is_published_and_what_is_in_the_lake_answer_alike(
    published: House, model_id: str, run_id: str
) -> None:
    cube, tables = both(published, model_id, run_id)
    for name in ("features", "levels", "has_tiles", "has_weights", "is_complete"):
        assert getattr(cube, name) == getattr(tables, name)
    asked = 0
    for method, arguments, named in questions(cube):
        one, other = (getattr(source, method)(*arguments, **named) for source in (cube, tables))
        where = f"{method} {arguments} {named}"
        if isinstance(one, pa.Table):
            assert one.num_rows > 0, where
            assert one.schema == other.schema, where
            assert one.equals(other), where
        else:
            assert len(one) > 0, where
            assert list(one) == list(other), where
        asked += 1
    assert asked > 20


def test_a_summary_is_of_model_runs_only(published: House) -> None:
    cube, tables = both(published, *CROPS)
    assert cube.summary().schema == tables.summary().schema
    for ours, theirs in zip(cube.summary().columns[1:], tables.summary().columns[1:], strict=True):
        assert np.allclose(ours.to_numpy(), theirs.to_numpy(), rtol=0, atol=1e-10)
    for dataset in both(published, *PRICES):
        with pytest.raises(NoDataError, match="is a dataset"):
            dataset.summary()


# --- known numbers ---------------------------------------------------------------------------------


def test_the_example_of_the_docs_has_the_numbers_of_the_docs(published: House) -> None:
    cube, _ = both(published, *OWN)
    (line,) = cube.timeseries(YIELD).to_pylist()
    assert line == {
        "timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "s_sum_t_sum": 10.0,
        "s_mean_t_sum": 10 / 3,
        "s_sum_t_mean": 8.0,
        "s_mean_t_mean": 4.0,
        "s_count": 2,
    }
    kitui, makueni = cube.regions(YIELD, "admin1", "2020-01").to_pylist()
    assert (kitui["region_id"], kitui["s_mean_t_sum"], kitui["s_count"]) == ("Kenya__Kitui", 5.0, 2)
    assert (makueni["region_id"], makueni["s_mean_t_mean"], makueni["s_count"]) == ("Kenya__Makueni", None, 0)
    largest = [row for row in cube.extrema(YIELD, "admin1").to_pylist() if row["extreme"] == "max"]
    assert {row["figure"]: row["value"] for row in largest if row["region_id"] == "Kenya__Kitui"} == {
        "s_sum_t_sum": 10.0, "s_mean_t_sum": 5.0, "s_sum_t_mean": 8.0, "s_mean_t_mean": 4.0,
    }  # fmt: skip
    assert cube.grid_stats(YIELD, "2020-01")["zoom"].to_pylist() == list(range(9))
    assert cube.grid_stats(YIELD, "2020-01")["max_s_sum_t_sum"].to_pylist()[0] == 10.0
    assert cube.raw(YIELD)["value"].to_pylist() == [1.5, 2.5, 6.0, None]


def test_the_bins_of_a_tile_have_the_numbers_and_the_places_of_the_docs(published: House) -> None:
    cube, _ = both(published, *OWN)
    tile = cube.tile(YIELD, "2020-01", 8, 155, 128)
    figures = tile.select(["bin", "s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_count"]).to_pylist()
    assert [tuple(row.values()) for row in figures] == [(3786, 6.0, 6.0, 6.0, 1), (4033, 4.0, 4.0, 2.0, 1)]
    for row, (lat, lng) in zip(tile.to_pylist(), [(-1.3, 38.2), (-1.4, 38.0)], strict=True):
        assert row["west"] <= lng < row["east"]
        assert row["south"] < lat <= row["north"]
        assert row["east"] - row["west"] == 360 / 2**14
    assert cube.tile(YIELD, "2020-01", 8, 154, 129).num_rows == 0, "a place without any value is in no tile"
    assert cube.tile(YIELD, "2020-01", 3, 4, 4)["bin"].to_pylist() == [118]
    assert cube.tile(YIELD, "2020-01", 8, 0, 0).num_rows == 0


def test_bounds_leave_out_what_lies_outside_and_nothing_else(published: House) -> None:
    for cube in both(published, *CROPS):
        everything = cube.bins(YIELD, "2020-03", zoom=7)
        some = cube.bins(YIELD, "2020-03", zoom=7, bounds=(34.0, -3.0, 38.0, 5.0))
        inside = pc.and_(
            pc.and_(pc.less(everything["west"], 38.0), pc.greater(everything["east"], 34.0)),
            pc.and_(pc.less(everything["south"], 5.0), pc.greater(everything["north"], -3.0)),
        )
        assert some.equals(everything.filter(inside))
        assert 0 < some.num_rows < everything.num_rows
        assert cube.bins(YIELD, "2020-03", bounds=(0.0, 60.0, 1.0, 61.0)).num_rows == 0
        with pytest.raises(ValueError, match="west, south, east, north"):
            cube.bins(YIELD, "2020-03", bounds=(38.0, -3.0, 34.0, 5.0))


def test_all_bins_of_the_finest_zoom_add_up_to_the_line(published: House) -> None:
    cube, tables = both(published, *CROPS)
    (line,) = cube.timeseries(YIELD).slice(2, 1).to_pylist()
    for zoom in (0, 4, 8):
        bins = cube.bins(YIELD, "2020-03", zoom=zoom)
        assert pc.sum(bins["s_count"]).as_py() == line["s_count"]
        assert pc.sum(bins["s_sum_t_sum"]).as_py() == pytest.approx(line["s_sum_t_sum"], rel=1e-12)
    cells = tables.cells(YIELD, "2020-03")
    assert pc.sum(cells["t_sum"]).as_py() == pytest.approx(line["s_sum_t_sum"], rel=1e-12)
    assert cells.schema.field("timestamp").type == TIME
    points = tables.points(YIELD, columns=["timestamp", "value", "lat"])
    assert points.column_names == ["timestamp", "value", "lat"]
    assert points.num_rows == cube.results["data_info"]["num_rows_per_feature"][YIELD]


def test_names_that_are_hard_to_write_are_asked_for_as_they_are(published: House) -> None:
    for cube in both(published, *OWN):
        line = cube.timeseries(ODD_FEATURE, region=ODD_REGION)
        assert line["timestamp"].cast(pa.int64()).to_pylist() == [-302486400000, JANUARY]
        assert line["s_sum_t_sum"].to_pylist() == [1e-7, 0.0]
        assert cube.timeseries(ODD_FEATURE, qualifier="crop", value="2020")["s_count"].to_pylist() == [1]
        by_crop = cube.timeseries(ODD_FEATURE, qualifier="crop", figures="s_mean_t_mean")
        assert by_crop["value"].to_pylist() == ["2020", "timestamp", ODD_CROP, ODD_CROP]
        # The cell without a value is a row all the same.
        assert by_crop["s_mean_t_mean"].to_pylist() == [1e15, None, 1e-7, -2.5]
        assert cube.bins(ODD_FEATURE, "1960-06").num_rows == 1
        # In that month there are rows, but none with coordinates.
        assert cube.bins(ODD_FEATURE, "2020-01").num_rows == 0
        assert cube.regions(ODD_FEATURE, "admin1", "2020-02")["region_id"].to_pylist() == [
            "Kenya__Nairobi",
            "Kenya__None",
        ]


# --- only what is asked ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A folder as a store that keeps the keys it was asked for."""

    store: LocalStore
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.store.url

    def get(self, key: str) -> bytes:
        self.asked.append(key.split("/", 2)[2])
        return self.store.get(key)


def recorded(house: House, model_id: str, run_id: str) -> tuple[PublishedDatacube, list[str]]:
    store = Recorded(LocalStore(house.bucket().as_uri()))
    return PublishedDatacube(Published(store, ModelRun(model_id, run_id))), store.asked  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda cube: cube.features, ["results/results.json"]),
        (lambda cube: cube.timeseries(YIELD), [f"month/{YIELD}/timeseries/global/global.csv"]),
        (
            lambda cube: cube.timeseries(YIELD, region=NAKURU, resolution="year"),
            [f"year/{YIELD}/regional/admin1/timeseries/default/{NAKURU}.csv"],
        ),
        (
            lambda cube: cube.timeseries(YIELD, region=NAKURU, qualifier="crop", value="maize"),
            [f"month/{YIELD}/regional/admin1/timeseries/qualifiers/crop/maize/{NAKURU}.csv"],
        ),
        (
            lambda cube: cube.timeseries(YIELD, qualifier="crop", figures="s_count"),
            [f"month/{YIELD}/timeseries/qualifiers/crop/s_count.csv"],
        ),
        (
            lambda cube: cube.regions(YIELD, "admin2", "2020"),
            [f"year/{YIELD}/regional/admin2/aggs/{JANUARY}/default/default.csv"],
        ),
        (
            lambda cube: cube.extrema(YIELD, "country"),
            [f"month/{YIELD}/regional/country/stats/default/extrema.json"],
        ),
        (lambda cube: cube.grid_stats(YIELD, "2020-01"), [f"month/{YIELD}/stats/grid/{JANUARY}.csv"]),
        (lambda cube: cube.tile(YIELD, "2020-01", 0, 0, 0), [f"month/{YIELD}/tiles/{JANUARY}-0-0-0.tile"]),
        (lambda cube: cube.raw(YIELD), [f"raw/{YIELD}/raw/raw.csv"]),
        (lambda cube: cube.region_ids(YIELD, "admin1"), [f"raw/{YIELD}/info/region_lists.json"]),
        (lambda cube: cube.qualifier_values(YIELD, "crop"), [f"raw/{YIELD}/info/qualifiers/crop.json"]),
        (lambda cube: cube.qualifiers(YIELD), [f"raw/{YIELD}/info/qualifier_counts.json"]),
    ],
)
def test_a_question_reads_the_object_that_causemos_would_ask_for_and_no_other(
    published: House, ask: Callable[[PublishedDatacube], object], expected: Sequence[str]
) -> None:
    cube, asked = recorded(published, *CROPS)
    assert repr(cube) == "<PublishedDatacube toy-crop-model:rainfall-low>"
    assert asked == []
    ask(cube)
    assert asked == expected


def test_the_bins_of_a_place_are_found_without_a_listing_and_without_the_tiles_elsewhere(
    published: House,
) -> None:
    cube, asked = recorded(published, *CROPS)
    bins = cube.bins(YIELD, "2020-01", zoom=8, bounds=(36.0, -1.5, 37.0, 0.0))
    tiles = {key.rsplit("/", 1)[1] for key in asked}
    published_tiles = {
        path.name for path in (published.bucket() / "toy-crop-model/rainfall-low/month/yield/tiles").iterdir()
    }
    assert tiles <= published_tiles
    finest = {name for name in tiles if name.startswith(f"{JANUARY}-8-")}
    assert finest
    assert len(finest) < len([name for name in published_tiles if name.startswith(f"{JANUARY}-8-")])
    assert bins.num_rows > 0


FOREIGN = ("dagster", "dask", "pandas", "polars", "obstore", "httpx")


def test_importing_it_loads_neither_dagster_nor_pandas() -> None:
    program = (
        f"import sys, datacube_assets.read\nprint(*[name for name in {FOREIGN!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- from S3 ---------------------------------------------------------------------------------------


def test_a_datacube_on_s3_is_read_as_from_a_folder(
    published: House, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"read {uuid.uuid4().hex[:8]}"
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    upload(published.bucket() / "model", f"s3://models/{prefix}", "model")
    upload(published.folder / "lake/runs/model", f"s3://lake/{prefix}", "runs/model")
    # As the reader of CauseMos, which may not write.
    for name, value in s3_server.environment(READER_KEY, READER_SECRET).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATACUBE_S3_ENDPOINT")
    far = (*list_datacubes(f"s3://models/{prefix}"), *list_tables(f"s3://lake/{prefix}"))
    assert [repr(cube) for cube in far] == ["<PublishedDatacube model:run>", "<LakeDatacube model:run>"]
    for near, there in zip(both(published, *OWN), far, strict=True):
        for method, arguments, named in questions(near):
            one, other = (getattr(cube, method)(*arguments, **named) for cube in (near, there))
            assert one.equals(other) if isinstance(one, pa.Table) else list(one) == list(other)
        with pytest.raises(NoDataError, match="no feature 'rain'"):
            there.timeseries("rain")
    with pytest.raises(NoDataError, match="list_datacubes"):
        _ = open_datacube(f"s3://models/{prefix}", "model", "other", s3_endpoint=s3_server.endpoint).features


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_pandas_and_dask_read_the_files_of_a_table_by_fsspec(
    where: str, published: House, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask.dataframe as dd
    import pandas as pd

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    lake = str(published.folder / "lake")
    if where == "s3":
        lake = f"s3://lake/files {uuid.uuid4().hex[:8]}"
        upload(published.folder / "lake/runs/model", lake, "runs/model")
        for name, value in s3_server.environment(READER_KEY, READER_SECRET).items():
            monkeypatch.setenv(name, value)
    tables = open_tables(lake, "model", "run")
    files = tables.files("temporal_cells", "month-")
    assert files.storage_options == ({"endpoint_url": s3_server.endpoint} if where == "s3" else {})
    frames = [pd.read_parquet(url, storage_options=files.storage_options) for url in files.urls]
    joined = pd.concat(frames)
    asked = tables.cells(YIELD)["t_mean"].drop_null().to_pylist()
    assert len(asked) > 0
    assert sorted(joined[joined.feature == YIELD].t_mean.dropna()) == sorted(asked)
    lazy = dd.read_parquet(files.urls, storage_options=files.storage_options, columns=["feature", "t_mean"])
    means = lazy[lazy.feature == YIELD].t_mean.compute(scheduler="threads")
    assert sorted(means.dropna()) == sorted(asked)
    with pytest.raises(NoDataError, match="no file 'week-'"):
        tables.files("temporal_cells", "week-")
    with pytest.raises(NoDataError, match="list_tables"):
        tables.files("cells")


def upload(folder: Path, url: str, below: str) -> None:
    store: Store = open_store(url, os.environ["DATACUBE_S3_ENDPOINT"])
    paths = [path for path in folder.rglob("*") if path.is_file()]
    keys = [(Path(below) / path.relative_to(folder)).as_posix() for path in paths]
    store.put_many(keys, (path.read_bytes() for path in paths), "application/octet-stream")


# --- what is said ----------------------------------------------------------------------------------


def test_a_list_holds_what_is_complete(published: House, tmp_path: Path) -> None:
    listed = [(cube.model_id, cube.run_id) for cube in list_datacubes(published.bucket())]
    assert listed == [OWN, *(("toy-crop-model", f"rainfall-{much}") for much in ("high", "low", "normal"))]
    assert [cube.model_id for cube in list_datacubes(published.bucket(indicators=True))] == [
        "toy-market-prices"
    ]
    assert len(list_tables(published.folder / "lake")) == 5
    (tmp_path / "model/run/month").mkdir(parents=True)
    assert list_datacubes(tmp_path) == []
    with pytest.raises(NoDataError, match="there is no folder"):
        list_datacubes(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda cube: cube.timeseries("yeild"), "no feature 'yeild': there is 'yield', 'harvested area'"),
        (
            lambda cube: cube.timeseries(YIELD, region="Kenya__Nakru"),
            "no admin1 'Kenya__Nakru': there is 'Kenya__Nakuru'",
        ),
        (lambda cube: cube.timeseries(YIELD, region="nakuru"), "no country 'nakuru': give 'Kenya__Nakuru'"),
        (lambda cube: cube.regions(YIELD, "admin3"), "no level 'admin3': there is "),
        (lambda cube: cube.regions(YIELD, "admin1", "2031"), "in 2031: there are 2 years from 2020 to 2021"),
        (lambda cube: cube.bins(YIELD, "1999-12"), "in 1999-12: there are 24 months from 2020-01 to 2021-12"),
        (lambda cube: cube.timeseries(YIELD, qualifier="crops"), "no qualifier 'crops': there is 'crop'"),
        (
            lambda cube: cube.timeseries(YIELD, region=NAKURU, qualifier="crop", value="rice"),
            "no value 'rice': there is 'maize'",
        ),
        (lambda cube: cube.timeseries(YIELD, figures="s_wavg_t_sum"), "its rows have no weights"),
        (lambda cube: cube.timeseries(YIELD, qualifier="crop", figures="s_wavg_t_sum"), "have no weights"),
    ],
)  # fmt: skip
def test_both_say_what_there_is_instead(
    published: House, ask: Callable[[Datacube], object], said: str
) -> None:
    for cube in both(published, *CROPS):
        with pytest.raises(NoDataError) as told:
            ask(cube)
        assert said in str(told.value)


def test_a_dataset_without_coordinates_has_no_map(published: House) -> None:
    for cube in both(published, *PRICES):
        assert not cube.has_tiles
        with pytest.raises(NoDataError, match="has no map"):
            cube.bins("price", "2020-01")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda cube: cube.regions(YIELD, "county"), "the level 'county': give one of country"),
        (lambda cube: cube.timeseries(YIELD, resolution="day"), "the resolution 'day': give one of month"),
        (lambda cube: cube.timeseries(YIELD, figures="mean"), "the figure 'mean': give one of s_sum_t_sum"),
        (lambda cube: cube.timeseries(YIELD, value="maize"), "give qualifier= as well"),
        (lambda cube: cube.timeseries(YIELD, level="admin1"), "give region=, or ask for"),
        (lambda cube: cube.bins(YIELD, "2020-01", zoom=9), "zoom 9: give 0 to 8"),
        (lambda cube: cube.regions(YIELD, "admin1", "soon"), "'soon' is no time"),
        (lambda cube: cube.region_ids(YIELD, "county"), "the level 'county'"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(
    published: House, ask: Callable[[Datacube], object], said: str
) -> None:
    for cube in both(published, *CROPS):
        with pytest.raises(ValueError, match=said):
            ask(cube)


def test_an_object_that_somebody_changed_is_named(tmp_path: Path) -> None:
    key = "model/run/month/yield/timeseries/global/global.csv"
    (tmp_path / key).parent.mkdir(parents=True)
    (tmp_path / key).write_text("timestamp,s_count\n2020-01-01,many\n")
    with pytest.raises(UnreadableObjectError, match=key):
        open_datacube(tmp_path, "model", "run").timeseries(YIELD)


# --- times and levels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "resolution", "expected"),
    [
        ("2020", None, ("year", JANUARY)),
        ("2020-02", None, ("month", FEBRUARY)),
        ("2020-02-17", None, ("month", FEBRUARY)),
        ("2020-02-17", "year", ("year", JANUARY)),
        (FEBRUARY, None, ("month", FEBRUARY)),
        (FEBRUARY + 1, None, ("month", FEBRUARY)),
        (-1, None, ("month", -2678400000)),
        (-1, "year", ("year", -31536000000)),
        (np.int64(FEBRUARY), "year", ("year", JANUARY)),
        (dt.date(2020, 2, 29), None, ("month", FEBRUARY)),
        (dt.datetime.fromisoformat("2020-02-29T12:00"), None, ("month", FEBRUARY)),
        (dt.datetime(2020, 2, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=3))), None, ("month", JANUARY)),
        (np.datetime64("1960-06-15"), None, ("month", -302486400000)),
    ],
)
def test_a_moment_is_in_a_month_or_year(
    time: str | int | dt.date, resolution: str | None, expected: tuple[str, int]
) -> None:
    assert bucket(time, resolution) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("time", "resolution"), [("2020", "month"), ("", None), (True, None), (1.5, None)])
def test_what_is_no_such_moment_is_refused(time: object, resolution: str | None) -> None:
    with pytest.raises(ValueError, match=r"is no time|is a year"):
        bucket(time, resolution)  # type: ignore[arg-type]


def test_the_parts_of_a_region_id_tell_its_level() -> None:
    assert [level_of("__".join("abcd"[:parts])) for parts in range(1, 5)] == list(REGION_LEVELS)
    with pytest.raises(ValueError, match="level="):
        level_of("a__b__c__d__e")


# --- the docs --------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebooks" / "explore_datacube.ipynb"


@pytest.fixture
def folder(published: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `make demo` was called; it is the current one."""
    (tmp_path / "datacube-home").symlink_to(published.folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["analysts.md", "lake.md"])
def test_the_examples_of_a_page_run_one_after_the_other(
    page: str,
    folder: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    model, run = CROPS
    for part in ("results", f"month/{YIELD}/timeseries/global"):
        upload(
            folder / "datacube-home/buckets/models" / model / run / part,
            "s3://models/analysts",
            f"{model}/{run}/{part}",
        )
    tables = Path("runs", model, run)
    upload(folder / "datacube-home/lake" / tables, "s3://lake/analysts", str(tables))
    examples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(examples) >= 4
    names: dict[str, object] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, page, "exec"), names)
    printed = capsys.readouterr().out
    promised = re.findall(r"print\(.*\) +# ([\[{'\d].*|toy-crop-model:.*)", "".join(examples))
    assert len(promised) == (6 if page == "analysts.md" else 0)
    assert [promise for promise in promised if promise not in printed] == []


@pytest.mark.parametrize("where", ["folder", pytest.param("s3", marks=pytest.mark.slow)])
def test_the_notebook_runs_as_after_make_demo(
    folder: Path, where: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "store it without outputs"
    place = folder / "docs" / "notebooks"
    place.mkdir(parents=True)
    if where == "s3":
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        for name in ("models", "lake"):
            source = folder / "datacube-home" / ("buckets/models" if name == "models" else "lake")
            upload(source, f"s3://{name}/notebook", "")
        addresses = {"bucket": '"s3://models/notebook"', "lake": '"s3://lake/notebook"'}
        for name, address in addresses.items():
            (cell,) = [cell for cell in code if re.search(rf"^{name} = ", cell.source, re.MULTILINE)]
            cell.source = re.sub(rf"^{name} = .*$", f"{name} = {address}", cell.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(place)}}).execute()
    pictures = [
        cell.id for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert pictures == ["plot-lines", "plot-regions", "plot-map", "plot-runs", "plot-scenarios"]
    written = (folder / "datacube-home" / "yield-by-region.csv").read_text().splitlines()
    assert written[0] == "country,region,month,yield_t_per_ha_dry,yield_t_per_ha_normal,yield_t_per_ha_wet"
    assert len(written) == 1 + 9 * 24
    # What a person would look up in the published object.
    july = (
        open_datacube("datacube-home/buckets/models", *CROPS).regions(YIELD, "admin1", "2020-07").to_pylist()
    )
    (nakuru,) = (row["s_mean_t_mean"] for row in july if row["region_id"] == NAKURU)
    (line,) = (line for line in written if line.startswith("Kenya,Nakuru,2020-07"))
    assert float(line.split(",")[3]) == round(nakuru, 3)
