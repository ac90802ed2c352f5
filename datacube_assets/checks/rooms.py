"""The checks of the rooms: what each is given, when it runs, and whether it stops publication.

Thin, as assets are: read from lake or bucket what has to be judged, let the modules beside this one judge
it, tell the UI. All checks of a room are one step of a run, because a step costs as much as most checks.
They need no input from assets, so that they can be executed by themselves, too.
"""

import hashlib
import itertools
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetsDefinition,
    ConfigurableResource,
    multi_asset_check,
)
from dagster_shared.utils.warnings import PreviewWarning

from datacube_assets.assets.aggregates import (
    breakdowns,
    global_aggregates,
    grid_cells,
    regional_aggregates,
)
from datacube_assets.assets.datacube import DATACUBE_ASSETS, raw_data, regional_extrema, spatial_tiles
from datacube_assets.assets.partitions import model_runs
from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.assets.results import pipeline_results
from datacube_assets.checks import columns, conservation, objects, plausibility
from datacube_assets.checks.conservation import GRID_MEASURES, Compared
from datacube_assets.checks.limits import Limits, LimitsFile
from datacube_assets.checks.reports import NAME as REPORTS_DELIVERED
from datacube_assets.checks.reports import undelivered
from datacube_assets.checks.verdict import EXAMPLES, CannotCompareError, Verdict, names
from datacube_assets.datacube import keys
from datacube_assets.datacube.grid import BIN_BITS, MAX_PRECISION
from datacube_assets.datacube.schema import (
    CELL_COLUMNS,
    GLOBAL_COLUMNS,
    GRID_COLUMNS,
    POINT_COLUMNS,
    REGIONAL_COLUMNS,
    RESOLUTIONS,
    Column,
    Layout,
    Period,
)
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import BucketsResource, LakeResource
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.points import POINTS, shards_of
from datacube_assets.storage.publishing import manifest, manifest_entries
from datacube_assets.storage.reports import Outbox
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import MissingObjectError, Store

EVERY_OBJECT = "datacube/every_object"
"""Run tag, of any value, with which every object is read whose checksum the store does not tell."""
_READ_AT_ONCE = 2000
"""Objects of a piece of work."""
_FETCHED_AT_ONCE = 16
_SAMPLED_BYTES = 1_000_000
"""Bytes of the objects of an asset that are read as a sample, about."""
_REMAKE = "Publish from scratch (docs/checks.md); if that does not help, it is a fault of ours"

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class LimitsResource(ConfigurableResource["LimitsResource"]):
    """The limits that checks judge by."""

    document: str = "{}"
    """As JSON, so that the UI shows what is in force."""

    def of(self, model_id: str) -> Limits:
        return LimitsFile.model_validate_json(self.document).of(model_id)


