"""Who wrote a file, and how, makes no difference: every column is read exactly, or refused by name.

Writers and encodings are in `writers.py`, columns of every type with what they become in `hostile.py`. One
role for each type by each writer is tried always, all of them where slow tests are asked for.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest

from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.normalize import normalize
from datacube_assets.kernels.parts import Part
from datacube_assets.kernels.plan import Options, plan
from datacube_assets.kernels.profile import merge_profiles, profile
from datacube_assets.kernels.report import Report, check_values
from datacube_assets_tests.hostile import COLUMNS, ROLES, Column, Outcome, Refused, words
from datacube_assets_tests.integration.support import JANUARY, rows
from datacube_assets_tests.writers import CANNOT, WRITERS


def made_of(body: bytes, role: str) -> tuple[pa.Table, Report]:
    """The points of a file in memory. Raises InputError."""
    part = Part(cast(Any, io.BytesIO(body)), "file-0")
    batches = list(part.batches())
    what = plan(
        merge_profiles(map(profile, batches)), Options(weight_column="people" if role == "people" else "")
    )
    made = [normalize(batch, what) for batch in batches]
    report = sum((one for _, one in made), Report())
    check_values(report, what.options)
    return pa.concat_tables([points for points, _ in made]), report


def check(body: bytes, outcome: Outcome, role: str) -> None:
    told = ""
    try:
        points, report = made_of(body, role)
    except InputError as error:
        error.file = "file-0"
        told = str(error)
    if told:
        assert isinstance(outcome, Refused), told
        assert [said for said in outcome.said if said not in told] == []
        return
    if isinstance(outcome, Refused):
        # Rows without any feature are refused where all parts are known.
        assert "none of its" in outcome.said[0]
        assert not report.points
        return
    found = {name: points[name].to_pylist() for name in outcome.columns}
    assert found == {name: list(values) for name, values in outcome.columns.items()}
    assert {name: getattr(report, name) for name in outcome.counts} == dict(outcome.counts)
    assert not set(outcome.gone) & set(points.column_names)


def is_lost(writer: str, column: str, role: str) -> bool:
    """Whether the writer writes the column as one of another type, which says nothing of what it was."""
    if column == "timestamp of no known zone":
        return not writer.startswith("Arrow") or any(kind in writer for kind in ("schema", "96", "Spark"))
    if column == "duration":
        return writer == "Arrow, without its schema"
    if "fastparquet" in writer:
        # Fractions lose their zeros, and numbers with gaps become floats.
        return column.startswith("decimal") and role in ("country", "feature", "crop")
    return False


AS_JSON = {
    column: words(pa.array([text] * 4), text)
    for column, text in (("struct", '{"a":1}'), ("map", '[["a",1]]'))
}
"""What fastparquet makes of nested cells: text, marked as JSON."""


def written_by(writer: str, column: str) -> Column:
    """What a writer makes of a column."""
    if "fastparquet" in writer and column in AS_JSON:
        return AS_JSON[column]
    if "Polars" in writer and column == "uuid":
        return COLUMNS["binary"]  # it leaves out what the bytes mean
    return COLUMNS[column]


def check_column(writer: str, column: str, roles: Sequence[str]) -> int:
    written = 0
    for role in roles:
        if is_lost(writer, column, role):
            continue
        try:
            body = WRITERS[writer](rows(**{role: COLUMNS[column].values}))
        except CANNOT:
            continue
        written += 1
        try:
            check(body, written_by(writer, column).outcome(role), role)
        except AssertionError as error:
            raise AssertionError(f"{column} as {role}: {error}") from error
    return written


@pytest.mark.parametrize("writer", WRITERS)
def test_a_column_of_any_type_is_read_alike_whoever_wrote_it(writer: str) -> None:
    at = list(WRITERS).index(writer)
    written = [
        check_column(writer, column, [ROLES[(at + number) % len(ROLES)]])
        for number, column in enumerate(COLUMNS)
    ]
    assert sum(written) > 0.7 * len(COLUMNS), "most types can be written"


def test_the_types_of_duckdb_that_no_other_writer_has_are_text_and_numbers(tmp_path: Path) -> None:
    columns = {
        "timestamp": "timestamptz '2020-01-01 03:00:00+03:00'",
        "feature": "'rain'::enum('rain', 'wind')",
        "value": "1.5",
        "season": "2::hugeint",
        "crop": """'{"a": 1}'::json""",
        "bits": "'101'::bit",
        "household": "'550E8400-e29b-41d4-a716-446655440000'::uuid",
        "until": "'infinity'::timestamp",
    }
    chosen = ", ".join(f"{expression} as {name}" for name, expression in columns.items())
    with duckdb.connect() as connection:
        connection.execute(f"copy (select {chosen}) to '{tmp_path}/file' (format parquet)")
    (point,) = made_of((tmp_path / "file").read_bytes(), "value")[0].to_pylist()
    del point["until"]
    assert point == {
        "feature": "rain",
        "timestamp": JANUARY,
        "season": "2",
        "crop": '{"a": 1}',
        "bits": "101",
        "household": "550e8400-e29b-41d4-a716-446655440000",
        "value": 1.5,
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_column_of_any_type_in_any_role_is_read_alike_whoever_wrote_it(writer: str) -> None:
    for column in COLUMNS:
        check_column(writer, column, ROLES)


# --- npm -------------------------------------------------------------------------------------------

PACKAGES = (
    "@dsnp/parquetjs@1.8.8",
    "apache-arrow@21.2.0",
    "hyparquet-writer@0.17.0",
    "parquet-wasm@0.8.0",
    "parquetjs@0.11.2",
)
SCRIPT = Path(__file__).parent.parent / "writers.mjs"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm")
def test_files_of_the_writers_of_npm_are_read_alike(tmp_path: Path) -> None:
    """Fetches the packages, so it needs npm's registry; without it, it skips itself."""
    (tmp_path / "package.json").write_text(json.dumps({"private": True}))
    shutil.copy(SCRIPT, tmp_path)
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    if subprocess.run(install, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("the packages cannot be fetched")
    subprocess.run(["node", SCRIPT.name, tmp_path], cwd=tmp_path, capture_output=True, check=True)
    files = sorted(tmp_path.glob("*.parquet"))
    assert len(files) == 10
    for file in files:
        points, _ = made_of(file.read_bytes(), "crop")
        assert points.to_pydict() == {
            "feature": ["rain"] * 4,
            "timestamp": [1577836800000 + day * 86_400_000 for day in range(4)],
            "country": ["Kenya"] * 4,
            "lat": [1.5, 2.5, 3.5, 4.5],
            "lng": [36.5] * 4,
            "crop": ["None", "maize"] * 2,
            "seen": ["True", "False"] * 2,
            "value": [0.5, 1.5, 2.5, 3.5],
        }, file.name
