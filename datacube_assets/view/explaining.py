"""Where a number on the page comes from: its formula, its temporal cells and, page by page, its rows.

What an explanation is, is in `read/explain.py`; here, what of it goes to the page at a time.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException

from datacube_assets.kernels.morton import BINS_PER_TILE
from datacube_assets.kernels.schema import published_columns, summary_columns
from datacube_assets.read import LakeDatacube
from datacube_assets.read.explain import counts_of, plain_cells, plain_rows
from datacube_assets.redaction import public
from datacube_assets.view.query import Query

LARGEST_PAGE = 200
"""Rows of a page, and cells that are shown."""
_AT_ONCE = threading.BoundedSemaphore(2)
"""Explanations that are made at the same time: each reads all rows of a run."""
_FIGURES = tuple(dict.fromkeys((*published_columns(True), *summary_columns(True))))


def explanation(tables: LakeDatacube, query: Query) -> dict[str, Any]:
    """The explanation of a figure, with the rows from `offset` on, `limit` at most.

    Raises NoDataError where the lake does not have the run.
    """
    offset = query.whole("offset", 2**53, default=0)
    limit = query.whole("limit", LARGEST_PAGE + 1, at_least=1, default=50)
    qualifier, value = query.breakdown
    with _AT_ONCE:
        try:
            found = tables.explain(
                query.feature,
                query.text("time"),
                region=query.text("region") if query.has("region") else None,
                level=query.level if query.has("level") else None,
                bin=(*query.tile, query.whole("bin", BINS_PER_TILE)) if query.has("bin") else None,
                qualifier=qualifier,
                value=value,
                figure=query.one_of("figure", _FIGURES, "s_sum_t_sum"),
            )
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        rows: list[dict[str, Any]] = []
        counts: Counter[str | None] = Counter()
        for batch in found.rows():
            before = counts.total()
            counts.update(counts_of(batch))
            first = max(offset - before, 0)
            if first < batch.num_rows and len(rows) < limit:
                some = batch.slice(first, limit - len(rows))
                notes = some["cleaning"].to_pylist()
                rows += [
                    {
                        **{name: _exact(cell) for name, cell in row.items()},
                        "part": public(row["part"]),
                        "cleaning": note,
                    }
                    for row, note in zip(plain_rows(some), notes, strict=True)
                ]
    return {
        "figure": {"name": found.name, "value": found.value, "formula": found.formula},
        "figures": {name: found.figures[name] for name in _FIGURES if name in found.figures},
        "cells": plain_cells(found.cells.slice(0, LARGEST_PAGE)),
        "cells_total": found.cells.num_rows,
        "rows": rows,
        "total": counts.total(),
        "counted": counts.pop(None, 0),
        "not_counted": {str(reason): number for reason, number in sorted(counts.items(), key=str)},
    }


_WHOLE = 2**53
"""Whole numbers from which on a browser would show another one."""


def _exact(cell: Any) -> Any:
    return str(cell) if isinstance(cell, int) and abs(cell) >= _WHOLE else cell
