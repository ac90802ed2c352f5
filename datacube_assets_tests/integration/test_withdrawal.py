"""Taking a datacube back, at the command line and as a Dagster job, and what is said of it afterwards.

Stores are folders, Dagster's storage is real. On S3 the same code is tried in `test_s3.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.orchestration import withdrawal
from datacube_assets.orchestration.failures import reason
from datacube_assets.orchestration.home import open_instance
from datacube_assets.partitions import model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.refusals import REFUSED, note
from datacube_assets.storage.reports import Outbox
from datacube_assets.storage.requests import names_waiting
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set

RUN = ModelRun.from_key(KEY)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with nothing_set():
        place = Place(tmp_path / "home")
        published = place.publish()
        assert published.exit_code == 0, published.output
        yield place


def settings_of(place: Place) -> Settings:
    return Settings.model_validate({"DATACUBE_HOME": place.home}).resolved()


def lake_of(place: Place) -> Lake:
    return Lake(open_store((place.home / "lake").as_uri()))


def states(place: Place) -> dict[str, str]:
    return {one["key"]: one["state"] for one in place.json("list")}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def instance_of(place: Place) -> DagsterInstance:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", "restored")
        patch.delenv("DAGSTER_HOME")
        return open_instance(settings_of(place))


def test_what_is_withdrawn_is_gone_everywhere_and_can_be_published_again(place: Place) -> None:
    assert place.publish("two").exit_code == 0
    assert place.run("reprocess", KEY).exit_code == 0
    (done,) = place.json("withdraw", KEY)
    assert done["objects"] > 50
    assert (done["tables"], done["requests"], done["partition"], done["told"]) == (0, 1, True, 0)
    assert files(place.bucket / "toy" / "one") == []
    assert names_waiting(lake_of(place)) == []
    assert Outbox(lake_of(place)).waiting() == []
    assert states(place) == {KEY: "WITHDRAWN", "toy:two": "READY"}
    with instance_of(place) as instance:
        assert instance.get_dynamic_partitions(str(model_runs.name)) == ["toy:two"]
    assert place.run("list", "--failed", "--keys").stdout == ""
    assert place.json("gc", "--older-than", "0")["orphans"] == 0
    # What is published again is the same.
    assert place.publish().exit_code == 0
    assert states(place)[KEY] == "READY"
    assert place.run("verify", KEY).exit_code == 0


def test_with_tables_and_parts_nothing_of_it_remains(place: Place) -> None:
    (done,) = place.json("withdraw", KEY, "--tables", "--parts")
    assert done["tables"] > 5
    assert files(place.home / "lake" / "runs") == []
    assert states(place) == {}


def test_tables_go_without_the_parts_they_were_made_from(place: Place) -> None:
    lake = Lake(open_store((place.home / "lake").as_uri()))
    note(lake, ModelRun.from_key(KEY), "check_points", "version", "they were refused")
    place.json("withdraw", KEY, "--tables")
    kept = {Path(name).parts[2] for name in files(place.home / "lake" / "runs")}
    assert "raw_dojo_output" in kept
    assert not kept & {"normalized_points", "grid_cells", "manifests", REFUSED}


def test_at_every_moment_results_json_is_gone_before_the_first_object(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    original = LocalStore.delete_many

    def noting(self: LocalStore, keys: Any) -> None:
        if self.url.endswith("/models"):
            deleted.extend(keys)
        original(self, keys)

    monkeypatch.setattr(LocalStore, "delete_many", noting)
    place.json("withdraw", KEY)
    assert deleted[0] == "toy/one/results/results.json"
    assert len(set(deleted)) > 50


def test_broken_off_it_is_no_datacube_and_the_same_command_does_the_rest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(withdrawal, "_delete", dies)
        assert place.run("withdraw", KEY, "--yes").exit_code != 0
    assert states(place) == {KEY: "INCOMPLETE"}
    assert place.run("withdraw", KEY, "--yes").exit_code == 0
    assert files(place.bucket / "toy") == []
    assert states(place) == {KEY: "WITHDRAWN"}


def test_causemos_is_told_only_where_one_says_so(place: Place) -> None:
    document = json.loads((place.home / "lake/runs/toy/one/dojo_request/request.json").read_text())
    (place.home / "lake/runs/toy/one/dojo_request/request.json").write_text(
        json.dumps({**document, "doc_ids": ["a", "b"]})
    )
    (done,) = place.json("withdraw", KEY, "--tell")
    assert done["told"] == 2
    (report,) = Outbox(lake_of(place)).waiting()
    assert (report.kind, report.partition, report.body["doc_ids"]) == ("processing-failed", KEY, ["a", "b"])


def test_an_unknown_key_is_said_with_the_nearest(place: Place) -> None:
    for command in (["withdraw", "toy:onne", "--yes"], ["list", "toy:onne"], ["inspect", "toy:onne"]):
        answer = place.run(*command)
        assert answer.exit_code == 1
        assert "did you mean toy:one?" in answer.output
    assert files(place.bucket / "toy")


def test_it_asks_before_it_does_anything(place: Place) -> None:
    assert place.run("withdraw", KEY, stdin="n\n").exit_code == 1
    assert states(place) == {KEY: "READY"}


def test_a_partition_deleted_in_the_ui_is_told_by_list_gc_and_status(place: Place) -> None:
    with instance_of(place) as instance:
        instance.delete_dynamic_partition(str(model_runs.name), KEY)
    assert states(place) == {KEY: "ORPHANED"}
    assert place.json("gc")["orphaned"] == [KEY]
    assert place.json("gc", "--delete", "--older-than", "0")["orphans"] == 0, "nobody said so"
    parts = {part["name"]: part for part in place.json("status", status=1)["parts"]}
    assert parts["partitions"]["figures"]["orphaned partitions"] == [KEY]
    assert "datacube withdraw" in parts["partitions"]["says"]
    place.json("withdraw", KEY)
    assert states(place) == {KEY: "WITHDRAWN"}
    assert place.json("gc")["orphaned"] == []


def test_a_failed_partition_deleted_in_the_ui_counts_as_failed_no_more(place: Place) -> None:
    assert place.publish("bad", value=None).exit_code == 1
    assert place.run("list", "--failed", "--keys").stdout == "toy:bad\n"
    with instance_of(place) as instance:
        instance.delete_dynamic_partition(str(model_runs.name), "toy:bad")
    assert place.run("list", "--failed", "--keys").stdout == ""
    parts = {part["name"]: part for part in place.json("status", status=1)["parts"]}
    assert parts["partitions"]["figures"]["failed"] == 0


def test_the_job_does_the_same(place: Place) -> None:
    definitions = build_definitions(settings_of(place))
    with instance_of(place) as instance:
        done = definitions.resolve_job_def("withdraw_datacube").execute_in_process(
            partition_key=KEY,
            instance=instance,
            run_config={"ops": {"take_back": {"config": {"tables": True}}}},
        )
        assert done.success
        assert instance.get_dynamic_partitions(str(model_runs.name)) == []
    assert files(place.bucket / "toy") == []
    assert states(place) == {KEY: "WITHDRAWN"}


def test_what_another_run_is_at_work_on_is_left_alone(place: Place) -> None:
    with instance_of(place) as instance:
        instance.create_run_for_job(
            build_definitions(settings_of(place)).resolve_job_def("process_model_run"),
            status=DagsterRunStatus.STARTED,
            tags={"dagster/partition": KEY},
        )
    answer = place.run("withdraw", KEY, "--yes")
    assert answer.exit_code == 1
    assert "Cancel that run" in answer.output
    assert place.object("results/results.json").exists()


def test_the_reason_of_a_failure_reads_the_same_everywhere(place: Place) -> None:
    broken = place.home / "broken.parquet.gzip"
    broken.write_bytes(b"PAR1 this is no Parquet file PAR1")
    shown = place.run("publish", str(broken), "--model-id", "toy", "--run-id", "broken", "--quiet")
    said = shown.output.removeprefix("Error: ").strip()
    assert str(broken.name) in said
    (listed,) = place.json("list", "toy:broken")
    assert listed["state"] == "FAILED"
    assert listed["error"] == said
    assert "pyarrow" not in said
    with instance_of(place) as instance:
        assert reason(instance, listed["newest_run"]) == said
    faults = place.run("inspect", "toy:broken").output
    assert f"  - its newest run failed: {said}\n" in faults


def test_a_canceled_run_is_no_failure(place: Place) -> None:
    with instance_of(place) as instance:
        run = instance.create_run_for_job(
            build_definitions(settings_of(place)).resolve_job_def("process_model_run"),
            tags={"dagster/partition": KEY},
        )
        instance.report_run_canceled(run)
    assert states(place) == {KEY: "CANCELED"}
    assert place.run("list", "--failed", "--keys").stdout == ""
    assert place.run("list", "--state", "canceled", "--keys").stdout == f"{KEY}\n"


def test_inspect_prints_a_fault_a_line_and_times_as_dates(place: Place) -> None:
    shutil.rmtree(place.home / "lake/runs/toy/one/grid_cells")
    os.unlink(place.object("results/results.json"))
    shown = place.run("inspect", KEY)
    assert shown.exit_code == 2
    faults = shown.output.split("faults\n")[1].split("\nwarnings")[0].splitlines()
    assert len(faults) >= 2
    assert all(line.startswith("  - ") for line in faults)
    assert " UTC" in shown.output
