"""Stores and services that misbehave: what is published is right, or it is said what went wrong.

The faults are made by a proxy in front of a real S3 server and of the simulators (`faults.py`), by a disk
that is really full, and by credentials that are taken away. Waits are shorter than in production. More
runs and more kinds of faults, in some ten minutes:

    make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_faults.py"
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, DagsterRun, RetryRequested

from datacube_assets.assets.dojo import fetch_parts
from datacube_assets.causemos.client import CauseMosClient
from datacube_assets.definitions import build_definitions
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.s3_server import SECRET_KEY, S3Server
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.client import DojoClient, DojoError
from datacube_assets.dojo.derive import request_for_run
from datacube_assets.dojo.fetch import ANYWHERE, FetchError
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.http_client import RetryPolicy
from datacube_assets.kernels.encode import CSV
from datacube_assets.operations.publish import process
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.partitions import WAITING_TAG, model_runs
from datacube_assets.resources import retries
from datacube_assets.sensors.reports import deliver
from datacube_assets.storage import s3_client, s3_retries
from datacube_assets.storage.lake import DamagedError, Lake, LakeTable, scratch_folder
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import LONGEST_WAIT, Outbox, Report
from datacube_assets.storage.requests import leave_request
from datacube_assets.storage.stores import StoreError, StoreUnavailable, is_own
from datacube_assets_tests.integration.faults import FAULTS, Dice, Fault, Proxy, proxy
from datacube_assets_tests.integration.support import House, checksums, open_house, rows

RESULTS = "model/run/results/results.json"
OLD = rows()
NEW = rows(country=["Kenya", "Chad"] * 2, value=[1.0, 2.0, 3.0, 5.0])
pytestmark = pytest.mark.timeout(900)

OURS = (StoreError, FetchError, DojoError)
"""What a run may fail with when the network is bad."""
KINDS = ("table.json", "manifest.json", "grid_cells", "rain")
"""Parts of keys by which kinds of changes are told apart."""
Versions = tuple[dict[str, str], dict[str, str]]
"""The objects of the old and of the new one: MD5 by key."""


@dataclass
class Far:
    """A house whose lake and buckets are on S3, reached through a proxy, and looked at without it."""

    house: House
    server: S3Server
    between: Proxy
    prefix: str
    client: Any = field(repr=False)

    def objects(self) -> dict[str, str]:
        """MD5 of what is in the bucket of models, by key."""
        items = self.client.list_objects_v2(Bucket="models", Prefix=f"{self.prefix}/").get("Contents", [])
        assert len(items) < 1000
        named = {item["Key"][len(self.prefix) + 1 :]: item["ETag"].strip('"') for item in items}
        # What tries whether the bucket can be used may have been kept from deleting its trial.
        return {key: tag for key, tag in named.items() if not is_own(key)}

    def lake(self) -> Lake:
        return Lake(open_store(self.house.settings.lake, self.between.url))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than in production, so that a test sees the end of it."""
    backoff: Any = {
        "init_backoff": timedelta(milliseconds=20),
        "max_backoff": timedelta(seconds=0.2),
        "base": 2,
    }
    limits = {"connect_timeout": 1, "read_timeout": 1, "timeout": 5}
    monkeypatch.setattr(
        s3_client, "CLIENT", {name: timedelta(seconds=limit) for name, limit in limits.items()}
    )
    monkeypatch.setattr(
        s3_client, "RETRIES", {"backoff": backoff, "max_retries": 10, "retry_timeout": timedelta(seconds=20)}
    )
    monkeypatch.setattr(
        s3_client,
        "BATCH_RETRIES",
        {"backoff": backoff, "max_retries": 3, "retry_timeout": timedelta(seconds=10)},
    )
    monkeypatch.setattr(s3_retries, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(s3_retries, "LAST_PAUSE", 0.5)
    monkeypatch.setattr(s3_retries, "PATIENCE", 5.0)
    monkeypatch.setattr(s3_retries, "ASKED_AGAIN", (0.05, 0.1, 0.2))
    monkeypatch.setattr(retries, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(retries, "LAST_RETRY", 0.5)


@pytest.fixture
def far(s3_server: S3Server, house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    prefix = f"faults {os.urandom(4).hex()}"
    with proxy(s3_server.endpoint, stall=2) as between:
        settled = house.with_settings(
            lake=f"s3://lake/{prefix}",
            models_bucket=f"s3://models/{prefix}",
            s3_endpoint=between.url,
        )
        yield Far(settled, s3_server, between, prefix, s3_server.client())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """The objects of either version, as MD5 by key."""
    made = []
    for number, table in enumerate((OLD, NEW)):
        with open_house(tmp_path_factory.mktemp("undisturbed") / str(number)) as house:
            house.publish(table)
            made.append(checksums(house.bucket()))
    return made[0], made[1]


# --- single requests -------------------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_to_s3_that_meets_a_fault_is_made_good(far: Far, fault: Fault) -> None:
    lake, table = far.lake(), pa.table({"n": [1, 2, 3]})
    first: set[tuple[str, str]] = set()

    def once(method: str, path: str) -> Fault | None:
        # Each request that is made for the first time.
        asked = (method, path.partition("&")[0])
        if asked in first:
            return None
        first.add(asked)
        return fault

    far.between.plan = once
    lake.write_document("doc.json", {"a": [1] * 50})
    written = lake.write_file("folder/1", "file", table)
    of = LakeTable("folder/1", "1", (written,))
    assert lake.read_document("doc.json") == {"a": [1] * 50}
    assert lake.read(of, "file").equals(table)
    assert lake.is_whole(of)
    keys = [f"many/{number}.csv" for number in range(5)]
    lake.store.put_many(keys, [key.encode() for key in keys], CSV)
    assert sorted(key for key, _ in lake.store.list("many/")) == keys
    lake.store.delete_many(keys[1:])
    assert list(lake.store.list("many/")) == [(keys[0], len(keys[0]))]
    assert list(lake.store.list("nothing/")) == []
    assert far.between.broken[fault] >= 10


def test_what_is_damaged_in_the_lake_is_named_with_the_remedy(house: House) -> None:
    house.publish(OLD)
    lake = Lake(open_store(house.settings.lake))
    document = house.folder / "lake" / "runs" / "model" / "run" / "grid_cells" / "table.json"
    whole = json.loads(document.read_bytes())
    document.write_bytes(document.read_bytes()[:-10])
    with pytest.raises(DamagedError, match=r"grid_cells/table.json of the lake is damaged: .*from_scratch"):
        house.publish(OLD)
    for damage in ("[]", "{}", '{"version": 1, "files": [7], "info": {}}', "5"):
        document.write_text(damage)
        with pytest.raises(DamagedError, match=r"grid_cells.* damaged: .*from_scratch"):
            house.publish(OLD)
    document.write_text(json.dumps({**whole, "folder": "../../../../elsewhere"}))
    with pytest.raises(DamagedError, match=r"elsewhere.*from_scratch"):
        house.publish(OLD)
    document.unlink()
    file = next((house.folder / "lake").rglob("grid_cells/*/month/default/00000.parquet"))
    file.write_bytes(bytes(len(file.read_bytes())))
    table = LakeTable(str(file.parents[2].relative_to(house.folder / "lake")), "1", ())
    with pytest.raises(DamagedError, match=r"month/default/00000.parquet of the lake is damaged"):
        lake.read(table, "month/default/00000")
    house.publish(OLD, from_scratch=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_listing_of_dojo_that_meets_a_fault_is_whole_all_the_same(fault: Fault) -> None:
    simulator = DojoSimulator()
    for number in range(25):
        simulator.put("runs", {"id": f"r{number}", "model_id": "model", "created_at": number})
    with in_background(simulator.app()) as upstream, proxy(upstream, stall=2) as between:
        # The first page, its repetition, and the second page.
        between.plan = lambda method, path: fault if len(between.requests) in (1, 2, 4) else None
        quick = RetryPolicy(attempts=3, first_wait=0.01)
        with DojoClient(between.url, timeout=1, retries=quick) as client:
            documents = client.runs(page_size=10)
        assert {document["id"] for document in documents} == {f"r{number}" for number in range(25)}
        assert between.broken[fault] >= 2


# --- runs ------------------------------------------------------------------------------------------


@dataclass
class FaultInjection:
    """Runs while faults are injected, and what came of them."""

    far: Far
    dojo: Proxy
    expected: Versions
    tries: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def publish(self, run_id: str) -> None:
        """Have a run of Dojo published, however often it has to be tried."""
        for _ in range(30):
            self.tries += 1
            try:
                self._try(run_id)
            except OURS as error:
                self.failed[type(error).__name__] += 1
                self.check(str(error), self.far.objects())
            else:
                return
        raise AssertionError(f"never published: {self.failed}")

    def _try(self, run_id: str) -> None:
        with DojoClient(self.dojo.url, timeout=3) as client:
            derived = request_for_run(client.run(run_id), client.model("model"))
        request = derived.model_copy(update={"run_id": "run"})
        process(self.far.house.settings, self.far.house.instance, request, lambda *_: None)

    def check(self, said: str, objects: dict[str, str]) -> None:
        """The failure says what to do, and nothing is called complete that is not."""
        assert re.search(r"Try later|Correct|[Aa]gain later|see whether", said), said
        assert SECRET_KEY not in said
        if RESULTS in objects:
            assert objects in self.expected


@pytest.fixture
def injection(far: Far, undisturbed: Versions, tmp_path: Path) -> Iterator[FaultInjection]:
    for folder in ("runs", "models", "indicators", "files"):
        (tmp_path / folder).mkdir()
    outputs = [{"name": "rain", "type": "float"}]
    (tmp_path / "models" / "model.json").write_text(
        json.dumps({"id": "model", "name": "Toy", "outputs": outputs, "qualifier_outputs": None})
    )
    simulator = DojoSimulator.load(tmp_path)
    with in_background(simulator.app()) as upstream, proxy(upstream, stall=2) as between:
        for number, table in enumerate((OLD, NEW)):
            pq.write_table(table, tmp_path / "files" / f"{number}.parquet.gzip", compression="gzip")
            document = {
                "id": f"run-{number}",
                "model_id": "model",
                "model_name": "Toy",
                "created_at": 1_672_531_200_000,
                "data_paths": [f"{between.url}/files/{number}.parquet.gzip"],
                "parameters": [],
                "tags": [],
                "attributes": {"status": "success", "executed_at": f"2023-01-01 00:00:0{number}"},
            }
            simulator.put("runs", document)
        yield FaultInjection(far, between, undisturbed)


@pytest.mark.usefixtures("hasty")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("share", "rounds", "ways"),
    [
        pytest.param(0.2, 1, [fault for fault in FAULTS if fault != "stall"], id="quick"),
        *(pytest.param(share, 6, FAULTS, id=f"{share:.0%}") for share in (0.01, 0.05, 0.2)),
    ],
)
@pytest.mark.slow
def test_runs_while_faults_are_injected_are_published_or_say_why_not(
    injection: FaultInjection, share: float, rounds: int, ways: Sequence[Fault]
) -> None:
    injection.publish("run-0")
    assert injection.far.objects() == injection.expected[0]
    injection.far.between.requests.clear()
    for number in range(rounds):
        injection.far.between.plan = Dice(share, number, ways)
        injection.dojo.plan = Dice(share, number, ways)
        which = (number + 1) % 2
        injection.publish(f"run-{which}")
        assert injection.far.objects() == injection.expected[which]
    broken = injection.far.between.broken + injection.dojo.broken
    print(
        f"{share:.0%}: {broken.total()} faults in {len(injection.far.between.requests)} requests to S3 and "
        f"{len(injection.dojo.requests)} to Dojo, {rounds} runs in {injection.tries - 1} tries, failed: "
        f"{dict(injection.failed)}; {dict(broken)}"
    )
    assert broken.total() > share * len(injection.far.between.requests) / 2


@pytest.mark.usefixtures("hasty")
def test_a_run_waits_for_a_store_that_is_away_and_goes_on_where_it_was(far: Far) -> None:
    house, fetched = far.house, []
    leave_request(
        far.lake(),
        DatacubeRequest(model_id="model", run_id="run", data_paths=(house.write(NEW),)),
    )
    house.instance.add_dynamic_partitions(str(model_runs.name), ["model:run"])
    refused: Counter[str] = Counter()

    def away(method: str, path: str) -> int | None:
        if method == "PUT" and "raw_dojo_output/table.json" in path:
            fetched.append(path)
        # Each kind of change is refused for longer than its step has patience.
        kind = next(
            (kind for kind in ("table.json", "manifest.json", "grid_cells", "rain") if kind in path), ""
        )
        if not fetched or not kind or refused[kind] >= 40 or method == "GET":
            return None
        refused[kind] += 1
        return 503

    far.between.plan = away
    job = build_definitions(house.settings).resolve_job_def(process_model_run.name)
    result = job.execute_in_process(partition_key="model:run", instance=house.instance, raise_on_error=False)
    assert result.success
    assert refused == dict.fromkeys(KINDS, 40)
    repeated = {
        event.step_key for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"
    }
    assert repeated >= {"raw_dojo_output"}
    assert len(repeated) > 2


def test_credentials_that_are_taken_away_in_the_middle_fail_the_run_and_say_so(
    far: Far, undisturbed: Versions
) -> None:
    far.house.publish(OLD)
    for after, complete in ((10, True), (320, False)):
        end = len(far.between.requests) + after

        def revoked(method: str, path: str, end: int = end) -> int | None:
            return 403 if len(far.between.requests) > end else None

        far.between.plan = revoked
        with pytest.raises(StoreError, match=r"may not \w+ here \(AccessDenied\). Give it s3:") as caught:
            far.house.publish(NEW)
        assert not isinstance(caught.value, StoreUnavailable), "asking again does not help"
        objects = far.objects()
        assert (RESULTS in objects) == complete
        assert not complete or objects == undisturbed[0]
    far.between.plan = lambda method, path: None
    far.house.publish(NEW)
    assert far.objects() == undisturbed[1]


# --- reports ---------------------------------------------------------------------------------------


def test_reports_while_faults_are_injected_are_delivered_and_twice_only_where_the_answer_was_lost(
    house: House,
) -> None:
    house.publish(rows(), doc_ids=["run"])
    outbox = Outbox(Lake(open_store(house.settings.lake)))
    head = outbox.lake.read_document("runs/model/run/manifests/pipeline_results/manifest.json") or {}
    for number in range(40):
        body = {"run_id": "run", "data_id": "model", "doc_ids": ["run"], "is_indicator": False}
        times = {"start_time": number, "end_time": number + 1}
        first = Report(f"flow-{number:02}", "queue-runtime", f"model:{number}", body | times, None, number)
        outbox.post(first)
        outcome = {**body, **times, "flow_id": first.flow_id}
        success = replace(first, kind="processing-succeeded", partition="model:run", body=outcome)
        outbox.post(replace(success, version=head["version"]))
    causemos = CauseMosSimulator(
        open_store(house.settings.models_bucket), open_store(house.settings.indicators_bucket), upsert=True
    )
    with (
        in_background(causemos.app()) as upstream,
        proxy(upstream, Dice(0.3), stall=1.5) as between,
    ):
        now = 0
        for _ in range(60):
            with CauseMosClient(between.url, timeout=30) as client:
                _, left = deliver(outbox, client, outbox.lake, now, lambda _: None)
            now += LONGEST_WAIT
            if not left:
                break
        assert not outbox.waiting()
    told = Counter(
        report.body["flow_id"] for report in causemos.reports if report.call == "processing-succeeded"
    )
    assert set(told) == {f"flow-{number:02}" for number in range(40)}
    lost = [between.broken[fault] for fault in ("lost answer", "half answer", "length too long")]
    twice = len(causemos.reports) - 80
    assert 0 < twice <= sum(lost)
    print(f"{between.broken.total()} faults, 80 reports, none lost, {twice} told twice")
    # Whichever way it went, the documents say what the last report said, once.
    assert causemos.documents["data-model-run"]["run"]["status"] == "READY"
    order = [report.body["flow_id"] for report in causemos.reports if report.call == "processing-succeeded"]
    assert order == sorted(order), "an outcome was overtaken by that of a later run"


# --- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte and 200 files."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("what", ["models_bucket", pytest.param("lake", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_fails_the_run_and_with_room_again_it_is_made_good(
    house: House, small_disk: Path, undisturbed: Versions, what: str
) -> None:
    small = house.with_settings(**{what: small_disk.as_uri()})
    bucket = small_disk if what == "models_bucket" else house.bucket()
    small.publish(OLD)
    room = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(room.f_bavail * room.f_bsize - 8_192))
    with pytest.raises(StoreUnavailable, match=r"No space left on device.*Make room"):
        small.publish(NEW)
    ballast.unlink()
    objects = checksums(bucket)
    assert RESULTS not in objects or objects == undisturbed[0]
    small.publish(NEW)
    assert checksums(bucket) == undisturbed[1]


def test_a_disk_that_has_bytes_left_but_no_files_says_so(house: House, small_disk: Path) -> None:
    store = open_store(small_disk.as_uri())
    with pytest.raises(StoreUnavailable, match=r"it has as many files as it can hold.*Make room"):
        store.put_many([str(number) for number in range(300)], [b"x"] * 300, "text/csv")
    (small_disk / "0").unlink()
    store.put("another", b"x")


def test_a_run_says_that_it_waits_for_a_file_server_and_that_it_goes_on() -> None:
    """So does one that takes the place of a run that died waiting, whose tags it has."""
    with DagsterInstance.ephemeral() as instance:

        def tag() -> str | None:
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            return found.tags.get(WAITING_TAG)

        run = instance.add_run(DagsterRun("process_model_run"))
        with pytest.raises(RetryRequested), retries.retried_later(instance, run, 0):
            raise FetchError("away")
        assert tag() == "yes"
        with retries.retried_later(instance, run, 1):
            assert tag() == "no"
        with pytest.raises(RetryRequested), retries.retried_later(instance, run, 2):
            raise StoreUnavailable("away")
        assert tag() == "no", "others need the store as well"
        run = instance.add_run(DagsterRun("process_model_run", tags={WAITING_TAG: "yes"}))
        with retries.retried_later(instance, run, 0):
            assert tag() == "no"


def test_a_full_scratch_disk_is_waited_for_like_a_full_store(
    house: House, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run failed at once with a bare error, though there might have been room a minute later."""
    address = house.write(OLD)
    lake, run = Lake(open_store(house.settings.lake)), ModelRun("model", "run")
    request = DatacubeRequest(model_id="model", run_id="run", data_paths=(address,))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    room = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(room.f_bavail * room.f_bsize))
    daemons = DagsterRun("process_model_run")
    with (
        DagsterInstance.ephemeral() as instance,
        pytest.raises(RetryRequested) as asked,
        retries.retried_later(instance, daemons, 0),
    ):
        fetch_parts(lake, run, request, [address], ANYWHERE, lambda _: None)
    assert isinstance(asked.value.__cause__, StoreUnavailable)
    said = str(asked.value.__cause__)
    assert "files in the making has no room" in said
    assert "TMPDIR" in said
    assert os.listdir(small_disk) == ["ballast"]
    ballast.unlink()
    assert fetch_parts(lake, run, request, [address], ANYWHERE, lambda _: None).bytes > 0


def test_a_scratch_disk_that_takes_no_file_at_all_says_so_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(StoreUnavailable, match="TMPDIR"), scratch_folder():
        pass
