"""Makes the pictures of the docs anew: `make screenshots`, or some: `make screenshots ARGS="ui-runs view"`.

Each picture is what is done on a page before it is taken. They show the sample, made in a folder of its own:
on the page of `datacube view` as `make demo` leaves it, in the Dagster UI as `make dev` processes it.
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

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import expect
from starlette.responses import HTMLResponse

from datacube_assets.cli import main as datacube
from datacube_assets.development.dev import UNFINISHED, write_unfinished_sample
from datacube_assets.development.sample import (
    SAMPLE_DATASET,
    SAMPLE_MODEL,
    SAMPLE_PARTITIONS,
    write_sample_requests,
)
from datacube_assets.development.simulator_http import in_background
from datacube_assets.settings import Settings
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import running_browser, watched_page
from datacube_assets_tests.browser.dagster_ui import GROUPS, DagsterUI
from datacube_assets_tests.integration.system import system, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture; the repository keeps every version of it."""


@dataclass(frozen=True)
class Picture:
    """One file in `docs/images`."""

    name: str
    act: Callable[[Page, str], None]
    """Opens a page of the server at an address, and does there what is to be seen."""
    size: tuple[int, int]


# --- the page of `datacube view` -------------------------------------------------------------------

YIELDS = {"model": "toy-crop-model", "run": "rainfall-high", "feature": "yield", "time": "1588291200000"}


def _map(page: Page, url: str, **choice: str) -> None:
    page.goto(f"{url}/#{urlencode(YIELDS | choice)}")
    _settle(page)


def _settle(page: Page) -> None:
    page.evaluate("new Promise(done => setTimeout(done))")
    page.wait_for_selector("main[aria-busy=false]")


def _read_a_cell(page: Page, url: str) -> None:
    _map(page, url, span="all", lat="7.885", lng="39.199", zoom="6", cells="16")
    page.locator(".map").first.click()
    _settle(page)
    page.mouse.move(0, 0)


def _compare(page: Page, url: str) -> None:
    _map(page, url, with_model="toy-crop-model", with_run="rainfall-low", level="admin2")


def _explain(page: Page, url: str) -> None:
    asked = {"model": "toy-crop-model", "run": "rainfall-high", "feature": "yield", "time": "2020-05"}
    place = {"level": "admin2", "region": "Kenya__Nakuru__Naivasha", "figure": "s_mean_t_mean"}
    page.goto(f"{url}/explain.html#{urlencode(asked | place)}")
    _settle(page)


ON_THE_MAP = (
    Picture("explain", _explain, (900, 760)),
    Picture("view", _read_a_cell, (1360, 840)),
    Picture("view-compare", _compare, (1360, 840)),
)


@contextmanager
def published_sample() -> Iterator[str]:
    """The address of the page over the sample."""
    with tempfile.TemporaryDirectory(prefix="datacube-") as home:
        datacube(["demo", "--home", home], standalone_mode=False)
        settings = Settings.model_validate({"DATACUBE_HOME": home}).resolved()
        with in_background(application(settings)) as url:
            yield url


def _changed(page: Page, url: str) -> None:
    page.goto(f"{url}/datacube.html#{urlencode({'model': SAMPLE_MODEL, 'run': 'rainfall-low'})}")
    _settle(page)
    page.get_by_role("link", name="show what changed in version 2").click()
    page.wait_for_url("**/#model*")
    _settle(page)
    page.get_by_role("combobox", name="Cells").select_option("16")
    page.get_by_role("combobox", name="Level").select_option("admin1")
    _settle(page)
    page.locator("#regions").get_by_role("button").first.click()
    _settle(page)
    page.locator("#panel").evaluate("one => one.scrollTo(0, 0)")
    page.mouse.move(0, 0)


OF_VERSIONS = (Picture("history", _changed, (1240, 800)),)


@contextmanager
def changed_sample() -> Iterator[str]:
    """The address of the page over the sample, of which a run was executed again with a mistake."""
    with tempfile.TemporaryDirectory(prefix="datacube-") as home:
        datacube(["demo", "--home", home], standalone_mode=False)
        parts = sorted(Path(home, "sample", "files").glob(f"rainfall-high_{SAMPLE_MODEL}.*.parquet.gzip"))
        named = ["--model-id", SAMPLE_MODEL, "--run-id", "rainfall-low", "--home", home]
        broken_down = ["--qualifier-map", '{"yield": ["crop"]}', "--quiet"]
        datacube(["publish", *map(str, parts), *named, *broken_down], standalone_mode=False)
        settings = Settings.model_validate({"DATACUBE_HOME": home}).resolved()
        with in_background(application(settings)) as url:
            yield url


# --- the page of `datacube check` ------------------------------------------------------------------


