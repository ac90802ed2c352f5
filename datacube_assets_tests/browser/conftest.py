"""A headless Chromium for tests that look at pages as a person does.

Here belong finding and starting it, and pages that notice what a person might not: errors in the console, and
requests to anywhere but this machine. `make browser` installs Chromium where Debian's packages can be had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""A browser that runs as root in a container, draws without a graphics card, and calls nobody by itself."""
PATIENCE = 60_000
"""Milliseconds that anything on a page may take: many times what it takes, as machines are shared."""

FOCUS_IS_SEEN = """(() => {
  const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
  const isSeen = outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
  return isSeen && document.activeElement.matches(':focus-visible');
})()"""
"""Whether a person sees what has the focus, for a page to tell."""


def chromium() -> str | None:
    """Path of a Chromium: that of DATACUBE_CHROMIUM, or the first that is installed."""
    return os.environ.get("DATACUBE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A headless browser with a profile of its own. Raises LookupError when none is installed."""
    from playwright.sync_api import expect, sync_playwright

    path = chromium()
    if path is None:
        raise LookupError("no Chromium is installed: `make browser` installs it, or set DATACUBE_CHROMIUM")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless browser that tests share; each opens pages of its own. Skips where none is installed.

    It ends with the tests of this package: while it runs, nothing else can use asyncio in the main thread.
    """
    pytest.importorskip("playwright", reason="playwright is not installed: it comes with the extra `dev`")
    if chromium() is None:
        pytest.skip("no Chromium is installed: `make browser` installs it, or set DATACUBE_CHROMIUM")
    with running_browser() as started:
        yield started


@dataclass
class Watched:
    """A page, and what went wrong in it so far."""

    page: Page
    outside: list[str] = field(default_factory=list)
    """Addresses on other machines that it asked for; none was let through."""
    errors: list[str] = field(default_factory=list)
    """Uncaught errors, and errors in the console such as refusals by the content security policy."""
    dialogs: list[str] = field(default_factory=list)

    def assert_clean(self) -> None:
        assert (self.outside, self.errors, self.dialogs) == ([], [], [])


OpenPage = Callable[..., AbstractContextManager[Watched]]


@contextmanager
def watched_page(browser: Browser, width: int = 1280, height: int = 800) -> Iterator[Watched]:
    """A page in a fresh profile that can reach this machine only; the caller looks at what went wrong."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        locale="en-GB",
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    watched = Watched(page)

    def is_outside(url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob", "about") and parts.hostname not in (
            "127.0.0.1",
            "localhost",
        )

    context.on("request", lambda asked: watched.outside.append(asked.url) if is_outside(asked.url) else None)
    context.route(is_outside, lambda route: route.abort())
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)

    def dismiss(dialog: Dialog) -> None:
        watched.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    try:
        yield watched
    finally:
        context.close()


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """Opens a page that is clean to the end: no error, no request to another machine, no dialog."""

    @contextmanager
    def opened(width: int = 1280, height: int = 800) -> Iterator[Watched]:
        with watched_page(browser, width, height) as watched:
            yield watched
            watched.assert_clean()

    return opened
