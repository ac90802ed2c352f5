"""Group `aggregates`: the truth, as tables of sums, counts, minima and maxima that add up.

The sums are in `datacube/spatial.py` and `datacube/grid.py`. Here each shard gives partial tables, cut
into chunks; then the parts of each chunk, from all shards, become one file. So neither step holds more
than a shard or a chunk. Everything published is a view over these tables.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from dagster import AssetExecutionContext, MaterializeResult

from datacube_assets.assets.tables import made_before, same_version, table_asset, table_result
from datacube_assets.datacube import grid, spatial
from datacube_assets.datacube.qualifiers import Breakdowns
from datacube_assets.datacube.schema import (
    CELL_MEASURES,
    COORDINATES,
    GLOBAL_COLUMNS,
    GRID_COLUMNS,
    REGIONAL_COLUMNS,
    RESOLUTIONS,
    Period,
    cell_column,
)
from datacube_assets.datacube.shards import Chunks
from datacube_assets.datacube.spatial import Breakdown
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import LakeResource
from datacube_assets.storage.lake import Lake, LakeTable, TableFile, file_name
from datacube_assets.storage.points import QUALIFIER_VALUES
from datacube_assets.storage.run_info import RunInfo

GROUP = "aggregates"


def folder_of(period: Period, *parts: str, qualifier: str | None = None) -> str:
    """Where an aggregate table keeps the chunks of a part: `month/admin1/default/`, `year/qualifiers/crop/`."""
    last = "default" if qualifier is None else f"qualifiers/{file_name(qualifier)}"
    return "/".join((period, *parts, last, ""))


@table_asset(
    GROUP,
    GLOBAL_COLUMNS,
    "Sums over all places, per feature and time, and per value of each mapped qualifier.",
)
def global_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    by = breakdowns(lake.open(), normalized_points).everywhere()
    return _aggregate(context, lake, dask, temporal_cells, _Global(RunInfo.of(temporal_cells), by))


@table_asset(
    GROUP,
    REGIONAL_COLUMNS,
    "Sums over the places of each region, at every level of the hierarchy, per feature and time, and per "
    "value of each mapped qualifier.",
)
def regional_aggregates(
    context: AssetExecutionContext,
    temporal_cells: LakeTable,
    normalized_points: LakeTable,
    lake: LakeResource,
    dask: DaskResource,
) -> MaterializeResult[LakeTable]:
    same_version(temporal_cells, normalized_points)
    by = breakdowns(lake.open(), normalized_points).everywhere()
    return _aggregate(context, lake, dask, temporal_cells, _Regional(RunInfo.of(temporal_cells), by))


@table_asset(
    GROUP,
    GRID_COLUMNS,
    "Sums over subtiles of precision 14, the deepest level of the tile pyramid, per feature and time. "
    "Points without coordinates or beyond the web-mercator limit have no place in it.",
)
def grid_cells(
    context: AssetExecutionContext, temporal_cells: LakeTable, lake: LakeResource, dask: DaskResource
) -> MaterializeResult[LakeTable]:
    return _aggregate(context, lake, dask, temporal_cells, _Grid(RunInfo.of(temporal_cells), ()))


def breakdowns(lake: Lake, points: LakeTable) -> Breakdowns:
    """The qualifiers in use, from the inventory beside the points."""
    info = RunInfo.of(points)
    values = lake.read(points, QUALIFIER_VALUES)
    return Breakdowns.of(values, info.request.qualifier_map, info.thresholds)


# --- what each table is made of --------------------------------------------------------------------

Tables = dict[str, pa.Table]
"""Tables by the folder that they are a chunk of."""


@dataclass(frozen=True)
class _Table(ABC):
    """How an aggregate table comes from cells; travels to workers."""

    info: RunInfo
    by: Sequence[Breakdown]

    by_time = False
    """Whether a chunk may hold a part of a feature's times."""

    @property
    def periods(self) -> tuple[Period, ...]:
        return RESOLUTIONS

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Columns of the cells that are needed."""

    def breakdowns(self, period: Period) -> list[Breakdown | None]:
        """As a whole, and by each qualifier in use."""
        return [None, *self.by]

    @abstractmethod
    def partial(self, cells: pa.Table, period: Period, breakdown: Breakdown | None) -> pa.Table:
        """From the cells of a shard."""

    @abstractmethod
    def merged(self, partials: Sequence[pa.Table], period: Period, breakdown: Breakdown | None) -> Tables:
        """From the partial results of all shards."""

    def _measures(self) -> list[str]:
        unweighted = ("t_wavg", "weight")
        return [name for name in CELL_MEASURES if self.info.layout.weighted or name not in unweighted]


class _Global(_Table):
    @property
    def periods(self) -> tuple[Period, ...]:
        return self.info.periods

    @property
    def columns(self) -> list[str]:
        return ["feature", "timestamp", *(cell_column(one.qualifier) for one in self.by), *self._measures()]

    def breakdowns(self, period: Period) -> list[Breakdown | None]:
        return [None] if period == "all" else super().breakdowns(period)

    def partial(self, cells: pa.Table, period: Period, breakdown: Breakdown | None) -> pa.Table:
        return spatial.global_partial(cells, self.info.layout, breakdown, ranges=period == "all")

    def merged(self, partials: Sequence[pa.Table], period: Period, breakdown: Breakdown | None) -> Tables:
        qualifier = breakdown.qualifier if breakdown else None
        return {folder_of(period, qualifier=qualifier): spatial.global_aggregates(partials)}


class _Regional(_Table):
    @property
    def periods(self) -> tuple[Period, ...]:
        return RESOLUTIONS if self.info.layout.levels else ()

    @property
    def columns(self) -> list[str]:
        qualifiers = (cell_column(one.qualifier) for one in self.by)
        return ["feature", "timestamp", *self.info.layout.levels, *qualifiers, *self._measures()]

    def partial(self, cells: pa.Table, period: Period, breakdown: Breakdown | None) -> pa.Table:
        return spatial.regional_partial(cells, self.info.layout, breakdown)

    def merged(self, partials: Sequence[pa.Table], period: Period, breakdown: Breakdown | None) -> Tables:
        qualifier = breakdown.qualifier if breakdown else None
        tables = spatial.regional_aggregates(partials, self.info.layout)
        return {folder_of(period, level, qualifier=qualifier): table for level, table in tables.items()}


class _Grid(_Table):
    by_time = True

    @property
    def periods(self) -> tuple[Period, ...]:
        return RESOLUTIONS if self.info.layout.mappable else ()

    @property
    def columns(self) -> list[str]:
        return ["feature", "timestamp", *COORDINATES, "t_sum", "t_mean"]

    def partial(self, cells: pa.Table, period: Period, breakdown: Breakdown | None) -> pa.Table:
        return grid.grid_cells(cells)

    def merged(self, partials: Sequence[pa.Table], period: Period, breakdown: Breakdown | None) -> Tables:
        return {folder_of(period): grid.merge_grid(partials)}


# --- shards to chunks ------------------------------------------------------------------------------


def _aggregate(
    context: AssetExecutionContext, lake: LakeResource, dask: DaskResource, cells: LakeTable, made: _Table
) -> MaterializeResult[LakeTable]:
    started = time.monotonic()
    table = made_before(context, lake.open(), cells.version)
    reused = table is not None
    if table is None:
        table = _make(context, lake, dask, cells, made)
    return table_result(table, started, reused=reused, metadata={"rows in": cells.rows})


def _make(
    context: AssetExecutionContext, lake: LakeResource, dask: DaskResource, cells: LakeTable, made: _Table
) -> LakeTable:
    name, store, run_id = context.asset_key.path[-1], lake.open(), context.run.run_id
    report = made.info.report
    folder = store.table_folder(made.info.run, name, cells.version)
    pieces = [(period, shard) for period in made.periods for shard in cells.names(f"{period}-")]
    if len(cells.names("month-")) == 1:
        work = _OneShard(store, cells, folder, made)
        done = dask.map(work, pieces, name=name, run_id=run_id)
    else:
        rows = {feature: report.num_rows_per_feature[feature] for feature in made.info.features}
        times = (report.min_timestamp or 0, report.max_timestamp or 0) if made.by_time else None
        chunks = Chunks.of(rows, lake.shard_rows, times)
        shard_work = _ShardOfMany(store, cells, f"{folder}/partial", made, chunks)
        partials = dask.map(shard_work, pieces, name=f"{name}-of-shards", run_id=run_id)
        merging = _Merge(store, LakeTable(f"{folder}/partial", cells.version, ()), folder, made)
        work_of_chunks = list(_by_chunk([one for some in partials for one in some], len(chunks)))
        done = dask.map(merging, work_of_chunks, name=f"{name}-merged", run_id=run_id)
    files = sorted((file for some in done for file in some), key=lambda file: file.name)
    qualifiers = sorted(one.qualifier for one in made.by)
    return LakeTable(folder, cells.version, tuple(files), {**cells.info, "qualifiers": qualifiers})


@dataclass(frozen=True)
class _OneShard:
    """The tables of a period, where one shard is all there is."""

    lake: Lake
    cells: LakeTable
    folder: str
    made: _Table

    def __call__(self, piece: tuple[Period, str]) -> list[TableFile]:
        period, shard = piece
        cells = self.lake.read(self.cells, shard, self.made.columns)
        return [
            self.lake.write_file(self.folder, f"{folder}{0:05}", table)
            for breakdown in self.made.breakdowns(period)
            for folder, table in self.made.merged(
                [self.made.partial(cells, period, breakdown)], period, breakdown
            ).items()
        ]


@dataclass(frozen=True)
class _Partial:
    """The file of one shard's partial results."""

    period: Period
    breakdown: Breakdown | None
    file: str
    chunks: tuple[int, ...]
    """The chunks of which it has rows: its slices, in order."""


