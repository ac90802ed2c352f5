"""A backup of a stack at work, restored into an empty one with the commands of infra/README.md.

Real processes (`infra/stack.py`). Afterwards no run, request or report is missing, and nothing is published
or told a second time. Slow, some five minutes.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from datacube_assets.development.s3_server import ACCESS_KEY, REGION, SECRET_KEY
from datacube_assets_tests.integration.commands import fenced_commands
from datacube_assets_tests.integration.support import rows
from datacube_assets_tests.integration.system import wait_for
from datacube_assets_tests.integration.test_stack import (
    MODEL,
    PATIENCE,
    Stack,
    running,
    stack_folder,
    undisturbed,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        reason="there is no Postgres here: run `make postgres`",
    ),
]

BUCKETS = ("lake", "models", "indicators", "logs")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    with stack_folder(request) as folder:
        yield folder


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of parts and its address, which outlives both stacks."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_backup_is_restored_into_an_empty_stack_and_nothing_is_missing(
    folder: Path, files: tuple[Path, str]
) -> None:
    source, target, kept = (folder / name for name in ("source", "target", "backup"))
    for one in (source, target, kept):
        one.mkdir()
        one.chmod(0o755)
    done = {"done-1": 11.0, "done-2": 12.0}
    untold = {"untold": 13.0}
    waiting = {"waiting-1": 14.0, "waiting-2": 15.0}
    with running(source) as stack:
        for run_id, value in done.items():
            ask(stack, files, run_id, value)
        stack.has_published(done)
        # CauseMos is away: the next one is published, and nobody is told.
        switch(stack, error_rate=1.0)
        ask(stack, files, "untold", untold["untold"])
        wait_for(lambda: figure(stack, "datacube_reports_undelivered") >= 1, "a report that waits", PATIENCE)
        wait_for(lambda: rested(stack), "no run at work", PATIENCE)
        pause(stack)
        for run_id, value in waiting.items():
            ask(stack, files, run_id, value)
        runs = runs_of(stack)
        by_hand(stack, "pg_dump", kept)
        copy(stack, kept, out=True)
        before = listing(stack)
    assert len(runs) == 3

    with running(target, "postgres", "s3", "buckets") as stack:
        by_hand(stack, "psql", kept)
        copy(stack, kept, out=False)
        restored = listing(stack)
        assert {key: tag for key, (tag, _) in restored.items()} == {
            key: tag for key, (tag, _) in before.items()
        }

    with running(target) as stack:
        assert runs_of(stack).keys() >= runs.keys()
        status = stack.status()
        assert (status["count"], status["is_running"]) == (2, False), "it waits until somebody starts it"
        wait_for(lambda: "untold" in stack.ready(), "the report that waited", PATIENCE)
        assert httpx.put(f"{stack.addresses['gateway']}/data-pipeline/start", timeout=60).is_success
        stack.has_published(waiting)
        wait_for(lambda: rested(stack), "no run at work", PATIENCE)
        assert stack.ready() == {*untold, *waiting}, "what was told before the backup is not told again"
        assert Counter(str(one["run_id"]) for one in stack.reports()).most_common(1)[0][1] == 1
        after = listing(stack)
        assert {key: after[key] for key in restored} == restored, "nothing is published twice"
        for run_id, value in {**done, **untold, **waiting}.items():
            assert stack.objects(run_id) == undisturbed(value), run_id
        assert len(runs_of(stack)) == 5
        assert set(runs_of(stack).values()) == {"SUCCESS"}


def ask(stack: Stack, files: tuple[Path, str], run_id: str, value: float) -> None:
    served, address = files
    name = f"{run_id}_{MODEL}.parquet.gzip"
    pq.write_table(rows(value=[value, 2.0, 3.0, 4.0]), served / name, compression="gzip")
    body = {
        "model_id": MODEL,
        "run_id": run_id,
        "doc_ids": [run_id],
        "data_paths": [f"{address}/{name}"],
        "qualifier_map": {"rain": []},
    }
    answer = httpx.put(f"{stack.addresses['gateway']}/data-pipeline/enqueue", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def pause(stack: Stack) -> None:
    assert httpx.put(f"{stack.addresses['gateway']}/data-pipeline/stop", timeout=60).is_success


def rested(stack: Stack) -> bool:
    status = stack.status()
    return bool(status) and status["running"] == 0 and figure(stack, 'datacube_runs{status="queued"}') == 0


def switch(stack: Stack, **switches: float) -> None:
    address = f"{stack.addresses['causemos']}/simulator/switches"
    assert httpx.put(address, json=switches, timeout=60).is_success


def figure(stack: Stack, name: str) -> float:
    text = httpx.get(f"{stack.addresses['gateway']}/metrics", timeout=60).text
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


def by_hand(stack: Stack, program: str, kept: Path) -> None:
    """The command of the page with this program, in the environment of the stack."""
    (command,) = (one for one in fenced_commands("infra/README.md") if program in one and "$DAGSTER" in one)
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    script = f"source {stack.folder}/environment\nPATH={binaries}:$PATH\ncd {kept}\n{command}"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def runs_of(stack: Stack) -> dict[str, str]:
    """Status of each run, from Dagster's storage itself."""
    import psycopg2

    told = stack.told["environment"]
    connection = psycopg2.connect(
        host=told["DAGSTER_POSTGRES_HOST"],
        port=told["DAGSTER_POSTGRES_PORT"],
        user=told["DAGSTER_POSTGRES_USER"],
        password=told["DAGSTER_POSTGRES_PASSWORD"],
        dbname=told["DAGSTER_POSTGRES_DB"],
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT run_id, status FROM runs")
            return dict(cursor.fetchall())
    finally:
        connection.close()


def client(stack: Stack) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=stack.addresses["s3"],
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}),
    )


def listing(stack: Stack) -> Mapping[tuple[str, str], tuple[str, object]]:
    """Checksum of each object of the models, and when it was written."""
    pages = client(stack).get_paginator("list_objects_v2").paginate(Bucket="models")
    return {
        ("models", one["Key"]): (one["ETag"], one["LastModified"])
        for page in pages
        for one in page.get("Contents", ())
    }


def copy(stack: Stack, kept: Path, *, out: bool) -> None:
    """What `aws s3 sync` does, one way or the other."""
    s3 = client(stack)
    for bucket in BUCKETS:
        place = kept / bucket
        if out:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for one in page.get("Contents", ()):
                    (path := place / one["Key"]).parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as sink:
                        shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=one["Key"])["Body"], sink)
        else:
            for path in sorted(one for one in place.rglob("*") if one.is_file()):
                s3.put_object(Bucket=bucket, Key=str(path.relative_to(place)), Body=path.read_bytes())
    # Listings have whole seconds: what is written later is to be seen as later.
    time.sleep(1.1)
