"""Group `aggregates`: the truth, as tables of sums, counts, minima and maxima that add up.

The sums are in `kernels/spatial.py` and `kernels/grid.py`. Here each shard gives partial tables, cut
into chunks; then the parts of each chunk, from all shards, become one file. So neither step holds more
than a shard or a chunk. Everything published is a view over these tables.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from dagster import AssetExecutionContext, MaterializeResult

from datacube_assets.assets.tables import made_before, same_version, table_asset, table_result
from datacube_assets.kernels import grid, spatial
from datacube_assets.kernels.qualifiers import Breakdowns
from datacube_assets.kernels.schema import (
    CELL_MEASURES,
    COORDINATES,
    GLOBAL_COLUMNS,
    GRID_COLUMNS,
    REGIONAL_COLUMNS,
    RESOLUTIONS,
    Layout,
    Period,
    cell_column,
)
from datacube_assets.kernels.shards import Chunks
from datacube_assets.kernels.spatial import Breakdown, Cells
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import Lake, LakeTable, TableFile, aggregate_folder
from datacube_assets.storage.points import QUALIFIER_VALUES
from datacube_assets.storage.run_info import RunInfo

GROUP = "aggregates"


@table_asset(
    GROUP,
    GLOBAL_COLUMNS,
    "Sums over all places, per feature and time, and per value of each mapped qualifier.",
    of="temporal_cells",
)
def global_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    info = RunInfo.of(temporal_cells)
    steps = _steps(lake.open(), normalized_points)
    if "all" in info.periods:
        steps.append(_Step("all"))
    return _aggregate(context, lake, dask, temporal_cells, _Global(info.layout), steps)


@table_asset(
    GROUP,
    REGIONAL_COLUMNS,
    "Sums over the places of each region, at every level of the hierarchy, per feature and time, and per "
    "value of each mapped qualifier.",
    of="temporal_cells",
    long=True,
)
def regional_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    layout = RunInfo.of(temporal_cells).layout
    steps = _steps(lake.open(), normalized_points) if layout.levels else []
    return _aggregate(context, lake, dask, temporal_cells, _Regional(layout), steps)


@table_asset(
    GROUP,
    GRID_COLUMNS,
    "Sums over subtiles of precision 14, the deepest level of the tile pyramid, per feature and time. "
    "Points without coordinates or beyond the web-mercator limit have no place in it.",
    of="temporal_cells",
)
def grid_cells(
    context: AssetExecutionContext, temporal_cells: LakeTable, lake: LakeResource, dask: DaskResource
) -> MaterializeResult[LakeTable]:
    layout = RunInfo.of(temporal_cells).layout
    steps = [_Step(period) for period in RESOLUTIONS if layout.mappable]
    return _aggregate(context, lake, dask, temporal_cells, _Grid(layout), steps)


def breakdowns(lake: Lake, points: LakeTable) -> Breakdowns:
    """The qualifiers in use, from the inventory beside the points."""
    info = RunInfo.of(points)
    values = lake.read(points, QUALIFIER_VALUES)
    return Breakdowns.of(values, info.request.qualifier_map, info.thresholds)


# --- what each table is made of --------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One period, as a whole or by one qualifier."""

    period: Period
    breakdown: Breakdown | None = None

    @property
    def qualifier(self) -> str | None:
        return self.breakdown.qualifier if self.breakdown else None

    def folder(self, *parts: str) -> str:
        return aggregate_folder(self.period, *parts, qualifier=self.qualifier)


_Steps = tuple[_Step, ...]
"""Steps of one period."""


def _steps(lake: Lake, points: LakeTable) -> list[_Step]:
    """Month and year, as a whole and by each qualifier in use."""
    by = (None, *breakdowns(lake, points).everywhere())
    return [_Step(period, breakdown) for period, breakdown in itertools.product(RESOLUTIONS, by)]


Tables = dict[str, pa.Table]
"""Tables by the folder that they are a chunk of."""


