"""The controls of the map with the keyboard alone: where the focus goes, is seen, and comes back.

The pointer is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from datacube_assets.development.simulator_http import in_background
from datacube_assets.settings import Settings
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import FOCUS_IS_SEEN, Watched, watched_page
from datacube_assets_tests.browser.test_view_page import KERICHO, Screen, at, publish
from datacube_assets_tests.unit.kernel_helpers import FEB_2020, datacube
from datacube_assets_tests.unit.test_kernel_example import rows as example_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHOICE = {"model": "m", "run": "r", "time": FEB_2020, "t": "sum", "s": "sum", **at(KERICHO, 6)}
FOCUS = (
    "(({id, className, textContent}) => id || (className + ' ' + textContent).trim())(document.activeElement)"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[tuple[Watched, Screen]]:
    settings = Settings.model_validate({"DATACUBE_HOME": tmp_path_factory.mktemp("home")}).resolved()
    publish(settings.models_bucket, "m", "r", datacube(example_rows()))
    with (
        in_background(application(settings)) as url,
        watched_page(browser, width=1440, height=900) as watched,
    ):
        yield watched, Screen(watched.page, url)


@pytest.fixture
def shown(opened: tuple[Watched, Screen]) -> Iterator[Screen]:
    watched, screen = opened
    screen.go(**CHOICE)
    yield screen
    watched.assert_clean()


def focus(shown: Screen) -> str:
    """What has the focus, which has to be seen."""
    assert shown.page.evaluate(FOCUS_IS_SEEN), shown.page.evaluate(FOCUS)
    name: str = shown.page.evaluate(FOCUS)
    return name


def tab_to(shown: Screen, name: str, most: int = 60) -> None:
    for _ in range(most):
        shown.page.keyboard.press("Tab")
        if shown.page.evaluate(FOCUS).startswith(name):
            assert focus(shown).startswith(name)
            return
    pytest.fail(f"Tab does not come to {name}")


def test_the_order_of_the_controls_is_that_in_which_they_are_read(shown: Screen) -> None:
    seen = []
    for _ in range(45):
        shown.page.keyboard.press("Tab")
        if shown.page.evaluate("document.activeElement === document.body"):
            break
        # What is hidden until it has the focus, as the radio buttons, shows it at its label.
        seen.append(shown.page.evaluate(FOCUS))
    controls = (
        "model run other feature earlier slider play span scale palette cells layer low high names draw view "
        "picture values lines level find"
    )
    order = controls.split()
    assert [name for name in seen if name in order] == order


def test_a_rectangle_is_drawn_moved_away_from_and_taken_back(shown: Screen) -> None:
    page = shown.page
    tab_to(shown, "draw")
    shown.press("Enter")
    assert page.evaluate("document.activeElement.className").startswith("map")
    assert "Enter sets the first corner" in page.locator("#news").inner_text()
    # Escape ends it, and the focus is where it was.
    shown.press("Escape")
    assert focus(shown) == "draw"
    assert "area" not in shown.address
    assert page.locator("#draw").inner_text() == "Draw a rectangle"
    shown.press("Space", "Enter")
    assert "other corner" in page.locator("#news").inner_text()
    shown.press(*["ArrowRight"] * 3, *["ArrowDown"] * 2)
    page.wait_for_function("document.querySelector('path.area') !== null")
    assert shown.cell("s_sum_t_sum") == [], "the corner is no choice of a cell"
    shown.press("Enter")
    assert focus(shown) == "draw"
    west, south, east, north = map(float, shown.address["area"].split(","))
    assert west < east
    assert south < north
    assert "rectangle" in shown.readout()
    # Taken back by its own button, which goes away.
    tab_to(shown, "undraw")
    shown.press("Enter")
    assert "area" not in shown.address
    assert focus(shown) == "draw"
    # The rectangle of what is in sight, and away by the line that it has.
    tab_to(shown, "view")
    shown.press("Space")
    assert "area" in shown.address
    assert focus(shown) == "view"
    tab_to(shown, "chip rectangle")
    shown.press("Enter")
    assert "area" not in shown.address
    assert focus(shown).startswith(("draw", "series"))


def test_values_are_filtered_and_what_was_typed_can_be_left(shown: Screen) -> None:
    page = shown.page
    everything = sum(map(len, shown.painted().values()))
    tab_to(shown, "low")
    page.keyboard.type("15")
    shown.press("Enter")
    assert shown.address["low"] == "15"
    assert focus(shown) == "low"
    assert 0 < sum(map(len, shown.painted().values())) < everything
    page.keyboard.type("0")
    shown.press("Escape")
    assert page.locator("#low").input_value() == "15"
    shown.press("ControlOrMeta+a", "Delete", "Enter")
    assert "low" not in shown.address
    assert sum(map(len, shown.painted().values())) == everything


def test_a_region_that_is_chosen_keeps_the_focus(shown: Screen) -> None:
    tab_to(shown, "region")
    first = focus(shown)
    shown.press("Enter")
    assert focus(shown) == first
    assert shown.page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    shown.press("Tab", "Space")
    second = focus(shown)
    assert second != first
    assert shown.page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    # A line that is kept: its button cannot be pressed again, and is left.
    shown.page.locator("#keep").focus()
    shown.press("Enter")
    assert "keep" in shown.address
    assert shown.page.evaluate("document.activeElement.id") == "lines"


def test_the_buttons_of_time_pass_the_focus_on_at_the_ends(shown: Screen) -> None:
    shown.page.locator("#earlier").focus()
    while not shown.page.locator("#earlier").is_disabled():
        shown.press("Enter")
    assert shown.page.evaluate("document.activeElement.id") == "slider"


def test_a_number_is_explained_and_paged(shown: Screen) -> None:
    page = shown.page
    shown.map().focus()
    shown.press("Enter")
    assert shown.cell("s_sum_t_sum") == ["33"]
    tab_to(shown, "Where does this number come from?")
    assert page.evaluate("document.activeElement.closest('#cell') !== null")
    href = page.evaluate("document.activeElement.getAttribute('href')")
    assert "bin=" in href
