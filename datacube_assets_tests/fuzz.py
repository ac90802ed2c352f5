"""Random input for all that reads or judges what others wrote: Parquet files, sums, documents, requests.

    python -m datacube_assets_tests.fuzz --minutes 5

Each target is a law with a strategy. The default suite tries a few examples of each, always the same ones,
and those that once broke it (`unit/test_fuzz.py`); the command looks for new ones, in a process per target,
so that even a crash of Arrow is noticed: the bytes that were read last are in `.fuzz/last.parquet`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datacube_assets.checks.judging import conservation
from datacube_assets.dojo.derive import request_for_indicator, request_for_run
from datacube_assets.dojo.documents import IndicatorDocument, ModelDocument, RunDocument, parse_documents
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels import grid, spatial
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.raw_rows import raw_rows
from datacube_assets.kernels.schema import REGIONAL_COLUMNS
from datacube_assets.kernels.temporal import temporal_cells
from datacube_assets.kernels.times import MAX_TIMESTAMP
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.requests import leave_request, requested, runs_requested
from datacube_assets_tests.hostile import Made, as_file, normalize_files
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, rows
from datacube_assets_tests.reader_model import ask_for_everything
from datacube_assets_tests.unit.kernel_helpers import Points, datacube_of, normalized
from datacube_assets_tests.writers import by_arrow

MEMORY = 8 << 30
"""Bytes that a process of the command may address."""

# --- tables ----------------------------------------------------------------------------------------

EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001
texts = st.sampled_from(
    ["", " ", "a", "B", "1", "2.5", "x//y", "None", "nan", "\u202e", "é", "e\u0301"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
whole_numbers = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
floats = st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, math.inf, -math.inf, 5e-324, 1e300]) | st.floats()
moments = st.integers(-(10**9), 4 * 10**9).map(lambda seconds: EPOCH + dt.timedelta(seconds=seconds))
CELLS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), texts),
    "large text": (pa.large_string(), texts),
    "categories": (pa.dictionary(pa.int32(), pa.string()), texts),
    "integers": (pa.int64(), whole_numbers),
    "small integers": (pa.int8(), st.integers(-128, 127)),
    "floats": (pa.float64(), floats),
    "booleans": (pa.bool_(), st.booleans()),
    "decimals": (pa.decimal128(20, 2), st.decimals(-(10**9), 10**9, places=2)),
    "dates": (pa.date32(), moments.map(lambda moment: moment.date())),
    "timestamps": (pa.timestamp("s"), moments),
    "nothing": (pa.null(), st.none()),
}
SPELLED: dict[str, int | None] = {
    **dict.fromkeys(("2020", "2020.0", "202001", "2020_01", "2020-W01-3", "20200101", "2020/1/1"), JANUARY),
    **dict.fromkeys(("2020-02", "2020/02", "202002.0", "2020-032", "2020/02/01 00:00:00"), FEBRUARY),
    **dict.fromkeys(("2020-01-31T24:00", "2020-02-01 01:00:00+01:00", "20200201T000000Z"), FEBRUARY),
    "1577836800000": JANUARY,
    "1577836800000.7": JANUARY,
    "0": 0,
    "-5.5": -6,
    "1e3": 1000,
    "43831": 43831,
    **dict.fromkeys(("", " ", "nan", "NaT", "None", "null"), None),
    "9999-12-31": 253_402_214_400_000,
    "1000": -30_610_224_000_000,
    "inf": 10**18,
}
"""Texts of times, and which time they are in ms UTC; None where they say that there is none."""
UNREADABLE_TIMES = ("soon", "31012020", "202013", "01/05/20", "2020Q1", "1_000", "2021-366")
TIMES = st.sampled_from(list(SPELLED))
NAMES = ("country", "admin2", "lat", "lng", "crop", "", "a.b")


@st.composite
def columns(draw: st.DrawFn, role: str, size: int) -> pa.Array:
    """Cells of one type; mostly of one that suits the role, so that not every table is refused."""
    kinds = {
        "timestamp": ["integers", "floats", "timestamps", "dates", "text"],
        "value": ["floats", "integers", "booleans", "decimals", "text"],
        "feature": ["text", "categories", "integers"],
    }.get(role, list(CELLS))
    type_, cells = CELLS[draw(st.sampled_from(kinds))]
    if role == "timestamp" and pa.types.is_string(type_):
        cells = TIMES | st.sampled_from(UNREADABLE_TIMES) if draw(st.integers(0, 9)) == 0 else TIMES
    if role == "value" and pa.types.is_string(type_):
        cells = st.sampled_from(["1", " 2 ", "1e3", "", "nan", "-0.5"])
    values = draw(st.lists(st.none() | cells, min_size=size, max_size=size))
    if pa.types.is_dictionary(type_):
        return pa.array(values, type_.value_type).dictionary_encode()
    return pa.array(values, type_)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables of a few rows: columns of any type in any role."""
    size = draw(st.integers(1, 6))
    names = ["timestamp", "feature", "value", *draw(st.lists(st.sampled_from(NAMES), unique=True))]
    made = {name: draw(columns(name, size)) for name in names}
    return pa.Table.from_arrays(list(made.values()), names=list(made))


