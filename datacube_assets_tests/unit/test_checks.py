from __future__ import annotations

import pytest

from datacube_assets.checks.points import seconds_taken_for_milliseconds
from datacube_assets.datacube.normalize import Report

IN_2019, IN_2021 = 1_546_318_800, 1_609_459_200
"""Seconds UTC."""


def test_difference_13_times_in_seconds_are_warned_of() -> None:
    result = seconds_taken_for_milliseconds(Report(min_timestamp=IN_2019, max_timestamp=IN_2021), unit="ms")
    assert not result.passed
    assert "--timestamp-unit s" in str(result.description)


@pytest.mark.parametrize(
    ("first", "last", "unit"),
    [
        (IN_2019 * 1000, IN_2021 * 1000, "ms"),
        (IN_2019, IN_2021, "s"),
        (-IN_2021, IN_2021, "ms"),
        (0, 0, "ms"),
        (None, None, "ms"),
    ],
)
def test_other_times_pass(first: int | None, last: int | None, unit: str) -> None:
    report = Report(min_timestamp=first, max_timestamp=last)
    assert seconds_taken_for_milliseconds(report, unit=unit).passed
