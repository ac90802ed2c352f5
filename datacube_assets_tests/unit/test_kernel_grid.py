"""Quadkeys, the pyramid of subtiles, and statistics over it."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datacube_assets.kernels import grid, grid_statistics, morton, projection, pyramid, runs
from datacube_assets.kernels.groups import Floats
from datacube_assets_tests.unit.kernel_helpers import JAN_2020, datacube, slippy

coordinates = st.integers(0, 2**16 - 1)


def subtile(lat: float, lng: float, precision: int = 14) -> tuple[int, int]:
    x, y = morton.deinterleave(projection.quadkeys(np.array([lat]), np.array([lng]), precision))
    return int(x[0]), int(y[0])


@settings(max_examples=200)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=1))
def test_interleaving_and_deinterleaving_are_inverse(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array([pair[i] for pair in pairs], np.uint32) for i in range(2))
    again = morton.deinterleave(morton.interleave(x, y))
    assert [part.tolist() for part in again] == [x.tolist(), y.tolist()]


@settings(max_examples=200)
@given(coordinates, coordinates)
def test_the_parent_of_a_quadkey_is_two_bits_shorter(x: int, y: int) -> None:
    code = morton.interleave(np.array([x], np.uint32), np.array([y], np.uint32))
    assert [int(part[0]) for part in morton.deinterleave(code >> np.uint32(2))] == [x // 2, y // 2]


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


def assert_rows_are_those_of_the_formula(lat: Floats) -> None:
    lat = lat[np.abs(lat) < projection.MERCATOR_LIMIT]
    rows = morton.deinterleave(projection.quadkeys(lat, np.zeros(len(lat))))[1]
    np.testing.assert_array_equal(rows, projection.mercator_rows(lat))


def edges_of_rows() -> Floats:
    rows = np.arange(1, 2**14)
    edges: Floats = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * rows / 2**14))))
    return edges


@pytest.mark.parametrize("distance", [0.0, *(10.0**power for power in range(-16, -6))])
def test_rows_on_both_sides_of_every_edge_are_those_of_the_formula(distance: float) -> None:
    for edges in (edges_of_rows() - distance, edges_of_rows() + distance):
        assert_rows_are_those_of_the_formula(edges)
        for towards in (-90.0, 90.0):
            assert_rows_are_those_of_the_formula(np.nextafter(edges, towards))


def test_rows_at_the_ends_of_the_strips_of_the_lookup_are_those_of_the_formula() -> None:
    ends = np.linspace(-86.0, 86.0, 2**17 + 1)
    for lat in (ends, np.nextafter(ends, -90), np.nextafter(ends, 90), ends - 1e-12, ends + 1e-12):
        assert_rows_are_those_of_the_formula(np.asarray(lat, np.float64))


def test_no_strip_of_the_lookup_meets_two_edges() -> None:
    assert np.diff(-edges_of_rows()).min() > 172 / 2**17 + 4e-9


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([85.1, 1.0, 1e-6, 1e-12]), st.integers(0, 40_000))
def test_rows_of_random_latitudes_are_those_of_the_formula(seed: int, scale: float, count: int) -> None:
    assert_rows_are_those_of_the_formula(np.random.default_rng(seed).uniform(-scale, scale, count))


@pytest.mark.parametrize("turns", [0.0, 360.0, -360.0, 720.0])
def test_columns_on_both_sides_of_every_edge_are_those_of_the_formula(turns: float) -> None:
    edges = np.arange(-180, 180, 360 / 2**14) + turns
    for lng in (edges, np.nextafter(edges, -1e3), np.nextafter(edges, 1e3)):
        columns = morton.deinterleave(projection.quadkeys(np.zeros(len(lng)), lng))[0]
        x = (projection.wrap_longitude(lng) + 180.0) / 360.0 * 2**14
        np.testing.assert_array_equal(columns, np.minimum(x.astype(np.int64), 2**14 - 1))


@settings(max_examples=200)
@given(st.floats(-1e6, 1e6))
@example(-180.00000000000003)
@example(180.0)
@example(540.0)
@example(-540.0)
def test_wrapped_longitudes_are_inside_and_the_same_place(lng: float) -> None:
    wrapped = float(projection.wrap_longitude(np.array([lng]))[0])
    assert -180 <= wrapped < 180
    turns = (lng - wrapped) / 360
    assert abs(turns - round(turns)) < 1e-9
    if -180 <= lng < 180:
        assert wrapped == lng, "bit by bit"


@pytest.mark.parametrize("lat", [85.06, 85.3, 90.0, 95.0, -85.06, -90.0, math.inf, -math.inf, math.nan])
def test_points_beyond_the_limit_are_off_the_map(lat: float) -> None:
    assert not projection.on_map(np.array([lat]), np.array([10.0]))[0]


@pytest.mark.parametrize("lng", [math.inf, -math.inf, math.nan])
def test_points_at_no_finite_longitude_are_off_the_map(lng: float) -> None:
    assert not projection.on_map(np.array([10.0]), np.array([lng]))[0]


@pytest.mark.parametrize("lat", [85.0511, -85.0511, 85.05112877980659, -85.05112877980659])
def test_the_edges_of_the_map_are_in_its_first_and_last_row(lat: float) -> None:
    assert projection.on_map(np.array([lat]), np.array([0.0]))[0]
    assert subtile(lat, 0.0)[1] == (0 if lat > 0 else 2**14 - 1)


def test_both_sides_of_the_antimeridian() -> None:
    assert [subtile(0.0, lng)[0] for lng in (-180.0, 180.0, 179.999, -179.999)] == [0, 0, 2**14 - 1, 0]


@pytest.mark.parametrize(("tile", "number"), [((8, 154, 127), 1171), ((0, 0, 0), 2022)])
def test_bin_of_a_point_in_kenya(tile: tuple[int, int, int], number: int) -> None:
    zoom, tile_x, tile_y = tile
    x, y = subtile(1.0, 37.0, zoom + 6)
    assert (x // 64, y // 64) == (tile_x, tile_y)
    level = pyramid.Level(
        zoom + 6,
        projection.quadkeys(np.array([1.0]), np.array([37.0]), zoom + 6),
        np.zeros(1, np.uint8),
        np.ones(1, np.int64),
        np.ones(1),
        np.ones(1),
    )
    assert level.zoom == zoom
    assert level.bin.tolist() == [number]
    assert [int(part[0]) for part in morton.deinterleave(level.tile)] == [tile_x, tile_y]


def test_a_longitude_of_a_0_to_360_grid_gets_reachable_tiles() -> None:
    made = datacube([{"lat": 1.0, "lng": lng, "value": 1.0} for lng in (0.5, 180.5, 359.5)])
    tiles = made.keys("month/", ".tile")
    assert len(tiles) == 24
    for key in tiles:
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
    statistics, starts = grid_statistics.grid_statistics(
        grid_table((1.0, 37.0, 2.0), (1.0, 37.1, 4.0), (50.0, -100.0, -1.0))
    )
    assert starts.tolist() == [0]
    assert statistics.shape == (1, 9, 8)
    largest = dict(zip(grid_statistics.GRID_STATISTICS, statistics[0, 0].tolist(), strict=True))
    assert largest["max_s_sum_t_sum"] == 6.0
    assert largest["max_s_mean_t_sum"] == 3.0
    assert largest["min_s_sum_t_mean"] == -1.0
    deepest = dict(zip(grid_statistics.GRID_STATISTICS, statistics[0, -1].tolist(), strict=True))
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
    assert not list(pyramid.pyramid(table))
    assert grid_statistics.grid_statistics(table)[0].shape == (0, 9, 8)
    assert grid.merge_grid([table, grid_table((1.0, 1.0, 2.0))]).num_rows == 1


# --- the pyramid -----------------------------------------------------------------------------------

Subtile = tuple[str, int, int]
"""Feature, time and quadkey."""
OVERFLOWING = 2.0**1017


@st.composite
def grid_tables(draw: st.DrawFn, scales: tuple[float, ...] = (1.0,)) -> pa.Table:
    """Tables of grid cells, some so dense that four become one, some so sparse that none do.

    Figures are whole multiples of the scale, so that sums are exact in any order.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, span = draw(st.integers(1, 400)), 4 ** draw(st.integers(1, 14))
    base = draw(st.integers(0, 4**14 - span))
    rows = {
        (int(random.integers(0, 2)), int(random.integers(-1, 2)), base + int(random.integers(0, span)))
        for _ in range(count)
    }
    feature, time, code = (np.array([row[i] for row in sorted(rows)], np.int64) for i in range(3))
    return pa.table(
        {
            "feature": pa.DictionaryArray.from_arrays(feature.astype(np.int32), ["f", "g"]),
            "timestamp": time,
            "quadkey": code.astype(np.uint32),
            "s_count": random.integers(0, 3, len(rows)),
            "s_sum_t_sum": random.integers(-99, 99, len(rows)).astype(float),
            "s_sum_t_mean": random.integers(-99, 99, len(rows)) * draw(st.sampled_from(scales)),
        }
    )


