"""A version of a datacube that keeps its tables, answered for by these.

Its objects are gone, or may be at any moment; tables do not change as long as they are there. Objects are
views over them, so the numbers are those that were published. What is asked is in `answers.py`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.groups import Ints, column
from datacube_assets.kernels.morton import BIN_BITS, MAX_PRECISION, deinterleave
from datacube_assets.kernels.schema import REGION_LEVELS, Resolution
from datacube_assets.read import LakeDatacube, NoDataError
from datacube_assets.read.datacube import Time, bucket, overlap
from datacube_assets.read.tables import statistics_of
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake
from datacube_assets.view.answers import (
    NO_LINE,
    Answer,
    Answers,
    NotThisVersionError,
    columns_of,
    finite,
    line_of,
    ranges_of,
)
from datacube_assets.view.places import rows_of_table
from datacube_assets.view.query import FIGURES, Query, zoom_for

LARGEST_MEMORY = 128 << 20
"""Bytes of grids that are remembered."""
_CELLS = "temporal_cells"
_AT_ONCE = threading.BoundedSemaphore(2)
"""Grids that are read at the same time: each looks through the files of all times."""


class Recent:
    """The grids that were used last, as many as fit."""

    def __init__(self, largest: int = LARGEST_MEMORY) -> None:
        self._largest = largest
        self._grids: OrderedDict[Any, pa.Table] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Any) -> pa.Table | None:
        with self._lock:
            if key in self._grids:
                self._grids.move_to_end(key)
            return self._grids.get(key)

    def put(self, key: Any, grid: pa.Table) -> None:
        with self._lock:
            if key in self._grids or grid.nbytes > self._largest:
                return
            self._grids[key] = grid
            self._bytes += grid.nbytes
            while self._bytes > self._largest:
                _, oldest = self._grids.popitem(last=False)
                self._bytes -= oldest.nbytes


_RECENT = Recent()


class KeptTables(LakeDatacube):
    """The same, with its grids remembered: a map asks for many tiles of one."""

    def grid(self, feature: str, time: Time, *, resolution: Resolution | None = None) -> pa.Table:
        resolution, timestamp = bucket(time, resolution)
        key = (self.url, self._table("grid_cells").folder, feature, resolution, timestamp)
        found = _RECENT.get(key)
        if found is None:
            with _AT_ONCE:
                found = _RECENT.get(key)
                if found is None:
                    found = super().grid(feature, timestamp, resolution=resolution)
                    _RECENT.put(key, found)
        return found


class KeptVersion(Answers):
    """A version by its number."""

    def __init__(self, lake: Lake, run: ModelRun, number: int) -> None:
        self._kept = KeptTables(lake, run, number)
        super().__init__(lake, run, self._kept)

    def standing(self) -> str:
        try:
            found = self._kept.tables()
        except NoDataError as error:
            raise NotThisVersionError(self.asked, "gone", str(error)) from None
        return next(iter(found.values())).version

    def still_stands(self, version: str) -> None:
        if self.standing() != version:
            raise NotThisVersionError(self.asked, "changed")
        if not History(self.lake, self.asked).tables_of(version):
            raise NotThisVersionError(
                self.asked, "gone", f"version {self._kept.version} of {self.asked} keeps no tables any more"
            )

    def timeseries(self, query: Query) -> Answer:
        region = query.text("region", "")
        qualifier, value = query.breakdown
        try:
            return line_of(
                self.cube.timeseries(
                    query.feature,
                    region=region or None,
                    level=query.level if region else None,
                    qualifier=qualifier,
                    value=value,
                    resolution=query.resolution,
                )
            )
        except NoDataError:
            if not region and qualifier is None:
                raise
            return dict(NO_LINE)

    def qualifiers(self, query: Query) -> Answer:
        return {
            "qualifiers": {
                qualifier: self.cube.qualifier_values(query.feature, qualifier)
                for qualifier in sorted(self.cube.qualifiers(query.feature))
                if self._is_broken_down(query.feature, qualifier)
            }
        }

    def _is_broken_down(self, feature: str, qualifier: str) -> bool:
        if not self.cube.levels:
            return False
        try:
            self.cube.regions(feature, self.cube.levels[0], qualifier=qualifier, figures="s_count")
        except NoDataError:
            return False
        return True

    def regions(self, query: Query) -> Answer:
        there = self.cube.levels
        return {
            "lists": {
                str(level): self.cube.region_ids(query.feature, level) if level in there else []
                for level in REGION_LEVELS
            }
        }

    def regional(self, query: Query) -> Answer:
        qualifier, value = query.breakdown
        try:
            table = self.cube.regions(
                query.feature,
                query.level,
                query.timestamp,
                qualifier=qualifier,
                resolution=query.resolution,
            )
        except NoDataError:
            return {"ids": [], "columns": {}}
        if qualifier is not None:
            table = table.filter(pc.equal(table["value"], value))
        columns = columns_of(table, without=("timestamp", "region_id", "value"))
        return {"ids": table["region_id"].to_pylist(), "columns": columns}

    def ranges(self, query: Query) -> Answer:
        if query.has("timestamp"):
            try:
                grid = self._kept.grid(query.feature, query.timestamp, resolution=query.resolution)
            except NoDataError:
                return {"columns": {}}
            found = [statistics_of(grid)]
        else:
            with _AT_ONCE:
                found = [statistics_of(one) for one in self._kept.grids(query.feature, query.resolution)]
        return ranges_of([one for one in found if one.num_rows])

    def tile(self, query: Query) -> Answer:
        try:
            tile = self.cube.tile(query.feature, query.timestamp, *query.tile, resolution=query.resolution)
        except NoDataError:
            return {"bin": [], "s_sum_t_sum": [], "s_sum_t_mean": [], "weight": []}
        return {
            "bin": tile["bin"].to_pylist(),
            "s_sum_t_sum": finite(tile["s_sum_t_sum"].to_pylist()),
            "s_sum_t_mean": finite(tile["s_sum_t_mean"].to_pylist()),
            "weight": tile["s_count"].cast(pa.float64()).to_pylist(),
        }

    def area(self, query: Query) -> Answer:
        bounds, resolution = query.bounds, query.resolution
        zoom = zoom_for(bounds)
        times = self.cube.timestamps(query.feature, resolution).astype("int64")
        totals = np.zeros((3, len(times)))
        with _AT_ONCE:
            for grid in self._kept.grids(query.feature, resolution):
                x, y = deinterleave(_quadkeys(grid) >> np.uint32(2 * (MAX_PRECISION - BIN_BITS - zoom)))
                inside = grid.filter(pa.array(overlap(x, y, zoom + BIN_BITS, bounds)))
                at = np.searchsorted(times, column(inside, "timestamp"))
                for total, name in zip(totals, ("s_count", "s_sum_t_sum", "s_sum_t_mean"), strict=True):
                    total += np.bincount(at, weights=column(inside, name), minlength=len(times))
        count, t_sum, t_mean = totals
        there = count > 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            figures = {
                "s_sum_t_sum": t_sum,
                "s_mean_t_sum": t_sum / count,
                "s_sum_t_mean": t_mean,
                "s_mean_t_mean": t_mean / count,
            }
        columns = {name: finite(np.where(there, figures[name], np.nan).tolist()) for name in FIGURES}
        counts: Ints = count.astype(np.int64)
        return {
            "timestamps": times.tolist(),
            "columns": {**columns, "s_count": counts.tolist()},
            "zoom": zoom,
        }

    def places_of(self, feature: str) -> Iterator[pa.Table]:
        return rows_of_table(self.lake, self._kept.tables()[_CELLS], feature)

    def tables(self) -> LakeDatacube:
        return self._kept


def _quadkeys(grid: pa.Table) -> npt.NDArray[np.uint32]:
    return column(grid, "quadkey").astype(np.uint32, copy=False)
