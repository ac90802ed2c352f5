"""The same input gives the same bytes, in whatever order and pieces it comes and however it is computed.

What is compared is every published object. Of raw.csv only the lines count: its rows are in the order of
the files, as they were delivered. Of the lake it is the rows of the tables, to the last bit: their files
are cut by shard and chunk.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.support import DAY, JANUARY, Datacube, House

RUN = ModelRun("model", "run")
REQUEST: dict[str, Any] = {
    "qualifier_map": {"rain": ("crop", "year"), "yield": ("crop",)},
    "weight_column": "area",
}
SMALL = {
    "datacube_assets.storage.points": {"BATCH_ROWS": 100, "PIECE_ROWS": 60},
    "datacube_assets.kernels.parts": {"BATCH_ROWS": 32},
    "datacube_assets.assets.datacube": {"BATCH_ROWS": 50},
    "datacube_assets.kernels.views": {"BATCH_ROWS": 30, "BATCH_OBJECTS": 7, "BATCH_BYTES": 3_000},
    "datacube_assets.kernels.sums": {"_BLOCK_ROWS": 16},
    "datacube_assets.kernels.grid": {"BLOCK_CELLS": 20},
    "datacube_assets.kernels.groups": {"_FLAGS_PER_ROW": 0, "_FEW": 0},
}
"""How much is held at once, made so small that a few hundred rows are cut everywhere."""


def table(rows: int = 300) -> pa.Table:
    """Values of all sizes in few cells, so that every sum has several addends and their order would show."""
    random = np.random.default_rng(7)
    values = random.normal(size=rows) * 10.0 ** random.integers(-12, 12, rows)
    values[random.random(rows) < 0.1] = np.nan
    values[random.random(rows) < 0.1] = 2.0  # ties
    places = random.integers(0, 5, rows)
    lat = np.round(-4 + places * 0.37, 2)
    lat[random.random(rows) < 0.05] = np.nan
    countries, regions = np.array(["Kenya", "Äthiopien", "Kenya"]), np.array(["A", "b", "Ç", None])
    return pa.table(
        {
            "timestamp": JANUARY + random.integers(0, 50, rows) * DAY,
            "country": countries[places % 3].tolist(),
            "admin1": regions[places % 4].tolist(),
            "lat": pa.array(lat, from_pandas=True),
            "lng": np.where(random.random(rows) < 0.1, -0.0, 36 + places * 0.0001),
            "feature": np.array(["rain", "yield"])[random.integers(0, 2, rows)].tolist(),
            "crop": np.array(["maize", None])[random.integers(0, 2, rows)].tolist(),
            "year": random.integers(2019, 2021, rows),
            "area": random.random(rows) * 10.0 ** random.integers(-5, 5, rows),
            "value": pa.array(values, from_pandas=True),
        }
    )


@dataclass(frozen=True)
class Way:
    """A way for the same rows to come and to be worked on."""

    seed: int = 0
    """Of the order of rows; 0 leaves them as they are."""
    parts: int = 1
    row_group: int = 10_000
    shard_rows: int = 1_000_000
    workers: int = 1
    small: bool = False
    """Whether everything is done in small pieces."""


WAYS = [
    Way(seed=1, parts=3, row_group=37, shard_rows=100, workers=4, small=True),
    Way(seed=2, parts=1, row_group=1, shard_rows=60, workers=2),
]


def write(house: House, way: Way) -> list[str]:
    """Write the rows in this way; returns the addresses of the parts."""
    rows = table()
    if way.seed:
        rows = rows.take(np.random.default_rng(way.seed).permutation(len(rows)))
    cuts = np.linspace(0, len(rows), way.parts + 1).astype(int)
    addresses = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        path = house.folder / f"part-{way.seed}-{number}.parquet.gzip"
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(rows.slice(start, end - start), path, row_group_size=way.row_group)
        addresses.append(str(path))
    return addresses


def published(house: House, way: Way, monkeypatch: pytest.MonkeyPatch) -> tuple[Datacube, Mapping[str, Any]]:
    """Objects and tables after publishing in this way."""
    with monkeypatch.context() as patched:
        if way.small:
            for module, constants in SMALL.items():
                for name, value in constants.items():
                    patched.setattr(f"{module}.{name}", value)
        settled = house.with_settings(shard_rows=way.shard_rows, dask_workers=way.workers)
        settled.publish(*write(house, way), **REQUEST)
    return house.datacube(), tables(house.settings.lake)


def tables(lake_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of the tables of the lake by asset and kind, in an order of their own."""
    lake = Lake(open_store(lake_url))
    found: dict[str, list[tuple[Any, ...]]] = {}
    for asset in ("temporal_cells", "global_aggregates", "regional_aggregates", "grid_cells"):
        of_asset = lake.table(RUN, asset)
        for name in of_asset.names():
            kind = name.rpartition("-" if asset == "temporal_cells" else "/")[0]
            rows = lake.read(of_asset, name)
            columns = [_bits(rows[column]) for column in sorted(rows.column_names)]
            found.setdefault(f"{asset}/{kind}", []).extend(zip(*columns, strict=True))
    # Chunks of a table follow each other in the order of its rows; shards do not.
    return {kind: sorted(rows) if kind.startswith("temporal") else rows for kind, rows in found.items()}