def expected_level(table: pa.Table, precision: int) -> dict[Subtile, tuple[int, float, float]]:
    level: dict[Subtile, list[tuple[int, float, float]]] = {}
    for row in table.to_pylist():
        key = (row["feature"], row["timestamp"], row["quadkey"] >> 2 * (14 - precision))
        level.setdefault(key, []).append((row["s_count"], row["s_sum_t_sum"], row["s_sum_t_mean"]))
    return {key: (sum(r[0] for r in rows), sum(r[1] for r in rows), sum(r[2] for r in rows))
            for key, rows in level.items()}  # fmt: skip


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "BLOCK_CELLS", 5)
    monkeypatch.setattr(projection, "BLOCK_POINTS", 5)
    monkeypatch.setattr(pyramid, "BLOCK_CELLS", 5)
    monkeypatch.setattr(pyramid, "PIECE_CELLS", 5)


def levels_of(table: pa.Table) -> dict[int, pyramid.Level]:
    pieces: dict[int, list[pyramid.Level]] = {}
    for level in pyramid.pyramid(table):
        pieces.setdefault(level.precision, []).append(level)
    return {precision: pyramid.Level.concat(levels) for precision, levels in pieces.items()}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grid_tables())
def test_every_level_is_the_sum_of_the_cells(small_pieces: None, table: pa.Table) -> None:
    buckets = table.take(pa.array(runs.bucket_starts(table))).to_pylist()
    levels = levels_of(table)
    assert list(levels) == list(reversed(morton.PRECISIONS))
    for precision, level in levels.items():
        numbers, codes = level.bucket.tolist(), level.quadkey.tolist()
        keys = [
            (buckets[number]["feature"], buckets[number]["timestamp"], code)
            for number, code in zip(numbers, codes, strict=True)
        ]
        expected = expected_level(table, precision)
        assert keys == sorted(expected)
        assert level.s_count.tolist() == [expected[key][0] for key in keys]
        for i, sums in enumerate((level.s_sum_t_sum, level.s_sum_t_mean), 1):
            assert sums.tolist() == [expected[key][i] for key in keys]
        starts = np.flatnonzero(level.begins <= level.zoom)
        tiles = list(zip(numbers, level.tile.tolist(), strict=True))
        assert starts.tolist() == [i for i in range(len(tiles)) if not i or tiles[i] != tiles[i - 1]]


