"""The Dagster UI in a browser: the tour (docs/tour.md), click by click.

Daemon, webserver and the simulators of Dojo and CauseMos are processes of their own, as under `make dev`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.jobs import ASSETS
from datacube_assets.storage.requests import leave_request
from datacube_assets.view.server import application
from datacube_assets_tests.browser.conftest import Watched, watched_page
from datacube_assets_tests.browser.dagster_ui import GROUPS, DagsterUI
from datacube_assets_tests.integration.support import rows
from datacube_assets_tests.integration.system import MODEL, System, run_document, system, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS = [f"{MODEL}:filled-{number}" for number in range(5)]
"""What is there when the daemon starts, each with four rows, one of which has no feature."""
LATE = "finished-late"
"""A run that is still running in Dojo."""


@dataclass(frozen=True)
class Filled:
    """The system after a backfill was asked for in the UI."""

    system: System
    backfill_id: str
    watched: Watched
    """The page where it was asked for; tests share it, as the UI is large to load."""
    view_url: str
    """Where `datacube view` shows what is published."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Filled]:
    view, folder = Site(), tmp_path_factory.mktemp("system")
    with (
        in_background(view) as view_url,
        system(folder, DATACUBE_PICTURES="yes", DATACUBE_VIEW_URL=view_url) as whole,
    ):
        view.app = application(whole.settings)
        part = whole.dojo.folder / "files" / "filled.parquet"
        pq.write_table(rows(feature=["rain", "rain", "rain", None]), part)
        for partition in PARTITIONS:
            run_id = partition.removeprefix(f"{MODEL}:")
            leave_request(whole.lake, DatacubeRequest(model_id=MODEL, run_id=run_id, data_paths=(str(part),)))
        whole.instance.add_dynamic_partitions("model_runs", PARTITIONS)
        whole.dojo.add_file(f"{LATE}_{MODEL}.1.parquet.gzip")
        whole.dojo.put("runs", run_document(LATE))
        whole.start_webserver()
        with watched_page(browser) as watched:
            ui = DagsterUI(watched.page, whole.webserver_url)
            ui.open()
            backfill_id = ui.launch_backfill()
            # Only now: the daemon looks for backfills when it starts, and then every half minute.
            whole.start_daemon()
            yield Filled(whole, backfill_id, watched, view_url)


@pytest.fixture
def ui(filled: Filled) -> Iterator[DagsterUI]:
    """The UI, as it opens, in a page that stays clean."""
    opened = DagsterUI(filled.watched.page, filled.system.webserver_url)
    opened.open()
    yield opened
    filled.watched.assert_clean()


@pytest.fixture
def backfilled(ui: DagsterUI, filled: Filled) -> DagsterUI:
    """The UI, once all partitions are materialized."""
    wait_for(
        lambda: all(map(filled.system.published, PARTITIONS)) and filled.system.settled(), "the backfill"
    )
    return ui


def expect_success(ui: DagsterUI, run_id: str) -> None:
    """See in the list of runs that a run is through."""
    ui.runs()
    expect(ui.line(run_id)).to_contain_text("Success")


def test_the_graph_shows_the_five_rooms_and_what_an_asset_holds(ui: DagsterUI) -> None:
    boxes = ui.lineage()
    expect(boxes).to_have_count(len(GROUPS))
    assert {box.text_content() for box in boxes.all()} == set(GROUPS)
    ui.box("points").click()
    ui.box("normalized_points").click()
    expect(ui.page.get_by_text("The run's rows, clean and typed")).to_be_visible()
    ui.follow("View in Asset Catalog")
    expect(ui.page.get_by_text("Upstream assets")).to_be_visible()
    expect(ui.page.get_by_role("link", name="raw_dojo_output").first).to_be_visible()


def test_a_backfill_of_five_partitions_takes_all_of_them_through(ui: DagsterUI, filled: Filled) -> None:
    ui.runs("Backfills")
    expect(ui.line(filled.backfill_id)).to_contain_text("5 partitions")
    ui.backfill(filled.backfill_id)
    for asset in ("dojo_request", "pipeline_results"):
        line = ui.line(asset)
        expect(line).to_contain_text("100% completed")
        # Partitions targeted, in progress, succeeded, failed.
        assert re.findall(r"^\d+$", line.inner_text(), re.MULTILINE) == ["5", "0", "5", "0"]
    assert all(filled.system.published(partition) for partition in PARTITIONS)


def test_a_run_that_finishes_in_dojo_is_seen_and_told_to_causemos(ui: DagsterUI, filled: Filled) -> None:
    ui.runs()
    expect(ui.line(filled.backfill_id)).to_be_visible()
    partition = f"{MODEL}:{LATE}"
    expect(ui.page.get_by_text(partition)).to_have_count(0)
    httpx.post(f"{filled.system.dojo.url}/simulator/runs/{LATE}/finish").raise_for_status()
    expect(ui.line(partition)).to_contain_text("dojo_model_runs")
    expect(ui.line(partition)).to_contain_text("Success")
    ui.page.goto(filled.system.causemos.url)
    expect(ui.page.get_by_role("row").filter(has_text=LATE).filter(has_text="READY")).to_be_visible()


