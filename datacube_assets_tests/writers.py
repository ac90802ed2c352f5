"""Parquet as other people write it: one table, by every writer there is, in every way it knows.

What each file has to become belongs to `integration/test_writers.py`, and files that are broken to
`hostile.py`.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.kernels.schema import is_text

Writer = Callable[[pa.Table], bytes]


def by_arrow(encodings: Mapping[str, str] | None = None, **options: Any) -> Writer:
    """Arrow; `encodings` by kind of column: text, int, float."""

    def write(table: pa.Table) -> bytes:
        file = io.BytesIO()
        if encodings:
            chosen = {field.name: encodings.get(_kind(field.type), "PLAIN") for field in table.schema}
            options.update(use_dictionary=False, column_encoding=chosen)
        pq.write_table(table, file, **options)
        return file.getvalue()

    return write


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if is_text(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "text"
    if pa.types.is_float32(type_) or pa.types.is_float64(type_):
        return "float"
    whole = (pa.types.is_integer, pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)
    return "int" if any(one(type_) for one in whole) else "other"


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def by_duckdb(options: str) -> Writer:
    """DuckDB's COPY with some options."""

    def write(table: pa.Table) -> bytes:
        # A database of one's own takes longer than the file.
        with tempfile.TemporaryDirectory() as folder, _duckdb().cursor() as connection:
            connection.register("rows", table)
            connection.execute(f"COPY rows TO '{folder}/file' (FORMAT parquet, {options})")
            return (Path(folder) / "file").read_bytes()

    return write


def by_polars(**options: Any) -> Writer:
    def write(table: pa.Table) -> bytes:
        file = io.BytesIO()
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame.write_parquet(file, **options)
        return file.getvalue()

    return write


def by_fastparquet(**options: Any) -> Writer:
    def write(table: pa.Table) -> bytes:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Its seconds are wrong, as it says itself when it reads them.
            frame = table.to_pandas(coerce_temporal_nanoseconds=True)
            fastparquet.write(f"{folder}/file", frame, **options)
            return (Path(folder) / "file").read_bytes()

    return write


CANNOT = (
    duckdb.Error,
    pa.ArrowException,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    KeyError,
)
"""What writers raise for types that they do not know."""
WRITERS: dict[str, Writer] = {
    **{
        f"Arrow, pages of version {version}, {compression}": by_arrow(
            data_page_version=version, compression=compression
        )
        for version in ("1.0", "2.0")
        for compression in ("none", "snappy", "gzip", "brotli", "lz4", "zstd")
    },
    **{f"Arrow, format {version}": by_arrow(version=version) for version in ("1.0", "2.4", "2.6")},
    "Arrow, plain": by_arrow(use_dictionary=False),
    "Arrow, without its schema": by_arrow(store_schema=False),
    **{
        f"Arrow, {text}, {number}, pages of version {version}": by_arrow(
            {"text": text, "int": number, "float": "BYTE_STREAM_SPLIT"}, data_page_version=version
        )
        for text, number in (
            ("DELTA_LENGTH_BYTE_ARRAY", "DELTA_BINARY_PACKED"),
            ("DELTA_BYTE_ARRAY", "BYTE_STREAM_SPLIT"),
        )
        for version in ("1.0", "2.0")
    },
    "Arrow, times of 96 bits": by_arrow(use_deprecated_int96_timestamps=True, coerce_timestamps=None),
    "Arrow, as for Spark": by_arrow(flavor="spark"),
    "Arrow, a row group per row": by_arrow(row_group_size=1),
    "Arrow, small pages, index and checksums": by_arrow(
        data_page_size=8, write_batch_size=1, write_page_index=True, write_page_checksum=True
    ),
    "Arrow, dictionaries given up": by_arrow(dictionary_pagesize_limit=1, write_batch_size=1),
    "Arrow, decimals as integers": by_arrow(store_decimal_as_integer=True),
    **{
        f"DuckDB, {version}, {codec}": by_duckdb(f"PARQUET_VERSION {version}, CODEC {codec}")
        for version in ("v1", "v2")
        for codec in ("uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw")
    },
    "DuckDB, v2, no dictionaries": by_duckdb("PARQUET_VERSION v2, DICTIONARY_SIZE_LIMIT 1"),
    **{
        f"Polars, {compression}": by_polars(compression=compression)
        for compression in ("uncompressed", "snappy", "gzip", "brotli", "zstd")
    },
    "Polars, small pages and row groups": by_polars(data_page_size=8, row_group_size=2, statistics="full"),
    **{
        f"fastparquet, {compression}": by_fastparquet(compression=compression)
        for compression in ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD")
    },
    "fastparquet, times of 96 bits": by_fastparquet(times="int96"),
    "fastparquet, a row group per row": by_fastparquet(row_group_offsets=1),
}
