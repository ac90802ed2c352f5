"""The checks of the asset group `aggregates`: do its tables add up, with the columns they should have?

How that is judged is in `conservation.py` and `columns.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.assets.aggregates import (
    breakdowns,
    global_aggregates,
    grid_cells,
    regional_aggregates,
)
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.estimates import estimates
from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.checks.check import REMAKE, Subject, listed, stops
from datacube_assets.checks.judging import columns, conservation, sizes
from datacube_assets.checks.judging.conservation import GRID_MEASURES, Compared, Sizes
from datacube_assets.checks.judging.verdict import CannotCompareError, Verdict
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.estimate import Estimate
from datacube_assets.kernels.schema import (
    GLOBAL_COLUMNS,
    GRID_COLUMNS,
    MEANS,
    REGIONAL_COLUMNS,
    RESOLUTIONS,
    WEIGHTED_MEANS,
    Column,
    Layout,
    Period,
    Resolution,
)
from datacube_assets.kernels.spatial import Breakdown
from datacube_assets.storage.lake import Lake, LakeTable, aggregate_folder
from datacube_assets.storage.points import shards_of
from datacube_assets.storage.run_info import RunInfo

_SIZES = ("cells", "s_count", "s_sum_t_sum", "s_sum_t_mean")
_WEIGHTS = tuple(column.name for column in REGIONAL_COLUMNS if column.only_with_weights)


def _measures(layout: Layout) -> list[str]:
    """The columns of global and regional tables that add up."""
    return [*_SIZES, *(_WEIGHTS if layout.weighted else ())]


Compare = Callable[[Sizes | None], Compared]
"""Compares totals; knowing the sizes, it tells what cancelled from what is lost."""


def _judged(compare: Compare, sizes: Callable[[], Sizes]) -> Compared:
    """What differs by more than rounding; sizes are found only where something differs."""
    compared = compare(None)
    return compare(sizes()) if compared.differing else compared


def _sizes_of(subject: Subject, table: LakeTable, period: Period) -> Sizes:
    """What the totals of a period of a table are added up from."""

    def find() -> Sizes:
        cells = subject.beside(temporal_cells, table)
        layout = RunInfo.of(cells).layout
        work = _SizesOfCells(subject.lake, cells, layout.weighted)
        return pa.concat_tables(subject.map(work, cells.names(f"{period}-"), f"sizes-{period}"))

    return subject.once(f"sizes of {period}", find)


@dataclass(frozen=True)
class _SizesOfCells:
    lake: Lake
    cells: LakeTable
    weighted: bool

    def __call__(self, name: str) -> Sizes:
        measures = (*WEIGHTED_MEANS, "weight") if self.weighted else MEANS
        cells = self.lake.read(self.cells, name, [*conservation.KEYS, *measures])
        return conservation.sizes_of_cells(cells, weighted=self.weighted)


@dataclass(frozen=True)
class _SizesOfPoints:
    lake: Lake
    points: LakeTable

    def __call__(self, shard: str) -> Sizes:
        batches = self.lake.batches(self.points, shard, ["feature", "value"])
        return pa.concat_tables(map(conservation.sizes_of_points, batches))


def _times_add_up(subject: Subject) -> Verdict:
    table = subject.table(global_aggregates)
    cells = subject.beside(temporal_cells, table)
    info, lake = RunInfo.of(table), subject.lake
    by_period = {}
    for period in info.periods:
        rows = [
            conservation.whole_period(lake.read(table, name, ["feature", *_SIZES]), _SIZES)
            for name in table.names(aggregate_folder(period))
        ]
        by_period[period] = pa.concat_tables(rows) if rows else None
    months = by_period["month"]
    counts = {}
    for period, totals in by_period.items():
        counts[f"cells by {period}"] = 0 if totals is None else pc.sum(totals["cells"]).as_py()
        counts[f"rows of cells by {period}"] = sum(
            file.rows for file in cells.files if file.name.startswith(f"{period}-")
        )

    def compare(sizes: Sizes | None) -> Compared:
        found = [
            conservation.compare(totals, months, ["s_sum_t_sum"], {"period": period}, sizes)
            for period, totals in by_period.items()
            if totals is not None and months is not None
        ]
        return sum(found, Compared())

    def sizes() -> Sizes:
        points = subject.beside(normalized_points, table)
        return pa.concat_tables(subject.map(_SizesOfPoints(lake, points), shards_of(points), "sizes"))

    compared = _judged(compare, sizes)
    equal = all(
        counts[f"cells by {period}"] == counts[f"rows of cells by {period}"] for period in info.periods
    )
    verdict = _conserved(compared, "Sums of values by month, by year and over the whole period")
    if equal:
        return Verdict(verdict.passed, verdict.says, {**verdict.figures, "cells": counts})
    says = f"Cells are lost or counted twice: {listed(counts)}. {REMAKE}"
    return Verdict(False, says, {**verdict.figures, "cells": counts})


def _qualifiers_add_up(subject: Subject) -> Verdict:
    table = subject.table(global_aggregates)
    used = breakdowns(subject.lake, subject.beside(normalized_points, table)).everywhere()
    measures = _measures(RunInfo.of(table).layout)

    def compare(resolution: Resolution, breakdown: Breakdown, sizes: Sizes | None) -> Compared:
        compared = Compared()
        features = pa.array(sorted(breakdown.features), pa.string())
        whole_folder, parts_folder = (
            aggregate_folder(resolution), aggregate_folder(resolution, qualifier=breakdown.qualifier)
        )  # fmt: skip
        for chunk in _chunks(table, whole_folder, parts_folder):
            whole = _read(subject.lake, table, f"{whole_folder}{chunk}", measures)
            parts = _read(subject.lake, table, f"{parts_folder}{chunk}", measures)
            mapped = whole.filter(pc.is_in(whole["feature"].cast(pa.string()), features))
            where = {"qualifier": breakdown.qualifier, "resolution": resolution}
            compared += conservation.compare(parts, mapped, measures, where, sizes)
        return compared

    compared = Compared()
    for resolution, breakdown in itertools.product(RESOLUTIONS, used):
        compared += _judged(
            partial(compare, resolution, breakdown),
            partial(_sizes_of, subject, table, resolution),
        )
    return _conserved(compared, "Sums over the values of each qualifier, and over all places,")


def _regions_add_up(subject: Subject) -> Verdict:
    table = subject.table(regional_aggregates)
    layout = RunInfo.of(table).layout
    if not layout.levels:
        return Verdict(True, "There are no regions.")
    whole = subject.beside(global_aggregates, table)
    compared = Compared()
    for resolution in RESOLUTIONS:
        folders = (aggregate_folder(resolution, level) for level in layout.levels)
        chunks = _chunks_of((whole, aggregate_folder(resolution)), *((table, folder) for folder in folders))

        def compare(
            sizes: Sizes | None, resolution: Resolution = resolution, chunks: Sequence[str] = chunks
        ) -> Compared:
            work = _RegionsOfChunk(subject.lake, table, whole, layout, resolution, sizes)
            name = f"regions-{resolution}{'' if sizes is None else '-again'}"
            return sum(subject.map(work, chunks, name), Compared())

        compared += _judged(compare, partial(_sizes_of, subject, table, resolution))
    return _conserved(compared, "Sums over the regions of each level, and over all places,")


@dataclass(frozen=True)
class _RegionsOfChunk:
    """Compares the regional tables of a chunk with the global one; runs on a worker."""

    lake: Lake
    regions: LakeTable
    whole: LakeTable
    layout: Layout
    resolution: Resolution
    sizes: Sizes | None

    def __call__(self, chunk: str) -> Compared:
        measures = _measures(self.layout)
        whole = _read(self.lake, self.whole, f"{aggregate_folder(self.resolution)}{chunk}", measures)
        compared = Compared()
        for level in self.layout.levels:
            folder = aggregate_folder(self.resolution, level)
            parts = _read(self.lake, self.regions, f"{folder}{chunk}", measures)
            where = {"level": level, "resolution": self.resolution}
            compared += conservation.compare(parts, whole, measures, where, self.sizes)
        return compared


def _map_holds_every_point(subject: Subject) -> Verdict:
    table = subject.table(grid_cells)
    info, lake = RunInfo.of(table), subject.lake
    if not info.layout.mappable:
        return Verdict(True, "There are no coordinates.")
    whole = subject.beside(global_aggregates, table)
    off = info.report.missing_coordinates + info.report.beyond_mercator
    compared = Compared()
    for resolution in RESOLUTIONS:
        files = table.names(aggregate_folder(resolution))
        parts = subject.map(_Sums(lake, table, GRID_MEASURES), files, f"grid-{resolution}")
        if off:
            cells = subject.beside(temporal_cells, table)
            parts += subject.map(_OffMap(lake, cells), cells.names(f"{resolution}-"), f"off-map-{resolution}")
        totals = [
            lake.read(whole, name, [*conservation.KEYS, *GRID_MEASURES])
            for name in whole.names(aggregate_folder(resolution))
        ]
        where = {"resolution": resolution}
        compared += _judged(
            partial(conservation.compare, _joined(parts), _joined(totals), GRID_MEASURES, where),
            partial(_sizes_of, subject, table, resolution),
        )
    told = _conserved(compared, "Sums over the map (and over what is not on it), and over all places,")
    return Verdict(told.passed, told.says, {**told.figures, "points that are not on the map": off})


@dataclass(frozen=True)
class _Sums:
    lake: Lake
    table: LakeTable
    measures: Sequence[str]

    def __call__(self, name: str) -> pa.Table:
        table = self.lake.read(self.table, name, [*conservation.KEYS, *self.measures])
        return conservation.sums(table, self.measures)


@dataclass(frozen=True)
class _OffMap:
    lake: Lake
    cells: LakeTable

    def __call__(self, name: str) -> pa.Table:
        return conservation.off_map(self.lake.read(self.cells, name, list(conservation.OFF_MAP_COLUMNS)))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables) if tables else _nothing(GRID_MEASURES)


def _nothing(measures: Sequence[str]) -> pa.Table:
    types = {column.name: pa.type_for_alias(column.type) for column in GLOBAL_COLUMNS}
    columns_ = {name: pa.array([], types[name]) for name in ("timestamp", *measures)}
    return pa.table({"feature": pa.array([], pa.string()).dictionary_encode(), **columns_})


def _read(lake: Lake, table: LakeTable, name: str, measures: Sequence[str]) -> pa.Table:
    """Keys and measures of a chunk, none where the table has no such chunk."""
    if name not in table.names(name):
        return _nothing(measures)
    return lake.read(table, name, [*conservation.KEYS, *measures])


def _chunks(table: LakeTable, *folders: str) -> list[str]:
    return _chunks_of(*((table, folder) for folder in folders))


def _chunks_of(*folders: tuple[LakeTable, str]) -> list[str]:
    """Numbers of the chunks that any of the folders has."""
    return sorted({name.removeprefix(folder) for table, folder in folders for name in table.names(folder)})


def _conserved(compared: Compared, what: str) -> Verdict:
    return Verdict(
        not compared.differing,
        f"{what} are the same."
        if not compared.differing
        else f"{what} differ in {compared.differing:,} of {compared.totals:,} totals. {REMAKE}",
        {
            "totals compared": compared.totals,
            "totals differing": compared.differing,
            **({"examples": [dict(one) for one in compared.examples]} if compared.examples else {}),
        },
    )


def _objects_within_limit(subject: Subject) -> Verdict:
    def find() -> Mapping[str, Estimate]:
        selected = {key.path[-1] for key in subject.context.run.asset_selection or ()}
        made = [asset.key.path[-1] for asset in DATACUBE_ASSETS]
        wanted = [name for name in made if name in selected] or made
        # Nothing stored is judged here: what is about to be formatted is counted.
        found = subject.map(_Estimated(subject.lake.as_made(), subject.run), wanted, "estimates")
        return dict(zip(wanted, found, strict=True))

    return sizes.within_limit(subject.once("estimates", find), subject.max_objects)


@dataclass(frozen=True)
class _Estimated:
    """How much an asset will publish; runs on a worker."""

    lake: Lake
    run: ModelRun

    def __call__(self, asset: str) -> Estimate:
        return estimates(self.lake, self.run, (asset,))[asset]


def _columns(subject: Subject) -> Verdict:
    table = subject.table(global_aggregates)
    # The same functions make month and year, so that in a run one of them speaks for both.
    passed_over = "" if subject.everything else RESOLUTIONS[int(subject.chance("columns").integers(2))]
    files = []
    for asset, columns_ in _TABLES:
        try:
            table = subject.beside(asset, table)
        except CannotCompareError:
            continue
        layout = RunInfo.of(table).layout
        files += [
            (table, name, _declared(name, columns_, layout))
            for name in _first_of_folders(table)
            if name.partition("/")[0] != passed_over
        ]
    return columns.columns_as_declared(subject.beside_schemas(files))


_TABLES = (
    (global_aggregates, GLOBAL_COLUMNS),
    (regional_aggregates, REGIONAL_COLUMNS),
    (grid_cells, GRID_COLUMNS),
)


def _declared(file: str, of_table: Sequence[Column], layout: Layout) -> columns.Declared:
    by_qualifier, ranges = "/qualifiers/" in file, file.startswith(aggregate_folder("all"))
    return columns.declared(of_table, layout, by_qualifier=by_qualifier, ranges=ranges)


def _first_of_folders(table: LakeTable) -> list[str]:
    """The first chunk of each part of a table; the others come from the same call."""
    first: dict[str, str] = {}
    for name in table.names():
        first.setdefault(name.rpartition("/")[0], name)
    return list(first.values())


OF_AGGREGATES = (
    *(
        stops(
            asset,
            "objects_within_limit",
            "The datacube has no more objects than DATACUBE_MAX_OBJECTS allows. They are counted in the "
            "tables, and their bytes estimated, before the first one is written. All three tables have this "
            "check, because a run may make one of them only.",
            _objects_within_limit,
            after=(global_aggregates, regional_aggregates, grid_cells),
        )
        for asset in (global_aggregates, regional_aggregates, grid_cells)
    ),
    stops(
        global_aggregates,
        "times_add_up",
        "The sum of all values of a feature is the same by month, year and over the whole period, and every "
        "cell of temporal_cells is counted once.",
        _times_add_up,
    ),
    stops(
        global_aggregates,
        "qualifiers_add_up",
        "Sums over all values of a qualifier are those over all rows, for each feature, time and measure. "
        "Rows without the qualifier have the value None, so every qualifier is complete.",
        _qualifiers_add_up,
    ),
    stops(
        regional_aggregates,
        "regions_add_up",
        "Sums over the regions of each level are those over all places, for each feature, time and measure. "
        "Tables by qualifier are not compared.",
        _regions_add_up,
    ),
    stops(
        grid_cells,
        "map_holds_every_point",
        "Sums over the squares of the grid, and over cells without a place on the map, are those over all "
        "places, for each feature and time.",
        _map_holds_every_point,
    ),
    stops(
        global_aggregates,
        "columns_as_declared",
        "The first file of each part of the three tables of aggregates has the columns, types and order that "
        "are declared. A run passes over those by month or those by year, the job check_model_run over none.",
        _columns,
        after=(regional_aggregates, grid_cells),
    ),
)