class Unreadable(Exception):
    """What the plain reading makes of a table that has to be refused."""


def plainly(table: pa.Table) -> list[dict[str, Any]]:
    """The points of a table as the documentation says, row by row in plain Python."""
    cells = {name: table.column(i).to_pylist() for i, name in enumerate(table.column_names)}
    filled = {name: any(not _blank(cell) for cell in column) for name, column in cells.items()}
    made, unreadable = [], 0
    for number in range(table.num_rows):
        row = {name: column[number] for name, column in cells.items()}
        time, value = _time(row["timestamp"]), _number(row["value"])
        feature = _text(row["feature"], cells["feature"])
        unreadable += isinstance(value, str)
        if not feature or abs(time) > MAX_TIMESTAMP or isinstance(value, str):
            continue
        if any(part in (".", "..") for part in feature.split("/")):
            raise Unreadable
        point: dict[str, Any] = {"feature": feature, "timestamp": time}
        point["value"] = value if value is not None and math.isfinite(value) else None
        for name, cell in row.items():
            if name in point or not filled[name]:
                continue
            if name in ("lat", "lng"):
                degrees = _number(cell)
                degrees = None if isinstance(degrees, str) else degrees
                point[name] = _wrapped(degrees) if name == "lng" else degrees
            elif name in ("country", "admin2"):
                text = _text(cell, cells[name], region=True)
                point[name] = "None" if text is None else text.replace("//", "")
            else:
                text = _text(cell, cells[name])
                point[name] = "None" if text in (None, "", "nan") else text
        made.append(point)
    if unreadable > 0.1 * table.num_rows or not made:
        raise Unreadable
    return made


def _blank(cell: object) -> bool:
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return missing or (isinstance(cell, str) and cell.isspace())


def _number(cell: object) -> float | str | None:
    """A number, None for a missing one, the text itself for one that is none."""
    if cell is None or isinstance(cell, dt.date):
        return None
    if not isinstance(cell, str):
        number = float(cell)  # type: ignore[arg-type]
        return None if math.isnan(number) else number
    try:
        number = float(cell) if cell.strip() else math.nan
    except ValueError:
        return cell
    return None if math.isnan(number) else number


def _wrapped(degrees: float | None) -> float | None:
    if degrees is None or not math.isfinite(degrees) or -180 <= degrees < 180:
        return degrees
    wrapped = float(np.round((degrees + 180) % 360 - 180, 11))
    return -180.0 if wrapped >= 180 else wrapped


def _time(cell: object) -> int:
    """Milliseconds UTC; a missing time is 0, one that is out of range somewhere out of range."""
    if isinstance(cell, dt.date):
        midnight = dt.datetime.combine(cell, dt.time())
        moment = cell if isinstance(cell, dt.datetime) else midnight
        return (moment - EPOCH) // dt.timedelta(milliseconds=1)
    if isinstance(cell, str):
        if cell not in SPELLED:
            raise Unreadable
        return SPELLED[cell] or 0
    if isinstance(cell, int):
        return cell
    number = _number(cell)
    if number is None or isinstance(number, str):
        return 0
    return math.floor(number) if abs(number) < 1e15 else 10**18


