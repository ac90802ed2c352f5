"""Bytes of objects: CSV cells and lines, JSON, tiles."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import struct
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datacube_assets.datacube.encode import (
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
from datacube_assets.datacube.groups import Floats, encode_text
from datacube_assets_tests.unit.kernel_helpers import parse_tile


def texts() -> st.SearchStrategy[str]:
    odd = st.text(st.sampled_from("\",\n\rab é;\t'日"), max_size=6)
    return st.one_of(odd, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))


def lines_of_floats(values: list[float]) -> list[str]:
    array: Floats = np.array(values, np.float64)
    buffer, _ = csv_lines([pl.Series(np.zeros(len(values), np.int64)), float_cells(array)])
    return [line.removeprefix("0,") for line in bytes(buffer).decode().split("\n")[:-1]]


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


def test_negative_zero_is_written_as_zero() -> None:
    assert lines_of_floats([-0.0, 0.0]) == ["0.0", "0.0"]


@settings(max_examples=200)
@given(st.lists(st.tuples(texts(), texts()), min_size=1, max_size=10))
def test_text_is_quoted_as_little_as_the_csv_module_does(rows: list[tuple[str, str]]) -> None:
    columns = [encode_text(pa.array([row[i] for row in rows], pa.string())) for i in range(2)]
    buffer, offsets = csv_lines([text_cells(column) for column in columns])
    written = bytes(buffer)
    assert list(csv.reader(io.StringIO(written.decode(), newline=""))) == [list(row) for row in rows]
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows(rows)
    if not any("\r" in cell for row in rows for cell in row):
        # Python versions disagree about a lone carriage return; Go's reader wants it quoted.
        assert written.decode() == sink.getvalue()
    parts = [written[start:end].decode() for start, end in itertools.pairwise(offsets.tolist())]
    assert [next(csv.reader(io.StringIO(part, newline=""))) for part in parts] == [list(row) for row in rows]


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
        ["1.csv", "2.csv"], ["id", "n,m"], [text_cells(ids), pl.Series([1, 2, 3])], np.array([0, 2, 3])
    )
    assert [bytes(body) for body in objects.bodies()] == [b'id,"n,m"\nx,1\n"a\nb",2\n', b'id,"n,m"\nz,3\n']
    assert objects.sizes().tolist() == [len(bytes(body)) for body in objects.bodies()]
    assert objects.nbytes == sum(objects.sizes())
    assert len(objects) == 2


def test_a_batch_of_single_bodies_keeps_them_apart() -> None:
    objects = Objects.of({"a": b"xy", "b": b"", "c": b"z"}, "text/plain")
    assert [bytes(body) for body in objects.bodies()] == [b"xy", b"", b"z"]
    assert Objects.of({}, "text/plain").nbytes == 0


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
    names = [str(i) for i in range(len(made))]
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
