"""`datacube view` in a browser: what a modeller sees, clicks and reads.

The numbers are those of the worked example (docs/specification/from-rows-to-figures.md#a-worked-example),
of a second run to compare it with, and of a run whose names are as odd as names can be. In a folder, and on a
real S3 server, which is slow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from datacube_assets.development.simulator_http import in_background
from datacube_assets.kernels.encode import PROTOBUF
from datacube_assets.kernels.morton import BIN_BITS
from datacube_assets.read import open_datacube
from datacube_assets.settings import Settings
from datacube_assets.storage.opening import open_store
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import OpenPage, Watched, watched_page
from datacube_assets_tests.integration.test_s3 import use
from datacube_assets_tests.unit.kernel_helpers import FEB_2020, JAN_2020, datacube, ms
from datacube_assets_tests.unit.kernel_helpers import Datacube as Made
from datacube_assets_tests.unit.test_kernel_example import rows as example_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

    from datacube_assets.development.s3_server import S3Server

pytestmark = pytest.mark.browser

BALE, KERICHO, NOWHERE = (7.0, 40.0), (-0.4, 35.1), (20.0, 0.0)
ODD_MODEL, ODD_RUN = """a "b" 'c' & <b>d""", "Lauf é 日本 #1?x=2%20+"
ODD_FEATURE = """rain/fall "q" <img src=x onerror=alert(1)> 100%"""
ODD_REGION = '<i>Kenya</i> & "é"'


@dataclass(frozen=True)
class Site:
    """What is published, and the address of the page that shows it."""

    url: str
    settings: Settings
    made: Mapping[str, Made]
    """Objects of the runs of the model `example`, by run id."""


@pytest.fixture(scope="module", params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "folder":
            settings = Settings.model_validate({"DATACUBE_HOME": home}).resolved()
        else:
            server: S3Server = request.getfixturevalue("s3_server")
            use(patch, server.environment())
            settings = on_s3(server, home, f"view-page-{home.name}")
        yield from published_site(settings)


def on_s3(server: S3Server, home: Path, prefix: str) -> Settings:
    """Lake and buckets on a server, below a prefix."""
    return Settings.model_validate(
        {
            "DATACUBE_HOME": home,
            "DATACUBE_LAKE": f"s3://lake/{prefix}",
            "DATACUBE_MODELS_BUCKET": f"s3://models/{prefix}",
            "DATACUBE_INDICATORS_BUCKET": f"s3://indicators/{prefix}",
            "DATACUBE_S3_ENDPOINT": server.endpoint,
        }
    ).resolved()


def published_site(settings: Settings) -> Iterator[Site]:
    doubled = [{**row, "value": 2 * row["value"]} for row in example_rows()]
    made = {"first": datacube(example_rows()), "second": datacube(doubled)}
    models, endpoint = settings.models_bucket, settings.s3_endpoint
    for run_id, one in made.items():
        publish(models, "example", run_id, one, endpoint)
    odd = {
        "feature": ODD_FEATURE,
        "country": ODD_REGION,
        "admin1": "a/b",
        "lat": 7.0,
        "lng": 40.0,
        "value": 5.0,
    }
    publish(models, ODD_MODEL, ODD_RUN, datacube([odd]), endpoint)
    placeless = [{"feature": "price", "country": "Kenya", "value": 2.0, "people": 3.0},
                 {"feature": "price", "country": "Kenya", "value": 4.0, "people": 1.0}]  # fmt: skip
    publish(
        settings.indicators_bucket,
        "prices",
        "indicator",
        datacube(placeless, indicator=True, weight_column="people"),
        endpoint,
    )
    with in_background(application(settings)) as url:
        yield Site(url, settings, made)


def publish(bucket: str, model_id: str, run_id: str, made: Made, s3_endpoint: str = "") -> None:
    keys = [f"{model_id}/{run_id}/{key}" for key in made.objects]
    open_store(bucket, s3_endpoint).put_many(keys, list(made.objects.values()), PROTOBUF)


class Screen:
    """The page as its user knows it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def go(self, **choice: object) -> None:
        """Open the page with a choice in its address, and wait until everything is there."""
        address = f"{self.url}/#{urlencode(choice)}"
        if self.page.url.startswith(f"{self.url}/#"):
            # In the same page: it has heard of the address when this comes back.
            self.page.evaluate(FOLLOWED, address)
        else:
            self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has done what was asked of it."""
        # What was done last has its turn first.
        self.page.evaluate("new Promise(done => setTimeout(done))")
        self.page.wait_for_selector("main[aria-busy=false]")

    @property
    def address(self) -> dict[str, str]:
        """What the address says."""
        return {name: one for name, (one,) in parse_qs(urlsplit(self.page.url).fragment).items()}

    def map(self, number: int = 0) -> Locator:
        return self.page.locator(".map").nth(number)

    def click_middle(self) -> None:
        self.map().click()
        self.settle()

    def choose(self, radio: str) -> None:
        """Click a button of a group, as `Over time: Sum`."""
        group, name = radio.split(": ")
        self.page.get_by_role("group", name=group).get_by_text(name, exact=True).click()
        self.settle()

    def select(self, label: str, option: str) -> None:
        self.page.get_by_role("combobox", name=label, exact=True).select_option(label=option)
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def cell(self, figure: str) -> list[str]:
        """A figure of the cell that was clicked, one text per run."""
        return self.page.locator(f"#cell tr[data-figure={figure}] td").all_inner_texts()

    def readout(self) -> str:
        """What the line over time says, in one line."""
        return " ".join(self.page.locator(".readout").inner_text().split())

    def legend(self) -> list[str]:
        return [self.page.locator(f"#{end}").inner_text() for end in ("least", "most")]

    def regions(self) -> dict[str, str]:
        """The ranking: value by name."""
        rows = self.page.locator("#regions .region")
        return {row.locator(".name").inner_text(): row.locator(".values").inner_text() for row in rows.all()}

    def painted(self, number: int = 0) -> dict[tuple[int, int, int], list[int]]:
        """Bins that have a colour on the map, by zoom, x and y of their tile."""
        found: list[Any] = self.map(number).evaluate(PAINTED)
        return {(z, x, y): bins for z, x, y, bins in found if bins}


FOLLOWED = """address => new Promise(done => {
  const before = location.href;
  window.addEventListener('hashchange', () => setTimeout(done), {once: true});
  location.href = address;
  if (location.href === before) done();
})"""

PAINTED = """map => [...map.querySelectorAll('.leaflet-tile-pane canvas')].map(canvas => {
  const side = canvas.width / 64, {x, y, z} = canvas.at;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.width).data;
  const alpha = bin => pixels[4 * (Math.floor((Math.floor(bin / 64) + .5) * side) * canvas.width
    + Math.floor((bin % 64 + .5) * side)) + 3];
  return [z, x, y, [...Array(4096).keys()].filter(alpha)];
})"""


@pytest.fixture(scope="module")
def page_of_site(browser: Browser, site: Site) -> Iterator[tuple[Watched, Screen]]:
    with watched_page(browser) as watched:
        yield watched, Screen(watched.page, site.url)


@pytest.fixture
def shown(page_of_site: tuple[Watched, Screen]) -> Iterator[Screen]:
    """The page, which tests share: another address shows it anew. It is clean after each of them."""
    watched, screen = page_of_site
    yield screen
    watched.assert_clean()


def at(place: tuple[float, float], zoom: int) -> dict[str, object]:
    """The middle of the bin that a place is in, at a zoom of the map, whose tiles are one zoom coarser."""
    lat, lng = place
    across = 2 ** (zoom - 1 + BIN_BITS)
    column = math.floor((lng + 180) / 360 * across) + 0.5
    row = math.floor((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * across) + 0.5
    middle = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / across))))
    return {"lat": middle, "lng": column / across * 360 - 180, "zoom": zoom}


def test_a_clicked_cell_shows_the_numbers_of_the_worked_example(shown: Screen) -> None:
    shown.go(model="example", run="first", time=FEB_2020, **at(KERICHO, 8))
    assert shown.page.title() == "Datacube view"
    shown.click_middle()
    figures = ("s_sum_t_sum", "s_sum_t_mean", "s_mean_t_sum", "s_mean_t_mean", "weight")
    assert [shown.cell(figure) for figure in figures] == [["33"], ["33"], ["16.5"], ["16.5"], ["2"]]
    # Two regions have a place here; the first is shown over time, the other is one click away.
    assert shown.page.locator("#cell .chip").all_inner_texts() == ["Kericho", "KerichoEast"]
    assert shown.readout() == "Feb 2020 30"
    shown.page.locator("#cell").get_by_role("button", name="KerichoEast").click()
    shown.settle()
    assert shown.readout() == "Feb 2020 3"


def test_a_region_over_time_has_the_numbers_of_the_read_api(shown: Screen, site: Site) -> None:
    bucket, endpoint = site.settings.models_bucket, site.settings.s3_endpoint
    cube = open_datacube(bucket, "example", "first", s3_endpoint=endpoint)
    line = cube.timeseries("yield", region="Ethiopia__Oromia", resolution="month")
    shown.go(model="example", run="first", level="admin1", region="Ethiopia__Oromia", t="sum", s="mean")
    shown.page.get_by_text("Numbers", exact=True).click()
    cells = shown.page.locator("#series td").all_inner_texts()
    assert [float(cell) for cell in cells] == line["s_mean_t_sum"].to_pylist() == [2.0, 15.0]
    # Up the hierarchy: Ethiopia, then all places.
    shown.page.locator("#series").get_by_role("button", name="Ethiopia").click()
    shown.settle()
    assert shown.address["region"] == "Ethiopia"
    shown.page.locator("#series").get_by_role("button", name="All places").click()
    shown.settle()
    assert "region" not in shown.address


def test_tiles_are_painted_bin_by_bin_at_every_zoom(shown: Screen, site: Site) -> None:
    lat, lng = KERICHO
    shown.go(model="example", run="first", time=FEB_2020, lat=lat, lng=lng, zoom=1)
    for zoom in range(9):
        shown.page.get_by_role("application").focus()
        painted = shown.painted()
        assert {tile[0] for tile in painted} == {zoom}
        for z, x, y in painted:
            published = site.made["first"].tile(f"month/yield/tiles/{FEB_2020}-{z}-{x}-{y}.tile")
            assert painted[z, x, y] == sorted(published)
        shown.press("+")
        shown.page.wait_for_function(
            "zoom => new URLSearchParams(location.hash.slice(1)).get('zoom') == zoom", arg=str(zoom + 2)
        )
        shown.settle()
    # Beyond the finest tiles the same bins are shown larger.
    assert {tile[0] for tile in shown.painted()} == {8}


def test_the_legend_has_the_range_of_grid_stats_at_its_zoom(shown: Screen) -> None:
    shown.go(model="example", run="first", time=FEB_2020, t="sum", s="sum", **at(KERICHO, 4))
    assert shown.legend() == ["10", "33"]
    shown.choose("Over space: Mean")
    assert shown.legend() == ["10", "20"]
    shown.page.get_by_role("button", name="Earlier").click()
    shown.settle()
    assert shown.legend() == ["2", "2"]
    shown.select("Colours span", "all times")
    assert shown.legend() == ["2", "20"]
    shown.choose("Resolution: Year")
    # In the year Bale has 4 + 10 over three cells, and Guji 20.
    assert shown.legend() == ["4.66667", "20"]


def test_switching_the_month_changes_map_cell_regions_and_address(shown: Screen) -> None:
    shown.go(model="example", run="first", time=FEB_2020, level="admin1", t="sum", s="sum", **at(BALE, 6))
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["10"]
    february = shown.painted()
    slider = shown.page.get_by_role("slider", name="Time")
    assert slider.get_attribute("aria-valuetext") == "Feb 2020"
    slider.focus()
    shown.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "Jan 2020"
    assert shown.address["time"] == str(JAN_2020)
    assert shown.cell("s_sum_t_sum") == ["4"]
    assert sum(map(len, shown.painted().values())) == 1 < sum(map(len, february.values()))
    shown.select("Level", "admin1")
    assert {name for name, value in shown.regions().items() if value != "–"} == {"Oromia"}
    # A click into the line goes to the time there; June 1960 is at its left end.
    box = shown.page.locator("svg.chart").bounding_box()
    assert box
    shown.page.mouse.click(box["x"] + 60, box["y"] + 60)
    shown.settle()
    assert slider.get_attribute("aria-valuetext") == "Jun 1960"
    assert shown.address["time"] == str(ms(1960, 6))


def test_panning_brings_other_tiles(shown: Screen) -> None:
    shown.go(model="example", run="first", time=FEB_2020, **at(NOWHERE, 7))
    assert shown.painted() == {}
    shown.page.get_by_role("button", name="Show all data").click()
    shown.settle()
    assert sum(map(len, shown.painted().values())) == 3
    before = float(shown.address["lng"])
    box = shown.map().bounding_box()
    assert box
    shown.page.mouse.move(box["x"] + 400, box["y"] + 300)
    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 200, box["y"] + 300, steps=4)
    shown.page.mouse.up()
    shown.page.wait_for_function(
        "lng => new URLSearchParams(location.hash.slice(1)).get('lng') > lng", arg=before
    )
    # A cell under the pointer is read without a click.
    shown.go(model="example", run="first", time=FEB_2020, **at(BALE, 6))
    shown.map().hover()
    shown.page.wait_for_selector("#tooltip:not([hidden])")
    assert shown.page.locator("#tooltip").inner_text() == "10"


def test_two_runs_are_compared_on_maps_that_move_together(shown: Screen) -> None:
    choice = {"with_model": "example", "with_run": "second", "time": FEB_2020, "t": "sum", "s": "sum"}
    shown.go(model="example", run="first", **choice, **at(KERICHO, 5))
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["33", "66"]
    # One legend for both, or equal colours would mean different numbers.
    assert shown.legend() == ["10", "66"]
    assert shown.readout() == "Feb 2020 first 30 second 60"
    shown.map(1).focus()
    shown.press("+")
    shown.page.wait_for_function("new URLSearchParams(location.hash.slice(1)).get('zoom') == 6")
    shown.settle()
    assert shown.painted(0).keys() == shown.painted(1).keys() != set()
    shown.select("Compare with", "nothing")
    assert shown.cell("s_sum_t_sum") == ["33"]
    assert not shown.map(1).is_visible()


def test_odd_names_are_shown_as_they_are(shown: Screen) -> None:
    shown.go(model=ODD_MODEL, run=ODD_RUN)
    assert shown.address["feature"] == ODD_FEATURE
    assert shown.page.locator("#quantity b").inner_text() == ODD_FEATURE
    assert list(shown.regions()) == [ODD_REGION]
    # Accents need not be typed.
    for typed, found in (('kenya</i> & "E"', [ODD_REGION]), ("kenyo", []), ("", [ODD_REGION])):
        shown.page.locator("#find").fill(typed)
        assert list(shown.regions()) == found
    shown.page.locator("#regions .region").click()
    shown.settle()
    assert shown.readout() == "Jan 2020 5"
    shown.select("Level", "admin1")
    shown.page.locator("#regions .region").click()
    shown.settle()
    assert shown.address["region"] == f"{ODD_REGION}__a/b"
    assert shown.readout() == "Jan 2020 5"
    shown.go(model=ODD_MODEL, run=ODD_RUN, **at(BALE, 6))
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["5"]
    assert shown.page.locator("main b, main i, main img").count() == shown.page.locator("main b").count()
    # The same names as options, chosen by hand.
    shown.select("Model or dataset", "example")
    shown.select("Model or dataset", ODD_MODEL)
    shown.select("Compare with", "first")
    assert "This run has no feature" in shown.page.locator(".note").nth(1).inner_text()


NAME_OF_FOCUS = "(({id, className, name}) => id || className || name || '')(document.activeElement)"


def test_everything_can_be_done_with_the_keyboard(shown: Screen) -> None:
    shown.go(model="example", run="first", time=FEB_2020, t="sum", s="sum", **at(BALE, 6))
    reached = set()
    for _ in range(40):
        shown.page.keyboard.press("Tab")
        reached.add(shown.page.evaluate(NAME_OF_FOCUS))
    choices = "model run other feature resolution time space earlier slider play span cells level find"
    assert {*choices.split(), "fit", "region", "chip"} <= reached
    assert any("leaflet-container" in name for name in reached)
    shown.map().focus()
    shown.press("Enter")
    assert shown.cell("s_sum_t_sum") == ["10"]
    shown.page.locator("input[name=space]:checked").focus()
    shown.press("ArrowRight")
    assert shown.address["s"] == "mean"
    shown.page.get_by_label("Find").fill("zzz")
    assert "No region is called so" in shown.page.locator("#regions").inner_text()


def test_a_dataset_without_places_says_so_and_shows_its_lines(shown: Screen) -> None:
    shown.go(model="prices", run="indicator")
    assert "no coordinates" in shown.page.locator(".note").first.inner_text()
    shown.choose("Over time: Weighted")
    # 2 for three people and 4 for one.
    assert shown.readout() == "Jan 2020 2.5"
    # Weighted means are in no tile, and the other models have no weights at all.
    shown.select("Model or dataset", "example")
    assert shown.address["t"] == "mean"
    assert shown.painted() != {}


def test_play_goes_through_the_months(shown: Screen) -> None:
    shown.go(model="example", run="first", time=ms(1960, 6))
    shown.page.get_by_role("button", name="Play").click()
    shown.page.wait_for_function("document.getElementById('now').textContent === 'Jan 2020'")
    shown.page.get_by_role("button", name="Pause").click()
    assert shown.page.get_by_role("button", name="Play").is_visible()


def test_a_narrow_window_needs_no_sideways_scrolling(open_page: OpenPage, site: Site) -> None:
    with open_page(width=390, height=800) as watched:
        shown = Screen(watched.page, site.url)
        shown.go(model=ODD_MODEL, run=ODD_RUN, with_model="example", with_run="first")
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_where_nothing_is_published_the_page_says_what_to_do(open_page: OpenPage, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path / "none"}).resolved()
    with in_background(application(settings)) as url, open_page() as watched:
        watched.page.goto(url)
        watched.page.wait_for_selector("#empty:not([hidden])")
        said = watched.page.locator("#empty").inner_text()
        assert "make demo" in said
        assert settings.models_bucket in said
        publish(settings.models_bucket, "m", "r", datacube([{"value": 1.0}]))
        watched.page.get_by_role("button", name="Look again").click()
        watched.page.wait_for_selector("main[aria-busy=false]")
        assert watched.page.locator("#now").inner_text() == "Jan 2020"


def test_an_object_that_is_gone_or_broken_is_told(open_page: OpenPage, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path}).resolved()
    publish(settings.models_bucket, "m", "r", datacube(example_rows()))
    bucket = open_store(settings.models_bucket)
    with in_background(application(settings)) as url, open_page() as watched:
        shown = Screen(watched.page, url)
        bucket.put(f"m/r/month/yield/tiles/{FEB_2020}-5-18-15.tile", b"\xff\xff")
        shown.go(model="m", run="r", time=FEB_2020, **at(BALE, 6))
        message = shown.page.get_by_role("alert")
        assert re.search("-5-19-15.tile|-5-18-15.tile", message.inner_text()), message.inner_text()
        bucket.delete_many(["m/r/month/yield/timeseries/global/global.csv"])
        shown.page.reload()
        shown.page.wait_for_selector("#message:not([hidden])")
        assert "no such object" in message.inner_text()
        watched.errors.clear()  # Chromium itself logs answers that are no success.
