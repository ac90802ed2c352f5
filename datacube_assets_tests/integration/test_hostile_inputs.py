"""Broken and odd inputs: each is refused by name, or becomes exactly the points that it should.

The corpus is in `hostile.py`. It goes the way of real parts, through `normalize_parts` on a lake folder;
what is made of names that mean harm is published as well. Odd inputs of good will are in `test_odd_inputs.py`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from datacube_assets.datacube.errors import InputError
from datacube_assets.datacube.temporal import temporal_cells
from datacube_assets_tests.hostile import (
    COLUMNS,
    FILES,
    RUN,
    Case,
    Made,
    Points,
    Refused,
    normalize_files,
    typed,
)


def check(case: Case, folder: Path) -> None:
    """Run a case, hold it to its outcome, and see that nothing was written but the run's own folder."""
    try:
        made = normalize_files(folder, *case.files(), **case.request)
    except InputError as error:
        told = str(error.in_run(str(RUN)))
        assert isinstance(case.outcome, Refused), told
        for said in case.outcome.said:
            assert said in told
        assert len(told) < 2000
        assert told.isprintable(), "a message is one line, and hides nothing"
        assert error.remedy
    else:
        assert isinstance(case.outcome, Points), made.points
        check_points(made, case.outcome)
        check_conserved(made)
    written = {path.relative_to(folder).parts[:4] for path in folder.rglob("*") if path.is_file()}
    assert written <= {("lake", "runs", RUN.model_id, RUN.run_id)}


def check_points(made: Made, expected: Points) -> None:
    for name, values in expected.columns.items():
        assert made.points[name].to_pylist() == list(values), name
    for name, count in expected.counts.items():
        assert getattr(made.info.report, name) == count, name
    assert not set(expected.gone) & set(made.points.column_names)


def check_conserved(made: Made) -> None:
    """Rows in are rows out and those that are counted as dropped; every row out is in one cell."""
    report, points = made.info.report, made.points
    counted = report.missing_features + report.num_invalid_ts + report.unreadable_values
    assert report.points == points.num_rows
    assert report.num_rows - counted <= points.num_rows <= report.num_rows
    assert report.dropped == 0 or counted > 0
    values = points["value"].drop_null().to_numpy()
    assert np.isfinite(values).all()
    for _, cells in temporal_cells(points, made.info.layout, made.info.periods):
        assert pc.sum(cells["rows"]).as_py() == points.num_rows
        if np.abs(values).max(initial=0.0) < 1e300:
            total = math.fsum(cells["t_sum"].to_pylist())
            assert math.isclose(total, math.fsum(values), rel_tol=1e-9, abs_tol=1e-300)


@pytest.mark.parametrize("name", FILES)
def test_a_broken_or_odd_file_is_refused_by_name_or_read_exactly(name: str, tmp_path: Path) -> None:
    check(FILES[name], tmp_path)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_in_any_role_is_refused_by_name_or_read_exactly(
    name: str, tmp_path: Path
) -> None:
    for case, steps in typed(name).items():
        try:
            check(steps, tmp_path / case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
