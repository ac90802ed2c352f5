"""A datacube as tables of the lake: the same answers, and the cells and points behind them.

Which table answers a question belongs here. Where a table lies is the business of `storage/lake.py`, what
its columns mean is in `kernels/schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.decode import TIME
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.grid_statistics import GRID_STATISTICS, grid_statistics
from datacube_assets.kernels.groups import build_table
from datacube_assets.kernels.morton import ZOOMS, check_tile, deinterleave
from datacube_assets.kernels.provenance import Bin, Scope, cells_in_scope, figures_of, formula
from datacube_assets.kernels.pyramid import Level, level_at, within_tile
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    RESOLUTIONS,
    Period,
    RegionLevel,
    Resolution,
    published_columns,
    summary_columns,
)
from datacube_assets.kernels.spatial import finish, table_measures
from datacube_assets.read.datacube import (
    Areas,
    Bounds,
    Datacube,
    Lines,
    NoDataError,
    Time,
    bin_table,
    bucket,
    level_of,
    no_region,
    no_such,
    no_time,
    one_of,
)
from datacube_assets.read.explain import Explanation
from datacube_assets.storage.lake import TABLES, Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.points import POINTS, QUALIFIER_VALUES, RawParts
from datacube_assets.storage.run_info import RunInfo

if TYPE_CHECKING:
    from datacube_assets.storage.history import History, Listed

_RAW, _POINTS, _CELLS = "raw_dojo_output", "normalized_points", "temporal_cells"
_GLOBAL, _REGIONAL, _GRID = "global_aggregates", "regional_aggregates", "grid_cells"
_BIN_COLUMNS = ("quadkey", "s_count", "s_sum_t_sum", "s_sum_t_mean")


class Files(NamedTuple):
    """Files for pandas, Dask and everything else that opens them by fsspec; on S3 that is s3fs."""

    urls: list[str]
    """Paths, or `s3://` addresses."""
    storage_options: dict[str, str]
    """To be passed on as `storage_options=`. Credentials come from the usual places (docs/s3.md)."""


class LakeDatacube(Datacube):
    """The tables of a model run or dataset: those of what is published, or those that a version keeps.

    Of a Parquet file only the columns that are needed are read.
    """

    def __init__(self, lake: Lake, run: ModelRun, version: int | None = None) -> None:
        super().__init__(run, lake.store.url)
        self._lake = lake
        self.version = version
        """Number of the version whose tables are meant; None: those of what is published, whichever version
        that is; where nothing is published, those of now."""

    @property
    def lake(self) -> Lake:
        return self._lake

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def _name(self) -> str:
        return str(self._run) if self.version is None else f"{self._run}@{self.version}"

    # --- what there is -----------------------------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether every table is there, all of one version."""
        try:
            tables = [self._table(name) for name in (_POINTS, _CELLS, _GLOBAL, _REGIONAL, _GRID)]
        except NoDataError:
            return False
        return len({table.version for table in tables}) == 1

    @property
    def features(self) -> list[str]:
        return sorted(self._info.features)

    @property
    def levels(self) -> list[RegionLevel]:
        return list(self._info.layout.levels)

    @property
    def has_tiles(self) -> bool:
        return self._info.report.has_tiles

    @property
    def has_weights(self) -> bool:
        return self._info.layout.weighted

    def region_ids(self, feature: str, level: RegionLevel) -> list[str]:
        one_of("level", level, REGION_LEVELS)
        table = self._table(_REGIONAL)
        folder = aggregate_folder("year", level)
        found = self._rows(table, table.names(folder), feature, ["region_id"])
        return _distinct(found["region_id"])

    def qualifiers(self, feature: str) -> dict[str, int]:
        values = self._inventory(feature)
        # The inventory has each value once.
        counted = pc.value_counts(_text(values["qualifier"]))
        return {item["values"]: item["counts"] for item in counted.to_pylist()}

    def qualifier_values(self, feature: str, qualifier: str) -> list[str]:
        values = self._inventory(feature)
        if qualifier not in (known := _distinct(values["qualifier"])):
            raise no_such("qualifier", qualifier, known, feature)
        return _distinct(values.filter(pc.equal(values["qualifier"], qualifier))["value"])

    def _inventory(self, feature: str) -> pa.Table:
        return self._rows(self._table(_POINTS), [QUALIFIER_VALUES], feature, ["qualifier", "value"])

    def summary(self) -> pa.Table:
        table = self._table(_GLOBAL)
        folder = aggregate_folder("all")
        if not table.names(folder):
            raise NoDataError(f"{self._run} is a dataset: a summary is made of model runs only")
        found = self._lake.read_all(table, folder)
        figures = finish(table_measures(found), summary_columns(RunInfo.of(table).layout.weighted))
        return build_table(dict(figures)).add_column(0, "feature", _text(found["feature"])).sort_by("feature")

    # --- timeseries and regions --------------------------------------------------------------------

    def _lines(self, asked: Lines) -> pa.Table:
        names = ["timestamp"] if asked.qualifier is None else ["value", "timestamp"]
        found = self._aggregates(asked.feature, asked.resolution, asked.level, asked.qualifier)
        if asked.level is not None and asked.region is not None:
            rows = found.filter(pc.equal(found["region_id"], asked.region))
            if not rows.num_rows:
                raise no_region(self, asked.feature, asked.level, asked.region)
            found = rows
        if asked.value is not None:
            rows = found.filter(pc.equal(found["value"], asked.value))
            if not rows.num_rows:
                raise no_such("value", asked.value, _distinct(found["value"]), asked.qualifier)
            found = rows
        table = self._figured(found, sorted(names), asked.figures)
        return table.sort_by([(name, "ascending") for name in names])

    def _regions(self, asked: Areas) -> pa.Table:
        found = self._aggregates(asked.feature, asked.resolution, asked.level, asked.qualifier)
        if asked.timestamp is not None:
            found = self._at(found, asked.feature, asked.resolution, asked.timestamp)
        table = self._figured(found, asked.keys, asked.figures)
        return table.sort_by([(name, "ascending") for name in asked.keys])

    def _aggregates(
        self, feature: str, resolution: Resolution, level: RegionLevel | None, qualifier: str | None
    ) -> pa.Table:
        """Rows of a feature in one of the aggregate tables."""
        table = self._table(_GLOBAL if level is None else _REGIONAL)
        info = RunInfo.of(table)
        if level is not None and level not in info.layout.levels:
            raise no_such("level", level, info.layout.levels, self._run)
        parts = () if level is None else (level,)
        names = table.names(aggregate_folder(resolution, *parts, qualifier=qualifier))
        found = self._rows(table, names, feature)
        if not found.num_rows:
            self.qualifier_values(feature, qualifier or "")
            raise NoDataError(
                f"{feature!r} is not broken down by {qualifier!r}: it is not in the qualifier map, or over a "
                'threshold (docs/concepts.md, "Qualifiers and thresholds")'
            )
        return found

    def _figured(self, found: pa.Table, names: Sequence[str], figures: list[str] | None) -> pa.Table:
        """Keys and published figures of rows of an aggregate table."""
        made = finish(table_measures(found), published_columns("weight_t_sum" in found.column_names))
        missing = [figure for figure in figures or () if figure not in made]
        if missing:
            raise NoDataError(f"{self._run} has no {missing[0]}: its rows have no weights")
        table = build_table({name: made[name] for name in figures or made})
        for number, name in enumerate(names):
            column = found[name].cast(TIME) if name == "timestamp" else _text(found[name])
            table = table.add_column(number, name, column)
        return table

    # --- the map -----------------------------------------------------------------------------------

    def _bins(
        self, feature: str, resolution: Resolution, timestamp: int, zoom: int, bounds: Bounds | None
    ) -> pa.Table:
        return squares(level_at(self.grid(feature, timestamp, resolution=resolution), zoom), bounds)

    def tile(
        self, feature: str, time: Time, zoom: int, x: int, y: int, *, resolution: Resolution | None = None
    ) -> pa.Table:
        check_tile(zoom, x, y)
        level = level_at(within_tile(self.grid(feature, time, resolution=resolution), zoom, x, y), zoom)
        return squares(level, None).add_column(0, "bin", pa.array(np.sort(level.bin)))

    def grid_stats(self, feature: str, time: Time, *, resolution: Resolution | None = None) -> pa.Table:
        found = statistics_of(self.grid(feature, time, resolution=resolution))
        if not found.num_rows:
            raise NoDataError(f"every value of {feature!r} is missing on the map then")
        return found

    def grid(self, feature: str, time: Time, *, resolution: Resolution | None = None) -> pa.Table:
        """The cells of the map at a time: squares of the finest zoom, by their number along the map.

        Columns: `feature`, `timestamp` (int64, ms UTC), `quadkey` (uint32, ascending), `s_count` and sums
        (docs/lake.md, "grid_cells"). Tiles and statistics of every zoom are made of them.
        """
        resolution, timestamp = bucket(time, resolution)
        table = self._table(_GRID)
        if not RunInfo.of(table).layout.mappable:
            raise NoDataError(f"{self._run} has no map: its rows have no coordinates")
        names = table.names(aggregate_folder(resolution))
        here = self._rows(table, names, feature, ["feature", "timestamp", *_BIN_COLUMNS], timestamp)
        if not here.num_rows:
            # There may be rows in that month, none of which has a place on the map.
            self._at(self._aggregates(feature, resolution, None, None), feature, resolution, timestamp)
        return here

    def grids(self, feature: str, resolution: Resolution) -> Iterator[pa.Table]:
        """The same for all times, file by file; every time is whole in one of them."""
        table = self._table(_GRID)
        for name in table.names(aggregate_folder(resolution)):
            found = self._rows(table, [name], feature, ["feature", "timestamp", *_BIN_COLUMNS])
            if found.num_rows:
                yield found

    # --- what is behind it -------------------------------------------------------------------------

    def cells(
        self,
        feature: str,
        time: Time | None = None,
        *,
        resolution: Resolution | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Temporal cells of a feature: one row per place and combination of qualifiers in a month or year.

        Without a time, those of all months or years. Columns (or those asked for): `timestamp`, the levels,
        `lat`, `lng` (degrees), one per qualifier, `rows`, `t_sum`, `t_mean` and, with weights, `t_wavg` and
        `weight` (docs/lake.md, "temporal_cells").
        """
        timestamp = None
        if time is None:
            resolution = resolution or "month"
        else:
            resolution, timestamp = bucket(time, resolution)
        table = self._table(_CELLS)
        one_of("resolution", resolution, RESOLUTIONS)
        found = self._rows(table, table.names(f"{resolution}-"), feature, columns, timestamp)
        if timestamp is not None and not found.num_rows:
            self._at(self._aggregates(feature, resolution, None, None), feature, resolution, timestamp)
        return _readable(found)

    def points(self, feature: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Points of a feature: one row per row of the input that could be used.

        Columns (or those asked for): `timestamp`, the levels, `lat`, `lng` (degrees), one per qualifier, the
        weight column, `value` (docs/lake.md, "normalized_points").
        """
        table = self._table(_POINTS)
        return _readable(self._rows(table, table.names(POINTS), feature, columns))

    # --- where a number comes from -----------------------------------------------------------------

    def explain(
        self,
        feature: str,
        time: Time,
        *,
        region: str | None = None,
        level: RegionLevel | None = None,
        bin: tuple[int, int, int, int] | None = None,
        qualifier: str | None = None,
        value: str | None = None,
        resolution: Resolution | None = None,
        figure: str = "s_sum_t_sum",
    ) -> Explanation:
        """Where a published figure comes from: formula, temporal cells, and the rows of Dojo's files.

        `time` is a month or year as everywhere, or `all` for the summary of the whole period. Without a
        place the figure is that over all places; `region` (with `level`, where its id does not tell) or
        `bin` (zoom, x and y of a tile, and the number of a bin in it) name one. `qualifier` and `value` take
        that of one value. Raises NoDataError, ValueError.
        """
        points, cells, raw = (self._table(name) for name in (_POINTS, _CELLS, _RAW))
        if not points.version == cells.version == raw.version:
            raise NoDataError(f"{self._run} is being made anew; ask again when its run is through")
        info = RunInfo.of(points)
        scope = self._scope(info, feature, time, resolution, region, level, bin, qualifier, value)
        found = [
            cells_in_scope(self._read(cells, name), info.layout, scope)
            for name in cells.names(f"{scope.period}-")
        ]
        if not found:
            raise NoDataError(f"{self._run} has no cells of the period {scope.period}")
        chosen = pa.concat_tables(found).unify_dictionaries()
        figures = figures_of(chosen, info.layout, scope)
        if not figures:
            self._explain_nothing(scope)
        published = sorted(name for name in scope.figures if name in figures)
        if figure not in published:
            raise NoDataError(f"there is no figure {figure!r} here: there is {', '.join(published)}")
        return Explanation(
            figure,
            figures[figure],
            formula(figure, chosen, figures, scope),
            figures,
            chosen,
            scope,
            RawParts(self._lake, raw),
            info.plan,
        )

    def _scope(
        self,
        info: RunInfo,
        feature: str,
        time: Time,
        resolution: Resolution | None,
        region: str | None,
        level: RegionLevel | None,
        bin: tuple[int, int, int, int] | None,
        qualifier: str | None,
        value: str | None,
    ) -> Scope:
        if feature not in info.features:
            raise no_such("feature", feature, info.features, self._run)
        if (qualifier is None) != (value is None):
            raise ValueError("a qualifier and its value are given together")
        if qualifier is not None and qualifier not in info.layout.qualifiers:
            raise no_such("qualifier", qualifier, info.layout.qualifiers, self._run)
        if region is not None and bin is not None:
            raise ValueError("give a region or a bin, not both")
        if bin is not None and qualifier is not None:
            raise ValueError("the map has no qualifiers: leave the bin or the qualifier out")
        if region is not None and level is None:
            level = level_of(region)
        if region is not None and level not in info.layout.levels:
            raise no_such("level", str(level), info.layout.levels, self._run)
        period: Period = "all"
        start = 0
        if time == "all":
            if "all" not in info.periods:
                raise NoDataError(f"{self._run} is a dataset: a summary is made of model runs only")
            if region is not None or bin is not None or qualifier is not None:
                raise ValueError("the summary of the whole period is over all places and qualifiers")
        else:
            period, start = bucket(time, resolution)
        return Scope(
            feature,
            period,
            start,
            level if region is not None else None,
            region or "",
            Bin(*bin) if bin is not None else None,
            qualifier,
            value or "",
        )

    def _explain_nothing(self, scope: Scope) -> NoReturn:
        """Say what of a scope without cells there is not. Raises NoDataError."""
        if scope.period != "all":
            resolution: Resolution = scope.period
            here = self._aggregates(scope.feature, resolution, None, None)
            self._at(here, scope.feature, resolution, scope.start)
            if scope.level is not None:
                self.timeseries(scope.feature, region=scope.region, level=scope.level, resolution=resolution)
        what = f"the region {scope.region!r}" if scope.level else "this bin" if scope.bin else "this value"
        raise NoDataError(
            f"{self._run} has nothing of {scope.feature!r} there: {what} has no row at that time"
        )

    def files(self, table: str, prefix: str = "") -> Files:
        """The Parquet files of a table, such as `grid_cells`, for whatever else reads Parquet.

        `prefix` leaves out files whose path in the table starts otherwise, such as `year/default/`
        (docs/lake.md). They are those of now: whatever is published next has others.
        """
        from datacube_assets.storage.s3 import S3

        found = self._table(table)
        names = found.names(prefix)
        if not names:
            raise no_such("file", prefix, [file.name for file in found.files], f"{self._run}, {table}")
        keys = [f"{found.folder}/{name}.parquet" for name in names]
        store = self._lake.store
        paths = [store.local_path(key) for key in keys]
        urls = [str(path) if path else f"{store.url}/{key}" for path, key in zip(paths, keys, strict=True)]
        endpoint = store.endpoint if isinstance(store, S3) else ""
        return Files(urls, {"endpoint_url": endpoint} if endpoint else {})

    # --- versions ----------------------------------------------------------------------------------

    def versions(self) -> pa.Table:
        """Every version that was published, the oldest first (docs/history.md).

        Columns: `number`, int64; `state`, string: `published`, `replaced`, `withdrawn` or `broken off`;
        `published`, timestamp[ms, UTC]; `kept`, bool: whether its tables are there still, for
        `open_tables(..., version=number)`; `rows`, int64; `run`, string, Dagster's; `executed_at`, string, as
        Dojo says it; `back_to`, int64: the version that it brought back, where it is not null.
        """
        return listed(self._history.listed())

    def tables(self) -> Mapping[str, LakeTable]:
        """The tables that are there, by name, as their descriptors tell them."""
        if self.version is not None:
            return self._kept
        found = {}
        for name in sorted(TABLES):
            with suppress(MissingTableError):
                found[name] = self._history.published_table(name)
        return found

    @property
    def _history(self) -> History:
        # Imported here: it knows of publishing too, which takes a while to import.
        from datacube_assets.storage.history import History

        return History(self._lake, self._run)

    @cached_property
    def _kept(self) -> dict[str, LakeTable]:
        """What the version keeps, which does not change. Raises NoDataError where that is nothing."""
        assert self.version is not None
        try:
            return self._history.opened(self.version)[1]
        except InputError as error:
            raise NoDataError(str(error)) from None

    # --- how tables are read -----------------------------------------------------------------------

    @property
    def _info(self) -> RunInfo:
        return RunInfo.of(self._table(_POINTS))

    def _table(self, name: str) -> LakeTable:
        """A table's descriptor; read each time, as a table may be made again meanwhile."""
        if self.version is not None:
            if name not in self._kept:
                raise NoDataError(f"{self._name} keeps no table {name}: there is {', '.join(self._kept)}")
            return self._kept[name]
        try:
            return self._history.published_table(name)
        except MissingTableError as error:
            raise NoDataError(f"{self.url}: {error}. list_tables() tells what is there") from None

    def _rows(
        self,
        table: LakeTable,
        names: Iterable[str],
        feature: str,
        columns: Sequence[str] | None = None,
        timestamp: int | None = None,
    ) -> pa.Table:
        """Rows of a feature, at a time if one is given, in files of a table, one file after the other."""
        features = RunInfo.of(table).features
        if feature not in features:
            raise no_such("feature", feature, features, self._run)
        keys = ["feature"] if timestamp is None else ["feature", "timestamp"]
        read = None if columns is None else list(dict.fromkeys([*keys, *columns]))
        found: list[pa.Table] = []
        for name in names:
            rows = self._read(table, name, read)
            rows = rows.filter(pc.equal(rows["feature"], feature))
            found.append(rows if timestamp is None else rows.filter(pc.equal(rows["timestamp"], timestamp)))
        if not found:
            return pa.table({})
        joined = pa.concat_tables(found).unify_dictionaries()
        return joined.select(list(columns)) if columns is not None else joined.drop_columns("feature")

    def _read(self, table: LakeTable, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return self._lake.read(table, name, columns)
        except MissingTableError:
            if self.version is None:
                raise
            raise NoDataError(f"{self._name} keeps no tables any more. versions() tells which do") from None
        except pa.ArrowInvalid:
            known = pq.read_schema(self._lake.open_file(table, name)).names
            for column in columns or ():
                if column not in known:
                    raise no_such("column", column, known, f"{self._run}, {name}") from None
            raise

    def _at(self, found: pa.Table, feature: str, resolution: Resolution, timestamp: int) -> pa.Table:
        """Rows of a month or year. Raises NoDataError when there are none."""
        rows = found.filter(pc.equal(found["timestamp"], timestamp))
        if not rows.num_rows:
            times = np.unique(found["timestamp"].to_numpy()).astype("datetime64[ms]")
            raise no_time(feature, resolution, timestamp, times, self._run)
        return rows


def squares(level: Level, bounds: Bounds | None) -> pa.Table:
    """The bins of a level of the map as `Datacube.bins` gives them."""
    x, y = deinterleave(level.quadkey)
    figures = (level.s_count, level.s_sum_t_sum, level.s_sum_t_mean)
    return bin_table(x, y, level.precision, *figures, bounds)


def statistics_of(grid: pa.Table) -> pa.Table:
    """Smallest and largest figures at each zoom, as `grid_stats` gives them, for each time of a feature.

    Times without any value are left out.
    """
    found, _ = grid_statistics(grid)
    found = found[np.isfinite(found).all(axis=(1, 2))].reshape(-1, len(GRID_STATISTICS))
    zooms = np.tile(np.array(ZOOMS, np.int64), len(found) // len(ZOOMS))
    return build_table({"zoom": zooms, **dict(zip(GRID_STATISTICS, found.T, strict=True))})


def listed(versions: Iterable[Listed]) -> pa.Table:
    """Versions as `LakeDatacube.versions` gives them."""
    return pa.Table.from_pylist(
        [
            {
                "number": one.version.number,
                "state": one.state,
                "published": round(one.version.published * 1000),
                "kept": one.is_kept,
                "rows": one.version.rows,
                "run": one.version.by,
                "executed_at": one.version.executed_at,
                "back_to": one.version.back_to,
            }
            for one in versions
        ],
        _VERSIONS,
    )


_VERSIONS = pa.schema(
    {
        "number": pa.int64(),
        "state": pa.string(),
        "published": TIME,
        "kept": pa.bool_(),
        "rows": pa.int64(),
        "run": pa.string(),
        "executed_at": pa.string(),
        "back_to": pa.int64(),
    }
)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _distinct(column: pa.ChunkedArray) -> list[str]:
    return sorted(cast("list[str]", _text(column).unique().to_pylist()))


def _readable(table: pa.Table) -> pa.Table:
    """The same with times as times."""
    if "timestamp" not in table.column_names:
        return table
    at = table.column_names.index("timestamp")
    return table.set_column(at, "timestamp", table["timestamp"].cast(TIME))
