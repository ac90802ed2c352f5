"""Laws that hold for every input, and agreement with a reference in plain Python."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.kernels import grid, spatial, temporal
from datacube_assets.kernels.groups import encode_floats, encode_text, group_by
from datacube_assets.kernels.schema import REGION_LEVELS, RESOLUTIONS, Resolution
from datacube_assets.kernels.shards import Chunks, shard_numbers
from datacube_assets.kernels.spatial import Breakdown
from datacube_assets.kernels.temporal import temporal_cells
from datacube_assets_tests.unit.kernel_helpers import (
    DAY,
    Bins,
    Cell,
    Datacube,
    Points,
    Row,
    check_figures,
    datacube,
    grouped,
    ms,
    normalized,
    number,
    parse_tile,
    reference_cells,
    reference_figures,
    region_id,
    same,
    slippy,
)

FEATURES = ("f", "g")
QUALIFIERS = {"f": ["crop"], "g": ["crop"]}


def exact(least: int, most: int) -> st.SearchStrategy[float]:
    """Numbers that add up without rounding, so that the order of rows cannot show."""
    return st.integers(least, most).map(lambda value: value / 8)


def a_row(
    values: st.SearchStrategy[float | None], weights: st.SearchStrategy[float | None]
) -> st.SearchStrategy[Row]:
    start = ms(2019, 11, 20)
    # A few places, so that rows meet in cells; some off the map, some without coordinates.
    lat = st.sampled_from([1.0, 1.25, -33.5, 60.0, 88.0, -0.0, None])
    lng = st.sampled_from([37.0, 37.001, -120.0, 179.999, -180.0, None])
    return st.fixed_dictionaries(
        {
            "timestamp": st.integers(0, 90).map(lambda day: start + day * DAY) | st.just(ms(1969, 12, 31)),
            "country": st.sampled_from(["Kenya", "Ethiopia", None]),
            # `A_`, `X` and `A`, `_X` have one id, and different parents.
            "admin1": st.sampled_from(["A", "A_", "B", "a__b", None]),
            "admin2": st.sampled_from(["X", "_X", "Y"]),
            "lat": lat,
            "lng": lng,
            "feature": st.sampled_from(FEATURES),
            "value": values,
            "crop": st.sampled_from(["maize", "teff", "rice, wet", None]),
            "note": st.sampled_from(["1", "2"]),
            "wt": weights,
        }
    )


def tables(
    values: st.SearchStrategy[float | None] | None = None,
    weights: st.SearchStrategy[float | None] | None = None,
) -> st.SearchStrategy[list[Row]]:
    values = st.none() | exact(-400, 400) if values is None else values
    weights = st.none() | exact(0, 40) if weights is None else weights
    # One full row keeps every column alive, so that the reference need not know which are dropped.
    full: Row = {
        "timestamp": ms(2020, 1, 3), "country": "Kenya", "admin1": "A", "admin2": "X",
        "lat": 1.0, "lng": 37.0,
        "feature": "f", "value": 1.0, "crop": "maize", "note": "1", "wt": 1.0,
    }  # fmt: skip
    return st.lists(a_row(values, weights), max_size=40).map(lambda rows: [full, *rows])


def made_of(rows: list[Row], **options: Any) -> Datacube:
    return datacube(rows, qualifiers=QUALIFIERS, **options)


def csvs(made: Datacube, resolution: str, feature: str, *parts: str) -> dict[str, list[dict[str, str]]]:
    return {key: made.rows(key) for key in made.keys(f"{resolution}/{feature}/", *parts)}


# --- agreement with the reference ------------------------------------------------------------------


@given(tables(), st.booleans())
def test_every_published_figure_agrees_with_the_reference(rows: list[Row], weighted: bool) -> None:
    check_against_reference(rows, weighted)


@given(tables(st.none() | st.floats(-1e6, 1e6), st.floats(0, 100)))
def test_figures_of_any_numbers_agree_with_the_reference(rows: list[Row]) -> None:
    check_against_reference(rows, weighted=True)


def check_against_reference(rows: list[Row], weighted: bool) -> None:
    made = made_of(rows, weight_column="wt" if weighted else "")
    weight = "wt" if weighted else None
    texts = [row if weighted else {**row, "wt": wt_text(row)} for row in rows]
    expected_keys = {"results/results.json"}
    for resolution in RESOLUTIONS:
        cells = reference_cells(texts, resolution, weight)
        for feature, of_feature in grouped(cells, lambda cell: cell.key["feature"]).items():
            root = f"{resolution}/{feature}"
            expected_keys |= check_global(made, root, of_feature, weighted)
            for level in REGION_LEVELS[:3]:
                expected_keys |= check_regions(made, f"{root}/regional/{level}", level, of_feature, weighted)
    for feature, of_feature in grouped(
        reference_cells(texts, "all", weight), lambda cell: cell.key["feature"]
    ).items():
        figures = reference_figures(of_feature, weighted)
        summary = made.summary[feature]
        assert all(same(value, figures[name]) for name, value in summary.items() if name != "name")
    published = {
        key for key in made.objects if not any(part in key for part in ("raw/", "/grid/", ".tile", "extrema"))
    }
    assert published == expected_keys, "no object too many, none too few"


@pytest.mark.parametrize("shards", [1, 2])
def test_regions_that_share_an_id_are_their_own_above_it(shards: int) -> None:
    rows: list[Row] = [
        {"country": "A__B", "admin1": "C", "value": 1.0},
        {"country": "A", "admin1": "B__C", "value": 2.0},
        {"country": "A", "admin1": None, "value": 3.0},
    ]
    points = normalized([{"lat": 1.0, "lng": 37.0, **row} for row in rows])
    pieces = [points.table.take(list(range(number, 3, shards))) for number in range(shards)]
    cells = [dict(temporal_cells([piece], points.layout, ("month",)))["month"] for piece in pieces]
    made = [spatial.Cells(one, points.layout) for one in cells]
    tables = (
        spatial.regional_aggregates(made[0])
        if shards == 1
        else spatial.merge_regional([spatial.regional_partial(one) for one in made], points.layout)
    )
    found = {
        level: dict(zip(*(table[name].to_pylist() for name in ("region_id", "s_sum_t_sum")), strict=True))
        for level, table in tables.items()
    }
    assert found == {"country": {"A": 5.0, "A__B": 1.0}, "admin1": {"A__B__C": 3.0, "A__None": 3.0}}


def wt_text(row: Row) -> str | None:
    """The weight column as just another qualifier, which all parts print alike."""
    return None if row["wt"] is None else repr(row["wt"])


def time_of(cell: Cell) -> int:
    return cast(int, cell.key["timestamp"])


def check_global(made: Datacube, root: str, cells: list[Cell], weighted: bool) -> set[str]:
    key = f"{root}/timeseries/global/global.csv"
    check_lines(made.rows(key), ("timestamp",), grouped(cells, lambda cell: (str(time_of(cell)),)), weighted)
    keys = {key}
    by_value = grouped(cells, lambda cell: (str(time_of(cell)), cell.key["crop"]))
    for name in made.rows(key)[0]:
        if name == "timestamp":
            continue
        keys.add(f"{root}/timeseries/qualifiers/crop/{name}.csv")
        for row in made.rows(f"{root}/timeseries/qualifiers/crop/{name}.csv"):
            for value in set(row) - {"timestamp"}:
                group = by_value.get((row["timestamp"], value))
                expected = reference_figures(group, weighted)[name] if group else None
                assert same(number(row[value]), expected), (name, value)
    return keys


def check_regions(made: Datacube, root: str, level: str, cells: list[Cell], weighted: bool) -> set[str]:
    keys = set()
    for time, here in grouped(cells, time_of).items():
        key = f"{root}/aggs/{time}/default/default.csv"
        check_lines(made.rows(key), ("id",), grouped(here, lambda cell: (region_id(cell, level),)), weighted)
        by_crop = grouped(here, lambda cell: (region_id(cell, level), cell.key["crop"]))
        other = f"{root}/aggs/{time}/qualifiers/crop.csv"
        check_lines(made.rows(other), ("id", "qualifier"), by_crop, weighted)
        keys |= {key, other}
    for region, here in grouped(cells, lambda cell: region_id(cell, level)).items():
        key = f"{root}/timeseries/default/{region}.csv"
        check_lines(made.rows(key), ("timestamp",), by_time(here), weighted)
        keys.add(key)
        if level != "admin2":
            for crop, few in grouped(here, lambda cell: cell.key["crop"]).items():
                key = f"{root}/timeseries/qualifiers/crop/{crop}/{region}.csv"
                check_lines(made.rows(key), ("timestamp",), by_time(few), weighted)
                keys.add(key)
    return keys


def by_time(cells: list[Cell]) -> dict[Any, list[Cell]]:
    return grouped(cells, lambda cell: (str(time_of(cell)),))


def check_lines(
    lines: list[dict[str, str]], names: tuple[str, ...], groups: dict[Any, list[Cell]], weighted: bool
) -> None:
    """A line for each group, in order, with the figures of the group."""
    order: Callable[[Any], Any] = (lambda key: int(key[0])) if names == ("timestamp",) else (lambda key: key)
    assert [tuple(line[name] for name in names) for line in lines] == sorted(groups, key=order)
    for line in lines:
        check_figures(line, reference_figures(groups[tuple(line[name] for name in names)], weighted))


# --- conservation ----------------------------------------------------------------------------------


@given(tables())
def test_counts_and_sums_are_conserved_at_every_region_level(rows: list[Row]) -> None:
    made = made_of(rows)
    for resolution in RESOLUTIONS:
        for feature in made.data_info["features"]:
            (series,) = csvs(made, resolution, feature, "global.csv").values()
            for total in series:
                for level in REGION_LEVELS[:3]:
                    for last in ("default/default", "qualifiers/crop"):
                        key = f"{resolution}/{feature}/regional/{level}/aggs/{total['timestamp']}/{last}.csv"
                        for name in ("s_count", "s_sum_t_sum", "s_sum_t_mean"):
                            parts = sum(float(row[name]) for row in made.rows(key))
                            assert same(parts, float(total[name])), (key, name)


def tiles_by_zoom(
    made: Datacube, resolution: str, feature: str
) -> dict[tuple[int, int], dict[tuple[int, int], Bins]]:
    """Bins by (time, zoom) and (x, y)."""
    found: dict[tuple[int, int], dict[tuple[int, int], Bins]] = defaultdict(dict)
    for key in made.keys(f"{resolution}/{feature}/tiles/"):
        (z, x, y), bins = parse_tile(made.objects[key])
        time = int(key.rsplit("/", 1)[1].rsplit("-", 3)[0])
        assert key.endswith(f"{time}-{z}-{x}-{y}.tile")
        found[time, z][x, y] = bins
    return found


@given(tables())
def test_counts_and_sums_are_conserved_at_every_zoom(rows: list[Row]) -> None:
    made = made_of(rows)
    for resolution in RESOLUTIONS:
        on_map = [
            row
            for row in rows
            if row["lat"] is not None and row["lng"] is not None and abs(row["lat"]) < 85.05
        ]
        cells = reference_cells([{**row, "wt": wt_text(row)} for row in on_map], resolution)
        for feature in FEATURES:
            here = grouped([cell for cell in cells if cell.key["feature"] == feature], time_of)
            tiles = tiles_by_zoom(made, resolution, feature)
            # Where every value is missing there is nothing to divide by, and no tile.
            assert {time for time, _ in tiles} == {
                time for time, some in here.items() if reference_figures(some)["s_count"]
            }
            for (time, zoom), of_zoom in tiles.items():
                bins = [figures for stats in of_zoom.values() for figures in stats.values()]
                sums = [math.fsum(figures[i] for figures in bins) for i in range(3)]
                expected = reference_figures(here[time])
                names = ("s_sum_t_sum", "s_sum_t_mean", "s_count")
                assert all(same(a, expected[name]) for a, name in zip(sums, names, strict=True)), (time, zoom)


@given(tables())
def test_a_parent_bin_is_the_sum_of_its_children(rows: list[Row]) -> None:
    made = made_of(rows)
    for feature in FEATURES:
        tiles = tiles_by_zoom(made, "month", feature)
        for (time, zoom), of_zoom in tiles.items():
            if zoom == 0:
                continue
            sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
            for (x, y), bins in of_zoom.items():
                for index, figures in bins.items():
                    parent = (x * 64 + index % 64) // 2, (y * 64 + index // 64) // 2
                    for i, figure in enumerate(figures):
                        sums[parent][i] += figure
            above = {
                (x * 64 + index % 64, y * 64 + index // 64): figures
                for (x, y), bins in tiles[time, zoom - 1].items()
                for index, figures in bins.items()
            }
            assert set(above) == set(sums)
            assert all(same(a, b) for place in sums for a, b in zip(sums[place], above[place], strict=True))


@given(tables())
def test_grid_statistics_are_the_extrema_of_the_bins_and_follow_the_formula(rows: list[Row]) -> None:
    made = made_of(rows)
    for feature in FEATURES:
        squares = squares_of(rows, feature)
        for (time, zoom), of_zoom in tiles_by_zoom(made, "month", feature).items():
            bins = [figures for stats in of_zoom.values() for figures in stats.values()]
            # A square without a value is no bin; its sums of nothing are among the figures all the same.
            nothing = [0.0] * (len(squares[time, zoom]) > len(bins))
            means = [(total / weight, mean / weight) for total, mean, weight in bins if weight]
            key = f"month/{feature}/stats/grid/{time}.csv"
            assert (key in made.objects) == bool(means)
            if not means:
                continue
            (row,) = [row for row in made.rows(key) if int(row["zoom"]) == zoom + 6]
            figures = {
                "s_sum_t_sum": [total for total, _, _ in bins] + nothing,
                "s_sum_t_mean": [mean for _, mean, _ in bins] + nothing,
                "s_mean_t_sum": [mean for mean, _ in means],
                "s_mean_t_mean": [mean for _, mean in means],
            }
            for name, values in figures.items():
                assert same(number(row[f"min_{name}"]), min(values))
                assert same(number(row[f"max_{name}"]), max(values))


def squares_of(rows: list[Row], feature: str) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """The squares on the map that have rows of a month, by time and zoom, with and without values."""
    squares: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    on_map = [row for row in rows if None not in (row["lat"], row["lng"]) and abs(row["lat"]) < 85.05]
    for cell in reference_cells([{**row, "wt": wt_text(row)} for row in on_map], "month"):
        if cell.key["feature"] == feature:
            for zoom in range(9):
                squares[time_of(cell), zoom].add(slippy(cell.key["lat"], cell.key["lng"], zoom + 6))
    return squares


@given(tables())
def test_bins_are_where_the_formula_puts_the_points(rows: list[Row]) -> None:
    made = made_of(rows)
    for feature in FEATURES:
        expected: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for row in rows:
            known = None not in (row["lat"], row["lng"], row["value"])
            if row["feature"] == feature and known and abs(row["lat"]) < 85.05:
                for zoom in range(9):
                    expected[zoom].add(slippy(row["lat"], row["lng"], zoom + 6))
        found: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for (_, zoom), of_zoom in tiles_by_zoom(made, "year", feature).items():
            for (x, y), bins in of_zoom.items():
                found[zoom] |= {(x * 64 + index % 64, y * 64 + index // 64) for index in bins}
        assert found == expected


@given(tables())
def test_the_global_timeseries_is_the_sum_of_the_qualifier_timeseries(rows: list[Row]) -> None:
    made = made_of(rows)
    for resolution in RESOLUTIONS:
        for feature in made.data_info["features"]:
            root = f"{resolution}/{feature}/timeseries"
            for name in ("s_count", "s_sum_t_sum", "s_sum_t_mean"):
                totals = {
                    row["timestamp"]: float(row[name]) for row in made.rows(f"{root}/global/global.csv")
                }
                parts = {
                    row["timestamp"]: math.fsum(
                        number(row[value]) or 0.0 for value in set(row) - {"timestamp"}
                    )
                    for row in made.rows(f"{root}/qualifiers/crop/{name}.csv")
                }
                assert parts.keys() == totals.keys()
                assert all(same(parts[time], totals[time]) for time in totals)


@given(tables(), st.booleans())
def test_extrema_are_the_extrema_of_the_published_tables(rows: list[Row], weighted: bool) -> None:
    made = made_of(rows, weight_column="wt" if weighted else "")
    for resolution in RESOLUTIONS:
        for feature in made.data_info["features"]:
            for level in REGION_LEVELS[:3]:
                root = f"{resolution}/{feature}/regional/{level}"
                table = [
                    (int(key.split("/")[5]), row)
                    for key in made.keys(f"{root}/aggs/", "default.csv")
                    for row in made.rows(key)
                ]
                check_extrema(made, f"{root}/stats/default/extrema.json", table)


def check_extrema(made: Datacube, key: str, table: list[tuple[int, dict[str, str]]]) -> None:
    names = [name for name in table[0][1] if name not in ("id", "s_count")]
    columns = {name: [(time, row["id"], number(row[name])) for time, row in table] for name in names}
    complete = all(any(value is not None for _, _, value in column) for column in columns.values())
    assert (key in made.objects) == complete
    if not complete:
        return
    document = made.json(key)
    assert list(document) == ["min", "max"]
    assert list(document["min"]) == list(document["max"]) == names
    for name, column in columns.items():
        for side, choose in (("min", min), ("max", max)):
            best = choose(value for _, _, value in column if value is not None)
            ties = sorted((-time, region) for time, region, value in column if value == best)[:20]
            items = document[side][name]
            assert [(-item["timestamp"], item["region_id"]) for item in items] == ties
            assert all(item["value"] == best for item in items)


# --- order and shards ------------------------------------------------------------------------------


@given(tables(st.none() | st.floats(-1e6, 1e6), st.floats(0, 100)), st.randoms(use_true_random=False))
def test_shuffling_rows_of_any_numbers_changes_no_byte(rows: list[Row], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (made_of(one, weight_column="wt") for one in (rows, shuffled))
    assert first.objects.keys() == second.objects.keys()
    differing = {key for key in first.objects if first.objects[key] != second.objects[key]}
    assert all(key.endswith("/raw.csv") for key in differing)


def sharded(points: Points, shards: int) -> list[pa.Table]:
    numbers = shard_numbers(points.table, points.layout, shards)
    assert set(numbers.tolist()) <= set(range(shards))
    return [points.table.filter(pa.array(numbers == shard)) for shard in range(shards)]


Numbers = st.none() | st.floats(-1e6, 1e6) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    tables(Numbers, st.floats(0, 100)), st.lists(st.integers(0, 30), max_size=5), st.booleans(), st.booleans()
)
def test_cells_of_batches_are_those_of_one_pass_to_the_last_digit(
    rows: list[Row], cuts: list[int], weighted: bool, merged_early: bool
) -> None:
    points = normalized(rows, weight_column="wt" if weighted else "")
    edges = [0, *sorted(min(cut, points.table.num_rows) for cut in cuts), points.table.num_rows]
    batches = [points.table.slice(start, end - start) for start, end in itertools.pairwise(edges)]
    with patch.object(temporal, "MERGED_ROWS", 0 if merged_early else 1_000_000):
        found = dict(temporal_cells(batches, points.layout, ("month", "year", "all")))
    once = dict(temporal_cells([points.table], points.layout, ("month", "year", "all")))
    assert {period: table.to_pylist() for period, table in found.items()} == {
        period: table.to_pylist() for period, table in once.items()
    }
    assert all(found[period].schema == table.schema for period, table in once.items())


@given(tables(Numbers, st.floats(0, 100)), st.integers(1, 6), st.booleans())
def test_merged_shards_equal_one_pass_to_the_last_digit(rows: list[Row], shards: int, weighted: bool) -> None:
    points = normalized(rows, weight_column="wt" if weighted else "")
    layout = points.layout
    for period in ("month", "year", "all"):
        whole = dict(temporal_cells([points.table], layout, (period,)))[period]
        parts = [
            dict(temporal_cells([shard], layout, (period,)))[period] for shard in sharded(points, shards)
        ]
        assert sum(part.num_rows for part in parts) == whole.num_rows, "no cell is in two shards"
        for by in (None, Breakdown("crop", frozenset(FEATURES)), Breakdown("crop", frozenset("g"))):
            merged = spatial.merge_global(
                [spatial.global_partial(spatial.Cells(part, layout, ranges=True), by) for part in parts]
            )
            once = spatial.global_aggregates(spatial.Cells(whole, layout, ranges=True), by)
            assert merged.to_pylist() == once.to_pylist()
            regional = spatial.merge_regional(
                [spatial.regional_partial(spatial.Cells(part, layout), by) for part in parts], layout
            )
            for level, table in spatial.regional_aggregates(spatial.Cells(whole, layout), by).items():
                assert regional[level].to_pylist() == table.to_pylist()
        grids = [grid.grid_cells(part) for part in parts]
        assert grid.merge_grid(grids).to_pylist() == grid.grid_cells(whole).to_pylist()


@given(
    st.lists(st.tuples(st.sampled_from(FEATURES), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 20),
    st.booleans(),
)
def test_chunks_cut_a_table_into_parts_that_join_to_it_again(
    keys: list[tuple[str, int]], target: int, by_time: bool
) -> None:
    table = pa.table(
        {"feature": [key[0] for key in sorted(keys)], "timestamp": [key[1] for key in sorted(keys)]}
    )
    counts = Counter(key[0] for key in keys)
    chunks = Chunks.of(counts, target, (0, 9) if by_time else None)
    parts = chunks.cut(table)
    assert len(parts) == len(chunks)
    assert pa.concat_tables(parts).to_pylist() == table.to_pylist()
    groups = [{(row["feature"], row["timestamp"] if by_time else 0) for row in p.to_pylist()} for p in parts]
    assert sum(map(len, groups)) == len(set().union(*groups)), "what belongs together is together"
    if not by_time:
        # A chunk is too large only where one feature is.
        assert all(part.num_rows <= max(target, *counts.values()) for part in parts)
        shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(keys))))
        assert [part.sort_by("feature")["feature"] for part in chunks.split(shuffled)] == [
            part["feature"] for part in parts
        ]


@given(tables(), st.integers(2, 6), st.randoms(use_true_random=False))
def test_a_place_is_in_the_same_shard_in_whatever_batch_it_comes(
    rows: list[Row], shards: int, random: Any
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    found: dict[str, set[int]] = defaultdict(set)
    # The first row of `tables` keeps all columns alive in both.
    for batch in (rows, [rows[0], *shuffled]):
        points = normalized(batch)
        numbers = shard_numbers(points.table, points.layout, shards)
        place = ["feature", *points.layout.levels, *points.layout.coordinates]
        for row, shard in zip(points.table.select(place).to_pylist(), numbers.tolist(), strict=True):
            found[json.dumps(row).replace("-0.0", "0.0")].add(shard)
    assert all(len(numbers) == 1 for numbers in found.values())


def test_shards_are_of_similar_size() -> None:
    rows: list[Row] = [{"country": "Kenya", "lat": i / 10, "lng": i / 7, "value": 1.0} for i in range(4000)]
    points = normalized(rows)
    counts = np.bincount(shard_numbers(points.table, points.layout, 8), minlength=8)
    assert counts.min() > 400
    assert counts.max() < 600


# --- groups ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcé"), st.sampled_from([0.0, -0.0, 1.5, math.nan])), max_size=30))
def test_groups_are_those_of_a_dictionary_in_order_of_text_and_number(pairs: list[tuple[str, float]]) -> None:
    text = encode_text(pa.array([pair[0] for pair in pairs], pa.string()))
    floats = encode_floats(np.array([pair[1] for pair in pairs], np.float64))
    groups = group_by([text, floats])
    expected: dict[tuple[str, float], int] = defaultdict(int)
    for name, value in pairs:
        expected[name, math.inf if math.isnan(value) else value + 0.0] += 1
    assert groups.sizes.tolist() == [expected[key] for key in sorted(expected)]
    assert len(set(groups.number_rows().tolist())) == len(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_warning_reaches_the_user(resolution: Resolution) -> None:
    rows: list[Row] = [
        {"country": "Kenya", "lat": lat, "lng": 1.0, "value": value, "wt": weight}
        for lat, value, weight in (
            (1.0, math.inf, 1.0),
            (1.0, 1.7e308, 1e300),
            (2.0, 1.7e308, 0.0),
            (None, None, None),
        )
    ]
    made = datacube(rows, weight_column="wt")
    assert made.rows(f"{resolution}/f/timeseries/global/global.csv")
