"""No serious fault in the pages of `datacube view`, as axe-core finds them, offline.

`make axe` fetches it; without it these tests skip themselves. What no program can judge (do the words make
sense, does the order) is tried by hand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datacube_assets.development.simulator_http import in_background
from datacube_assets.settings import Settings
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import OpenPage
from datacube_assets_tests.browser.test_view_page import publish
from datacube_assets_tests.unit.kernel_helpers import FEB_2020, datacube
from datacube_assets_tests.unit.test_kernel_example import rows as example_rows

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

AXE = Path(os.environ.get("DATACUBE_AXE", Path(__file__).parents[2] / "build" / "axe" / "axe.min.js"))
PAGES = {
    "map": f"#model=m&run=r&time={FEB_2020}&level=country&region=Kenya",
    "difference": f"#model=m&run=r&with_model=m&with_run=s&compared=difference&time={FEB_2020}",
    "circles": f"#model=m&run=r&layer=regions&time={FEB_2020}&area=30,-5,45,10",
    "missing": "#model=m&run=nobody",
    "datacube": "datacube.html#model=m&run=r",
    "documentation": "docs/view.md",
}


def serious_faults(page: Page) -> list[tuple[str, str, str]]:
    """What axe-core finds on a page as it is; skips the test where it is not there."""
    if not AXE.is_file():
        pytest.skip("axe-core is not there: `make axe` fetches it, or set DATACUBE_AXE")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], one["impact"], node["html"][:160])
        for one in found["violations"]
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path_factory.mktemp("home")}).resolved()
    for run_id in ("r", "s"):
        publish(settings.models_bucket, "m", run_id, datacube(example_rows()))
    with in_background(application(settings)) as url:
        yield url


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("page", PAGES)
def test_no_serious_fault_is_found(open_page: OpenPage, url: str, page: str, width: int) -> None:
    with open_page(width=width, height=900) as watched:
        watched.page.goto(f"{url}/{PAGES[page]}")
        if page == "missing":
            watched.page.get_by_text("is not among the complete datacubes").wait_for()
        elif page != "documentation":
            watched.page.wait_for_selector("main[aria-busy=false]")
        assert serious_faults(watched.page) == []
