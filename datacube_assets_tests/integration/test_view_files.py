"""What `datacube view` gives to other programs: tables as files, tiles as pictures, regions for a GIS."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datacube_assets.development.simulator_http import in_background
from datacube_assets.storage.opening import open_store
from datacube_assets.view import documentation
from datacube_assets.view.server import application
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, House, open_house, rows
from datacube_assets_tests.unit.kernel_helpers import parse_tile

KEY = "model:run"
REGIONS = {"key": KEY, "feature": "rain", "level": "country", "time": "2020-02"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house") / "home") as house:
        house.publish(rows())
        yield house


@pytest.fixture(scope="module")
def http(published: House) -> Iterator[httpx.Client]:
    with in_background(application(published.settings)) as url, httpx.Client(base_url=url) as client:
        yield client


def get(http: httpx.Client, path: str, **parameters: Any) -> httpx.Response:
    answer = http.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["ETag"].strip('"')
    return answer


def test_a_table_is_the_same_page_by_page_and_as_a_file(http: httpx.Client) -> None:
    pages = [
        get(http, "/api/table", table="timeseries", resolution="month", offset=at, limit=1, **REGIONS).json()
        for at in (0, 1)
    ]
    assert [page["total"] for page in pages] == [2, 2]
    names = [column["name"] for column in pages[0]["columns"]]
    paged = [row[names.index("s_sum_t_sum")] for page in pages for row in page["rows"]]
    body = get(http, "/download/timeseries.parquet", key=KEY, feature="rain", resolution="month").content
    assert pq.read_table(io.BytesIO(body))["s_sum_t_sum"].to_pylist() == paged == [3.0, 7.0]
    text = get(http, "/download/timeseries.csv", key=KEY, feature="rain", resolution="month").text
    assert text.splitlines()[1].startswith('"2020-01-01T00:00:00')


def test_regions_are_points_in_the_middle_of_their_data(http: httpx.Client) -> None:
    found = get(http, "/download/regions.geojson", **REGIONS).json()
    places = {
        one["properties"]["region_id"]: (one["geometry"]["coordinates"], one["properties"]["s_sum_t_sum"])
        for one in found["features"]
    }
    assert set(places) == {"Ethiopia", "Kenya"}
    table = pq.read_table(io.BytesIO(get(http, "/download/regions.parquet", **REGIONS).content))
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["primary_column"], geo["columns"]["geometry"]["encoding"]) == ("geometry", "WKB")
    for region, figure, point in zip(
        *(table[name].to_pylist() for name in ("region_id", "s_sum_t_sum", "geometry")), strict=True
    ):
        order, kind = point[0], int.from_bytes(point[1:5], "little")
        assert (order, kind, len(point)) == (1, 1, 21)
        assert (np.frombuffer(point, "<f8", offset=5).tolist(), figure) == places[region]


def test_a_picture_has_a_colour_where_a_tile_has_a_bin(http: httpx.Client, published: House) -> None:
    body = published.datacube().objects[f"month/rain/tiles/{FEBRUARY}-3-4-3.tile"]
    bins = parse_tile(body)[1]
    answer = get(http, f"/tiles/{KEY}/rain/2020-02/3/4/3.png", figure="s_sum_t_sum")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert picture.shape == (256, 256, 4)
    opaque = picture[2::4, 2::4, 3] > 0
    assert set(np.flatnonzero(opaque.ravel()).tolist()) == set(bins)
    # One without data is no error: maps ask for all.
    empty = get(http, f"/tiles/{KEY}/rain/2020-02/8/0/0.png")
    assert not np.asarray(Image.open(io.BytesIO(empty.content)).convert("RGBA"))[..., 3].any()


def test_an_end_of_the_colours_beyond_the_data_leaves_a_picture(http: httpx.Client) -> None:
    tile = f"/tiles/{KEY}/rain/2020-02/0/0/0.png"
    for ends in ({"min": 1_000_000}, {"max": -1_000_000}):
        picture = Image.open(io.BytesIO(get(http, tile, **ends).content)).convert("RGBA")
        assert np.asarray(picture)[..., 3].any(), ends


@pytest.mark.parametrize(
    "path",
    [
        f"/tiles/{KEY}/rain/2020-02/0/0/0.png",
        f"/tiles/{KEY}/rain/2020-02.json",
        f"/download/timeseries.csv?key={KEY}&feature=rain&resolution=month",
        f"/tiles/{KEY}/rain/2020-02/0/0/0.png?number=1",
    ],
)
def test_what_a_client_has_already_is_not_sent_again_while_its_version_stands(
    http: httpx.Client, path: str
) -> None:
    first = http.get(path)
    tag = first.headers["ETag"]
    for known in (tag, f'"another", {tag}', f"W/{tag}"):
        again = http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    other = http.get(path, headers={"If-None-Match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_tilejson_leads_to_the_pictures(http: httpx.Client) -> None:
    found = get(http, f"/tiles/{KEY}/rain/2020-02.json", palette="magma").json()
    assert (found["tilejson"], found["maxzoom"]) == ("3.0.0", 8)
    west, south, east, north = found["bounds"]
    assert west < 37 < east
    assert south < 0 < north
    address = found["tiles"][0].format(z=0, x=0, y=0)
    assert get(http, address).headers["Content-Type"] == "image/png"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"/tiles/{KEY}/rain/2020-02/9/0/0.png", 400, "z must be"),
        (f"/tiles/{KEY}/rain/2020-02/0/0/0.png?palette=none", 400, "palette must be one of"),
        (f"/tiles/{KEY}/rain/2020-02/0/0/0.png?min=5&max=1", 400, "min must not be above max"),
        (f"/tiles/{KEY}/rain/2020-02/8/0/0.png?min=5&max=1", 400, "min must not be above max"),
        (f"/tiles/{KEY}/rain/2020-02/8/0/0.png?scale=log&min=0", 400, "log scale needs values above 0"),
        (f"/tiles/{KEY}/rain/2020-02.json?scale=log&max=-1", 400, "log scale needs values above 0"),
        (f"/tiles/{KEY}/rain/soon/0/0/0.png", 400, "is no time"),
        (f"/tiles/{KEY}/rain/2031-02/1/0/0.png", 404, "2020-01 to 2020-02"),
        (f"/tiles/{KEY}/snow/2020-02/1/0/0.png", 404, "'rain'"),
        ("/tiles/model:nobody/rain/2020-02/0/0/0.png", 404, "no complete datacube"),
        (f"/tiles/{quote('..:run', safe='')}/rain/2020-02/0/0/0.png", 400, "partition key"),
        ("/download/rows.geojson?key=model:run&feature=rain", 400, "only the table regions"),
        ("/download/secrets.csv?key=model:run", 400, "table must be one of"),
        ("/docs/../pyproject.toml", 404, ""),
        ("/docs/..%2fpyproject.toml", 404, ""),
    ],
)
def test_what_cannot_be_had_is_said(http: httpx.Client, path: str, status: int, said: str) -> None:
    answer = http.get(path)
    assert answer.status_code == status, answer.text
    assert said in answer.text


def test_an_answer_of_another_version_is_refused(http: httpx.Client, published: House) -> None:
    version = get(http, "/api/version", key=KEY).json()["version"]
    line = {"key": KEY, "feature": "rain", "resolution": "month"}
    assert get(http, "/api/timeseries", **line, version=version).json()["version"] == version
    bucket = open_store(published.settings.models_bucket)
    results = bucket.get("model/run/results/results.json")
    bucket.delete_many(["model/run/results/results.json"])
    gone = http.get("/api/timeseries", params={**line, "version": version})
    assert (gone.status_code, gone.json()["reason"]) == (404, "absent")
    # The same bytes, written again: objects may have changed all the same.
    bucket.put("model/run/results/results.json", results)
    changed = http.get("/api/timeseries", params={**line, "version": version})
    assert (changed.status_code, changed.json()["reason"]) == (409, "changed")


def test_a_rectangle_has_the_sums_of_its_bins(http: httpx.Client) -> None:
    world = {"west": -180, "south": -85, "east": 180, "north": 85}
    found = get(http, "/api/area", key=KEY, feature="rain", resolution="month", **world).json()
    assert found["timestamps"] == [JANUARY, FEBRUARY]
    assert found["columns"]["s_sum_t_sum"] == [3.0, 7.0]
    assert found["columns"]["s_mean_t_mean"] == [1.5, 3.5]
    nowhere = {"west": -30, "south": -60, "east": -29, "north": -59}
    empty = get(http, "/api/area", key=KEY, feature="rain", resolution="month", **nowhere).json()
    assert empty["columns"]["s_sum_t_sum"] == [None, None]
    assert empty["columns"]["s_count"] == [0, 0]


def test_every_page_of_the_documentation_is_there_and_its_links_lead_somewhere(http: httpx.Client) -> None:
    folder = documentation.folder()
    assert folder is not None
    for path in sorted(folder.rglob("*.md")):
        name = path.relative_to(folder).as_posix()
        answer = http.get(f"/docs/{name}")
        assert answer.status_code == 200, name
        assert "<h1" in answer.text
    assert "Objects" in http.get("/docs/").text
    assert http.get("/docs/images/view.png").headers["Content-Type"] == "image/png"
