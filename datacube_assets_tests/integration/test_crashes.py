"""Killed anywhere: what is left never passes for a whole datacube, and the next try makes it one.

The usual suite dies at every point that has a name, once in folders and once on S3. That every single
moment between two changes is as safe is tried by

    make test ARGS="-m slow -n 2 datacube_assets_tests/integration/test_crashes.py"
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dagster import DagsterRunStatus

from datacube_assets.development.s3_server import S3Server
from datacube_assets.storage.reports import Outbox
from datacube_assets.storage.stores import is_own
from datacube_assets_tests.integration.crashing import POINTS, Nth, Traps, command, names, watching
from datacube_assets_tests.integration.support import House, checksums, open_house, rows
from datacube_assets_tests.integration.system import MODEL, System, system, wait_for

pytestmark = pytest.mark.timeout(900)

RESULTS = "model/run/results/results.json"
OLD = rows(crop=list("abab"))
NEW = rows(country=["Kenya", "Chad"] * 2, crop=list("abca"), value=[1.0, 2.0, 3.0, 5.0]).slice(0, 3)
"""A country, a region of it and a crop vanish, others come; what stays has other numbers."""
REQUEST: dict[str, Any] = {"qualifier_map": {"rain": ["crop"]}}

REPORTS = ("outcome about to be written down", "outcome written down", "report sent", "report settled")
"""Points of the sensor, which no run passes."""
ON_S3 = (
    "some objects published",
    "stale ones deleted",
    "results.json written",
)
"""Points that are tried there each time."""


@dataclass(frozen=True)
class Place:
    """Where the command publishes to, and what is there."""

    home: Path
    environment: dict[str, str]
    objects: Callable[[], dict[str, str]]
    """MD5 by key."""
    on_s3: bool = False

    def publish(self, part: Path, fate: Nth | None = None) -> bool:
        """Publish a part by the command; whether its process lived to the end."""
        arguments = ("--model-id", "model", "--run-id", "run", "--qualifier-map", '{"rain": ["crop"]}')
        return command(
            ["publish", str(part), *arguments, "--home", str(self.home), "--quiet"], self.environment, fate
        )


@dataclass(frozen=True)
class Versions:
    """Two parts, and the objects that an undisturbed run makes of each."""

    old: Path
    new: Path
    old_objects: dict[str, str]
    new_objects: dict[str, str]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    folder = tmp_path_factory.mktemp("undisturbed")
    made = []
    for name, table in (("old", OLD), ("new", NEW)):
        pq.write_table(table, folder / f"{name}.parquet")
        with open_house(folder / name) as house:
            house.publish(str(folder / f"{name}.parquet"), **REQUEST)
            made.append(checksums(house.bucket()))
    assert made[0].keys() - made[1].keys()
    assert made[1].keys() - made[0].keys()
    return Versions(folder / "old.parquet", folder / "new.parquet", *made)


@pytest.fixture(params=["folders", "s3"])
def place(request: pytest.FixtureRequest, quick_folder: Path) -> Place:
    home = quick_folder / "home"
    # Several shards, so that there are more kinds of files, worked on one after the other.
    environment = {"DATACUBE_DASK_WORKERS": "1", "DATACUBE_SHARD_ROWS": "2"}
    if request.param == "folders":
        return Place(home, environment, lambda: checksums(home / "buckets" / "models"))
    server: S3Server = request.getfixturevalue("s3_server")
    prefix, client = f"crashes {os.urandom(4).hex()}", server.client()
    buckets = {
        name: f"s3://{bucket}/{prefix}"
        for name, bucket in (("DATACUBE_LAKE", "lake"), ("DATACUBE_MODELS_BUCKET", "models"))
    }

    def objects() -> dict[str, str]:
        items = client.list_objects_v2(Bucket="models", Prefix=f"{prefix}/").get("Contents", [])
        assert len(items) < 1000
        named = {item["Key"][len(prefix) + 1 :]: item["ETag"].strip('"') for item in items}
        return {key: tag for key, tag in named.items() if not is_own(key)}

    return Place(home, {**environment, **server.environment(), **buckets}, objects, on_s3=True)


def check_not_mixed(objects: dict[str, str], versions: Versions) -> None:
    """If the datacube says that it is complete, it is one of the two, whole and with nothing beside it."""
    if RESULTS in objects:
        assert objects in (versions.old_objects, versions.new_objects)


def points_of(moments: list[str]) -> list[str]:
    """Names of the points in the order in which they are passed for the first time."""
    return list(dict.fromkeys(name for moment in moments for name in names(moment)))


@pytest.fixture(scope="module")
def moments(versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every moment of publishing the new version over the old one."""
    passed: list[str] = []
    with open_house(tmp_path_factory.mktemp("watched")) as opened:
        house = opened.with_settings(shard_rows=2, dask_workers=1)
        house.publish(str(versions.old), **REQUEST)
        with watching(passed.append):
            house.publish(str(versions.new), **REQUEST)
    return passed