@dataclass(frozen=True)
class _Table(ABC):
    """How an aggregate table comes from cells; travels to workers."""

    layout: Layout

    by_time: ClassVar[bool] = False
    """Whether a chunk may hold a part of a feature's times."""

    def columns(self, step: _Step) -> list[str]:
        """Columns of the cells that are needed."""
        qualifier = [] if step.qualifier is None else [cell_column(step.qualifier)]
        unweighted = ("t_wavg", "weight")
        measures = [name for name in CELL_MEASURES if self.layout.weighted or name not in unweighted]
        return ["feature", "timestamp", *qualifier, *measures]

    def cells(self, lake: Lake, cells: LakeTable, shard: str, steps: _Steps) -> Cells:
        """The cells of a shard, as far as the steps need them."""
        columns = dict.fromkeys(name for step in steps for name in self.columns(step))
        return Cells(lake.read(cells, shard, list(columns)), self.layout, ranges=steps[0].period == "all")

    @abstractmethod
    def whole(self, cells: Cells, step: _Step) -> Tables:
        """From all cells, where one shard holds them."""

    @abstractmethod
    def partial(self, cells: Cells, step: _Step) -> pa.Table:
        """From the cells of a shard of several."""

    @abstractmethod
    def merged(self, partials: Sequence[pa.Table], step: _Step) -> Tables:
        """From the partial results of all shards."""


class _Global(_Table):
    def whole(self, cells: Cells, step: _Step) -> Tables:
        return {step.folder(): spatial.global_aggregates(cells, step.breakdown)}

    def partial(self, cells: Cells, step: _Step) -> pa.Table:
        return spatial.global_partial(cells, step.breakdown)

    def merged(self, partials: Sequence[pa.Table], step: _Step) -> Tables:
        return {step.folder(): spatial.merge_global(partials)}


class _Regional(_Table):
    def columns(self, step: _Step) -> list[str]:
        return [*self.layout.levels, *super().columns(step)]

    def whole(self, cells: Cells, step: _Step) -> Tables:
        tables = spatial.regional_aggregates(cells, step.breakdown)
        return {step.folder(level): table for level, table in tables.items()}

    def partial(self, cells: Cells, step: _Step) -> pa.Table:
        return spatial.regional_partial(cells, step.breakdown)

    def merged(self, partials: Sequence[pa.Table], step: _Step) -> Tables:
        tables = spatial.merge_regional(partials, self.layout)
        return {step.folder(level): table for level, table in tables.items()}


class _Grid(_Table):
    by_time = True

    def columns(self, step: _Step) -> list[str]:
        return ["feature", "timestamp", *COORDINATES, "t_sum", "t_mean"]

    def whole(self, cells: Cells, step: _Step) -> Tables:
        return {step.folder(): grid.grid_cells(cells.table)}

    def partial(self, cells: Cells, step: _Step) -> pa.Table:
        return grid.grid_cells(cells.table)

    def merged(self, partials: Sequence[pa.Table], step: _Step) -> Tables:
        return {step.folder(): grid.merge_grid(partials)}


# --- shards to chunks ------------------------------------------------------------------------------


