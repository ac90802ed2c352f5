"""The image and Compose for real: built, brought up, asked by curl as infra/README.md says, and broken.

Slow, some fifteen minutes and 3 GB, as root on Debian:

    make containers
    make test ARGS="-m slow -n 0 datacube_assets_tests/integration/test_containers.py"

With DATACUBE_CONTAINERS naming a folder, images and layers stay there for the next time. What differs from
Docker is listed in `containers.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from datacube_assets.development.sample import write_parts
from datacube_assets_tests.integration.commands import fenced_commands
from datacube_assets_tests.integration.containers import COMPOSE, IMAGE, Containers, why_not
from datacube_assets_tests.integration.support import open_house, rows
from datacube_assets_tests.integration.system import wait_for

PATIENCE = 1500.0
GATEWAY, DOJO, CAUSEMOS, S3, WEBSERVER = (
    f"http://127.0.0.1:{port}" for port in (4040, 3001, 3002, 8333, 3000)
)
LARGEST_IMAGE = 1_200_000_000
"""Bytes, of which the base of Debian packages has 167 million."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    kept = os.environ.get("DATACUBE_CONTAINERS", "")
    folder = Path(kept or tempfile.mkdtemp(prefix="datacube-containers-", dir="/var/tmp"))
    folder.mkdir(exist_ok=True)
    opened = Containers(folder, f"datacube-{os.getpid()}")
    opened.open()
    try:
        opened.build()
        yield opened
    finally:
        opened.close(keep_images=bool(kept))
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def system(containers: Containers) -> Iterator[Containers]:
    variables = (COMPOSE / "env.example").read_text()
    containers.write_compose(f"{variables}\nDATACUBE_SENSOR_INTERVAL=2\nDATACUBE_MAX_RUNS=2\n")
    try:
        containers.up()
        yield containers
    finally:
        # In the folder, where that is kept.
        for name in containers.containers():
            (containers.folder / f"{name}.log").write_text(containers.logs(name, lines=2000))
        containers.remove()


# --- the image --------------------------------------------------------------------------------------


def test_the_image_is_no_larger_than_it_was(containers: Containers) -> None:
    size = int(containers.run("podman", "image", "inspect", "--format", "{{.Size}}", IMAGE))
    assert size < LARGEST_IMAGE


def test_the_image_has_neither_tests_nor_tools_to_build_with_nor_libraries_twice(
    containers: Containers,
) -> None:
    script = (
        "cd /opt/datacube; find . -name tests -path '*/site-packages/*' -type d;"
        "ls bin | grep -E '^pip'; find . -name '*.map' -o -name '*.pyx';"
        "find . -type f -name '*.so*' -size +100k -exec md5sum {} + | sort | uniq -D -w 32"
    )
    found = containers.run("podman", "run", "--rm", IMAGE, "bash", "-c", f"{script}; true")
    assert found == ""


def test_the_demo_works_in_the_image_without_any_variable(containers: Containers) -> None:
    said = containers.run("podman", "run", "--rm", "--network", "none", IMAGE, "datacube", "demo")
    assert "Published" in said
    assert containers.run("podman", "run", "--rm", IMAGE, "id", "-u").strip() == "10001"


def test_with_postgres_named_by_nobody_the_image_says_what_is_missing(containers: Containers) -> None:
    command = ["podman", "run", "--rm", "--env", "DAGSTER_HOME=/opt/dagster", IMAGE, "datacube", "list"]
    said = containers.run("bash", "-c", f"{' '.join(command)} 2>&1; true")
    assert "DAGSTER_POSTGRES_HOST" in said
    assert "Traceback" not in said


# --- Compose ----------------------------------------------------------------------------------------


def test_a_request_by_curl_becomes_a_datacube_with_the_bytes_of_an_undisturbed_run(
    system: Containers, tmp_path: Path
) -> None:
    (enqueue,) = (one for one in fenced_commands("infra/README.md") if "http://dojo:3001/files" in one)
    system.run("bash", "-ec", enqueue)
    wait_for(lambda: "rainfall-low" in told(system), "CauseMos to be told", PATIENCE)
    assert objects(system, "toy-crop-model/rainfall-low/") == published_here(tmp_path)