def test_a_partition_is_materialized_by_hand_without_any_config(ui: DagsterUI) -> None:
    ui.lineage()
    ui.press("Materialize all…")
    run_id = ui.launch_run(PARTITIONS[1])
    ui.runs()
    expect(ui.line(run_id)).to_contain_text(PARTITIONS[1])
    expect(ui.line(run_id)).to_contain_text(f"{len(ASSETS)} assets")
    expect_success(ui, run_id)


def test_one_asset_made_again_writes_no_object(backfilled: DagsterUI) -> None:
    ui = backfilled
    ui.asset("spatial_tiles")
    ui.press("Materialize…")
    run_id = ui.launch_run(PARTITIONS[2])
    expect_success(ui, run_id)
    ui.asset("spatial_tiles")
    ui.partition(PARTITIONS[2])
    expect(ui.page.get_by_role("link", name=run_id).first).to_be_visible()
    expect(ui.figure("objects written")).to_have_text("0")


def test_the_page_of_an_asset_counts_its_rows_and_judges_them(backfilled: DagsterUI) -> None:
    ui = backfilled
    ui.asset("normalized_points")
    ui.partition(PARTITIONS[3])
    for figure, count in (("rows in", 4), ("rows out", 3), ("drop: no feature", 1)):
        expect(ui.figure(figure)).to_have_text(str(count))
    ui.tab("Checks")
    ui.line("rows_are_usable").click()
    expect(ui.page.get_by_role("cell", name="allowed share: dropped")).to_be_visible()


@pytest.mark.parametrize("asset", ["normalized_points", "spatial_tiles"])
def test_pictures_are_shown(backfilled: DagsterUI, asset: str) -> None:
    ui = backfilled
    ui.asset(asset)
    ui.partition(PARTITIONS[4])
    picture = ui.picture()
    expect(picture).to_be_visible()
    # A broken picture has no width of its own.
    assert picture.evaluate("picture => picture.complete && picture.naturalWidth") > 300
    dialog = ui.page.get_by_role("dialog")
    box, around = picture.bounding_box(), dialog.bounding_box()
    assert box is not None
    assert around is not None
    assert box["x"] + box["width"] <= around["x"] + around["width"], "nothing of it is cut off"


def test_links_lead_to_dojo_to_causemos_and_to_the_objects(backfilled: DagsterUI, filled: Filled) -> None:
    ui = backfilled
    ui.asset("pipeline_results")
    ui.partition(PARTITIONS[4])
    dojo, causemos = filled.system.dojo.url, filled.system.causemos.url
    run_id = PARTITIONS[4].removeprefix(f"{MODEL}:")
    expect(ui.figure("in Dojo").get_by_role("link").first).to_have_attribute("href", f"{dojo}/runs/{run_id}")
    expect(ui.figure("in CauseMos").get_by_role("link").first).to_have_attribute("href", f"{causemos}/")
    folder = Path(ui.figure("address").inner_text().strip())
    assert (folder / "results" / "results.json").is_file()


@pytest.fixture
def linked(backfilled: DagsterUI) -> DagsterUI:
    """The page of a partition of an asset that is published."""
    backfilled.asset("global_timeseries")
    backfilled.partition(PARTITIONS[4])
    return backfilled


def follow(ui: DagsterUI, figure: str) -> Page:
    """Click a link among the metadata; the page that it opens."""
    with ui.page.expect_popup() as opened:
        ui.figure(figure).get_by_role("link").first.click()
    return opened.value


RUN_ID = PARTITIONS[4].removeprefix(f"{MODEL}:")


def test_a_click_leads_to_the_datacube_on_the_map(linked: DagsterUI, filled: Filled) -> None:
    page = follow(linked, "on the map")
    assert page.url.startswith(f"{filled.view_url}/#")
    page.wait_for_selector("main[aria-busy=false]")
    expect(page.locator("#run option:checked")).to_have_text(RUN_ID)
    expect(page.locator("#quantity b")).to_have_text("rain")
    page.close()


def test_a_click_leads_to_the_page_of_the_datacube(linked: DagsterUI, filled: Filled) -> None:
    page = follow(linked, "about it")
    assert page.url.startswith(f"{filled.view_url}/datacube.html#")
    expect(page.locator("#name")).to_have_text(f"{MODEL} {RUN_ID}")
    expect(page.locator("#versions")).to_contain_text("published")
    page.close()


def test_a_click_leads_to_what_the_asset_is(linked: DagsterUI, filled: Filled) -> None:
    page = follow(linked, "what this is")
    assert page.url == f"{filled.view_url}/docs/reference/assets.md#global_timeseries"
    heading = page.get_by_role("heading", name="global_timeseries", exact=True)
    expect(heading).to_be_in_viewport()
    # And on to the other pages.
    page.get_by_role("link", name="All pages").click()
    expect(page.get_by_role("link", name="What changed, and back")).to_be_visible()
    page.close()


def test_a_click_leads_to_where_a_number_comes_from(linked: DagsterUI, filled: Filled) -> None:
    page = follow(linked, "where it comes from, on a page")
    assert page.url.startswith(f"{filled.view_url}/explain.html#")
    page.wait_for_selector("main[aria-busy=false]")
    expect(page.locator("#rows-told")).to_contain_text("count")
    page.close()
