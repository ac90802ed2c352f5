"""Each published datacube has one owner, though homes that share a bucket sleep, die and have own clocks.

Some dozens of interleavings are tried each time. Hundreds, and processes that are stopped (SIGSTOP) at every
moment between two changes and go on when another home has published, are tried by

    make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_leases.py"
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from datacube_assets.development.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from datacube_assets.kernels.encode import CSV
from datacube_assets.kernels.errors import InputError
from datacube_assets.storage import leases, s3_records
from datacube_assets.storage.copying import copy
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.leases import (
    Clock,
    Holder,
    LeaseHeldError,
    LeaseLostError,
    OwnedBucket,
    Process,
    acquire,
    lease_key,
    read_lease,
)
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.ownership import settled
from datacube_assets.storage.publishing import Publication, manifest, standing
from datacube_assets.storage.stores import ChangedRecordError, MissingObjectError, Store
from datacube_assets_tests.integration.crashing import Nth, watching
from datacube_assets_tests.integration.faults import respond, serving
from datacube_assets_tests.integration.rivals import (
    RESULTS,
    RUN,
    WHOLE,
    Interleaving,
    Killed,
    Rival,
    go_on,
    impatient,
    in_bucket,
    is_mixture,
    machines,
    publish,
    start_rival,
    wait_until_stopped,
)
from datacube_assets_tests.integration.support import House, open_house, rows
from datacube_assets_tests.integration.system import wait_for

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=["folder", "S3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store((tmp_path / "bucket").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://models/{uuid.uuid4().hex}", server.endpoint)


class Hours:
    """A clock that goes on when somebody sleeps by it."""

    def __init__(self) -> None:
        self.time = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def holder(home: str = "home", clock: Clock | None = None, machine: str = "elsewhere", **more: Any) -> Holder:
    process = Process(machine, 1, "1")
    return Holder(home, f"run {uuid.uuid4().hex}", 60.0, clock or Hours().clock(), process, home, **more)


def lake_of(tmp_path: Path, name: str) -> Lake:
    return Lake(open_store((tmp_path / name).as_uri()))


# --- the lease -------------------------------------------------------------------------------------------


def test_of_those_who_saw_the_same_record_one_changes_it(bucket: Store) -> None:
    won: Counter[int] = Counter()

    def take(number: int) -> None:
        for turn in range(10):
            try:
                bucket.swap(f"m/r/.datacube~/{turn}", f"{number} {turn}".encode(), None)
                won[turn] += 1
            except ChangedRecordError:
                pass

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == dict.fromkeys(range(10), 1)
    found = bucket.record("m/r/.datacube~/0")
    assert found is not None
    tag = bucket.swap("m/r/.datacube~/0", b"next", found[1])
    with pytest.raises(ChangedRecordError):
        bucket.swap("m/r/.datacube~/0", b"other", found[1])
    assert bucket.record("m/r/.datacube~/0") == (b"next", tag)


def test_a_lease_is_in_no_listing_and_no_file_of_a_folder(bucket: Store, tmp_path: Path) -> None:
    publish(lake_of(tmp_path, "lake"), bucket, "a", holder())
    assert read_lease(bucket, RUN) is not None
    listed = {key for key, _ in bucket.list("")}
    assert listed == {entry.key for entry in bucket.entries("")} == WHOLE["a"].keys()
    assert set(bucket.listing(RUN.prefix)["key"].to_pylist()) == listed
    assert bucket.folders(RUN.prefix) == ["lists", "maps", "results", "tiles"]
    if isinstance(bucket, LocalStore):
        files = {path.relative_to(bucket.root) for path in Path(bucket.root).rglob("*") if path.is_file()}
        assert files == {Path(key) for key in listed}


def test_a_lease_is_taken_by_one_given_back_and_its_number_goes_up(bucket: Store) -> None:
    first = acquire(bucket, RUN, holder("one"))
    with pytest.raises(LeaseHeldError, match=r"published by run .* on one, process 1 \(home one\)"):
        acquire(bucket, RUN, holder("two"), patient=False)
    first.release()
    second = acquire(bucket, RUN, holder("two"))
    assert (first.lease.number, second.lease.number) == (1, 2)
    with pytest.raises(LeaseLostError):
        first.renew()
    second.release()


def test_a_silent_holder_is_waited_for_by_ones_own_clock_and_a_living_one_is_left_alone(
    bucket: Store,
) -> None:
    silent, hours = acquire(bucket, RUN, holder("asleep")), Hours()
    taken = acquire(bucket, RUN, holder("awake", hours.clock()))
    assert 60 <= hours.time < 75
    assert not taken.lease.sound
    with pytest.raises(LeaseLostError, match=r"it is with run .* on awake"):
        silent.renew()
    hours = Hours()

    def sleep_while_it_lives(seconds: float) -> None:
        hours.sleep(seconds)
        taken.renew()

    living = Clock(lambda: hours.time, sleep_while_it_lives)
    with pytest.raises(LeaseHeldError):
        acquire(bucket, RUN, holder("third", living))
    assert hours.time < 10
    taken.release()


def test_what_is_dead_on_this_machine_is_not_waited_for(bucket: Store) -> None:
    this = Process.this()
    assert this.state() == "alive"
    dead = replace(this, started="long ago")
    assert (dead.state(), Process("elsewhere", 1, "1").state()) == ("dead", "unknown")
    acquire(bucket, RUN, replace(holder("dead"), process=dead))
    hours = Hours()
    acquire(bucket, RUN, holder("next", hours.clock())).release()
    assert hours.time == 0
    acquire(bucket, RUN, replace(holder("here"), process=this))
    hours = Hours()
    with pytest.raises(LeaseHeldError):
        acquire(bucket, RUN, holder("next", hours.clock()))
    assert hours.time < 5


def test_steps_of_a_run_share_its_lease_and_workers_renew_it(bucket: Store) -> None:
    import pickle

    me = holder()
    first = acquire(bucket, RUN, me)
    assert acquire(bucket, RUN, me) is first
    owned = OwnedBucket(bucket, first)
    there = pickle.dumps(owned)
    leases._TENURES.clear()  # as in another process
    worker: OwnedBucket = pickle.loads(there)
    worker.put_many([f"{RUN.prefix}x.csv"], [b"x"], CSV)
    lease = read_lease(bucket, RUN)
    assert lease is not None
    # In a folder the lock is enough, and a look at the lease.
    assert lease.shared != isinstance(bucket, LocalStore)
    first.release()
    worker.put_many([f"{RUN.prefix}y.csv"], [b"y"], CSV)
    first.release()
    acquire(bucket, RUN, holder("next")).release()
    with pytest.raises(LeaseLostError):
        worker.put_many([f"{RUN.prefix}z.csv"], [b"z"], CSV)
    assert {key for key, _ in bucket.list("")} == {f"{RUN.prefix}x.csv", f"{RUN.prefix}y.csv"}


# --- what a home knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [False, True], ids=["as usual", "from scratch"])
def test_a_home_that_comes_after_another_leaves_nothing_of_it(
    bucket: Store, tmp_path: Path, anew: bool
) -> None:
    one, two = lake_of(tmp_path, "one"), lake_of(tmp_path, "two")
    publish(one, bucket, "a", holder("one"), anew=anew)
    publish(two, bucket, "b", holder("two"), anew=anew)
    assert in_bucket(bucket) == WHOLE["b"]
    # The first believes nothing that it has on record.
    publish(one, bucket, "a", holder("one"), anew=anew)
    assert in_bucket(bucket) == WHOLE["a"]
    head = manifest(one, RUN, "maps")
    lease = read_lease(bucket, RUN)
    assert head is not None
    assert lease is not None
    assert (head["owner"], head["number"]) == (lease.owner, lease.number) == (lease.owner, 3)


def test_a_home_that_dies_while_it_empties_the_folder_leaves_nothing_to_believe(
    bucket: Store, tmp_path: Path
) -> None:
    one, two = lake_of(tmp_path, "one"), lake_of(tmp_path, "two")
    publish(one, bucket, "a", holder("one"))
    tenure = acquire(bucket, RUN, holder("two"))

    def die(moment: str) -> None:
        if moment.startswith(f"after delete_many {RUN.prefix}lists/"):
            raise Killed

    with pytest.raises(Killed), watching(die):
        settled(two, tenure, "b")
    assert in_bucket(bucket) == {}
    publish(one, bucket, "a", holder("one"))
    assert in_bucket(bucket) == WHOLE["a"]


def test_from_scratch_also_deletes_what_somebody_put_beside(bucket: Store, tmp_path: Path) -> None:
    lake = lake_of(tmp_path, "lake")
    publish(lake, bucket, "a", holder())
    bucket.put_many([f"{RUN.prefix}maps/odd.csv"], [b"x"], CSV)
    publish(lake, bucket, "a", holder(), anew=True)
    assert in_bucket(bucket) == WHOLE["a"]


def test_a_home_that_publishes_again_trusts_its_manifests_and_the_number_goes_on(
    bucket: Store, tmp_path: Path
) -> None:
    lake = lake_of(tmp_path, "lake")
    publish(lake, bucket, "a", holder())
    before = {entry.key: entry for entry in bucket.entries("")}
    publish(lake, bucket, "a", holder())
    assert {entry.key: entry for entry in bucket.entries("")} == before
    # One that did not give it back may only be asleep: its successor starts a record of its own.
    acquire(bucket, RUN, holder("dead"))
    publish(lake, bucket, "a", holder())
    assert {entry.key: entry for entry in bucket.entries("")} == before
    head, lease = manifest(lake, RUN, "maps"), read_lease(bucket, RUN)
    assert head is not None
    assert lease is not None
    assert head["owner"] == lease.owner


def test_what_a_copy_has_overwritten_is_published_anew(bucket: Store, tmp_path: Path) -> None:
    ours, theirs = lake_of(tmp_path, "ours"), lake_of(tmp_path, "theirs")
    source = open_store((tmp_path / "source").as_uri())
    publish(ours, bucket, "a", holder())
    publish(theirs, source, "b", holder())
    copy(theirs, source, bucket, RUN, lambda done, of: None)
    assert in_bucket(bucket) == WHOLE["b"]
    publish(ours, bucket, "a", holder())
    assert in_bucket(bucket) == WHOLE["a"]


def test_nobody_publishes_into_what_is_being_copied(bucket: Store, tmp_path: Path) -> None:
    ours, theirs = lake_of(tmp_path, "ours"), lake_of(tmp_path, "theirs")
    source = open_store((tmp_path / "source").as_uri())
    publish(theirs, source, "b", holder())
    refused: list[str] = []

    def meanwhile(done: int, of: int) -> None:
        with pytest.raises(LeaseHeldError, match="copy"):
            publish(ours, bucket, "a", holder())
        refused.append("once")

    copy(theirs, source, bucket, RUN, meanwhile)
    assert refused
    assert in_bucket(bucket) == WHOLE["b"]


def test_two_homes_by_the_command_one_after_the_other_leave_one_datacube(quick_folder: Path) -> None:
    def other(home: House) -> House:
        return home.with_settings(models_bucket=(quick_folder / "shared").as_uri())

    with open_house(quick_folder / "one") as first, open_house(quick_folder / "two") as second:
        one, two = other(first), other(second)
        one.publish(rows(crop=list("abab")), qualifier_map={"rain": ["crop"]})
        store = open_store(one.settings.models_bucket)
        with_crops = set(store.listing("model/run/")["key"].to_pylist())
        two.publish(rows(value=[5.0, 6.0, 7.0, 8.0]))
        plain = {key: store.get(key) for key, _ in store.list("")}
        assert with_crops - plain.keys()
        assert two.publish(rows(value=[5.0, 6.0, 7.0, 8.0])).total("objects written") == 0
        one.publish(rows(crop=list("abab")), qualifier_map={"rain": ["crop"]})
        assert {key for key, _ in store.list("")} == with_crops
        two.publish(rows(value=[5.0, 6.0, 7.0, 8.0]))
        assert {key: store.get(key) for key, _ in store.list("")} == plain
        # While the one is at it the other is refused, and says by whom.
        me = replace(holder("file:///elsewhere"), process=Process.this())
        tenure = acquire(store, RUN, me)
        with pytest.raises(InputError, match=r"is being published by .*home file:///elsewhere.*Wait until"):
            one.publish(rows())
        tenure.release()


# --- interleavings ---------------------------------------------------------------------------------------


def interleave(folder: Path, seed: int, bucket: Callable[[str], Store]) -> tuple[Counter[str], int]:
    """Let machines publish in an order that a seed decides; how their publications ended, and steps."""
    store = bucket("look")

    def look() -> None:
        found = in_bucket(store)
        assert not is_mixture(found), f"seed {seed}: {sorted(found)}"

    with impatient():
        interleaving = Interleaving(seed, machines(folder, bucket, 2 + seed % 2, seed), look)
        interleaving.run()
    ends: Counter[str] = Counter()
    hours = Hours()
    for machine in interleaving.machines:
        ends += machine.ends
        # Whatever happened: the next who publishes undisturbed makes it good.
        for version in ("a", "b"):
            publish(machine.lake, store, version, holder(machine.name, hours.clock()))
            assert in_bucket(store) == WHOLE[version], f"seed {seed}"
    return ends, interleaving.steps


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(1000, 1024), id="some"),
        pytest.param(range(400), id="hundreds", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_in_whatever_order_homes_move_sleep_and_die_there_are_no_results_over_a_mixture(
    quick_folder: Path, seeds: range
) -> None:
    ends: Counter[str] = Counter()
    steps = 0
    for seed in seeds:
        folder = quick_folder / str(seed)
        store = open_store((folder / "bucket").as_uri())
        ended, moved = interleave(folder, seed, lambda _, store=store: store)  # type: ignore[misc]
        ends += ended
        steps += moved
    print(f"{len(seeds)} interleavings, {steps} steps, {dict(ends)}")
    assert ends["published"] > len(seeds)
    assert ends["LeaseHeldError"] > len(seeds) / 4
    assert ends["LeaseLostError"] > 0
    assert ends["killed"] > 0


# --- processes that stand still --------------------------------------------------------------------------


class Homes:
    """Two homes, as processes that publish different inputs into one bucket."""

    def __init__(self, folder: Path, bucket: Store, environment: dict[str, str]) -> None:
        self.bucket = bucket
        endpoint = environment.get("DATACUBE_S3_ENDPOINT", "")
        self.first, self.second = (
            Rival((folder / name).as_uri(), bucket.url, version, environment, endpoint)
            for name, version in (("one", "a"), ("two", "b"))
        )

    def check(self) -> None:
        found = in_bucket(self.bucket)
        assert not is_mixture(found), sorted(found)

    def stop_and_go_on(self, n: int) -> str | None:
        """Stop the first at its n-th moment, let the second publish, let the first go on; what became of it.

        None when it has no such moment.
        """
        sleeper = start_rival(self.first, Nth(n, sent=signal.SIGSTOP))
        try:
            if not wait_until_stopped(sleeper):
                return None
            self.check()
            second = start_rival(self.second)
            # In a folder it waits for one that sleeps in the middle of a batch; on S3 nobody has to.
            second.join(4.0 if isinstance(self.bucket, LocalStore) else 60.0)
            ended = second.exitcode is not None
            self.check()
            go_on(sleeper)
            sleeper.join(60.0)
            second.join(60.0)
            assert sleeper.exitcode in (0, 3)
            assert second.exitcode in (0, 3)
            self.check()
        finally:
            if sleeper.exitcode is None:
                sleeper.kill()
        return ("taken over, " if ended else "waited for, ") + ("ended" if sleeper.exitcode else "published")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(37, id="some"),
        pytest.param(1, id="every", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_a_process_that_is_stopped_at_any_moment_and_goes_on_spoils_nothing(
    bucket: Store, quick_folder: Path, step: int
) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "DATACUBE_S3_ENDPOINT")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    homes = Homes(quick_folder, bucket, {} if isinstance(bucket, LocalStore) else environment)
    homes.second.publish()
    ends: Counter[str] = Counter()
    n = 2
    while (became := homes.stop_and_go_on(n)) is not None:
        ends[became] += 1
        n += step
        # Each time the first is to replace what the second has published.
        homes.second.publish()
        assert in_bucket(bucket) == WHOLE["b"]
    print(f"stopped at {sum(ends.values())} moments: {dict(ends)}")
    assert sum(ends.values()) > 2
    homes.first.publish()
    assert in_bucket(bucket) == WHOLE["a"]


# --- requests that cannot be called back -----------------------------------------------------------------


@pytest.fixture
def server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


def relay(server: S3Server, before: Callable[[BaseHTTPRequestHandler], None]) -> AbstractContextManager[str]:
    """A way to the server on which something is done before a request goes on; gives its address."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        before(handler)
        headers = dict(handler.headers.items())
        done = httpx.request(
            handler.command, f"{server.endpoint}{handler.path}", content=body, headers=headers
        )
        length = int(done.headers.get("content-length") or 0) if handler.command == "HEAD" else None
        kept = ("etag", "last-modified", "content-type", "content-range")
        told = {name: value for name, value in done.headers.items() if name.lower() in kept}
        respond(handler, done.status_code, done.content, told, length=length)

    return serving(answer)