def _text(cell: object, column: Sequence[object], *, region: bool = False) -> str | None:
    """A cell as Python prints it; whole numbers and days as such where the whole column is."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    present = [one for one in column if one is not None]
    if isinstance(cell, float):
        numbers = [one for one in present if isinstance(one, float) and not math.isnan(one)]
        whole = all(one.is_integer() and abs(one) < 2**53 for one in numbers) and not region
        return str(int(cell)) if whole else repr(cell)
    if isinstance(cell, dt.datetime):
        days = all(isinstance(one, dt.datetime) and one.time() == dt.time() for one in present)
        return f"{cell:%Y-%m-%d}" if days else f"{cell:%Y-%m-%d %H:%M:%S}"
    return str(cell)


WRITERS = {
    "plain": by_arrow(compression=None, use_dictionary=False),
    "dictionaries": by_arrow(compression=None),
    "without a schema": by_arrow(store_schema=False),
    "prefixes": by_arrow({"text": "DELTA_BYTE_ARRAY", "int": "DELTA_BINARY_PACKED"}),
    "lengths": by_arrow({"text": "DELTA_LENGTH_BYTE_ARRAY", "int": "BYTE_STREAM_SPLIT"}, row_group_size=2),
    "times of 96 bits": by_arrow(use_deprecated_int96_timestamps=True, data_page_version="2.0"),
    "dictionaries given up": by_arrow(dictionary_pagesize_limit=1, write_batch_size=1),
}


def _written(table: pa.Table, writer: str) -> bytes:
    try:
        return WRITERS[writer](table)
    except pa.ArrowException:
        # Encodings are chosen by the names of columns, and some names are paths to Arrow.
        return as_file(table, compression=None)


def table_law(table: pa.Table, writer: str = "dictionaries") -> None:
    """A table becomes the points of the plain reading, whoever wrote it, or both refuse it."""
    try:
        expected: list[dict[str, Any]] | None = plainly(table)
    except Unreadable:
        expected = None
    with tempfile.TemporaryDirectory() as folder:
        made = _refusal_or(lambda: normalize_files(Path(folder), _written(table, writer)))
    if isinstance(made, InputError):
        assert expected is None, str(made)
        check_message(made)
        return
    assert expected is not None, "it had to be refused"
    names = made.points.column_names
    points = zip(*(made.points.column(i).to_pylist() for i in range(len(names))), strict=True)
    found = [dict(zip(names, point, strict=True)) for point in points]
    assert repr(found) == repr([{name: one[name] for name in names} for one in expected])
    raw = raw_rows(table, made.info.plan)
    points_ = Points(made.points, made.info.plan, made.info.report, raw)
    mapped = dict.fromkeys(made.info.features, made.info.layout.qualifiers)
    ask_for_everything(datacube_of(points_, qualifiers=mapped).objects)
    assert set(names) == set(expected[0])
    conserved(made)


def _refusal_or(make: Callable[[], Made]) -> Made | InputError:
    try:
        return make()
    except InputError as error:
        return error


def conserved(made: Made) -> None:
    """Rows in are points and dropped rows; points are in cells, each in one of every period."""
    report = made.info.report
    reasons = report.missing_features, report.num_invalid_ts, report.unreadable_values
    assert report.points == made.points.num_rows
    assert max(reasons) <= report.dropped <= sum(reasons)
    for _, cells in temporal_cells([made.points], made.info.layout, made.info.periods):
        assert pc.sum(cells["rows"]).as_py() == report.points


def check_message(error: InputError) -> None:
    """One line, not too long, with something to do."""
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    assert error.remedy


# --- sums that cancel ------------------------------------------------------------------------------

SIZES = ("cells", "s_count", "s_sum_t_sum", "s_sum_t_mean")
WEIGHTS = [column.name for column in REGIONAL_COLUMNS if column.only_with_weights]
addends = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1, 0.2, -0.3, 1e16, -1e16, 5e-324, -1e-310, 1.7e308, -1.7e308, 0.0]),
    st.none(),
)
"""Values that take each other's digits away, or each other."""
weighted_rows = st.lists(
    st.tuples(addends, st.sampled_from([1.0, -1.0, 0.5, 1e-9, None]), st.integers(0, 8)),
    min_size=1,
    max_size=12,
)
"""Value, weight and number of the place."""


