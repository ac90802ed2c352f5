"""Bytes of objects: CSV cells and lines, JSON, tiles."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datacube_assets.kernels import encode
from datacube_assets.kernels.encode import (
    Objects,
    csv_header,
    csv_lines,
    csv_objects,
    float_cells,
    json_body,
    quote,
    text_cells,
    tile_objects,
)
from datacube_assets.kernels.groups import Floats, encode_text
from datacube_assets_tests.unit.kernel_helpers import TILE, no_returns, parse_tile, texts


def lines_of_floats(values: list[float]) -> list[str]:
    array: Floats = np.array(values, np.float64)
    buffer, _ = csv_lines([pl.Series(np.zeros(len(values), np.int64)), float_cells(array)])
    return [line.removeprefix("0,") for line in buffer.tobytes().decode().split("\n")[:-1]]


@settings(max_examples=200)
@given(st.lists(st.floats(), min_size=1, max_size=30))
@example([1e16, 1e15, 1e22, 123456789012345680.0, 1e-4, 9.999e-5, 5e-324, -0.0, 1e-7, 123456789012.5, 4.0])
@example([math.nan, math.inf, -math.inf, 1.7976931348623157e308, -1e-5])
def test_a_float_cell_is_pythons_repr_and_empty_where_it_is_not_finite(values: list[float]) -> None:
    expected = [repr(value + 0.0) if math.isfinite(value) else "" for value in values]
    assert lines_of_floats(values) == expected


@settings(max_examples=200)
@given(st.lists(st.floats(1e-12, 1e20), min_size=1, max_size=30), st.lists(st.booleans(), min_size=30))
def test_floats_of_everyday_size_are_written_as_python_writes_them(
    values: list[float], signs: list[bool]
) -> None:
    signed = [value if sign else -value for value, sign in zip(values, signs, strict=False)]
    assert lines_of_floats(signed) == [repr(value) for value in signed]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(1.0, 10.0), st.integers(1, 17), st.integers(-12, -3)), min_size=1))
@example([(1.0, 1, -5), (9.999999999999999, 17, -6), (1.0, 1, -6), (1.5, 2, -9), (1.0, 1, -10)])
def test_floats_near_zero_are_written_as_python_writes_them(parts: list[tuple[float, int, int]]) -> None:
    # Few digits or many, on both sides of every change of notation.
    values = [float(f"{number:.{digits - 1}e}") * 10.0**power for number, digits, power in parts]
    signed = [*values, *(-value for value in values)]
    assert lines_of_floats(signed) == [repr(value) for value in signed]


def test_negative_zero_is_written_as_zero() -> None:
    assert lines_of_floats([-0.0, 0.0]) == ["0.0", "0.0"]


@settings(max_examples=200)
@given(st.lists(st.tuples(texts(), texts()), min_size=1, max_size=10))
def test_text_is_quoted_as_little_as_the_csv_module_does(rows: list[tuple[str, str]]) -> None:
    columns = [encode_text(pa.array([row[i] for row in rows], pa.string())) for i in range(2)]
    buffer, offsets = csv_lines([text_cells(column) for column in columns])
    written = buffer.tobytes()
    assert list(csv.reader(io.StringIO(written.decode(), newline=""))) == [list(row) for row in rows]
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows(rows)
    if not any("\r" in cell for row in rows for cell in row):
        # Python versions disagree about a lone carriage return; Go's reader wants it quoted.
        assert written.decode() == sink.getvalue()
    parts = [written[start:end].decode() for start, end in itertools.pairwise(offsets.tolist())]
    assert [next(csv.reader(io.StringIO(part, newline=""))) for part in parts] == [list(row) for row in rows]


def plain_csv(header: list[str], rows: list[Any]) -> bytes:
    """What the `csv` module writes, where a float that is not finite is an empty cell and none is -0.0."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(
            ("" if not math.isfinite(cell) else cell + 0.0) if isinstance(cell, float) else cell
            for cell in row
        )
    return sink.getvalue().encode()


figures_of_csv = st.one_of(st.floats(), st.floats(-1e-3, 1e-3), st.integers(-(10**6), 10**6).map(float))
integers = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(integers, no_returns(), figures_of_csv, no_returns(), figures_of_csv), min_size=1),
    st.lists(no_returns(), min_size=5, max_size=5),
    st.data(),
)
def test_csv_objects_have_the_bytes_that_the_csv_module_writes(
    rows: list[tuple[int, str, float, str, float]], header: list[str], data: st.DataObject
) -> None:
    inner = data.draw(st.sets(st.integers(1, len(rows) - 1)) if len(rows) > 1 else st.just(set()))
    cuts = [0, *sorted(inner), len(rows)]
    columns = list(zip(*rows, strict=True))
    cells = [
        pl.Series(columns[0], dtype=pl.Int64),
        text_cells(encode_text(pa.array(columns[1], pa.string()))),
        float_cells(np.array(columns[2], np.float64)),
        text_cells(encode_text(pa.array(columns[3], pa.string()))),
        float_cells(np.array(columns[4], np.float64)),
    ]
    names = pa.array([f"{i}.csv" for i in range(len(cuts) - 1)], pa.string())
    objects = csv_objects(names, header, cells, np.array(cuts))
    expected = [plain_csv(header, rows[start:end]) for start, end in itertools.pairwise(cuts)]
    assert [bytes(body) for body in objects.bodies()] == expected
    assert objects.buffer.tobytes() == b"".join(expected)


