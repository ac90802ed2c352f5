"""How the system is, what there is, and whether it is as it should be: what an operator sees of it.

Commands run in this process; stores are folders, Dagster's storage is real, and Dojo and CauseMos are
simulators that listen. On S3 the same code is tried in `test_s3.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

from datacube_assets.definitions import build_definitions
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.ports import free_port
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.partitions import REQUEST_TAG
from datacube_assets.read import list_datacubes
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import Outbox, Report
from datacube_assets.storage.requests import pause, resume, runs_requested
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set
from datacube_assets_tests.integration.system import MODEL, system, wait_for
from datacube_assets_tests.integration.test_withdrawal import instance_of, settings_of

FAILED = "toy:bad"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home with one datacube that is well, and one whose run failed. Only to be read."""
    with nothing_set():
        place = Place(tmp_path_factory.mktemp("operating") / "home")
        assert place.publish().exit_code == 0
        assert place.publish("bad", value=None).exit_code == 1
        yield place


@pytest.fixture
def other(place: Place, tmp_path: Path) -> Place:
    """The same elsewhere, to be changed: manifests there name the first's buckets, so these come along."""
    copied = Place(tmp_path / "other")
    assert place.run("export", KEY, str(tmp_path / "one.tar")).exit_code == 0
    assert copied.run("import", str(tmp_path / "one.tar")).exit_code == 0
    return copied


def lake_of(place: Place) -> Lake:
    return Lake(open_store((place.home / "lake").as_uri()))


# --- status ----------------------------------------------------------------------------------------


def parts(place: Place, *arguments: str, status: int) -> dict[str, dict[str, object]]:
    found = place.json("status", *arguments, status=status)
    assert found["state"] == ("well", "warning", "broken")[status]
    return {part["name"]: part for part in found["parts"]}


def test_status_tells_what_is_well_and_what_is_worth_a_look(place: Place) -> None:
    stores = (open_store((place.home / "buckets" / name).as_uri()) for name in ("models", "indicators"))
    causemos = CauseMosSimulator(*stores)
    with (
        in_background(DojoSimulator().app()) as dojo_url,
        in_background(causemos.app()) as causemos_url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DOJO_URL", dojo_url)
        patch.setenv("CAUSEMOS_URL", causemos_url)
        found = parts(place, status=1)
    assert found["dojo"]["state"] == found["causemos"]["state"] == "well"
    assert {"lake", "models bucket", "indicators bucket", "dask", "code", "reports", "requests"} <= {
        name for name, part in found.items() if part["state"] == "well"
    }
    assert found["daemon"]["state"] == "warning"
    assert found["partitions"]["state"] == "warning"
    assert FAILED in str(found["partitions"]["says"])
    shown = place.run("status")
    assert shown.exit_code == 1
    assert (
        f"well     lake                {(place.home / 'lake').as_uri()} can be read and written"
        in shown.output
    )


def test_a_command_whose_output_nobody_reads_any_more_ends_without_a_word(place: Place) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has enough
    told = subprocess.run(
        [Path(sys.executable).parent / "datacube", "explain", KEY, "--feature", "rain", "--time", "2020"],
        check=False,
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "DATACUBE_HOME": str(place.home)},
        text=True,
    )
    os.close(writing)
    assert (told.returncode, told.stderr) == (1, "")


