"""How a table of the lake presents itself in the UI.

Column schemas are read from `datacube/schema.py`; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagster import TableColumn, TableSchema

from datacube_assets.datacube.schema import Column


def column_schema(columns: Sequence[Column]) -> TableSchema:
    """Columns of a lake table for an asset's definition."""
    return TableSchema(
        columns=[
            TableColumn(name=column.name, type=column.type, description=column.description)
            for column in columns
        ]
    )