# --- what checks are given -------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A partition that is checked; what several checks need is fetched once."""

    context: AssetCheckExecutionContext
    lake: Lake
    buckets: BucketsResource
    dask: DaskResource
    all_limits: LimitsResource

    @cached_property
    def run(self) -> ModelRun:
        return ModelRun.from_key(self.context.partition_key)

    @cached_property
    def limits(self) -> Limits:
        return self.all_limits.of(self.run.model_id)

    def map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece], name: str) -> list[Result]:
        """Results for each piece; the name has to be another one for each call in a run."""
        return self.dask.map(function, pieces, name=f"check-{name}", run_id=self.context.run.run_id)

    def table(self, asset: AssetsDefinition) -> LakeTable:
        """The table of an asset. Raises MissingTableError."""
        return self.lake.table(self.run, asset.key.path[-1])

    def beside(self, asset: AssetsDefinition, table: LakeTable) -> LakeTable:
        """The table of another asset, made from the same input. Raises CannotCompareError."""
        name = asset.key.path[-1]
        try:
            other = self.table(asset)
        except MissingTableError:
            raise CannotCompareError(f"{name} has no table yet") from None
        if other.version != table.version:
            raise CannotCompareError(f"{name} was made from another input")
        return other

    @cached_property
    def points(self) -> LakeTable:
        return self.table(normalized_points)

    @cached_property
    def info(self) -> RunInfo:
        return RunInfo.of(self.points)

    @cached_property
    def summary(self) -> plausibility.Summary:
        """What there is to know about the points, from one look at them."""
        layout = self.info.layout
        there = {"feature", "value", *layout.levels, *layout.coordinates}
        wanted = [name for name in plausibility.SUMMARY_COLUMNS if name in there]
        found = self.map(_Summary(self.lake, self.points, wanted), shards_of(self.points), "points")
        return sum(found, plausibility.Summary({}, {}))

    @cached_property
    def bucket(self) -> Store:
        return self.buckets.open(DatacubeRequest.model_validate(self.points.info["request"]))

    @cached_property
    def records(self) -> dict[str, pa.Table]:
        """What the manifests record of this bucket, by asset."""
        assets = [asset.key.path[-1] for asset in DATACUBE_ASSETS]
        heads = {asset: manifest(self.lake, self.run, asset) for asset in assets}
        return {
            asset: manifest_entries(self.lake, self.run, asset)
            for asset, head in heads.items()
            if head is not None and head["bucket"] == self.bucket.url
        }

    def standing(self, asset: str) -> Mapping[str, Any]:
        """The head of an asset's manifest. Raises MissingTableError."""
        head = manifest(self.lake, self.run, asset)
        if head is None:
            raise MissingTableError(f"{self.run} has no published {asset} yet; materialize it first")
        if head["bucket"] != self.bucket.url:
            raise MissingTableError(
                f"{asset} is published in {head['bucket']}; materialize it for this bucket"
            )
        return head

    def published_from(self, asset: AssetsDefinition, table: LakeTable) -> Mapping[str, Any]:
        """The same, of objects made from a table. Raises MissingTableError, CannotCompareError."""
        name = asset.key.path[-1]
        head = self.standing(name)
        if head["version"] != table.version:
            raise CannotCompareError(f"{name} is published from another input")
        return head

    def bodies(self, wanted: Sequence[str]) -> list[bytes | None]:
        """Objects by key after the run's prefix, None for those that are not there."""
        return _fetched(self.bucket, [f"{self.run.prefix}{key}" for key in wanted])

    def chance(self, purpose: str) -> np.random.Generator:
        """Random numbers, other ones in every run, so that runs look at other samples."""
        text = f"{self.context.run.run_id} {purpose}"
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))


@dataclass(frozen=True)
class _Summary:
    lake: Lake
    points: LakeTable
    columns: list[str]

    def __call__(self, shard: str) -> plausibility.Summary:
        tables = (self.lake.read(self.points, name, self.columns) for name in self.points.names(shard))
        return sum(map(plausibility.summary, tables), plausibility.Summary({}, {}))


def _fetched(bucket: Store, wanted: Sequence[str]) -> list[bytes | None]:
    """Objects by key, None for those that are not there."""

    def fetch(key: str) -> bytes | None:
        try:
            return bucket.get(key)
        except MissingObjectError:
            return None

    if not wanted or bucket.local_path(wanted[0]) is not None:
        # Threads cost more than reading a file.
        return [fetch(key) for key in wanted]
    with ThreadPoolExecutor(_FETCHED_AT_ONCE, "check") as threads:
        return list(threads.map(fetch, wanted))


