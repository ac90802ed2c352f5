"""What each column of a run becomes, decided from the profile of all its batches and the request.

The plan is applied to each batch by `normalize.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datacube_assets.kernels.errors import InputError, listed
from datacube_assets.kernels.profile import Profile
from datacube_assets.kernels.schema import (
    COORDINATES,
    FIXED_COLUMNS,
    Layout,
    region_levels,
)

TimeUnit = Literal["s", "ms", "us", "ns"]


@dataclass(frozen=True)
class Options:
    """What a request says about normalizing."""

    weight_column: str = ""
    fill_timestamp: int = 0
    """Milliseconds UTC for rows without a timestamp."""
    timestamp_unit: TimeUnit = "ms"
    """Unit of numeric timestamps."""
    max_unreadable_share: float = 0.1
    """Largest share of rows whose value is text that is no number, before the run is refused."""


@dataclass(frozen=True)
class Plan:
    """What each column of the run becomes."""

    layout: Layout
    whole: frozenset[str]
    """Number columns that print as integers, date columns that print without time."""
    mixed: frozenset[str]
    """Columns whose kind differs between parts."""
    options: Options
    floats: frozenset[str] = frozenset()
    """Columns of numbers of several types, which print as floats that are equal where the numbers are."""


def plan(columns: Profile, options: Options) -> Plan:
    """Decide which columns survive and what they are.

    Raises InputError when the weight column is unknown.
    """
    weight = options.weight_column
    if weight and (weight not in columns or weight in FIXED_COLUMNS):
        extra = sorted(set(columns) - set(FIXED_COLUMNS))
        raise InputError(
            f"the weight column {weight!r} is not among the qualifier columns",
            remedy=f"Name one of these: {listed(extra) or '(the files have none)'}",
        )
    filled = [name for name, column in columns.items() if column.filled]
    # A column without a name is a qualifier; no weight column has no name either.
    roles = {*FIXED_COLUMNS, weight} if weight else {*FIXED_COLUMNS}
    layout = Layout(
        levels=region_levels(filled),
        coordinates=tuple(name for name in COORDINATES if name in filled),
        qualifiers=tuple(name for name in filled if name not in roles),
        weight=weight if weight and weight in filled else None,
    )
    whole = frozenset(name for name, column in columns.items() if column.whole)
    # Whole numbers become floats where a part has floats; other kinds have only text in common.
    mixed = frozenset(
        name for name, column in columns.items() if len(column.kinds) > 1 and column.kinds != {"i", "f"}
    )
    floats = frozenset(name for name, column in columns.items() if len(column.scales) > 1)
    return Plan(layout, whole, mixed, options, floats)
