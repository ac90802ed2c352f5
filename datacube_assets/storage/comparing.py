"""What changed between two versions of a datacube, or between two: which files are held beside each other.

Tables are compared folder by folder, in pieces of bounded size that can be spread over workers: files whose
features overlap are one piece, and one that is too large is cut by region. How tables are compared is in
`kernels/changes.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels import changes
from datacube_assets.kernels.changes import CLASSES, Compared, Counts, Mover, Names
from datacube_assets.kernels.regions import Regions
from datacube_assets.kernels.schema import RESOLUTIONS, Period, RegionLevel
from datacube_assets.storage.lake import ROWS_AT_ONCE, Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.points import QUALIFIER_VALUES, REGIONS
from datacube_assets.storage.run_info import RunInfo

GLOBAL, GRID = "global", "grid"
"""Levels beside those of regions: all places, and subtiles."""
POINTS = "normalized_points"
_TABLES: Mapping[str, str] = {GLOBAL: "global_aggregates", GRID: "grid_cells"}
LISTED = 200
"""Lines of features and levels that are told, those of the most changes."""
MOST_MOVED = 10
"""Features and levels that are told because most of their regions moved."""
NEEDED = (POINTS, "global_aggregates", "regional_aggregates", "grid_cells")
"""Tables that are looked at."""


@dataclass(frozen=True)
class Side:
    """One of two versions. Can be sent to workers."""

    lake: Lake
    tables: Mapping[str, LakeTable]

    @property
    def info(self) -> RunInfo:
        return RunInfo.of(self.tables[POINTS])

    @property
    def levels(self) -> tuple[str, ...]:
        return (GLOBAL, *self.info.layout.levels, GRID)

    def table(self, level: str) -> LakeTable:
        return self.tables[_TABLES.get(level, "regional_aggregates")]

    def qualifiers(self, level: str) -> list[str]:
        found: list[str] = self.table(level).info["qualifiers"]
        return found


@dataclass(frozen=True)
class Piece:
    """Files of one folder that belong together."""

    level: str
    period: Period
    by_region: bool
    before: tuple[str, ...]
    after: tuple[str, ...]
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Comparing:
    """Compares a piece; runs on a worker."""

    before: Side
    after: Side
    limit: float

    def __call__(self, piece: Piece) -> Compared:
        old = self._read(self.before, piece, piece.before)
        new = self._read(self.after, piece, piece.after)
        if old is None and new is None:
            return Compared()
        old = new.slice(0, 0) if old is None and new is not None else old
        new = old.slice(0, 0) if new is None and old is not None else new
        return changes.compare(old, new, self.limit, by_region=piece.by_region)

    def _read(self, side: Side, piece: Piece, files: Sequence[str]) -> pa.Table | None:
        if not files:
            return None
        table = side.table(piece.level)
        groups: Iterable[pa.Table] = (
            group for name in files for group in side.lake.row_groups(table, name) if group.num_rows
        )
        if piece.parts > 1:
            groups = (changes.part_of(group, piece.part, piece.parts) for group in groups)
        held = list(groups)
        return pa.concat_tables(held).unify_dictionaries() if held else None


Map = Callable[[Callable[[Piece], Compared], Sequence[Piece]], list[Compared]]
"""Applies a function to pieces side by side; results in order."""


def threaded(function: Callable[[Piece], Compared], pieces: Sequence[Piece]) -> list[Compared]:
    """A map on some threads of this process."""
    with ThreadPoolExecutor(2, "compare") as threads:
        return list(threads.map(function, pieces))


def pieces_of(before: Side, after: Side, rows_at_once: int = ROWS_AT_ONCE) -> list[Piece]:
    """All that has to be compared."""
    found: list[Piece] = []
    for level in dict.fromkeys((*before.levels, *after.levels)):
        sides = [side if level in side.levels else None for side in (before, after)]
        qualifiers = sorted({name for side in sides if side for name in side.qualifiers(level)})
        for period, qualifier in itertools.product(RESOLUTIONS, (None, *qualifiers)):
            parts = () if level in (GLOBAL, GRID) else (level,)
            folder = aggregate_folder(period, *parts, qualifier=qualifier)
            by_region = qualifier is None and period == "month" and level != GRID
            files = [_features(side, side.table(level), folder) if side else {} for side in sides]
            rows = {
                (number, file.name): file.rows
                for number, side in enumerate(sides)
                if side
                for file in side.table(level).files
            }
            for old, new in _overlapping(*files):
                size = max(sum(rows[0, name] for name in old), sum(rows[1, name] for name in new))
                cuts = max(math.ceil(size / rows_at_once), 1)
                found += [Piece(level, period, by_region, old, new, part, cuts) for part in range(cuts)]
    return found


def _features(side: Side, table: LakeTable, folder: str) -> dict[str, frozenset[str]]:
    """Files of a folder, and the features that each has rows of."""
    names = table.names(folder)
    if len(names) <= 1:
        # All that there are: nobody has to look.
        return {name: frozenset(side.info.features) for name in names}
    return {
        name: frozenset(side.lake.read(table, name, ["feature"])["feature"].unique().to_pylist())
        for name in names
    }


def _overlapping(
    before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Files that have features in common with each other, together; each is in one of the groups."""
    files = [*((0, name, of) for name, of in before.items()), *((1, name, of) for name, of in after.items())]
    groups: list[tuple[set[str], list[tuple[int, str]]]] = []
    for side, name, features in files:
        together, members = set(features), [(side, name)]
        apart = []
        for others in groups:
            if others[0] & together:
                together |= others[0]
                members = [*others[1], *members]
            else:
                apart.append(others)
        groups = [*apart, (together, members)]
    return [
        tuple(tuple(name for where, name in members if where == side) for side in (0, 1))  # type: ignore[misc]
        for _, members in groups
    ]


