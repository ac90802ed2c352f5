"""The vocabulary of a datacube: columns, levels, resolutions, measures and the tables made of them.

Names, types and descriptions belong here, each once; validation, column metadata in the UI and the
reference documentation are all read from them. Computation does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

RegionLevel = Literal["country", "admin1", "admin2", "admin3"]
Resolution = Literal["month", "year"]
Period = Literal["month", "year", "all"]

REGION_LEVELS: Final[tuple[RegionLevel, ...]] = ("country", "admin1", "admin2", "admin3")
RESOLUTIONS: Final[tuple[Resolution, ...]] = ("month", "year")
COORDINATES: Final = ("lat", "lng")
FIXED_COLUMNS: Final = ("timestamp", *REGION_LEVELS, *COORDINATES, "feature", "value")
"""The nine columns of every file (docs/specification/dojo-files.md#columns); others are qualifiers."""
REQUIRED_COLUMNS: Final = ("timestamp", "feature", "value")

MISSING: Final = "None"
"""The text that stands for a missing region or qualifier."""
REGION_SEPARATOR: Final = "__"

_INDEX_COLUMN = re.compile(r"__index_level_\d+__|__null_dask_index__|Unnamed: \d+(\.\d+)*")


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of this type holds text, however it is stored."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(kind(type_) for kind in kinds)


def is_index_column(name: str) -> bool:
    """Whether a column is a leftover of a data frame's index and carries no data."""
    return _INDEX_COLUMN.fullmatch(name) is not None


@dataclass(frozen=True)
class Column:
    """One column of a lake table."""

    name: str
    type: str
    description: str
    of: tuple[str, ...] = ()
    """Columns of the table before that it is made from; none where that table has the same column."""

    @property
    def only_with_weights(self) -> bool:
        """Whether a table has it only where there is a weight column."""
        return "wavg" in self.name or self.name.startswith("weight")

    @property
    def origins(self) -> tuple[str, ...]:
        """Columns of the table before that it is made from."""
        return self.of or (self.name,)


QUALIFIER_COLUMNS = "(qualifiers)"
WEIGHT_COLUMN = "(weight column)"
"""What stands for the columns whose names the request says."""

_LEVEL_COLUMNS = tuple(
    Column(level, "string", f"Name of the {level}, `None` where it is missing; absent when no row has one")
    for level in REGION_LEVELS
)
_PLACE_COLUMNS = (
    *_LEVEL_COLUMNS,
    Column("lat", "double", "Latitude in degrees north, null where missing"),
    Column("lng", "double", "Longitude in degrees east, from -180 up to 180, null where missing"),
)
_FEATURE = Column("feature", "string", "Name of the model output or dataset column")
_BUCKET = Column("timestamp", "int64", "Start of the month or year (0 for the whole period), ms UTC")
_QUALIFIERS = Column(QUALIFIER_COLUMNS, "string", "One column per qualifier, `None` where it is missing")

POINT_COLUMNS: Final = (
    _FEATURE,
    Column("timestamp", "int64", "Time of the observation, ms UTC"),
    *_PLACE_COLUMNS,
    _QUALIFIERS,
    Column(WEIGHT_COLUMN, "double", "Weight of the row, 0 where missing; only with a weight column"),
    Column("value", "double", "The value, null where missing or infinite"),
)

CELL_COLUMNS: Final = (
    _FEATURE,
    _BUCKET,
    *_PLACE_COLUMNS,
    _QUALIFIERS,
    Column("rows", "int64", "Points in the cell", of=("value",)),
    Column("t_sum", "double", "Sum of the values, 0 when all are missing", of=("value",)),
    Column("t_mean", "double", "Mean of the values, null when all are missing", of=("value",)),
    Column(
        "t_wavg",
        "double",
        "Weighted mean of the values; only with a weight column",
        of=("value", WEIGHT_COLUMN),
    ),
    Column("weight", "double", "Mean weight of the points; only with a weight column", of=(WEIGHT_COLUMN,)),
)
"""Temporal cells (docs/specification/from-rows-to-figures.md#temporal-cells)."""

CELL_MEASURES: Final = ("rows", "t_sum", "t_mean", "t_wavg", "weight")

_SUM_COLUMNS = (
    Column("s_count", "int64", "Temporal cells that have a mean", of=("t_mean",)),
    Column("s_sum_t_sum", "double", "Sum of t_sum over the cells", of=("t_sum",)),
    Column("s_sum_t_mean", "double", "Sum of t_mean over the cells that have one", of=("t_mean",)),
)
_SPATIAL_COLUMNS = (Column("cells", "int64", "Temporal cells", of=("rows",)), *_SUM_COLUMNS)
_WEIGHTED_COLUMNS = (
    Column("wavg_cells", "int64", "Cells that have a weighted mean", of=("t_wavg",)),
    Column("s_sum_t_wavg", "double", "Sum of t_wavg over the cells that have one", of=("t_wavg",)),
    Column("weight_t_sum", "double", "Sum of weights", of=("weight",)),
    Column("weighted_t_sum", "double", "Sum of weight times t_sum", of=("weight", "t_sum")),
    Column(
        "weight_t_mean", "double", "Sum of weights of the cells that have a mean", of=("weight", "t_mean")
    ),
    Column("weighted_t_mean", "double", "Sum of weight times t_mean", of=("weight", "t_mean")),
    Column(
        "weight_t_wavg",
        "double",
        "Sum of weights of the cells that have a weighted mean",
        of=("weight", "t_wavg"),
    ),
    Column("weighted_t_wavg", "double", "Sum of weight times t_wavg", of=("weight", "t_wavg")),
)
_RANGE_COLUMNS = tuple(
    Column(f"s_{extreme}_{measure}", "double", f"{word} {measure} of the cells", of=(measure,))
    for measure in ("t_sum", "t_mean", "t_wavg")
    for extreme, word in (("min", "Smallest"), ("max", "Largest"))
)


@dataclass(frozen=True)
class Measure:
    """A further measure of the cells of a place, published as a figure in timeseries and regional objects."""

    name: str
    """Of the column, `s_{spatial}_{temporal}`, in the lake and in objects alike."""
    of: Literal["t_sum", "t_mean"]
    """The measure of a cell that it is made of."""
    merge: Literal["min", "max"]
    """How cells, and parts of a table, merge; missing values are passed over."""
    description: str

    @property
    def column(self) -> Column:
        return Column(self.name, "double", self.description, of=(self.of,))


FURTHER_MEASURES: Final[tuple[Measure, ...]] = ()
"""Declared here and nowhere else: computing, merging, columns, checks and objects follow."""
_FURTHER_COLUMNS = tuple(measure.column for measure in FURTHER_MEASURES)
RANGES: Final = tuple(
    column.name for column in _RANGE_COLUMNS if column.name not in {one.name for one in FURTHER_MEASURES}
)
"""Smallest and largest values that only the summary of the whole period has."""

_VALUE = Column(
    "value", "string", "Value of the qualifier; only in tables by qualifier", of=(QUALIFIER_COLUMNS,)
)

GLOBAL_COLUMNS: Final = (
    _FEATURE,
    _BUCKET,
    _VALUE,
    *_SPATIAL_COLUMNS,
    *_WEIGHTED_COLUMNS,
    *_FURTHER_COLUMNS,
    *(column for column in _RANGE_COLUMNS if column.name in RANGES),
)
REGIONAL_COLUMNS: Final = (
    _FEATURE,
    _BUCKET,
    Column("region_id", "string", "Names of the levels down to this one, joined by `__`", of=REGION_LEVELS),
    _VALUE,
    *_SPATIAL_COLUMNS,
    *_WEIGHTED_COLUMNS,
    *_FURTHER_COLUMNS,
)
GRID_COLUMNS: Final = (
    _FEATURE,
    _BUCKET,
    Column(
        "quadkey", "uint32", "Morton code of the subtile at precision 14, two bits a level", of=COORDINATES
    ),
    *_SUM_COLUMNS,
)

MEANS: Final = ("t_sum", "t_mean")
WEIGHTED_MEANS: Final = ("t_sum", "t_mean", "t_wavg")


def published_columns(weighted: bool) -> tuple[str, ...]:
    """Columns of timeseries and regional objects, in order (docs/objects.md#the-columns-of-figures)."""
    plain = ("s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean", "s_count")
    further = tuple(measure.name for measure in FURTHER_MEASURES)
    if not weighted:
        return (*plain, *further)
    weighed = ("s_sum_t_wavg", "s_mean_t_wavg", "s_wavg_t_sum", "s_wavg_t_mean", "s_wavg_t_wavg")
    return (*plain, *weighed, *further)


def summary_columns(weighted: bool) -> tuple[str, ...]:
    """Columns of `output_agg_values` (docs/objects.md#14-resultsjson)."""
    measures = WEIGHTED_MEANS if weighted else MEANS
    columns = tuple(f"s_{agg}_{measure}" for measure in measures for agg in ("min", "max", "sum", "mean"))
    return (*columns, *(f"s_wavg_{measure}" for measure in measures)) if weighted else columns


def region_levels(columns: Iterable[str]) -> tuple[RegionLevel, ...]:
    """The region levels among the columns, coarsest first."""
    present = set(columns)
    return tuple(level for level in REGION_LEVELS if level in present)


def has_coordinates(columns: Iterable[str]) -> bool:
    """Whether both coordinates are there, which is what tiles need."""
    return set(COORDINATES) <= set(columns)


_SAID = "qualifier:"
"""Before the name of a qualifier that would otherwise be another column's."""


def cell_column(qualifier: str) -> str:
    """Column of a qualifier in the lake tables: its own name, unless a measure has that name already."""
    taken = qualifier in CELL_MEASURES or qualifier.startswith(_SAID)
    return f"{_SAID}{qualifier}" if taken else qualifier


TEXT: Final = pa.dictionary(pa.int32(), pa.string())
"""How text columns travel: 32-bit codes into a sorted dictionary."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a run survived validation, and in which role."""

    levels: tuple[RegionLevel, ...]
    coordinates: tuple[str, ...]
    """Of `lat`, `lng`, those that hold any value."""
    qualifiers: tuple[str, ...]
    weight: str | None

    @property
    def mappable(self) -> bool:
        """Whether tiles can be made."""
        return has_coordinates(self.coordinates)

    @property
    def weighted(self) -> bool:
        return self.weight is not None