def _report(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("heading", name="Map").scroll_into_view_if_needed()
    page.get_by_role("heading", name="Objects").scroll_into_view_if_needed()


OF_A_CHECK = (Picture("check", _report, (1100, 1100)),)


@contextmanager
def checked_sample() -> Iterator[str]:
    """The address of the report about a file of the sample, in which a name has two spellings."""
    with tempfile.TemporaryDirectory(prefix="datacube-") as home:
        requests = write_sample_requests(Path(home))
        part = Path(home, "crops.parquet.gzip")
        table = pq.read_table(requests[0].data_paths[0])
        names = [
            "KENYA" if number % 97 == 0 else text for number, text in enumerate(table["country"].to_pylist())
        ]
        pq.write_table(
            table.set_column(table.column_names.index("country"), "country", pa.array(names)), part
        )
        report = Path(home, "report.html")
        datacube(["check", str(part), "--html", str(report), "--home", home], standalone_mode=False)
        with in_background(HTMLResponse(report.read_text())) as url:
            yield url


# --- the Dagster UI --------------------------------------------------------------------------------


def _opened(page: Page, url: str) -> DagsterUI:
    ui = DagsterUI(page, url)
    ui.open()
    return ui


def _lineage(page: Page, url: str) -> None:
    ui = _opened(page, url)
    ui.lineage()
    page.get_by_text("Hide navigation").click()
    page.keyboard.press("Alt+e")
    expect(ui.boxes()).not_to_have_count(len(GROUPS))
    # Opened anew, the graph is in the middle, as wide as the window; what is outside of it is not drawn.
    page.reload()
    expect(ui.box("temporal_cells").locator("[style*=green]")).to_be_visible()


def _asset(page: Page, url: str) -> None:
    ui = _opened(page, url)
    ui.asset("normalized_points")
    ui.partition(f"{SAMPLE_MODEL}:{UNFINISHED}")


def _picture(page: Page, url: str) -> None:
    _asset(page, url)
    expect(DagsterUI(page, url).picture()).to_be_visible()


def _checks(page: Page, url: str) -> None:
    ui = _opened(page, url)
    ui.asset("normalized_points")
    ui.tab("Checks")
    ui.line("rows_are_usable").click()
    expect(page.get_by_text("Evaluation result")).to_be_visible()


def _backfill(page: Page, url: str) -> None:
    ui = _opened(page, url)
    ui.runs("Backfills")
    ui.line("Backfill").get_by_role("link").first.click()
    expect(ui.line("pipeline_results")).to_contain_text("100% completed")


def _runs(page: Page, url: str) -> None:
    ui = _opened(page, url)
    ui.runs()
    expect(ui.line(SAMPLE_DATASET)).to_be_visible()


IN_DAGSTER = (
    Picture("ui-lineage", _lineage, (1240, 840)),
    Picture("ui-asset", _asset, (1280, 1000)),
    Picture("ui-picture", _picture, (1280, 800)),
    Picture("ui-checks", _checks, (1280, 800)),
    Picture("ui-backfill", _backfill, (1280, 800)),
    Picture("ui-runs", _runs, (1280, 800)),
)


@contextmanager
def processed_sample(browser: Browser) -> Iterator[str]:
    """The address of a Dagster UI in which the sample went the whole way, and then through a backfill."""
    with (
        tempfile.TemporaryDirectory(prefix="datacube-") as folder,
        system(Path(folder), DATACUBE_PICTURES="yes") as whole,
    ):
        whole.dojo.down()
        write_unfinished_sample(whole.dojo.folder)
        whole.dojo.up()
        whole.start_webserver()
        whole.start_daemon()
        httpx.post(f"{whole.dojo.url}/simulator/runs/{UNFINISHED}/finish").raise_for_status()
        wait_for(lambda: all(map(whole.published, SAMPLE_PARTITIONS)) and whole.settled(), "the sample", 300)
        runs = len(whole.runs()) + len(SAMPLE_PARTITIONS)
        with watched_page(browser) as watched:
            _opened(watched.page, whole.webserver_url).launch_backfill()
        wait_for(lambda: len(whole.runs()) == runs and whole.settled(), "the backfill", 300)
        yield whole.webserver_url


# ---------------------------------------------------------------------------------------------------


def main() -> str | None:
    """Make the pictures of these names, or all; returns what is wrong, if anything is."""
    FOLDER.mkdir(exist_ok=True)
    wanted = set(sys.argv[1:]) or {
        picture.name for picture in (*ON_THE_MAP, *OF_VERSIONS, *OF_A_CHECK, *IN_DAGSTER)
    }
    with running_browser() as browser:
        for pictures, opened in (
            (ON_THE_MAP, published_sample()),
            (OF_VERSIONS, changed_sample()),
            (OF_A_CHECK, checked_sample()),
            (IN_DAGSTER, processed_sample(browser)),
        ):
            chosen = [picture for picture in pictures if picture.name in wanted]
            if chosen:
                with opened as url:
                    for picture in chosen:
                        path = _take(browser, picture, url)
                        if path.stat().st_size > LARGEST:
                            return f"{path} is larger than {LARGEST:,} bytes"
    return None


def _take(browser: Browser, picture: Picture, url: str) -> Path:
    with watched_page(browser, *picture.size) as watched:
        picture.act(watched.page, url)
        png = watched.page.screenshot(animations="disabled")
        watched.assert_clean()
    path = FOLDER / f"{picture.name}.png"
    path.write_bytes(png)
    print(f"{path}  {len(png):,} bytes", flush=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
