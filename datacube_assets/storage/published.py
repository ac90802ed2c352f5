"""The published objects of one datacube: from keys to bytes to Arrow.

Here belongs which object holds what, read exactly by the keys that CauseMos' reader asks for
(docs/specification/reader.md#how-it-reads): one object per call, nothing is listed,
nothing is kept. What people see of it is in `read/`; bytes are read in `kernels/decode.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.decode import (
    TIME,
    CellType,
    Tile,
    UnreadableObjectError,
    csv_names,
    csv_table,
    read_tile,
)
from datacube_assets.kernels.morton import BIN_BITS
from datacube_assets.kernels.schema import RegionLevel, Resolution
from datacube_assets.storage.stores import Store

T = TypeVar("T")
U = TypeVar("U")

READERS = 32
"""Objects read at the same time."""
_NUMBERS = ("lat", "lng", "value")
"""Columns of raw.csv that hold numbers; the others hold texts."""


@dataclass(frozen=True)
class Published:
    """The objects of one model run or dataset in its bucket.

    Times are milliseconds UTC in arguments and `timestamp[ms, UTC]` in tables. A column of figures is
    `double`, `s_count` is `int64`; a missing figure is null. Every method raises MissingObjectError when
    there is no such object, and UnreadableObjectError, with the key, when it is not what it should be.
    """

    store: Store
    run: ModelRun

    def get(self, key: str) -> bytes:
        """An object, by its key after the prefix of the run. Raises MissingObjectError."""
        return self.store.get(f"{self.run.prefix}{key}")

    def each(self, read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """What `read` makes of each item, in order; many are read at a time."""
        with ThreadPoolExecutor(READERS, "read") as readers:
            yield from readers.map(read, items)

    def version(self) -> str:
        """What tells this state of the datacube from every other: a digest of results.json and of when it was
        written. Raises MissingObjectError while the datacube is not complete.

        results.json goes before any object of another version comes. So whatever was read before this gives
        the same version as it gave earlier is of that one version.
        """
        written = self.published_at()
        digest = hashlib.blake2b(self.get(keys.RESULTS), digest_size=12)
        digest.update(repr(written).encode())
        return digest.hexdigest()

    def published_at(self) -> float | None:
        """When results.json was written, in seconds UTC; None while the datacube is not complete."""
        key = f"{self.run.prefix}{keys.RESULTS}"
        folder = f"{key.rpartition('/')[0]}/"
        return next((entry.modified for entry in self.store.entries(folder) if entry.key == key), None)

    # --- the summary, rows and lists ---------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """results.json: `data_info` and, for model runs, `output_agg_values`."""
        document: dict[str, Any] = self._json(keys.RESULTS)
        return document

    def raw(self, feature: str) -> pa.Table:
        """The rows of a feature as they were delivered: `timestamp`, `lat`, `lng`, `value`, and texts."""

        def type_of(name: str) -> CellType:
            return "time" if name == "timestamp" else "float" if name in _NUMBERS else "text"

        return self._csv(keys.raw(feature), lambda header: [type_of(name) for name in header])

    def region_lists(self, feature: str) -> dict[RegionLevel, list[str]]:
        """Region ids of a feature by level."""
        lists: dict[RegionLevel, list[str]] = self._json(keys.region_lists(feature))
        return lists

    def qualifier_list(self, feature: str, qualifier: str) -> list[str]:
        """The values that a qualifier has for a feature."""
        values: list[str] = self._json(keys.qualifier_list(feature, qualifier))
        return values

    def qualifier_counts(self, feature: str) -> dict[str, Any]:
        """`counts`: how many values each qualifier has for a feature; `thresholds`: the limits in force."""
        document: dict[str, Any] = self._json(keys.qualifier_counts(feature))
        return document

    # --- timeseries --------------------------------------------------------------------------------

    def global_timeseries(self, resolution: Resolution, feature: str) -> pa.Table:
        """`timestamp` and figures, over all places."""
        return self._figures(keys.global_timeseries(resolution, feature), ["timestamp"])

    def qualifier_timeseries(
        self, resolution: Resolution, feature: str, qualifier: str, figure: str
    ) -> pa.Table:
        """`timestamp`, `value` (of the qualifier) and one figure, a row for every value at every time.

        The figure is null, too, where the value does not occur at the time: then `s_count` is null as well,
        which otherwise it never is.
        """
        key = keys.qualifier_timeseries(resolution, feature, qualifier, figure)
        wide = self._csv(key, lambda header: ["time", *(_figure_type(figure) for _ in header[1:])])
        times, *columns = wide.columns
        names = ["timestamp", "value", figure]
        return pa.concat_tables(
            pa.table([times, pa.repeat(pa.scalar(value), len(times)), column], names)
            for value, column in zip(wide.column_names[1:], columns, strict=True)
        )

    def regional_timeseries(
        self,
        resolution: Resolution,
        level: RegionLevel,
        feature: str,
        region_id: str,
        qualifier: str | None = None,
        value: str | None = None,
    ) -> pa.Table:
        """`timestamp` and figures of one region, or of one value of a qualifier in it."""
        names = keys.segment(feature), keys.segment(region_id)
        if qualifier is None:
            key = keys.regional_timeseries(resolution, level, *names)
        else:
            of_value = keys.segment(value or "")
            key = keys.regional_qualifier_timeseries(
                resolution, level, names[0], qualifier, of_value, names[1]
            )
        return self._figures(key.as_py(), ["timestamp"])

    # --- regional tables ---------------------------------------------------------------------------

    def regional_map(
        self,
        resolution: Resolution,
        level: RegionLevel,
        feature: str,
        timestamp: int,
        qualifier: str | None = None,
    ) -> pa.Table:
        """`region_id`, with a qualifier also `value`, and figures of one month or year."""
        key = keys.regional_map(resolution, level, feature, timestamp, qualifier)
        return self._figures(key, ["region_id"] if qualifier is None else ["region_id", "value"])

    def regional_extrema(self, resolution: Resolution, level: RegionLevel, feature: str) -> pa.Table:
        """`extreme` (`min` or `max`), `figure`, `region_id`, `timestamp` and `value`; newest first."""
        document = self._json(keys.regional_extrema(resolution, level, feature))
        items = [
            {"extreme": extreme, "figure": figure, **item}
            for extreme, figures in document.items()
            for figure, listed in figures.items()
            for item in listed
        ]
        schema = pa.schema(
            {"extreme": pa.string(), "figure": pa.string(), "region_id": pa.string(), "timestamp": TIME}
            | {"value": pa.float64()}
        )
        return pa.Table.from_pylist(items, schema)

    # --- the map -----------------------------------------------------------------------------------

    def grid_stats(self, resolution: Resolution, feature: str, timestamp: int) -> pa.Table:
        """`zoom` of the tiles (0 to 8), and smallest and largest figures over all their bins."""
        table = self._csv(
            keys.grid_stats(resolution, feature, timestamp),
            lambda header: ["whole", *map(_figure_type, header[1:])],
        )
        # The file has precisions of subtiles.
        return table.set_column(0, "zoom", pc.subtract(table["zoom"], BIN_BITS))

    def tile(self, resolution: Resolution, feature: str, timestamp: int, zoom: int, x: int, y: int) -> Tile:
        """One tile; there is none where there is no data."""
        numbers = (str(number) for number in (timestamp, x, y))
        key = keys.tiles(resolution, zoom, keys.segment(feature), *numbers).as_py()
        body = self.get(key)
        with self._naming(key):
            return read_tile(body)

    # --- how objects are read ----------------------------------------------------------------------

    def _figures(self, key: str, names: Sequence[str]) -> pa.Table:
        """A CSV whose first columns have these names and the others are figures."""
        first: list[CellType] = ["time" if name == "timestamp" else "text" for name in names]

        def types(header: list[str]) -> list[CellType]:
            return [*first, *map(_figure_type, header[len(names) :])]

        return self._csv(key, types, names)

    def _csv(
        self, key: str, types: Callable[[list[str]], list[CellType]], names: Sequence[str] = ()
    ) -> pa.Table:
        """A CSV; `types` are made of its header, `names` replace the first of it."""
        body = self.get(key)
        with self._naming(key):
            header = csv_names(body)
            return csv_table(body, types(header), [*names, *header[len(names) :]])

    def _json(self, key: str) -> Any:
        body = self.get(key)
        with self._naming(key):
            try:
                return json.loads(body)
            except ValueError:
                raise UnreadableObjectError("no JSON") from None

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        try:
            yield
        except UnreadableObjectError as error:
            raise UnreadableObjectError(
                f"{self.store.url}/{self.run.prefix}{key}: {error}. The object was changed by somebody or "
                "is of another kind: publish the datacube again, from scratch"
            ) from None


def _figure_type(name: str) -> CellType:
    return "whole" if name == "s_count" else "float"
