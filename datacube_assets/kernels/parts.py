"""Reading the Parquet parts of a run: what they promise, checked, and their rows in batches.

Opens what it is given (a path or a file object); where parts come from is the business of `assets/`
and `storage/`. What the columns mean is decided in `plan.py`. Who wrote a file, and how, makes no
difference to what is read: that is seen to here.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.kernels.columns import is_readable, kind_of, unreadable_type
from datacube_assets.kernels.errors import InputError, listed, shorten, shown
from datacube_assets.kernels.extensions import UUIDS, Meant, meant_by
from datacube_assets.kernels.schema import REQUIRED_COLUMNS, is_index_column, is_text

BATCH_ROWS = 1_000_000
"""Rows held at once; larger row groups are cut."""
BATCH_CELLS = 32 * BATCH_ROWS
"""Cells held at once. A column of one value repeated is next to nothing in a file, and full size here."""
BATCH_BYTES = 256 << 20
"""Bytes held at once, as the file states them for its cells before compression."""
PLAIN_ROWS = 1 << 11
"""Rows read at once where texts cannot be read as dictionaries."""

Source = str | BinaryIO


class Part:
    """One Parquet file of a run. Raises InputError when it is not what Dojo writes."""

    def __init__(self, source: Source, name: str) -> None:
        self.name = name
        """How messages call the file: the address it came from."""
        self._source = source
        try:
            self._footer = _footer(source)
            self._metadata = _metadata(self._footer, name)
            schema, self._bytes = _as_read(self._metadata)
            """Columns of bytes that may be read only where they have no value."""
            schema, self._meant = _as_meant(schema, self._metadata, name)
            self._range = _range_index(schema.names, self._metadata)
            stored = _columns(schema, self._metadata, name, [self._range.name] if self._range else [])
            self.columns = [*stored, *([self._range.name] if self._range else ())]
            self._schema = schema
            kept = set(stored)
            self.left_out: list[str] = [name for name in schema.names if name not in kept]
            """Columns that are the index of a data frame, and are not read."""
            self._places = [place for place, column in enumerate(schema.names) if column in kept]
            # Arrow takes names for paths, and finds no column whose name is empty.
            odd = any(not column or "." in column for column in stored)
            self._wanted = None if odd or len(stored) == len(schema.names) else stored
            # What is stored as UUIDs becomes texts, and cannot be read as a dictionary of them.
            self._texts = [
                field.name
                for field in schema
                if is_text(field.type) and self._meant.get(field.name) is not UUIDS
            ]
            self._file = self._open(self._metadata, read_dictionary=self._texts)
            self._dictionaries = bool(self._texts)
            """Whether texts are read as dictionaries, as far as is known."""
            groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
            self.row_groups: list[int] = [group.num_rows for group in groups]
            """Rows of each row group."""
            sizes = [group.total_byte_size for group in groups]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(source, name, error) from error
        self.rows = sum(self.row_groups)
        if min(self.row_groups, default=0) < 0 or self.rows != self._metadata.num_rows:
            raise _damaged(
                name, f"its row groups have {self.rows} rows, and the file {self._metadata.num_rows}"
            )
        self.batch_rows = _batch_rows(self.row_groups, sizes, len(self.columns))
        """Rows of it that may be held at once."""

    def _open(self, metadata: pq.FileMetaData, **options: Any) -> pq.ParquetFile:
        # Nanoseconds of 64 bits end in 2262, and times of 96 bits beyond that would come out as others.
        return pq.ParquetFile(
            self._source,
            metadata=metadata,
            pre_buffer=True,
            coerce_int96_timestamp_unit="us",
            # Text that is marked as JSON is no type of its own, which could not be read as dictionaries.
            arrow_extensions_enabled=False,
            **options,
        )

    def batches(self, row_groups: range | None = None) -> Iterator[pa.Table]:
        """The rows of some or all row groups, in file order; text as dictionaries.

        Tables of at most `batch_rows`.
        """
        groups = list(range(len(self.row_groups)) if row_groups is None else row_groups)
        row = sum(self.row_groups[: groups[0]]) if groups else 0
        for table in self._stored(groups):
            yield table if self._range is None else self._range.beside(table, row)
            row += table.num_rows

    def _stored(self, groups: Sequence[int]) -> Iterator[pa.Table]:
        """The columns that are in the file."""
        done = 0
        try:
            if self._dictionaries or not self._texts:
                try:
                    for table in self._read(groups):
                        yield table
                        done += table.num_rows
                except (pa.ArrowException, OSError):
                    if not self._texts:
                        raise
                    # Arrow makes dictionaries of some encodings only, and which ones a page has, nothing
                    # tells before it is read.
                    self._dictionaries = False
                else:
                    return
            yield from self._read_plain(groups, done)
        except InputError as error:
            error.file = self.name
            raise
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.name, _first_line(error)) from error

    def _read(self, groups: Sequence[int]) -> Iterator[pa.Table]:
        if sum(self.row_groups[group] for group in groups) <= self.batch_rows:
            # One read of everything decodes columns in parallel.
            yield self._chosen(
                self._file.read(columns=self._wanted)
                if len(groups) == len(self.row_groups)
                else self._file.read_row_groups(groups, columns=self._wanted)
            )
            return
        for batch in self._file.iter_batches(self.batch_rows, row_groups=groups, columns=self._wanted):
            yield self._chosen(pa.Table.from_batches([batch]))

    def _read_plain(self, groups: Sequence[int], done: int) -> Iterator[pa.Table]:
        """The rows after those that are done, whatever their encoding; slower than `_read`.

        In small steps: a text may take many times the bytes that the file has for it.
        """
        # Where the writer's own types say dictionary, Arrow would try to make one.
        file = self._open(_metadata(_without_arrow_schema(self._footer), self.name))
        waiting: list[pa.Table] = []
        rows = size = 0
        steps = min(PLAIN_ROWS, self.batch_rows)
        for batch in file.iter_batches(steps, row_groups=groups, columns=self._wanted):
            skipped = min(done, batch.num_rows)
            done -= skipped
            if skipped == batch.num_rows:
                continue
            table = _encoded(self._chosen(pa.Table.from_batches([batch.slice(skipped)])), self._schema)
            if waiting and (rows + table.num_rows > self.batch_rows or size + table.nbytes > BATCH_BYTES):
                yield pa.concat_tables(waiting).unify_dictionaries()
                waiting, rows, size = [], 0, 0
            waiting.append(table)
            rows, size = rows + table.num_rows, size + table.nbytes
        if waiting:
            yield pa.concat_tables(waiting).unify_dictionaries()

    def _chosen(self, table: pa.Table) -> pa.Table:
        if table.num_columns != len(self._places):
            table = table.select(self._places)
        for place, field in enumerate(table.schema):
            if field.name in self._meant:
                table = table.set_column(place, field.name, self._meant[field.name].read(table.column(place)))
            elif _is_binary(field.type):
                if field.name in self._bytes and table.column(place).null_count < table.num_rows:
                    raise unreadable_type(field.name, field.type)
                # Which of them are no UTF-8 is said where they are looked at.
                table = table.set_column(place, field.name, _as_texts(table.column(place)))
            elif not is_readable(field.type):
                if table.column(place).null_count < table.num_rows:
                    raise unreadable_type(field.name, field.type)
                # What has no value may have been meant as anything.
                table = table.set_column(place, field.name, pa.chunked_array([pa.nulls(table.num_rows)]))
        return table


# --- opening ---------------------------------------------------------------------------------------

_ARROW_SCHEMA = b"ARROW:schema"
"""Under this name Arrow leaves the types of the table that was written, beside Parquet's own."""
_SIGNATURE = 28
"""Bytes behind a footer that can be read, in a file whose columns may be encrypted."""


