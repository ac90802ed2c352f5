"""From the raw parts in the lake to shards of clean points.

The parts are cut into pieces of whole row groups, which are worked on side by side; the rows of a piece
stream through in batches. So memory grows neither with the rows of a run nor with those of a file. What
happens to a row is in `kernels/normalize.py`, which shard it goes to in `kernels/shards.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels import keys
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.normalize import normalize
from datacube_assets.kernels.parts import BATCH_CELLS, BATCH_ROWS, Part
from datacube_assets.kernels.plan import Plan, plan
from datacube_assets.kernels.profile import Profile, merge_profiles, profile
from datacube_assets.kernels.qualifiers import feature_regions, merge_values, qualifier_values
from datacube_assets.kernels.report import Report, check_values
from datacube_assets.kernels.schema import Layout
from datacube_assets.kernels.shards import shard_numbers
from datacube_assets.kernels.times import LOOKS, advice, other_look
from datacube_assets.storage.lake import PARQUET, Lake, LakeTable, TableFile, scratch_folder
from datacube_assets.storage.run_info import RunInfo, options
from datacube_assets.storage.written import MOST_BYTES, WRITTEN

POINTS = "points-"
"""How the names of shards begin, among the files of `normalized_points`: `points-SHARD-PIECE`."""
REGIONS = "feature_regions"
QUALIFIER_VALUES = "qualifier_values"
PIECE_ROWS = 2 * BATCH_ROWS
PIECE_TEXT_BYTES = 1 << 30
"""Bytes of text that the batches of a piece may bring: later steps hold them, Arrow twice as many at most."""
MAX_PIECES = 64
"""Every piece writes a file into every shard, so there must not be too many."""


def shards_of(points: LakeTable) -> list[str]:
    """What the names of the files of each shard begin with, in order."""
    return list(dict.fromkeys(name[: name.rindex("-") + 1] for name in points.names(POINTS)))


Batch = tuple[str, pa.Table]
"""Address of a part and some of its rows."""


@dataclass(frozen=True)
class Piece:
    """Row groups of one part or of several, next to each other."""

    number: int
    spans: tuple[tuple[int, int, int], ...]
    """Number of a part, first row group and the one after the last."""


@dataclass(frozen=True)
class RawParts:
    """The fetched parts of a run. Can be sent to workers."""

    lake: Lake
    raw: LakeTable

    def parts(self) -> list[Part]:
        """The parts, opened. Raises InputError, naming the address, for one that Dojo did not write so."""
        return [self.part(number) for number in range(len(self.raw.files))]

    def part(self, number: int) -> Part:
        address = self.raw.info["parts"][number]["address"]
        return Part(self.lake.open_file(self.raw, self.raw.files[number].name), address)

    def batches(self, piece: Piece | None = None) -> Iterator[Batch]:
        """Rows of a piece, or all, in order."""
        if piece is None:
            for part in self.parts():
                yield from ((part.name, batch) for batch in part.batches())
        else:
            for number, first, last in piece.spans:
                part = self.part(number)
                yield from ((part.name, batch) for batch in part.batches(range(first, last)))


def pieces_of(row_groups: Sequence[Sequence[int]]) -> list[Piece]:
    """Cut parts, of which the rows of each row group are given, into pieces of about the same size."""
    total = sum(map(sum, row_groups))
    target = max(PIECE_ROWS, -(-total // MAX_PIECES))
    pieces: list[Piece] = []
    spans: list[tuple[int, int, int]] = []
    filled = 0
    for part, groups in enumerate(row_groups):
        first = 0
        for group, rows in enumerate(groups):
            filled += rows
            if filled >= target:
                pieces.append(Piece(len(pieces), (*spans, (part, first, group + 1))))
                spans, filled, first = [], 0, group + 1
        if first < len(groups):
            spans.append((part, first, len(groups)))
    if spans:
        pieces.append(Piece(len(pieces), tuple(spans)))
    return pieces


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


# --- normalizing -----------------------------------------------------------------------------------

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Applies a function to pieces of work side by side; results in order."""

    def __call__(self, function: Callable[[T], R], pieces: Sequence[T], *, name: str) -> list[R]: ...


