"""Operations one after the other, which single tests do not hold: all speak of what stands.

The usual suite takes one short walk through them (`walking.py`). Longer ones, of other seeds, are taken by

    make test ARGS="-m slow -n 2 datacube_assets_tests/integration/test_sequences.py"
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dagster import Failure

from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.orchestration.jobs import ASSET_KEYS, selection
from datacube_assets.partitions import FROM_SCRATCH, WANTED_VERSION
from datacube_assets.read import open_tables
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import leave_request, runs_requested
from datacube_assets_tests.integration.crashing import Nth, command
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set
from datacube_assets_tests.integration.support import checksums, open_house, rows
from datacube_assets_tests.integration.walking import RUN, TABLES, WAYS, Inputs, Walk

OPENING = ("publish", "publish", "roll back", "make tables only", "withdraw", "collect")
"""Steps of the walk that is taken each time; the inputs are the dice's."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with nothing_set():
        yield Place(tmp_path / "home")


def only_tables(place: Place, number: int) -> None:
    """Make the first tables of another input, as a run that fails then, or a person in the UI."""
    part = place.home / "other.parquet"
    pq.write_table(rows(country=["Kenya", "Chad"] * 2, value=[7.0, 7.0, 7.0, 7.0]), part)
    with open_house(place.home) as house:
        request = {"model_id": RUN.model_id, "run_id": RUN.run_id, "data_paths": [str(part)]}
        leave_request(Lake(open_store(house.settings.lake, "")), DatacubeRequest.model_validate(request))
        house.materialize(RUN, *TABLES[:number])


@pytest.mark.parametrize("number", [pytest.param(3, marks=pytest.mark.slow), len(TABLES)])
def test_tables_of_a_run_that_came_no_further_are_not_taken_for_those_of_what_stands(
    number: int, place: Place, tmp_path: Path
) -> None:
    for value in ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 9.0]):
        assert place.publish(value=value).exit_code == 0
    objects = checksums(place.bucket)
    of_toy = checksums(place.bucket / "toy")
    changed = place.json("diff", f"{KEY}@1", f"{KEY}@2")
    assert place.run("export", KEY, str(tmp_path / "before.tar")).exit_code == 0
    only_tables(place, number)

    # Nothing of what is published was touched, so nothing is wrong with it.
    assert checksums(place.bucket) == objects
    assert place.run("verify", KEY).exit_code == 0
    found = place.json("explain", KEY, "--feature", "rain", "--time", "2020-02")
    assert found["figure"]["value"] == 12.0
    assert [row["value"] for row in found["rows"]] == [3.0, 9.0]
    tables = open_tables(place.home / "lake", RUN.model_id, RUN.run_id)
    assert tables.timeseries("rain", figures="s_sum_t_sum")["s_sum_t_sum"].to_pylist() == [3.0, 12.0]
    assert tables.region_ids("rain", "country") == ["Ethiopia", "Kenya"]
    assert tables.is_complete
    now = place.json("diff", f"{KEY}@1", KEY)
    assert {**now, "after": None} == {**changed, "after": None}

    # What writes again what is published does not publish them.
    with open_house(place.home) as house:
        for job in ("republish_datacube", "recompute_tiles"):
            with pytest.raises(Failure, match="are not those of what is published"):
                house.run_job(job, RUN)
        assert checksums(place.bucket) == objects
        shutil.rmtree(place.bucket / "toy")
        tags = {WANTED_VERSION: "2", FROM_SCRATCH: "yes"}
        assert house.run_job("rollback_datacube", RUN, tags).success
    assert checksums(place.bucket / "toy") == of_toy
    only_tables(place, number)

    # What is exported is whole elsewhere, too.
    exported = place.run("export", KEY, str(tmp_path / "after.tar"))
    assert exported.exit_code == 0, exported.output
    there = Place(tmp_path / "there")
    assert there.run("import", str(tmp_path / "after.tar")).exit_code == 0
    assert checksums(there.bucket / "toy") == checksums(place.bucket / "toy")
    assert there.run("verify", KEY).exit_code == 0
    made_from = f"lake/{RUN.folder}/dojo_request/request.json"
    assert str(place.home / "one.parquet.gzip") in (there.home / made_from).read_text()