def judged(parts: pa.Table, whole: pa.Table, measures: list[str], added: pa.Table) -> conservation.Compared:
    """As a run judges: what was added up is looked at where totals differ."""
    compared = conservation.compare(parts, whole, measures)
    return conservation.compare(parts, whole, measures, sizes=added) if compared.differing else compared


def sums_law(cases: Sequence[tuple[float | None, float | None, int]], mirrored: bool) -> None:
    """Sound rows pass every check of sums, however their values cancel; `mirrored`: they do, nearly all."""
    if mirrored:
        cases = [*cases, *((-value if value else value, wt, place + 1) for value, wt, place in cases)]
    table = [
        {
            "value": value,
            "wt": wt,
            "country": "Avaria",
            "admin1": f"A{place % 4}",
            "lat": float(place % 3),
            "lng": float(place),
            "timestamp": 86_400_000 * 20 * place,
        }
        for value, wt, place in cases
    ]
    points = normalized(table, weight_column="wt")
    # A column in which every weight is missing is none.
    layout, weighted = points.layout, bool(points.layout.weight)
    measures = [*SIZES, *WEIGHTS] if weighted else list(SIZES)
    totals: dict[str, pa.Table] = {}
    for period, cells in temporal_cells([points.table], layout, ("month", "year", "all")):
        added = conservation.sizes_of_cells(cells, weighted=weighted)
        whole = spatial.global_aggregates(spatial.Cells(cells, layout))
        for regions in spatial.regional_aggregates(spatial.Cells(cells, layout)).values():
            assert not judged(regions, whole, measures, added).differing
        binned = grid.grid_cells(cells)
        assert not judged(binned, whole, list(conservation.GRID_MEASURES), added).differing
        totals[period] = conservation.whole_period(whole, ["s_sum_t_sum"])
    added = conservation.sizes_of_points(points.table.select(["feature", "value"]))
    for period in ("year", "all"):
        assert not judged(totals[period], totals["month"], ["s_sum_t_sum"], added).differing


# --- damaged files ---------------------------------------------------------------------------------


def _seeds() -> list[bytes]:
    typed = rows(crop=list("abab"), day=pa.array([0, 1, 2, 3], pa.date32()), ok=[True, None, False, True])
    long = rows().take(pa.array([number % 4 for number in range(3000)]))
    return [
        as_file(typed),
        as_file(typed, compression=None),
        as_file(typed, compression="zstd", use_dictionary=False, data_page_version="2.0"),
        as_file(typed, compression="snappy", row_group_size=1),
        as_file(long, compression="lz4", data_page_size=500, write_page_index=True),
        as_file(long, compression=None, write_page_checksum=True),
    ]


SEEDS = _seeds()
Change = tuple[int, int, int]
"""Kind, place and byte."""
changes = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6
)


def damaged(number: int, how: Sequence[Change]) -> bytes:
    """A valid file with some bytes changed, cut out, put in or cut off."""
    body = bytearray(SEEDS[number])
    for kind, where, byte in how:
        # Every other change is in the footer, which is where the reader's decisions are.
        place = where % len(body) if where % 2 else max(len(body) - 1 - where % 1500, 0)
        if kind <= 2:
            body[place] = byte
        elif kind == 3:
            body[place] ^= 1 << byte % 8
        elif kind == 4:
            del body[place : place + byte % 8]
        elif byte < 16:
            del body[place:]
        else:
            body[place:place] = bytes([byte] * (byte % 8))
        if not body:
            break
    return bytes(body)


