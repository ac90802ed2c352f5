"""Has every table the columns that `kernels/schema.py` declares, with their types and in their order?

The vocabulary declares all columns that a table may have. Which of them a run's table has follows from the
run's layout; that is decided here, and compared with the schema of the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.kernels.schema import (
    COORDINATES,
    QUALIFIER_COLUMNS,
    RANGES,
    REGION_LEVELS,
    WEIGHT_COLUMN,
    Column,
    Layout,
    cell_column,
)

Declared = list[tuple[str, str]]
"""Names and types of columns, in order."""

_TEXTS = (pa.types.is_string, pa.types.is_large_string)


def declared(
    columns: Sequence[Column],
    layout: Layout,
    *,
    cells: bool = False,
    by_qualifier: bool = False,
    ranges: bool = False,
) -> Declared:
    """The columns that a table of a run has, of those that are declared.

    `cells`: qualifiers have the names that they have beside measures; `by_qualifier`: a table by
    qualifier; `ranges`: the smallest and largest values are there, too.
    """
    found: Declared = []
    for one in columns:
        if one.name == QUALIFIER_COLUMNS:
            found += [(cell_column(name) if cells else name, one.type) for name in layout.qualifiers]
        elif one.name == WEIGHT_COLUMN:
            found += [(layout.weight, one.type)] if layout.weight else []
        elif _is_there(one, layout, by_qualifier=by_qualifier, ranges=ranges):
            found.append((one.name, one.type))
    return found


def _is_there(one: Column, layout: Layout, *, by_qualifier: bool, ranges: bool) -> bool:
    if one.name in REGION_LEVELS:
        return one.name in layout.levels
    if one.name in COORDINATES:
        return one.name in layout.coordinates
    if one.name == "value" and one.type == "string":
        return by_qualifier
    if one.name in RANGES and not ranges:
        return False
    return layout.weighted or not one.only_with_weights


def columns_as_declared(files: Mapping[str, tuple[Declared, pa.Schema]]) -> Verdict:
    """Whether the files of tables have the columns that they should have; both are given by file."""
    wrong = {name: said for name, (wanted, schema) in files.items() if (said := _difference(wanted, schema))}
    return Verdict(
        not wrong,
        f"Files have other columns than kernels/schema.py declares: {names(sorted(wrong))}. "
        "Materialize the asset again"
        if wrong
        else "Columns, their types and their order are as declared.",
        {"files": len(files), "differing": dict(sorted(wrong.items())[:EXAMPLES])},
    )


def _difference(wanted: Declared, schema: pa.Schema) -> str:
    found = [(field.name, _type_name(field.type)) for field in schema]
    if found == wanted:
        return ""
    missing = [name for name, _ in wanted if name not in schema.names]
    unknown = [name for name in schema.names if name not in dict(wanted)]
    types = [
        f"{name} is {kind} instead of {dict(wanted)[name]}"
        for name, kind in found
        if name in dict(wanted) and dict(wanted)[name] != kind
    ]
    said = [
        *([f"missing: {names(missing)}"] if missing else []),
        *([f"not declared: {names(unknown)}"] if unknown else []),
        *types,
    ]
    return "; ".join(said) or f"another order: {names(schema.names)}"


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return "string" if any(is_text(kind) for is_text in _TEXTS) else str(kind)