def test_an_object_that_arrives_after_a_successor_was_through_takes_its_results_away(
    server: S3Server, tmp_path: Path
) -> None:
    prefix = uuid.uuid4().hex
    arrived, let_through = threading.Event(), threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "PUT" and "maps/changed.csv" in handler.path:
            arrived.set()
            let_through.wait(60)

    hours = Hours()
    failed: list[BaseException] = []
    with relay(server, hold) as url:
        slow = open_store(f"s3://models/{prefix}", url)
        direct = open_store(f"s3://models/{prefix}", server.endpoint)
        one, two = lake_of(tmp_path, "one"), lake_of(tmp_path, "two")
        sleeping = holder("one", hours.clock())

        def asleep() -> None:
            try:
                publish(one, slow, "a", sleeping)
            except LeaseLostError as error:
                failed.append(error)

        thread = threading.Thread(target=asleep)
        thread.start()
        assert arrived.wait(30)
        # One object is late; the others that were sent with it are there.
        sent = {f"{RUN.prefix}maps/{name}.csv" for name in ("same", "only a 0")}
        wait_for(lambda: in_bucket(direct).keys() == sent, "the objects that are not held")
        # For the holder, an hour goes by; the other waits by its own clock.
        hours.sleep(3600)
        publish(two, direct, "b", holder("two"))
        assert in_bucket(direct) == WHOLE["b"]
        let_through.set()
        thread.join(60)
    assert len(failed) == 1
    found = in_bucket(direct)
    assert RESULTS not in found
    assert found != {key: body for key, body in WHOLE["b"].items() if key != RESULTS}
    # Nobody takes what is left for what was published.
    publish(two, direct, "b", holder("two"))
    assert in_bucket(direct) == WHOLE["b"]


