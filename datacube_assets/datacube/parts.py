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
        self.rows: int = self._file.metadata.num_rows

    def batches(self) -> Iterator[pa.Table]:
        """The rows, in file order, in tables of at most `BATCH_ROWS`; text as dictionaries."""
        try:
            if self.rows <= BATCH_ROWS:
                # One read of everything decodes columns in parallel.
                yield self._file.read(columns=self.columns).select(self.columns)
                return
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS, columns=self.columns):
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
