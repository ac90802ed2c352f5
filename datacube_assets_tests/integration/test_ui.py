"""What people see of a run in Dagster's UI: pictures, links, tags, errors that say what to do, jobs."""

from __future__ import annotations

import base64
import io
import logging
import re
import shutil
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    MarkdownMetadataValue,
    RunsFilter,
    TableColumnLineageMetadataValue,
)
from PIL import Image

from datacube_assets.assets import pictures
from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.errors import InputError
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.resources.ui import UserInterface, to_do
from datacube_assets_tests.integration.support import House, rows

RUN = ModelRun("model", "run")
PICTURED = ["normalized_points", "global_timeseries", "regional_maps", "spatial_tiles", "grid_stats"]
DOCS = Path(__file__).parents[2] / "docs"


def picture(instance: DagsterInstance, asset: str) -> set[str] | None:
    """The words in the picture of an asset's last materialization, as the UI gets it."""
    event = instance.get_latest_materialization_event(AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    value = event.asset_materialization.metadata.get("picture")
    if value is None:
        return None
    assert isinstance(value, MarkdownMetadataValue)
    image = re.fullmatch(r"!\[picture\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", value.value or "")
    assert image is not None
    assert len(image[1]) < 60_000
    with Image.open(io.BytesIO(base64.b64decode(image[1]))) as opened:
        return set(opened.info["Description"].split("\n"))


def test_the_lineage_of_columns_ends_in_columns_that_are_there(house: House) -> None:
    house.publish(rows())
    schemas = {
        spec.key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for spec in build_definitions(house.settings).resolve_all_asset_specs()
        if "dagster/column_schema" in spec.metadata
    }
    traced = 0
    for key, columns in schemas.items():
        event = house.instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        entry = event.asset_materialization.metadata.get("dagster/column_lineage")
        if key == AssetKey("normalized_points"):
            assert entry is None
            continue
        assert isinstance(entry, TableColumnLineageMetadataValue)
        assert set(entry.value.deps_by_column) == columns
        for deps in entry.value.deps_by_column.values():
            assert deps
            assert {dep.column_name for dep in deps} <= schemas[deps[0].asset_key]
        traced += 1
    assert traced == 4


def run_tags_of(house: House) -> dict[str, str]:
    """Tags of the newest run."""
    return dict(house.instance.get_runs(limit=1)[0].tags)


def test_pictures_links_and_tags_of_a_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = house.with_settings(
        pictures=True,
        causemos_url="https://causemos.example/",
        causemos_page="#/{model_id}/{run_id}",
        docs_url="https://docs.example",
    )
    outcome = linked.publish(rows(value=[1.0, 2.0, 3.0, 40.0]))
    told = {name: picture(house.instance, name) or set() for name in PICTURED}
    assert {"4 points", "Where points are", "rain"} <= told["normalized_points"]
    assert {"Mean over all places", "rain", "■ month", "■ year"} <= told["global_timeseries"]
    assert {"Largest means by country, over all years", "Ethiopia", "Kenya"} <= told["regional_maps"]
    assert {"rain, 2020-01 (first, busiest)", "rain, 2020-02 (last)"} <= told["spatial_tiles"]
    assert {"rain: mean in a bin", "rain: sum in a bin", "zoom"} <= told["grid_stats"]
    # (1 + 3 + 2 + 40) / 4: every place has one value in every month.
    assert outcome.assets["global_timeseries"]["mean of rain"] == 11.5
    assert outcome.assets["normalized_points"]["share dropped"] == 0.0
    for name, metadata in outcome.assets.items():
        assert metadata["in CauseMos"] == "https://causemos.example/#/model/run", name
        assert "in Dojo" not in metadata, "no Dojo is configured"
    # On the runs page every tag is a line of its own, beside the partition.
    shown = {name for name in run_tags_of(house) if not name.startswith(("dagster/", ".dagster/"))}
    assert shown == {"datacube/model", "datacube/source"}

    # A run that a person started has no tags of ours, and finds its table made before: both are seen to.
    monkeypatch.setattr(pictures, "MAX_POINTS", 2)
    linked.materialize(RUN, "normalized_points")
    sample = picture(house.instance, "normalized_points")
    assert sample is not None
    assert "A sample of 2 of 4 points" in sample
    assert run_tags_of(house)["datacube/model"] == "model"

    house.with_settings(pictures=False).materialize(RUN, "normalized_points")
    assert picture(house.instance, "normalized_points") is None


def test_a_picture_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bytes:
        raise ZeroDivisionError("nothing to draw on")

    with caplog.at_level(logging.WARNING):
        assert UserInterface().picture(logging.getLogger("ui"), fail) == {}  # type: ignore[arg-type]
    assert "the data are not concerned: ZeroDivisionError('nothing to draw on')" in caplog.text


def test_links_lead_to_the_document_in_dojo() -> None:
    ui = UserInterface(dojo_url="https://dojo.example/api/dojo", causemos_url="https://causemos.example")
    run, dataset = ModelRun("a/b", "c d"), ModelRun("a/b", "indicator")
    assert ui.links(run, "grid_stats")["in Dojo"].value == "https://dojo.example/api/dojo/runs/c%20d"
    assert (
        ui.links(dataset, "grid_stats")["in Dojo"].value == "https://dojo.example/api/dojo/indicators/a%2Fb"
    )
    assert ui.links(run, "grid_stats")["in CauseMos"].value == "https://causemos.example/"


def test_every_asset_leads_to_its_page(house: House) -> None:
    for docs_url, start in (("", "docs/"), ("https://docs.example/main/", "https://docs.example/main/")):
        settings = house.with_settings(docs_url=docs_url).settings
        for spec in build_definitions(settings).resolve_all_asset_specs():
            page = str(spec.metadata["documentation"].value)
            assert page.startswith(start), spec.key
            assert (DOCS / page.removeprefix(start).partition("#")[0]).is_file(), page
            assert spec.owners == ["team:datacube"]


# --- errors ----------------------------------------------------------------------------------------


def test_an_error_in_the_ui_begins_with_what_to_do(house: House) -> None:
    with pytest.raises(InputError, match=r"^run model:run, file \S+, column value: "):
        house.publish(rows(value=["much"] * 4))
    (run,) = house.instance.get_runs(RunsFilter(job_name=process_model_run.name))
    (record,) = house.instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE).records
    error = record.event_log_entry.get_dagster_event().step_failure_data.error
    assert error is not None
    first = error.message.splitlines()[0]
    problem = str(error.cause.message) if error.cause else ""
    assert "InputError: run model:run" in problem
    remedy = problem.strip().rsplit(". ", 1)[1]
    told = f"{remedy}. The problem: run model:run, file "
    assert first.startswith(f"dagster._core.definitions.events.Failure: {told}")
    assert "column value: 4 of 4 values are text" in first


def test_what_to_do_is_said_once() -> None:
    error = InputError("no rows", remedy="Check the model", run="m:r")
    assert to_do(error) == "Check the model. The problem: run m:r: no rows"
    assert to_do(RuntimeError("Start again")) == "Start again"


# --- jobs ------------------------------------------------------------------------------------------


def test_jobs_publish_again_from_the_lake_and_leave_a_whole_datacube(house: House) -> None:
    house.publish(rows())
    before = house.datacube()
    shutil.rmtree(house.folder / "parts")  # nothing is fetched

    (before.folder / before.keys(".tile")[0]).write_bytes(b"spoilt")
    assert house.run_job("recompute_tiles", RUN).success
    mended = house.datacube()
    assert mended.hash == before.hash
    others = {key: before.times()[key] for key in before.keys("timeseries")}
    assert others.items() <= mended.times().items(), "what is not of the map stays as it is"
    mended.check()

    shutil.rmtree(house.bucket() / "model")
    assert house.run_job("republish_datacube", RUN).success
    assert house.datacube().hash == before.hash
    house.datacube().check()
