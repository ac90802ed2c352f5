"""The rows of a run as they were delivered, for raw.csv.

Cleaned rows are made in `normalize.py`, the file in `views.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import as_numbers, as_text, by_name, kind_of, plain
from datacube_assets.kernels.normalize import ABSENT_FEATURE, as_values, names_of
from datacube_assets.kernels.plan import Plan
from datacube_assets.kernels.schema import (
    COORDINATES,
    MISSING,
    REGION_LEVELS,
)
from datacube_assets.kernels.times import times_of


def raw_rows(batch: pa.Table, what: Plan) -> pa.Table:
    """The rows of a batch as delivered, for raw.csv (docs/objects.md#1-rawcsv).

    Columns keep their order and their values. Timestamps are integers in ms UTC: the time to fill in where
    there was none, and what came where it is out of range. Numbers that are not finite are null. Rows
    without a feature are left out. A column whose kind differs between parts becomes text; in such a region
    column nulls read `None`, because the original made them so before it took the raw copy.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    delivered = by_name(batch)
    for name, column in delivered.items():
        column = plain(column)
        if name == "feature":
            columns[name] = names_of(delivered, name, what, absent=ABSENT_FEATURE)
        elif name == "timestamp":
            columns[name] = pa.array(times_of(column, what.options).milliseconds)
        elif name == "value":
            values = as_values(column)[0]
            columns[name] = pa.array(np.where(np.isfinite(values), values, np.nan), from_pandas=True)
        elif name in COORDINATES and (name in what.mixed or kind_of(name, column.type) != "f"):
            degrees = as_numbers(name, column)
            columns[name] = pa.array(np.where(np.isfinite(degrees), degrees, np.nan), from_pandas=True)
        elif name in what.mixed:
            text = as_text(name, delivered[name], whole=kind_of(name, column.type) == "i")
            columns[name] = pc.fill_null(text.cast(pa.string()), MISSING) if name in REGION_LEVELS else text
        elif kind_of(name, column.type) == "M":
            columns[name] = as_text(name, delivered[name], whole=name in what.whole)
        elif pa.types.is_floating(column.type):
            columns[name] = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        else:
            columns[name] = column
    rows = pa.table(columns)
    return rows.filter(pc.is_valid(rows["feature"]))


def join_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """The raw rows of all batches; columns in order of first appearance, null where a part has none.

    Whole numbers of different types stay whole, other numbers become doubles, whatever else differs text.
    """
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field_ in table.schema:
            types.setdefault(field_.name, set()).add(field_.type)
    fields = [pa.field(name, _common_type(found)) for name, found in types.items()]
    return pa.concat_tables([_with_fields(table, fields) for table in tables]).unify_dictionaries()


def _common_type(types: set[pa.DataType]) -> pa.DataType:
    filled = {type_ for type_ in types if not pa.types.is_null(type_)}
    if len(filled) == 1:
        return filled.pop()
    kinds = {kind_of("", type_) for type_ in filled}
    if kinds == {"i"}:
        # Of the largest type, some numbers fit no other but this.
        return pa.decimal128(20, 0) if pa.uint64() in filled else pa.int64()
    if kinds <= {"i", "f"}:
        return pa.float64()
    return pa.string()


def _with_fields(table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    columns = [
        table[field_.name].cast(field_.type, safe=False)
        if field_.name in table.column_names
        else pa.nulls(table.num_rows, field_.type)
        for field_ in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))