def published_here(folder: Path) -> dict[str, bytes]:
    """What the command publishes on this machine of the same part."""
    write_parts(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("D")}
    subprocess.run(
        [
            *(sys.executable, "-P", "-m", "datacube_assets.cli", "publish"),
            str(folder / "files" / "rainfall-low_toy-crop-model.1.parquet.gzip"),
            *("--model-id", "toy-crop-model", "--run-id", "rainfall-low", "--home", str(folder / "home")),
            *("--qualifier-map", '{"yield": ["crop"]}', "--quiet"),
        ],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = folder / "home" / "buckets" / "models" / "toy-crop-model" / "rainfall-low"
    return {str(one.relative_to(found)): one.read_bytes() for one in found.rglob("*") if one.is_file()}


TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
RUNS = "{ runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"


def newest_run(system: Containers) -> dict[str, str]:
    return dict(graphql(system, RUNS)["runsOrError"]["results"][0])


def test_terminating_a_run_ends_it_though_the_webserver_does_not_see_its_process(system: Containers) -> None:
    wait_for(lambda: status(system).get("count") == 0, "an empty queue", PATIENCE)
    before = newest_run(system)["runId"]
    # A file that takes a minute.
    system.call(httpx.put, f"{DOJO}/simulator/switches", json={"latency_seconds": 60.0})
    enqueue(system, "terminated", 1.0)

    def at_work() -> str:
        run = newest_run(system)
        return run["runId"] if run["runId"] != before and run["status"] == "STARTED" else ""

    run_id = wait_for(at_work, "a run at work", PATIENCE)
    answer = graphql(system, TERMINATE, run=run_id)
    assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
    wait_for(lambda: newest_run(system)["status"] == "CANCELED", "its end", 30)
    daemon = system.containers()["daemon"]["Id"]
    wait_for(lambda: run_id not in system.run("podman", "top", daemon, "args"), "the end of its process", 30)
    system.call(httpx.put, f"{DOJO}/simulator/switches", json={"latency_seconds": 0.0})


def test_a_cold_restart_loses_nothing(system: Containers) -> None:
    system.call(httpx.put, f"{GATEWAY}/data-pipeline/stop")
    wanted = {f"cold-{number}": 10.0 + number for number in range(3)}
    for run_id, value in wanted.items():
        enqueue(system, run_id, value)
    system.remove()
    system.up()
    # Files of Dojo's simulator are in its container, and went with it.
    for run_id, value in wanted.items():
        add_part(system, run_id, value)
    waiting = status(system)
    assert (waiting["count"], waiting["is_running"]) == (3, False)
    system.call(httpx.put, f"{GATEWAY}/data-pipeline/start")
    has_published(system, wanted)


SERVICES = ("gateway", "code", "webserver", "daemon", "dask-worker", "dask-scheduler", "s3", "postgres")


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_lost_when_a_container_is_killed(system: Containers, name: str) -> None:
    wanted = {f"{name}-{number}": 10.0 + number for number in range(2)}
    for run_id, value in wanted.items():
        enqueue(system, run_id, value)
    others = {other: one["Pid"] for other, one in system.containers().items() if other != name}
    before = system.containers()[name]["Pid"]
    os.kill(before, signal.SIGKILL)

    def is_anew() -> bool:
        there = system.containers()[name]
        return there["State"] == "running" and there["Pid"] not in (0, before)

    wait_for(is_anew, f"{name} to be started again", PATIENCE)
    has_published(system, wanted)
    there = {other: one["Pid"] for other, one in system.containers().items()}
    ended = {other for other, pid in others.items() if pid and there[other] != pid}
    assert ended == set(), "nobody else ends with it"


# --- from outside -----------------------------------------------------------------------------------


def get(system: Containers, address: str) -> Any:
    with contextlib.suppress(httpx.TransportError):
        answer = system.call(httpx.get, address, timeout=60)
        if answer.is_success:
            return answer.json()
    return None


def graphql(system: Containers, query: str, **variables: str) -> dict[str, Any]:
    body = {"query": query, "variables": variables}
    answer = system.call(httpx.post, f"{WEBSERVER}/graphql", json=body, timeout=60).json()
    assert "errors" not in answer, answer
    return dict(answer["data"])


def status(system: Containers) -> dict[str, Any]:
    return get(system, f"{GATEWAY}/data-pipeline/status") or {}


def told(system: Containers) -> Counter[str]:
    """How often CauseMos was told of the success of a run, and believed it."""
    reports = get(system, f"{CAUSEMOS}/simulator/reports") or []
    return Counter(
        str(one["body"]["run_id"])
        for one in reports
        if one["call"] == "processing-succeeded" and one["status"] == 200
    )


def add_part(system: Containers, run_id: str, value: float) -> str:
    """A part of four rows in the container of Dojo's simulator; returns its address for the others."""
    name = f"{run_id}_toy.parquet.gzip"
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(rows(value=[value, 2.0, 3.0, 4.0]), path := Path(folder) / name, compression="gzip")
        path.chmod(0o644)
        dojo = system.containers()["dojo"]["Id"]
        system.run("podman", "cp", str(path), f"{dojo}:/home/datacube/dojo/files/{name}")
    return f"http://dojo:3001/files/{name}"


def enqueue(system: Containers, run_id: str, value: float) -> None:
    body = {
        "model_id": "toy",
        "run_id": run_id,
        "doc_ids": [run_id],
        "data_paths": [add_part(system, run_id, value)],
        "qualifier_map": {"rain": []},
        "is_indicator": False,
    }

    def accepted() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = system.call(httpx.put, f"{GATEWAY}/data-pipeline/enqueue", json=body, timeout=60)
            assert answer.status_code < 400 or answer.status_code >= 500, answer.text
            return bool(answer.status_code == 200)
        return False

    wait_for(accepted, f"{run_id} to be accepted", PATIENCE)


def objects(system: Containers, prefix: str) -> dict[str, bytes]:
    """What lies in the bucket of models, by a client that is not ours."""
    return system.call(_objects, prefix)


def _objects(prefix: str) -> dict[str, bytes]:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=S3,
        aws_access_key_id="datacube",
        aws_secret_access_key="datacube-secret",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="models", Prefix=prefix)
    keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
    return {
        key.removeprefix(prefix): client.get_object(Bucket="models", Key=key)["Body"].read() for key in keys
    }


def undisturbed(value: float) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder)) as house:
        house.publish(rows(value=[value, 2.0, 3.0, 4.0]), qualifier_map={"rain": ()})
        return dict(house.datacube().objects)


def has_published(system: Containers, wanted: dict[str, float]) -> None:
    """Wait until CauseMos was told of these runs, each once, and hold what is published to the truth."""
    end = time.monotonic() + 2 * PATIENCE
    while missing := wanted.keys() - told(system).keys():
        assert time.monotonic() < end, f"never told of {sorted(missing)}: {status(system)}"
        time.sleep(1)
    for run_id, value in wanted.items():
        assert objects(system, f"toy/{run_id}/") == undisturbed(value), run_id
    counted = told(system)
    assert {run_id: counted[run_id] for run_id in wanted} == dict.fromkeys(wanted, 1)
