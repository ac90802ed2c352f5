"""What formatting costs: tables to the bytes of CSV objects and of tiles.

    python -m benchmarks encode
    python -m benchmarks encode --rows 1000000 --repeat 5

Ours is beside the plain writers, timed in the same run. Those format object by object, and so few of the
objects that it does not take minutes. Nothing is written to any disk, and whether bytes are right is for the
tests to say.
"""

import argparse
import csv
import io
import itertools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv

from benchmarks.pyramid import best_of
from datacube_assets.kernels import grid, morton, views
from datacube_assets.kernels.encode import Objects, csv_objects, float_cells, tile_objects
from datacube_assets_tests.unit.kernel_helpers import TILE

Columns: TypeAlias = list[npt.NDArray[Any]]
Figures: TypeAlias = list[npt.NDArray[np.float64]]

_HEADER: Final = ("timestamp", "s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean", "s_count")
_PLAIN_ROWS: Final = 50_000
"""Rows for the writers that take long."""
_BATCH_ROWS: Final = views.BATCH_ROWS


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    print(f"{options.rows:,} rows, best of {options.repeat} trials, processor time of all threads\n")
    for length in (10, 1000):
        _csv(options.rows, length, options.repeat)
    for bins, zeros in ((1.3, 0.0), (1.3, 0.2), (500.0, 0.0)):
        _tiles(options.rows // 4, bins, zeros, options.repeat)
    _floods(options.repeat)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks encode", description="Time the formatting of CSV objects and tiles."
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of CSV; of tiles a quarter")
    parser.add_argument("--repeat", type=int, default=3, help="trials of each figure; the best is printed")
    return parser.parse_args(arguments)


def _print(title: str, unit: str, rates: dict[str, float]) -> None:
    print(title)
    ours = next(iter(rates.values()))
    for label, rate in rates.items():
        times = "" if rate == ours else f"   {ours / rate:,.1f} times slower" if rate < ours else "   faster"
        print(f"  {label:<32}{rate:>14,.0f} {unit}{times}")
    print()


# --- CSV -------------------------------------------------------------------------------------------


def _csv(rows: int, length: int, repeat: int) -> None:
    random = np.random.default_rng(0)
    columns: Columns = [
        np.arange(rows) * 86_400_000,
        *(random.gamma(2.0, 10.0, rows) for _ in range(4)),
        random.integers(1, 100, rows),
    ]
    few = [values[:_PLAIN_ROWS] for values in columns]
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "ours": (rows, lambda: _our_csv(columns, length)),
        "Polars, all rows in one file": (rows, lambda: _frame(columns).write_csv(io.BytesIO())),
        "Polars, object by object": (len(few[0]), lambda: _polars_csv(few, length)),
        "Arrow, object by object": (len(few[0]), lambda: _arrow_csv(few, length)),
        "csv module": (len(few[0]), lambda: _plain_csv(few, length)),
    }
    seconds = best_of(repeat, [work for _, work in works.values()])
    rates = {name: count / cost for (name, (count, _)), cost in zip(works.items(), seconds, strict=True)}
    _print(f"CSV, objects of {length} rows of {len(columns)} numbers", "rows/s", rates)


def _cuts(rows: int, length: int) -> npt.NDArray[np.int64]:
    return np.append(np.arange(0, rows, length), rows)


def _our_csv(columns: Columns, length: int) -> None:
    for start in range(0, len(columns[0]), _BATCH_ROWS):
        batch = [values[start : start + _BATCH_ROWS] for values in columns]
        cells = [float_cells(values) if values.dtype.kind == "f" else pl.Series(values) for values in batch]
        cuts = _cuts(len(batch[0]), length)
        csv_objects(pa.nulls(len(cuts) - 1, pa.string()), _HEADER, cells, cuts)


def _frame(columns: Columns) -> pl.DataFrame:
    return pl.DataFrame(dict(zip(_HEADER, columns, strict=True)))


def _polars_csv(columns: Columns, length: int) -> None:
    for part in _frame(columns).iter_slices(length):
        part.write_csv(io.BytesIO())


