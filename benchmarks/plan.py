"""How long a run of a size that fits no machine here would take on many: a model of measured costs.

    python -m benchmarks plan                                  10^9 rows and 10^7 objects
    python -m benchmarks plan --workers 4 16 64 --server 50000
    python -m benchmarks plan --folder /dev/shm                costs without those of a disk

Three small inputs are published here, which differ in rows, or in places and so in cells and objects. What
each step costs for a row, a cell and an object follows from them. The model then does what a run does: a step
is cut into pieces, the next free worker takes the next piece, and the next step waits for the last of them.
Where objects are written to a server, a piece also takes what its requests take: so many are in flight at
once, each takes a round trip, and the server does no more than so many a second. Before the model says
anything about a size that was not measured, it is held against a larger input that was.
"""

import argparse
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from benchmarks.size import Input, published

_BASE: Final = Input(months=12, places=4_000, regions=500, repeats=20)
_MEASURED: Final = (_BASE, replace(_BASE, repeats=160), replace(_BASE, places=32_000, repeats=4))
_LARGER: Final = replace(_BASE, places=16_000, repeats=60)
_SHARD_ROWS: Final = 250_000
"""Small, so that already these inputs are cut."""
_PIECE_OBJECTS: Final = 25_000
_HERE: Final = 2
"""Threads that the pieces of an asset are computed by when costs are measured."""

OBJECTS: Final = "objects"
"""All assets that publish, which are one step here: each has some of the objects."""
_GROWS_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "raw_dojo_output": ("rows",),
    "normalized_points": ("rows",),
    "temporal_cells": ("rows", "cells"),
    "global_aggregates": ("cells",),
    "grid_cells": ("cells",),
    "regional_aggregates": ("cells",),
    OBJECTS: ("objects",),
}
"""The steps, and what their cost grows with."""


@dataclass(frozen=True)
class Size:
    """What an input has of everything that costs."""

    rows: float
    cells: float
    objects: float

    @classmethod
    def of(cls, input_: Input, objects: int) -> "Size":
        periods = input_.months + math.ceil(input_.months / 12) + 1
        return cls(input_.rows, input_.features * input_.places * periods, objects)

    def units(self, step: str) -> list[float]:
        """One, and what the cost of a step grows with."""
        return [1.0, *(getattr(self, name) for name in _GROWS_WITH[step])]

    def pieces(self, step: str) -> int:
        units, each = (self.objects, _PIECE_OBJECTS) if step == OBJECTS else (self.rows, _SHARD_ROWS)
        return max(math.ceil(units / each), 1)


@dataclass(frozen=True)
class Server:
    """Where objects are written to, if not to a folder."""

    round_trip: float
    """Seconds."""
    in_flight: int
    """Requests at once of each worker."""
    most: float
    """Requests a second that it does."""


Costs: TypeAlias = list[float]
"""Of a step: seconds once, then for each unit of what it grows with."""


def steps_of(assets: Mapping[str, float]) -> dict[str, float]:
    """Seconds by step, from those by asset."""
    found = {step: assets[step] for step in _GROWS_WITH if step != OBJECTS}
    return {**found, OBJECTS: sum(assets.values()) - sum(found.values())}


def fitted(sizes: Sequence[Size], seconds: Sequence[Mapping[str, float]]) -> dict[str, Costs]:
    """The costs of each step, none below zero, that come nearest to measured seconds."""
    found = {}
    for step in _GROWS_WITH:
        units = np.array([size.units(step) for size in sizes])
        measured = np.array([one[step] for one in seconds])
        used = list(range(units.shape[1]))
        while True:
            costs = np.linalg.lstsq(units[:, used], measured, rcond=None)[0]
            if costs.min() >= 0 or len(used) == 1:
                break
            used.pop(int(costs.argmin()))
        of_all = np.zeros(units.shape[1])
        of_all[used] = np.maximum(costs, 0.0)
        found[step] = of_all.tolist()
    return found


