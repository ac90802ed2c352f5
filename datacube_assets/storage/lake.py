"""The lake: every partition's tables and documents (docs/lake.md).

A table is a set of Parquet files in a folder named after its version, and a descriptor that is written
last: readers only ever see a table that is whole. Which earlier versions stay is decided in `history.py`.
What the tables hold is defined in `kernels/schema.py`; objects for CauseMos go through `publishing.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun, encode_name
from datacube_assets.kernels.key_safety import check_keys
from datacube_assets.kernels.schema import Period
from datacube_assets.storage.stores import FULL, MissingObjectError, Store, StoreError, StoreUnavailable
from datacube_assets.storage.written import WRITTEN

T = TypeVar("T")

TABLES = frozenset(
    (
        "raw_dojo_output",
        "normalized_points",
        "temporal_cells",
        "global_aggregates",
        "regional_aggregates",
        "grid_cells",
    )
)
"""The assets that keep a table in the lake."""
DESCRIPTOR = "table.json"
"""Name of the document that makes a table of files."""
_NO_FOLDER = re.compile(r".*No usable temporary directory")
"""What Python says where no folder for temporary files can be written."""
_LONGEST_NAME = 150
"""Characters of a name that file systems take, with room for what is put around it."""


@dataclass(frozen=True)
class TableFile:
    """One Parquet file of a table."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class LakeTable:
    """A table of one partition, as its descriptor tells it; the data stays in the lake."""

    folder: str
    version: str
    """What the table was made from; tables of equal version belong together."""
    files: tuple[TableFile, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    """What readers of the table need to know beside its rows (JSON)."""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def keys(self) -> list[str]:
        """Keys of the files, in order."""
        return [f"{self.folder}/{file.name}.parquet" for file in self.files]

    def descriptor(self) -> dict[str, Any]:
        """The document that makes a table of the files."""
        return {
            "version": self.version,
            "folder": self.folder.rpartition("/")[2],
            "files": [asdict(file) for file in self.files],
            "info": self.info,
        }

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files that start so, in order."""
        return [file.name for file in self.files if file.name.startswith(prefix)]


def described_table(run: ModelRun, name: str, document: Mapping[str, Any]) -> LakeTable:
    """The table of a descriptor. Raises DamagedError.

    Earlier versions kept all files in a folder named after the version.
    """
    try:
        version = document["version"]
        files = tuple(TableFile(**file) for file in document["files"])
        folder = f"{run.folder}/{name}/{document.get('folder', version)}"
        check_keys([f"{folder}/{file.name}" for file in files] or [folder])
        return LakeTable(folder, version, files, dict(document["info"]))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(
            f"the descriptor of the table {run.folder}/{name} is damaged: {type(error).__name__}, {error}. "
            f"{_REMEDY}"
        ) from error


@dataclass(frozen=True)
class Lake:
    """The tables and documents of all partitions. Can be sent to workers."""

    store: Store
    remembers: bool = False
    """Whether tables are taken from memory where this process has just written them (`written.py`)."""
    passing: bool = False
    """Whether it is for the time being: tables are held in memory as far as there is room, and not stored."""

    def as_stored(self) -> Lake:
        """The same, of which everything is read as it is stored; of what passes, as it is."""
        return self if self.passing else replace(self, remembers=False)

    def as_made(self) -> Lake:
        """The same, of which tables are taken from memory where they were just made here."""
        return replace(self, remembers=True)

    def table_folder(self, run: ModelRun, name: str, version: str) -> str:
        """Where the files of a table's version lie."""
        return f"{run.folder}/{name}/{version}"

    def write_file(self, folder: str, name: str, table: pa.Table) -> TableFile:
        """Write one Parquet file of a table in the making."""
        key = f"{folder}/{name}.parquet"
        if self.passing and WRITTEN.has_room(table):
            # An empty file stands for it.
            self.store.put(key, b"")
            if WRITTEN.hold(self.store.local_path(key), table):
                return TableFile(name, table.num_rows, 0)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **PARQUET)
        body = sink.getvalue()
        self.store.put(key, memoryview(body))
        self.keep(key, table)
        return TableFile(name, table.num_rows, body.size)

    def keep(self, key: str, table: pa.Table) -> None:
        """Remember a table that has just been written."""
        if self.remembers:
            WRITTEN.keep(self.store.local_path(key), table)

    def write_slices(self, folder: str, name: str, slices: Sequence[pa.Table]) -> TableFile:
        """Write one file whose row groups are the slices, for `read_slice`; none may be empty."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, slices[0].schema, **PARQUET) as writer:
            for part in slices:
                writer.write_table(part, row_group_size=part.num_rows)
        body = sink.getvalue()
        self.store.put(f"{folder}/{name}.parquet", memoryview(body))
        return TableFile(name, sum(part.num_rows for part in slices), body.size)

    def open_file(self, table: LakeTable, name: str) -> str | BinaryIO:
        """A file of a table for a Parquet reader, which reads no more of it than it needs."""
        return self.store.open(f"{table.folder}/{name}.parquet")

    def schema(self, table: LakeTable, name: str) -> pa.Schema:
        """The columns of a file of a table. Raises MissingTableError."""
        if (known := self._known(table, name)) is not None:
            return known.schema
        with self._naming_file(table, name):
            # A footer is all that is needed of a file that may be large and far away.
            tail = self.store.tail(f"{table.folder}/{name}.parquet", _FOOTER_BYTES)
            if int.from_bytes(tail[-8:-4], "little") + 8 > len(tail):
                return pq.read_schema(self.open_file(table, name))
            return pq.read_schema(pa.BufferReader(tail))

    def read(self, table: LakeTable, name: str, columns: list[str] | None = None) -> pa.Table:
        """One file of a table. Raises MissingTableError."""
        if (known := self._known(table, name)) is not None:
            return known if columns is None else known.select(columns)
        # Opening a file as a data set takes twice as long as reading most of them.
        with self._parquet(table, name) as file:
            # The reader takes names with a dot for parts of others, and keeps the order of the file.
            return file.read() if columns is None else file.read(columns).select(columns)

    def _known(self, table: LakeTable, name: str) -> pa.Table | None:
        """A file of a table, if this process has just written it."""
        if not self.remembers:
            return None
        return WRITTEN.table(self.store.local_path(f"{table.folder}/{name}.parquet"))

    def read_all(self, table: LakeTable, prefix: str, columns: list[str] | None = None) -> pa.Table:
        """The files of a table whose names start so, one after the other. Raises MissingTableError."""
        tables = [self.read(table, name, columns) for name in table.names(prefix)]
        if not tables:
            raise MissingTableError(f"the table {table.folder} has no file {prefix}*")
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries()

    def batches(self, table: LakeTable, prefix: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of files whose names start so, `ROWS_AT_ONCE` at most where there are more than that.

        Raises MissingTableError.
        """
        files = [file for file in table.files if file.name.startswith(prefix)]
        if sum(file.rows for file in files) <= ROWS_AT_ONCE:
            yield self.read_all(table, prefix, columns)
            return
        waiting: list[pa.Table] = []
        for file in files:
            for group in self.row_groups(table, file.name, columns):
                if waiting and sum(part.num_rows for part in waiting) + group.num_rows > ROWS_AT_ONCE:
                    yield pa.concat_tables(waiting).unify_dictionaries()
                    waiting = []
                waiting.append(group)
        yield pa.concat_tables(waiting).unify_dictionaries()

    def row_groups(self, table: LakeTable, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a file, so many at once as it was written. Raises MissingTableError."""
        with self._parquet(table, name) as file:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number, columns)
                yield group if columns is None else group.select(columns)

    def read_slice(self, table: LakeTable, name: str, number: int) -> pa.Table:
        """One slice of a file that `write_slices` wrote. Raises MissingTableError."""
        with self._parquet(table, name) as file:
            return file.read_row_group(number)

    @contextmanager
    def _parquet(self, table: LakeTable, name: str) -> Iterator[pq.ParquetFile]:
        with (
            self._naming_file(table, name),
            pq.ParquetFile(self.open_file(table, name), memory_map=True) as file,
        ):
            yield file

    @contextmanager
    def _naming_file(self, table: LakeTable, name: str) -> Iterator[None]:
        try:
            yield
        except pa.ArrowInvalid as error:
            raise DamagedError(
                f"the file {table.folder}/{name}.parquet of the lake is damaged: "
                f"{str(error).splitlines()[0]}. {_REMEDY}"
            ) from None
        except (FileNotFoundError, MissingObjectError):
            raise MissingTableError(
                f"the file {table.folder}/{name}.parquet of the lake is gone; materialize its asset again"
            ) from None

    def commit(
        self, run: ModelRun, name: str, table: LakeTable, kept: Callable[[], Collection[str]] = tuple
    ) -> None:
        """Make a table the current one of its asset, then drop the files of earlier versions.

        `kept` tells the files of earlier versions that stay; it is asked where there are any.
        """
        descriptor = f"{run.folder}/{name}/{DESCRIPTOR}"
        self.write_document(descriptor, table.descriptor())
        known = {*table.keys(), descriptor}
        stale = {key for key, _ in self.store.list(f"{run.folder}/{name}/") if key not in known}
        if stale:
            self.store.delete_many(sorted(stale.difference(kept())))

    def table(self, run: ModelRun, name: str) -> LakeTable:
        """The current table of an asset. Raises MissingTableError when there is none."""
        document = self.read_document(f"{run.folder}/{name}/{DESCRIPTOR}")
        if document is None:
            raise MissingTableError(f"{run} has no table {name} yet; materialize the asset {name} first")
        return described_table(run, name, document)

    def is_whole(self, table: LakeTable, sizes: Mapping[str, int] | None = None) -> bool:
        """Whether all files of a table are there with their sizes; `sizes` are those in its folder."""
        if sizes is None:
            sizes = dict(self.store.list(f"{table.folder}/"))
        return all(sizes.get(f"{table.folder}/{file.name}.parquet") == file.bytes for file in table.files)

    def read_document(self, key: str) -> dict[str, Any] | None:
        """A JSON document, None when there is none."""
        try:
            document = self.parsed(key, _object_of)
        except MissingObjectError:
            return None
        return document

    def parsed(self, key: str, parse: Callable[[bytes], T]) -> T:
        """What an object says. Raises MissingObjectError, DamagedError."""
        for _ in range(_READS):
            try:
                return parse(self.store.get(key))
            except ValueError as error:
                # The answer of a server may have been cut short without its telling.
                problem = str(error).splitlines()[0]
        raise DamagedError(f"{key} of the lake is damaged: {problem}. {_REMEDY}")

    def write_document(self, key: str, document: Mapping[str, Any], *, durably: bool = False) -> None:
        """Write a JSON document, whole or not at all; written durably, it outlives a power cut."""
        self.store.put(key, json.dumps(document, indent=1, sort_keys=True).encode(), durably=durably)


ROWS_AT_ONCE = 2_000_000
"""Rows that `batches` holds. A shard of points has fewer, unless one place has more."""
PARQUET: dict[str, Any] = {"compression": "lz4", "write_statistics": False}
"""How lake tables are written: nearly as small as with zstd, and read three times as fast."""


_FOOTER_BYTES = 64_000
"""More than most footers have."""


class MissingTableError(LookupError):
    """A table that has to be materialized first."""


class MixedVersionsError(RuntimeError):
    """Tables of one partition that were made from different inputs."""


def aggregate_folder(period: Period, *parts: str, qualifier: str | None = None) -> str:
    """Where an aggregate table keeps the chunks of a part: `month/admin1/default/` for instance."""
    last = "default" if qualifier is None else f"qualifiers/{file_name(qualifier)}"
    return "/".join((period, *parts, last, ""))


def _object_of(body: bytes) -> dict[str, Any]:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"it is no JSON object but a {type(document).__name__}")
    return document


class DamagedError(StoreError):
    """Something in the lake that cannot be what was written there."""


_READS = 3
_REMEDY = "Restore or delete it, and materialize the partition again with the tag datacube/from_scratch"


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A local folder for files in the making. Raises StoreUnavailable while there is no room for them."""
    with scratch_room(), tempfile.TemporaryDirectory(prefix="datacube-", ignore_cleanup_errors=True) as made:
        yield made


@contextmanager
def scratch_room() -> Iterator[None]:
    """Tell a disk that is full from other faults of local files: there may be room later."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not _NO_FOLDER.match(str(error)):
            raise
        raise StoreUnavailable(
            f"the folder for files in the making has no room: {error.strerror or error}. Make room in "
            f"{_scratch()}, or name another folder in TMPDIR"
        ) from None


def _scratch() -> str:
    with suppress(OSError):
        return tempfile.gettempdir()
    return "/tmp"


def file_name(name: str) -> str:
    """Name of a file for a name that may hold anything and be of any length."""
    encoded = encode_name(name) or "%empty"
    if len(encoded) <= _LONGEST_NAME:
        return encoded
    return f"{encoded[:_LONGEST_NAME]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
