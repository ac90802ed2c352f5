"""Versions of a datacube as a person sees them: listed on its page, and on the map before, after and as what
changed. In a folder and on a real S3 server; with the pointer, and with the keyboard alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import FOCUS_IS_SEEN, OpenPage, Watched, watched_page
from datacube_assets_tests.browser.test_accessibility import serious_faults
from datacube_assets_tests.browser.test_view_page import Screen, at
from datacube_assets_tests.integration.support import FEBRUARY, House
from datacube_assets_tests.integration.test_s3 import use
from datacube_assets_tests.integration.versions import (
    AFTER,
    BEFORE,
    FEATURE,
    GONE,
    publish,
    three_versions,
    upload,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

NAIROBI = (-1.25, 36.75)
HERE = {"model": "model", "run": "run"}
WITH = {"with_model": "model", "with_run": "run"}
AT = {"feature": FEATURE, "time": FEBRUARY, "t": "sum", "s": "sum"}


@dataclass
class Shown:
    """The page over the versions, in one window that tests share."""

    watched: Watched
    screen: Screen
    house: House
    site: Site
    kind: str


@pytest.fixture(scope="module", params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> Iterator[Shown]:
    site = Site()
    with (
        three_versions(tmp_path_factory.mktemp("house") / "home") as house,
        pytest.MonkeyPatch.context() as patch,
        in_background(site) as site.url,
        watched_page(browser, width=1440, height=900) as watched,
    ):
        settings = house.settings
        if request.param == "s3":
            server: S3Server = request.getfixturevalue("s3_server")
            use(patch, server.environment())
            settings = upload(house, server, "versions-page")
        site.app = application(settings)
        yield Shown(watched, Screen(watched.page, site.url), house, site, request.param)


@pytest.fixture
def shown(opened: Shown) -> Iterator[Screen]:
    yield opened.screen
    opened.watched.assert_clean()


def test_the_page_of_a_datacube_leads_to_what_changed_on_the_map_and_back(shown: Screen) -> None:
    page = shown.page
    page.goto(f"{shown.url}/datacube.html#{urlencode(HERE)}")
    page.wait_for_selector("main[aria-busy=false]")
    lines = [line.inner_text() for line in page.locator("#versions tr").all()]
    assert len(lines) == 4
    assert "published" in lines[1]
    assert "figures changed" in lines[1]
    assert "replaced" in lines[2]
    assert "gone" in lines[3]
    assert "3, " in page.locator("#facts").inner_text()
    # The first version has no tables, so that nothing can be shown of it, nor of what the second changed.
    assert page.locator("#versions a").all_inner_texts() == ["show", "show what changed", "show"]
    page.get_by_role("link", name=f"show what changed in version {AFTER}").click()
    page.wait_for_url("**/#model*")
    shown.settle()
    words = {"version": str(BEFORE), "with_version": str(AFTER), "compared": "difference", "feature": FEATURE}
    assert {name: shown.address[name] for name in words} == words
    # Where most changed.
    assert shown.address["time"] == str(FEBRUARY)
    assert page.locator(".title").first.inner_text() == "version 3 minus version 2"
    shown.choose("Over time: Sum")
    shown.choose("Over space: Sum")
    assert shown.legend() == ["-27", "27"]
    for _ in range(3):
        page.go_back()
        shown.settle()
    assert page.locator("#versions").count() == 1


def test_before_after_and_difference_have_the_numbers_of_their_versions(shown: Screen) -> None:
    page = shown.page
    both = {**HERE, "version": BEFORE, **WITH, "with_version": AFTER, **AT}
    shown.go(**both, **at(NAIROBI, 6))
    titles = [" ".join(one.split()) for one in page.locator(".title").all_inner_texts()]
    assert titles == ["run version 2", "run version 3"]
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["3", "30"]
    shown.select("Level", "admin1")
    assert shown.regions() == {"Nairobi": "3\n30", "Oromia": "4\n4"}
    shown.select("Compared", "as difference")
    assert shown.cell("s_sum_t_sum") == ["3", "30", "27"]
    # What did not change is no difference at all, not a small one.
    assert shown.legend() == ["-27", "27"]
    shown.select("Show", "regions as circles")
    colours = page.locator(".leaflet-circles-pane path").evaluate_all(
        "all => all.map(one => one.getAttribute('fill'))"
    )
    assert len(colours) == len(set(colours)) == 2
    # Each figure leads to the rows of its own version.
    page.get_by_role("link", name="Where does this number come from? (version 2)").first.click()
    page.wait_for_url("**/explain.html*")
    shown.settle()
    assert "model run version 2" in page.locator("#what").inner_text()
    assert "datacube explain model:run@2 " in page.locator("#command").inner_text()
    page.get_by_role("link", name="On the map").click()
    shown.settle()
    assert shown.address["version"] == str(BEFORE)


def test_the_map_compares_with_a_version_and_tells_the_later_minus_the_earlier(shown: Screen) -> None:
    page = shown.page
    shown.go(**HERE, **AT, **at(NAIROBI, 6))
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["30"]
    options = page.locator("#other option")
    told = [one for one in options.all_inner_texts() if one.startswith("version")]
    assert [one.split(",")[0] for one in told] == ["version 3", "version 2", "version 1"]
    assert told[2].endswith("its tables are gone")
    assert page.locator("#other option:disabled").all_inner_texts() == [told[2]]
    shown.select("Compare with", told[1])
    shown.select("Compared", "as difference")
    assert page.locator(".title").first.inner_text() == "published minus version 2"
    assert shown.cell("s_sum_t_sum") == ["3", "30", "27"]
    assert (shown.address["with_version"], "version" in shown.address) == (str(BEFORE), False)
    # The other way round it is the same difference.
    address = page.url
    shown.go(**HERE, version=BEFORE, **WITH, compared="difference", **AT, **at(NAIROBI, 6))
    assert page.locator(".title").first.inner_text() == "published minus version 2"
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["3", "30", "27"]
    # The address is all it takes; Back and Forward go through the choices.
    page.goto("about:blank")
    page.goto(address)
    shown.settle()
    assert page.locator(".title").first.inner_text() == "published minus version 2"
    shown.select("Compare with", "nothing")
    assert "with_version" not in shown.address
    page.go_back()
    shown.settle()
    assert shown.address["with_version"] == str(BEFORE)
    # One version alone says which it is.
    shown.select("Compare with", "nothing")
    shown.select("Version", told[1].removeprefix("version "))
    assert shown.address["version"] == str(BEFORE)
    assert page.locator(".title").first.inner_text().strip() == "model run version 2"
    shown.click_middle()
    assert shown.cell("s_sum_t_sum") == ["3"]
    shown.select("Version", "the published one")
    assert shown.cell("s_sum_t_sum") == ["30"]


def test_versions_are_compared_with_the_keyboard_alone(shown: Screen) -> None:
    page = shown.page
    page.goto(f"{shown.url}/datacube.html#{urlencode(HERE)}")
    page.wait_for_selector("main[aria-busy=false]")
    link = page.get_by_role("link", name=f"show what changed in version {AFTER}")
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("one => one === document.activeElement"):
            break
    assert page.evaluate(FOCUS_IS_SEEN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/#model*")
    shown.settle()
    assert page.locator(".title").first.inner_text() == "version 3 minus version 2"
    # By Tab to the choice of the version; the arrows choose.
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        if seen[-1] == "version":
            break
    assert seen[-3:] == ["model", "run", "version"]
    assert page.evaluate(FOCUS_IS_SEEN)
    shown.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "version", "the focus stays"
    assert shown.address["version"] == str(AFTER)
    shown.press("Tab", "ArrowDown")
    assert page.evaluate("document.activeElement.id") == "other"


@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.slow)])
def test_no_serious_fault_for_readers_of_screens(opened: Shown, open_page: OpenPage, width: int) -> None:
    both = {**HERE, "version": BEFORE, **WITH, "with_version": AFTER, "compared": "difference", **AT}
    with open_page(width=width, height=900) as watched:
        for address in (f"#{urlencode(both)}", f"datacube.html#{urlencode(HERE)}"):
            watched.page.goto(f"{opened.site.url}/{address}")
            watched.page.wait_for_selector("main[aria-busy=false]")
            assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
            assert serious_faults(watched.page) == []


def test_a_version_without_tables_is_said_and_others_are_offered(opened: Shown) -> None:
    shown, page = opened.screen, opened.screen.page
    page.goto(f"{shown.url}/#{urlencode({**HERE, 'version': GONE})}")
    page.get_by_role("heading", name="This version is not here").wait_for()
    assert "version 1 keeps no tables any more. Of 2, 3 there are tables" in page.locator("#why").inner_text()
    assert page.url.endswith(f"version={GONE}"), "the address stays"
    assert page.locator("#others a").all_inner_texts() == [
        "model run",
        "model run version 3",
        "model run version 2",
    ]
    page.get_by_role("link", name="model run version 2").click()
    shown.settle()
    assert shown.address["version"] == str(BEFORE)
    page.go_back()
    page.get_by_role("heading", name="This version is not here").wait_for()
    # Chromium itself logs answers that are no success.
    opened.watched.errors.clear()


def test_a_version_that_goes_while_it_is_shown_is_said(opened: Shown) -> None:
    """The last test: it publishes once more."""
    shown, page = opened.screen, opened.screen.page
    if opened.kind != "folder":
        pytest.skip("what is on the server is a copy")
    shown.go(**HERE, version=BEFORE, **WITH, compared="difference", **AT, **at(NAIROBI, 6))
    publish(opened.house, [2.0, 2.0, 3.0, 4.0])
    page.get_by_role("heading", name="This version is not here").wait_for()
    assert "version 2" in page.locator("#why").inner_text()
    opened.watched.errors.clear()