@dataclass(frozen=True)
class Check:
    """One check of an asset."""

    asset: AssetsDefinition
    name: str
    description: str
    judge: Callable[[Subject], Verdict]
    severity: AssetCheckSeverity = AssetCheckSeverity.WARN
    blocking: bool = False
    after: tuple[AssetsDefinition, ...] = ()
    """What else has to be made before it is told."""
    of_partition: bool = True
    """Whether it is about the partition, and not about all of them."""

    @property
    def key(self) -> AssetCheckKey:
        return AssetCheckKey(self.asset.key, self.name)

    def spec(self) -> AssetCheckSpec:
        with warnings.catch_warnings():
            # It shows results by partition, and lets one be checked. Dagster's version is locked.
            warnings.simplefilter("ignore", PreviewWarning)
            return AssetCheckSpec(
                self.name,
                asset=self.asset.key,
                description=self.description,
                blocking=self.blocking,
                additional_deps=[other for other in self.after if other is not self.asset],
                partitions_def=model_runs if self.of_partition else None,
            )

    def result(self, subject: Subject) -> AssetCheckResult:
        started = time.monotonic()
        try:
            verdict = self.judge(subject)
        except CannotCompareError as error:
            # In a run of some assets only that is as it should be.
            verdict = Verdict(True, f"Not compared: {error}.")
        except (MissingTableError, MissingObjectError) as error:
            verdict = Verdict(False, str(error.args[0]))
        except (KeyError, pa.ArrowException) as error:
            # The check of its columns says more.
            verdict = Verdict(
                False, f"The tables cannot be compared: {str(error).splitlines()[0]}. {_REMAKE}"
            )
        return AssetCheckResult(
            asset_key=self.asset.key,
            check_name=self.name,
            passed=verdict.passed,
            severity=AssetCheckSeverity.WARN if verdict.only_warns else self.severity,
            description=verdict.says,
            metadata={
                **({"partition": subject.run.key} if self.of_partition else {}),
                **verdict.figures,
                "seconds": round(time.monotonic() - started, 3),
            },
        )


def warns(asset: AssetsDefinition, name: str, description: str, judge: Callable[[Subject], Verdict]) -> Check:
    """A check whose failure is something to look at."""
    return Check(asset, name, description, judge)


def stops(asset: AssetsDefinition, name: str, description: str, judge: Callable[[Subject], Verdict]) -> Check:
    """A check without which nothing that is made from the asset is published."""
    return Check(asset, name, description, judge, AssetCheckSeverity.ERROR, blocking=True)


# --- points ----------------------------------------------------------------------------------------


def _timestamps(subject: Subject) -> Verdict:
    return plausibility.timestamps(subject.info.report, unit=subject.info.request.timestamp_unit)


def _usable_rows(subject: Subject) -> Verdict:
    return plausibility.usable_rows(subject.info.report, subject.limits)


def _varying_values(subject: Subject) -> Verdict:
    return plausibility.varying_values(subject.summary, subject.limits)


def _places(subject: Subject) -> Verdict:
    return plausibility.places_in_their_country(subject.summary, subject.limits)


def _same_features(subject: Subject) -> Verdict:
    model = f"{subject.run.key.partition(':')[0]}:"
    known = subject.context.instance.get_dynamic_partitions(str(model_runs.name))
    # New ones come last.
    others = [key for key in reversed(known) if key.startswith(model) and key != subject.run.key]
    features = {}
    for key in others[: subject.limits.other_runs]:
        run = ModelRun.known(key)
        try:
            table = subject.lake.table(run, normalized_points.key.path[-1]) if run else None
        except MissingTableError:
            continue
        if table is not None:
            features[key] = table.info["features"]
    return plausibility.same_features(subject.info.features, features)


def _cells_hold_every_row(subject: Subject) -> Verdict:
    cells = subject.table(temporal_cells)
    points = subject.beside(normalized_points, cells)
    info = RunInfo.of(points)
    found = subject.map(_RowsInCells(subject.lake, cells), cells.names(), "cells")
    in_cells: dict[str, int] = {
        period: sum(
            rows for name, rows in zip(cells.names(), found, strict=True) if name.startswith(f"{period}-")
        )
        for period in info.periods
    }
    in_points = sum(file.rows for file in points.files if file.name.startswith(POINTS))
    counts: dict[str, int] = {"rows kept": info.report.points, "rows of points": in_points, **in_cells}
    passed = set(counts.values()) == {info.report.points}
    return Verdict(
        passed,
        f"All {info.report.points:,} rows are in the cells of every period."
        if passed
        else f"Rows are lost or counted twice: {_listed(counts)}. {_REMAKE}",
        {"rows": counts},
    )


@dataclass(frozen=True)
class _RowsInCells:
    lake: Lake
    cells: LakeTable

    def __call__(self, name: str) -> int:
        return pc.sum(self.lake.read(self.cells, name, ["rows"])["rows"]).as_py() or 0


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


