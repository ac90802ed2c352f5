"""A datacube as it was published: what CauseMos sees, object by object.

Which objects answer a question belongs here; each is read when it is needed and no other. Where an object
is and what is in it is the business of `storage/published.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels import keys
from datacube_assets.kernels.decode import TIME, Tile
from datacube_assets.kernels.morton import BIN_BITS, check_tile
from datacube_assets.kernels.schema import (
    REGION_LEVELS,
    RegionLevel,
    Resolution,
    published_columns,
    region_levels,
)
from datacube_assets.read.datacube import (
    Areas,
    Bounds,
    Datacube,
    Lines,
    NoDataError,
    Time,
    bin_table,
    bucket,
    no_region,
    no_such,
    no_time,
    one_of,
    overlap,
)
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError


class PublishedDatacube(Datacube):
    """The published objects of a model run or dataset, by the keys that CauseMos' reader asks for."""

    def __init__(self, published: Published) -> None:
        super().__init__(published.run, published.store.url)
        self._published = published

    # --- what there is -----------------------------------------------------------------------------

    @cached_property
    def results(self) -> dict[str, Any]:
        """results.json: `data_info` and, for model runs, `output_agg_values` (docs/objects.md)."""
        try:
            return self._published.results()
        except MissingObjectError:
            raise NoDataError(
                f"{self._run} is not in {self.url}, or not complete: there is no {keys.RESULTS}. "
                "list_datacubes() tells what is there"
            ) from None

    @property
    def is_complete(self) -> bool:
        """Whether results.json, which is written last, is there."""
        try:
            return bool(self.results)
        except NoDataError:
            return False

    @property
    def features(self) -> list[str]:
        return sorted(self.results["data_info"]["features"])

    @property
    def levels(self) -> list[RegionLevel]:
        return list(region_levels(self.results["data_info"]["region_levels"]))

    @property
    def has_tiles(self) -> bool:
        return bool(self.results["data_info"]["has_tiles"])

    @property
    def has_weights(self) -> bool:
        return bool(self.results["data_info"]["has_weights"])

    def region_ids(self, feature: str, level: RegionLevel) -> list[str]:
        one_of("level", level, REGION_LEVELS)
        try:
            return sorted(self._published.region_lists(feature)[level])
        except MissingObjectError:
            self._check(feature)
            return []

    def qualifiers(self, feature: str) -> dict[str, int]:
        try:
            counts: dict[str, int] = self._published.qualifier_counts(feature)["counts"]
        except MissingObjectError:
            self._check(feature)
            return {}
        return counts

    def qualifier_values(self, feature: str, qualifier: str) -> list[str]:
        try:
            return sorted(self._published.qualifier_list(feature, qualifier))
        except MissingObjectError:
            self._check(feature)
            raise no_such("qualifier", qualifier, self.qualifiers(feature), feature) from None

    def summary(self) -> pa.Table:
        """As `Datacube.summary`; figures are rounded to ten decimals."""
        rows = self.results.get("output_agg_values")
        if rows is None:
            raise NoDataError(f"{self._run} is a dataset: a summary is made of model runs only")
        return pa.Table.from_pylist(
            [{"feature": row["name"], **{key: row[key] for key in row if key != "name"}} for row in rows]
        ).sort_by("feature")

    def raw(self, feature: str) -> pa.Table:
        """The rows of a feature as they were delivered, if there are at most `raw_count_threshold`.

        `timestamp`, `lat` and `lng` (degrees), `value`; every other column of the files as text, empty where
        it is missing.
        """
        try:
            return self._published.raw(feature)
        except MissingObjectError:
            self._check(feature)
            limit = self.results["data_info"]["raw_count_threshold"]
            raise NoDataError(
                f"{feature!r} has more than {limit} rows, so they were not published: "
                "read them from the lake, by open_tables(...).points(...)"
            ) from None

    # --- timeseries --------------------------------------------------------------------------------

    def _lines(self, asked: Lines) -> pa.Table:
        if asked.qualifier is not None:
            return self._breakdown(asked, asked.qualifier)
        feature, level, region = asked.feature, asked.level, asked.region
        try:
            if level is None or region is None:
                table = self._published.global_timeseries(asked.resolution, feature)
            else:
                table = self._published.regional_timeseries(asked.resolution, level, feature, region)
        except MissingObjectError:
            self._check(feature, level, region)
            raise self._not_published("timeseries", feature) from None
        return self._chosen(table, ["timestamp"], asked.figures).sort_by("timestamp")

    def _breakdown(self, asked: Lines, qualifier: str) -> pa.Table:
        if asked.level is None or asked.region is None:
            table = self._global_breakdown(asked, qualifier)
            if asked.value is not None:
                table = table.filter(pc.equal(table["value"], asked.value))
        else:
            table = self._regional_breakdown(asked, qualifier, asked.level, asked.region)
        if not table.num_rows:
            known = self.qualifier_values(asked.feature, qualifier)
            raise no_such("value", asked.value or "", known, qualifier)
        return table.sort_by([("value", "ascending"), ("timestamp", "ascending")])

    def _global_breakdown(self, asked: Lines, qualifier: str) -> pa.Table:
        # There is an object per figure. All have the same rows, and a row that is there has a count.
        wanted = asked.figures or list(published_columns(self.has_weights))
        read = list(dict.fromkeys([*wanted, "s_count"]))

        def of_figure(figure: str) -> pa.Table:
            return self._published.qualifier_timeseries(asked.resolution, asked.feature, qualifier, figure)

        try:
            tables = list(self._published.each(of_figure, read))
        except MissingObjectError:
            self._check(asked.feature)
            self.qualifier_values(asked.feature, qualifier)
            for figure in read:
                self._known_figure(figure, published_columns(self.has_weights))
            raise self._not_published(f"timeseries by {qualifier}", asked.feature) from None
        table = tables[0].select(["timestamp", "value"])
        for figure, one in zip(read, tables, strict=True):
            table = table.append_column(figure, one[figure])
        return table.filter(pc.is_valid(table["s_count"])).select(["timestamp", "value", *wanted])

    def _regional_breakdown(self, asked: Lines, qualifier: str, level: RegionLevel, region: str) -> pa.Table:
        feature, value = asked.feature, asked.value

        def of_value(one: str) -> pa.Table | None:
            try:
                table = self._published.regional_timeseries(
                    asked.resolution, level, feature, region, qualifier, one
                )
            except MissingObjectError:
                return None
            return table.add_column(1, "value", pa.array([one] * len(table), pa.string()))

        values = self.qualifier_values(feature, qualifier) if value is None else [value]
        tables = [table for table in self._published.each(of_value, values) if table is not None]
        if not tables:
            self._check(feature, level, region)
            if value is not None and value not in (known := self.qualifier_values(feature, qualifier)):
                raise no_such("value", value, known, qualifier)
            what = f"timeseries of {region} by {qualifier}" + (f" {value!r}" if value is not None else "")
            raise self._not_published(what, feature)
        return self._chosen(pa.concat_tables(tables), ["timestamp", "value"], asked.figures)

    # --- regions -----------------------------------------------------------------------------------

    def _regions(self, asked: Areas) -> pa.Table:
        feature, level, qualifier = asked.feature, asked.level, asked.qualifier

        def at(time: int) -> pa.Table | None:
            try:
                table = self._published.regional_map(asked.resolution, level, feature, time, qualifier)
            except MissingObjectError:
                return None
            return table.add_column(0, "timestamp", pa.array([time] * len(table), TIME))

        if asked.timestamp is None:
            times = self.timestamps(feature, asked.resolution).astype(np.int64).tolist()
        else:
            times = [asked.timestamp]
        tables = [table for table in self._published.each(at, times) if table is not None]
        if not tables:
            self._check(feature, level)
            self._check_time(feature, asked.resolution, asked.timestamp)
            if qualifier is not None:
                self.qualifier_values(feature, qualifier)
            raise self._not_published(
                f"table of {level}" + (f" by {qualifier}" if qualifier else ""), feature
            )
        table = self._chosen(pa.concat_tables(tables), asked.keys, asked.figures)
        return table.sort_by([(name, "ascending") for name in asked.keys])

    def extrema(self, feature: str, level: RegionLevel, *, resolution: Resolution = "month") -> pa.Table:
        """Where and when each figure is smallest and largest among the regions of a level.

        Columns: `extreme` (`min` or `max`), `figure`, `region_id`, `timestamp`, and `value`, the figure. At
        most twenty rows per figure and extreme, newest first.
        """
        try:
            return self._published.regional_extrema(resolution, level, feature)
        except MissingObjectError:
            self._check(feature, level)
            raise self._not_published(f"extrema of {level}", feature) from None

    # --- the map -----------------------------------------------------------------------------------

    def tile(
        self,
        feature: str,
        time: Time,
        zoom: int,
        x: int,
        y: int,
        *,
        resolution: Resolution | None = None,
    ) -> pa.Table:
        check_tile(zoom, x, y)
        resolution, timestamp = bucket(time, resolution)
        tile = self._tile(resolution, feature, timestamp, zoom, x, y)
        if tile is None:
            self._check_map(feature, resolution, timestamp)
            tile = _empty(zoom, x, y)
        return _table([tile], None).add_column(0, "bin", pa.array(tile.bin))

    def _bins(
        self, feature: str, resolution: Resolution, timestamp: int, zoom: int, bounds: Bounds | None
    ) -> pa.Table:
        tiles = self._tiles(resolution, feature, timestamp, zoom, bounds)
        if not tiles:
            self._check_map(feature, resolution, timestamp)
            tiles = [_empty(zoom, 0, 0)]
        return _table(tiles, bounds)

    def _tiles(
        self, resolution: Resolution, feature: str, timestamp: int, zoom: int, bounds: Bounds | None
    ) -> list[Tile]:
        """The tiles of a zoom that there are.

        Nothing is listed: the bins of a tile of zoom z that have data are the tiles of zoom z + 6 that exist.
        """
        above = max(zoom - BIN_BITS, 0)
        if zoom == 0:
            x, y = np.zeros((2, 1), np.uint32)
        else:
            coarse = self._tiles(resolution, feature, timestamp, above, bounds)
            x, y = _tiles_below(coarse, above + BIN_BITS - zoom)
        inside = overlap(x, y, zoom, bounds)
        found = self._published.each(
            lambda place: self._tile(resolution, feature, timestamp, zoom, *place),
            zip(x[inside].tolist(), y[inside].tolist(), strict=True),
        )
        return [tile for tile in found if tile is not None]

    def _tile(
        self, resolution: Resolution, feature: str, timestamp: int, zoom: int, x: int, y: int
    ) -> Tile | None:
        try:
            return self._published.tile(resolution, feature, timestamp, zoom, x, y)
        except MissingObjectError:
            return None

    def grid_stats(self, feature: str, time: Time, *, resolution: Resolution | None = None) -> pa.Table:
        resolution, timestamp = bucket(time, resolution)
        try:
            return self._published.grid_stats(resolution, feature, timestamp)
        except MissingObjectError:
            self._check_map(feature, resolution, timestamp)
            raise self._not_published("grid statistics", feature) from None

    # --- what is said when there is nothing ----------------------------------------------------------

    def _check(self, feature: str, level: RegionLevel | None = None, region: str | None = None) -> None:
        """Raise NoDataError for names that the datacube does not have."""
        if feature not in self.features:
            raise no_such("feature", feature, self.features, self._run)
        if level is not None and level not in self.levels:
            raise no_such("level", level, self.levels, self._run)
        if level is not None and region is not None and region not in self.region_ids(feature, level):
            raise no_region(self, feature, level, region)

    def _check_time(self, feature: str, resolution: Resolution, timestamp: int | None) -> None:
        times = self.timestamps(feature, resolution)
        if timestamp is not None and timestamp not in times.astype(np.int64):
            raise no_time(feature, resolution, timestamp, times, self._run)

    def _check_map(self, feature: str, resolution: Resolution, timestamp: int) -> None:
        self._check(feature)
        if not self.has_tiles:
            raise NoDataError(f"{self._run} has no map: its rows have no coordinates")
        self._check_time(feature, resolution, timestamp)

    def _not_published(self, what: str, feature: str) -> NoDataError:
        return NoDataError(
            f"no {what} of {feature!r} was published: it was not asked for, or left out on purpose "
            '(docs/objects.md, "What is not published"). The lake may have it: open_tables()'
        )

    def _chosen(self, table: pa.Table, names: Sequence[str], figures: list[str] | None) -> pa.Table:
        if figures is None:
            return table
        for figure in figures:
            self._known_figure(figure, table.column_names)
        return table.select([*names, *figures])

    def _known_figure(self, figure: str, known: Sequence[str]) -> None:
        if figure not in known:
            raise NoDataError(f"{self._run} has no {figure}: its rows have no weights")


def _tiles_below(tiles: Sequence[Tile], levels: int) -> npt.NDArray[np.uint32]:
    """Columns and rows, shape (2, tiles), of the squares that hold the bins of some tiles, levels above."""
    if not tiles:
        return np.zeros((2, 0), np.uint32)
    places = np.concatenate([[tile.subtile_x, tile.subtile_y] for tile in tiles], axis=1) >> levels
    return cast("npt.NDArray[np.uint32]", np.unique(places, axis=1))


def _empty(zoom: int, x: int, y: int) -> Tile:
    none = np.zeros(0)
    return Tile(zoom, x, y, np.zeros(0, np.uint32), none, none, none)


def _table(tiles: Sequence[Tile], bounds: Bounds | None) -> pa.Table:
    return bin_table(
        np.concatenate([tile.subtile_x for tile in tiles]),
        np.concatenate([tile.subtile_y for tile in tiles]),
        tiles[0].precision,
        np.concatenate([tile.s_count for tile in tiles]),
        np.concatenate([tile.s_sum_t_sum for tile in tiles]),
        np.concatenate([tile.s_sum_t_mean for tile in tiles]),
        bounds,
    )
