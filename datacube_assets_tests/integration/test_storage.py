"""Stores and the publishing protocol, on real folders."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.encode import JSON, Objects
from datacube_assets.kernels.key_safety import UnsafeKeyError, check_keys
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import (
    RESULTS_ASSET,
    IncompleteDatacubeError,
    Publication,
    Published,
    complete,
    manifest,
    manifest_entries,
)
from datacube_assets.storage.stores import MissingObjectError

UNSAFE = [
    "",
    ".",
    "..",
    "../x",
    "a/../x",
    "a/..",
    "a/./x",
    "/etc/x",
    "a//x",
    "a/",
    "a\x00b",
    "a\n/../x",
]
SAFE = [
    "a",
    "a/b",
    "..a",
    "a..",
    "...",
    "a b",
    "é/ü",
    "-1-0-0-0.tile",
    'a"b,c',
    "a\\b",
    "%2E%2E",
    "~x",
    "a\nb",
    "a\n../x",
    "a\tb",
    "a\rb",
    "\x7f",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a bücket, 100 %"
    folder.mkdir()
    return folder


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root.as_uri())


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --- the local store -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", UNSAFE, ids=repr)
@pytest.mark.parametrize(
    "act",
    [
        lambda store, key, _: store.get(key),
        lambda store, key, _: store.put(key, b"x"),
        lambda store, key, _: store.put_many(["fine", key], [b"x", b"x"], JSON),
        lambda store, key, file: store.put_file(key, file),
        lambda store, key, _: store.delete_many(["fine", key]),
        lambda store, key, _: store.local_path(key),
    ],
    ids=["get", "put", "put_many", "put_file", "delete_many", "local_path"],
)
def test_a_key_that_could_leave_the_store_is_refused_and_nothing_is_touched(
    store: LocalStore, root: Path, act: Callable[[LocalStore, str, Path], object], key: str
) -> None:
    (root.parent / "x").write_bytes(b"outside")
    source = root.parent / "source"
    source.write_bytes(b"source")
    with pytest.raises(UnsafeKeyError):
        act(store, key, source)
    assert files(root.parent) == {"x": b"outside", "source": b"source"}


def test_a_listing_cannot_leave_the_store_either(store: LocalStore) -> None:
    with pytest.raises(UnsafeKeyError):
        list(store.list("../"))


@pytest.mark.parametrize("key", SAFE)
def test_odd_names_that_stay_inside_are_stored_and_found_as_they_are(
    store: LocalStore, root: Path, key: str
) -> None:
    store.put(key, b"one")
    store.put_many([key], [b"two"], JSON)
    assert store.get(key) == b"two"
    assert list(store.list("")) == [(key, 3)]
    assert files(root) == {key: b"two"}


def test_one_unsafe_key_among_many_is_named() -> None:
    with pytest.raises(UnsafeKeyError, match=r"'b/\.\./c'"):
        check_keys(["a", "b/../c", "d"])


def test_a_reader_never_sees_half_an_object(store: LocalStore) -> None:
    bodies = [bytes([number]) * 1_000_000 for number in range(2)]
    store.put("object", bodies[0])
    done = threading.Event()

    def write() -> None:
        for number in range(40):
            store.put("object", bodies[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(store.get("object"))
    writer.join()
    assert seen <= set(bodies)


def test_a_write_that_fails_leaves_the_old_object_and_no_trace(store: LocalStore, root: Path) -> None:
    store.put("object", b"old")
    with pytest.raises(TypeError):
        store.put("object", "text is no body")  # type: ignore[arg-type]
    assert files(root) == {"object": b"old"}


def test_a_file_is_moved_in_whole(store: LocalStore, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"body")
    store.put("a/object", b"old")
    store.put_file("a/object", source)
    assert files(root) == {"a/object": b"body"}
    assert not source.exists()


def test_traces_of_a_killed_write_are_not_listed(store: LocalStore, root: Path) -> None:
    store.put("a/object", b"body")
    (root / "a" / ".writing-abc").write_bytes(b"half")
    assert list(store.list("a/")) == [("a/object", 4)]


def test_traces_of_killed_writes_are_swept_beside_the_keys_named_and_younger_ones_are_left(
    store: LocalStore, root: Path
) -> None:
    store.put_many(["a/object", "b/object"], [b"1", b"2"], JSON)
    for folder in ("a", "b", "gone"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / ".writing-abc").write_bytes(b"half")
    (root / "a" / ".writing-folder").mkdir()
    (root / "a" / ".writing-folder" / "part").write_bytes(b"half")
    now = time.time()
    store.sweep(["a/object"], now - 60)
    assert (root / "a" / ".writing-abc").exists(), "somebody may be writing it"
    store.sweep(["a/object", "gone/object", "never/there"], now + 1)
    assert files(root) == {"a/object": b"1", "b/object": b"2", "b/.writing-abc": b"half"}
    assert not (root / "gone").exists()


def test_a_write_whose_unfinished_file_is_swept_is_written_again(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    swept: list[str] = []

    def replace_too_late(source: str, target: str) -> None:
        if not swept:
            swept.append(source)
            store.sweep(["a/object"], time.time() + 1)
        replace(source, target)

    store.put("a/object", b"old")
    monkeypatch.setattr(os, "replace", replace_too_late)
    store.put("a/object", b"new")
    assert swept
    assert files(root) == {"a/object": b"new"}


def test_deleting_removes_folders_that_become_empty_but_neither_others_nor_the_root(
    store: LocalStore, root: Path
) -> None:
    store.put_many(["a/b/c/one", "a/two", "d/e/three"], [b"1", b"2", b"3"], JSON)
    store.delete_many(["a/b/c/one", "d/e/three", "never/was/there"])
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == ["a", "a/two"]
    store.delete_many(["a/two"])
    assert list(root.iterdir()) == []


def test_folders_are_made_while_others_remove_them_as_empty(
    store: LocalStore, root: Path, tmp_path: Path
) -> None:
    """As one step does that withdraws results.json beside another that publishes its first objects."""
    over = threading.Event()

    def delete() -> None:
        while not over.wait(1e-4):
            store.delete_many(["run/results/results.json", "run/month/a/b/c/d.csv", "run/month/file"])

    deleting = [threading.Thread(target=delete) for _ in range(2)]
    for one in deleting:
        one.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            store.put_many(["run/month/a/b/c/d.csv", "run/month/a/b/e.csv"], [b"1", b"2"], "text/csv")
            store.put("run/results/results.json", b"{}")
            (moved := tmp_path / "moved").write_bytes(b"3")
            store.put_file("run/month/file", moved)
            assert store.get("run/month/a/b/e.csv") == b"2"
            store.delete_many(["run/month/a/b/e.csv"])
    finally:
        over.set()
        for one in deleting:
            one.join()


def test_what_is_not_there_is_missing_and_deleting_it_is_no_error(store: LocalStore) -> None:
    store.put("folder/object", b"1")
    for key in ("nothing", "folder", "folder/object/below"):
        with pytest.raises(MissingObjectError):
            store.get(key)
        store.delete_many([f"{key}/x"])
    assert store.get("folder/object") == b"1"


def test_a_listing_holds_a_folder_and_not_its_neighbours(store: LocalStore) -> None:
    store.put_many(["a/1", "a/b/2", "ab/3"], [b"1", b"22", b"333"], JSON)
    assert sorted(store.list("a/")) == [("a/1", 1), ("a/b/2", 2)]
    assert sorted(store.list("")) == [("a/1", 1), ("a/b/2", 2), ("ab/3", 3)]
    assert list(store.list("nowhere/")) == []


def test_what_goes_while_a_folder_is_listed_is_passed_over(store: LocalStore) -> None:
    keys = [f"a/{number}" for number in range(100)]
    store.put_many(keys, [b"1"] * len(keys), JSON)
    listing = store.list("a/")
    first = next(listing)
    store.delete_many(keys)
    assert [first, *listing] == [first]
    assert list(store.list("a/")) == []


def test_an_address_that_no_store_speaks_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ftp://host/folder"):
        open_store("ftp://host/folder")


# --- publishing ------------------------------------------------------------------------------------

RUN = ModelRun("model", "run")
RESULTS = "model/run/results/results.json"
Bodies = Mapping[str, bytes]


class Publishing:
    """A lake and a bucket, and attempts at publishing the asset `maps` into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = Lake(LocalStore((folder / "lake").as_uri()))
        self.bucket = LocalStore((folder / "bucket").as_uri())
        self._attempts = 0

    def begin(self, version: str = "v1", asset: str = "maps") -> Publication:
        self._attempts += 1
        return Publication.begin(self.lake, self.bucket, RUN, asset, version, f"attempt-{self._attempts}")

    def publish(self, *works: Bodies, version: str = "v1", asset: str = "maps") -> Published:
        """Publish pieces of work to the end."""
        publication = self.begin(version, asset)
        done = {
            f"work-{number}": publication.publish(f"work-{number}", [Objects.of(work, JSON)])
            for number, work in enumerate(works)
        }
        total = sum((published for published, _ in done.values()), Published())
        return publication.finish(total, {name: names for name, (_, names) in done.items()})

    def die_after(self, *works: Bodies, version: str = "v1") -> None:
        """Publish pieces of work, then vanish."""
        publication = self.begin(version)
        for number, work in enumerate(works):
            publication.publish(f"work-{number}", [Objects.of(work, JSON)])

    def complete(
        self, version: str = "v1", body: bytes = b"{}", *, assets: tuple[str, ...] = ("maps",)
    ) -> Published:
        self._attempts += 1
        return complete(self.lake, self.bucket, RUN, version, f"attempt-{self._attempts}", body, assets)

    def objects(self) -> dict[str, bytes]:
        return {key.removeprefix("model/run/"): body for key, body in files(self.folder / "bucket").items()}