@dataclass(frozen=True)
class _ShardOfMany:
    """The partial results of a period of one shard, cut into chunks."""

    lake: Lake
    cells: LakeTable
    folder: str
    made: _Table
    chunks: Chunks

    def __call__(self, piece: tuple[Period, str]) -> list[_Partial]:
        period, shard = piece
        cells = self.lake.read(self.cells, shard, self.made.columns)
        return list(self._partials(cells, period, shard))

    def _partials(self, cells: pa.Table, period: Period, shard: str) -> Iterator[_Partial]:
        for breakdown in self.made.breakdowns(period):
            slices = self.chunks.cut(self.made.partial(cells, period, breakdown))
            there = tuple(number for number, part in enumerate(slices) if part.num_rows)
            if there:
                qualifier = breakdown.qualifier if breakdown else None
                file = f"{folder_of(period, qualifier=qualifier)}{shard}"
                self.lake.write_slices(self.folder, file, [slices[number] for number in there])
                yield _Partial(period, breakdown, file, there)


_Chunk = tuple[Period, Breakdown | None, int, list[tuple[str, int]]]
"""Period, breakdown and number of a chunk, and the files and slices that hold its partial results."""


def _by_chunk(partials: Sequence[_Partial], chunks: int) -> Iterator[_Chunk]:
    tables: dict[tuple[Period, Breakdown | None], list[_Partial]] = {}
    for partial in partials:
        tables.setdefault((partial.period, partial.breakdown), []).append(partial)
    for (period, breakdown), some in tables.items():
        slices: list[list[tuple[str, int]]] = [[] for _ in range(chunks)]
        for partial in some:
            for number, chunk in enumerate(partial.chunks):
                slices[chunk].append((partial.file, number))
        for chunk, found in enumerate(slices):
            if found:
                yield period, breakdown, chunk, found


@dataclass(frozen=True)
class _Merge:
    """The files of one chunk, from the partial results of all shards."""

    lake: Lake
    partials: LakeTable
    folder: str
    made: _Table

    def __call__(self, chunk: _Chunk) -> list[TableFile]:
        period, breakdown, number, slices = chunk
        partials = [self.lake.read_slice(self.partials, file, slice_) for file, slice_ in slices]
        return [
            self.lake.write_file(self.folder, f"{folder}{number:05}", table)
            for folder, table in self.made.merged(partials, period, breakdown).items()
        ]