# --- aggregates ------------------------------------------------------------------------------------

_SIZES = ("cells", "s_count", "s_sum_t_sum", "s_sum_t_mean")
_WEIGHTS = tuple(column.name for column in REGIONAL_COLUMNS if columns.needs_weights(column.name))


def _measures(layout: Layout) -> list[str]:
    """The columns of global and regional tables that add up."""
    return [*_SIZES, *(_WEIGHTS if layout.weighted else ())]


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
    compared, counts = Compared(), {}
    for period, totals in by_period.items():
        counts[f"cells by {period}"] = 0 if totals is None else pc.sum(totals["cells"]).as_py()
        counts[f"rows of cells by {period}"] = sum(
            file.rows for file in cells.files if file.name.startswith(f"{period}-")
        )
        if totals is not None and months is not None:
            compared += conservation.compare(totals, months, ["s_sum_t_sum"], {"period": period})
    equal = all(
        counts[f"cells by {period}"] == counts[f"rows of cells by {period}"] for period in info.periods
    )
    verdict = _conserved(compared, "Sums of values by month, by year and over the whole period")
    if equal:
        return Verdict(verdict.passed, verdict.says, {**verdict.figures, "cells": counts})
    says = f"Cells are lost or counted twice: {_listed(counts)}. {_REMAKE}"
    return Verdict(False, says, {**verdict.figures, "cells": counts})


def _qualifiers_add_up(subject: Subject) -> Verdict:
    table = subject.table(global_aggregates)
    used = breakdowns(subject.lake, subject.beside(normalized_points, table)).everywhere()
    measures = _measures(RunInfo.of(table).layout)
    compared = Compared()
    for resolution, breakdown in itertools.product(RESOLUTIONS, used):
        features = pa.array(sorted(breakdown.features), pa.string())
        whole_folder, parts_folder = (
            aggregate_folder(resolution), aggregate_folder(resolution, qualifier=breakdown.qualifier)
        )  # fmt: skip
        for chunk in _chunks(table, whole_folder, parts_folder):
            whole = _read(subject.lake, table, f"{whole_folder}{chunk}", measures)
            parts = _read(subject.lake, table, f"{parts_folder}{chunk}", measures)
            mapped = whole.filter(pc.is_in(whole["feature"].cast(pa.string()), features))
            where = {"qualifier": breakdown.qualifier, "resolution": resolution}
            compared += conservation.compare(parts, mapped, measures, where)
    return _conserved(compared, "Sums over the values of each qualifier, and over all places,")


def _regions_add_up(subject: Subject) -> Verdict:
    table = subject.table(regional_aggregates)
    layout = RunInfo.of(table).layout
    if not layout.levels:
        return Verdict(True, "There are no regions.")
    whole = subject.beside(global_aggregates, table)
    pieces = [
        (resolution, chunk)
        for resolution in RESOLUTIONS
        for chunk in _chunks_of(
            (whole, aggregate_folder(resolution)),
            *((table, aggregate_folder(resolution, level)) for level in layout.levels),
        )
    ]
    work = _RegionsOfChunk(subject.lake, table, whole, layout)
    compared = sum(subject.map(work, pieces, "regions"), Compared())
    return _conserved(compared, "Sums over the regions of each level, and over all places,")


@dataclass(frozen=True)
class _RegionsOfChunk:
    """Compares the regional tables of a chunk with the global one; runs on a worker."""

    lake: Lake
    regions: LakeTable
    whole: LakeTable
    layout: Layout

    def __call__(self, piece: tuple[Period, str]) -> Compared:
        period, chunk = piece
        measures = _measures(self.layout)
        whole = _read(self.lake, self.whole, f"{aggregate_folder(period)}{chunk}", measures)
        compared = Compared()
        for level in self.layout.levels:
            parts = _read(self.lake, self.regions, f"{aggregate_folder(period, level)}{chunk}", measures)
            compared += conservation.compare(parts, whole, measures, {"level": level, "resolution": period})
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
        compared += conservation.compare(_joined(parts), _joined(totals), GRID_MEASURES, where)
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
        else f"{what} differ in {compared.differing:,} of {compared.totals:,} totals. {_REMAKE}",
        {
            "totals compared": compared.totals,
            "totals differing": compared.differing,
            **({"examples": [dict(one) for one in compared.examples]} if compared.examples else {}),
        },
    )


