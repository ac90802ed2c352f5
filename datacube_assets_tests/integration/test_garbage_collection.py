"""What nothing refers to is found and deleted; everything else stays, on folders and on a real S3 server."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from datacube_assets.cli import main
from datacube_assets.definitions import defs
from datacube_assets.development.s3_server import S3Server
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.encode import CSV, Objects
from datacube_assets.storage.garbage_collection import Orphans, Search
from datacube_assets.storage.lake import TABLES, Lake, LakeTable
from datacube_assets.storage.leases import Holder, acquire
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.ownership import settled
from datacube_assets.storage.publishing import Publication, complete, manifests_folder, standing
from datacube_assets.storage.stores import Store

RUN = ModelRun("a model", "run/1".replace("/", "-"))
LATER = 1e12
"""A time by which everything is old."""


@dataclass
class Place:
    """A lake and a bucket with one complete datacube of two objects."""

    lake: Lake
    bucket: Store

    def publish(self, *keys: str, asset: str = "grid_stats", die: bool = False, text: str = "x") -> None:
        publication = Publication.begin(
            self.lake, self.bucket, RUN, asset, f"version {text}", uuid.uuid4().hex
        )
        objects = Objects.of({key: text.encode() for key in keys}, CSV)
        published, names = publication.publish("work", [objects])
        if not die:
            publication.finish(published, {"work": names})

    def complete(self) -> None:
        complete(self.lake, self.bucket, RUN, "version x", uuid.uuid4().hex, b"{}", ["grid_stats"])

    def table(self, version: str, *, die: bool = False) -> LakeTable:
        folder = self.lake.table_folder(RUN, "grid_cells", version)
        file = self.lake.write_file(folder, "month/default/00000", pa.table({"a": [1]}))
        table = LakeTable(folder, version, (file,))
        if not die:
            self.lake.commit(RUN, "grid_cells", table)
        return table

    def search(self, before: float = LATER, **more: Any) -> Search:
        return Search(
            lake=self.lake,
            before=before,
            bucket_of=lambda _: self.bucket,
            open_bucket=lambda _: self.bucket,
            **more,
        )

    def found(self, before: float = LATER, **more: Any) -> list[Orphans]:
        return list(self.search(before, **more).orphans())

    def everything(self) -> set[str]:
        return {key for store in (self.lake.store, self.bucket) for key, _ in store.list("")}


@pytest.fixture(params=["folder", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "folder":
        lake, bucket = (open_store((tmp_path / name).as_uri()) for name in ("lake", "models"))
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        prefix = uuid.uuid4().hex
        lake, bucket = (open_store(f"s3://{name}/{prefix}", server.endpoint) for name in ("lake", "models"))
    found = Place(Lake(lake), bucket)
    found.table("one")
    found.publish("a.csv", "b.csv")
    found.complete()
    return found


def kinds(found: list[Orphans]) -> list[str]:
    return sorted(orphan.kind for orphans in found for orphan in orphans.found)


def test_where_nothing_died_there_is_nothing_to_collect(place: Place) -> None:
    place.lake.write_document("requests/waiting/1.json", {})
    place.lake.write_document("reports/waiting/1.0.json", {})
    place.lake.write_document("sensors/dojo/known.json", {})
    place.lake.write_document(f"{RUN.folder}/requested/request.json", {})
    place.lake.write_document(f"{RUN.folder}/dojo_request/request.json", {})
    place.lake.write_document(f"{RUN.folder}/notes/of-somebody.json", {})
    place.lake.write_document("of-somebody.json", {})
    place.bucket.put("other/run/of-others.csv", b"x")
    assert place.found() == []


def test_what_dead_runs_left_is_deleted_and_everything_else_stays(place: Place) -> None:
    before = place.everything()
    place.table("two", die=True)
    place.lake.write_file(f"{RUN.folder}/temporal_cells/never", "month-00000", pa.table({"a": [1]}))
    place.publish("a.csv", "stray.csv", die=True)
    place.bucket.put(f"{RUN.prefix}older stray.csv", b"x")
    place.lake.write_document("reports/settled/gone.1.json", {})
    place.lake.write_document("reports/settled/known.1.json", {})
    # The publication withdrew nothing: it is of the same version. So it stays complete throughout.
    assert f"{RUN.prefix}results/results.json" in place.everything()
    found = place.found(known_run=lambda run_id: run_id == "known")
    assert kinds(found) == [
        *["file of an abandoned table"] * 2,
        "old report",
        *["stray object"] * 2,
        "trace of a publication",
    ]
    assert place.everything() > before
    for orphans in found:
        orphans.delete()
    assert place.everything() == before | {"reports/settled/known.1.json"}
    assert standing(place.lake, place.bucket, RUN, "grid_stats", "version x")
    assert place.found(known_run=lambda run_id: run_id == "known") == []


def test_requests_whose_runs_dagster_has_forgotten_are_found(place: Place) -> None:
    for name in ("waits", "known", "gone"):
        place.lake.write_document(f"requests/started/{name}.json", {})
        place.lake.write_document(f"requests/joined/{name}/more.json", {})
    place.lake.write_document("requests/waiting/waits.json", {})
    before = place.everything()
    found = place.found(known_request=lambda name: name == "known")
    assert kinds(found) == ["old request"] * 2
    for orphans in found:
        orphans.delete()
    assert before - place.everything() == {"requests/started/gone.json", "requests/joined/gone/more.json"}


def test_what_is_young_is_left_alone(place: Place) -> None:
    place.table("two", die=True)
    place.publish("stray.csv", die=True)
    assert place.found(before=time.time() - 60) == []


def test_what_a_run_is_at_work_on_is_left_alone(place: Place) -> None:
    place.table("two", die=True)
    assert place.found(busy=lambda run: run == RUN) == []


def test_a_trace_of_objects_that_may_be_wrong_is_kept_until_the_next_run(place: Place) -> None:
    place.publish("a.csv", "stray.csv", text="y", die=True)
    (found,) = place.found()
    assert found.unfinished
    # a.csv is not as the manifest says. Without the trace, no run would write it again.
    assert not [orphan for orphan in found.found if "/grid_stats/" in orphan.entry.key]
    found.delete()
    place.publish("a.csv", "b.csv")
    assert place.bucket.get(f"{RUN.prefix}a.csv") == b"x"
    place.complete()
    assert place.found() == []


def test_a_publication_that_died_before_its_first_manifest_is_collected_whole(place: Place) -> None:
    before = place.everything()
    place.publish("first.csv", asset="region_lists", die=True)
    for orphans in place.found():
        orphans.delete()
    assert place.everything() == before


def test_objects_that_others_published_into_a_bucket_of_ours_are_not_strays(place: Place) -> None:
    other = ModelRun("a model", "other")
    place.bucket.put(f"{other.prefix}results/results.json", b"{}")
    # Known here, though never published from here.
    folder = place.lake.table_folder(other, "grid_cells", "one")
    place.lake.commit(other, "grid_cells", LakeTable(folder, "one", ()))
    assert place.found() == []


def test_what_a_run_makes_between_look_and_deletion_stays(place: Place) -> None:
    before = place.everything()
    place.table("two", die=True)
    place.publish("a.csv", "b.csv", "stray.csv", die=True)
    place.bucket.put(f"{RUN.prefix}older stray.csv", b"x")
    found = place.found()
    assert len(found) == 1
    # A run begins exactly now, makes good what died, and is through before the deletion.
    place.table("two")
    place.publish("a.csv", "b.csv", "stray.csv")
    place.complete()
    after = place.everything()
    assert {orphan.entry.key for orphan in found[0].delete()} == {f"{RUN.prefix}older stray.csv"}
    assert place.everything() == after - {f"{RUN.prefix}older stray.csv"}
    assert f"{RUN.prefix}stray.csv" in place.everything() - before


def test_nothing_is_deleted_while_somebody_publishes(place: Place) -> None:
    place.publish("stray.csv", die=True)
    (found,) = place.found()
    tenure = acquire(place.bucket, RUN, Holder("home", "a run"))
    before = place.everything()
    assert found.delete() == []
    assert place.everything() == before
    tenure.release()
    assert found.delete()
    assert place.everything() < before


def test_a_document_that_is_written_again_between_look_and_deletion_stays(place: Place) -> None:
    for name in ("gone", "told"):
        place.lake.write_document(f"reports/settled/{name}.1.json", {})
    (found,) = place.found(known_run=lambda _: False)
    place.lake.write_document("reports/settled/told.1.json", {"again": True})
    assert [orphan.entry.key for orphan in found.delete()] == ["reports/settled/gone.1.json"]
    assert place.lake.read_document("reports/settled/told.1.json") == {"again": True}


def test_what_another_home_has_published_since_is_no_stray(place: Place, tmp_path: Path) -> None:
    mine = Place(Lake(open_store((tmp_path / "mine").as_uri())), place.bucket)
    other = Place(Lake(open_store((tmp_path / "other").as_uri())), place.bucket)
    for home, keys in ((mine, ("a.csv", "b.csv")), (other, ("c.csv",))):
        tenure = acquire(place.bucket, RUN, Holder(home.lake.store.url, f"run of {keys}"))
        owned = Place(home.lake, settled(home.lake, tenure, "version x"))
        owned.publish(*keys)
        owned.complete()
        tenure.release()
    before = place.everything()
    mine.publish("d.csv", die=True)
    place.bucket.delete_many([f"{RUN.prefix}d.csv"])
    assert [orphan for orphans in mine.found() for orphan in orphans.found] == []
    assert place.everything() == before


def test_a_write_that_broke_off_leaves_nothing_for_long(tmp_path: Path) -> None:
    lake = Lake(open_store(tmp_path.as_uri()))
    for folder in ("requests/waiting", f"{RUN.folder}/grid_cells", "reports/settled", "sensors/dojo"):
        (tmp_path / folder / ".writing-dir").mkdir(parents=True)
        (tmp_path / folder / ".writing-dir" / "part").write_bytes(b"x")
        (tmp_path / folder / ".writing-abc").write_bytes(b"x")
    assert list(lake.store.list("")) == []
    place = Place(lake, lake.store)
    found = place.found()
    assert kinds(found) == ["unfinished write"] * 8
    for orphans in found:
        orphans.delete()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_tables_that_are_looked_through_are_those_of_the_assets() -> None:
    keeping = {
        key.path[-1]
        for definition in defs.resolve_all_asset_specs()
        for key in [definition.key]
        if "parquet" in definition.kinds
    }
    assert keeping == TABLES
    assert manifests_folder(RUN).startswith(RUN.folder)


def test_the_command_changes_nothing_until_it_is_told_so(
    quick_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("DATACUBE_", "DOJO_", "DAGSTER_HOME"))]:
        monkeypatch.delenv(name)
    # What the command sets for its own process would stay.
    monkeypatch.setenv("DAGSTER_HOME", str(quick_folder / "dagster"))
    (quick_folder / "dagster").mkdir()
    lake = open_store((quick_folder / "lake").as_uri())
    bucket = open_store((quick_folder / "buckets" / "models").as_uri())
    place = Place(Lake(lake), bucket)
    place.publish("a.csv")
    place.complete()
    before = place.everything()
    place.table("two", die=True)
    after = place.everything()

    def gc(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["gc", "--json", "--home", str(quick_folder), *options])
        assert done.exit_code == 0, done.output
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    assert gc()["orphans"] == 0
    found = gc("--older-than", "0")
    assert (found["orphans"], found["deleted"]) == (1, False)
    assert found["found"][0]["kind"] == "file of an abandoned table"
    assert place.everything() == after
    assert gc("--older-than", "0", "--delete")["deleted"]
    assert place.everything() == before
    told = CliRunner().invoke(main, ["gc", "--home", str(quick_folder), "--older-than", "soon"])
    assert "give days, hours or minutes" in told.output
