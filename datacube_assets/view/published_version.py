"""The published version of a datacube, answered for by its objects.

Every answer comes from single objects read by key, as CauseMos' reader reads them: what the page shows is
what CauseMos shows. What is asked is in `answers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.read import LakeDatacube, NoDataError, PublishedDatacube
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.published import Published
from datacube_assets.storage.stores import MissingObjectError
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
from datacube_assets.view.places import rows_published
from datacube_assets.view.query import FIGURES, Query, zoom_for


class PublishedVersion(Answers):
    """What is published, whichever version that is."""

    def __init__(self, lake: Lake, published: Published) -> None:
        self.published = published
        self.objects = PublishedDatacube(published)
        super().__init__(lake, published.run, self.objects)

    def standing(self) -> str:
        try:
            return self.published.version()
        except MissingObjectError:
            raise NotThisVersionError(self.asked, "absent") from None

    def still_stands(self, version: str) -> None:
        if self.standing() != version:
            raise NotThisVersionError(self.asked, "changed")

    def timeseries(self, query: Query) -> Answer:
        region = query.text("region", "")
        qualifier, value = query.breakdown
        try:
            if region:
                table = self.published.regional_timeseries(
                    query.resolution, query.level, query.feature, region, qualifier, value
                )
            elif qualifier is not None:
                table = self._line_of_value(query, qualifier, value)
            else:
                table = self.published.global_timeseries(query.resolution, query.feature)
        except MissingObjectError:
            # The reader answers an empty list where a region has no line.
            if not region and qualifier is None:
                raise
            return dict(NO_LINE)
        return line_of(table)

    def _line_of_value(self, query: Query, qualifier: str, value: str | None) -> pa.Table:
        """The line of one value of a qualifier over all places."""
        try:
            return self.cube.timeseries(
                query.feature, qualifier=qualifier, value=value, resolution=query.resolution
            )
        except NoDataError as error:
            raise MissingObjectError(str(error)) from None

    def qualifiers(self, query: Query) -> Answer:
        found = {}
        for qualifier in sorted(self.cube.qualifiers(query.feature)):
            if self._is_broken_down(query, qualifier):
                found[qualifier] = self.cube.qualifier_values(query.feature, qualifier)
        return {"qualifiers": found}

    def _is_broken_down(self, query: Query, qualifier: str) -> bool:
        try:
            self.published.qualifier_timeseries("month", query.feature, qualifier, "s_count")
        except MissingObjectError:
            return False
        return bool(self.cube.levels)

    def regions(self, query: Query) -> Answer:
        try:
            lists = self.published.region_lists(query.feature)
        except MissingObjectError:
            return {"lists": {}}
        return {"lists": {str(level): ids for level, ids in lists.items()}}

    def regional(self, query: Query) -> Answer:
        qualifier, value = query.breakdown
        try:
            table = self.published.regional_map(
                query.resolution, query.level, query.feature, query.timestamp, qualifier
            )
        except MissingObjectError:
            return {"ids": [], "columns": {}}
        if qualifier is not None:
            table = table.filter(pc.equal(table["value"], value))
        columns = columns_of(table, without=("region_id", "value"))
        return {"ids": table["region_id"].to_pylist(), "columns": columns}

    def ranges(self, query: Query) -> Answer:
        def stats(timestamp: int) -> pa.Table | None:
            try:
                return self.published.grid_stats(query.resolution, query.feature, timestamp)
            except MissingObjectError:
                return None

        if query.has("timestamp"):
            tables = [stats(query.timestamp)]
        else:
            series = self.published.global_timeseries(query.resolution, query.feature)
            times = series["timestamp"].cast(pa.int64()).to_pylist()
            tables = list(self.published.each(stats, times))
        return ranges_of([table for table in tables if table is not None])

    def tile(self, query: Query) -> Answer:
        zoom, x, y = query.tile
        try:
            tile = self.published.tile(query.resolution, query.feature, query.timestamp, zoom, x, y)
        except MissingObjectError:
            return {"bin": [], "s_sum_t_sum": [], "s_sum_t_mean": [], "weight": []}
        return {
            "bin": tile.bin.tolist(),
            "s_sum_t_sum": finite(tile.s_sum_t_sum.tolist()),
            "s_sum_t_mean": finite(tile.s_sum_t_mean.tolist()),
            "weight": finite(tile.s_count.tolist()),
        }

    def area(self, query: Query) -> Answer:
        bounds, resolution = query.bounds, query.resolution
        zoom = zoom_for(bounds)
        times = self.cube.timestamps(query.feature, resolution).astype("int64").tolist()
        columns: dict[str, list[float | None]] = {name: [] for name in (*FIGURES, "s_count")}
        for time in times:
            try:
                bins = self.cube.bins(query.feature, time, zoom=zoom, bounds=bounds, resolution=resolution)
            except NoDataError:
                bins = pa.table({name: pa.array([], pa.float64()) for name in columns})
            count = pc.sum(bins["s_count"]).as_py() or 0
            columns["s_count"].append(count)
            for measure in ("t_sum", "t_mean"):
                total = float(pc.sum(bins[f"s_sum_{measure}"]).as_py() or 0.0)
                columns[f"s_sum_{measure}"].append(total if count else None)
                columns[f"s_mean_{measure}"].append(total / count if count else None)
        return {
            "timestamps": times,
            "columns": {name: finite(values) for name, values in columns.items()},
            "zoom": zoom,
        }

    def places_of(self, feature: str) -> Iterator[pa.Table]:
        return rows_published(self.lake, self.published, feature)

    def tables(self) -> LakeDatacube:
        return LakeDatacube(self.lake, self.asked)