def test_one_part_that_does_not_answer_hides_no_other(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOJO_URL", f"http://127.0.0.1:{free_port()}")
        patch.setenv("CAUSEMOS_URL", f"http://127.0.0.1:{free_port()}")
        patch.setenv("DATACUBE_INDICATORS_BUCKET", str(tmp_path / "file"))
        patch.setenv("DATACUBE_DASK_SCHEDULER", f"tcp://127.0.0.1:{free_port()}")
        found = parts(place, "--timeout", "4", status=2)
    broken = {name for name, part in found.items() if part["state"] == "broken"}
    assert broken == {"dojo", "causemos", "indicators bucket", "dask"}
    assert "DATACUBE_INDICATORS_BUCKET" in str(found["indicators bucket"]["says"])
    assert found["lake"]["state"] == "well"


def test_status_counts_what_waits_and_since_when(other: Place) -> None:
    assert other.run("reprocess", KEY).exit_code == 0
    lake = lake_of(other)
    (waiting,) = runs_requested(lake, 10)
    old = {"asked_at": waiting.asked_at - 86_400_000, "partition": KEY, "tasks": None}
    lake.write_document(f"requests/waiting/{waiting.name}.json", old)
    report = Report("flow", "processing-succeeded", KEY, {}, None, int(time.time() * 1000) - 3_600_000)
    Outbox(lake).post(report.failed("503: busy", 0))
    found = parts(other, status=1)
    assert found["requests"]["state"] == found["reports"]["state"] == "warning"
    assert "503: busy" in str(found["reports"]["says"])
    assert found["requests"]["figures"]["waiting"] == 1  # type: ignore[index]


def test_status_tells_that_the_queue_is_paused_until_it_is_resumed(other: Place) -> None:
    lake = lake_of(other)
    pause(lake)
    told = parts(other, status=1)["requests"]
    assert told["state"] == "warning"
    assert "paused" in str(told["says"])
    resume(lake)
    assert parts(other, status=1)["requests"]["state"] == "well"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_system_that_runs_is_well_until_its_daemon_dies_or_a_sensor_is_stopped(tmp_path: Path) -> None:
    with nothing_set(), system(tmp_path) as running:
        running.start_daemon()
        running.dojo.finish("first")
        wait_for(lambda: running.published(f"{MODEL}:first") and running.settled(), "the run")

        def state() -> dict[str, str]:
            answer = running.command("status", "--timeout", "30", "--json")
            assert answer.stdout, answer.stderr
            found = json.loads(answer.stdout)
            assert answer.returncode == ("well", "warning", "broken").index(found["state"])
            return {part["name"]: part["state"] for part in found["parts"]}

        wait_for(lambda: set(state().values()) == {"well"}, "everything well")
        for one in running.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            if one.name == "requests":
                running.instance.update_instigator_state(one.with_status(InstigatorStatus.STOPPED))
        assert state()["sensors"] == "warning"
        running.dojo.down()
        assert state()["dojo"] == "broken"
        running.kill_daemon()
        # A daemon that is busy may be silent for a while.
        wait_for(lambda: state()["daemon"] == "broken", "the daemon found dead", 180)


# --- list ------------------------------------------------------------------------------------------


def test_list_tells_states_and_why_a_run_failed(place: Place) -> None:
    listed = {one["key"]: one for one in place.json("list")}
    assert {key: one["state"] for key, one in listed.items()} == {KEY: "READY", FAILED: "FAILED"}
    ready, failed = listed[KEY], listed[FAILED]
    assert ready["objects"] == sum(1 for path in place.object("").rglob("*") if path.is_file())
    assert ready["bytes"] == sum(
        path.stat().st_size for path in place.object("").rglob("*") if path.is_file()
    )
    assert abs(ready["published"] - place.object("results/results.json").stat().st_mtime) < 1
    assert "value" in failed["error"]
    assert failed["newest_run"]
    shown = place.run("list")
    assert shown.exit_code == 0
    assert failed["error"] in shown.output


def test_what_list_finds_can_be_processed_again(other: Place) -> None:
    assert other.publish("bad", value=None).exit_code == 1
    found = other.run("list", "--failed", "--newer-than", "1h", "--keys")
    assert found.stdout == f"{FAILED}\n"
    assert other.run("list", "--failed", "--older-than", "1h", "--keys").stdout == ""
    assert other.run("list", "--model", "nobody", "--keys").stdout == ""
    answer = other.run("reprocess", "-", "--json", stdin=found.stdout)
    assert (answer.exit_code, json.loads(answer.stdout)) == (0, {"asked": [FAILED], "refused": {}})
    (asked,) = runs_requested(lake_of(other), 10)
    assert asked.partition == FAILED
    assert {one["key"]: one["state"] for one in other.json("list")}[FAILED] == "QUEUED"
    # The request stays until the sensor's next tick; what counts is its run, as soon as there is one.
    with instance_of(other) as instance:
        job = build_definitions(settings_of(other)).resolve_job_def("process_model_run")
        tags = {"dagster/partition": FAILED, REQUEST_TAG: asked.name}
        instance.report_run_failed(instance.create_run_for_job(job, tags=tags))
    assert {one["key"]: one["state"] for one in other.json("list")}[FAILED] == "FAILED"


def test_inspect_counts_points_and_nothing_beside_them(place: Place) -> None:
    tables = place.json("inspect", KEY)["tables"]
    assert tables["normalized_points"]["rows"] == 4
    assert "rows" not in tables["raw_dojo_output"]


def test_a_datacube_without_results_is_listed_as_incomplete(other: Place) -> None:
    other.object("results/results.json").unlink()
    assert [one["state"] for one in other.json("list", KEY)] == ["INCOMPLETE"]


# --- inspect ---------------------------------------------------------------------------------------


def test_a_tile_is_shown_with_its_place_and_bins(place: Place) -> None:
    tile = next(place.object("month/rain/tiles").glob("1577836800000-0-0-0.tile"))
    for arguments in ([str(tile)], [KEY, "--object", f"month/rain/tiles/{tile.name}"]):
        found = place.json("inspect", *arguments, "--bins")
        assert (found["zoom"], found["x"], found["y"], found["bins"]) == (0, 0, 0, 2)
        assert found["s_sum_t_sum"]["sum"] == 3.0
        assert {(round(one["lat"]), round(one["lng"])) for one in found["each bin"]} == {(-3, 37), (8, 42)}
    assert "zoom" in place.run("inspect", str(tile)).output


def test_a_table_and_a_manifest_are_shown(place: Place) -> None:
    table = place.json("inspect", KEY, "--table", "normalized_points")
    columns = next(one["columns"] for one in table["of each folder"].values() if "value" in one["columns"])
    assert (columns["value"]["min"], columns["value"]["max"], columns["value"]["nulls"]) == (1.0, 4.0, 0)
    manifest = place.json("inspect", KEY, "--manifest", "spatial_tiles")
    tiles = list(place.object("").rglob("*.tile"))
    assert manifest["objects"] == len(manifest["recorded"]) == len(tiles)
    assert place.run("inspect", KEY, "--table", "nothing").exit_code == 1
    missing = place.run("inspect", KEY, "--object", "month/nothing.csv")
    assert missing.exit_code == 1
    assert "there is no object" in missing.output
    assert "Traceback" not in missing.output


def test_the_health_of_a_datacube_has_reasons(place: Place, other: Place) -> None:
    found = place.json("inspect", KEY)
    assert (found["state"], found["faults"]) == ("well", [])
    assert found["results.json"]["features"] == ["rain"]
    assert all(one["passed"] for one in found["checks"])
    assert len(found["checks"]) > 5, "its run has checked it"
    results = other.object("results/results.json")
    results.write_text(results.read_text().replace("4", "5"))
    damaged = other.json("inspect", KEY, status=2)
    assert any("results.json is not the one" in fault for fault in damaged["faults"])
    results.unlink()
    (other.home / "lake/runs/toy/one/grid_cells/table.json").unlink()
    broken = other.json("inspect", KEY, status=2)
    assert len(broken["faults"]) == 2
    assert place.json("inspect", FAILED, status=2)["warnings"]


# --- verify ----------------------------------------------------------------------------------------


def test_a_datacube_that_is_as_it_was_written_is_verified(place: Place) -> None:
    answer = place.run("verify", KEY)
    assert answer.exit_code == 0
    assert answer.output.startswith(f"well    {KEY}")
    (found,) = place.json("verify", "--all")
    assert found["recorded"] == found["read"] == found["formatted"] > 50


def test_each_fault_of_a_bucket_is_named(other: Place) -> None:
    changed = next(other.object("month/rain/regional/country/timeseries/default").glob("*.csv"))
    changed.write_bytes(changed.read_bytes().replace(b"1", b"2"))
    gone = other.object("year/rain/timeseries/global/global.csv")
    gone.unlink()
    other.object("month/rain/stray.csv").write_text("x")
    (found,) = other.json("verify", KEY, "--no-tables", status=1)
    assert found["faults"] == {"missing": 1, "altered": 1, "stray": 1}
    assert found["examples"]["altered"] == [changed.relative_to(other.bucket).as_posix()]
    shown = other.run("verify", "--model", "toy", "--quiet")
    assert shown.exit_code == 1
    assert "1 missing: toy/one/year/rain/timeseries/global/global.csv" in shown.output


def test_objects_that_do_not_say_what_the_tables_say_are_named(other: Place) -> None:
    lake = lake_of(other)
    table = lake.table(ModelRun("toy", "one"), "global_aggregates")
    name = next(name for name in table.names("month/default/"))
    rows = lake.read(table, name)
    at = rows.schema.get_field_index("s_sum_t_sum")
    changed = rows.set_column(at, "s_sum_t_sum", [[value + 1 for value in rows["s_sum_t_sum"].to_pylist()]])
    lake.write_file(table.folder, name, changed)
    (found,) = other.json("verify", KEY, status=1)
    assert found["faults"] == {"other than the tables": 1}
    assert found["examples"]["other than the tables"] == ["toy/one/month/rain/timeseries/global/global.csv"]


def test_what_cannot_be_compared_is_told_apart(place: Place, other: Place) -> None:
    (found,) = place.json("verify", FAILED, status=2)
    assert "nothing is published" in found["problems"][0]
    (other.home / "lake/runs/toy/one/grid_cells/table.json").unlink()
    (lacking,) = other.json("verify", KEY, status=2)
    assert "grid_cells" in lacking["problems"][0]
    assert place.run("verify", "no key").exit_code == 1
    assert place.run("verify").exit_code == 1


# --- gc --------------------------------------------------------------------------------------------


def test_gc_only_tells_unless_it_is_told_to_delete(other: Place) -> None:
    stray = other.home / "lake/runs/toy/one/grid_cells/abandoned/month/default/x.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    os.utime(stray, (1, 1))
    found = other.json("gc")
    assert (found["deleted"], found["orphans"]) == (False, 1)
    assert stray.exists()
    assert other.json("gc", "--delete")["deleted"]
    assert not stray.exists()


# --- reading ---------------------------------------------------------------------------------------


def test_a_datacube_that_cannot_be_read_hides_no_other(other: Place) -> None:
    assert other.publish("two").exit_code == 0
    other.object("results/results.json").write_text("{")
    with pytest.warns(UserWarning, match="toy/one.*left out"):
        listed = list_datacubes(other.bucket)
    assert [cube.run_id for cube in listed] == ["two"]
