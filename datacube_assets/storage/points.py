"""From the raw parts in the lake to shards of clean points.

Rows stream through in batches, so that memory does not grow with their number. What happens to a row
is in `datacube/normalize.py`, which shard it goes to in `datacube/shards.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.datacube import keys
from datacube_assets.datacube.errors import InputError
from datacube_assets.datacube.normalize import (
    Plan,
    Report,
    check_values,
    merge_profiles,
    normalize,
    plan,
    profile,
)
from datacube_assets.datacube.parts import BATCH_ROWS, Part
from datacube_assets.datacube.qualifiers import feature_regions, merge_values, qualifier_values
from datacube_assets.datacube.schema import Layout
from datacube_assets.datacube.shards import shard_numbers
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.storage.lake import PARQUET, Lake, LakeTable, TableFile, scratch_folder
from datacube_assets.storage.run_info import RunInfo, options

POINTS = "points-"
"""How the names of shards begin, among the files of `normalized_points`."""
REGIONS = "feature_regions"
QUALIFIER_VALUES = "qualifier_values"


@dataclass(frozen=True)
class RawParts:
    """The fetched parts of a run, opened for reading."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, lake: Lake, raw: LakeTable) -> RawParts:
        """Raises InputError, naming the address, for a part that is no Parquet or lacks a column."""
        addresses = [part["address"] for part in raw.info["parts"]]
        opened = zip(raw.names(), addresses, strict=True)
        return cls(tuple(Part(lake.open_file(raw, name), address) for name, address in opened))

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def batches(self) -> Iterable[tuple[str, pa.Table]]:
        """Address of the part and a batch of its rows, in order; may be asked for more than once."""
        return self._small if self.rows <= BATCH_ROWS else self._read()

    @cached_property
    def _small(self) -> list[tuple[str, pa.Table]]:
        # What fits a batch is read once.
        return list(self._read())

    def _read(self) -> Iterator[tuple[str, pa.Table]]:
        for part in self.parts:
            for batch in part.batches():
                yield part.name, batch

    def plan(self, request: DatacubeRequest) -> Plan:
        """What the columns of all parts together become. Raises InputError."""
        profiles = []
        for name, batch in self.batches():
            with naming_file(name):
                profiles.append(profile(batch))
        return plan(merge_profiles(profiles), options(request))


@contextmanager
def naming_file(address: str) -> Iterator[None]:
    """Add the file to input errors, and turn those of the Parquet library into such."""
    try:
        yield
    except InputError as error:
        error.file = error.file or address
        raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"its rows cannot be read: {str(error).splitlines()[0]}",
            file=address,
            remedy="Check that text is UTF-8 and that every column has one plain type",
        ) from error


def normalize_parts(lake: Lake, run: ModelRun, raw: LakeTable, shard_rows: int) -> LakeTable:
    """Write the shards, regions and qualifier values of a run. Raises InputError."""
    request = DatacubeRequest.model_validate(raw.info["request"])
    parts = RawParts.of(lake, raw)
    if parts.rows == 0:
        raise InputError("its parts have no rows", remedy="Check that the run wrote any output")
    what = parts.plan(request)
    folder = lake.table_folder(run, "normalized_points", raw.version)
    shards = -(-parts.rows // shard_rows)
    with Shards.open(lake, folder, shards, what.layout) as writer:
        report = Report()
        for name, batch in parts.batches():
            with naming_file(name):
                points, part_report = normalize(batch, what)
            report += part_report
            writer.add(points)
        check_values(report, what.options)
        if not report.points:
            raise InputError(
                "none of its rows can be used",
                remedy="Look at the features, values and timestamps of the parts",
            )
        features = sorted({feature for feature in report.num_rows_per_feature if feature in writer.features})
        for feature in features:
            keys.check_identity("feature", feature, nested=True)
        files = writer.finish()
    info = RunInfo(request, what, report, tuple(features))
    return LakeTable(folder, raw.version, tuple(files), info.to_json())


class Shards:
    """Writes points into shards as they come, and keeps the inventory of regions and qualifier values."""

    def __init__(self, lake: Lake, folder: str, count: int, layout: Layout, scratch: Path) -> None:
        self._lake = lake
        self._folder = folder
        self._count = count
        self._layout = layout
        self._scratch = scratch
        self._open = ExitStack()
        self._writers: dict[int, pq.ParquetWriter] = {}
        self._rows = [0] * count
        self._regions: list[pa.Table] = []
        self._values: list[pa.Table] = []
        self.features: set[str] = set()

    @classmethod
    @contextmanager
    def open(cls, lake: Lake, folder: str, count: int, layout: Layout) -> Iterator[Shards]:
        with scratch_folder() as scratch:
            shards = cls(lake, folder, count, layout, Path(scratch))
            with shards._open:
                yield shards

    def add(self, points: pa.Table) -> None:
        """Add clean points, in any number."""
        self._values.append(qualifier_values(points, self._layout))
        self._regions.append(feature_regions(points, self._layout))
        self.features |= set(self._regions[-1]["feature"].unique().to_pylist())
        if self._count == 1:
            self._write(0, points)
            return
        numbers = shard_numbers(points, self._layout, self._count)
        order = np.argsort(numbers, kind="stable")
        cuts = np.searchsorted(numbers[order], np.arange(self._count + 1))
        points = points.take(pa.array(order))
        for number in range(self._count):
            start, end = int(cuts[number]), int(cuts[number + 1])
            if end > start:
                self._write(number, points.slice(start, end - start))

    def _write(self, number: int, points: pa.Table) -> None:
        if number not in self._writers:
            path = self._scratch / f"{number}.parquet"
            self._writers[number] = self._open.enter_context(pq.ParquetWriter(path, points.schema, **PARQUET))
        self._writers[number].write_table(points)
        self._rows[number] += points.num_rows

    def finish(self) -> list[TableFile]:
        """Move everything into the lake."""
        self._open.close()
        files = []
        for number in sorted(self._writers):
            path = self._scratch / f"{number}.parquet"
            name, size = f"{POINTS}{number:05}", path.stat().st_size
            self._lake.store.put_file(f"{self._folder}/{name}.parquet", path)
            files.append(TableFile(name, self._rows[number], size))
        files.append(self._lake.write_file(self._folder, REGIONS, merge_values(self._regions)))
        files.append(self._lake.write_file(self._folder, QUALIFIER_VALUES, merge_values(self._values)))
        return files
