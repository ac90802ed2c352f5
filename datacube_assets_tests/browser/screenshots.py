"""Makes the pictures of the docs anew: `make screenshots`.

Each picture is an address of a page, and what is done there before it is taken. They show the sample of
`make demo`, made in a folder of its own, so that they come out the same everywhere.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from datacube_assets.cli import main as datacube
from datacube_assets.settings import Settings
from datacube_assets.stand_in import in_background
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import running_browser, watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture; the repository keeps every version of it."""


@dataclass(frozen=True)
class Picture:
    """One file in `docs/images`."""

    name: str
    choice: dict[str, str]
    """What the address of the page says."""
    act: Callable[[Page], None]
    size: tuple[int, int] = (1360, 840)


YIELDS = {"model": "toy-crop-model", "run": "rainfall-high", "feature": "yield", "time": "1588291200000"}


def _read_a_cell(page: Page) -> None:
    page.locator(".map").first.click()
    _settle(page)
    page.mouse.move(0, 0)


def _settle(page: Page) -> None:
    page.evaluate("new Promise(done => setTimeout(done))")
    page.wait_for_selector("main[aria-busy=false]")


PICTURES = (
    Picture(
        "view",
        {**YIELDS, "span": "all", "lat": "7.885", "lng": "39.199", "zoom": "6", "cells": "16"},
        _read_a_cell,
    ),
    Picture(
        "view-compare",
        {**YIELDS, "with_model": "toy-crop-model", "with_run": "rainfall-low", "level": "admin2"},
        lambda page: None,
    ),
)


@contextmanager
def sample_page() -> Iterator[str]:
    """The address of the page over the sample."""
    with tempfile.TemporaryDirectory(prefix="datacube-") as home:
        datacube(["demo", "--home", home], standalone_mode=False)
        settings = Settings.model_validate({"DATACUBE_HOME": home}).resolved()
        with in_background(application(settings)) as url:
            yield url


def main() -> str | None:
    """Make every picture; returns what is wrong, if anything is."""
    FOLDER.mkdir(exist_ok=True)
    with sample_page() as url, running_browser() as browser:
        for picture in PICTURES:
            with watched_page(browser, *picture.size) as watched:
                watched.page.goto(f"{url}/#{urlencode(picture.choice)}")
                _settle(watched.page)
                picture.act(watched.page)
                png = watched.page.screenshot()
                watched.assert_clean()
            path = FOLDER / f"{picture.name}.png"
            path.write_bytes(png)
            print(f"{path}  {len(png):,} bytes")
            if len(png) > LARGEST:
                return f"{path} is larger than {LARGEST:,} bytes"
    return None


if __name__ == "__main__":
    sys.exit(main())
