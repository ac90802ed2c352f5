"""The checks of the asset group `points`: does the data look right, and do its cells hold every row?

How that is judged is in `plausibility.py`, `coordinates.py`, `spelling.py` and `columns.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.assets.points import normalized_points, temporal_cells
from datacube_assets.checks.check import REMAKE, Subject, listed, stops, warns
from datacube_assets.checks.judging import columns, coordinates, plausibility, spelling
from datacube_assets.checks.judging.verdict import CannotCompareError, Verdict
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.schema import CELL_COLUMNS, POINT_COLUMNS
from datacube_assets.partitions import model_runs
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError
from datacube_assets.storage.points import POINTS, QUALIFIER_VALUES, REGIONS, shards_of
from datacube_assets.storage.run_info import RunInfo


def _timestamps(subject: Subject) -> Verdict:
    return plausibility.timestamps(subject.info.report, unit=subject.info.request.timestamp_unit)


def _usable_rows(subject: Subject) -> Verdict:
    return plausibility.usable_rows(subject.info.report, subject.limits)


def _varying_values(subject: Subject) -> Verdict:
    return plausibility.varying_values(_summary(subject), subject.limits)


def _places(subject: Subject) -> Verdict:
    return plausibility.places_in_their_country(_summary(subject), subject.limits)


def _values(subject: Subject) -> Verdict:
    return plausibility.values_are_values(_summary(subject), subject.limits)


def _coordinates(subject: Subject) -> Verdict:
    info = subject.info
    return coordinates.coordinates(info.report, info.layout, _summary(subject).squares)


def _qualifiers(subject: Subject) -> Verdict:
    info = subject.info
    request = info.request
    return plausibility.qualifiers_are_there(
        request.qualifier_map,
        info.features,
        info.report,
        info.layout,
        of_dojo=bool(request.doc_ids or request.source_version),
    )


def _same_features(subject: Subject) -> Verdict:
    model = f"{subject.run.key.partition(':')[0]}:"
    known = subject.context.instance.get_dynamic_partitions(str(model_runs.name))
    # New ones come last.
    others = [key for key in reversed(known) if key.startswith(model) and key != subject.run.key]
    features = {}
    for key in others[: subject.limits.other_runs]:
        run = ModelRun.known(key)
        try:
            table = subject.lake.table(run, normalized_points.key.path[-1]) if run else None
        except MissingTableError:
            continue
        if table is not None:
            features[key] = table.info["features"]
    return plausibility.same_features(subject.info.features, features)


def _regions_can_be_asked_for(subject: Subject) -> Verdict:
    layout = subject.info.layout
    return plausibility.askable_regions(subject.lake.read(subject.points, REGIONS), layout)


def _one_spelling(subject: Subject) -> Verdict:
    regions = subject.lake.read(subject.points, REGIONS)
    by_kind = {name: _texts(regions, name) for name in regions.column_names}
    values = subject.lake.read(subject.points, QUALIFIER_VALUES)
    # What breaks no feature down is no name of anything.
    request = subject.info.request
    for qualifier in sorted({name for mapped in request.qualifier_map.values() for name in mapped}):
        by_kind[qualifier] = _texts(values.filter(pc.equal(values["qualifier"], qualifier)), "value")
    return spelling.one_spelling({kind: texts[:_MOST_NAMES] for kind, texts in by_kind.items()})


_MOST_NAMES = 100_000
"""Names of a kind that are compared."""


def _texts(table: pa.Table, name: str) -> list[str]:
    texts: list[str] = table[name].cast(pa.string()).unique().to_pylist()
    return texts


def _countries(subject: Subject) -> Verdict:
    regions = subject.lake.read(subject.points, REGIONS)
    return spelling.countries(_texts(regions, "country") if "country" in regions.column_names else [])


def _cells_hold_every_row(subject: Subject) -> Verdict:
    cells = subject.table(temporal_cells)
    points = subject.beside(normalized_points, cells)
    info = RunInfo.of(points)
    found = subject.map(_RowsInCells(subject.lake, cells), cells.names(), "cells")
    in_cells: dict[str, int] = {
        period: sum(
            rows for name, rows in zip(cells.names(), found, strict=True) if name.startswith(f"{period}-")
        )
        for period in info.periods
    }
    in_points = sum(file.rows for file in points.files if file.name.startswith(POINTS))
    counts: dict[str, int] = {"rows kept": info.report.points, "rows of points": in_points, **in_cells}
    passed = set(counts.values()) == {info.report.points}
    return Verdict(
        passed,
        f"All {info.report.points:,} rows are in the cells of every period."
        if passed
        else f"Rows are lost or counted twice: {listed(counts)}. {REMAKE}",
        {"rows": counts},
    )


@dataclass(frozen=True)
class _RowsInCells:
    lake: Lake
    cells: LakeTable

    def __call__(self, name: str) -> int:
        return pc.sum(self.lake.read(self.cells, name, ["rows"])["rows"]).as_py() or 0


def _summary(subject: Subject) -> plausibility.Summary:
    """What there is to know about the points, from one look at them."""

    def look() -> plausibility.Summary:
        layout = subject.info.layout
        there = {"feature", "value", *layout.levels, *layout.coordinates}
        wanted = [name for name in plausibility.SUMMARY_COLUMNS if name in there]
        work = _Summary(subject.lake, subject.points, wanted)
        found = subject.map(work, shards_of(subject.points), "points")
        return sum(found, plausibility.Summary({}, {}))

    return subject.once("summary", look)


@dataclass(frozen=True)
class _Summary:
    lake: Lake
    points: LakeTable
    columns: list[str]

    def __call__(self, shard: str) -> plausibility.Summary:
        tables = self.lake.batches(self.points, shard, self.columns)
        return sum(map(plausibility.summary, tables), plausibility.Summary({}, {}))


def _columns(subject: Subject) -> Verdict:
    cells = subject.table(temporal_cells)
    layout = RunInfo.of(cells).layout
    wanted = columns.declared(CELL_COLUMNS, layout, cells=True)
    files = [(cells, name, wanted) for name in cells.names()]
    try:
        points = subject.beside(normalized_points, cells)
    except CannotCompareError:
        points = None
    if points is not None:
        wanted = columns.declared(POINT_COLUMNS, layout)
        files += [(points, name, wanted) for name in points.names(POINTS)]
    return columns.columns_as_declared(subject.beside_schemas(files))


OF_POINTS = (
    warns(
        normalized_points,
        "timestamps_are_milliseconds",
        "Numbers for times do not look like another unit than they are read in: seconds, years, days.",
        _timestamps,
    ),
    warns(
        normalized_points,
        "rows_are_usable",
        "The shares of rows that were dropped, and that have no value, are within limits.",
        _usable_rows,
    ),
    warns(
        normalized_points,
        "values_vary",
        "Every feature has a value, and none that has many has the same one everywhere.",
        _varying_values,
    ),
    warns(
        normalized_points,
        "values_are_no_stand_ins",
        "Values that mostly stand for missing ones (-9999, 1e20) make up no suspicious share of a feature.",
        _values,
    ),
    warns(
        normalized_points,
        "coordinates_are_degrees",
        "Coordinates have their names, are possible, and lie on the map and in the country that is named.",
        _coordinates,
    ),
    warns(
        normalized_points,
        "qualifiers_are_there",
        "The data have the features and columns that the qualifier map names.",
        _qualifiers,
    ),
    warns(
        normalized_points,
        "places_are_in_their_country",
        "No rows of a country lie far away from the bulk of the rows of this country in this run.",
        _places,
    ),
    warns(
        normalized_points,
        "features_are_those_of_other_runs",
        "Features that most of the newest other runs of the model have are here, too.",
        _same_features,
    ),
    warns(
        normalized_points,
        "regions_can_be_asked_for",
        "No region id has more than four parts between `__`, which the reader cannot answer for.",
        _regions_can_be_asked_for,
    ),
    warns(
        normalized_points,
        "names_have_one_spelling",
        "No two features, regions of a level or values of a mapped qualifier differ in case, accents or "
        "spaces alone.",
        _one_spelling,
    ),
    warns(
        normalized_points,
        "countries_have_one_spelling",
        "No country looks like another one of the run with a letter or two wrong.",
        _countries,
    ),
    stops(
        temporal_cells,
        "cells_hold_every_row",
        "The rows counted in the cells of month, year and the whole period are the rows of the points.",
        _cells_hold_every_row,
    ),
    stops(
        temporal_cells,
        "columns_as_declared",
        "Every file of the points and of the cells has the columns, types and order that are declared.",
        _columns,
    ),
)