# --- columns ---------------------------------------------------------------------------------------


def _columns_of_cells(subject: Subject) -> Verdict:
    cells = subject.table(temporal_cells)
    layout = RunInfo.of(cells).layout
    wanted = columns.declared(CELL_COLUMNS, layout, cells=True)
    files = [(cells, name, wanted) for name in cells.names()]
    try:
        points = subject.beside(normalized_points, cells)
    except CannotCompareError:
        points = None
    if points is not None:
        wanted = columns.declared(POINT_COLUMNS, layout)
        files += [(points, name, wanted) for name in points.names(POINTS)]
    return _columns(subject, files)


def _columns_of(asset: AssetsDefinition, declared: Sequence[Column]) -> Callable[[Subject], Verdict]:
    def judge(subject: Subject) -> Verdict:
        table = subject.table(asset)
        layout = RunInfo.of(table).layout
        files = [
            (
                table,
                name,
                columns.declared(
                    declared,
                    layout,
                    by_qualifier="/qualifiers/" in name,
                    ranges=name.startswith(aggregate_folder("all")),
                ),
            )
            for name in _first_of_folders(table.names())
        ]
        return _columns(subject, files)

    return judge


def _first_of_folders(files: Iterable[str]) -> list[str]:
    """The first chunk of each part of a table; the others come from the same call."""
    first: dict[str, str] = {}
    for name in files:
        first.setdefault(name.rpartition("/")[0], name)
    return list(first.values())


def _columns(subject: Subject, files: Sequence[tuple[LakeTable, str, columns.Declared]]) -> Verdict:
    with ThreadPoolExecutor(_FETCHED_AT_ONCE, "check") as threads:
        schemas = threads.map(lambda file: _schema(subject.lake, file[0], file[1]), files)
        found = {
            f"{table.folder}/{name}.parquet": (wanted, schema)
            for (table, name, wanted), schema in zip(files, schemas, strict=True)
        }
    return columns.columns_as_declared(found)


def _schema(lake: Lake, table: LakeTable, name: str) -> pa.Schema:
    # A footer is all that is needed of a file that may be large and far away.
    tail = lake.tail(table, name, _FOOTER_BYTES)
    if int.from_bytes(tail[-8:-4], "little") + 8 > len(tail):
        return pq.read_schema(lake.open_file(table, name))
    return pq.read_schema(pa.BufferReader(tail))


_FOOTER_BYTES = 64_000
"""More than most footers have."""


# --- objects ---------------------------------------------------------------------------------------


def _as_recorded(subject: Subject) -> Verdict:
    if not subject.records:
        raise MissingTableError(f"{subject.run} has no published objects yet; materialize its assets first")
    recorded = pa.concat_tables(subject.records.values())
    looked = objects.look(recorded, subject.bucket.listing(subject.run.prefix))
    unread = np.flatnonzero(looked.unread)
    if EVERY_OBJECT not in subject.context.run.tags:
        ends = np.cumsum([table.num_rows for table in subject.records.values()])
        of_assets = np.split(unread, np.searchsorted(unread, ends[:-1]))
        unread = np.concatenate([_sample(subject, recorded, rows) for rows in of_assets])
    read = recorded.take(pa.array(unread))
    pieces = [read.slice(start, _READ_AT_ONCE) for start in range(0, len(unread), _READ_AT_ONCE)]
    altered = [key for some in subject.map(_Altered(subject.bucket), pieces, "objects") for key in some]
    missing, listed_otherwise = (
        recorded["key"].filter(pa.array(mask)).to_pylist() for mask in (looked.missing, looked.altered)
    )
    # results.json is written last and has its own check.
    results = f"{subject.run.prefix}{keys.RESULTS}"
    return objects.as_recorded(
        objects.Found(
            {asset: table.num_rows for asset, table in subject.records.items()},
            missing,
            sorted({*altered, *listed_otherwise}),
            [key for key in looked.stray if key != results],
            recorded.num_rows - int(np.count_nonzero(looked.missing | looked.unread)) + len(unread),
        )
    )


