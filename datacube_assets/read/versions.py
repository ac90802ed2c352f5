"""What changed between two versions of a datacube, or between two runs, for analysts.

How tables are compared is in `storage/comparing.py`. Here, what of it is told as Arrow tables.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pyarrow as pa

from datacube_assets.check_limits import Limits
from datacube_assets.read.datacube import NoDataError
from datacube_assets.read.tables import LakeDatacube
from datacube_assets.storage.comparing import NEEDED, Changes, Side, changes_between
from datacube_assets.storage.lake import MissingTableError


class Difference:
    """What changed from one version to another."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def __repr__(self) -> str:
        total = self._changes.total
        return (
            f"<Difference {total.changed} of {total.compared} figures, {total.came} came, {total.went} went>"
        )

    @cached_property
    def document(self) -> dict[str, Any]:
        """All of it as plain data, as `datacube diff --json` prints it."""
        return self._changes.to_json()

    @property
    def figures(self) -> dict[str, Any]:
        """How many figures were compared, changed, came and went; `classes`: how many changed by how much."""
        found: dict[str, Any] = self.document["figures"]
        return found

    @property
    def names(self) -> dict[str, Any]:
        """Features, regions of each level, months, and values of each qualifier that came or went."""
        found: dict[str, Any] = self.document["names"]
        return found

    @property
    def by_feature(self) -> pa.Table:
        """Features and levels of which something changed, those of the most changes first.

        Columns: `feature`, `level`; `compared`, `changed`, `came`, `went`: figures; `regions`, and how many
        of them `moved` by more than the limit.
        """
        return _table(self.document["by_feature"], _BY_FEATURE)

    @property
    def movers(self) -> pa.Table:
        """The monthly figures that changed most, beside the largest of their feature and level.

        Columns: `feature`, `level`, `month` (`2020-01`), `region` (its id), `figure`, `before`, `after`.
        """
        return _table(self.document["movers"], _MOVERS)


def diff(before: LakeDatacube, after: LakeDatacube, *, limit: float | None = None) -> Difference:
    """What changed from one version, or run, to another: of `open_tables`, with or without a version.

    `limit` is the part of what they were by which regions have to move to be counted; without one, that of
    the checks. Reads the tables of both, piece by piece. Raises NoDataError where tables are gone.
    """
    old, new = _side(before), _side(after)
    try:
        return Difference(changes_between(old, new, Limits().max_region_move if limit is None else limit))
    except MissingTableError as error:
        raise NoDataError(
            f"{error.args[0]}. Open the version anew: versions() tells which are kept"
        ) from None


def _side(cube: LakeDatacube) -> Side:
    tables = cube.tables()
    for name in NEEDED:
        if name not in tables:
            raise NoDataError(f"{cube!r} has no table {name}: list_tables() tells what is there")
    return Side(cube.lake, tables)


_BY_FEATURE = pa.schema(
    {
        "feature": pa.string(),
        "level": pa.string(),
        **dict.fromkeys(("compared", "changed", "came", "went", "regions", "moved"), pa.int64()),
    }
)
_MOVERS = pa.schema(
    {
        **dict.fromkeys(("feature", "level", "month", "region", "figure"), pa.string()),
        "before": pa.float64(),
        "after": pa.float64(),
    }
)


def _table(lines: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: line[name] for name in schema.names} for line in lines], schema)