def _aggregate(
    context: AssetExecutionContext,
    lake: LakeResource,
    dask: DaskResource,
    cells: LakeTable,
    made: _Table,
    steps: Sequence[_Step],
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    table = made_before(context, lake.open(), cells.version)
    reused = table is not None
    if table is None:
        table = _make(context, lake, dask, cells, made, steps)
    return table_result(table, started, reused=reused, metadata={"rows in": cells.rows})


def _make(
    context: AssetExecutionContext,
    lake: LakeResource,
    dask: DaskResource,
    cells: LakeTable,
    made: _Table,
    steps: Sequence[_Step],
) -> LakeTable:
    name, store, run_id = context.asset_key.path[-1], lake.open(), context.run.run_id
    info = RunInfo.of(cells)
    report = info.report
    folder = store.table_folder(info.run, name, cells.version)
    by_period = [tuple(some) for _, some in itertools.groupby(steps, key=lambda step: step.period)]
    pieces = [(some, shard) for some in by_period for shard in cells.names(f"{some[0].period}-")]
    rows_of = {file.name: file.rows for file in cells.files}
    sizes = [rows_of[shard] for _, shard in pieces]
    if len(cells.names("month-")) == 1:
        done = dask.map(_OneShard(store, cells, folder, made), pieces, name=name, run_id=run_id, sizes=sizes)
    else:
        rows = {feature: report.num_rows_per_feature[feature] for feature in info.features}
        times = (report.min_timestamp or 0, report.max_timestamp or 0) if made.by_time else None
        chunks = Chunks.of(rows, lake.shard_rows, times)
        shard_work = _ShardOfMany(store, cells, f"{folder}/partial", made, chunks)
        partials = dask.map(shard_work, pieces, name=f"{name}-of-shards", run_id=run_id, sizes=sizes)
        merging = _Merge(store, LakeTable(f"{folder}/partial", cells.version, ()), folder, made)
        of_chunks = list(_by_chunk([one for some in partials for one in some], len(chunks)))
        done = dask.map(merging, of_chunks, name=f"{name}-merged", run_id=run_id)
    files = sorted((file for some in done for file in some), key=lambda file: file.name)
    qualifiers = sorted({step.qualifier for step in steps if step.qualifier is not None})
    return LakeTable(folder, cells.version, tuple(files), {**cells.info, "qualifiers": qualifiers})


_Piece = tuple[_Steps, str]
"""Steps of a period, and a shard of its cells, which they share."""


@dataclass(frozen=True)
class _OneShard:
    """The tables of some steps, where one shard is all there is."""

    lake: Lake
    cells: LakeTable
    folder: str
    made: _Table

    def __call__(self, piece: _Piece) -> list[TableFile]:
        steps, shard = piece
        cells = self.made.cells(self.lake, self.cells, shard, steps)
        return [
            self.lake.write_file(self.folder, f"{folder}{0:05}", table)
            for step in steps
            for folder, table in self.made.whole(cells, step).items()
        ]


@dataclass(frozen=True)
class _Partial:
    """The file of one shard's partial results of a step."""

    step: _Step
    file: str
    chunks: tuple[int, ...]
    """The chunks of which it has rows: its slices, in order."""


@dataclass(frozen=True)
class _ShardOfMany:
    """The partial results of some steps from one shard, cut into chunks."""

    lake: Lake
    cells: LakeTable
    folder: str
    made: _Table
    chunks: Chunks

    def __call__(self, piece: _Piece) -> list[_Partial]:
        steps, shard = piece
        cells = self.made.cells(self.lake, self.cells, shard, steps)
        made = (self._write(step, shard, self.made.partial(cells, step)) for step in steps)
        return [partial for partial in made if partial]

    def _write(self, step: _Step, shard: str, table: pa.Table) -> _Partial | None:
        slices = self.chunks.cut(table)
        there = tuple(number for number, part in enumerate(slices) if part.num_rows)
        if not there:
            return None
        file = f"{step.folder()}{shard}"
        self.lake.write_slices(self.folder, file, [slices[number] for number in there])
        return _Partial(step, file, there)


_Chunk = tuple[_Step, int, list[tuple[str, int]]]
"""A step, the number of a chunk, and the files and slices that hold the chunk's partial results."""


def _by_chunk(partials: Sequence[_Partial], chunks: int) -> Iterator[_Chunk]:
    of_step: dict[_Step, list[_Partial]] = {}
    for partial in partials:
        of_step.setdefault(partial.step, []).append(partial)
    for step, some in of_step.items():
        slices: list[list[tuple[str, int]]] = [[] for _ in range(chunks)]
        for partial in some:
            for number, chunk in enumerate(partial.chunks):
                slices[chunk].append((partial.file, number))
        yield from ((step, chunk, found) for chunk, found in enumerate(slices) if found)


@dataclass(frozen=True)
class _Merge:
    """The files of one chunk, from the partial results of all shards."""

    lake: Lake
    partials: LakeTable
    folder: str
    made: _Table

    def __call__(self, chunk: _Chunk) -> list[TableFile]:
        step, number, slices = chunk
        partials = [self.lake.read_slice(self.partials, file, slice_) for file, slice_ in slices]
        tables = self.made.merged(partials, step)
        return [
            self.lake.write_file(self.folder, f"{folder}{number:05}", table)
            for folder, table in tables.items()
        ]