def _bits(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_floating(column.type):
        return [-1 if value is None else np.float64(value).view(np.int64) for value in column.to_pylist()]
    return ["" if value is None else value for value in pc.cast(column, pa.string()).to_pylist()]


def assert_same(first: Datacube, second: Datacube) -> None:
    """All objects are the same, raw.csv up to the order of its lines."""
    assert first.objects.keys() == second.objects.keys()
    differing = {key for key in first.objects if first.objects[key] != second.objects[key]}
    assert {key for key in differing if not key.endswith("/raw.csv")} == set()
    for key in differing:
        lines = [sorted(cube.objects[key].splitlines()) for cube in (first, second)]
        assert lines[0] == lines[1], key


def beside(house: House, name: str) -> House:
    """Another house, so that nothing is found that was made before."""
    folder = house.folder / name
    return replace(house, folder=folder, settings=_settled(house, folder))


def _settled(house: House, folder: Path) -> Any:
    update = {
        "home": folder,
        "lake": (folder / "lake").as_uri(),
        "models_bucket": (folder / "buckets" / "models").as_uri(),
        "indicators_bucket": (folder / "buckets" / "indicators").as_uri(),
    }
    return house.settings.model_copy(update=update)


def test_order_parts_shards_batches_workers_and_seeds_of_hashes_change_no_byte(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_tables = published(house, Way(), monkeypatch)
    assert len(first.objects) > 100
    second, second_tables = published(beside(house, "second"), WAYS[0], monkeypatch)
    assert_same(first, second)
    assert first_tables == second_tables
    third = beside(house, "third")
    in_process(third, WAYS[1], PYTHONHASHSEED="12345")
    assert_same(first, third.datacube())
    assert first_tables == tables(third.settings.lake)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_way_in_which_the_rows_come_changes_a_byte(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first, first_tables = published(house, Way(), monkeypatch)
    random = np.random.default_rng(int(os.environ.get("SEED", "1")))
    for number in range(8):
        sizes = random.integers((1, 1, 1, 4, 1), (10**6, 9, 200, 400, 5))
        seed, parts, row_group, shard_rows, workers = sizes.tolist()
        way = Way(seed, parts, row_group, shard_rows, workers, small=number % 2 == 0)
        second, second_tables = published(beside(house, f"way-{number}"), way, monkeypatch)
        assert_same(first, second)
        assert first_tables == second_tables, way


def in_process(house: House, way: Way, **environment: str) -> dict[str, Any]:
    """Publish by the command, in a process of its own; returns the descriptors of its tables."""
    folder = house.folder
    command = [
        *(sys.executable, "-m", "datacube_assets.cli", "publish", *write(house, way), "--quiet"),
        *("--model-id", "model", "--run-id", "run", "--home", str(folder), "--weight-column", "area"),
        *("--qualifier-map", json.dumps(REQUEST["qualifier_map"])),
    ]
    variables = {
        **nothing_set(),
        "DATACUBE_SHARD_ROWS": str(way.shard_rows),
        "DATACUBE_DASK_WORKERS": str(way.workers),
        **environment,
    }
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    runs = folder / "lake" / "runs" / "model" / "run"
    return {path.parent.name: path.read_text() for path in runs.glob("*/table.json")}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["threads", "local"])
def test_seeds_of_hashes_and_dask_modes_change_no_byte_of_objects_and_tables(house: House, mode: str) -> None:
    another = beside(house, "another")
    first = in_process(house, WAYS[1], PYTHONHASHSEED="0")
    second = in_process(another, WAYS[1], PYTHONHASHSEED="1", DATACUBE_DASK=mode)
    assert {
        name: text.replace(str(another.folder), str(house.folder)) for name, text in second.items()
    } == first
    assert house.datacube().objects == another.datacube().objects
