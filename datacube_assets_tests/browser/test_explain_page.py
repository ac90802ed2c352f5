"""From a number on the map to the rows that made it, in a browser: links, the page, its paging, its address.

The run is published for real, with a lake; its rows are more than a page holds, some do not count, and its
names are hostile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx
import pyarrow as pa
import pytest

from datacube_assets.development.simulator_http import in_background
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import OpenPage
from datacube_assets_tests.browser.test_accessibility import serious_faults
from datacube_assets_tests.integration.support import DAY, JANUARY, House, open_house
from datacube_assets_tests.integration.test_explain import LATE
from datacube_assets_tests.integration.test_s3 import use
from datacube_assets_tests.integration.versions import upload

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from datacube_assets.development.s3_server import S3Server

pytestmark = pytest.mark.browser

FEATURE = """rain "q" <img src=x onerror=alert(1)> 100%"""
REGION = '<i>Kenya</i> & "é"'
NUMBER = 120
"""Rows that count, each with the value 1."""


@dataclass(frozen=True)
class Site:
    url: str
    house: House


@pytest.fixture(scope="module", params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    times = [JANUARY + number % 20 * DAY for number in range(NUMBER)]
    table = pa.table(
        {
            "timestamp": [*times, LATE, JANUARY],
            "country": [REGION] * (NUMBER + 2),
            "lat": [7.0] * (NUMBER + 2),
            "lng": [40.0] * (NUMBER + 2),
            "feature": [FEATURE] * (NUMBER + 2),
            "value": [*([1.0] * NUMBER), 5.0, None],
            "crop": ["maize", "beans"] * (NUMBER // 2 + 1),
        }
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open_house(Path(folder)) as house,
        pytest.MonkeyPatch.context() as patch,
    ):
        house.publish(table, qualifier_map={FEATURE: ["crop"]})
        settings = house.settings
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            use(patch, server.environment())
            settings = upload(house, server, "explain-page")
        with in_background(application(settings)) as url:
            yield Site(url, house)


def settled(page: Page) -> None:
    page.evaluate("new Promise(done => setTimeout(done))")
    page.wait_for_selector("main[aria-busy=false]")


def told(page: Page) -> str:
    settled(page)
    return page.locator("main").inner_text()


def test_a_region_on_the_map_leads_to_its_rows_page_by_page(site: Site, open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    with open_page() as watched:
        page = watched.page
        place = {"level": "country", "region": REGION, "t": "sum", "s": "sum"}
        page.goto(f"{site.url}/#{urlencode({'model': 'model', 'run': 'run', **place})}")
        settled(page)
        page.locator("#series").get_by_role("link", name="Where does this number come from?").click()
        page.wait_for_url("**/explain.html*")
        text = told(page)
        assert f"s_sum_t_sum = {NUMBER}" in text
        assert REGION in text
        assert FEATURE in text
        assert f"{NUMBER} count, 2 do not (1: timestamp out of range; 1: value is missing)" in text
        assert "1 to 50 of 122" in text
        assert page.locator("#rows tbody tr").count() == 50
        page.get_by_role("button", name="Last").click()
        expect(page.locator("#where")).to_have_text("101 to 122 of 122")
        assert "101 to 122 of 122" in told(page)
        assert page.locator("#rows tbody tr").count() == 22
        assert "value is missing" in page.locator("#rows").inner_text()
        # The address is all that it takes to see the same.
        address = page.url
        page.goto("about:blank")
        page.goto(address)
        assert "101 to 122 of 122" in told(page)


def test_a_bin_of_the_map_leads_to_its_rows(site: Site, open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    with open_page() as watched:
        page = watched.page
        place = {"lat": "7.0", "lng": "40.0", "zoom": "6", "t": "sum", "s": "sum"}
        page.goto(f"{site.url}/#{urlencode({'model': 'model', 'run': 'run', **place})}")
        settled(page)
        page.locator(".map").first.click()
        settled(page)
        page.locator("#cell").get_by_role("link", name="Where does this number come from?").click()
        page.wait_for_url("**/explain.html*bin*")
        text = told(page)
        assert f"s_sum_t_sum = {NUMBER}" in text
        assert "datacube explain model:run --feature" in text
        page.get_by_role("combobox", name="Figure").select_option("s_count")
        expect(page.locator("#number")).to_contain_text("s_count")
        assert "s_count = 2" in told(page)


def test_what_is_not_there_is_told(site: Site, open_page: OpenPage) -> None:
    words = {"model": "model", "run": "run", "feature": "snow", "time": "2020-01"}
    # A refusal is an error in the console of a browser.
    answer = httpx.get(f"{site.url}/api/explain", params={"model_id": "model", "run_id": "run", **words})
    assert answer.status_code == 404
    assert "snow" in answer.json()["detail"]
    assert FEATURE in answer.json()["detail"]


@pytest.mark.parametrize(
    ("odd", "status"),
    [
        ({"time": "soon"}, 400),
        ({"bin": "1", "z": "9", "x": "0", "y": "0"}, 400),
        ({"bin": "4096", "z": "0", "x": "0", "y": "0"}, 400),
        ({"region": "x"}, 404),
        ({"region": "Kenya", "bin": "1", "z": "0", "x": "0", "y": "0"}, 400),
        ({"qualifier": "crop"}, 400),
        ({"qualifier": "nothing", "value": "x"}, 404),
        ({"figure": "s_wavg_t_sum"}, 404),
        ({"figure": "rm -rf"}, 400),
        ({"limit": "201"}, 400),
        ({"offset": "-1"}, 400),
        ({"feature": ""}, 404),
        ({"run_id": "../../x"}, 400),
        ({"run_id": "nobody"}, 404),
    ],
)
def test_what_cannot_be_asked_is_refused(site: Site, odd: dict[str, str], status: int) -> None:
    asked = {"model_id": "model", "run_id": "run", "feature": FEATURE, "time": "2020-01", **odd}
    answer = httpx.get(f"{site.url}/api/explain", params=asked)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_pages_are_all_rows_once(site: Site) -> None:
    asked = {"model_id": "model", "run_id": "run", "feature": FEATURE, "time": "2020", "limit": "50"}
    found = []
    for offset in range(0, 200, 50):
        answer = httpx.get(f"{site.url}/api/explain", params={**asked, "offset": str(offset)}).json()
        assert answer["total"] == NUMBER + 2
        found += [row["row"] for row in answer["rows"]]
    assert found == list(range(NUMBER + 2))


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_has_no_serious_fault_for_readers_of_screens(
    site: Site, open_page: OpenPage, width: int
) -> None:
    words = {"model": "model", "run": "run", "feature": FEATURE, "time": "2020-01"}
    with open_page(width=width, height=900) as watched:
        watched.page.goto(f"{site.url}/explain.html#{urlencode(words)}")
        watched.page.wait_for_selector("main[aria-busy=false]")
        assert serious_faults(watched.page) == []
