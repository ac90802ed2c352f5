"""Datacubes between two places: exported and imported, missing in one of them, other in one of them.

Archives that lie are written by hand; nothing of them may reach a store.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, DagsterRunStatus

from datacube_assets.definitions import build_definitions
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.s3_server import S3Server
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.operations.archive import _sha256
from datacube_assets.orchestration.locks import locked
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import requested, runs_requested
from datacube_assets_tests.integration.operating import KEY, Place, nothing_set
from datacube_assets_tests.integration.support import checksums, rows
from datacube_assets_tests.integration.system import model_document, run_document, success

SECRET = "s3cr3t-signature"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A home with two datacubes, one of which has weights and qualifiers. Only to be read."""
    with nothing_set():
        place = Place(tmp_path_factory.mktemp("between") / "home")
        assert place.publish().exit_code == 0
        assert place.publish("two", crop=["maize", "teff", "maize", "teff"]).exit_code == 0
        yield place


@pytest.fixture(scope="module")
def archive(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "one.tar"
    found = place.json("export", KEY, str(path))
    assert found["partition"] == KEY
    assert found["objects"] == len(checksums(place.object("")))
    return path


# --- export and import -----------------------------------------------------------------------------


def test_an_imported_datacube_is_the_same_in_every_object_and_is_well(
    place: Place, archive: Path, tmp_path: Path
) -> None:
    other = Place(tmp_path / "other")
    answer = other.run("import", str(archive))
    assert answer.exit_code == 0, answer.output
    assert checksums(other.object("")) == checksums(place.object(""))
    times = {path: path.stat().st_mtime_ns for path in other.object("").rglob("*") if path.is_file()}
    assert max(times, key=times.__getitem__).name == "results.json"
    assert other.json("inspect", KEY)["state"] == "well"
    (found,) = other.json("verify", KEY)
    assert found["well"]
    # What is published again from the same rows is known to be there.
    assert other.run("reprocess", KEY).exit_code == 0


def test_equal_datacubes_make_equal_archives(place: Place, archive: Path, tmp_path: Path) -> None:
    os.utime(place.object("results/results.json"))
    assert place.run("export", KEY, str(tmp_path / "again.tar")).exit_code == 0
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_what_is_there_is_replaced_only_when_told_to(archive: Path, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    assert other.publish(value=[5.0, 6.0, 7.0, 8.0], country=["Uganda"] * 4).exit_code == 0
    before = checksums(other.home)
    refused = other.run("import", str(archive))
    assert refused.exit_code == 1
    assert "--replace" in refused.output
    assert checksums(other.bucket) == {
        name.removeprefix("buckets/models/"): sum_
        for name, sum_ in before.items()
        if name.startswith("buckets/models/")
    }
    assert other.run("import", str(archive), "--replace").exit_code == 0
    assert not [name for name in checksums(other.object("")) if "Uganda" in name]
    (found,) = other.json("verify", KEY)
    assert found["well"]


def test_nothing_is_imported_under_a_run_that_is_at_work(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Place(tmp_path / "other")
    assert other.publish(value=[5.0, 6.0, 7.0, 8.0]).exit_code == 0
    before = checksums(other.bucket)
    monkeypatch.setenv("DATACUBE_HOME", str(other.home))
    monkeypatch.setenv("DAGSTER_HOME", str(other.home / "dagster"))
    with DagsterInstance.get() as instance:
        with locked(instance, KEY, str(uuid.uuid4())):
            by_command = other.run("import", str(archive), "--replace")
        started = instance.create_run_for_job(
            build_definitions(Settings.from_environment()).resolve_job_def("process_model_run"),
            tags={"dagster/partition": KEY},
            status=DagsterRunStatus.STARTED,
        )
        by_daemon = other.run("import", str(archive), "--replace")
        instance.report_run_failed(started)
    for answer in (by_command, by_daemon):
        assert answer.exit_code == 1
        assert "a run is at work" in answer.output
    assert checksums(other.bucket) == before
    assert other.run("import", str(archive), "--replace").exit_code == 0


def test_a_datacube_that_is_not_complete_is_not_exported(tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    assert other.publish("bad", value=None).exit_code == 1
    answer = other.run("export", "toy:bad", str(tmp_path / "bad.tar"))
    assert answer.exit_code == 1
    assert "not complete" in answer.output
    assert not list(tmp_path.glob("*.tar*"))


def test_an_object_that_is_gone_ends_the_export_without_a_file(archive: Path, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    assert other.run("import", str(archive)).exit_code == 0
    other.object("year/rain/timeseries/global/global.csv").unlink()
    answer = other.run("export", KEY, str(tmp_path / "out" / "one.tar"))
    assert answer.exit_code == 1
    assert "global.csv" in answer.output
    assert not list(tmp_path.glob("out/*"))


def test_secrets_of_addresses_do_not_travel_in_the_clear(archive: Path, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    assert other.run("import", str(archive)).exit_code == 0
    path = other.home / "lake/runs/toy/one/raw_dojo_output/table.json"
    document = json.loads(path.read_text())
    seal = Seal.of(Settings.model_validate({"DATACUBE_HOME": other.home}).resolved())
    sealed = seal.close(f"https://files.example/a.parquet.gzip?signature={SECRET}")
    # One as it is kept, and one as somebody may have left it there by hand.
    document["info"]["request"]["data_paths"] = [sealed, f"https://user:{SECRET}@files.example/b.parquet"]
    path.write_text(json.dumps(document))
    out = tmp_path / "out.tar"
    assert other.run("export", KEY, str(out)).exit_code == 0
    body = out.read_bytes()
    assert SECRET.encode() not in body
    assert sealed.encode() in body
    assert b"https://files.example/b.parquet" in body


Members = dict[str, bytes]


def _rewritten(source: Path, target: Path, change: Callable[[dict[str, Any], Members], None]) -> Path:
    """An archive whose contents agree with its members, after a change of both."""
    with tarfile.open(source) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    contents = json.loads(members.pop("datacube.json"))
    change(contents, members)
    contents["members"] = [
        {"name": name, "bytes": len(body), "sha256": _sha256(body)} for name, body in members.items()
    ]
    with tarfile.open(target, "w") as tar:
        for name, body in {"datacube.json": json.dumps(contents).encode(), **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return target


def _add(name: str, body: bytes = b"x") -> Callable[[dict[str, Any], Members], None]:
    return lambda contents, members: members.__setitem__(name, body)


def _foreign_key(contents: dict[str, Any], members: Members) -> None:
    name = next(
        name for name in members if name.startswith("lake/manifests/raw_data/") and name.endswith(".parquet")
    )
    table = pq.read_table(io.BytesIO(members[name])).to_pylist()
    table.append({**table[0], "key": "other/run/results/results.json"})
    sink = io.BytesIO()
    schema = pa.schema([("key", pa.string()), ("size", pa.int64()), ("checksum", pa.binary(16))])
    pq.write_table(pa.Table.from_pylist(table, schema), sink)
    members[name] = sink.getvalue()


def _without_results(contents: dict[str, Any], members: Members) -> None:
    del members["objects/results/results.json"]


def _of_another(contents: dict[str, Any], members: Members) -> None:
    contents["run_id"] = "other"


LIES: Mapping[str, Callable[[dict[str, Any], Members], None]] = {
    "a name that climbs": _add("objects/../../../escaped"),
    "an absolute name": _add("/etc/escaped"),
    "a name with an empty part": _add("objects//escaped"),
    "a name in another folder": _add("elsewhere/escaped"),
    "a file that the lake has no room for": _add("lake/secret/escaped.json"),
    "an object that no manifest has": _add("objects/escaped.csv"),
    "a manifest about another datacube": _foreign_key,
    "no results.json": _without_results,
    "documents of another datacube": _of_another,
    "an id that climbs": lambda contents, members: contents.__setitem__("model_id", ".."),
    "an unknown format": lambda contents, members: contents.__setitem__("format", 2),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_archive_that_lies_is_refused_before_anything_is_written(
    lie: str, archive: Path, tmp_path: Path
) -> None:
    other = Place(tmp_path / "deep" / "other")
    bad = _rewritten(archive, tmp_path / "bad.tar", LIES[lie])
    answer = other.run("import", str(bad))
    assert answer.exit_code == 1, lie
    assert "Traceback" not in answer.output
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (other.home / "buckets").exists()
    assert not (other.home / "lake").exists()


def test_an_archive_that_is_damaged_or_breaks_off_is_refused(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    at = whole.index(b"timestamp,s_sum_t_sum")
    for name, body in {
        "damaged": whole[:at] + b"T" + whole[at + 1 :],
        "cut": whole[: len(whole) // 2],
        "none": b"no archive at all",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(body)
        other = Place(tmp_path / f"{name}-home")
        answer = other.run("import", str(tmp_path / name))
        assert answer.exit_code == 1, name
        assert "Traceback" not in answer.output
        assert not (other.home / "buckets").exists()


def test_a_link_in_an_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    bad = tmp_path / "link.tar"
    with tarfile.open(archive) as tar, tarfile.open(bad, "w") as out:
        for one in tar:
            if one.name == "objects/results/results.json":
                link = tarfile.TarInfo(one.name)
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                out.addfile(link)
            else:
                out.addfile(one, tar.extractfile(one))
    other = Place(tmp_path / "other")
    assert other.run("import", str(bad)).exit_code == 1
    assert not (other.home / "buckets").exists()


def test_a_datacube_goes_to_a_bucket_on_s3_and_is_verified_there(
    place: Place, archive: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    other = Place(tmp_path / "other")
    prefix = f"between-{uuid.uuid4().hex[:8]}"
    names = {
        "DATACUBE_LAKE": "lake",
        "DATACUBE_MODELS_BUCKET": "models",
        "DATACUBE_INDICATORS_BUCKET": "indicators",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, bucket in names.items():
            patch.setenv(name, f"s3://{bucket}/{prefix}")
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        answer = other.run("import", str(archive))
        assert answer.exit_code == 0, answer.output
        listed = s3_server.client().list_objects_v2(Bucket="models", Prefix=f"{prefix}/toy/one/")["Contents"]
        newest = max(listed, key=lambda one: one["LastModified"])
        assert len(listed) == len(checksums(place.object("")))
        assert (
            next(one for one in listed if one["Key"].endswith("results.json"))["LastModified"]
            == (newest["LastModified"])
        )
        (found,) = other.json("verify", KEY)
        assert found["recorded"] == found["read"] == found["formatted"] == len(listed)
        key = f"s3://models/{prefix}/toy/one/month/rain/tiles/1577836800000-0-0-0.tile"
        assert other.json("inspect", key)["bins"] == 2
        assert [one["state"] for one in other.json("list")] == ["READY"]
        assert other.run("export", KEY, str(tmp_path / "back.tar")).exit_code == 0
        states = {part["name"]: part["state"] for part in other.json("status", status=1)["parts"]}
        assert states["lake"] == states["models bucket"] == "well"
        agree = other.run("compare", f"s3://models/{prefix}", str(place.bucket), "--run", KEY)
        assert agree.exit_code == 0, agree.output
        s3_server.client().delete_object(Bucket="models", Key=listed[0]["Key"])
        (lacking,) = other.json("verify", KEY, "--no-tables", status=1)
        assert lacking["faults"] == {"missing": 1}
    # Only the bucket that manifests name is another one.
    with tarfile.open(archive) as first, tarfile.open(tmp_path / "back.tar") as back:
        objects = [
            {one.name: tar.extractfile(one).read() for one in tar if one.name.startswith("objects/")}  # type: ignore[union-attr]
            for tar in (first, back)
        ]
    assert objects[0] == objects[1]


# --- sync ------------------------------------------------------------------------------------------


def _environment(folder: Path, home: Path, **variables: str) -> str:
    path = folder / f"{home.name}.env"
    lines = [f"DATACUBE_HOME='{home}'", *(f"{name}={value}" for name, value in variables.items())]
    path.write_text("# an environment\n" + "\n".join(lines) + "\n")
    return str(path)


def test_equal_environments_do_not_differ(place: Place, tmp_path: Path) -> None:
    assert place.run("sync", ".", _environment(tmp_path, place.home)).exit_code == 0
    assert "Nothing differs." in place.run("sync", str(place.bucket), str(place.bucket)).output


def test_what_is_missing_older_or_otherwise_is_told_and_asked_for(
    place: Place, archive: Path, tmp_path: Path
) -> None:
    other = Place(tmp_path / "other")
    assert other.publish(value=[5.0, 6.0, 7.0, 8.0]).exit_code == 0
    assert other.publish("extra").exit_code == 0
    old = other.object("results/results.json")
    os.utime(old, (1, 1))
    target = _environment(tmp_path, other.home)
    found = place.json("sync", ".", target, status=1)
    expected = {"missing": ["toy:two"], "older": [KEY], "different": [], "extra": ["toy:extra"]}
    assert found["datacubes"] == expected
    assert place.json("sync", target, ".", status=1)["datacubes"] == {
        "missing": ["toy:extra"], "older": [], "different": [KEY], "extra": ["toy:two"],
    }  # fmt: skip
    shown = place.run("sync", ".", target)
    assert shown.exit_code == 1
    assert "missing (only the first has it): 1\n  toy:two" in shown.output
    lake = Lake(open_store((other.home / "lake").as_uri()))
    assert runs_requested(lake, 10) == [], "nothing is changed without being told to"
    asked = place.json("sync", ".", target, "--process", status=1)
    assert (asked["asked"], asked["refused"]) == ([KEY, "toy:two"], {})
    assert sorted(one.partition for one in runs_requested(lake, 10)) == [KEY, "toy:two"]
    assert not runs_requested(Lake(open_store((place.home / "lake").as_uri())), 10)


def test_two_dojos_and_what_is_not_processed_yet(place: Place, tmp_path: Path) -> None:
    part = tmp_path / "part.parquet.gzip"
    pq.write_table(rows(), part, compression="gzip")
    first, second = DojoSimulator(), DojoSimulator()
    for dojo, executions in ((first, {"one": 1, "new": 1, "two": 2}), (second, {"one": 1, "two": 1})):
        dojo.put("models", model_document())
        for run, execution in executions.items():
            dojo.put("runs", run_document(run, data_paths=[str(part)], attributes=success(execution)))
        dojo.put("runs", run_document("running"))
    with in_background(first.app()) as url, in_background(second.app()) as other_url:
        dojos = place.json("sync", url, other_url, status=1)
        assert dojos["dojo"] == {"missing": ["toy:new"], "older": [], "different": ["toy:two"], "extra": []}
        assert dojos["datacubes"] is None
        found = place.json("sync", url, ".", status=1)
        assert found["unprocessed"] == ["toy:new"]
        assert place.run("sync", other_url, ".").exit_code == 0
        other = Place(tmp_path / "other")
        target = _environment(tmp_path, other.home, DOJO_URL=url)
        asked = place.json("sync", url, target, "--process", status=1)
    assert asked["asked"] == ["toy:new", "toy:one", "toy:two"]
    lake = Lake(open_store((other.home / "lake").as_uri()))
    assert len(runs_requested(lake, 10)) == 3
    assert other.home != place.home
    assert "DOJO_URL" not in os.environ


def test_a_request_is_handed_over_with_its_addresses_sealed_anew(archive: Path, tmp_path: Path) -> None:
    from datacube_assets.dojo.model_run import ModelRun
    from datacube_assets.storage.requests import leave_request

    source, other = Place(tmp_path / "source"), Place(tmp_path / "other")
    assert source.run("import", str(archive)).exit_code == 0
    run = ModelRun("toy", "one")
    address = f"https://files.example/a.parquet.gzip?signature={SECRET}"
    request = DatacubeRequest(model_id="toy", run_id="one", data_paths=(address,))
    homes = [Settings.model_validate({"DATACUBE_HOME": one.home}).resolved() for one in (source, other)]
    lakes = [Lake(open_store(settings.lake)) for settings in homes]
    leave_request(lakes[0], Seal.of(homes[0]).close_all(request))
    target = _environment(tmp_path, other.home)
    assert other.run("sync", _environment(tmp_path, source.home), target, "--process").exit_code == 1
    left = requested(lakes[1], run)
    assert left is not None
    assert SECRET not in left.data_paths[0]
    assert Seal.of(homes[1]).open(left.data_paths[0]) == address


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.env", "."), "is no environment"),
        ((".", "broken.env"), "line 1: give NAME=VALUE"),
        ((".", "bucket", "--process"), "requests cannot be left"),
    ],
)
def test_an_environment_that_is_none_is_refused(
    arguments: tuple[str, ...], says: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.env").write_text("what is this\n")
    (tmp_path / "bucket").mkdir()
    answer = place.run("sync", *arguments)
    assert answer.exit_code == 1
    assert says in answer.output