def predicted(costs: Costs, step: str, size: Size, workers: int, server: Server | None = None) -> float:
    """The seconds that a step takes on so many workers."""
    once, *growing = costs
    pieces = size.pieces(step)
    work = _HERE * sum(cost * units for cost, units in zip(growing, size.units(step)[1:], strict=True))
    each = work / pieces
    if server is not None and step == OBJECTS:
        rate = min(server.in_flight / server.round_trip, server.most / min(workers, pieces))
        each = max(each, size.objects / pieces / rate)
    free = [0.0] * workers
    for _ in range(pieces):
        heapq.heappush(free, heapq.heappop(free) + each)
    return once + max(free)


def main(arguments: Sequence[str]) -> None:
    """Measure, compare, predict."""
    options = _options(arguments)
    settings = {
        "DATACUBE_DASK": "threads",
        "DATACUBE_DASK_WORKERS": str(_HERE),
        "DATACUBE_SHARD_ROWS": str(_SHARD_ROWS),
        "DATACUBE_PICTURES": "no",
    }
    sizes, seconds = [], []
    for input_ in (*_MEASURED, _LARGER):
        cost, report = published(input_, options.folder, settings)
        size = Size.of(input_, report["objects"])
        sizes.append(size)
        seconds.append(steps_of(report["assets"]))
        print(
            f"measured: {size.rows:>12,.0f} rows, {size.cells:>9,.0f} cells, {size.objects:>8,.0f} objects: "
            f"{sum(report['assets'].values()):>6.1f} s in assets, {cost.wall:>6.1f} s in all",
            flush=True,
        )
    costs = fitted(sizes[:-1], seconds[:-1])
    _compare(costs, sizes[-1], seconds[-1])
    _plan(costs, Size(options.rows, options.cells, options.objects), options)


def _compare(costs: Mapping[str, Costs], size: Size, measured: Mapping[str, float]) -> None:
    print("\nthe last of these, which the model has not seen")
    print(f"  {'step':<22}{'predicted s':>12}{'measured s':>12}{'ratio':>8}")
    told = {step: predicted(cost, step, size, _HERE) for step, cost in costs.items()}
    for step in sorted(told, key=lambda one: -measured[one]):
        ratio = told[step] / max(measured[step], 1e-3)
        print(f"  {step:<22}{told[step]:>12.2f}{measured[step]:>12.2f}{ratio:>8.2f}")
    every, all_measured = sum(told.values()), sum(measured.values())
    print(f"  {'all':<22}{every:>12.2f}{all_measured:>12.2f}{every / all_measured:>8.2f}")


def _plan(costs: Mapping[str, Costs], size: Size, options: argparse.Namespace) -> None:
    server = Server(options.round_trip, options.in_flight, options.server)
    print(
        f"\n{size.rows:,.0f} rows, {size.cells:,.0f} cells, {size.objects:,.0f} objects; a server with "
        f"{1000 * server.round_trip:g} ms a request, {server.in_flight} in flight per worker, at most "
        f"{server.most:,.0f} a second"
    )
    print(f"  {'workers':>8}{'tables, min':>13}{'objects, min':>14}{'all, min':>10}   what holds it up")
    for workers in options.workers:
        told = {step: predicted(cost, step, size, workers, server) for step, cost in costs.items()}
        objects = told.pop(OBJECTS)
        tables = sum(told.values())
        floor = size.objects / server.most
        why = "the server" if objects < 1.3 * floor else "objects" if objects > tables else "rows"
        print(
            f"  {workers:>8}{tables / 60:>13.1f}{objects / 60:>14.1f}{(tables + objects) / 60:>10.1f}   {why}"
        )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plan", description="Predict a large run from small ones."
    )
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--cells", type=float, default=1e8, help="places times months and years")
    parser.add_argument("--objects", type=float, default=1e7)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--round-trip", type=float, default=0.03, help="seconds of a request to the server")
    parser.add_argument("--in-flight", type=int, default=64, help="requests at once, per worker")
    parser.add_argument("--server", type=float, default=20_000, help="requests a second that it does")
    parser.add_argument("--folder", type=Path, help="where to work")
    return parser.parse_args(arguments)
