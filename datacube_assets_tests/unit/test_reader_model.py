"""The model of the reader gets an answer to every question, and notices what the reader would not survive."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datacube_assets_tests.reader_model import Unanswered, ask_for_everything, go_csv
from datacube_assets_tests.unit.kernel_helpers import Row, datacube, texts

NAMES = [
    *(
        "trail/",
        "/lead",
        "a//b",
        "..",
        ".",
        "...",
        "a/../b",
        "tab\t",
        "line\nbreak",
        "\x01\x7f",
        "new\r\nline",
    ),
    *('she said "no"', "one, two", "100 %", "%41", "+#?&", " spaces ", "日本 🌾", "None", "timestamp", "\\"),
]
NEVER = ("%2E", "%empty")
"""What occurs in keys of names that no reader can ask for."""


def row(name: str, number: int, **others: Any) -> Row:
    return {"country": name, "crop": name, "lat": 1.0 + number, "lng": 30.0, "value": number + 0.5} | others


def test_every_object_of_odd_names_is_asked_for_but_those_that_never_can_be() -> None:
    rows = [row(name, number) for number, name in enumerate(NAMES)]
    made = datacube(rows, qualifiers={"f": ["crop"]})
    unasked = ask_for_everything(made.objects)
    assert all(any(word in key for word in NEVER) for key in unasked), unasked
    assert len(unasked) < 10 * len(NAMES)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts(), texts(), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=5))
def test_names_of_any_kind_are_answered(cases: list[tuple[str, str, float | None]]) -> None:
    rows = [row(name, number, crop=crop, value=value) for number, (name, crop, value) in enumerate(cases)]
    made = datacube(rows, qualifiers={"f": ["crop"]})
    unasked = ask_for_everything(made.objects)
    climbing = {name for case in cases for name in case[:2]} & {"", ".", ".."}
    nested = any("/" in name or "\x00" in name or "__" in name for case in cases for name in case[:2])
    assert not unasked or climbing or nested, unasked


def test_difference_17_bins_without_any_value_are_in_no_tile() -> None:
    rows = [row("A", 0, value=None), row("A", 10), row("B", 50, value=None, timestamp=1580515200000)]
    made = datacube(rows)
    assert ask_for_everything(made.objects) == []
    assert [len(made.tile(key)) for key in made.keys("month", "-0-0-0.tile")] == [1]
    assert made.keys("month", "tiles/1580515200000-") == []
    assert made.keys("month", "stats/grid/1580515200000") == []
    assert float(made.rows("month/f/stats/grid/1577836800000.csv")[0]["min_s_sum_t_sum"]) == 0.0


def test_regions_of_more_than_four_parts_are_not_offered_and_stay_in_tables() -> None:
    made = datacube([row("A__B__C__D__E", 0), row("F", 1)])
    assert ask_for_everything(made.objects) == []
    assert made.json("raw/f/info/region_lists.json")["country"] == ["F"]
    key = "month/f/regional/country/aggs/1577836800000/default/default.csv"
    assert [line["id"] for line in made.rows(key)] == ["A__B__C__D__E", "F"]
    assert len(made.keys("month", "timeseries/default/")) == 1


@pytest.mark.parametrize(
    ("key", "body", "says"),
    [
        ("raw/f/raw/raw.csv", b"timestamp,value\n,1.0\n", "no int64"),
        ("raw/f/raw/raw.csv", b"timestamp,value\n5,inf\n", "no number"),
        ("month/f/timeseries/global/global.csv", b'timestamp,s_sum_t_sum\n5,a"b\n', "bare quote"),
        ("month/f/timeseries/global/global.csv", b"timestamp,s_sum_t_sum\n5\n", "number of fields"),
        ("month/f/stats/grid/1577836800000.csv", b"zoom,min_s_sum_t_sum\n6,\n", "no number"),
        ("raw/f/info/qualifier_counts.json", b'{"thresholds":{},"counts":{"a":2.0}}', "no int32"),
        ("results/results.json", b'{"data_info":NaN}', "no JSON"),
        ("month/f/tiles/1577836800000-0-0-0.tile", b"", "ends the process"),
        ("month/f/tiles/1577836800000-0-0-0.tile", b"\n\x00\x12\x07\n\x02\x12\x00\x10\x80 ", "divided by"),
        ("year/f/regional/country/timeseries/default/A.csv", None, "there is no"),
    ],
)
def test_what_the_reader_does_not_survive_is_noticed(key: str, body: bytes | None, says: str) -> None:
    objects = dict(datacube([row("A", 0)]).objects)
    assert key in objects
    if body is None:
        del objects[key]
    else:
        objects[key] = body
    with pytest.raises(Unanswered, match=says):
        ask_for_everything(objects)


def test_what_nobody_asks_for_is_told() -> None:
    objects = {**datacube([row("A", 0)]).objects, "month/f/tiles/1577836800000-0-1-0.tile": b""}
    assert ask_for_everything(objects) == ["month/f/tiles/1577836800000-0-1-0.tile"]


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('a,b\n"c\r\nd","e""f"\n\n', [["a", "b"], ["c\nd", 'e"f']]),
        ("a,\n", [["a", ""]]),
        ('"",x', [["", "x"]]),
    ],
)
def test_csv_is_read_as_go_reads_it(text: str, records: list[list[str]]) -> None:
    assert list(go_csv(text)) == records


@pytest.mark.parametrize("text", ['a"b\n', '"a\n', '"a"b\n'])
def test_quotes_are_as_strict_as_in_go(text: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        list(go_csv(text))
