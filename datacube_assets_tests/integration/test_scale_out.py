"""Dask workers, scheduler, S3 server and run, each on a machine of its own: only the network is shared.

How machines are made is in `network.py`. The figures that are printed (`-s`) are those of docs/scaling.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.synthetic import write_synthetic
from datacube_assets.cli import main as datacube
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.network import Network, network, why_not

pytestmark = pytest.mark.slow

WORKERS = ("first", "second", "third")
BIN = Path(sys.executable).parent
S3_PORT, DASK_PORT = 8333, 8786
START_SECONDS = 60.0
QUALIFIERS = json.dumps({f"feature {number}": ["crop", "market"] for number in (1, 2)})
PER_TASK_BYTES = 6_000
PER_TASK_MESSAGES = 12
"""Between a run and the scheduler, for each task: numbers of rows and objects do not change it."""

_SERVE = """
import signal, sys
from pathlib import Path
from datacube_assets.development.s3_server import s3_server
with s3_server(Path("/tmp/s3"), host=sys.argv[1], port=int(sys.argv[2])):
    print("ready", flush=True)
    signal.pause()
"""
_SUMS = """
import hashlib, json, sys
import boto3
from botocore.config import Config
s3 = boto3.client("s3", endpoint_url=sys.argv[1], config=Config(s3={"addressing_style": "path"}))
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix=sys.argv[2])
def sum_of(one):
    tag = one["ETag"].strip('"')
    # What was sent in several parts has another tag.
    body = s3.get_object(Bucket="models", Key=one["Key"])["Body"].read() if "-" in tag else None
    return tag if body is None else hashlib.md5(body).hexdigest()
found = [one for page in pages for one in page.get("Contents", ())]
print(json.dumps({one["Key"][len(sys.argv[2]) :]: sum_of(one) for one in found}))
"""
_COUNTED = """
import sys
from distributed import Client, SchedulerPlugin
class Counting(SchedulerPlugin):
    name, done = "counting", 0
    def transition(self, key, start, finish, *args, **kwargs):
        self.done += finish == "memory"
def counted(dask_scheduler):
    return dask_scheduler.plugins["counting"].done if "counting" in dask_scheduler.plugins else None
with Client(sys.argv[1]) as client:
    if client.run_on_scheduler(counted) is None:
        client.register_plugin(Counting())
    print(client.run_on_scheduler(counted))
"""


@dataclass
class Site:
    """A network on which there is everything that a run needs."""

    machines: Network
    environment: Mapping[str, str]

    def publish(self, part: Path, prefix: str, *arguments: str) -> float:
        """Publish a file on the machine of runs; the seconds that took."""
        places = [
            *("--lake", f"s3://lake/{prefix}", "--home", "/tmp/home"),
            *("--models-bucket", f"s3://models/{prefix}", "--indicators-bucket", f"s3://indicators/{prefix}"),
        ]
        command = [str(BIN / "datacube"), "publish", "input", *arguments, *places, "--quiet"]
        began = time.monotonic()
        self.machines.run("run", *command, environment=self.environment, given=part)
        return time.monotonic() - began

    def sums(self, prefix: str) -> dict[str, str]:
        """The checksum of each published object."""
        endpoint = self.environment["DATACUBE_S3_ENDPOINT"]
        code = (sys.executable, "-c", _SUMS, endpoint, f"{prefix}/model/")
        found: dict[str, str] = json.loads(self.machines.run("run", *code, environment=self.environment))
        return found

    def tasks(self) -> int:
        """How many tasks the scheduler has seen done since it was first asked."""
        scheduler = self.environment["DATACUBE_DASK_SCHEDULER"]
        code = (sys.executable, "-c", _COUNTED, scheduler)
        return int(self.machines.run("run", *code, environment=self.environment))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    logs = tmp_path_factory.mktemp("machines")
    with network("s3", "scheduler", *WORKERS, "run") as machines:
        s3, scheduler = machines.address("s3"), machines.address("scheduler")
        environment = {
            **nothing_set(),
            "DATACUBE_S3_ENDPOINT": f"http://{s3}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "datacube",
            "AWS_SECRET_ACCESS_KEY": "datacube-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DATACUBE_DASK_SCHEDULER": f"tcp://{scheduler}:{DASK_PORT}",
            "DATACUBE_SHARD_ROWS": "20000",
        }
        serve = (sys.executable, "-c", _SERVE, s3, str(S3_PORT))
        machines.start("s3", *serve, environment=environment, log=logs / "s3.log")
        dask = (
            str(BIN / "dask"),
            "scheduler",
            "--host",
            scheduler,
            "--port",
            str(DASK_PORT),
            "--no-dashboard",
        )
        machines.start("scheduler", *dask, environment=environment, log=logs / "scheduler.log")
        for name in WORKERS:
            worker = (str(BIN / "dask"), "worker", f"tcp://{scheduler}:{DASK_PORT}", "--no-dashboard")
            where = ("--host", machines.address(name), "--nthreads", "1", "--name", name)
            machines.start(name, *worker, *where, environment=environment, log=logs / f"{name}.log")
        end = time.monotonic() + START_SECONDS
        while "ready" not in (logs / "s3.log").read_text():
            assert time.monotonic() < end, (logs / "s3.log").read_text()
            time.sleep(0.2)
        yield Site(machines, environment)


def here(folder: Path, part: Path, *arguments: str) -> dict[str, str]:
    """The checksum of each object of the same input, published by one process into a folder."""
    places = ("--home", str(folder), "--models-bucket", (folder / "models").as_uri(), "--quiet")
    datacube(["publish", str(part), *arguments, *places], standalone_mode=False)
    model = folder / "models" / "model"
    return {
        path.relative_to(model).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()
        for path in model.rglob("*")
        if path.is_file()
    }


SYNTHETIC = ("--model-id", "model", "--run-id", "run", "--qualifier-map", QUALIFIERS)


@pytest.fixture(scope="module")
def sixty_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of three shards."""
    path = tmp_path_factory.mktemp("input") / "rows.parquet"
    write_synthetic(path, rows=60_000)
    return path


