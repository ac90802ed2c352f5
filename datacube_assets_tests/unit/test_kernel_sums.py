"""Sums that do not depend on the order of what is added."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.kernels.groups import Floats, Groups, Ints, group
from datacube_assets.kernels.sums import ExactSums, exact_sums

numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.lists(st.tuples(st.integers(0, 5), numbers | st.floats(-1e6, 1e6)), min_size=1, max_size=80)


def grouped(pairs: list[tuple[int, float]]) -> tuple[Ints, Floats, Groups]:
    keys = np.array([key for key, _ in pairs], np.int64)
    return keys, np.array([value for _, value in pairs], np.float64), group(keys, 6)


@given(rows, st.integers(0, 2**32 - 1))
def test_neither_order_nor_shards_change_a_bit(pairs: list[tuple[int, float]], seed: int) -> None:
    keys, values, groups = grouped(pairs)
    expected = exact_sums(values, groups)
    order = np.random.default_rng(seed).permutation(len(pairs))
    shuffled = exact_sums(values[order], group(keys[order], 6))
    assert shuffled.tobytes() == expected.tobytes()
    shard = order % 3
    parts = [(keys[shard == i], values[shard == i]) for i in range(3)]
    done = [(part[group(part, 6).first], ExactSums.of(some, group(part, 6))) for part, some in parts]
    joined = ExactSums(
        np.concatenate([sums.place for _, sums in done]),
        tuple(np.concatenate([sums.slices[i] for _, sums in done]) for i in range(3)),
    )
    merged = joined.merge(group(np.concatenate([part for part, _ in done]), 6)).values()
    assert merged.tobytes() == expected.tobytes()


@given(rows)
def test_a_sum_is_as_accurate_as_its_largest_number(pairs: list[tuple[int, float]]) -> None:
    _, values, groups = grouped(pairs)
    arranged = groups.arrange(values).tolist()
    bounds = [*groups.starts.tolist(), len(pairs)]
    for total, (start, end) in zip(exact_sums(values, groups).tolist(), pairwise(bounds), strict=True):
        some = arranged[start:end]
        try:
            exact = math.fsum(some)
        except OverflowError:
            assert not math.isfinite(total) or abs(total) > 1e308
            continue
        if len(some) == 1:
            assert total == exact
        assert abs(total - exact) <= (len(some) + 2) * 2.0**-53 * max(map(abs, some)) + 5e-324


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1e308, 1e308], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0, 2.0], math.nan),
        ([1e308, 1e308], math.inf),
        ([1e308, 1e308, -1e308], 1e308),
        ([5e-324, 5e-324, 1e-310], 1e-310 + 1e-323),
        ([0.0, -0.0], 0.0),
        ([0.1] * 10, 1.0),
        ([1e16, 1.0, -1e16], 1.0),
    ],
)
def test_odd_numbers_add_up_as_they_should(values: list[float], expected: float) -> None:
    keys = np.zeros(len(values), np.int64)
    total = float(exact_sums(np.array(values), group(keys, 1))[0])
    assert total == expected or (math.isnan(total) and math.isnan(expected))


def test_more_rows_than_a_block_are_added_exactly() -> None:
    values = np.full(300_001, 0.1)
    total = float(exact_sums(values, group(np.zeros(len(values), np.int64), 1))[0])
    assert total == math.fsum(values.tolist())