def test_lines_are_found_in_a_buffer_of_many_blocks() -> None:
    texts_of_rows = ["x" * (i % 977) + ("\n" if i % 5 == 0 else "") for i in range(2000)]
    ids = encode_text(pa.array(texts_of_rows, pa.string()))
    buffer, offsets = csv_lines([pl.Series(np.arange(2000)), text_cells(ids)])
    assert len(buffer) > 3 * encode._BLOCK
    for i, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        assert buffer[start:end].tobytes().startswith(f"{i},".encode())


@settings(max_examples=200)
@given(st.lists(texts(), min_size=2, max_size=8, unique=True))
def test_a_header_reads_back_as_its_names(names: list[str]) -> None:
    line = csv_header(["timestamp", *names]).decode()
    assert next(csv.reader(io.StringIO(line, newline=""))) == ["timestamp", *names]
    assert line.endswith("\n")


def test_a_text_with_a_carriage_return_is_quoted() -> None:
    assert quote(pa.array(["a\rb", "plain", None])).to_pylist() == ['"a\rb"', "plain", None]


def test_rows_are_cut_into_objects_that_share_a_header() -> None:
    ids = encode_text(pa.array(["x", "a\nb", "z"]))
    objects = csv_objects(
        pa.array(["1.csv", "2.csv"]),
        ["id", "n,m"],
        [text_cells(ids), pl.Series([1, 2, 3])],
        np.array([0, 2, 3]),
    )
    assert [bytes(body) for body in objects.bodies()] == [b'id,"n,m"\nx,1\n"a\nb",2\n', b'id,"n,m"\nz,3\n']
    assert objects.sizes().tolist() == [len(bytes(body)) for body in objects.bodies()]
    assert objects.nbytes == sum(objects.sizes())
    assert len(objects) == 2


def test_a_batch_of_single_bodies_keeps_them_apart() -> None:
    objects = Objects.of({"a": b"xy", "b": b"", "c": b"z"}, "text/plain")
    assert [bytes(body) for body in objects.bodies()] == [b"xy", b"", b"z"]
    assert Objects.of({}, "text/plain").nbytes == 0


def test_batches_are_joined_in_order() -> None:
    first, second = Objects.of({"a": b"xy", "b": b""}, "text/plain"), Objects.of({"c": b"z"}, "text/plain")
    joined = Objects.concat([first, replace(second, left_out=2), Objects.of({}, "text/plain")])
    assert dict(zip(joined.keys, map(bytes, joined.bodies()), strict=True)) == {
        "a": b"xy",
        "b": b"",
        "c": b"z",
    }
    assert (joined.names.to_pylist(), joined.offsets.tolist()) == (["a", "b", "c"], [0, 2, 2, 3])
    assert (joined.nbytes, joined.left_out) == (3, 2)
    assert Objects.concat([first]) is first


def test_json_is_pythons_text_and_refuses_infinity() -> None:
    assert json_body({"a": ["é", 1.5, None]}) == b'{"a": ["\\u00e9", 1.5, null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_body([math.inf])


# --- tiles -----------------------------------------------------------------------------------------

Figures = tuple[float, float, float]
figures = st.one_of(
    st.just(0.0), st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
)
tiles = st.tuples(
    st.integers(0, 255),
    st.integers(0, 255),
    st.dictionaries(st.integers(0, 4095), st.tuples(figures, figures, figures), min_size=1, max_size=40),
)


def encoded(zoom: int, *made: tuple[int, int, dict[int, Figures]]) -> list[bytes]:
    bins = np.array([number for _, _, stats in made for number in sorted(stats)], np.uint32)
    rows = np.array([stats[number] for _, _, stats in made for number in sorted(stats)], np.float64)
    cuts = np.concatenate(([0], np.cumsum([len(stats) for _, _, stats in made])))
    x, y = (np.array([tile[i] for tile in made], np.uint32) for i in range(2))
    names = pa.array([str(i) for i in range(len(made))], pa.string())
    objects = tile_objects(names, zoom, x, y, cuts.astype(np.int64), bins, [rows[:, i] for i in range(3)])
    return [bytes(body) for body in objects.bodies()]


@settings(max_examples=200)
@given(st.integers(0, 8), st.lists(tiles, min_size=1, max_size=4))
def test_a_tile_reads_back_through_the_protobuf_library(
    zoom: int, made: list[tuple[int, int, dict[int, Any]]]
) -> None:
    bodies = encoded(zoom, *made)
    for body, (x, y, stats) in zip(bodies, made, strict=True):
        assert parse_tile(body) == ((zoom, x, y), stats)