def normalize_parts(lake: Lake, run: ModelRun, raw: LakeTable, shard_rows: int, mapped: Map) -> LakeTable:
    """Write the shards, regions and qualifier values of a run. Raises InputError."""
    request = DatacubeRequest.model_validate(raw.info["request"])
    source = RawParts(lake, raw)
    parts = source.parts()
    row_groups = [part.row_groups for part in parts]
    rows = sum(map(sum, row_groups))
    if rows == 0:
        raise InputError("its parts have no rows", remedy="Check that the run wrote any output")
    pieces = pieces_of(row_groups)
    folder = lake.table_folder(run, "normalized_points", raw.version)
    # A shard is held whole, and no wider ones than batches may be.
    width = max(len(part.columns) for part in parts)
    shards = -(-rows // min(shard_rows, max(BATCH_CELLS // width, 1)))
    if sum(part.rows / part.batch_rows for part in parts) <= 1:
        # What fits a batch is read once.
        batches = list(source.batches())
        what = plan(_profile(batches), options(request))
        done = [_normalize(batches, what, lake, folder, shards, 0)]
    else:
        profiles = mapped(partial(_profile_piece, source), pieces, name="profile-parts")
        what = plan(merge_profiles(profiles), options(request))
        work = _NormalizePiece(source, what, folder, shards)
        done = mapped(work, pieces, name="normalize-parts")
    report = sum((one.report for one in done), Report())
    with naming_file(next((one.unreadable_in for one in done if one.unreadable_in), "")):
        check_values(report, what.options)
    if not report.points:
        raise InputError(
            f"none of its {report.num_rows:,} rows can be used: {report.missing_features:,} name no feature, "
            f"{report.num_invalid_ts:,} have a timestamp out of range, {report.unreadable_values:,} a value "
            "that is no number",
            remedy=_remedy(report, request),
        )
    files = sorted((file for one in done for file in one.files), key=lambda file: file.name)
    regions = merge_values([one.regions for one in done])
    features = tuple(regions["feature"].cast(pa.string()).unique().to_pylist())
    files.append(lake.write_file(folder, REGIONS, regions))
    values = merge_values([one.values for one in done])
    files.append(lake.write_file(folder, QUALIFIER_VALUES, values))
    names = [*regions.columns, *values.select(["qualifier", "value"]).columns]
    may_share = any(keys.may_share(column.unique().cast(pa.string())) for column in names)
    info = RunInfo(request, what, report, features, may_share)
    return LakeTable(folder, raw.version, tuple(files), info.to_json())


def _remedy(report: Report, request: DatacubeRequest) -> str:
    """What to do when no row can be used."""
    look = other_look(report.timestamps_look_like, request.timestamp_unit)
    if look and report.num_invalid_ts == report.num_rows:
        return f"The timestamps look like {LOOKS[look]}: {advice(look)}"
    return "Look at the features, values and timestamps of the parts"


def _profile(batches: Iterable[Batch]) -> Profile:
    profiles = []
    for name, batch in batches:
        with naming_file(name):
            profiles.append(profile(batch))
    return merge_profiles(profiles)


def _profile_piece(source: RawParts, piece: Piece) -> Profile:
    return _profile(source.batches(piece))


@dataclass(frozen=True)
class _Normalized:
    """What a piece became."""

    files: list[TableFile]
    report: Report
    unreadable_in: str
    """Address of the first part that has values which are no numbers; empty when there is none."""
    regions: pa.Table
    values: pa.Table


@dataclass(frozen=True)
class _NormalizePiece:
    """Writes the rows of a piece into the shards; runs on a worker."""

    source: RawParts
    what: Plan
    folder: str
    shards: int

    def __call__(self, piece: Piece) -> _Normalized:
        batches = self.source.batches(piece)
        return _normalize(batches, self.what, self.source.lake, self.folder, self.shards, piece.number)


def _normalize(
    batches: Iterable[Batch], what: Plan, lake: Lake, folder: str, shards: int, piece: int
) -> _Normalized:
    report, unreadable_in = Report(), ""
    with Shards.open(lake, folder, shards, piece, what.layout) as writer:
        for name, batch in batches:
            with naming_file(name):
                points, part_report = normalize(batch, what)
                for feature in points["feature"].unique().to_pylist():
                    keys.check_feature(feature)
                writer.add(points)
            report += part_report
            if part_report.unreadable_values:
                unreadable_in = unreadable_in or name
        return _Normalized(writer.finish(), report, unreadable_in, *writer.inventory())


def text_bytes(points: pa.Table) -> dict[str, int]:
    """Bytes of the distinct texts of each text column."""
    return {
        field.name: sum(chunk.dictionary.nbytes for chunk in points.column(number).chunks)
        for number, field in enumerate(points.schema)
        if pa.types.is_dictionary(field.type)
    }


class Shards:
    """Writes points into shards as they come, and keeps the inventory of regions and qualifier values."""

    def __init__(
        self, lake: Lake, folder: str, count: int, piece: int, layout: Layout, scratch: Path
    ) -> None:
        self._lake = lake
        self._folder = folder
        self._count = count
        self._piece = piece
        self._layout = layout
        self._scratch = scratch
        self._open = ExitStack()
        self._writers: dict[int, pq.ParquetWriter] = {}
        self._rows = [0] * count
        self._held: list[pa.Table] = []
        """Of a single shard, what was written, as long as it is little enough to be kept."""
        self._texts: Counter[str] = Counter()
        self._regions: list[pa.Table] = []
        self._values: list[pa.Table] = []

    @classmethod
    @contextmanager
    def open(cls, lake: Lake, folder: str, count: int, piece: int, layout: Layout) -> Iterator[Shards]:
        with scratch_folder() as scratch:
            shards = cls(lake, folder, count, piece, layout, Path(scratch))
            with shards._open:
                yield shards

    def add(self, points: pa.Table) -> None:
        """Add clean points, in any number. Raises InputError when their texts are too many to be held."""
        self._texts.update(text_bytes(points))
        if self._texts.total() > PIECE_TEXT_BYTES:
            raise InputError(
                f"its texts take more than {PIECE_TEXT_BYTES >> 20:,} MiB",
                column=self._texts.most_common(1)[0][0],
                remedy="Shorten the texts of this column, or leave it out",
            )
        # Compressing takes as long as the inventory, and another core.
        with ThreadPoolExecutor(1, "writer") as writer:
            written = writer.submit(self._spread, points)
            self._values.append(qualifier_values(points, self._layout))
            self._regions.append(feature_regions(points, self._layout))
            if len(self._regions) == _INVENTORIES:
                regions, values = self.inventory()
                self._regions, self._values = [regions], [values]
            written.result()

    def _spread(self, points: pa.Table) -> None:
        """Write points into their shards."""
        if self._count == 1:
            self._write(0, points)
            self._hold(points)
            return
        numbers = shard_numbers(points, self._layout, self._count)
        order = np.argsort(numbers, kind="stable")
        cuts = np.searchsorted(numbers[order], np.arange(self._count + 1))
        points = points.take(pa.array(order))
        for number in range(self._count):
            start, end = int(cuts[number]), int(cuts[number + 1])
            if end > start:
                self._write(number, points.slice(start, end - start))

    def _hold(self, points: pa.Table) -> None:
        if self._lake.remembers and WRITTEN.keeps:
            self._held.append(points)
            if sum(held.nbytes for held in self._held) > MOST_BYTES:
                self._held = []

    def inventory(self) -> tuple[pa.Table, pa.Table]:
        """Distinct regions and qualifier values of what was added."""
        return merge_values(self._regions), merge_values(self._values)

    def _write(self, number: int, points: pa.Table) -> None:
        if number not in self._writers:
            path = self._scratch / f"{number}.parquet"
            self._writers[number] = self._open.enter_context(pq.ParquetWriter(path, points.schema, **PARQUET))
        self._writers[number].write_table(points)
        self._rows[number] += points.num_rows

    def finish(self) -> list[TableFile]:
        """Move the shards into the lake."""
        self._open.close()
        files = []
        for number in sorted(self._writers):
            path = self._scratch / f"{number}.parquet"
            name, size = f"{POINTS}{number:05}-{self._piece:05}", path.stat().st_size
            key = f"{self._folder}/{name}.parquet"
            self._lake.store.put_file(key, path)
            if self._held and sum(held.num_rows for held in self._held) == self._rows[number]:
                self._lake.keep(key, pa.concat_tables(self._held).unify_dictionaries())
            files.append(TableFile(name, self._rows[number], size))
        return files


_INVENTORIES = 16
"""Inventories of batches that are kept before they are merged."""
