"""Publishing to a real S3 server: our way next to what the S3 client alone reaches with the same bodies.

    python -m benchmarks s3                        12,000 objects, three rounds
    python -m benchmarks s3 --objects 20000 --rounds 5

The server is SeaweedFS on this machine, and shares its processors with the client. The bodies are those of a
synthetic run, published into a folder first. They are put in blocks, each by all candidates in turn, so that
a slow minute of the machine hits all of them alike:

    ours         `Publication`: checksums, a record in the lake (on S3 too), content types, retries, throttle
    coroutines   obstore's put_async for every object, and nothing else
    threads      obstore's put for every object in a pool of threads, and nothing else

The ratio is ours to the better of the other two. Whether what is published is right is for the tests to say.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from obstore.store import S3Store

    from datacube_assets.kernels.encode import Objects
    from datacube_assets.storage.publishing import Publication, Published

_IN_FLIGHT: Final = 64
"""Requests at the same time, for every candidate."""
_BLOCK: Final = 2000
_SOURCE_ROWS: Final = 60_000


@dataclass
class Cost:
    """What a candidate used for all blocks of a round, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    from datacube_assets.development.s3_server import s3_server

    with tempfile.TemporaryDirectory(prefix="datacube-s3-bench-", dir=options.folder) as name:
        blocks = _blocks(Path(name), options.objects)
        count = sum(len(block) for block in blocks)
        size = sum(block.nbytes for block in blocks)
        print(
            f"{count:,} objects, {size / 1e6:.1f} MB, {options.rounds} round(s), {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}\n"
        )
        with s3_server() as server:
            os.environ.update(server.environment())
            _measure(blocks, count, server.endpoint, options.rounds)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks s3", description="Time publishing to S3 against the S3 client alone."
    )
    parser.add_argument("--objects", type=int, default=12_000, help="how many objects, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often; medians are printed")
    parser.add_argument("--folder", type=Path, help="where to work, for instance a memory-backed folder")
    return parser.parse_args(arguments)


def _blocks(folder: Path, limit: int) -> list["Objects"]:
    """Objects of a synthetic run as it is published, in blocks of one content type."""
    from benchmarks.synthetic import write_synthetic
    from datacube_assets.kernels.encode import CSV, JSON, PROTOBUF, Objects

    [part] = write_synthetic(folder / "synthetic.parquet.gzip", _SOURCE_ROWS, months=8, places=800)
    qualifiers = {f"feature {number}": ["crop", "market"] for number in (1, 2)}
    command = [sys.executable, "-m", "datacube_assets.cli", "publish", str(part), "--quiet"]
    options = {
        "home": str(folder / "home"),
        "model-id": "synthetic",
        "run-id": "run",
        "qualifier-map": json.dumps(qualifiers),
    }
    elsewhere = ("DAGSTER_HOME", "DATACUBE_LAKE", "DATACUBE_MODELS_BUCKET")
    subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        check=True,
        env={name: value for name, value in os.environ.items() if name not in elsewhere},
    )
    root = folder / "home" / "buckets" / "models" / "synthetic" / "run"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    # Evenly from all families.
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    blocks = []
    for suffix, content_type in ((".csv", CSV), (".json", JSON), (".tile", PROTOBUF)):
        chosen = [path for path in paths if path.suffix == suffix]
        for start in range(0, len(chosen), _BLOCK):
            some = chosen[start : start + _BLOCK]
            bodies = {path.relative_to(root).as_posix(): path.read_bytes() for path in some}
            blocks.append(Objects.of(bodies, content_type))
    return blocks


def _measure(blocks: Sequence["Objects"], count: int, endpoint: str, rounds: int) -> None:
    from obstore.store import S3Store

    from datacube_assets.dojo.model_run import ModelRun
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.opening import open_store
    from datacube_assets.storage.publishing import Publication

    store = S3Store(
        "models",
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    trials: dict[str, list[Cost]] = {"ours": [], "coroutines": [], "threads": []}
    for number in range(rounds + 1):
        lake, bucket = Lake(open_store("s3://lake", endpoint)), open_store("s3://models/ours", endpoint)
        costs = {name: Cost() for name in trials}
        with _timed(costs["ours"]):
            run = ModelRun("synthetic", f"run-{number}")
            publication = Publication.begin(lake, bucket, run, "maps", "v1", f"attempt-{number}")
        done = {}
        for which, block in enumerate(blocks if number else blocks[:1]):
            candidates: list[tuple[str, Callable[[], object]]] = [
                ("ours", lambda: done.update({str(which): publication.publish(str(which), [block])})),  # noqa: B023
                ("coroutines", lambda: _coroutines(store, f"coroutines/{number}", block)),  # noqa: B023
                ("threads", lambda: _threads(store, f"threads/{number}", block)),  # noqa: B023
            ]
            # Each goes first as often as the others.
            shift = (which + number) % len(candidates)
            for name, put in candidates[shift:] + candidates[:shift]:
                with _timed(costs[name]):
                    put()
        with _timed(costs["ours"]):
            _finish(publication, done)
        if number:  # The first is a short one, to make connections and volumes.
            for name, cost in costs.items():
                trials[name].append(cost)
            rates = [f"{name} {count / cost.wall:,.0f}/s" for name, cost in costs.items()]
            print(f"round {number}: {', '.join(rates)}")
    print(f"\n{'':<14}{'objects/s':>12}{'client CPU, microseconds per object':>40}")
    medians = {name: median(count / cost.wall for cost in trial) for name, trial in trials.items()}
    for name, trial in trials.items():
        cpu = median(cost.cpu for cost in trial) / count * 1e6
        print(f"{name:<14}{medians[name]:>12,.0f}{cpu:>40,.0f}")
    best = max(("coroutines", "threads"), key=lambda name: medians[name])
    ratios = [alone.wall / ours.wall for ours, alone in zip(trials["ours"], trials[best], strict=True)]
    each = ", ".join(f"{ratio:.0%}" for ratio in ratios)
    print(f"\nours reaches {median(ratios):.0%} of obstore alone ({best}); by rounds {each}")


def _finish(publication: "Publication", done: dict[str, tuple["Published", list[str]]]) -> None:
    from datacube_assets.storage.publishing import Published

    total = sum((published for published, _ in done.values()), Published())
    publication.finish(total, {name: names for name, (_, names) in done.items()})


class _timed:
    """Adds what is done inside to a cost."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost

    def __enter__(self) -> None:
        self._wall, self._cpu = perf_counter(), _cpu()

    def __exit__(self, *_: object) -> None:
        self._cost.wall += perf_counter() - self._wall
        self._cost.cpu += _cpu() - self._cpu


def _cpu() -> float:
    """Seconds of processor time of this process; the server is another one."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _pairs(prefix: str, block: "Objects") -> Iterator[tuple[str, bytes]]:
    return ((f"{prefix}/{key}", bytes(body)) for key, body in zip(block.keys, block.bodies(), strict=True))


def _coroutines(store: "S3Store", prefix: str, block: "Objects") -> None:
    import obstore

    async def put_all() -> None:
        pairs = _pairs(prefix, block)

        async def put() -> None:
            for key, body in pairs:
                await obstore.put_async(store, key, body)

        await asyncio.gather(*(put() for _ in range(_IN_FLIGHT)))

    asyncio.run(put_all())


def _threads(store: "S3Store", prefix: str, block: "Objects") -> None:
    import obstore

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for _ in pool.map(lambda pair: obstore.put(store, *pair), _pairs(prefix, block)):
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
