"""Where a number comes from: its formula, its temporal cells, and the rows of Dojo's files behind these.

How an explanation reads, and how rows are found in the raw parts of the lake, belongs here. Which rows and
cells are in a figure is decided in `kernels/provenance.py`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import plain, python_values
from datacube_assets.kernels.plan import Plan
from datacube_assets.kernels.provenance import Scope, rows_in_scope
from datacube_assets.storage.points import RawParts

Progress = Callable[[int, int], None]
"""Called with the rows looked through so far, and those there are."""

ROW_COLUMNS = ("part", "row", "counted", "reason", "cleaning")
"""Columns that come before those of the file."""


@dataclass(frozen=True)
class Explanation:
    """A published figure, and everything that made it."""

    name: str
    """Of the figure: `s_mean_t_mean`."""
    value: float | int | None
    """As published; None where the figure does not exist."""
    formula: str
    """The arithmetic, with the numbers in it."""
    figures: dict[str, float | int | None]
    """All figures of the same place and time, and the sums and counts they are formed from."""
    cells: pa.Table
    """The temporal cells that went in: place, qualifiers, `rows`, `t_sum`, `t_mean`, and weights."""
    scope: Scope
    _parts: RawParts
    _plan: Plan

    def rows(self, progress: Progress = lambda *_: None) -> Iterator[pa.Table]:
        """The rows of Dojo's files that the figure is about, batch by batch, whether they count or not.

        Columns: `part`, string, the address as delivered; `row`, int64, its number in that file from 0;
        `counted`, bool; `reason`, string, null where it counts; `cleaning`, string, what cleaning changed,
        null where nothing; then every column of the file as delivered, under its name with `delivered.`
        before it. Rows without a feature, or with a timestamp out of range, are listed with each feature and
        time that they may have been meant for; rows not on the map with each bin.
        """
        parts = self._parts.parts()
        total, seen = sum(part.rows for part in parts), 0
        for part in parts:
            first = 0
            for batch in part.batches():
                found = rows_in_scope(batch, self._plan, self.scope)
                if found.num_rows:
                    yield _delivered(part.name, first, found)
                first += batch.num_rows
                seen += batch.num_rows
                progress(seen, total)

    def table(self) -> pa.Table:
        """All rows in one table."""
        found = list(self.rows())
        if not found:
            return pa.table({name: pa.array([], pa.string()) for name in ROW_COLUMNS})
        return _joined(found)

    def counts(self) -> dict[str | None, int]:
        """How many rows count (None), and how many do not for each reason."""
        counts: Counter[str | None] = Counter()
        for batch in self.rows():
            counts.update(counts_of(batch))
        return dict(counts)

    def to_json(self, progress: Progress = lambda *_: None) -> dict[str, Any]:
        """The explanation as plain data: `figure`, `cells` and `rows`."""
        return {
            "figure": {"name": self.name, "value": self.value, "formula": self.formula},
            "cells": plain_cells(self.cells),
            "rows": [row for batch in self.rows(progress) for row in plain_rows(batch)],
        }


def counts_of(rows: pa.Table) -> dict[str | None, int]:
    """How many rows count (None), and how many do not for each reason."""
    counted = pc.value_counts(rows["reason"])
    names, numbers = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return dict(zip(names, numbers, strict=True))


def plain_cells(cells: pa.Table) -> list[dict[str, Any]]:
    """Temporal cells as plain data."""
    return [_plain(cell) for cell in cells.to_pylist()]


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain data: where they are, timestamp and value as delivered, and whether they count."""
    chosen = {
        "part": rows["part"],
        "row": rows["row"],
        "timestamp": rows["delivered.timestamp"],
        "value": rows["delivered.value"],
        "counted": rows["counted"],
        "reason": rows["reason"],
    }
    cells = zip(*(python_values(column) for column in chosen.values()), strict=True)
    return [_plain(dict(zip(chosen, row, strict=True))) for row in cells]


def _delivered(part: str, first: int, found: pa.Table) -> pa.Table:
    # By their place: a file may have columns of these names, too.
    row, reason, cleaning = found.columns[:3]
    names = found.column_names[3:]
    address = pa.DictionaryArray.from_arrays(pa.array([0] * found.num_rows, pa.int32()), pa.array([part]))
    columns = {
        "part": address.cast(pa.string()),
        "row": pc.add(row, first),
        "counted": pc.is_null(reason),
        "reason": reason,
        "cleaning": cleaning,
        **{f"delivered.{name}": found.column(number + 3) for number, name in enumerate(names)},
    }
    return pa.table(columns)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of the rows of several parts; text where they hold other kinds of cells in a column."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        names = dict.fromkeys(name for table in tables for name in table.column_names)
        types = {
            name: {table.schema.field(name).type for table in tables if name in table.column_names}
            for name in names
        }
        alike = [
            pa.table(
                [
                    values if len(types[name]) == 1 else plain(values).cast(pa.string())
                    for name, values in zip(table.column_names, table.columns, strict=True)
                ],
                names=table.column_names,
            )
            for table in tables
        ]
        return pa.concat_tables(alike, promote_options="permissive")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    """A value for JSON: what is not finite as text, missing numbers as null, times and decimals as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value