@dataclass(frozen=True)
class Changes:
    """What changed between two versions."""

    limit: float
    """By how much regions have to move to be counted."""
    names: Mapping[str, Names]
    """Features, regions of each level, months, and values of each qualifier."""
    levels: Mapping[str, Mapping[str, Counts]]
    """Counts of each feature, by level."""
    movers: tuple[tuple[str, Mover], ...]
    """What changed most, with its level."""

    @property
    def total(self) -> Counts:
        return sum((one for of in self.levels.values() for one in of.values()), Counts())

    def to_json(self) -> dict[str, Any]:
        """As plain data: totals, names, features and levels by how much changed, and the largest movers."""
        lines = [
            {"feature": feature, "level": level, **_counts(counts)}
            for level, features in self.levels.items()
            for feature, counts in features.items()
            if counts.changed or counts.came or counts.went or counts.moved
        ]
        lines.sort(key=lambda one: (-one["changed"] - one["came"] - one["went"], one["feature"]))
        moved = [one for one in lines if one["moved"]]
        moved.sort(key=lambda one: -one["moved"] / one["regions"])
        return {
            "limit": self.limit,
            "figures": _counts(self.total),
            "names": {kind: asdict(one) for kind, one in self.names.items()},
            "moved_most": [
                {name: one[name] for name in ("feature", "level", "regions", "moved")}
                for one in moved[:MOST_MOVED]
            ],
            "by_feature": lines[:LISTED],
            "not_listed": max(len(lines) - LISTED, 0),
            "movers": [
                {
                    "level": level,
                    "month": str(month(np.array([one.timestamp]))[0]),
                    **{name: _finite(value) for name, value in asdict(one).items()},
                }
                for level, one in self.movers
            ],
        }


def _counts(counts: Counts) -> dict[str, Any]:
    document = asdict(counts)
    return {**document, "classes": dict(zip(CLASSES, counts.classes, strict=True))}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def changes_between(
    before: Side, after: Side, limit: float, mapped: Map = threaded, rows_at_once: int = ROWS_AT_ONCE
) -> Changes:
    """Compare two versions. Raises MissingTableError where tables of one are gone."""
    for side in (before, after):
        for name in NEEDED:
            if name not in side.tables:
                raise MissingTableError(f"the table {name} of a version that is compared is gone")
    pieces = pieces_of(before, after, rows_at_once)
    results = mapped(Comparing(before, after, limit), pieces)
    levels: dict[str, Compared] = {}
    for piece, result in zip(pieces, results, strict=True):
        levels[piece.level] = levels.get(piece.level, Compared()) + result
    movers = [(level, one) for level, of in levels.items() for one in of.movers]
    chosen = set(changes.largest([one for _, one in movers]))
    return Changes(
        limit,
        _names(before, after),
        {level: of.features for level, of in levels.items()},
        tuple(sorted((one for one in movers if one[1] in chosen), key=lambda one: -one[1].share)),
    )


def _names(before: Side, after: Side) -> dict[str, Names]:
    found = {"features": changes.names(pa.array(before.info.features), pa.array(after.info.features))}
    regions = [_regions(side) for side in (before, after)]
    for level in dict.fromkeys(name for of in regions for name in of):
        found[level] = changes.names(*(of.get(level, pa.array([], pa.string())) for of in regions))
    months = [
        side.lake.read_all(side.tables["global_aggregates"], aggregate_folder("month"), ["timestamp"])
        for side in (before, after)
    ]
    found["months"] = changes.names(*(_months(table["timestamp"]) for table in months))
    values = [side.lake.read(side.tables[POINTS], QUALIFIER_VALUES) for side in (before, after)]
    for qualifier in sorted({name for table in values for name in table["qualifier"].unique().to_pylist()}):
        some = (table.filter(pc.equal(table["qualifier"], qualifier))["value"] for table in values)
        found[f"values of {qualifier}"] = changes.names(*some)
    return found


def _regions(side: Side) -> dict[RegionLevel, pa.Array]:
    layout = side.info.layout
    if not layout.levels:
        return {}
    known = Regions.of(side.lake.read(side.tables[POINTS], REGIONS), layout.levels)
    return {level: known.ids(level) for level in layout.levels}


def _months(timestamps: pa.ChunkedArray) -> pa.Array:
    return pa.array(month(timestamps.unique().to_numpy(zero_copy_only=False)))


def month(timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """Times (ms UTC) as months: `2020-01`."""
    return timestamps.astype("datetime64[ms]").astype("datetime64[M]").astype(str)