@settings(max_examples=100)
@given(grid_tables((1.0, OVERFLOWING)))
def test_pieces_change_neither_the_levels_nor_the_statistics(table: pa.Table) -> None:
    whole, (statistics, starts) = levels_of(table), grid_statistics.grid_statistics(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "PIECE_CELLS", 3)
        pieces, (again, starts_again) = levels_of(table), grid_statistics.grid_statistics(table)
    np.testing.assert_array_equal(statistics, again)
    np.testing.assert_array_equal(starts, starts_again)
    for precision, level in whole.items():
        for name in ("quadkey", "begins", "s_count", "s_sum_t_sum", "s_sum_t_mean", "bucket", "bin"):
            np.testing.assert_array_equal(getattr(level, name), getattr(pieces[precision], name))


@settings(max_examples=100)
@given(grid_tables((1.0, OVERFLOWING)))
def test_statistics_are_those_of_the_levels(table: pa.Table) -> None:
    statistics, starts = grid_statistics.grid_statistics(table)
    for precision, level in levels_of(table).items():
        with np.errstate(all="ignore"):
            sums = (level.s_sum_t_sum, level.s_sum_t_mean)
            figures = [*sums, *(values / level.s_count for values in sums)]
        for bucket in range(len(starts)):
            here = [values[level.bucket == bucket] for values in figures]
            finite = [values[np.isfinite(values)] for values in here]
            expected = [f(v) if len(v) else np.nan for v in finite for f in (np.min, np.max)]
            np.testing.assert_array_equal(statistics[bucket, precision - 6], expected)


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.2]),
    st.integers(1, 6),
)
def test_sums_of_runs_are_those_of_numpy_bit_by_bit(seed: int, rows: int, kept: float, longest: int) -> None:
    random = np.random.default_rng(seed)
    first = random.random(rows) < kept
    # Runs of up to four rows, or longer ones.
    first[::longest] = True
    made = runs.Runs.of(np.append(first, True))
    assert (made is None) == bool(first.all())
    for values in (
        random.normal(size=rows) * 10.0 ** random.integers(-9, 9, rows),
        random.integers(0, 9, rows),
    ):
        if made is not None:
            expected = np.add.reduceat(values, np.flatnonzero(first))
            np.testing.assert_array_equal(made.sums(values), expected)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.booleans())
