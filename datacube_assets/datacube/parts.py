"""Reading the Parquet parts of a run: what they promise, checked, and their rows in batches.

Opens what it is given (a path or a file object); where parts come from is the business of `assets/`
and `storage/`. What the columns mean is decided in `normalize.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.datacube.errors import InputError
from datacube_assets.datacube.schema import FIXED_COLUMNS, REQUIRED_COLUMNS, is_index_column, is_text

BATCH_ROWS = 1_000_000
"""Rows held at once; larger row groups are cut."""

Source = str | BinaryIO


class Part:
    """One Parquet file of a run. Raises InputError when it is not what Dojo writes (CONTRACTS B)."""

    def __init__(self, source: Source, name: str) -> None:
        self.name = name
        """How messages call the file: the address it came from."""
        try:
            schema = pq.read_schema(source)
            duplicates = sorted({column for column in schema.names if schema.names.count(column) > 1})
            if duplicates:
                raise InputError(
                    f"the column {duplicates[0]!r} is there twice",
                    file=name,
                    remedy="Give every column a name of its own",
                )
            missing = [column for column in REQUIRED_COLUMNS if column not in schema.names]
            if missing:
                raise InputError(
                    f"there is no column {', '.join(missing)}",
                    file=name,
                    column=missing[0],
                    remedy=f"Write the columns {', '.join(REQUIRED_COLUMNS)}; this file has "
                    f"{', '.join(schema.names) or 'none'}",
                )
            index = _index_columns(schema)
            self.columns = [column for column in schema.names if column not in index]
            texts = [field.name for field in schema if is_text(field.type)]
            self._file = pq.ParquetFile(source, read_dictionary=texts, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(name, error) from error
        metadata = self._file.metadata
        self.row_groups: list[int] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        """Rows of each row group."""
        self.rows: int = metadata.num_rows

    def batches(self, row_groups: range | None = None) -> Iterator[pa.Table]:
        """The rows of some or all row groups, in file order; text as dictionaries.

        Tables of at most `BATCH_ROWS`.
        """
        groups = range(len(self.row_groups)) if row_groups is None else row_groups
        rows = sum(self.row_groups[group] for group in groups)
        try:
            if rows <= BATCH_ROWS:
                # One read of everything decodes columns in parallel.
                whole = len(groups) == len(self.row_groups)
                table = (
                    self._file.read(columns=self.columns)
                    if whole
                    else self._file.read_row_groups(list(groups), columns=self.columns)
                )
                yield table.select(self.columns)
                return
            batches = self._file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=self.columns)
            for batch in batches:
                yield pa.Table.from_batches([batch]).select(self.columns)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.name, error) from error


def _index_columns(schema: pa.Schema) -> set[str]:
    """Columns that pandas would hide as the index of the frame (CONTRACTS B.2)."""
    declared = (schema.pandas_metadata or {}).get("index_columns", [])
    named = {column for column in declared if isinstance(column, str)}
    return {name for name in schema.names if is_index_column(name) or name in named} - set(FIXED_COLUMNS)


def _unreadable(name: str, error: Exception) -> InputError:
    told = str(error).strip() or type(error).__name__
    first_line = told.splitlines()[0].rstrip(".")
    return InputError(
        f"it cannot be read as Parquet: {first_line}",
        file=name,
        remedy="Check that the upload completed and that the file is Parquet",
    )
