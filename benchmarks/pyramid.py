"""The tile pyramid on one core: binning points, grouping them at the deepest level, and all levels above.

    python -m benchmarks pyramid
    python -m benchmarks pyramid --cells 8000000 --repeat 5

Each figure stands beside a plain peer that is timed in the same run, one after the other. Times are of the
processor, not of the clock, and the smallest of the trials, so that other work on the machine counts little.
Whether results are right is for the tests to say.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from time import process_time
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from datacube_assets.kernels import grid, grid_statistics, morton, projection, pyramid

Floats: TypeAlias = npt.NDArray[np.float64]
Work: TypeAlias = Callable[[], object]

_MONTH: Final = 2_678_400_000
_AFRICA: Final = ((-35.0, 37.0), (-18.0, 52.0))
_LEVELS: Final = len(morton.PRECISIONS)


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"about {options.cells:,} cells on one core, best of {options.repeat} trials\n")
    _binning(options.cells, options.repeat)
    print(
        f"{'cells':<26}{'rows':>11}{'deepest level':>15}{'all levels':>13}{'ratio':>8}"
        f"{'NumPy each':>13}{'Polars each':>13}{'statistics':>13}"
    )
    for name, lat, lng in _shapes():
        _pyramid(name, _cells(lat, lng, options.cells), options.repeat)
    print(
        "\nNanoseconds per cell. The deepest level is binning, grouping to sums by feature, time and subtile,"
        "\nand the codes of tiles and bins of zoom 8; all levels are that and the same codes of zoom 7 to 0."
        f"\nThe peers group the cells themselves for each of the {_LEVELS} levels, given their bins."
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks pyramid", description="Time the tile pyramid on one core."
    )
    parser.add_argument("--cells", type=int, default=2_000_000, help="how many temporal cells")
    parser.add_argument("--repeat", type=int, default=3, help="trials of each figure; the best is printed")
    return parser.parse_args(arguments)


def best_of(repeat: int, works: Sequence[Work]) -> list[float]:
    """The least processor seconds of each piece of work; trials take turns, with the memory warmed up."""
    seconds = [float("inf")] * len(works)
    for _ in range(repeat):
        for i, work in enumerate(works):
            # The one before gave back its memory, and getting it anew would cost more than some works do.
            work()
            start = process_time()
            work()
            seconds[i] = min(seconds[i], process_time() - start)
    return seconds


# --- points to bins --------------------------------------------------------------------------------


def _binning(count: int, repeat: int) -> None:
    random = np.random.default_rng(0)
    lat, lng = random.uniform(-85, 85, count), random.uniform(-180, 180, count)
    ours, peer = best_of(repeat, [lambda: projection.quadkeys(lat, lng), lambda: _plain_quadkeys(lat, lng)])
    for label, seconds in (("binning", ours), ("  by the formula", peer)):
        print(f"{label:<26}{count / seconds / 1e6:>11,.1f} million cells/s")
    print()


def _plain_quadkeys(lat: Floats, lng: Floats) -> npt.NDArray[np.uint32]:
    """The formula of the slippy map as it is written, on whole arrays."""
    n = 2**morton.MAX_PRECISION
    x = (lng + 180.0) / 360.0 * n
    y = (1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * n
    last = n - 1
    return morton.interleave(
        np.clip(x.astype(np.int64), 0, last).astype(np.uint32),
        np.clip(y.astype(np.int64), 0, last).astype(np.uint32),
    )


# --- cells to levels -------------------------------------------------------------------------------


def _shapes() -> Iterator[tuple[str, Floats, Floats]]:
    """Places as data have them: a grid of subtiles' size or larger, anywhere, or few and far between."""
    random = np.random.default_rng(0)
    for name, step in (("1/4 degree grid", 0.25), ("1/12 degree grid", 1 / 12)):
        lat, lng = np.meshgrid(*(np.arange(low + step / 2, high, step) for low, high in _AFRICA))
        yield name, lat.ravel(), lng.ravel()
    for name, count in (("400,000 scattered places", 400_000), ("2,000 scattered places", 2000)):
        lat, lng = (random.uniform(low, high, count) for low, high in _AFRICA)
        yield name, lat, lng


def _cells(lat: Floats, lng: Floats, count: int) -> pa.Table:
    """Temporal cells in order of feature and time, every place at each time, about as many as `count`."""
    places, random = len(lat), np.random.default_rng(1)
    times = max(1, round(count / places))
    t_sum = random.gamma(2.0, 10.0, places * times)
    order = random.permutation(places)
    return pa.table(
        {
            "feature": pa.array(["yield"] * (places * times)).dictionary_encode(),
            "timestamp": np.repeat(np.arange(times) * _MONTH, places),
            "lat": np.tile(lat[order], times),
            "lng": np.tile(lng[order], times),
            "t_sum": t_sum,
            "t_mean": t_sum / random.integers(1, 4, places * times),
        }
    )


def _pyramid(name: str, cells: pa.Table, repeat: int) -> None:
    table, rows = grid.grid_cells(cells), cells.num_rows
    columns = _columns(cells)
    frame = pl.DataFrame(columns)
    grouping, deepest, levels, statistics, plain, polars = best_of(
        repeat,
        [
            lambda: grid.grid_cells(cells),
            lambda: _codes(pyramid.deepest(table)),
            lambda: _codes(pyramid.pyramid(table)),
            lambda: grid_statistics.grid_statistics(table),
            lambda: _plain_levels(columns),
            lambda: _polars_levels(frame),
        ],
    )
    low, high = grouping + deepest, grouping + levels
    low_each, high_each, *others = (
        seconds / rows * 1e9 for seconds in (low, high, plain, polars, statistics)
    )
    figures = "".join(f"{each:>13,.0f}" for each in others)
    print(f"{name:<26}{rows:>11,}{low_each:>15,.0f}{high_each:>13,.0f}{high / low:>8.2f}{figures}")


def _codes(levels: Iterator[pyramid.Level]) -> None:
    for level in levels:
        assert len(level.tile) == len(level.bin)


def _columns(cells: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """What the peers need: the bucket and subtile of each cell in one number, and what is summed."""
    codes = projection.quadkeys(cells["lat"].to_numpy(), cells["lng"].to_numpy())
    bucket = cells["timestamp"].to_numpy() // _MONTH
    return {
        "key": bucket << 2 * morton.MAX_PRECISION | codes,
        "count": np.ones(len(codes), np.int64),
        "t_sum": cells["t_sum"].to_numpy(),
        "t_mean": cells["t_mean"].to_numpy(),
    }


def _plain_levels(columns: dict[str, npt.NDArray[Any]]) -> None:
    """Each level from the cells, as NumPy is mostly used for it."""
    for up in range(_LEVELS):
        keys, group = np.unique(columns["key"] >> 2 * up, return_inverse=True)
        for name in ("count", "t_sum", "t_mean"):
            np.bincount(group, columns[name], len(keys))


def _polars_levels(frame: pl.DataFrame) -> None:
    """Each level from the cells, as Polars does it."""
    for up in range(_LEVELS):
        frame.group_by(pl.col("key") // 4**up).agg(pl.col("count", "t_sum", "t_mean").sum()).sort("key")