def _footer(source: Source) -> bytes:
    """The end of a file that says what is in it, with its size and the magic word."""
    with ExitStack() as stack:
        file = stack.enter_context(open(source, "rb")) if isinstance(source, str) else source
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 8, 0))
        size = int.from_bytes(file.read(4), "little") + 8
        file.seek(max(end - size, 0))
        return file.read()


def _metadata(footer: bytes, name: str) -> pq.FileMetaData:
    """What a footer says. What it says about the writer's types is a hint: broken, it is left out."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
    except (pa.ArrowException, OSError):
        if _ARROW_SCHEMA not in footer:
            raise
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + _without_arrow_schema(footer)))
    if len(footer) - 8 - metadata.serialized_size == _SIGNATURE:
        # Arrow would end the process when asked about an encrypted column.
        raise _encrypted(name)
    return metadata


def _without_arrow_schema(footer: bytes) -> bytes:
    return footer.replace(_ARROW_SCHEMA, _ARROW_SCHEMA.lower())


def _as_read(metadata: pq.FileMetaData) -> tuple[pa.Schema, frozenset[str]]:
    """The columns with the types that they are read as; and those of bytes, which must have no value.

    Bytes are texts where the file says so, and where its writer marks none of them as text (as Impala and
    old versions of Hive do). What has no value may have been meant as anything (fastparquet calls it bytes).
    """
    schema = metadata.schema.to_arrow_schema()
    by_arrow = _ARROW_SCHEMA in (metadata.metadata or {})
    texts_are_marked = any(map(is_text, schema.types))
    bytes_only = set()
    for number, field in enumerate(schema):
        if not _is_binary(field.type):
            continue
        marked = _marked_as_text(metadata, field.name)
        if by_arrow and not marked and not _may_be_empty(metadata, field.name, field.type):
            continue
        if (by_arrow or texts_are_marked) and not marked:
            bytes_only.add(field.name)
        schema = schema.set(number, field.with_type(pa.string()))
    return schema, frozenset(bytes_only)


def _as_meant(schema: pa.Schema, metadata: pq.FileMetaData, file: str) -> tuple[pa.Schema, dict[str, Meant]]:
    """The columns with the types that are meant by extension types, and how they are read, by name."""
    try:
        found = {field.name: meant for field in schema if (meant := meant_by(field))}
        bytes_ = [field.name for field in schema if pa.types.is_fixed_size_binary(field.type)]
        found |= {column: UUIDS for column in bytes_ if "UUID" in _marks(metadata, column)}
    except InputError as error:
        error.file = file
        raise
    for number, field in enumerate(schema):
        if field.name in found:
            schema = schema.set(number, field.with_type(found[field.name].type))
    return schema, found


def _marked_as_text(metadata: pq.FileMetaData, name: str) -> bool:
    return bool(_marks(metadata, name) & {"ENUM", "JSON"})


def _marks(metadata: pq.FileMetaData, name: str) -> set[str]:
    """What Parquet says is meant by a column."""
    columns = (metadata.schema.column(number) for number in range(len(metadata.schema)))
    return {column.logical_type.type for column in columns if column.path == name}


def _is_binary(type_: pa.DataType) -> bool:
    plain = type_.value_type if pa.types.is_dictionary(type_) else type_
    return bool(pa.types.is_binary(plain) or pa.types.is_large_binary(plain))


def _as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes taken for text, unchecked."""
    if not pa.types.is_dictionary(column.type):
        return pa.chunked_array([chunk.view(pa.string()) for chunk in column.chunks], pa.string())
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.view(pa.string()))
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, pa.string()))


