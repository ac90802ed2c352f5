"""A few random inputs of every kind, always the same ones, and those that once broke something.

The laws and strategies are in `fuzz.py`; `make fuzz` looks for new examples.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings

from datacube_assets_tests import fuzz

few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


MOMENTS = pa.array([1, 2], pa.timestamp("s"))
"""Two seconds of one day: as regions they lost their time, and became one."""
NAMELESS = {"timestamp": [0], "feature": ["f"], "value": [1.0], "": ["a"]}
"""A column without a name was taken for the weight column, which has none either, and vanished."""

HOLES = pa.array([float("nan"), None, 0.0])
"""As regions, cells that are no number and empty ones in one column stopped the reading."""


@few
@example(
    table=pa.table({"timestamp": [0] * 3, "feature": ["f"] * 3, "value": [1.0] * 3, "admin2": HOLES}),
    writer="plain",
)
@example(
    table=pa.table({"timestamp": [0, 0], "feature": ["f"] * 2, "value": [1.0] * 2, "country": MOMENTS}),
    writer="plain",
)
@example(table=pa.table(NAMELESS), writer="plain")
@given(**fuzz.TARGETS["tables"][1])
def test_a_random_table_becomes_what_a_plain_reading_makes_of_it(**arguments: Any) -> None:
    fuzz.table_law(**arguments)


@few
@given(**fuzz.TARGETS["bytes"][1])
def test_a_damaged_file_is_refused_or_conserved(**arguments: Any) -> None:
    fuzz.bytes_law(**arguments)


@few
@given(**fuzz.TARGETS["documents"][1])
def test_a_random_document_of_dojo_is_a_document_or_a_problem(**arguments: Any) -> None:
    fuzz.documents_law(**arguments)


@few
@example(document=None, left=b"null")
@given(**fuzz.TARGETS["requests"][1])
def test_a_random_request_is_refused_or_kept(**arguments: Any) -> None:
    fuzz.requests_law(**arguments)