@pytest.mark.parametrize("delay", [0.001, 0.03])
def test_nothing_is_shared_but_the_network_and_what_goes_over_it_is_bounded(
    site: Site, sixty_thousand: Path, tmp_path: Path, delay: float
) -> None:
    local = here(tmp_path, sixty_thousand, *SYNTHETIC)
    site.machines.delay(delay)
    tasks, before = site.tasks(), site.machines.traffic()
    prefix = f"synthetic-{delay}"
    seconds = site.publish(sixty_thousand, prefix, *SYNTHETIC)
    now = site.machines.traffic()
    assert site.sums(prefix) == local
    tasks = site.tasks() - tasks
    went = {pair: now[pair] - before[pair] for pair in now}
    with_scheduler = [went["run", "scheduler"], went["scheduler", "run"]]
    told = [sum(one.bytes for one in with_scheduler), sum(one.messages for one in with_scheduler)]
    of_workers = {name: went[name, "s3"].bytes for name in WORKERS}
    between = sum(went[one, other].bytes for one in WORKERS for other in WORKERS)
    rate = len(local) / seconds
    print(
        f"\n{1000 * delay:g} ms each way: {len(local):,} objects in {seconds:.1f} s ({rate:,.0f} a second), "
        f"{tasks} tasks; run and scheduler {told[0] / tasks:,.0f} bytes and {told[1] / tasks:.1f} messages a "
        f"task; to S3 {sum(of_workers.values()):,} bytes by workers, {went['run', 's3'].bytes:,} by the run; "
        f"between workers {between:,}"
    )
    assert all(of_workers.values()), "every worker had a part in it"
    assert told[0] < tasks * PER_TASK_BYTES
    assert told[1] < tasks * PER_TASK_MESSAGES
    # Results of pieces are small and go to the run; tables go by way of the lake.
    assert between < 1_000_000
    # One request after the other could not be more than this many.
    assert rate > 3 / (2 * delay) or delay < 0.01


@pytest.mark.parametrize("name", ["hopper_presence.1", "census"])
def test_real_inputs_become_the_same_objects(site: Site, shared: Path, tmp_path: Path, name: str) -> None:
    part = shared / "data" / f"{name}.parquet.gzip"
    arguments = ("--model-id", "model", "--run-id", "run")
    site.machines.delay(0.001)
    site.publish(part, name, *arguments)
    assert site.sums(name) == here(tmp_path, part, *arguments)


def test_ten_million_rows_become_the_same_objects(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "rows.parquet"
    write_synthetic(part, rows=10_000_000)
    site.machines.delay(0.001)
    million = Site(site.machines, {**site.environment, "DATACUBE_SHARD_ROWS": "1000000"})
    seconds = million.publish(part, "ten-million", *SYNTHETIC)
    found = million.sums("ten-million")
    print(f"\n10,000,000 rows: {len(found):,} objects in {seconds:.1f} s")
    local = here(tmp_path / "home", part, *SYNTHETIC)
    differing = {key: (found.get(key), local.get(key)) for key in found | local}
    assert not {key: sums for key, sums in differing.items() if sums[0] != sums[1]}
