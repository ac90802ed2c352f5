"""The server of `datacube view`, asked as its page asks, over a datacube that was published by all assets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from datacube_assets.development.ports import free_port
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.settings import Settings
from datacube_assets.storage.opening import open_store
from datacube_assets.view.server import STATIC, application
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, House, open_house, rows
from datacube_assets_tests.unit.kernel_helpers import parse_tile

RUN = {"model_id": "model", "run_id": "run", "feature": "rain", "resolution": "month"}
EVERY = ("run", "timeseries", "regions", "regional", "ranges", "tiles/0/0/0", "place")


class Client:
    """Asks a server for JSON."""

    def __init__(self, site: Site, settings: Settings, host: str = "127.0.0.1") -> None:
        site.app = application(settings, host)
        self.http = httpx.Client(base_url=site.url)

    def get(self, path: str, **parameters: object) -> Any:
        answer = self.http.get(f"/api/{path}", params=_texts(parameters))
        assert answer.status_code == 200, answer.text
        said = answer.json()
        if path not in ("runs", "palettes"):
            # What is about a datacube says of which version.
            assert answer.headers["ETag"] == f'"{said.pop("version")}"'
        return said

    def refusal(self, path: str, **parameters: object) -> tuple[int, str]:
        answer = self.http.get(f"/api/{path}", params=_texts(parameters))
        return answer.status_code, answer.json()["detail"]


def _texts(parameters: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items()}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One served address; each client puts its own server there."""
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two places in two months, published through all assets; `Nairobi` is called as nobody would call it."""
    with open_house(tmp_path_factory.mktemp("house") / "home") as house:
        house.publish(rows(admin1=["A/B é", "Oromia"] * 2))
        yield house


@pytest.fixture
def client(site: Site, published: House) -> Client:
    return Client(site, published.settings)


def test_the_bins_of_a_tile_are_those_that_were_published(client: Client, published: House) -> None:
    for key, body in published.datacube().objects.items():
        found = re.fullmatch(r"month/rain/tiles/(-?\d+)-(\d)-(\d+)-(\d+)\.tile", key)
        if not found:
            continue
        timestamp, z, x, y = found.groups()
        answer = client.get(f"tiles/{z}/{x}/{y}", **RUN, timestamp=timestamp)
        bins = parse_tile(body)[1]
        figures = zip(answer["s_sum_t_sum"], answer["s_sum_t_mean"], answer["weight"], strict=True)
        assert dict(zip(answer["bin"], figures, strict=True)) == bins
    # A tile without data is not there, and empty to the reader.
    assert client.get("tiles/8/0/0", **RUN, timestamp=JANUARY)["bin"] == []


def test_lines_tables_and_ranges_hold_the_published_numbers(client: Client) -> None:
    (listed,) = client.get("runs")["runs"]
    assert time.time() - 3600 < listed.pop("published") <= time.time()
    assert listed == {"model_id": "model", "run_id": "run", "is_dataset": False}
    about = client.get("run", **RUN)
    assert [feature["name"] for feature in about["features"]] == ["rain"]
    assert (about["levels"], about["has_tiles"], about["has_weights"]) == (["country", "admin1"], True, False)
    line = client.get("timeseries", **RUN)
    assert line["timestamps"] == [JANUARY, FEBRUARY]
    assert line["columns"]["s_mean_t_sum"] == [1.5, 3.5]
    region = "Kenya__A/B é"
    assert client.get("regions", **RUN)["lists"]["admin1"] == ["Ethiopia__Oromia", region]
    line = client.get("timeseries", **RUN, level="admin1", region=region)
    assert line["columns"]["s_sum_t_mean"] == [1.0, 3.0]
    table = client.get("regional", **RUN, level="admin1", timestamp=FEBRUARY)
    assert dict(zip(table["ids"], table["columns"]["s_sum_t_sum"], strict=True)) == {
        "Ethiopia__Oromia": 4.0,
        region: 3.0,
    }
    january = client.get("ranges", **RUN, timestamp=JANUARY)["columns"]
    always = client.get("ranges", **RUN)["columns"]
    # One number per zoom 0 to 8.
    assert january["max_s_sum_t_sum"][8] == 2.0
    assert (always["min_s_sum_t_sum"][8], always["max_s_sum_t_sum"][8]) == (1.0, 4.0)
    assert {len(values) for values in always.values()} == {9}


def test_what_a_run_does_not_have_is_empty_as_for_the_reader(client: Client) -> None:
    assert client.get("timeseries", **RUN, level="admin1", region="Kenya__No") == {
        "timestamps": [],
        "columns": {},
    }
    assert client.get("regional", **RUN, level="admin1", timestamp=0) == {"ids": [], "columns": {}}
    assert client.get("ranges", **RUN, timestamp=0) == {"columns": {}}
    status, said = client.refusal("timeseries", **{**RUN, "feature": "snow"})
    assert status == 404
    assert "no such object" in said


def test_the_regions_of_a_bin_come_from_the_lake_or_from_raw_csv(
    client: Client, site: Site, published: House, tmp_path: Path
) -> None:
    tile = client.get("tiles/8/154/128", **RUN, timestamp=JANUARY)
    (nairobi,) = tile["bin"]
    here = {"z": 8, "x": 154, "y": 128, "bin": nairobi}
    expected = [{"country": "Kenya", "admin1": "Kenya__A/B é"}]
    assert client.get("place", **RUN, **here) == {"known": True, "regions": expected}
    assert client.get("place", **RUN, **{**here, "bin": nairobi + 1}) == {"known": True, "regions": []}
    both = client.get("place", **RUN, z=0, x=0, y=0, bin=2022)
    assert both["known"]
    # Without a lake, as where only the bucket can be read.
    bare = Client(site, published.settings.model_copy(update={"lake": (tmp_path / "none").as_uri()}))
    assert bare.get("place", **RUN, **here) == {"known": True, "regions": expected}
    assert bare.get("place", **RUN, z=0, x=0, y=0, bin=2022) == both
    # Nor raw.csv, as for a feature with many rows.
    with open_house(tmp_path / "home") as house:
        house.publish(rows(), raw_count_threshold=0)
        blind = Client(site, house.settings.model_copy(update={"lake": (tmp_path / "none").as_uri()}))
        assert blind.get("place", **RUN, **here) == {"known": False, "regions": []}


def test_names_and_units_come_from_dojos_documents(site: Site, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path}).resolved()
    folder = tmp_path / "sample" / "models"
    folder.mkdir(parents=True)
    outputs = [
        {"name": "rain", "display_name": "Rain", "unit": "mm", "description": None},
        {"name": "x", "unit": 7},
    ]
    (folder / "model.json").write_text(json.dumps({"id": "model", "outputs": outputs}))
    (folder / "broken.json").write_text("{")
    results = {"features": ["rain", "x"], "region_levels": [], "has_tiles": False, "has_weights": False}
    open_store(settings.models_bucket).put(
        "model/run/results/results.json", json.dumps({"data_info": results}).encode()
    )
    features = Client(site, settings).get("run", model_id="model", run_id="run")["features"]
    assert [(one["name"], one["display_name"], one["unit"]) for one in features] == [
        ("rain", "Rain", "mm"),
        ("x", "", ""),
    ]


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("model", ["..", ".", "", "a/../../b", "/etc", "a\0b"])
def test_no_model_id_leads_out_of_the_bucket(client: Client, path: str, model: str) -> None:
    more = {"timestamp": 0, "level": "country", "bin": 0, "z": 0, "x": 0, "y": 0}
    status, said = client.refusal(path, **{**RUN, "model_id": model}, **more)
    assert status == 400
    assert "model id" in said


@pytest.mark.parametrize("feature", ["..", "../rain", "x/../rain", "./rain", ""])
def test_no_feature_or_region_leads_out_of_the_run(client: Client, feature: str) -> None:
    assert client.refusal("timeseries", **{**RUN, "feature": feature})[0] == 404
    region = feature.replace("rain", "Kenya") or "."
    assert client.get("timeseries", **RUN, level="country", region=region)["timestamps"] == []


@pytest.mark.parametrize(
    ("path", "changed", "named"),
    [
        ("tiles/9/0/0", {}, "z must be a whole number from 0 to 8"),
        ("tiles/1/2/0", {}, "x must be a whole number from 0 to 1"),
        ("tiles/0/0/-1", {}, "y must be"),
        ("tiles/0/0/0", {"timestamp": "soon"}, "timestamp must be"),
        ("timeseries", {"resolution": "day"}, "resolution must be one of month, year"),
        ("timeseries", {"region": "Kenya", "level": "town"}, "level must be one of"),
        ("place", {"z": 0, "x": 0, "y": 0, "bin": 4096}, "bin must be"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(
    client: Client, path: str, changed: Any, named: str
) -> None:
    status, said = client.refusal(path, **{**RUN, "timestamp": 0, **changed})
    assert status == 400
    assert named in said


def test_a_missing_parameter_is_named(client: Client) -> None:
    assert client.refusal("run", model_id="model") == (400, "the parameter run_id is missing")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/api/runs", "/js/main.js"])
def test_nothing_but_get_is_answered(client: Client, method: str, path: str) -> None:
    assert client.http.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/run", "/js/main.js", "/nothing"])
def test_every_answer_carries_the_headers_that_keep_a_browser_safe(client: Client, path: str) -> None:
    headers = client.http.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "/js/../../server.py", "/..%2fserver.py", "/server.py"]
)
def test_no_file_outside_of_the_page_is_served(client: Client, path: str) -> None:
    assert client.http.get(path).status_code == 404


@pytest.mark.parametrize(
    ("listens_at", "called", "status"),
    [
        ("127.0.0.1", "127.0.0.1:3003", 200),
        ("127.0.0.1", "localhost:3003", 200),
        ("::1", "[::1]:3003", 200),
        ("127.0.0.1", "evil.example", 421),
        ("localhost", "127.0.0.1.evil.example:3003", 421),
        ("127.0.0.1", "[", 421),
        ("0.0.0.0", "maps.example", 200),
    ],
)
def test_on_loopback_the_server_answers_to_no_other_name(
    site: Site, published: House, listens_at: str, called: str, status: int
) -> None:
    # A page elsewhere that gives its own name our address could read everything otherwise.
    http = Client(site, published.settings, listens_at).http
    assert http.get("/api/runs", headers={"Host": called}).status_code == status


def test_a_broken_object_is_named(site: Site, published: House, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path}).resolved()
    bucket = open_store(settings.models_bucket)
    for key, body in published.datacube().objects.items():
        bucket.put(f"model/run/{key}", body)
    bucket.put(f"model/run/month/rain/tiles/{JANUARY}-0-0-0.tile", b"\xff\xff")
    status, said = Client(site, settings).refusal("tiles/0/0/0", **RUN, timestamp=JANUARY)
    assert status == 500
    assert f"{JANUARY}-0-0-0.tile" in said


def test_incomplete_datacubes_are_not_offered(site: Site, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path}).resolved()
    client = Client(site, settings)
    assert client.get("runs") == {"runs": [], "looked": [settings.models_bucket, settings.indicators_bucket]}
    open_store(settings.models_bucket).put(
        "model/run/month/rain/timeseries/global/global.csv", b"timestamp\n"
    )
    open_store(settings.indicators_bucket).put("prices/indicator/results/results.json", b'{"data_info": {}}')
    assert [one["model_id"] for one in client.get("runs")["runs"]] == ["prices"]


VENDORED = {
    "leaflet/leaflet.js": "db49d009c841f5ca34a888c96511ae936fd9f5533e90d8b2c4d57596f4e5641a",
    "leaflet/leaflet.css": "a7837102824184820dfa198d1ebcd109ff6d0ff9a2672a074b9a1b4d147d04c6",
    "topojson-client/topojson-client.min.js": (
        "25cd02ae486cc5063e0215a4e4cfb15de83700c87ac48bac4d57dc6aaf3ebb89"
    ),
    "world-atlas/countries-50m.json": "04342cdc1e3016bcd7db1630de95684d67b79fe3c8c460321e87aef469502394",
}
"""SHA-256 of the files, as they are in the packages."""


def test_what_others_wrote_is_in_the_page_unchanged_and_with_its_licence() -> None:
    folder = STATIC / "vendor"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    licences = {f"{name.split('/')[0]}/LICENSE" for name in VENDORED}
    assert set(files) == {*VENDORED, *licences, "README.md"}
    assert {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in VENDORED} == VENDORED


def test_the_command_serves_on_loopback_until_it_is_stopped(published: House) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "datacube_assets.cli",
        "view",
        "--port",
        str(port),
        "--home",
        str(published.settings.home),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert (
                process.stdout.readline() == f"Datacubes at http://127.0.0.1:{port}; stop it with Ctrl-C.\n"
            )
            end = time.monotonic() + 60
            while time.monotonic() < end:
                with contextlib.suppress(httpx.ConnectError):
                    assert httpx.get(f"http://127.0.0.1:{port}/").text.startswith("<!doctype html>")
                    break
                time.sleep(0.1)
            else:
                pytest.fail("it did not answer")
        finally:
            process.terminate()
