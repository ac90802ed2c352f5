"""What changed between two tables, held against counting by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.kernels.changes import CLASSES, Compared, Counts, compare, names, part_of
from datacube_assets.kernels.schema import FURTHER_MEASURES, TEXT, published_columns

LIMIT = 0.5
FIGURES = len(published_columns(weighted=False))
"""Published figures of a table without weights."""
Row = tuple[str, int, str, int, float | None]
"""Feature, time, region, cells, and the sum of their values."""


def table(rows: Sequence[Row], **more: Any) -> pa.Table:
    """An aggregate table by region, in order of its keys, as the lake keeps it."""
    rows = sorted(rows, key=lambda row: row[:3])
    features, times, regions, cells, sums = (list(of) for of in zip(*rows, strict=True)) if rows else [[]] * 5
    present = [0 if value is None else number for value, number in zip(sums, cells, strict=True)]
    plain = [0.0 if value is None else value for value in sums]
    columns = {
        "feature": pa.array(features, pa.string()).cast(TEXT),
        "timestamp": pa.array(times, pa.int64()),
        "region_id": pa.array(regions, pa.string()).cast(TEXT),
        "cells": pa.array(cells, pa.int64()),
        "s_count": pa.array(present, pa.int64()),
        "s_sum_t_sum": pa.array(plain, pa.float64()),
        "s_sum_t_mean": pa.array(plain, pa.float64()),
        # Further figures are missing on both sides.
        **{one.name: pa.nulls(len(rows), pa.float64()) for one in FURTHER_MEASURES},
    }
    return pa.table({**columns, **more})


def test_a_table_is_the_same_as_itself() -> None:
    one = table([("rain", 0, "Kenya", 2, 5.0), ("rain", 1, "Kenya", 2, None)])
    found = compare(one, one, LIMIT, by_region=True)
    assert found == Compared({"rain": Counts(compared=2 * FIGURES, regions=1)})


def test_a_figure_that_changed_is_counted_by_how_much_and_listed() -> None:
    before = table([("rain", 0, "Kenya", 2, 10.0), ("rain", 0, "Chad", 1, 100.0)])
    after = table([("rain", 0, "Kenya", 2, 10.5), ("rain", 0, "Chad", 1, 300.0)])
    found = compare(before, after, LIMIT, by_region=True)
    counts = found.features["rain"]
    # Both sums and both means; the number of cells is as it was.
    assert (counts.compared, counts.changed, counts.came, counts.went) == (2 * FIGURES, 8, 0, 0)
    assert dict(zip(CLASSES, counts.classes, strict=True)) == {
        "up to 1 %": 0,
        "up to 10 %": 4,
        "up to 50 %": 0,
        "more": 4,
    }
    assert (counts.regions, counts.moved) == (2, 1)
    first = found.movers[0]
    assert (first.region, first.before, first.after, first.share) == ("Chad", 100.0, 300.0, 2.0)
    assert {one.figure for one in found.movers} == {"s_sum_t_sum", "s_mean_t_mean"}


def test_what_differs_in_the_last_digits_is_the_same() -> None:
    before = table([("rain", 0, "Kenya", 1, 0.1 + 0.2)])
    after = table([("rain", 0, "Kenya", 1, 0.3)])
    assert compare(before, after, LIMIT, by_region=True).features["rain"].changed == 0


def test_a_figure_that_appears_or_vanishes_is_no_small_change() -> None:
    there, gone = table([("rain", 0, "Kenya", 1, 0.0)]), table([("rain", 0, "Kenya", 1, None)])
    for before, after in ((there, gone), (gone, there)):
        counts = compare(before, after, LIMIT, by_region=True).features["rain"]
        # s_mean_t_mean is there or not, s_count is 0 or 1; the sums are 0.
        assert counts.changed == counts.classes[-1] == 2


def test_regions_that_are_gone_have_moved_and_new_ones_have_not() -> None:
    before = table([("rain", 0, "Kenya", 1, 1.0), ("rain", 0, "Chad", 1, 1.0)])
    after = table([("rain", 0, "Kenya", 1, 1.0), ("rain", 0, "Mali", 1, 1.0)])
    counts = compare(before, after, LIMIT, by_region=True).features["rain"]
    assert (counts.regions, counts.moved, counts.came, counts.went) == (2, 1, FIGURES, FIGURES)


def test_sums_that_cancel_do_not_hide_that_a_region_moved() -> None:
    before = table([("rain", 0, "Kenya", 1, 10.0), ("rain", 1, "Kenya", 1, -10.0)])
    after = table([("rain", 0, "Kenya", 1, -10.0), ("rain", 1, "Kenya", 1, 10.0)])
    assert compare(before, after, LIMIT, by_region=True).features["rain"].moved == 1


def test_a_new_month_moves_no_region() -> None:
    before = table([("rain", 0, "Kenya", 1, 1.0)])
    after = table([("rain", 0, "Kenya", 1, 1.0), ("rain", 1, "Kenya", 1, 100.0)])
    counts = compare(before, after, LIMIT, by_region=True).features["rain"]
    assert (counts.moved, counts.came, counts.changed) == (0, FIGURES, 0)


def test_a_feature_of_one_side_only_came_or_went() -> None:
    before, after = table([("rain", 0, "Kenya", 1, 1.0)]), table([("snow", 0, "Kenya", 1, 1.0)])
    found = compare(before, after, LIMIT, by_region=True).features
    assert (found["rain"].went, found["rain"].moved, found["snow"].came) == (FIGURES, 1, FIGURES)
    assert compare(before.slice(0, 0), after, LIMIT, by_region=True).features["snow"].came == FIGURES


def test_infinite_sums_are_no_figures() -> None:
    before, after = table([("rain", 0, "Kenya", 1, math.inf)]), table([("rain", 0, "Kenya", 1, 1.0)])
    found = compare(before, after, LIMIT, by_region=True)
    assert found.features["rain"].changed == 4
    assert all(math.isnan(one.before) for one in found.movers)


def test_tables_by_qualifier_and_subtile_are_matched_by_these_too() -> None:
    two = [("rain", 0, "Kenya", 1, 1.0), ("rain", 1, "Kenya", 1, 2.0)]
    before = table(two, value=pa.array(["maize", "maize"]).cast(TEXT))
    after = table(two, value=pa.array(["maize", "teff"]).cast(TEXT))
    counts = compare(before, after, LIMIT, by_region=False).features["rain"]
    assert (counts.compared, counts.came, counts.went, counts.regions) == (FIGURES, FIGURES, FIGURES, 0)
    columns = ["feature", "timestamp", "s_count", "s_sum_t_sum", "s_sum_t_mean"]
    one, other = (
        table(two).select(columns).append_column("quadkey", pa.array(keys, pa.uint32()))
        for keys in ([1, 2**32 - 1], [1, 7])
    )
    counts = compare(one, other, LIMIT, by_region=False).features["rain"]
    assert (counts.compared, counts.came, counts.went) == (4, 4, 4)


REGION_ROWS = st.dictionaries(
    st.tuples(
        st.sampled_from(["rain", "snow", "a/b", "é"]),
        st.integers(0, 3),
        st.sampled_from(["Kenya", "Chad", "Mali", "Kenya__Nairobi", "\x00"]),
    ),
    st.tuples(st.integers(1, 5), st.none() | st.floats(-1e6, 1e6)),
    max_size=30,
)


def rows_of(drawn: dict[tuple[str, int, str], tuple[int, float | None]]) -> list[Row]:
    return [(*key, *rest) for key, rest in drawn.items()]


@given(REGION_ROWS, REGION_ROWS)
def test_counts_are_those_of_counting_by_hand(before: Any, after: Any) -> None:
    found = compare(table(rows_of(before)), table(rows_of(after)), LIMIT, by_region=True).features
    for feature in {key[0] for key in (*before, *after)}:
        old, new = ({key: of for key, of in some.items() if key[0] == feature} for some in (before, after))
        counts = found[feature]
        assert counts.compared == FIGURES * len(old.keys() & new.keys())
        assert counts.came == FIGURES * len(new.keys() - old.keys())
        assert counts.went == FIGURES * len(old.keys() - new.keys())
        changed = sum(differing(old[key], new[key]) for key in old.keys() & new.keys())
        assert counts.changed == sum(counts.classes) == changed
        regions = {key[2] for key in old}
        assert counts.regions == len(regions)
        gone = regions - {key[2] for key in new}
        assert len(gone) <= counts.moved <= len(regions)


def differing(old: tuple[int, float | None], new: tuple[int, float | None]) -> int:
    """How many of the five figures differ."""

    def figures(cells: int, total: float | None) -> list[float | None]:
        known = total or 0.0
        count = 0 if total is None else cells
        return [known, known / cells, known, known / count if count else None, float(count)]

    return sum(
        (a is None) != (b is None) or (a is not None and b is not None and abs(a - b) > 1e-9 * abs(a))
        for a, b in zip(figures(*old), figures(*new), strict=True)
    )


@given(REGION_ROWS, REGION_ROWS, st.integers(2, 5))
def test_parts_add_up_to_the_whole(before: Any, after: Any, parts: int) -> None:
    old, new = table(rows_of(before)), table(rows_of(after))
    whole = compare(old, new, LIMIT, by_region=True)
    pieces = [
        compare(part_of(old, number, parts), part_of(new, number, parts), LIMIT, by_region=True)
        for number in range(parts)
    ]
    added = sum(pieces, Compared())
    assert added.features == whole.features
    # Which of them are listed depends on the largest figure of the part: at least they are all there.
    assert bool(added.movers) == bool(whole.movers)


@pytest.mark.parametrize("kind", [pa.string(), TEXT])
def test_names_that_came_and_went_are_sorted_and_not_too_many(kind: pa.DataType) -> None:
    before = pa.array([f"r{number:03}" for number in range(100)] + ["r000"], pa.string()).cast(kind)
    after = pa.array(["r099", "z", "\x07"], pa.string()).cast(kind)
    found = names(before, after)
    assert (found.before, found.after, found.came_count, found.went_count) == (100, 3, 2, 99)
    assert found.came == ("\x07", "z")
    assert found.went == tuple(f"r{number:03}" for number in range(20))


def test_figures_that_only_one_of_two_tables_has_came_or_went() -> None:
    rows: list[Row] = [("rain", 0, "Kenya", 2, 5.0), ("rain", 1, "Kenya", 2, 7.0)]
    plain = table(rows)
    weighted = table(
        rows[:1],
        wavg_cells=pa.array([2]),
        s_sum_t_wavg=pa.array([2.0]),
        **{
            f"{kind}_{measure}": pa.array([1.0])
            for kind in ("weight", "weighted")
            for measure in ("t_sum", "t_mean", "t_wavg")
        },
    )
    more = len(published_columns(weighted=True)) - FIGURES
    there = compare(weighted, plain, LIMIT, by_region=True).features["rain"]
    assert (there.compared, there.came, there.went) == (FIGURES, FIGURES, more)
    back = compare(plain, weighted, LIMIT, by_region=True).features["rain"]
    assert (back.compared, back.came, back.went) == (FIGURES, more, FIGURES)


def test_subtiles_that_are_in_no_tile_are_not_compared() -> None:
    def grid(count: int, total: float) -> pa.Table:
        columns = {
            "feature": pa.array(["rain"] * 2).cast(TEXT),
            "timestamp": pa.array([0, 0]),
            "quadkey": pa.array([1, 2], pa.uint32()),
            "s_count": pa.array([1, count]),
            "s_sum_t_sum": pa.array([5.0, total]),
            "s_sum_t_mean": pa.array([5.0, total]),
        }
        return pa.table(columns)

    for empty in (grid(0, 0.0), grid(1, math.inf)):
        found = compare(grid(1, 2.0), empty, LIMIT, by_region=False).features["rain"]
        assert (found.compared, found.changed, found.came, found.went) == (4, 0, 0, 4)
