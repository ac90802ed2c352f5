"""Versions of a datacube: what is written down of each, how long tables stay, and going back to one.

Stores are folders and, where it says so, a real S3 server; Dagster's storage is real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datacube_assets.definitions import build_definitions
from datacube_assets.development.s3_server import S3Server
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.operations.versions import open_history
from datacube_assets.orchestration.jobs import is_full
from datacube_assets.partitions import BACKFILL_TAG, CHANGE_TAG, FROM_SCRATCH, SOURCE_TAG, VERSION_TAG
from datacube_assets.storage.history import State
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import leave_request
from datacube_assets_tests.integration.crashing import Nth, command
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set
from datacube_assets_tests.integration.support import QUIET, House, checksums, rows

RUN = ModelRun.from_key(KEY)
VALUES = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 30.0, 9.0], [5.0, 5.0, 5.0, 5.0])
"""Of the versions of the tests; the first two differ in one region."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with nothing_set():
        yield Place(tmp_path / "home")


def publish(place: Place, *versions: int, run_id: str = "one") -> None:
    for version in versions:
        done = place.publish(run_id, value=VALUES[version - 1])
        assert done.exit_code == 0, done.output


def versions(place: Place, key: str = KEY) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.json("history", key)["versions"]
    return found


def objects(place: Place) -> dict[str, str]:
    return checksums(place.bucket / "toy" / "one")


def raw_parts(place: Place) -> int:
    return len(list((place.home / "lake" / RUN.folder / "raw_dojo_output").rglob("*.parquet")))


def folders(place: Place, table: str = "grid_cells") -> int:
    return sum(one.is_dir() for one in (place.home / "lake" / RUN.folder / table).iterdir())


# --- what is written down ----------------------------------------------------------------------------


def test_every_publication_that_changes_something_is_a_version_and_no_other(place: Place) -> None:
    publish(place, 1, 1, 2)
    assert place.publish(value=VALUES[1]).exit_code == 0
    assert place.run("publish", str(place.home / "one.parquet.gzip"), "--model-id", "toy", "--run-id", "one",
                     "--from-scratch").exit_code == 0  # fmt: skip
    document = place.json("history", KEY)
    assert (document["partition"], document["published"]) == (KEY, 2)
    first, second = document["versions"]
    assert [(one["number"], one["state"], one["kept"]) for one in (first, second)] == [
        (1, "replaced", True),
        (2, "published", True),
    ]
    (file,) = second["files"]
    part = place.home / "one.parquet.gzip"
    assert (file["address"], file["bytes"]) == (str(part), part.stat().st_size)
    assert len(file["sha256"]) == 64
    assert second["rows"] == 4
    assert second["tables"].keys() == first["tables"].keys()
    assert len(second["tables"]) == 6
    assert second["request"]["model_id"] == "toy"
    assert second["published"] > first["published"]
    assert second["input_version"] != first["input_version"]
    # With a warning: half of the regions moved.
    assert place.json("inspect", KEY, status=1)["version"] == 2


def test_history_reads_like_a_table(place: Place) -> None:
    publish(place, 1, 2)
    said = place.run("history", KEY)
    assert said.exit_code == 0
    older, newer = said.stdout.splitlines()
    assert older.startswith("replaced")
    assert newer.startswith("published")
    assert "4 rows" in newer
    assert "1 file," in newer


def test_what_was_never_published_has_no_history(place: Place) -> None:
    publish(place, 1)
    for key in ("toy:two", "toy", "toy:..", "a:b:c"):
        said = place.run("history", key)
        assert said.exit_code == 1, said.output
        assert "Traceback" not in said.output


def test_a_history_that_is_damaged_keeps_no_datacube_from_being_published(place: Place) -> None:
    publish(place, 1, 2)
    first, _ = sorted((place.home / "lake" / RUN.folder / "history").glob("*.json"))
    first.write_text("{")
    done = place.publish("one", value=VALUES[2])
    assert done.exit_code == 0, done.output
    assert "results/results.json" in objects(place)
    said = place.run("history", KEY)
    assert said.exit_code == 1
    assert first.name in said.output
    assert "Restore" in said.output


