"""Requests to the gateway while thousands wait: how many a second, and how long the slowest take.

    python -m benchmarks gateway

The gateway is a process of its own on a home folder of its own; nobody starts runs. Beside it stands what
the disk alone allows: the same files written as durably, by as many threads, without a gateway.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx

from datacube_assets.development.ports import free_port

Json: TypeAlias = dict[str, Any]

_BULK: Final = 500
_STARTING: Final = 120.0


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="datacube-gateway-", dir=options.folder) as name:
        folder = Path(name)
        with _gateway(folder) as url, httpx.Client(base_url=url, timeout=120) as http:
            started = time.perf_counter()
            for first in range(0, options.queued, _BULK):
                many = [_parameters(f"queued-{n}") for n in range(first, min(first + _BULK, options.queued))]
                http.put("/data-pipeline/bulk-enqueue", json=many).raise_for_status()
            seconds = time.perf_counter() - started
        print(f"{options.queued:,} requests queued in {seconds:.1f} s, {_BULK} at a time\n")
        with _gateway(folder) as url:
            _measure(url, options)
        floor = _floor(folder / "floor", options.clients, options.seconds)
        print(f"\nthe disk alone, two files as durably: {floor:,.0f} a second")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gateway", description="Time requests to the gateway while many wait."
    )
    parser.add_argument("--queued", type=int, default=10_000, help="requests that wait already")
    parser.add_argument("--clients", type=int, default=8, help="connections at the same time")
    parser.add_argument("--seconds", type=float, default=15, help="how long each kind is measured")
    parser.add_argument("--folder", type=Path, help="where to work: the disk counts")
    return parser.parse_args(arguments)


def _parameters(run_id: str) -> Json:
    return {
        "model_id": "2af38a88-aa34-4f4a-94f6-a3e1e6630833",
        "run_id": run_id,
        "doc_ids": [run_id],
        "data_paths": [
            f"https://bucket.example/dmc_results/{run_id}/{run_id}_m.{n}.parquet.gzip" for n in (1, 2)
        ],
        "model_bucket": "models",
        "indicator_bucket": "indicators",
        "qualifier_map": {f"feature {n}": ["crop", "season"] for n in range(5)},
        "weight_column": "",
        "compute_tiles": True,
    }


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[str]:
    """A gateway as a process, and its address."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "datacube_assets.cli", "gateway", "--port", str(port)]
    ours = {"DATACUBE_HOME": str(folder / "home"), "DATACUBE_QUEUE_SIZE": "1000000"}
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | ours
    process = subprocess.Popen(command, cwd=folder, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + _STARTING
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/healthz").raise_for_status()
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _measure(url: str, options: argparse.Namespace) -> None:
    with httpx.Client(base_url=url, timeout=120) as http:
        started = time.perf_counter()
        waiting = http.get("/data-pipeline/status").json()["count"]
        print(f"first look at {waiting:,} after a start: {time.perf_counter() - started:.2f} s")
        for which in ("first", "second"):
            started = time.perf_counter()
            size = len(http.get("/data-pipeline/jobs").raise_for_status().content)
            print(f"{which} /jobs: {time.perf_counter() - started:.2f} s, {size / 1e6:.1f} MB")
    print(f"\n{options.clients} connections, {os.cpu_count()} cores shared with the clients")
    print(f"{'request':<28}{'per second':>12}{'median ms':>12}{'p99 ms':>12}{'slowest ms':>12}")
    fresh = count()

    def new(http: httpx.Client) -> httpx.Response:
        return http.put("/data-pipeline/enqueue", json=_parameters(f"fresh-{next(fresh)}"))

    def duplicate(http: httpx.Client) -> httpx.Response:
        return http.put("/data-pipeline/enqueue", json=_parameters("queued-17"))

    for label, send in (
        ("enqueue, a new request", new),
        ("enqueue, a duplicate", duplicate),
        ("status", lambda http: http.get("/data-pipeline/status")),
        ("metrics", lambda http: http.get("/metrics")),
    ):
        _tell(label, _timed(url, send, options.clients, options.seconds), options.seconds)
    with httpx.Client(base_url=url, timeout=120) as http:
        waiting_now = http.get("/data-pipeline/status").json()["count"]
    assert waiting_now == waiting + next(fresh), "each new request waits, each duplicate does not"


def _timed(
    url: str, send: Callable[[httpx.Client], httpx.Response], clients: int, seconds: float
) -> list[float]:
    """Seconds that each request took, sent one after the other on each connection."""
    end = time.perf_counter() + seconds

    def client(_: int) -> list[float]:
        taken = []
        with httpx.Client(base_url=url, timeout=120) as http:
            while (started := time.perf_counter()) < end:
                send(http).raise_for_status()
                taken.append(time.perf_counter() - started)
        return taken

    with ThreadPoolExecutor(clients) as threads:
        return sorted(one for taken in threads.map(client, range(clients)) for one in taken)


def _tell(label: str, taken: list[float], seconds: float) -> None:
    figures = (taken[len(taken) // 2], taken[int(len(taken) * 0.99)], taken[-1])
    told = "".join(f"{1000 * figure:>12,.1f}" for figure in figures)
    print(f"{label:<28}{len(taken) / seconds:>12,.0f}{told}")


def _floor(folder: Path, clients: int, seconds: float) -> float:
    """How many pairs of files a second can be written so that they outlive a power cut."""
    body = json.dumps(_parameters("floor")).encode()
    end = time.perf_counter() + seconds

    def client(number: int) -> int:
        for written in count():
            if time.perf_counter() >= end:
                return written
            for kind in ("request", "waiting"):
                place = folder / kind / (str(number) if kind == "waiting" else f"{number}-{written}")
                place.mkdir(parents=True, exist_ok=True)
                path = place / str(written)
                with path.open("wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                descriptor = os.open(place, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        return 0

    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(client, range(clients))) / seconds


if __name__ == "__main__":
    main(sys.argv[1:])
