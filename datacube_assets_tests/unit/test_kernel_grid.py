"""Quadkeys, the pyramid of subtiles, and statistics over it."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datacube_assets.datacube import grid
from datacube_assets.datacube.groups import Floats
from datacube_assets_tests.unit.kernel_helpers import JAN_2020, datacube, slippy

coordinates = st.integers(0, 2**16 - 1)


def subtile(lat: float, lng: float, precision: int = 14) -> tuple[int, int]:
    x, y = grid.deinterleave(grid.quadkeys(np.array([lat]), np.array([lng]), precision))
    return int(x[0]), int(y[0])


@settings(max_examples=200)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=1))
def test_interleaving_and_deinterleaving_are_inverse(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array([pair[i] for pair in pairs], np.uint32) for i in range(2))
    again = grid.deinterleave(grid.interleave(x, y))
    assert [part.tolist() for part in again] == [x.tolist(), y.tolist()]


@settings(max_examples=200)
@given(coordinates, coordinates)
def test_the_parent_of_a_quadkey_is_two_bits_shorter(x: int, y: int) -> None:
    code = grid.interleave(np.array([x], np.uint32), np.array([y], np.uint32))
    assert [int(part[0]) for part in grid.deinterleave(code >> np.uint32(2))] == [x // 2, y // 2]


@settings(max_examples=200)
@given(st.floats(-85.05, 85.05), st.floats(-180, 180, exclude_max=True), st.integers(0, 14))
@example(0.0, 0.0, 14)
@example(1.0, 37.0, 14)
@example(-0.4, 35.1, 14)
@example(85.0511, -180.0, 14)
@example(-85.0511, 179.99999999999997, 14)
def test_quadkeys_follow_the_slippy_map_formula(lat: float, lng: float, precision: int) -> None:
    x, y = slippy(lat, lng, precision)
    got = subtile(lat, lng, precision)
    assert got[0] == min(x, 2**precision - 1)
    if got[1] != y:
        # Right on an edge, the last digit of the tangent decides.
        exact = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**precision
        assert abs(exact - round(exact)) < 1e-9
        assert abs(got[1] - y) == 1


@settings(max_examples=200)
@given(st.floats(-1e6, 1e6))
@example(-180.00000000000003)
@example(180.0)
@example(540.0)
@example(-540.0)
def test_wrapped_longitudes_are_inside_and_the_same_place(lng: float) -> None:
    wrapped = float(grid.wrap_longitude(np.array([lng]))[0])
    assert -180 <= wrapped < 180
    turns = (lng - wrapped) / 360
    assert abs(turns - round(turns)) < 1e-9
    if -180 <= lng < 180:
        assert wrapped == lng, "bit by bit"


@pytest.mark.parametrize("lat", [85.06, 85.3, 90.0, 95.0, -85.06, -90.0, math.inf, -math.inf, math.nan])
def test_points_beyond_the_limit_are_off_the_map(lat: float) -> None:
    assert not grid.on_map(np.array([lat]), np.array([10.0]))[0]


@pytest.mark.parametrize("lng", [math.inf, -math.inf, math.nan])
def test_points_at_no_finite_longitude_are_off_the_map(lng: float) -> None:
    assert not grid.on_map(np.array([10.0]), np.array([lng]))[0]


@pytest.mark.parametrize("lat", [85.0511, -85.0511, 85.05112877980659, -85.05112877980659])
def test_the_edges_of_the_map_are_in_its_first_and_last_row(lat: float) -> None:
    assert grid.on_map(np.array([lat]), np.array([0.0]))[0]
    assert subtile(lat, 0.0)[1] == (0 if lat > 0 else 2**14 - 1)


def test_both_sides_of_the_antimeridian() -> None:
    assert [subtile(0.0, lng)[0] for lng in (-180.0, 180.0, 179.999, -179.999)] == [0, 0, 2**14 - 1, 0]


@pytest.mark.parametrize(("tile", "number"), [((8, 154, 127), 1171), ((0, 0, 0), 2022)])
def test_j14_bin_of_a_point_in_kenya(tile: tuple[int, int, int], number: int) -> None:
    zoom, tile_x, tile_y = tile
    x, y = subtile(1.0, 37.0, zoom + 6)
    assert (x // 64, y // 64) == (tile_x, tile_y)
    level = grid.Level(
        zoom + 6,
        np.zeros(1, np.int64),
        grid.quadkeys(np.array([1.0]), np.array([37.0]), zoom + 6),
        np.ones(1, np.int64),
        np.ones(1),
        np.ones(1),
    )
    assert level.zoom == zoom
    assert level.bin.tolist() == [number]
    assert [int(part[0]) for part in grid.deinterleave(level.tile)] == [tile_x, tile_y]


def test_a_longitude_of_a_0_to_360_grid_gets_reachable_tiles() -> None:
    made = datacube([{"lat": 1.0, "lng": lng, "value": 1.0} for lng in (0.5, 180.5, 359.5)])
    for key in made.keys("month/", ".tile"):
        _, z, x, y = key.rsplit("/", 1)[1].removesuffix(".tile").rsplit("-", 3)
        assert 0 <= int(x) < 2 ** int(z)
        assert 0 <= int(y) < 2 ** int(z)


def grid_table(*cells: tuple[float, float, float]) -> pa.Table:
    lat, lng, value = (np.array([cell[i] for cell in cells], np.float64) for i in range(3))
    missing: Floats = np.where(np.isnan(value), 0.0, value)
    table = pa.table(
        {
            "feature": pa.array(["f"] * len(cells)).dictionary_encode(),
            "timestamp": np.full(len(cells), JAN_2020),
            "lat": pa.array(lat, from_pandas=True),
            "lng": pa.array(lng, from_pandas=True),
            "rows": np.full(len(cells), 3),
            "t_sum": missing,
            "t_mean": pa.array(value, from_pandas=True),
        }
    )
    made = grid.grid_cells(table)
    return made


def test_several_places_in_one_subtile_add_up() -> None:
    table = grid_table((1.0, 37.0, 2.0), (1.0, 37.0000001, 3.0), (1.0, 37.0000002, math.nan))
    assert table.select(["s_count", "s_sum_t_sum", "s_sum_t_mean"]).to_pylist() == [
        {"s_count": 2, "s_sum_t_sum": 5.0, "s_sum_t_mean": 5.0}
    ]


def test_statistics_are_over_the_subtiles_of_each_precision() -> None:
    # Far apart: two subtiles at every precision. Near: one up to some precision, then two.
    statistics, starts = grid.grid_statistics(
        grid_table((1.0, 37.0, 2.0), (1.0, 37.1, 4.0), (50.0, -100.0, -1.0))
    )
    assert starts.tolist() == [0]
    assert statistics.shape == (1, 9, 8)
    largest = dict(zip(grid.GRID_STATISTICS, statistics[0, 0].tolist(), strict=True))
    assert largest["max_s_sum_t_sum"] == 6.0
    assert largest["max_s_mean_t_sum"] == 3.0
    assert largest["min_s_sum_t_mean"] == -1.0
    deepest = dict(zip(grid.GRID_STATISTICS, statistics[0, -1].tolist(), strict=True))
    assert deepest["max_s_sum_t_sum"] == deepest["max_s_mean_t_mean"] == 4.0


def test_cells_off_the_map_are_left_out() -> None:
    cells = pa.table(
        {
            "feature": pa.array(["f"] * 3).dictionary_encode(),
            "timestamp": np.full(3, JAN_2020),
            "lat": pa.array([1.0, None, 89.0]),
            "lng": pa.array([1.0, 1.0, 1.0]),
            "rows": np.array([1, 2, 4]),
            "t_sum": np.ones(3),
            "t_mean": np.ones(3),
        }
    )
    assert grid.grid_cells(cells)["s_count"].to_pylist() == [1]


def test_a_grid_without_points_has_no_levels_and_no_statistics() -> None:
    table = grid_table((89.0, 1.0, 1.0))
    assert table.num_rows == 0
    assert [len(level.quadkey) for level in grid.pyramid(table)] == [0] * 9
    assert grid.grid_statistics(table)[0].shape == (0, 9, 8)
    assert grid.merge_grid([table, grid_table((1.0, 1.0, 2.0))]).num_rows == 1