def _tile_of_entries() -> Any:
    """The tile's message with a list of entries for the map, which on the wire is the same.

    The library writes the entries of a map in an order of its own.
    """
    file = descriptor_pb2.FileDescriptorProto()
    TILE.DESCRIPTOR.file.CopyToProto(file)
    (bins,) = (message for message in file.message_type if message.name == "TileBins")
    (entry,) = bins.nested_type
    entry.options.Clear()
    # The key of an entry is written even where it is 0.
    entry.oneof_decl.add(name="_key")
    entry.field[0].proto3_optional, entry.field[0].oneof_index = True, 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tiles.Tile"))


TILE_OF_ENTRIES = _tile_of_entries()


def plain_tile(zoom: int, x: int, y: int, stats: dict[int, Figures]) -> bytes:
    """What the protobuf library writes, bins in order."""
    tile = TILE_OF_ENTRIES()
    tile.coord.SetInParent()
    tile.coord.x, tile.coord.y, tile.coord.z = x, y, zoom
    tile.bins.totalBins = 4096
    for number, (t_sum, t_mean, weight) in sorted(stats.items()):
        entry = tile.bins.stats.add(key=number)
        entry.value.SetInParent()
        entry.value.s_sum_t_sum, entry.value.s_sum_t_mean, entry.value.weight = t_sum, t_mean, weight
    written: bytes = tile.SerializeToString()
    return written


extreme = st.sampled_from([0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 1.0])
tiles_of_extremes = st.tuples(
    st.sampled_from([0, 1, 127, 128, 255, 2**14 - 1]),
    st.sampled_from([0, 1, 127, 128, 255, 2**14 - 1]),
    st.dictionaries(
        st.sampled_from([0, 1, 127, 128, 4095]), st.tuples(extreme, extreme, extreme), min_size=1
    ),
)


@settings(max_examples=300)
@given(st.integers(0, 14), st.lists(st.one_of(tiles, tiles_of_extremes), min_size=1, max_size=8))
@example(0, [(0, 0, {0: (0.0, 0.0, 0.0)})] * 3)
def test_tiles_have_the_bytes_that_the_protobuf_library_writes(
    zoom: int, made: list[tuple[int, int, dict[int, Any]]]
) -> None:
    assert encoded(zoom, *made) == [plain_tile(zoom, x, y, stats) for x, y, stats in made]


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.9])
def test_large_tiles_have_the_bytes_that_the_protobuf_library_writes(zeros: float) -> None:
    random = np.random.default_rng(0)
    made = []
    for count in (1, 3, 4, 5, 14, 15, 481, 482, 483, 4095, 4096):
        numbers = random.permutation(4096)[:count].tolist()
        values = np.where(random.random((count, 3)) < zeros, 0.0, random.normal(size=(count, 3)))
        made.append((count, 7, dict(zip(numbers, map(tuple, values.tolist()), strict=True))))
    assert encoded(8, *made) == [plain_tile(8, *tile) for tile in made]


def test_a_tile_with_every_bin_reads_back() -> None:
    stats = {number: (number + 0.5, 0.0 if number % 3 else 1.0, float(number % 2)) for number in range(4096)}
    (body,) = encoded(8, (255, 128, stats))
    assert parse_tile(body) == ((8, 255, 128), stats)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 481, 482, 483, 4095])
def test_tiles_of_every_length_of_length_read_back(count: int) -> None:
    stats = dict.fromkeys(range(count), (1.0, 2.0, 3.0))
    assert parse_tile(encoded(3, (1, 0, stats))[0]) == ((3, 1, 0), stats)


def test_the_sample_tile_has_the_bytes_that_the_original_wrote() -> None:
    sample = {1959: (10.0, 10.0, 1.0), 2022: (20.0, 20.0, 1.0), 2086: (33.0, 33.0, 2.0)}
    (body,) = encoded(0, (0, 0, sample))
    assert len(body) == 109
    first_bin = (
        b"\x21" + struct.pack("<d", 10) + b"\x29" + struct.pack("<d", 10) + b"\x31" + struct.pack("<d", 1)
    )
    assert body.startswith(bytes.fromhex("0a00 1269 0a20 08a70f 121b") + first_bin)
    assert body.endswith(bytes.fromhex("108020"))


def test_zero_figures_are_not_written_and_a_bin_of_zeros_stays_an_entry() -> None:
    (body,) = encoded(0, (0, 0, {7: (0.0, 0.0, 0.0)}))
    assert body == bytes.fromhex("0a00 1209 0a04 0807 1200 108020")


def test_no_json_word_of_ours_needs_more_than_ascii() -> None:
    assert json_body("日本").isascii()
    assert json.loads(json_body("日本")) == "日本"