def _arrow_csv(columns: Columns, length: int) -> None:
    table = pa.table(dict(zip(_HEADER, columns, strict=True)))
    for start in range(0, table.num_rows, length):
        pyarrow.csv.write_csv(table.slice(start, length), pa.BufferOutputStream())


def _plain_csv(columns: Columns, length: int) -> None:
    rows = list(zip(*(values.tolist() for values in columns), strict=True))
    for start in range(0, len(rows), length):
        writer = csv.writer(io.StringIO(), lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(rows[start : start + length])


# --- tiles -----------------------------------------------------------------------------------------


def _tiles(rows: int, mean_bins: float, zeros: float, repeat: int) -> None:
    random = np.random.default_rng(0)
    sizes = np.minimum(random.geometric(1 / mean_bins, int(rows / mean_bins)), morton.BINS_PER_TILE)
    cuts = np.concatenate(([0], np.cumsum(sizes)))
    within = np.arange(cuts[-1]) - np.repeat(cuts[:-1], sizes)
    bins = ((within + np.repeat(random.integers(0, 4096, len(sizes)), sizes)) % 4096).astype(np.uint32)
    figures = [np.where(random.random(cuts[-1]) < zeros, 0.0, random.normal(size=cuts[-1])) for _ in range(3)]
    x, y = (random.integers(0, 256, len(sizes)).astype(np.uint32) for _ in range(2))
    few = max(1, int(np.searchsorted(cuts, _PLAIN_ROWS)) - 1)
    ours, plain = best_of(
        repeat,
        [
            lambda: tile_objects(pa.nulls(len(x), pa.string()), 8, x, y, cuts, bins, figures),
            lambda: _plain_tiles(x, y, cuts[: few + 1], bins, figures),
        ],
    )
    title = f"tiles of {mean_bins:g} bins on average, {zeros:.0%} of figures zero"
    _print(f"{title}: tiles", "tiles/s", {"ours": len(x) / ours, "protobuf library": few / plain})
    _print(f"{title}: bins", "bins/s", {"ours": len(bins) / ours, "protobuf library": int(cuts[few]) / plain})


def _plain_tiles(
    x: npt.NDArray[np.uint32],
    y: npt.NDArray[np.uint32],
    cuts: npt.NDArray[np.int64],
    bins: npt.NDArray[np.uint32],
    figures: Figures,
) -> None:
    numbers, columns = bins.tolist(), [values.tolist() for values in figures]
    for i, (start, end) in enumerate(itertools.pairwise(cuts.tolist())):
        tile = TILE()
        tile.coord.x, tile.coord.y, tile.coord.z = int(x[i]), int(y[i]), 8
        tile.bins.totalBins = morton.BINS_PER_TILE
        for row in range(start, end):
            stats = tile.bins.stats[numbers[row]]
            stats.s_sum_t_sum, stats.s_sum_t_mean, stats.weight = (values[row] for values in columns)
        tile.SerializeToString()


# --- a whole family --------------------------------------------------------------------------------


def _floods(repeat: int) -> None:
    """Tiles of places as few and scattered as floods are: levels, keys and bodies."""
    random = np.random.default_rng(0)
    events, places = 25_000, 820
    place = random.integers(0, places, events)
    lat, lng = random.uniform(-50, 60, places), random.uniform(-180, 180, places)
    values = np.round(random.gamma(0.5, 1e5, events), 2)
    cells = pa.table(
        {
            "feature": pa.array(random.choice(["Area", "Dead", "Displaced"], events)).dictionary_encode(),
            "timestamp": random.integers(0, 420, events),
            "lat": lat[place],
            "lng": lng[place],
            "t_sum": values,
            "t_mean": values,
        }
    )
    table = grid.grid_cells(cells)
    batches: list[Objects] = list(views.spatial_tiles("month", table))
    (seconds,) = best_of(repeat, [lambda: list(views.spatial_tiles("month", table))])
    tiles = sum(map(len, batches))
    _print(
        f"{tiles:,} tiles of {events:,} floods, with levels and keys", "tiles/s", {"ours": tiles / seconds}
    )
    largest = max(batches, key=lambda batch: batch.nbytes)
    print(f"  largest of {len(batches)} batches: {len(largest):,} objects, {largest.nbytes / 1e6:.1f} MB")