# --- after a command that died -----------------------------------------------------------------------


def killed(place: Place, name: str) -> None:
    """Publish another input by a command that is killed at a named moment."""
    part = place.home / "two.parquet"
    pq.write_table(rows(value=[1.0, 2.0, 3.0, 9.0]), part)
    arguments = ["publish", str(part), "--model-id", "toy", "--run-id", "one", "--quiet"]
    environment = {"DATACUBE_HOME": str(place.home), "DATACUBE_PICTURES": "no"}
    assert not command(arguments, environment, Nth(1, name))


def test_what_stood_is_a_version_though_its_command_died_before_it_said_so(place: Place) -> None:
    assert place.publish().exit_code == 0
    killed(place, "run finished")
    stood = checksums(place.bucket / "toy")
    assert [one["state"] for one in place.json("history", KEY)["versions"]] == ["replaced", "published"]
    assert place.publish(value=[5.0, 5.0, 5.0, 5.0]).exit_code == 0
    # What CauseMos showed until then is the version before, and it can be had back.
    listed = place.json("history", KEY)["versions"]
    assert [(one["state"], one["kept"]) for one in listed] == [
        ("replaced", True),
        ("replaced", True),
        ("published", True),
    ]
    assert place.json("rollback", KEY)["back_to"] == 2
    assert checksums(place.bucket / "toy") == stood


def test_a_datacube_whose_command_died_can_be_withdrawn_collected_and_is_not_at_work(place: Place) -> None:
    assert place.publish().exit_code == 0
    killed(place, "some objects published")
    # No daemon runs here that would notice.
    (listed,) = place.json("list")
    assert (listed["state"], listed["published"]) == ("FAILED", None)
    assert "the command that processed it died" in listed["error"]
    assert place.run("list", "--failed", "--keys").stdout.split() == [KEY]
    assert place.json("reprocess", "--failed")["asked"] == [KEY]
    assert place.json("gc", "--older-than", "0m")["unfinished"] == [KEY]
    done = place.run("withdraw", KEY, "--yes")
    assert done.exit_code == 0, done.output
    assert checksums(place.bucket / "toy") == {}


# --- after going back --------------------------------------------------------------------------------


def test_tiles_alone_are_made_again_of_the_version_that_somebody_went_back_to(place: Place) -> None:
    assert place.publish().exit_code == 0
    first = checksums(place.bucket / "toy")
    assert place.publish(value=[1.0, 2.0, 3.0, 9.0]).exit_code == 0
    place.json("rollback", KEY)
    # As `requests` starts it.
    assert place.json("reprocess", KEY, "--tasks", "compute_tiles")["asked"] == [KEY]
    with open_house(place.home) as house:
        (asked,) = runs_requested(Lake(open_store(house.settings.lake, "")), 10)
        house.materialize(RUN, *(key.path[-1] for key in selection(asked.tasks) or ()))
    assert checksums(place.bucket / "toy") == first
    assert place.run("verify", KEY).exit_code == 0
    # Everything again is what was asked for last.
    with open_house(place.home) as house:
        house.materialize(RUN, *(key.path[-1] for key in ASSET_KEYS))
    assert [one["state"] for one in place.json("history", KEY)["versions"]][-1] == "published"
    assert checksums(place.bucket / "toy") != first


# --- at random ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    with nothing_set():
        yield Inputs(tmp_path_factory.mktemp("inputs"))


def test_after_every_step_what_stands_is_what_is_told(inputs: Inputs, quick_folder: Path) -> None:
    walk = Walk(inputs, quick_folder, seed=1, names=("first", "less"))
    with nothing_set():
        for name in OPENING:
            walk.step(name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_no_way_through_the_operations_leads_astray(seed: int, inputs: Inputs, quick_folder: Path) -> None:
    with nothing_set():
        Walk(inputs, quick_folder, seed).walk(WAYS, 20)