@pytest.fixture
def publishing(tmp_path: Path) -> Publishing:
    return Publishing(tmp_path)


def test_everything_is_published_once_and_written_down(publishing: Publishing) -> None:
    published = publishing.publish({"a": b"1", "b/c": b"22"}, {"d": b"333"})
    assert published == Published(objects=3, bytes=6, put=3, deleted=0)
    assert publishing.objects() == {"a": b"1", "b/c": b"22", "d": b"333"}
    entries = manifest_entries(publishing.lake, RUN, "maps").to_pylist()
    sizes = {entry["key"]: entry["size"] for entry in entries}
    assert sizes == {"model/run/a": 1, "model/run/b/c": 2, "model/run/d": 3}
    head = manifest(publishing.lake, RUN, "maps")
    assert head is not None
    assert (head["version"], head["objects"], head["bytes"]) == ("v1", 3, 6)


def test_the_same_again_writes_nothing_at_all(publishing: Publishing) -> None:
    works = ({"a": b"1", "b": b"2"}, {"c": b"3"})
    publishing.publish(*works)
    before = {path: path.stat().st_mtime_ns for path in (publishing.folder / "bucket").rglob("*")}
    assert publishing.publish(*works) == Published(objects=3, bytes=3, put=0, deleted=0)
    assert {path: path.stat().st_mtime_ns for path in (publishing.folder / "bucket").rglob("*")} == before