def test_results_that_are_copied_late_do_not_appear(server: S3Server) -> None:
    store = open_store(f"s3://models/{uuid.uuid4().hex}", server.endpoint)
    first = acquire(store, RUN, holder("one"))
    taken: list[Any] = []

    def taken_over_just_now() -> None:
        if not taken:
            taken.append(None)
            return
        # It was sure of its lease; then it slept, and somebody else began.
        taken.append(acquire(store, RUN, holder("two")))

    staged = leases.staged_key(RUN, first.lease.token)
    with pytest.raises(MissingObjectError):
        store.put_staged(RESULTS, staged, b"results of a", "application/json", taken_over_just_now)
    assert list(store.list("")) == []


# --- servers that ignore conditions ----------------------------------------------------------------------


def test_a_server_that_ignores_conditions_is_found_out_and_a_lease_is_read_back(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_records, "SETTLING", 0.3)

    credentials = Credentials(ACCESS_KEY, SECRET_KEY)

    def forget(handler: BaseHTTPRequestHandler) -> None:
        # Conditions are signed too, so the request is signed anew without them.
        kept = ("content-type", "range", "x-amz-copy-source")
        headers = {name: value for name, value in handler.headers.items() if name.lower() in kept}
        headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
        signed = AWSRequest(handler.command, f"{server.endpoint}{handler.path}", headers)
        S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(signed)
        for name in set(handler.headers):
            del handler.headers[name]
        for name, value in signed.headers.items():
            handler.headers[name] = value

    with relay(server, forget) as url:
        bucket = f"s3://models/{uuid.uuid4().hex}"
        lax, strict = open_store(bucket, url), open_store(bucket, server.endpoint)
        assert strict.swaps_for_sure()
        assert not lax.swaps_for_sure()
        assert list(strict.list("")) == []
        won: list[str] = []

        def take(name: str) -> None:
            try:
                lax.swap(lease_key(RUN), name.encode(), None, contested=True)
                won.append(name)
            except ChangedRecordError:
                pass

        threads = [threading.Thread(target=take, args=(f"{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        strict.delete_many([lease_key(RUN)])
        one, two = lake_of(tmp_path, "one"), lake_of(tmp_path, "two")
        publish(one, lax, "a", holder("one"))
        publish(two, lax, "b", holder("two"))
        assert in_bucket(lax) == WHOLE["b"]


# --- what sleeps in the same home ------------------------------------------------------------------------


def test_what_a_sleeper_of_the_same_home_writes_down_late_is_not_believed(
    bucket: Store, tmp_path: Path
) -> None:
    lake = lake_of(tmp_path, "lake")
    publish(lake, bucket, "a", holder())
    hours = Hours()
    sleeper = acquire(bucket, RUN, holder(clock=hours.clock()))
    owned = settled(lake, sleeper, "b")
    publication = Publication.begin(lake, owned, RUN, "maps", "b", "late")
    publish(lake, bucket, "a", holder())
    hours.sleep(3600)
    with pytest.raises(LeaseLostError):
        publication.finish(publication.publish("work", [])[0], {"work": []})
    # Had it slept between its look at the lease and its last word:
    old = manifest(lake, RUN, "maps")
    assert old is not None
    lake.write_document(
        f"{RUN.folder}/manifests/maps/manifest.json", {**old, "owner": owned.owner, "version": "b"}
    )
    tenure = acquire(bucket, RUN, holder())
    assert standing(lake, settled(lake, tenure, "b"), RUN, "maps", "b") is None
    tenure.release()
    publish(lake, bucket, "b", holder())
    assert in_bucket(bucket) == WHOLE["b"]
