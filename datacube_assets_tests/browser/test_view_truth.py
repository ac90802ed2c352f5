"""What `datacube view` shows is true at every moment, and leads on: versions, what is missing, differences,
scales, rectangles, files. In a folder and on S3.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from datacube_assets.development.simulator_http import in_background
from datacube_assets.settings import Settings
from datacube_assets.storage.opening import open_store
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import OpenPage
from datacube_assets_tests.browser.test_view_page import BALE, KERICHO, Screen, at, on_s3, publish
from datacube_assets_tests.integration.test_s3 import use
from datacube_assets_tests.unit.kernel_helpers import FEB_2020, datacube, ms
from datacube_assets_tests.unit.test_kernel_example import rows as example_rows

if TYPE_CHECKING:
    from datacube_assets.development.s3_server import S3Server

pytestmark = pytest.mark.browser

RESULTS = "m/r/results/results.json"
CHOICE = {"model": "m", "run": "r", "time": FEB_2020, "t": "sum", "s": "sum"}


def times(factor: float) -> list[dict[str, Any]]:
    return [{**row, "value": factor * row["value"]} for row in example_rows()]


ALSO_ON_S3 = ("mixture",)
"""Parts of names of tests whose case on S3 is a quick one; others look at what the page does with answers."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "settings" in metafunc.fixturenames:
        quick = any(name in metafunc.function.__name__ for name in ALSO_ON_S3)
        on_s3 = "s3" if quick else pytest.param("s3", marks=pytest.mark.slow)
        metafunc.parametrize("settings", ["folder", on_s3], indirect=True)


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Where nothing is published yet: in a folder, and on a real S3 server."""
    if request.param == "folder":
        yield Settings.model_validate({"DATACUBE_HOME": tmp_path}).resolved()
        return
    server: S3Server = request.getfixturevalue("s3_server")
    use(monkeypatch, server.environment())
    yield on_s3(server, tmp_path, tmp_path.name)


def republish(settings: Settings, factor: float) -> None:
    """Publish another version as the pipeline does: results.json goes first and comes last."""
    bucket = open_store(settings.models_bucket, settings.s3_endpoint)
    bucket.delete_many([RESULTS])
    objects = {f"m/r/{key}": body for key, body in datacube(times(factor)).objects.items()}
    results = objects.pop(RESULTS)
    bucket.put_many(list(objects), list(objects.values()), "application/octet-stream")
    bucket.put(RESULTS, results)


def test_a_run_that_is_published_anew_is_never_a_mixture(open_page: OpenPage, settings: Settings) -> None:
    republish(settings, 1)
    bucket = open_store(settings.models_bucket, settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page() as watched:
        shown = Screen(watched.page, url)
        shown.go(**CHOICE, **at(KERICHO, 8))
        shown.click_middle()
        assert (shown.cell("s_sum_t_sum"), shown.legend()) == (["33"], ["10", "33"])
        # While it is being published, the page says so and mixes in nothing.
        bucket.delete_many([RESULTS])
        tile = f"m/r/month/yield/tiles/{FEB_2020}-7-76-64.tile"
        bucket.put(tile, datacube(times(10)).objects[tile.removeprefix("m/r/")])
        shown.page.get_by_role("button", name="Zoom out").click()
        news = shown.page.get_by_role("status")
        news.get_by_text("published anew, or was withdrawn").wait_for()
        assert shown.cell("s_sum_t_sum") == ["33"]
        republish(settings, 10)
        news.get_by_text("Everything shown is of the new version").wait_for()
        shown.settle()
        assert shown.cell("s_sum_t_sum") == ["330"]
        assert shown.legend()[1] == "330"
        # And when nobody touches the page.
        republish(settings, 2)
        shown.page.wait_for_function("() => document.querySelector('#most').textContent === '66'")
        assert shown.cell("s_sum_t_sum") in ([], ["66"]), "nothing of the version before stands beside it"
        shown.settle()
        assert shown.cell("s_sum_t_sum") == ["66"]
        watched.errors.clear()  # Chromium itself logs answers that are no success.


def test_an_unknown_run_is_said_and_comes_when_it_is_there(open_page: OpenPage, settings: Settings) -> None:
    publish(settings.models_bucket, "m", "other", datacube(example_rows()), settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page() as watched:
        page = watched.page
        page.goto(f"{url}/#model=m&run=r&feature=yield")
        page.get_by_text("m r is not among the complete datacubes").wait_for()
        assert page.url.endswith("#model=m&run=r&feature=yield"), "the address stays"
        assert page.locator("#others a").all_inner_texts() == ["m other"]
        page.get_by_role("button", name="Try again").click()
        assert page.locator("#missing").is_visible()
        republish(settings, 1)
        page.wait_for_selector("main[aria-busy=false]")
        assert page.locator("#run option:checked").inner_text() == "r"
        # Nor is another feature, or a place that is none.
        page.goto(f"{url}/#model=m&run=r&feature=none&lat=999&lng=abc&zoom=4")
        page.get_by_role("status").get_by_text("m r has no feature none: this is yield").wait_for()
        # One to compare with that is not there is no other one either.
        page.goto(f"{url}/#model=m&run=r&with_model=m&with_run=gone")
        page.get_by_text("m gone is not among").wait_for()


def test_the_tooltip_follows_what_is_chosen(open_page: OpenPage, settings: Settings) -> None:
    republish(settings, 1)
    publish(settings.models_bucket, "m", "s", datacube(times(2)), settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page() as watched:
        shown = Screen(watched.page, url)
        shown.go(**{**CHOICE, "s": "mean"}, **at(KERICHO, 8))
        tooltip = shown.page.locator("#tooltip")
        shown.map().hover()
        tooltip.get_by_text("16.5").wait_for()
        # By the keyboard, so that the pointer stays where it is.
        shown.page.locator("input[name=space]:checked").focus()
        shown.press("ArrowLeft")
        assert tooltip.inner_text() == "33"
        shown.page.locator("#slider").focus()
        shown.press("ArrowLeft")
        assert tooltip.is_hidden() or tooltip.inner_text() != "33"
        shown.go(**CHOICE, with_model="m", with_run="s", compared="difference", **at(KERICHO, 8))
        shown.map().hover()
        tooltip.get_by_text("difference").wait_for()
        assert tooltip.inner_text().split() == ["33", "66", "difference", "33"]
        shown.page.locator("#compared").select_option("beside")
        shown.settle()
        assert tooltip.is_hidden() or "difference" not in tooltip.inner_text()


def test_the_difference_of_two_runs_is_a_map(open_page: OpenPage, settings: Settings) -> None:
    republish(settings, 1)
    publish(settings.models_bucket, "m", "s", datacube(times(3)), settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page(width=1440, height=900) as watched:
        shown = Screen(watched.page, url)
        shown.go(**CHOICE, with_model="m", with_run="s", compared="difference", **at(KERICHO, 6))
        assert not shown.map(1).is_visible()
        assert shown.page.locator(".title").first.inner_text() == "s minus r"
        assert shown.legend() == ["-66", "66"], "as far to either side"
        assert all(shown.page.locator(f"#{name}").is_disabled() for name in ("scale", "palette"))
        shown.click_middle()
        assert shown.cell("s_sum_t_sum") == ["33", "99", "66"]
        with watched.page.expect_download() as download:
            shown.page.get_by_role("button", name="Map as CSV").click()
        table = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert max(float(row["s_sum_t_sum"]) for row in table) == 66.0


def test_scales_filters_and_rectangles(open_page: OpenPage, settings: Settings) -> None:
    republish(settings, 1)
    with in_background(application(settings)) as url, open_page(width=1440, height=900) as watched:
        shown = Screen(watched.page, url)
        page = shown.page
        shown.go(**CHOICE, **at(KERICHO, 6))
        everything = sum(map(len, shown.painted().values()))
        shown.select("Scale", "logarithmic")
        middle = float(page.locator("#middle").inner_text())
        assert middle == pytest.approx((10 * 33) ** 0.5, rel=1e-4)
        shown.select("Scale", "equal numbers")
        assert shown.legend() == ["10", "33"]
        page.get_by_label("From").fill("15")
        page.get_by_label("From").press("Enter")
        shown.settle()
        assert 0 < sum(map(len, shown.painted().values())) < everything
        assert shown.address["low"] == "15"
        page.get_by_role("button", name="Rectangle of this view").click()
        shown.settle()
        assert "rectangle" in shown.readout()
        # Back, step by step: without the rectangle, then without the filter.
        page.go_back()
        shown.settle()
        assert "area" not in shown.address
        page.go_back()
        shown.settle()
        assert "low" not in shown.address
        assert sum(map(len, shown.painted().values())) == everything
        with page.expect_download() as picture:
            page.get_by_role("button", name="Map as PNG").click()
        assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")
        with page.expect_download() as lines:
            page.get_by_role("button", name="Lines as CSV").click()
        assert "2020-02-01T00:00:00.000Z" in Path(lines.value.path()).read_text()


def test_qualifiers_are_layers_and_regions_have_names(open_page: OpenPage, settings: Settings) -> None:
    crops = [
        {"feature": "yield", "country": name, "lat": lat, "lng": lng, "value": value, "crop": crop}
        for name, (lat, lng) in (("Ethiopia", BALE), ("Kenya", KERICHO))
        for crop, value in (("maize", 1.0), ("teff", 5.0))
    ]
    publish(
        settings.models_bucket,
        "m",
        "r",
        datacube(crops, qualifiers={"yield": ["crop"]}),
        settings.s3_endpoint,
    )
    with in_background(application(settings)) as url, open_page(width=1440, height=900) as watched:
        shown = Screen(watched.page, url)
        shown.go(model="m", run="r")
        assert sorted(shown.page.locator(".place").all_inner_texts()) == ["Ethiopia", "Kenya"]
        shown.select("Broken down", "crop: teff")
        assert shown.painted() == {}
        assert shown.page.locator(".leaflet-circles-pane path").count() == 2
        assert shown.regions() == {"Ethiopia": "5", "Kenya": "5"}
        assert shown.readout() == "Jan 2020 5"
        shown.page.locator(".leaflet-circles-pane path").first.click()
        shown.settle()
        assert shown.address["region"] in ("Ethiopia", "Kenya")


def test_the_newest_datacube_comes_first_and_an_empty_one_says_so(
    open_page: OpenPage, settings: Settings
) -> None:
    publish(settings.models_bucket, "b", "first", datacube(example_rows()), settings.s3_endpoint)
    hollow = [{"feature": "yield", "country": "Kenya", "lat": 0.0, "lng": 37.0, "value": None}]
    publish(settings.models_bucket, "a-very-long-name-" * 9, "last", datacube(hollow), settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page(width=390, height=844) as watched:
        shown = Screen(watched.page, url)
        watched.page.goto(url)
        shown.settle()
        assert shown.page.locator("#run option:checked").inner_text() == "last"
        assert "every one is missing" in shown.page.locator(".note").first.inner_text()
        assert "every value is missing" in shown.page.locator("#series").inner_text()
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_gaps_stay_gaps_and_labels_do_not_collide(open_page: OpenPage, settings: Settings) -> None:
    months = [ms(year, month) for year in range(1990, 2020) for month in (1, 2, 7)]
    long = [
        {"feature": "yield", "country": "Kenya", "value": float(number), "timestamp": when}
        for number, when in enumerate(months)
    ]
    publish(settings.models_bucket, "m", "r", datacube(long), settings.s3_endpoint)
    with in_background(application(settings)) as url, open_page(width=1440, height=900) as watched:
        shown = Screen(watched.page, url)
        shown.go(model="m", run="r")
        path = shown.page.locator("svg.chart path").get_attribute("d")
        assert path
        # January and February are neighbours; July is nobody's.
        assert (path.count("L"), path.count("M")) == (30, 60)
        boxes = shown.page.evaluate(
            "[...document.querySelectorAll('svg.chart text[text-anchor=middle]')]"
            ".map(one => { const {left, right} = one.getBoundingClientRect(); return [left, right]; })"
        )
        assert len(boxes) > 3
        assert all(left[1] < right[0] for left, right in itertools.pairwise(boxes))


def test_a_datacube_has_a_page_with_its_dictionary_tables_and_files(
    open_page: OpenPage, settings: Settings
) -> None:
    republish(settings, 1)
    with in_background(application(settings)) as url, open_page(width=390, height=844) as watched:
        page = watched.page
        page.goto(f"{url}/datacube.html#model=m&run=r")
        page.wait_for_selector("main[aria-busy=false]")
        assert page.locator("#name").inner_text() == "m r"
        assert "yield" in page.locator("#features").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("combobox", name="Table").select_option("regions")
        page.wait_for_selector("main[aria-busy=false]")
        assert "Ethiopia" in page.locator("#rows").inner_text()
        for kind in ("CSV", "Parquet", "GeoJSON"):
            with page.expect_download() as download:
                page.get_by_role("link", name=kind, exact=True).click()
            body = Path(download.value.path()).read_bytes()
            assert body
            if kind == "GeoJSON":
                assert json.loads(body)["type"] == "FeatureCollection"
        # On the map, and back.
        page.get_by_role("link", name="On the map").click()
        page.wait_for_selector("main[aria-busy=false]")
        page.get_by_role("link", name="About this datacube").click()
        page.wait_for_selector("dl")
        page.get_by_role("link", name="What its objects are").click()
        page.get_by_role("heading", name="Objects", exact=True).first.wait_for()