def test_cells_in_any_order_give_the_same_grid(small_pieces: None, seed: int, count: int, gaps: bool) -> None:
    random = np.random.default_rng(seed)
    cells = pa.table(
        {
            "feature": pa.array(random.choice(["a", "b"], count)).dictionary_encode(),
            "timestamp": random.integers(-2, 2, count),
            "lat": pa.array(random.integers(-95 if gaps else -80, 80, count).astype(float)),
            "lng": random.integers(-3, 3, count).astype(float),
            "t_sum": random.integers(0, 9, count).astype(float),
            "t_mean": pa.array(
                random.integers(0, 9, count), pa.float64(), mask=random.random(count) < gaps / 4
            ),
        }
    )
    expected: dict[Subtile, list[float]] = {}
    for row in cells.to_pylist():
        if abs(row["lat"]) < projection.MERCATOR_LIMIT:
            code = int(projection.quadkeys(np.array([row["lat"]]), np.array([row["lng"]]))[0])
            sums = expected.setdefault((row["feature"], row["timestamp"], code), [0, 0.0, 0.0])
            sums[0] += row["t_mean"] is not None
            sums[1] += row["t_sum"]
            sums[2] += row["t_mean"] or 0.0
    order = np.lexsort((cells["timestamp"].to_numpy(), np.array(cells["feature"].to_pylist())))
    ordered = cells.take(pa.array(order))
    half = count // 2
    parts = [grid.grid_cells(cells.slice(0, half)), grid.grid_cells(cells.slice(half))]
    for made in (grid.grid_cells(cells), grid.grid_cells(ordered), grid.merge_grid(parts)):
        assert [tuple(row.values()) for row in made.to_pylist()] == [
            (*key, *expected[key]) for key in sorted(expected)
        ]
        assert made.schema.types[1:] == [pa.int64(), pa.uint32(), pa.int64(), pa.float64(), pa.float64()]