def _sample(subject: Subject, recorded: pa.Table, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Some of the recorded objects of an asset, not too large altogether."""
    chosen = subject.chance("objects").permutation(rows)[: subject.limits.sampled_objects]
    sizes = recorded["size"].take(pa.array(chosen)).to_numpy()
    return np.sort(chosen[: max(1, int(np.searchsorted(np.cumsum(sizes), _SAMPLED_BYTES)))])


@dataclass(frozen=True)
class _Altered:
    """Keys of recorded objects that are not as recorded; reads them, on a worker."""

    bucket: Store

    def __call__(self, recorded: pa.Table) -> list[str]:
        bodies = _fetched(self.bucket, recorded["key"].to_pylist())
        found = [
            None if body is None else hashlib.md5(body, usedforsecurity=False).digest() for body in bodies
        ]
        same = pc.equal(pa.array(found, pa.binary(16)), recorded["checksum"])
        altered: list[str] = recorded["key"].filter(pc.invert(pc.fill_null(same, False))).to_pylist()
        return altered


def _results_as_recorded(subject: Subject) -> Verdict:
    name = pipeline_results.key.path[-1]
    subject.standing(name)
    recorded = manifest_entries(subject.lake, subject.run, name)
    altered = _Altered(subject.bucket)(recorded)
    found = objects.Found({name: recorded.num_rows}, altered=altered, compared=recorded.num_rows)
    return objects.as_recorded(found)


def _extrema_are_of_the_table(subject: Subject) -> Verdict:
    table = subject.table(regional_aggregates)
    subject.published_from(regional_extrema, table)
    layout = RunInfo.of(table).layout
    chunks = [
        (resolution, level, name)
        for resolution in RESOLUTIONS
        for level in layout.levels
        for name in table.names(aggregate_folder(resolution, level))
    ]
    chance = random.Random(subject.context.run.run_id)
    if len(chunks) > subject.limits.sampled_objects:
        chunks = chance.sample(chunks, subject.limits.sampled_objects)
    wanted: dict[str, Mapping[str, objects.Extreme]] = {}
    found = subject.map(_Extrema(subject.lake, table, layout), [name for _, _, name in chunks], "extrema")
    for (resolution, level, _), features in zip(chunks, found, strict=True):
        for feature, extremes in features.items():
            wanted[keys.regional_extrema(resolution, level, feature)] = extremes
    if len(wanted) > subject.limits.sampled_objects:
        wanted = dict(chance.sample(sorted(wanted.items(), key=_first), subject.limits.sampled_objects))
    bodies = subject.bodies(list(wanted))
    wrong = {
        key: "it is not there" if body is None else objects.same_extrema(body, extremes)
        for (key, extremes), body in zip(wanted.items(), bodies, strict=True)
    }
    return _same_objects(wrong, "The extrema are those of the tables", "lists of extrema")


def _first(item: tuple[str, object]) -> str:
    return item[0]


@dataclass(frozen=True)
class _Extrema:
    lake: Lake
    table: LakeTable
    layout: Layout

    def __call__(self, name: str) -> dict[str, dict[str, objects.Extreme]]:
        return objects.table_extrema(self.lake.read(self.table, name), self.layout)


def _tiles_hold_every_point(subject: Subject) -> Verdict:
    table = subject.table(grid_cells)
    head = subject.published_from(spatial_tiles, table)
    info = RunInfo.of(table)
    if not info.layout.mappable:
        return Verdict(True, "There are no coordinates.")
    recorded = subject.records[spatial_tiles.key.path[-1]]["key"]
    counts: dict[str, dict[str, list[int]]] = {}
    odd: list[str] = []
    samples: dict[str, conservation.Tile] = {}
    for resolution in RESOLUTIONS:
        files = [
            file for file in table.files if file.name.startswith(aggregate_folder(resolution)) and file.rows
        ]
        seed = int(subject.chance(resolution).integers(2**32))
        found = subject.map(
            _Tiles(subject.lake, table, seed), [file.name for file in files], f"tiles-{resolution}"
        )
        zooms = MAX_PRECISION - BIN_BITS + 1
        here = recorded.filter(pc.starts_with(recorded, f"{subject.run.prefix}{resolution}/"))
        published = np.bincount(objects.zooms(here), minlength=zooms)
        expected = sum((tiles.count for tiles in found), np.zeros(zooms, np.int64))
        points = sum((tiles.points for tiles in found), np.zeros(zooms, np.int64))
        counts[resolution] = {
            "tiles": published.tolist(), "tiles expected": expected.tolist(), "points": points.tolist()
        }  # fmt: skip
        if len(set(points.tolist())) > 1:
            odd.append(f"the zooms of {resolution} hold different numbers of points")
        left_out = head["left_out"]
        all_known = all(tiles.finite for tiles in found)
        differing = (
            published.sum() + left_out != expected.sum() if left_out else (published != expected).any()
        )
        if all_known and not odd and differing:
            odd.append(f"the number of tiles by {resolution} is not what the table asks for")
        for tile in itertools.islice((tile for tiles in found for tile in tiles.samples), _SAMPLED_TILES):
            samples[_tile_key(resolution, tile)] = tile
    bodies = subject.bodies(list(samples))
    wrong = {key: _unlike(tile, body) for (key, tile), body in zip(samples.items(), bodies, strict=True)}
    if head["left_out"]:
        # A key may have been too long for the store.
        wrong = {key: said for key, said in wrong.items() if said != _NOT_THERE}
    told = _same_objects(wrong, "Tiles hold what the table holds, at every zoom", "tiles")
    figures = {**told.figures, "by zoom, 0 to 8": counts}
    return (
        Verdict(False, f"{'; '.join(odd)}. {_REMAKE}", figures)
        if odd
        else Verdict(told.passed, told.says, figures)
    )


_SAMPLED_TILES = 45
"""Tiles of a resolution that are read: five of each zoom, if there are as many chunks."""
_NOT_THERE = "it is not there"


@dataclass(frozen=True)
class _Tiles:
    lake: Lake
    table: LakeTable
    seed: int

    def __call__(self, name: str) -> conservation.Tiles:
        return conservation.expected_tiles(self.lake.read(self.table, name), np.random.default_rng(self.seed))


def _tile_key(resolution: Any, tile: conservation.Tile) -> str:
    texts = [keys.segment(tile.feature), str(tile.timestamp), str(tile.x), str(tile.y)]
    feature, timestamp, x, y = (pa.array([text], pa.string()) for text in texts)
    key: str = keys.tiles(resolution, tile.zoom, feature, timestamp, x, y)[0].as_py()
    return key


def _unlike(tile: conservation.Tile, body: bytes | None) -> str:
    if body is None:
        return _NOT_THERE
    try:
        found = objects.read_tile(body)
    except ValueError as error:
        return str(error)
    return "" if tile.agrees(found) else f"its bins add up to {found}, in the table to {tile.bins}"


def _same_objects(wrong: Mapping[str, str], passed: str, what: str) -> Verdict:
    faults = {key: said for key, said in wrong.items() if said}
    return Verdict(
        not faults,
        f"{len(faults):,} of {len(wrong):,} {what} are not what the tables say: {names(sorted(faults))}. "
        "Publish from scratch (docs/checks.md), and find out what changed the bucket"
        if faults
        else f"{passed}.",
        {f"{what} read": len(wrong), "examples": dict(sorted(faults.items())[:EXAMPLES])},
    )


def _reports_delivered(subject: Subject) -> Verdict:
    return undelivered(Outbox(subject.lake).waiting())


# --- the checks ------------------------------------------------------------------------------------

_COLUMNS = "columns_as_declared"
_OBJECTS = "objects_as_recorded"

OF_POINTS = (
    warns(
        normalized_points,
        "timestamps_are_milliseconds",
        "Times do not look like seconds that were taken for milliseconds (all in early 1970).",
        _timestamps,
    ),
    warns(
        normalized_points,
        "rows_are_usable",
        "The shares of rows that were dropped, and that have no value, are within limits.",
        _usable_rows,
    ),
    warns(
        normalized_points,
        "values_vary",
        "No feature with many rows has one value everywhere, or none at all.",
        _varying_values,
    ),
    warns(
        normalized_points,
        "places_are_in_their_country",
        "No rows of a country lie far away from the bulk of the rows of this country in this run.",
        _places,
    ),
    warns(
        normalized_points,
        "features_are_those_of_other_runs",
        "Features that most of the newest other runs of the model have are here, too.",
        _same_features,
    ),
    stops(
        temporal_cells,
        "cells_hold_every_row",
        "The rows counted in the cells of month, year and the whole period are the rows of the points.",
        _cells_hold_every_row,
    ),
    stops(
        temporal_cells,
        _COLUMNS,
        "Every file of the points and of the cells has the columns, types and order that are declared.",
        _columns_of_cells,
    ),
)
OF_AGGREGATES = (
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
    *(
        stops(
            asset,
            _COLUMNS,
            "The first file of each part of the table has the columns, types and order that are declared.",
            _columns_of(asset, declared),
        )
        for asset, declared in (
            (global_aggregates, GLOBAL_COLUMNS),
            (regional_aggregates, REGIONAL_COLUMNS),
            (grid_cells, GRID_COLUMNS),
        )
    ),
)
OF_OBJECTS = (
    Check(
        raw_data,
        _OBJECTS,
        "Every object of the datacube that a manifest records is in the bucket, whichever asset it is of, "
        "and no other. Sizes and checksums are compared: on S3 of every object, as the listing tells them; "
        "in a folder of a sample, other ones in every run, and of all in the job check_model_run. Objects "
        "that are recorded nowhere only warn.",
        _as_recorded,
        AssetCheckSeverity.ERROR,
        blocking=True,
        after=tuple(DATACUBE_ASSETS),
    ),
    stops(
        regional_extrema,
        "extrema_are_of_the_table",
        "Published extrema have the smallest and largest figures of the regional table, and their places. "
        "Read are all of them, or a sample where there are many.",
        _extrema_are_of_the_table,
    ),
    stops(
        spatial_tiles,
        "tiles_hold_every_point",
        "At every zoom, the pyramid over the grid table holds the same points, and as many tiles are "
        "recorded as it has. Of each zoom some published tiles are read: their bins add up to what the "
        "table has there.",
        _tiles_hold_every_point,
    ),
)
OF_RESULTS = (
    Check(
        pipeline_results,
        _OBJECTS,
        "results.json is in the bucket as it was written.",
        _results_as_recorded,
        AssetCheckSeverity.ERROR,
    ),
    Check(
        pipeline_results,
        REPORTS_DELIVERED,
        "No report to CauseMos, about whichever run, waits because an attempt to deliver it failed.",
        _reports_delivered,
        of_partition=False,
    ),
)


def _step(name: str, checks: Sequence[Check], description: str) -> AssetChecksDefinition:
    """Checks that are executed together."""

    @multi_asset_check(
        name=name, specs=[check.spec() for check in checks], can_subset=True, description=description
    )
    def step(
        context: AssetCheckExecutionContext,
        lake: LakeResource,
        buckets: BucketsResource,
        dask: DaskResource,
        limits: LimitsResource,
    ) -> Iterator[AssetCheckResult]:
        subject = Subject(context, lake.open(), buckets, dask, limits)
        for check in checks:
            if check.key in context.selected_asset_check_keys:
                yield check.result(subject)

    return step


check_points = _step("check_points", OF_POINTS, "Checks of the room points.")
check_aggregates = _step("check_aggregates", OF_AGGREGATES, "Checks of the room aggregates.")
check_objects = _step("check_objects", OF_OBJECTS, "Checks of the room datacube, before it is complete.")
check_results = _step("check_results", OF_RESULTS, "Checks of the room results.")

CHECKS = [check_points, check_aggregates, check_objects, check_results]
