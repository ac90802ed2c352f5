"""Reading the Parquet parts of a run: what they promise, checked, and their rows in batches.

Opens what it is given (a path or a file object); where parts come from is the business of `assets/`
and `storage/`. What the columns mean is decided in `plan.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.kernels.columns import kind_of
from datacube_assets.kernels.errors import InputError, listed, shorten, shown
from datacube_assets.kernels.schema import FIXED_COLUMNS, REQUIRED_COLUMNS, is_index_column, is_text

BATCH_ROWS = 1_000_000
"""Rows held at once; larger row groups are cut."""
BATCH_CELLS = 32 * BATCH_ROWS
"""Cells held at once. A column of one value repeated is next to nothing in a file, and full size here."""
BATCH_BYTES = 256 << 20
"""Bytes held at once, as the file states them for its cells before compression."""

Source = str | BinaryIO


class Part:
    """One Parquet file of a run. Raises InputError when it is not what Dojo writes."""

    def __init__(self, source: Source, name: str) -> None:
        self.name = name
        """How messages call the file: the address it came from."""
        try:
            schema = pq.read_schema(source)
            self.columns = _columns(schema, name)
            kept = set(self.columns)
            self._places = [place for place, column in enumerate(schema.names) if column in kept]
            # Arrow takes names for paths, and finds no column whose name is empty.
            odd = any(not column or "." in column for column in self.columns)
            self._wanted = None if odd or len(self.columns) == len(schema.names) else self.columns
            texts = [field.name for field in schema if is_text(field.type)]
            self._file = pq.ParquetFile(source, read_dictionary=texts, pre_buffer=True)
            metadata = self._file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            self.row_groups: list[int] = [group.num_rows for group in groups]
            """Rows of each row group."""
            sizes = [group.total_byte_size for group in groups]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(source, name, error) from error
        self.rows = sum(self.row_groups)
        if min(self.row_groups, default=0) < 0 or self.rows != metadata.num_rows:
            raise _damaged(name, f"its row groups have {self.rows} rows, and the file {metadata.num_rows}")
        self.batch_rows = _batch_rows(self.row_groups, sizes, len(self.columns))
        """Rows of it that may be held at once."""

    def batches(self, row_groups: range | None = None) -> Iterator[pa.Table]:
        """The rows of some or all row groups, in file order; text as dictionaries.

        Tables of at most `batch_rows`.
        """
        groups = range(len(self.row_groups)) if row_groups is None else row_groups
        rows = sum(self.row_groups[group] for group in groups)
        try:
            if rows <= self.batch_rows:
                # One read of everything decodes columns in parallel.
                whole = len(groups) == len(self.row_groups)
                yield self._chosen(
                    self._file.read(columns=self._wanted)
                    if whole
                    else self._file.read_row_groups(list(groups), columns=self._wanted)
                )
                return
            batches = self._file.iter_batches(self.batch_rows, row_groups=list(groups), columns=self._wanted)
            for batch in batches:
                yield self._chosen(pa.Table.from_batches([batch]))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.name, _first_line(error)) from error

    def _chosen(self, table: pa.Table) -> pa.Table:
        return table if table.num_columns == len(self.columns) else table.select(self._places)


def _columns(schema: pa.Schema, file: str) -> list[str]:
    """The columns to read. Raises InputError when they are not those of a part."""
    names: list[str] = schema.names
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(
            f"the column {shorten(twice[0])} is there twice",
            file=file,
            remedy="Give every column a name of its own",
        )
    missing = [column for column in REQUIRED_COLUMNS if column not in names]
    if missing:
        raise InputError(
            f"there is no column {', '.join(missing)}",
            file=file,
            column=missing[0],
            remedy=f"Write the columns {', '.join(REQUIRED_COLUMNS)}; this file has "
            f"{listed(names) or 'none'}",
        )
    index = _index_columns(schema)
    columns = [name for name in names if name not in index]
    try:
        # Before anything is read: a list of a billion items may stand in a single cell.
        for name, type_ in zip(names, schema.types, strict=True):
            kind_of(name, type_)
    except InputError as error:
        error.file = file
        raise
    return columns


def _batch_rows(rows: Sequence[int], sizes: Sequence[int], columns: int) -> int:
    """How many rows may be held at once, so that neither cells nor bytes are too many."""
    widest = max((size / count for count, size in zip(rows, sizes, strict=True) if count), default=0.0)
    by_bytes = BATCH_BYTES / widest if widest > 0 else BATCH_ROWS
    return max(int(min(BATCH_ROWS, BATCH_CELLS / columns, by_bytes)), 1)


def _index_columns(schema: pa.Schema) -> set[str]:
    """Columns that pandas would hide as an index (docs/specification/dojo-files.md#index-columns)."""
    declared = (schema.pandas_metadata or {}).get("index_columns", [])
    named = {column for column in declared if isinstance(column, str)}
    return {name for name in schema.names if is_index_column(name) or name in named} - set(FIXED_COLUMNS)


def _unreadable(source: Source, name: str, error: Exception) -> InputError:
    """Why a file cannot be opened; what it is instead, where its first bytes tell."""
    if isinstance(error, UnicodeDecodeError):
        return InputError(
            "the name of a column is not UTF-8",
            file=name,
            example=error.object,
            remedy="Write all text as UTF-8",
        )
    head = _head(source)
    for start, what, remedy in _OTHER_FORMATS:
        if head.startswith(start):
            return InputError(f"it is {what}", file=name, remedy=remedy)
    return _damaged(name, _first_line(error))


_OTHER_FORMATS = (
    (
        b"\x1f\x8b",
        "compressed as a whole (gzip)",
        "Give the file inside: Parquet compresses its columns itself",
    ),
    (b"PK\x03\x04", "a ZIP archive", "Give the Parquet file inside"),
    (b"PARE", "encrypted", "Write it without encryption"),
    (b"<", "HTML or XML, and no Parquet", "Open the address in a browser: it may be a server's error"),
    (b"{", "JSON, and no Parquet", "Open the address in a browser: it may be a server's error"),
)
"""How files begin that are taken for Parquet at times, what they are, and what to do."""


def _head(source: Source) -> bytes:
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                return file.read(4)
        source.seek(0)
        return source.read(4)
    except (OSError, ValueError):
        return b""


def _damaged(name: str, problem: str) -> InputError:
    return InputError(
        f"it cannot be read as Parquet: {problem}",
        file=name,
        remedy="Check that the upload completed and that the file is Parquet",
    )


def _first_line(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    return shown(told.splitlines()[0].rstrip("."))