def _encoded(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table that was read without dictionaries: text as dictionaries, times of the zone they had."""
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if is_text(field.type):
            table = table.set_column(place, field.name, column.dictionary_encode())
        elif pa.types.is_timestamp(field.type) and not pa.types.is_dictionary(schema.field(field.name).type):
            table = table.set_column(place, field.name, column.cast(schema.field(field.name).type))
    return table


# --- columns ---------------------------------------------------------------------------------------


def _columns(schema: pa.Schema, metadata: pq.FileMetaData, file: str, besides: Sequence[str]) -> list[str]:
    """The columns to read. Raises InputError when they are, with those besides, not those of a part."""
    names: list[str] = schema.names
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise InputError(
            f"the column {shorten(twice[0])} is there twice",
            file=file,
            remedy="Give every column a name of its own",
        )
    missing = [column for column in REQUIRED_COLUMNS if column not in names and column not in besides]
    if missing:
        raise InputError(
            f"there is no column {', '.join(missing)}",
            file=file,
            column=missing[0],
            remedy=f"Write the columns {', '.join(REQUIRED_COLUMNS)}; this file has "
            f"{listed(names) or 'none'}",
        )
    index = _index_columns(schema.names, metadata.metadata or {})
    columns = [name for name in names if name not in index]
    try:
        # Before anything is read: a list of a billion items may stand in a single cell.
        for name, type_ in zip(names, schema.types, strict=True):
            if is_readable(type_) or not _may_be_empty(metadata, name, type_):
                kind_of(name, type_)
    except InputError as error:
        error.file = file
        raise
    return columns


def _may_be_empty(metadata: pq.FileMetaData, name: str, type_: pa.DataType) -> bool:
    """Whether no cell of a column may have a value, as far as the footer tells."""
    numbers = [
        number
        for number in range(len(metadata.schema))
        if f"{metadata.schema.column(number).path}.".startswith(f"{name}.")
    ]
    for group, number in itertools.product(range(metadata.num_row_groups), numbers):
        chunk = metadata.row_group(group).column(number)
        told = chunk.statistics is not None and chunk.statistics.has_null_count
        if chunk.statistics.null_count < chunk.num_values if told else pa.types.is_nested(type_):
            return False
    return True


def _batch_rows(rows: Sequence[int], sizes: Sequence[int], columns: int) -> int:
    """How many rows may be held at once, so that neither cells nor bytes are too many."""
    widest = max((size / count for count, size in zip(rows, sizes, strict=True) if count), default=0.0)
    by_bytes = BATCH_BYTES / widest if widest > 0 else BATCH_ROWS
    return max(int(min(BATCH_ROWS, BATCH_CELLS / columns, by_bytes)), 1)


def _index_columns(names: Sequence[str], hints: Mapping[bytes, bytes]) -> set[str]:
    """Columns that are the index of a data frame, and nobody gave a name."""
    index = {name for name in names if is_index_column(name)}
    # In one way to write data frames, `index` stands for an index without a name.
    return index | ({"index"} & set(names) if _has_unnamed_index(hints.get(b"pandas", b"")) else set())


@dataclass(frozen=True)
class _RangeIndex:
    """A named index of a data frame, of which a file tells no more than its first number and the step."""

    name: str
    start: int
    step: int

    def beside(self, table: pa.Table, row: int) -> pa.Table:
        """The rows from a row of the file on, with their index as a column."""
        numbers = self.start + self.step * np.arange(row, row + table.num_rows, dtype=np.int64)
        return table.append_column(self.name, pa.array(numbers))


def _range_index(names: Sequence[str], metadata: pq.FileMetaData) -> _RangeIndex | None:
    """The index that pandas left out of the columns, as its numbers are equally far apart."""
    try:
        (index,) = json.loads((metadata.metadata or {})[b"pandas"])["index_columns"]
        name, numbers = index["name"], range(index["start"], index["stop"], index["step"])
        there = len(numbers) == metadata.num_rows and index["kind"] == "range"
        start, _, step = np.array([numbers[0], numbers[-1], numbers.step], np.int64).tolist()
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    if not there or not isinstance(name, str) or name in names or not name:
        return None
    return None if is_index_column(name) else _RangeIndex(name, start, step)


def _has_unnamed_index(hint: bytes) -> bool:
    """Whether what pandas left in a file says that its column `index` is an index without a name."""
    try:
        frame = json.loads(hint)
        return bool("index" in frame["index_columns"] and frame["creator"]["library"] == "fastparquet")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


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
    if head is None:
        return _damaged(name, _first_line(error))
    if head.startswith(b"PARE"):
        return _encrypted(name)
    if not head:
        return InputError("it is empty", file=name, remedy="Check that the upload completed")
    for start, what, remedy in _OTHER_FORMATS:
        if head.startswith(start):
            return InputError(f"it is {what}", file=name, remedy=remedy)
    if _is_text(head):
        return InputError(
            "it is text, such as CSV, and no Parquet",
            file=name,
            remedy="Write it as Parquet, for instance with pandas: read_csv(...).to_parquet(...)",
        )
    return _damaged(name, _first_line(error))


_HEAD = 64
"""Bytes of a file that tell what it is."""
_OTHER_FORMATS = (
    (
        b"\x1f\x8b",
        "compressed as a whole (gzip)",
        "Give the file inside: Parquet compresses its columns itself",
    ),
    (b"PK\x03\x04", "a ZIP archive", "Give the Parquet file inside"),
    (b"<", "HTML or XML, and no Parquet", "Open the address in a browser: it may be a server's error"),
    (b"{", "JSON, and no Parquet", "Open the address in a browser: it may be a server's error"),
)
"""How files begin that are taken for Parquet at times, what they are, and what to do."""


def _head(source: Source) -> bytes | None:
    """How a file begins; None where it cannot be read."""
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                return file.read(_HEAD)
        source.seek(0)
        return source.read(_HEAD)
    except (OSError, ValueError):
        return None


def _is_text(head: bytes) -> bool:
    """Whether a file begins with lines or fields of text."""
    try:
        # The last letter may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    shown_only = all(letter.isprintable() or letter in "\t\r\n" for letter in text)
    return shown_only and any(mark in text for mark in ",;\t\n")


def _encrypted(name: str) -> InputError:
    return InputError("it is encrypted", file=name, remedy="Write it without encryption")


def _damaged(name: str, problem: str) -> InputError:
    return InputError(
        f"it cannot be read as Parquet: {problem}",
        file=name,
        remedy="Check that the upload completed and that the file is Parquet",
    )


def _first_line(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    return shown(told.splitlines()[0].rstrip("."))