# --- how long tables stay ----------------------------------------------------------------------------


def test_the_last_versions_keep_their_tables_and_equal_parts_are_there_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, 1, 2, 3)
    # The same file, asked for otherwise: another version of the same content.
    assert place.publish("one", "--fill-timestamp", "5", value=VALUES[2]).exit_code == 0
    assert [one["kept"] for one in versions(place)] == [False, True, True, True]
    assert (folders(place), raw_parts(place)) == (3, 2)
    assert place.json("gc", "--older-than", "0m")["orphans"] == 0
    monkeypatch.setenv("DATACUBE_KEEP_VERSIONS", "2")
    found = place.json("gc", "--older-than", "0m")
    assert {one["kind"] for one in found["found"]} == {"version no longer kept"}
    assert found["bytes"] > 1000
    assert folders(place) == 3, "nothing is deleted without --delete"
    assert place.json("gc", "--older-than", "0m", "--delete")["orphans"] == found["orphans"]
    assert [one["kept"] for one in versions(place)] == [False, False, True, True]
    assert (folders(place), raw_parts(place)) == (2, 1)
    assert place.json("gc", "--older-than", "0m")["orphans"] == 0
    assert place.run("verify", KEY).exit_code == 0


def test_only_the_published_version_stays_where_no_more_are_wanted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATACUBE_KEEP_VERSIONS", "1")
    publish(place, 1, 2)
    assert (folders(place), raw_parts(place)) == (1, 1)
    assert place.run("verify", KEY).exit_code == 0
    refused = place.run("rollback", KEY, "--yes")
    assert refused.exit_code == 1
    assert "version 1 keeps no tables any more" in refused.output
    assert "Of 2 there are tables" in refused.output
    assert len(versions(place)) == 2


def test_versions_that_were_replaced_long_ago_lose_their_tables(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(place, 1, 2)
    now = time.time()
    monkeypatch.setenv("DATACUBE_KEEP_DAYS", "30")
    assert place.json("gc", "--older-than", "0m")["orphans"] == 0
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86_400)
    assert {one["kind"] for one in place.json("gc")["found"]} == {"version no longer kept"}
    place.json("gc", "--delete")
    assert [one["kept"] for one in versions(place)] == [False, True]


