"""The versions of a datacube on its page, as a person reads them."""

from __future__ import annotations

from pathlib import Path

from datacube_assets.development.simulator_http import in_background
from datacube_assets.settings import Settings
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import OpenPage
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set


def test_the_page_of_a_datacube_lists_its_versions_and_says_which_is_published(
    open_page: OpenPage, tmp_path: Path
) -> None:
    place = Place(tmp_path / "home")
    with nothing_set():
        assert place.publish().exit_code == 0
        assert place.publish(value=[1.0, 2.0, 30.0, 4.0]).exit_code == 0
        assert place.run("rollback", KEY, "--yes").exit_code == 0
    settings = Settings.model_validate({"DATACUBE_HOME": place.home}).resolved()
    with in_background(application(settings)) as url, open_page(width=1360, height=840) as watched:
        page = watched.page
        page.goto(f"{url}/datacube.html#model=toy&run=one")
        page.wait_for_selector("main[aria-busy=false]")
        lines = [line.inner_text() for line in page.locator("#versions tr").all()]
        assert len(lines) == 4
        assert "published, back to version 1" in lines[1]
        assert "replaced" in lines[2]
        assert "figures changed" in lines[1]
        assert "kept" in lines[3]
        assert "3, " in page.locator("#facts").inner_text()
        assert "datacube rollback" in page.locator("#next").inner_text()
        page.locator("#versions").scroll_into_view_if_needed()
        page.screenshot(path=str(tmp_path / "versions.png"))