LAST = Path(".fuzz/last.parquet")


def bytes_law(number: int, how: Sequence[Change]) -> None:
    """A damaged file is refused, or what it says is conserved."""
    body = damaged(number, how)
    if LAST.parent.is_dir():
        LAST.write_bytes(body)
    with tempfile.TemporaryDirectory() as folder:
        made = _refusal_or(lambda: normalize_files(Path(folder), body))
    if isinstance(made, InputError):
        check_message(made)
    else:
        conserved(made)


# --- documents and requests ------------------------------------------------------------------------

RUN_DOCUMENT: dict[str, Any] = {
    "id": "r1",
    "model_id": "m1",
    "created_at": 1672531200000,
    "data_paths": ["https://bucket/r1.parquet.gzip"],
    "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"},
}
MODEL_DOCUMENT: dict[str, Any] = {
    "id": "m1",
    "outputs": [{"name": "price", "type": "float"}],
    "qualifier_outputs": [
        {"name": "market", "related_features": ["price"], "qualifier_role": "breakdown"},
        {"name": "people", "related_features": ["price"], "qualifier_role": "weight"},
    ],
}
INDICATOR_DOCUMENT: dict[str, Any] = {
    **MODEL_DOCUMENT,
    "created_at": "1672531200000",
    "data_paths": ["https://bucket/d1.parquet.gzip"],
    "published": True,
    "deprecated": False,
}
REQUEST: dict[str, Any] = {
    "model_id": "m",
    "run_id": "r",
    "data_paths": ["/part.parquet"],
    "is_indicator": False,
    "qualifier_map": {"rain": ["crop"]},
    "weight_column": "people",
    "qualifier_thresholds": {"max_count": 7, "regional_timeseries_max_level": 1},
    "fill_timestamp": JANUARY,
    "raw_count_threshold": 5,
    "timestamp_unit": "ms",
    "selected_output_tasks": ["compute_tiles"],
    "doc_ids": ["a"],
}
odd_texts = st.sampled_from(
    ["", ".", "..", "../x", "/", "a/b", "\\", "\x00", "\n", "\ud800", "x" * 300, "é" * 90, "indicator", "%2e"]
) | st.text(max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | odd_texts | st.just(10**400)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def like(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document like the given one, with something odd in some places."""
    if draw(st.integers(0, 11)) == 0:
        return draw(anything)
    if isinstance(document, dict):
        made = {name: draw(like(value)) for name, value in document.items() if draw(st.integers(0, 15))}
        return made | (draw(st.dictionaries(odd_texts, scalars, max_size=1)) if draw(st.booleans()) else {})
    if isinstance(document, list):
        return [
            draw(like(value)) for value in document for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2))))
        ]
    return draw(odd_texts) if isinstance(document, str) and draw(st.integers(0, 5)) == 0 else document


def documents_law(run: Any, model: Any, indicator: Any) -> None:
    """Whatever Dojo lists becomes a document or a problem, and each document a request."""
    runs, problems = parse_documents(RunDocument, [run])
    indicators, more_problems = parse_documents(IndicatorDocument, [indicator])
    assert len(runs) + len(problems) == len(indicators) + len(more_problems) == 1
    try:
        models = [ModelDocument.model_validate(model)]
    except ValidationError:
        models = []
    for one in runs:
        assert one.version == RunDocument.model_validate(run).version
        assert one.is_ready in (True, False)
        for of in models:
            if of.id == one.model_id:
                _check_request(lambda one=one, of=of: request_for_run(one, of))  # type: ignore[misc]
    for data in indicators:
        assert len(data.version) == 32
        _check_request(lambda data=data: request_for_indicator(data))  # type: ignore[misc]


def _check_request(derive: Callable[[], DatacubeRequest]) -> None:
    try:
        request = derive()
    except ValidationError:
        # A run that is called as all datasets are.
        return
    run = ModelRun.of(request)
    assert ModelRun.from_key(run.key) == run
    assert DatacubeRequest.model_validate_json(request.model_dump_json()) == request


def requests_law(document: Any, left: bytes) -> None:
    """A request is refused, or is the same after it waited in the lake; nothing leaves the lake's root."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(LocalStore((Path(folder) / "lake").as_uri()))
        lake.store.put("requests/waiting/broken.json", left)
        lake.store.put("runs/m/r/requested/request.json", left)
        assert len(runs_requested(lake, 10)) == 1
        try:
            requested(lake, ModelRun("m", "r"))
        except InputError as error:
            check_message(error)
        try:
            request = DatacubeRequest.model_validate(document)
            run = leave_request(lake, request)
        except (ValidationError, InputError):
            return
        assert requested(lake, run) == request
        written = {path.relative_to(folder).parts[0] for path in Path(folder).rglob("*") if path.is_file()}
        assert written == {"lake"}
        assert lake.read_document(f"{run.folder}/requested/request.json")


# --- all of them -----------------------------------------------------------------------------------

left_bytes = anything.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=20)
Target = tuple[Callable[..., None], Mapping[str, st.SearchStrategy[Any]]]
TARGETS: dict[str, Target] = {
    "tables": (table_law, {"table": tables(), "writer": st.sampled_from(list(WRITERS))}),
    "sums": (sums_law, {"cases": weighted_rows, "mirrored": st.booleans()}),
    "bytes": (bytes_law, {"number": st.integers(0, len(SEEDS) - 1), "how": changes}),
    "documents": (
        documents_law,
        {
            "run": like(RUN_DOCUMENT),
            "model": like(MODEL_DOCUMENT),
            "indicator": like(INDICATOR_DOCUMENT),
        },
    ),
    "requests": (
        requests_law,
        {
            "document": like(REQUEST),
            "left": like(REQUEST).map(lambda one: json.dumps(one).encode()) | left_bytes,
        },
    ),
}
ROUND = 200
"""Examples between two looks at the clock."""
LONGEST_FINDING = 20_000
"""Letters of a finding; more would not fit the pipe between the processes."""
PATIENCE = 15
"""Seconds more to make an example that breaks a law as small as possible."""


def search(name: str, seconds: float, told: multiprocessing.SimpleQueue[tuple[str, int, str]]) -> None:
    """Try examples of a target until the time is up or one breaks its law."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    law, strategies = TARGETS[name]
    tried, number, until = 0, time.time_ns() % 10**9, time.monotonic() + seconds
    finding = ""

    def count(**arguments: Any) -> None:
        nonlocal tried, finding
        if time.monotonic() > until + PATIENCE:
            return
        tried += 1
        try:
            law(**arguments)
        except BaseException:  # whatever it is, it is a finding
            told_of = f"{arguments!r}\n{traceback.format_exc(limit=-4)}"
            finding = min(finding or told_of, told_of, key=len)
            raise

    while time.monotonic() < until and not finding:
        number += 1
        # When time runs out while an example is made smaller, Hypothesis sees it pass; it is kept here.
        with contextlib.suppress(Exception):
            seed(number)(
                settings(
                    max_examples=ROUND,
                    deadline=None,
                    database=None,
                    print_blob=False,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )(given(**strategies)(count))
            )()
    told.put((name, tried, finding[-LONGEST_FINDING:]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, and say what was found; 1 when anything was."""
    parser = argparse.ArgumentParser(description="Try random input until the time is up.")
    parser.add_argument("--minutes", type=float, default=1.0, help="altogether, shared by the targets")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only these; default: all")
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    LAST.parent.mkdir(exist_ok=True)
    found = 0
    for name in names:
        context = multiprocessing.get_context("spawn")
        told = context.SimpleQueue()
        process = context.Process(target=search, args=(name, options.minutes * 60 / len(names), told))
        process.start()
        process.join()
        if told.empty():
            found += 1
            print(f"{name}: the process died ({process.exitcode}); for `bytes`, its last file is {LAST}")
            continue
        _, tried, finding = told.get()
        found += bool(finding)
        print(f"{name}: {tried:,} examples{', one of them broken:' if finding else ', none broken'}")
        if finding:
            print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