def test_only_what_changed_is_written_and_what_vanished_is_deleted(publishing: Publishing) -> None:
    publishing.publish({"a": b"1", "b": b"2", "gone/x": b"3"}, {"also/gone": b"4"})
    published = publishing.publish({"a": b"1", "b": b"!", "new": b"5"}, version="v2")
    assert published == Published(objects=3, bytes=3, put=2, deleted=2)
    assert publishing.objects() == {"a": b"1", "b": b"!", "new": b"5"}
    folder = publishing.folder / "bucket" / "model" / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "new"]


def test_an_object_that_moves_to_another_piece_of_work_stays(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"}, {"b": b"2"})
    publishing.publish({"b": b"2"}, {"a": b"1"})
    assert publishing.objects() == {"a": b"1", "b": b"2"}


def test_publishing_nothing_any_more_deletes_everything(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    assert publishing.publish() == Published(0, 0, put=0, deleted=1)
    assert publishing.objects() == {}


def test_what_an_attempt_wrote_before_it_died_is_not_trusted(publishing: Publishing) -> None:
    publishing.publish({"a": b"1", "b": b"2"})
    publishing.die_after({"a": b"9", "c": b"3"}, version="v2")
    assert publishing.publish({"a": b"1", "b": b"2"}) == Published(2, 2, put=1, deleted=1)
    assert publishing.objects() == {"a": b"1", "b": b"2"}


def test_an_object_cut_short_by_a_crash_is_written_again(publishing: Publishing) -> None:
    publishing.publish({"a": b"old"})
    publishing.die_after({"a": b"a longer body"}, version="v2")
    (publishing.folder / "bucket" / "model" / "run" / "a").write_bytes(b"a lon")
    publishing.publish({"a": b"a longer body"}, version="v2")
    assert publishing.objects() == {"a": b"a longer body"}


def test_several_dead_attempts_are_all_made_good(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"}, {"b": b"2"})
    publishing.die_after({"a": b"x", "one": b"1"}, version="v2")
    publishing.die_after({"a": b"1"}, {"b": b"y", "two": b"2"}, version="v3")
    publishing.publish({"a": b"1"}, {"b": b"2"})
    assert publishing.objects() == {"a": b"1", "b": b"2"}
    assert publishing.publish({"a": b"1"}, {"b": b"2"}).put == 0


def test_traces_of_earlier_attempts_do_not_pile_up_in_the_lake(publishing: Publishing) -> None:
    for number in range(5):
        publishing.die_after({"a": b"%d" % number}, version=f"v{number}")
    publishing.publish({"a": b"1"})
    once = len(files(publishing.folder / "lake"))
    publishing.publish({"a": b"2"}, version="v2")
    assert len(files(publishing.folder / "lake")) == once == 2


def test_another_bucket_gets_everything(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.bucket = LocalStore((publishing.folder / "other").as_uri())
    assert publishing.publish({"a": b"1"}).put == 1
    assert files(publishing.folder / "other") == {"model/run/a": b"1"}


def test_an_unsafe_key_is_not_published(publishing: Publishing) -> None:
    with pytest.raises(UnsafeKeyError):
        publishing.publish({"../../../x": b"1"})
    assert not (publishing.folder / "bucket").exists()
    assert not (publishing.folder / "x").exists()


# --- results.json ----------------------------------------------------------------------------------


def test_results_come_when_every_asset_is_published_from_the_same_input(publishing: Publishing) -> None:
    with pytest.raises(IncompleteDatacubeError, match=r"maps is not published yet\. Materialize maps"):
        publishing.complete()
    publishing.publish({"a": b"1"})
    with pytest.raises(IncompleteDatacubeError, match="lists is not published yet"):
        publishing.complete(assets=("maps", "lists"))
    publishing.publish({"b": b"1"}, asset="lists", version="v2")
    with pytest.raises(IncompleteDatacubeError, match="lists is published from another input"):
        publishing.complete(assets=("maps", "lists"))
    assert set(publishing.objects()) == {"a", "b"}
    publishing.publish({"b": b"1"}, asset="lists")
    assert publishing.complete(assets=("maps", "lists")).put == 1
    assert publishing.objects()["results/results.json"] == b"{}"


def test_results_of_another_input_are_withdrawn_before_the_first_object_is_written(
    publishing: Publishing,
) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete()
    publication = publishing.begin("v2")
    assert publishing.objects() == {"a": b"1"}
    publication.finish(Published(), {})


def test_results_stay_while_the_same_input_is_published_again(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete()
    publishing.begin("v1")
    assert "results/results.json" in publishing.objects()
    publishing.publish({"a": b"1"})
    assert publishing.complete().put == 0
    assert "results/results.json" in publishing.objects()


def test_results_come_back_when_another_input_leads_to_the_same_text(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete(body=b"counts")
    publishing.publish({"a": b"2"}, version="v2")
    publishing.complete("v2", body=b"counts")
    assert publishing.objects() == {"a": b"2", "results/results.json": b"counts"}


def test_results_come_back_when_an_abandoned_change_is_taken_back(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete()
    publishing.die_after({"a": b"2"}, version="v2")
    publishing.publish({"a": b"1"})
    publishing.complete()
    assert publishing.objects() == {"a": b"1", "results/results.json": b"{}"}


def test_results_without_a_record_are_withdrawn_too(publishing: Publishing) -> None:
    publishing.bucket.put(RESULTS, b"of a crash before its record")
    publishing.begin("v1")
    assert publishing.objects() == {}


def test_results_in_another_bucket_do_not_count(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete()
    publishing.bucket = LocalStore((publishing.folder / "other").as_uri())
    with pytest.raises(IncompleteDatacubeError):
        publishing.complete()
    publishing.publish({"a": b"1"})
    publishing.complete()
    assert set(files(publishing.folder / "other")) == {"model/run/a", RESULTS}


def test_manifests_lie_apart_from_the_objects_that_readers_see(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    publishing.complete()
    assert manifest(publishing.lake, RUN, RESULTS_ASSET) is not None
    assert all(name.startswith("runs/model/run/manifests/") for name in files(publishing.folder / "lake"))


def test_names_too_long_for_a_file_are_left_out_and_counted(publishing: Publishing) -> None:
    long = "x" * 300
    published = publishing.publish({"a": b"1", f"{long}.csv": b"2", f"{'y' * 200}/{'z' * 200}": b"3"})
    assert (published.objects, published.put, published.left_out) == (2, 2, 1)
    assert sorted(publishing.objects()) == ["a", f"{'y' * 200}/{'z' * 200}"]


def test_a_manifest_whose_records_are_gone_is_not_believed(publishing: Publishing) -> None:
    publishing.publish({"a": b"1"})
    for fragment in (publishing.folder / "lake").rglob("*.parquet"):
        fragment.unlink()
    assert publishing.publish({"a": b"1"}).put == 1
