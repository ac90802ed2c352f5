"""How to ask where a number comes from, with an example of a run's own, for the metadata of its objects.

What the answer is, is in `read/explain.py`. Here belongs which number of a table is the example, and the
words to ask with, at the command line and on the map page.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from dagster import MetadataValue

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.groups import Ints, Mask, column
from datacube_assets.kernels.morton import BIN_BITS, ZOOMS, deinterleave
from datacube_assets.kernels.regions import answerable
from datacube_assets.resources.ui import UserInterface
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.run_info import RunInfo

HOW_TO_ASK = "where a number comes from"
"""Name of the metadata."""
ON_A_PAGE = "where it comes from, on a page"
_FIGURE = "s_sum_t_sum"
_FEW = 1_000
_TABLES = {"regional": "regional_aggregates", "grid": "grid_cells", "spatial": "grid_cells"}
"""The table of a family, by how its name begins; of all others the global one."""


@dataclass(frozen=True)
class _Number:
    """A published number, and what names its place."""

    feature: str
    timestamp: int
    value: float
    place: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, str]:
        month = str(np.datetime64(self.timestamp, "ms").astype("datetime64[M]"))
        return {"feature": self.feature, "time": month, **self.place, "figure": _FIGURE}


def how_to_ask(lake: Lake, run: ModelRun, asset: str, ui: UserInterface) -> dict[str, Any]:
    """Metadata for a family of objects, nothing where no number of it is known."""
    try:
        number = _number(lake, lake.table(run, _TABLES.get(asset.partition("_")[0], "global_aggregates")))
    except MissingTableError:
        # A run of some assets need not make it.
        number = None
    if number is None:
        return {}
    options = " ".join(f"--{name} {shlex.quote(word)}" for name, word in number.words.items())
    command = f"datacube explain {shlex.quote(run.key)} {options}"
    found: dict[str, Any] = {
        HOW_TO_ASK: MetadataValue.text(f"{command} tells which rows made {number.value!r} (docs/explain.md)")
    }
    if ui.view_url:
        words = urlencode({"model": run.model_id, "run": run.run_id, **number.words})
        found[ON_A_PAGE] = MetadataValue.url(f"{ui.view_url.rstrip('/')}/explain.html#{words}")
    return found


def _number(lake: Lake, table: LakeTable) -> _Number | None:
    """The first number of a table by month that can be asked for."""
    layout, name = RunInfo.of(table).layout, table.folder.split("/")[-2]
    if name == "grid_cells":
        return _of_bin(lake, table)
    level = layout.levels[0] if name == "regional_aggregates" and layout.levels else None
    folder = aggregate_folder("month", level) if level else aggregate_folder("month")
    wanted = ["feature", "timestamp", _FIGURE, *(["region_id"] if level else [])]

    def known(rows: pa.Table) -> Mask:
        there: Mask = np.isfinite(column(rows, _FIGURE))
        if level:
            there &= answerable(rows["region_id"].cast(pa.string()).combine_chunks())
        return there

    first = _first(_rows(lake, table, folder, wanted), known)
    if first is None:
        return None
    place = {"region": first["region_id"], "level": str(level)} if level else {}
    return _Number(first["feature"], first["timestamp"], first[_FIGURE] + 0.0, place)


def _of_bin(lake: Lake, table: LakeTable) -> _Number | None:
    wanted = ["feature", "timestamp", "quadkey", "s_count", _FIGURE]

    def known(rows: pa.Table) -> Mask:
        there: Mask = np.isfinite(column(rows, _FIGURE))
        there &= cast(Ints, column(rows, "s_count")) > 0
        return there

    first = _first(_rows(lake, table, aggregate_folder("month"), wanted), known)
    if first is None:
        return None
    code = np.array([first["quadkey"]], np.uint32)
    x, y = (int(one[0]) for one in deinterleave(code))
    side = 1 << BIN_BITS
    zoom, number = ZOOMS[-1], (y % side) * side + x % side
    return _Number(
        first["feature"],
        first["timestamp"],
        first[_FIGURE] + 0.0,
        {"bin": f"{zoom}/{x // side}/{y // side}/{number}"},
    )


def _first(rows: pa.Table | None, known: Callable[[pa.Table], Mask]) -> dict[str, Any] | None:
    """The first of the rows that is known; mostly it is among the first few."""
    for some in () if rows is None else (rows.slice(0, _FEW), rows):
        mask = known(some)
        if mask.any():
            found: dict[str, Any] = some.slice(int(np.argmax(mask)), 1).to_pylist()[0]
            return found
    return None


def _rows(lake: Lake, table: LakeTable, folder: str, columns: list[str]) -> pa.Table | None:
    """The rows of the first file of a folder that has any."""
    for file in table.files:
        if file.name.startswith(folder) and file.rows:
            return lake.read(table, file.name, columns)
    return None