@pytest.mark.parametrize(
    ("name", "value"), [("KEEP_VERSIONS", "0"), ("KEEP_DAYS", "-1"), ("KEEP_DAYS", "nan")]
)
def test_limits_that_cannot_be_are_refused(
    name: str, value: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DATACUBE_{name}", value)
    refused = place.run("history", KEY)
    assert refused.exit_code == 1
    assert f"DATACUBE_{name}" in refused.output


def test_history_goes_with_the_tables_when_a_datacube_is_withdrawn(place: Place) -> None:
    publish(place, 1, 2)
    place.json("withdraw", KEY)
    assert [one["state"] for one in versions(place)] == ["replaced", "withdrawn"]
    assert place.json("history", KEY)["published"] is None
    # The tables are there: what was withdrawn can be had back, and is no other version.
    done = place.json("rollback", KEY, "--to", "1")
    assert done["back_to"] == 1
    assert place.json("history", KEY)["published"] == 3
    place.json("withdraw", KEY, "--tables")
    assert place.run("history", KEY).exit_code == 1


# --- going back --------------------------------------------------------------------------------------


def test_going_back_writes_what_differs_and_the_objects_are_those_of_then(place: Place) -> None:
    publish(place, 1)
    first = objects(place)
    times = {key: (place.bucket / "toy" / "one" / key).stat().st_mtime_ns for key in first}
    publish(place, 2)
    second = objects(place)
    changed = {key for key in second if second[key] != first[key]}
    done = place.json("rollback", KEY)
    assert objects(place) == first
    assert (done["back_to"], done["version"]) == (1, 3)
    assert (done["written"], done["deleted"]) == (len(changed), 0)
    kept = {key for key in first if (place.object(key)).stat().st_mtime_ns == times[key]}
    assert kept == first.keys() - changed
    newest = max(objects(place), key=lambda key: place.object(key).stat().st_mtime_ns)
    assert newest == "results/results.json"
    assert [(one["number"], one["state"], one["back_to"]) for one in versions(place)] == [
        (1, "replaced", None),
        (2, "replaced", None),
        (3, "published", 1),
    ]
    assert place.run("verify", KEY).exit_code == 0
    assert place.json("inspect", KEY)["version"] == 3
    # And forth again.
    place.json("rollback", KEY, "--to", "2")
    assert objects(place) == second


@pytest.mark.slow
def test_going_back_twice_goes_further_back(place: Place) -> None:
    publish(place, 1, 2, 3)
    assert place.json("rollback", KEY)["back_to"] == 2
    assert place.json("rollback", KEY)["back_to"] == 1
    refused = place.run("rollback", KEY, "--yes")
    assert refused.exit_code == 1
    assert "no version before" in refused.output


def test_what_stood_before_may_have_been_gone_back_to_itself(place: Place) -> None:
    publish(place, 1)
    first = objects(place)
    publish(place, 2)
    place.json("rollback", KEY)
    publish(place, 4)
    # Not to the second, which somebody went back from.
    done = place.json("rollback", KEY)
    assert (done["version"], done["back_to"]) == (5, 1)
    assert objects(place) == first


def test_what_was_withdrawn_is_had_back(place: Place) -> None:
    publish(place, 1, 2)
    second = objects(place)
    place.json("withdraw", KEY)
    place.json("rollback", KEY)
    assert objects(place) == second
    assert [one["state"] for one in versions(place)] == ["replaced", "published"]


def test_what_is_no_other_version_is_refused_and_nothing_is_touched(place: Place) -> None:
    publish(place, 1, 2)
    before = objects(place)
    for to in ("0", "7", "-1", "two", "../1", "²", "", "9" * 40):
        refused = place.run("rollback", KEY, "--yes", "--to", to)
        assert refused.exit_code in (1, 2), to
        assert "Traceback" not in refused.output
        assert "history" in refused.output
    refused = place.run("rollback", KEY, "--yes", "--to", "2")
    assert refused.exit_code == 1
    assert "is what is published" in refused.output
    assert objects(place) == before


def test_nobody_goes_back_without_being_asked(place: Place) -> None:
    publish(place, 1, 2)
    before = objects(place)
    said = place.run("rollback", KEY, stdin="n\n")
    assert said.exit_code == 1
    assert "Publish version 1 of toy:one again, where version 2 is published?" in said.output
    assert objects(place) == before


@pytest.mark.slow
def test_a_version_whose_raw_parts_are_gone_cannot_be_published_again(place: Place) -> None:
    publish(place, 1, 2)
    older = versions(place)[0]["files"][0]["sha256"]
    (place.home / "lake" / RUN.folder / "raw_dojo_output" / "parts" / f"{older}.parquet").unlink()
    refused = place.run("rollback", KEY, "--yes")
    assert refused.exit_code == 1
    assert "the raw parts that version 1 was made of are gone. Of 2 they are there" in refused.output
    assert [one["kept"] for one in versions(place)] == [False, True]
    # Its tables are there still, and can be compared.
    assert place.json("diff", f"{KEY}@1", f"{KEY}@2")["figures"]["changed"] > 0


def test_what_was_withdrawn_with_its_parts_is_not_listed_as_kept(place: Place) -> None:
    publish(place, 1, 2)
    place.json("withdraw", KEY, "--parts")
    assert [one["kept"] for one in versions(place)] == [False, False]
    refused = place.run("rollback", KEY, "--yes", "--to", "1")
    assert refused.exit_code == 1
    assert "the raw parts that version 1 was made of are gone. Of no version they are there" in refused.output
    publish(place, 1)
    assert [(one["number"], one["kept"]) for one in versions(place)] == [(1, True), (2, False), (3, True)]


@pytest.mark.slow
def test_tables_that_were_damaged_are_made_anew_from_the_parts(place: Place) -> None:
    publish(place, 1)
    first = objects(place)
    publish(place, 2)
    (version,) = [one["input_version"] for one in versions(place) if one["number"] == 1]
    for file in (place.home / "lake" / RUN.folder / "grid_cells" / version).rglob("*.parquet"):
        file.unlink()
    place.json("rollback", KEY)
    assert objects(place) == first
    assert place.run("verify", KEY).exit_code == 0


@pytest.mark.parametrize(
    ("model", "run"),
    [("a b", "ü:1"), pytest.param("%2E", "history", marks=pytest.mark.slow), ("q?#", "tables")],
)
def test_names_may_be_anything_that_can_be_published(place: Place, model: str, run: str) -> None:
    key = ModelRun(model, run).key
    part = place.home / "part.parquet"
    part.parent.mkdir(parents=True)
    for value in VALUES[:2]:
        pq.write_table(rows(value=value, feature=["...", "a/b", "é", "tables"]), part)
        said = place.run("publish", str(part), "--model-id", model, "--run-id", run, "--quiet")
        assert said.exit_code == 0, said.output
    place.json("rollback", key)
    assert [one["back_to"] for one in versions(place, key)] == [None, None, 1]
    assert place.run("verify", key).exit_code == 0


# --- as a job, and what others are told --------------------------------------------------------------


def test_the_job_goes_back_and_causemos_is_told_as_of_any_publication(house: House) -> None:
    run = ModelRun("model", "run")
    house.publish(rows(value=VALUES[0]), doc_ids=["one"])
    first = checksums(house.bucket())
    house.publish(rows(value=VALUES[1]), doc_ids=["two"])
    done = house.run_job("rollback_datacube", run)
    assert done.success
    assert checksums(house.bucket()) == first
    assert is_full(done.dagster_run)
    # Run again by Dagster, because it died at its very end: it goes no further back.
    (newest,) = [one for one in open_history(house.settings, run).listed() if one.is_published]
    history = open_history(house.settings, run)
    assert history.target("previous", done.run_id).origin == newest.version.origin == 1


def sensed(house: House, version: str, change: int = 0) -> dict[str, str]:
    return {SOURCE_TAG: "dojo", VERSION_TAG: version, CHANGE_TAG: str(change)}


def test_a_sensor_does_not_publish_again_what_somebody_went_back_from(house: House) -> None:
    run = ModelRun("model", "run")
    publish_sensed(house, 1, "v1", 0)
    publish_sensed(house, 2, "v2", 1)
    house.run_job("rollback_datacube", run)
    first = objects_of(house)
    history = open_history(house.settings, run)
    newest = history.newest()
    assert newest is not None
    assert newest.held == (State("v2", 1),)
    # A run that waited meanwhile, and one that Dagster repeats.
    publish_sensed(house, 2, "v2", 1)
    assert objects_of(house) == first
    assert len(history.versions()) == 3
    # Something newer, and then, as Dojo has it again, what was held.
    publish_sensed(house, 3, "v3", 2)
    third = objects_of(house)
    assert third != first
    publish_sensed(house, 2, "v2", 3)
    assert objects_of(house) not in (first, third)
    assert [one.back_to for one in history.versions()] == [None, None, 1, None, None]


def test_a_backfill_does_not_undo_that_somebody_went_back(house: House) -> None:
    run = ModelRun("model", "run")
    house.publish(rows(value=VALUES[0]))
    house.publish(rows(value=VALUES[1]))
    second = objects_of(house)
    house.run_job("rollback_datacube", run)
    first = objects_of(house)
    assert first != second
    assert house.run_job("process_model_run", run, tags={BACKFILL_TAG: "abc"}).success
    assert objects_of(house) == first
    assert [one.back_to for one in open_history(house.settings, run).versions()] == [None, None, 1]
    # Unless everything is to be made anew.
    scratch = {BACKFILL_TAG: "abc", FROM_SCRATCH: "yes"}
    assert house.run_job("process_model_run", run, tags=scratch).success
    assert objects_of(house) == second


@pytest.mark.slow
def test_what_is_held_may_be_published_when_dojo_comes_back_to_it(house: House) -> None:
    """The change between may never have been published: its run failed, say."""
    publish_sensed(house, 1, "v1", 0)
    publish_sensed(house, 2, "v2", 1)
    second = objects_of(house)
    house.run_job("rollback_datacube", ModelRun("model", "run"))
    publish_sensed(house, 2, "v2", 3)
    assert objects_of(house) == second


@pytest.mark.slow
def test_a_person_publishes_what_is_held(house: House) -> None:
    publish_sensed(house, 1, "v1", 0)
    publish_sensed(house, 2, "v2", 1)
    second = objects_of(house)
    house.run_job("rollback_datacube", ModelRun("model", "run"))
    house.publish(rows(value=VALUES[1]))
    assert objects_of(house) == second


def objects_of(house: House) -> dict[str, str]:
    return checksums(house.bucket())


def publish_sensed(house: House, version: int, source: str, change: int) -> None:
    """Publish as a run that the sensor for Dojo has started."""
    part = house.write(rows(value=VALUES[version - 1]), f"{version}.parquet")
    request = DatacubeRequest(model_id="model", run_id="run", data_paths=(part,), source_version=source)
    run = leave_request(Lake(open_store(house.settings.lake)), request)
    house.instance.add_dynamic_partitions("model_runs", [run.key])
    job = build_definitions(house.settings, loggers={"quiet": QUIET}).resolve_job_def("process_model_run")
    done = job.execute_in_process(
        partition_key=run.key,
        instance=house.instance,
        tags=sensed(house, source, change),
        run_config={"loggers": {"quiet": {}}},
    )
    assert done.success


# --- on S3 -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_on_s3_it_is_the_same(s3_server: S3Server, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"history {os.urandom(4).hex()}"
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    for name, bucket in (("DATACUBE_LAKE", "lake"), ("DATACUBE_MODELS_BUCKET", "models")):
        monkeypatch.setenv(name, f"s3://{bucket}/{prefix}")
    publish(place, 1, 2, 3, 4)
    assert [one["kept"] for one in versions(place)] == [False, True, True, True]
    assert place.json("rollback", KEY)["back_to"] == 3
    assert place.json("rollback", KEY, "--to", "2")["back_to"] == 2
    assert place.run("verify", KEY).exit_code == 0
    assert place.json("gc", "--older-than", "0m")["orphans"] == 0
    assert place.json("history", KEY)["published"] == 6


# --- killed on the way -------------------------------------------------------------------------------

SOME = ("table written", "some objects published", "results.json written")
EVERY = (
    "lease taken", "request resolved", "results forgotten", "results.json withdrawn", "objects written down",
    "all objects published", "manifest written",
    "version written down", "results.json about to be written", "run finished",
)  # fmt: skip


@pytest.mark.parametrize("points", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"])
def test_killed_anywhere_it_ends_in_one_version_or_the_other(place: Place, points: tuple[str, ...]) -> None:
    publish(place, 1)
    first = objects(place)
    publish(place, 2)
    second = objects(place)
    for number, point in enumerate(points):
        to, target = ("1", first) if number % 2 == 0 else ("2", second)
        arguments = ["rollback", KEY, "--yes", "--to", to]
        assert not command(arguments, {"DATACUBE_HOME": str(place.home)}, Nth(1, point)), point
        there = objects(place)
        if "results/results.json" in there:
            assert there in (first, second), point
        document = place.json("history", KEY)
        assert document["published"] is None or "results/results.json" in there
        again = place.run("rollback", KEY, "--yes", "--to", to)
        assert again.exit_code == 0 or "is what is published" in again.output, again.output
        assert objects(place) == target, point
        assert place.json("history", KEY)["published"] is not None
    # One that died after it had published all, and before it cleared away, may leave what it replaced; one
    # that died anywhere, what its threads were writing.
    found = place.json("gc", "--older-than", "0m", "--delete")
    assert found["unfinished"] == [], "it is not passed over"
    assert {one["kind"] for one in found["found"]} <= {"trace of a publication", "unfinished write"}
    assert place.json("gc", "--older-than", "0m")["orphans"] == 0
    assert objects(place) == target
    assert place.run("verify", KEY).exit_code == 0