# --- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [pytest.param("folders", marks=pytest.mark.slow), "s3"], indirect=True)
def test_a_run_that_dies_at_every_point_in_turn_is_made_good_by_the_next_try(
    place: Place, versions: Versions, moments: list[str]
) -> None:
    points = points_of(moments)
    assert set(points) == POINTS.keys() - set(REPORTS)
    if place.on_s3:
        points = [name for name in points if name in ON_S3]
    assert place.publish(versions.old)
    assert place.objects() == versions.old_objects
    for name in points:
        assert not place.publish(versions.new, Nth(1, name)), f"it did not come to this: {name}"
        check_not_mixed(place.objects(), versions)
    assert place.publish(versions.new)
    assert place.objects() == versions.new_objects


def test_at_no_moment_there_are_results_over_a_mixture(house: House, versions: Versions) -> None:
    seen: Counter[bool] = Counter()

    def look(moment: str) -> None:
        if "/results/" in moment or " put_many " in moment or " delete_many model/" in moment:
            objects = checksums(house.bucket())
            seen[RESULTS in objects] += 1
            check_not_mixed(objects, versions)

    sharded = house.with_settings(shard_rows=2, dask_workers=1)
    sharded.publish(str(versions.old), **REQUEST)
    with watching(look):
        sharded.publish(str(versions.new), **REQUEST)
        sharded.publish(str(versions.new), from_scratch=True, **REQUEST)
        sharded.publish(str(versions.old), **REQUEST)
    assert checksums(house.bucket()) == versions.old_objects
    assert seen[True] > 3
    assert seen[False] > 300


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_that_dies_at_any_moment_is_made_good_by_the_next_try(
    place: Place, versions: Versions, moments: list[str]
) -> None:
    # Each moment in turn; on S3, where all is the same but slower, every seventh.
    count, step = len(moments), 7 if place.on_s3 else 1
    assert place.publish(versions.old)
    parts = [(versions.new, versions.new_objects), (versions.old, versions.old_objects)]
    deaths = 0
    for number, n in enumerate(range(1, count + 1, step)):
        part, expected = parts[number % 2]
        deaths += not place.publish(part, Nth(n))
        check_not_mixed(place.objects(), versions)
        assert place.publish(part)
        assert place.objects() == expected, f"after dying at moment {n}"
    print(f"{count} moments, {deaths} deaths, none lost")
    assert deaths >= count // step * 0.9


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_that_die_again_and_again_are_made_good_in_the_end(place: Place, versions: Versions) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    assert place.publish(versions.old)
    for _ in range(10):
        for _ in range(chance.randint(2, 6)):
            # Whoever asked may change its mind meanwhile.
            place.publish(chance.choice((versions.new, versions.old)), Nth(chance.randint(1, 400)))
            check_not_mixed(place.objects(), versions)
        part, expected = chance.choice(
            ((versions.new, versions.new_objects), (versions.old, versions.old_objects))
        )
        assert place.publish(part)
        assert place.objects() == expected


# --- the whole system ------------------------------------------------------------------------------


@pytest.fixture
def whole(quick_folder: Path) -> Iterator[System]:
    with system(quick_folder) as opened:
        yield opened


QUICK = ("some objects published", "run finished", "report sent")
ONLY_AGAIN = (
    "table files dropped",
    "stale ones written down",
    "stale ones deleted",
    "traces of attempts deleted",
)
"""Points that only a run passes whose partition was published before."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "points",
    [
        pytest.param(QUICK, id="some"),
        pytest.param([name for name in POINTS if name not in ONLY_AGAIN], id="every"),
    ],
)
def test_under_the_daemon_every_run_that_dies_is_published_and_told_once(
    whole: System, points: Sequence[str]
) -> None:
    traps = Traps(whole.folder / "traps")
    whole.daemon.environment = {**whole.environment, **traps.environment()}
    runs = {name: f"run-{number}" for number, name in enumerate(points) if name not in REPORTS}
    for name in points:
        # Reports bear the number of Dagster's run, which nobody knows yet.
        traps.set(name, "" if name in REPORTS else f"{MODEL}/{runs[name]}/")
    for run in runs.values():
        whole.dojo.finish(run)
    whole.start_daemon()

    def all_told() -> bool:
        if whole.daemon.process is not None and whole.daemon.process.poll() is not None:
            whole.daemon.stop()
            whole.start_daemon()
        return set(ready(whole)) == {*runs.values()} and whole.settled()

    wait_for(all_told, "every run to be told", 120 + 60 * len(points))
    wait_for(lambda: not Outbox(whole.lake).waiting(), "the last report to be settled")
    assert traps.waiting() == []
    twice = [run for run, bodies in ready(whole).items() if len(bodies) > 1]
    # CauseMos answered, and whoever heard it died: nobody can know, so it is told again, the same.
    assert len(twice) == ("report sent" in points)
    assert all(body == ready(whole)[run][0] for run in twice for body in ready(whole)[run])
    folder = whole.settings.home / "buckets" / "models" / MODEL
    made = [checksums(folder / run) for run in runs.values()]
    assert all(objects == made[0] for objects in made), "the runs have the same rows"
    assert "results/results.json" in made[0]
    died = [run for run in whole.runs() if run.status == DagsterRunStatus.FAILURE]
    assert len(died) == len(runs)


def ready(whole: System) -> dict[str, list[Any]]:
    """What CauseMos was told of runs that are ready, by run."""
    told: dict[str, list[Any]] = {}
    for report in whole.causemos.reports():
        assert report["call"] != "processing-failed", report
        if report["call"] == "processing-succeeded":
            told.setdefault(report["body"]["run_id"], []).append(report["body"])
    return told
