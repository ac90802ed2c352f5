"""The outbox after an outage: many reports, a store that takes its time, clocks that were wrong.

CauseMos is its simulator, over HTTP; what is slow is the store, as one on S3 is.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datacube_assets.causemos.client import CauseMosClient
from datacube_assets.development.causemos_simulator import CauseMosSimulator
from datacube_assets.development.simulator_http import in_background
from datacube_assets.sensors.reports import DELIVERING_SECONDS, deliver
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import FIRST_WAIT, LONGEST_WAIT, Kind, Outbox, Report

NOW = 1_800_000_000_000
DAY = 86_400_000


@dataclass(frozen=True)
class SlowStore(LocalStore):
    """A folder that answers as a bucket far away does."""

    seconds: float = 0.02

    def get(self, key: str) -> bytes:
        time.sleep(self.seconds)
        return super().get(key)

    def listing(self, prefix: str) -> pa.Table:
        found = super().listing(prefix)
        time.sleep(self.seconds * (1 + len(found) // 1000))
        return found


@dataclass
class Post:
    """An outbox, and a CauseMos that it is for."""

    outbox: Outbox
    causemos: CauseMosSimulator
    url: str

    def deliver(self, now: int = NOW) -> tuple[int, int]:
        with CauseMosClient(self.url, timeout=30) as client:
            return deliver(self.outbox, client, self.outbox.lake, now, lambda _: None)

    @property
    def told(self) -> list[str]:
        """Runs and stages, in the order in which CauseMos heard of them."""
        return [f"{report.body['data_id']} {report.call}" for report in self.causemos.reports]


@pytest.fixture
def post(quick_folder: Path) -> Iterator[Post]:
    bucket = open_store((quick_folder / "bucket").as_uri())
    causemos = CauseMosSimulator(bucket, bucket, upsert=True)
    with in_background(causemos.app()) as url:
        yield Post(Outbox(Lake(SlowStore((quick_folder / "lake").as_uri()))), causemos, url)


def report(number: int, kind: Kind = "processing-failed", *, created: int = NOW, flow: str = "") -> Report:
    """A report about a model run of its own."""
    flow_id = flow or f"flow-{number}"
    body: dict[str, Any] = {"run_id": "r", "data_id": f"m{number}", "doc_ids": ["d"], "is_indicator": False}
    if kind == "queue-runtime":
        body |= {"start_time": 1, "end_time": 2}
    else:
        body |= {"flow_id": flow_id}
    return Report(flow_id, kind, f"m{number}:r", body, None, created)


def fill(outbox: Outbox, runs: int) -> None:
    """Two reports about each of so many runs, as an outage leaves them."""
    with ThreadPoolExecutor(16) as threads:

        def both(number: int) -> None:
            outbox.post(report(number, "queue-runtime", created=NOW - DAY + number))
            outbox.post(report(number, created=NOW - DAY + number))

        list(threads.map(both, range(runs)))


def each_in_order(told: list[str]) -> bool:
    """Whether each run was told twice, its start before its outcome."""
    heard: dict[str, list[str]] = defaultdict(list)
    for line in told:
        run, call = line.split()
        heard[run].append(call)
    return all(calls == ["queue-runtime", "processing-failed"] for calls in heard.values())


def test_900_reports_at_20_ms_a_read_are_delivered_once_causemos_is_back(post: Post) -> None:
    """A tick used its time for reading all of them, one by one, and never came to deliver one."""
    fill(post.outbox, 450)
    start, ticks, left = time.monotonic(), 0, 900
    while left and ticks < 6:
        settled, left = post.deliver()
        ticks += 1
        assert settled, "each tick delivers"
    seconds = time.monotonic() - start
    assert left == 0
    assert len(post.told) == 900
    assert each_in_order(post.told)
    assert seconds < ticks * (DELIVERING_SECONDS + 10)
    print(f"900 reports at 20 ms a read: {ticks} tick(s), {seconds:.1f} s")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_100000_reports_are_delivered_within_minutes_in_bounded_memory(post: Post) -> None:
    import resource

    store = LocalStore(post.outbox.lake.store.url)
    post.outbox = Outbox(Lake(store))
    # Written as `post` leaves them, without looking each time whether they are there.
    for number in range(50_000):
        for kind in ("queue-runtime", "processing-failed"):
            one = report(number, kind, created=NOW - DAY + number)
            post.outbox._write(_key(one), one)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, left, ticks = time.monotonic(), 100_000, 0
    while left:
        settled, left = post.deliver()
        ticks += 1
        assert settled
    seconds = time.monotonic() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(post.told) == 100_000
    assert each_in_order(post.told)
    print(
        f"100,000 reports: {ticks} ticks, {seconds:.0f} s, {100_000 / seconds:.0f} a second, +{grown:.0f} MB"
    )
    # The simulator keeps every report, in the same process.
    assert grown < 600


def _key(one: Report) -> str:
    from datacube_assets.storage.reports import _slip

    return _slip(one, one.created).key


def test_reports_that_an_earlier_version_wrote_are_delivered_and_known(post: Post) -> None:
    lake = post.outbox.lake
    for kind in ("queue-runtime", "processing-failed"):
        one = report(1, kind)
        document = {name: getattr(one, name) for name in one.__dataclass_fields__}
        lake.write_document(f"reports/waiting/{one.flow_id}.{one.stage}.json", document)
    assert post.outbox.knows("m1:r", "flow-1", "processing-failed")
    assert not post.outbox.post(report(1))
    assert len(post.outbox.slips()) == 2
    assert post.outbox.adopt() == 2
    assert post.outbox.adopt() == 0
    assert [one.kind for one in post.outbox.waiting()] == ["queue-runtime", "processing-failed"]
    assert post.deliver() == (2, 0)
    assert each_in_order(post.told)


def test_what_a_death_leaves_while_a_report_is_put_off_is_told_once(post: Post) -> None:
    post.outbox.post(report(1))
    (slip,) = post.outbox.slips()
    later = report(1).failed("503", NOW - DAY)
    post.outbox.put_off(slip, later)
    # As if the process had died between writing the new name and deleting the old one.
    post.outbox._write(slip.key, report(1))
    assert [one.attempts for one in post.outbox.slips()] == [1]
    assert post.deliver() == (1, 0)
    assert post.deliver() == (0, 0)
    assert len(post.told) == 1


def test_a_report_that_is_damaged_holds_back_its_own_partition_only(post: Post) -> None:
    post.outbox.post(report(1))
    post.outbox.post(report(2))
    first = next(slip for slip in post.outbox.slips() if slip.flow_id == "flow-1")
    post.outbox.lake.store.put(first.key, b'{"flow_id": ')
    assert post.deliver() == (1, 1)
    post.outbox.lake.store.put(first.key, json.dumps({"flow_id": 1}).encode())
    assert post.deliver() == (0, 1)
    assert post.told == ["m2 processing-failed"]


def test_reports_that_causemos_never_takes_hold_up_no_others(post: Post) -> None:
    """A hundred that always end in 500 are tried again and again; new ones get through all the same."""
    refused = CauseMosClient._put

    def poisoned(client: CauseMosClient, call: str, body: Any) -> Any:
        from datacube_assets.causemos.client import Refused

        return Refused(500, "no") if body.data_id.startswith("m1") else refused(client, call, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CauseMosClient, "_put", poisoned)
        for number in [*range(100, 200), *range(200, 210)]:
            post.outbox.post(report(number, created=NOW - DAY + number))
        post.deliver()
    assert sorted(post.told) == [f"m{number} processing-failed" for number in range(200, 210)]


# --- clocks --------------------------------------------------------------------------------------------


def test_a_report_that_was_put_off_before_the_clock_was_set_back_waits_no_longer_than_its_backoff(
    post: Post,
) -> None:
    """Put off while the clock was 30 days ahead, a report waited for 30 days."""
    post.outbox.post(report(1))
    (slip,) = post.outbox.slips()
    post.outbox.put_off(slip, report(1).failed("503", NOW + 30 * DAY))
    assert post.deliver(NOW) == (1, 0)


@pytest.mark.parametrize("attempts", [1, 5, 50])
def test_whatever_the_clock_does_the_wait_is_at_most_the_longest(post: Post, attempts: int) -> None:
    one = report(1)
    for _ in range(attempts):
        one = one.failed("503", NOW)
    post.outbox.post(one)
    (slip,) = post.outbox.slips()
    wait = slip.due - NOW
    assert wait == min(FIRST_WAIT * 2 ** (attempts - 1), LONGEST_WAIT)
    assert not slip.is_due(NOW), "it is put off"
    assert slip.is_due(NOW + wait)
    for back in (1, 60_000, DAY, 400 * DAY):
        assert slip.is_due(NOW - back), "the clock was set back"


def test_a_later_run_keeps_the_last_word_though_the_clock_was_set_back_between(post: Post) -> None:
    earlier = report(1, flow="earlier", created=NOW + DAY)
    later = report(1, flow="later", created=NOW)
    post.outbox.post(replace(earlier, kind="queue-runtime", body={**report(1, "queue-runtime").body}))
    post.outbox.post(later)
    post.outbox.post(earlier)
    assert post.deliver(NOW) == (3, 0)
    flows = [one.body.get("flow_id") for one in post.causemos.reports]
    assert flows == [None, "earlier", "later"]
    assert Counter(one.call for one in post.causemos.reports)["processing-failed"] == 2
