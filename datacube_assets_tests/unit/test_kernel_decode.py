"""Objects read back: what `encode.py` writes, what the original wrote, and what is neither."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datacube_assets.kernels.decode import Tile, UnreadableObjectError, csv_table, read_tile
from datacube_assets.kernels.encode import tile_objects
from datacube_assets.kernels.morton import deinterleave
from datacube_assets.kernels.projection import north_edges, quadkeys, west_edges
from datacube_assets_tests.unit.kernel_helpers import TILE, no_returns

# --- tiles -----------------------------------------------------------------------------------------

Stats = dict[int, tuple[float, float, float]]

numbers = st.one_of(st.just(0.0), st.floats(allow_nan=False, allow_infinity=False))
stats_of_bins = st.dictionaries(st.integers(0, 4095), st.tuples(numbers, numbers, numbers), max_size=40)


def by_library(zoom: int, x: int, y: int, stats: Stats, **old: Any) -> bytes:
    """A tile as the protobuf library writes it, as the original did: bins in no order."""
    tile = TILE()
    tile.coord.SetInParent()
    tile.coord.x, tile.coord.y, tile.coord.z = x, y, zoom
    tile.bins.totalBins = 4096
    for number, (t_sum, t_mean, weight) in stats.items():
        made = tile.bins.stats[number]
        made.s_sum_t_sum, made.s_sum_t_mean, made.weight = t_sum, t_mean, weight
        for name, value in old.items():
            setattr(made, name, value)
    written: bytes = tile.SerializeToString()
    return written


def contents(tile: Tile) -> tuple[tuple[int, int, int], Stats]:
    rows = zip(tile.s_sum_t_sum.tolist(), tile.s_sum_t_mean.tolist(), tile.s_count.tolist(), strict=True)
    return (tile.zoom, tile.x, tile.y), dict(zip(tile.bin.tolist(), rows, strict=True))


@settings(max_examples=60)
@given(st.integers(0, 8), st.integers(0, 300), st.integers(0, 300), stats_of_bins)
@example(0, 0, 0, {})
@example(0, 0, 0, {0: (0.0, 0.0, 0.0)})
@example(8, 255, 0, {number: (number + 0.5, 0.0, -1.0) for number in range(4096)})
def test_a_tile_of_the_protobuf_library_is_read_bin_by_bin(zoom: int, x: int, y: int, stats: Stats) -> None:
    tile = read_tile(by_library(zoom, x, y, stats))
    assert contents(tile) == ((zoom, x, y), stats)
    assert tile.bin.tolist() == sorted(stats)


@settings(max_examples=40)
@given(
    st.integers(0, 8), st.dictionaries(st.integers(0, 4095), st.tuples(numbers, numbers, numbers), min_size=1)
)
def test_a_tile_of_ours_is_read_as_the_library_reads_it(zoom: int, stats: Stats) -> None:
    figures = np.array([stats[number] for number in sorted(stats)]) + 0.0
    objects = tile_objects(
        pa.array(["tile"]), zoom, np.array([3], np.uint32), np.array([200], np.uint32),
        np.array([0, len(stats)]), np.array(sorted(stats), np.uint32), list(figures.T),
    )  # fmt: skip
    (body,) = map(bytes, objects.bodies())
    assert contents(read_tile(body)) == ((zoom, 3, 200), stats)


def test_old_sums_and_averages_are_passed_over() -> None:
    tile = read_tile(by_library(2, 1, 3, {5: (1.0, 2.0, 3.0)}, sum=7.0, avg=8.0))
    assert contents(tile) == ((2, 1, 3), {5: (1.0, 2.0, 3.0)})


def test_a_tile_that_was_cut_off_anywhere_is_refused() -> None:
    body = by_library(8, 155, 128, {7: (1.0, 2.0, 1.0), 4033: (4.0, 2.0, 1.0)})
    whole = contents(read_tile(body))
    for end in range(1, len(body)):
        try:
            assert contents(read_tile(body[:end])) != whole
        except UnreadableObjectError:
            continue
        # Without its last part, a message may be one still; the bins are a part of their own.
        assert end <= body.index(b"\x12")


@pytest.mark.parametrize(
    "body", [b"<html>", b"timestamp,s_count\n1,2\n", b"\xff" * 40, b"\x12\x03\x0a\x01\x20"]
)
def test_what_is_no_tile_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableObjectError, match="tile"):
        read_tile(body)


@settings(max_examples=100)
@given(st.floats(-85.05, 85.05), st.floats(-180, 180, exclude_max=True), st.integers(6, 14))
def test_a_point_lies_within_the_edges_of_its_subtile(lat: float, lng: float, precision: int) -> None:
    x, y = deinterleave(quadkeys(np.array([lat]), np.array([lng]), precision))
    near = 1e-9
    assert west_edges(x, precision)[0] - near <= lng <= west_edges(x + 1, precision)[0] + near
    assert north_edges(y + 1, precision)[0] - near <= lat <= north_edges(y, precision)[0] + near


def test_the_bins_of_a_tile_are_known_by_their_subtiles() -> None:
    # (lat 1, lng 37) is bin 1171 of tile 8-154-127 and bin 2022 of tile 0-0-0.
    for zoom, x, y, number in ((8, 154, 127, 1171), (0, 0, 0, 2022)):
        tile = read_tile(by_library(zoom, x, y, {number: (1.0, 1.0, 1.0)}))
        expected = deinterleave(quadkeys(np.array([1.0]), np.array([37.0]), tile.precision))
        assert (tile.subtile_x.tolist(), tile.subtile_y.tolist()) == tuple(part.tolist() for part in expected)


# --- CSV -------------------------------------------------------------------------------------------


def test_a_csv_is_read_by_the_places_of_its_columns() -> None:
    body = b"timestamp,s_sum_t_sum,s_count\n-302486400000,0.0,0\n1577836800000,,2\n"
    table = csv_table(body, ["time", "float", "whole"])
    assert table.schema.field("timestamp").type == pa.timestamp("ms", "UTC")
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [-302486400000, 1577836800000]
    assert table["s_sum_t_sum"].to_pylist() == [0.0, None]
    assert table["s_count"].to_pylist() == [0, 2]
    assert table.schema.field("s_count").type == pa.int64()


@settings(max_examples=100)
@given(
    st.lists(no_returns(), min_size=2, max_size=5), st.lists(st.tuples(no_returns(), st.floats()), max_size=5)
)
def test_names_and_texts_of_any_kind_come_back(names: list[str], lines: list[tuple[str, float]]) -> None:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[text, *[repr(value)] * (len(names) - 1)] for text, value in lines])
    table = csv_table(sink.getvalue().encode(), ["text", *["float"] * (len(names) - 1)])  # type: ignore[list-item]
    assert table.column_names == names
    assert table.column(0).to_pylist() == [text for text, _ in lines]
    for number in range(1, len(names)):
        values = table.column(number).to_numpy()
        assert np.array_equal(values, np.array([value for _, value in lines]), equal_nan=True)


def test_counts_of_the_original_with_a_fraction_are_whole_numbers() -> None:
    table = csv_table(b"timestamp,maize,teff\n-1,0,\n0,2,\n1,3,1.0\n", ["time", "whole", "whole"])
    assert table["teff"].to_pylist() == [None, None, 1]
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [-1, 0, 1]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\n", b"a,b\n1\n", b"a,b\n1,x\n", b"a,b\n1,1.5\n", b"a\n1\n"])
def test_what_is_no_such_csv_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableObjectError):
        csv_table(body, ["whole", "whole"])
