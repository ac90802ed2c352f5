"""How cost grows with the size of an input, and that memory does not.

    python -m benchmarks size                          every case at a tenth of its size
    python -m benchmarks size --full                   the sizes named in docs/scaling.md; hours and 50 GB
    python -m benchmarks size --case one-place --full  one case
    python -m benchmarks size --mode local --workers 4 on a cluster of processes

    python -m benchmarks scaling                       each dimension of an input at three sizes
    python -m benchmarks scaling --dimension places    one dimension
    python -m benchmarks scaling --dimension workers   the same input with more and more workers

Here belong inputs whose every dimension can be chosen, and the runs over them. Each run is a process of its
own, `datacube publish` with its usual settings, whose largest process is measured.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.process import Cost, run

_ROW_GROUP: Final = 1_000_000
_LIMIT_MB: Final = 4_096
"""Memory that no process may pass, whatever the size."""


@dataclass(frozen=True)
class Input:
    """One row for every combination of its dimensions, `repeats` times."""

    features: int = 1
    months: int = 24
    places: int = 1_000
    qualifier_values: int = 1
    repeats: int = 1
    regions: int = 1_000
    """Regions of the deepest of three levels, at most one per place."""
    coordinates: bool = True

    @property
    def rows(self) -> int:
        return self.features * self.months * self.places * self.qualifier_values * self.repeats

    def write(self, path: Path) -> None:
        """Write the rows, grouped by feature; memory is that of one row group."""
        writer: pq.ParquetWriter | None = None
        for start in range(0, self.rows, _ROW_GROUP):
            table = self._rows(np.arange(start, min(start + _ROW_GROUP, self.rows)))
            writer = writer or pq.ParquetWriter(
                path,
                table.schema,
                compression="zstd",
                use_dictionary=[name for name in table.column_names if name != "value"],
            )
            writer.write_table(table)
        if writer is not None:
            writer.close()

    def _rows(self, number: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
        rest, value_of = np.divmod(number, self.qualifier_values)
        rest, place = np.divmod(rest, self.places)
        rest, repeat = np.divmod(rest, self.repeats)
        feature, month = np.divmod(rest, self.months)
        months = (np.datetime64("2000-01", "M") + month).astype("M8[ms]").astype(np.int64)
        region = place * min(self.regions, self.places) // self.places
        # Well mixed, and the same on every machine.
        noise = (number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        columns: dict[str, pa.Array] = {
            "timestamp": pa.array(months + repeat % 28 * 86_400_000),
            "country": _names("country", region // 900),
            "admin1": _names("state", region // 30),
            "admin2": _names("district", region),
            "feature": _names("feature", feature),
            "value": pa.array(noise / 1e4),
        }
        if self.coordinates:
            across = int(np.ceil(np.sqrt(2 * self.places)))
            down = -(-self.places // across)
            columns["lat"] = pa.array(84.0 - 168.0 * (place // across + 0.5) / down)
            columns["lng"] = pa.array(360.0 * (place % across + 0.5) / across - 180.0)
        if self.qualifier_values > 1:
            columns["crop"] = _names("crop", value_of)
        return pa.table(columns)


def _names(what: str, numbers: np.ndarray[Any, np.dtype[np.int64]]) -> pa.DictionaryArray:
    distinct, codes = np.unique(numbers, return_inverse=True)
    names = pa.array([f"{what} {number}" for number in distinct.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)


CASES: Final = {
    # A quarter of a degree: 1,440 by 720 places.
    "global-grid": Input(features=4, places=1_036_800, regions=200),
    "one-feature": Input(places=20_000, repeats=104, regions=20_000, coordinates=False),
    "one-place": Input(places=1, repeats=4_166_667, regions=1),
    "features": Input(features=5_000, places=50, regions=10, coordinates=False),
    "qualifier-values": Input(places=1_000, qualifier_values=200, coordinates=False),
    "regions": Input(places=41_667, regions=41_667, coordinates=False),
}
"""Sizes that each strain something else; about 99.5, 49.9, 100, 6, 4.8 and 1 million rows."""
_TENTHS: Final = {
    "global-grid": "places",
    "one-feature": "repeats",
    "one-place": "repeats",
    "features": "features",
    "qualifier-values": "places",
    "regions": "places",
}

_BASE = Input(places=2_000, repeats=4, regions=2_000, coordinates=False)
DIMENSIONS: Final[dict[str, list[Input]]] = {
    "rows": [replace(_BASE, repeats=repeats) for repeats in (10, 40, 160)],
    "places": [Input(months=3, places=places, regions=100, repeats=32) for places in (2_000, 8_000, 32_000)],
    "regions": [Input(places=places, regions=places, coordinates=False) for places in (2_000, 8_000, 32_000)],
    "features": [Input(features=n, places=100, regions=100, coordinates=False) for n in (50, 200, 800)],
    "months": [replace(_BASE, months=months) for months in (24, 96, 384)],
    "qualifier values": [
        Input(places=500, regions=500, qualifier_values=n, coordinates=False) for n in (10, 40, 160)
    ],
    "objects": [Input(features=n, places=300, regions=30) for n in (1, 3, 9)],
}
_WORKERS: Final = (1, 2, 4)


def size(arguments: Sequence[str]) -> None:
    """Run the cases."""
    parser = _parser("size")
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--full", action="store_true", help="not a tenth, but all of it")
    parser.add_argument("--mode", choices=("threads", "local"), default="threads")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    _header("case")
    for name in options.case:
        case = CASES[name]
        if not options.full:
            tenth = _TENTHS[name]
            case = replace(case, **{tenth: max(getattr(case, tenth) // 10, 1)})
        cost = _measure(name, case, options.folder, options.mode, options.workers)
        if cost.peak_mb > _LIMIT_MB:
            raise SystemExit(f"{name}: {cost.peak_mb:,.0f} MB is more than {_LIMIT_MB:,} MB")


def scaling(arguments: Sequence[str]) -> None:
    """Run each dimension at its sizes."""
    parser = _parser("scaling")
    parser.add_argument("--dimension", choices=(*DIMENSIONS, "workers"), nargs="+")
    options = parser.parse_args(arguments)
    _header("dimension")
    for dimension in options.dimension or (*DIMENSIONS, "workers"):
        if dimension == "workers":
            for workers in _WORKERS:
                _measure(f"{workers} workers", DIMENSIONS["rows"][-1], options.folder, "local", workers)
        else:
            for input_ in DIMENSIONS[dimension]:
                _measure(dimension, input_, options.folder, "threads", 0)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}")
    parser.add_argument("--folder", type=Path, help="where to work")
    return parser


def _header(first: str) -> None:
    print(
        f"{first:<18}{'rows':>12}{'features':>9}{'months':>7}{'places':>10}{'values':>7}"
        f"{'objects':>11}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}{'rows/s':>10}{'objects/s':>10}"
    )


def _measure(name: str, input_: Input, folder: Path | None, mode: str, workers: int) -> Cost:
    """Publish an input, print what it took, and leave nothing behind."""
    cost, report = published(input_, folder, {"DATACUBE_DASK": mode, "DATACUBE_DASK_WORKERS": str(workers)})
    objects = report["objects"]
    print(
        f"{name:<18}{input_.rows:>12,}{input_.features:>9,}{input_.months:>7,}{input_.places:>10,}"
        f"{input_.qualifier_values:>7,}{objects:>11,}{cost.wall:>9,.1f}{cost.cpu:>9,.1f}"
        f"{cost.peak_mb:>9,.0f}{input_.rows / cost.wall:>10,.0f}{objects / cost.wall:>10,.0f}",
        flush=True,
    )
    return cost


def published(input_: Input, folder: Path | None, settings: Mapping[str, str]) -> tuple[Cost, dict[str, Any]]:
    """Publish an input with some settings; what that cost, and its own report. Nothing is left behind."""
    work = Path(tempfile.mkdtemp(prefix="datacube-size-", dir=folder))
    try:
        path, report = work / "part.parquet", work / "report.json"
        input_.write(path)
        qualifiers = {f"feature {number}": ["crop"] for number in range(input_.features)}
        command = [
            *(sys.executable, "-m", "datacube_assets.cli", "publish", str(path)),
            *("--model-id", "size", "--run-id", "run", "--home", str(work), "--report-json", str(report)),
        ]
        if input_.qualifier_values > 1:
            command += ["--qualifier-map", json.dumps(qualifiers)]
        cost = run(command, work / "publish.log", environment={**os.environ, **settings})
        return cost, json.loads(report.read_text())
    finally:
        shutil.rmtree(work, ignore_errors=True)
