"""What publishing some files would say and make, found out without publishing anything: `datacube check`.

The assets up to the tables and their checks are run as publishing runs them, in a lake for the time being,
so that the two cannot disagree. How findings are shown is in `cli/check.py` and `check_page.py`; how names,
places and values are judged in `checks/judging/`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetCheckEvaluation, AssetCheckSeverity, DagsterInstance, DagsterResourceFunctionError
from pydantic import SecretStr

from datacube_assets.assets import pictures
from datacube_assets.assets.aggregates import breakdowns, global_aggregates
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.estimates import Counted, Storable, counted
from datacube_assets.assets.points import normalized_points
from datacube_assets.assets.results import pipeline_results, results_of
from datacube_assets.assets.tables import iso
from datacube_assets.check_limits import LimitsError, LimitsFile
from datacube_assets.checks.judging import plausibility
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.fetch import FetchError
from datacube_assets.dojo.model_run import ModelRun, encode_name
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.columns import python_values
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.estimate import Estimate
from datacube_assets.kernels.groups import Ints
from datacube_assets.kernels.key_safety import LONGEST_KEY, LONGEST_PART, Keys, key_sizes, longest_part
from datacube_assets.kernels.provenance import (
    DROPPED,
    INFINITE_VALUE,
    MISSING_VALUE,
    NO_TIMESTAMP,
    NO_WEIGHT,
    OFF_MAP,
    TURNED,
    faults,
)
from datacube_assets.kernels.regions import Regions
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import FIXED_COLUMNS, RESOLUTIONS, Layout
from datacube_assets.operations.publish import events_to
from datacube_assets.orchestration.dagster_private import BlockingCheckFailed
from datacube_assets.orchestration.home import passing_instance
from datacube_assets.orchestration.jobs import ASSETS, process_model_run, selection
from datacube_assets.orchestration.side_by_side import execute_job
from datacube_assets.partitions import AT_COMMAND_LINE, SOURCE_TAG, model_runs, run_tags
from datacube_assets.redaction import public, redacted
from datacube_assets.resources.storage import buckets_of
from datacube_assets.resources.ui import untold
from datacube_assets.settings import Settings, SettingsError
from datacube_assets.storage.lake import (
    DESCRIPTOR,
    Lake,
    LakeTable,
    MissingTableError,
    aggregate_folder,
    scratch_folder,
)
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.points import REGIONS, RawParts
from datacube_assets.storage.requests import leave_request
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import Store, StoreError
from datacube_assets.storage.written import WRITTEN

TABLES = ASSETS[: next(number for number, one in enumerate(ASSETS) if one in DATACUBE_ASSETS)]
"""The assets that are made: everything that objects are formatted from."""
STEPS = len(TABLES)
CONSTANT_FROM = 10
"""Values of a feature from which on one and the same is worth a warning before publishing.

Publishing itself waits for more of them, so that the UI is not full of warnings.
"""
_OBJECTS_PER_SECOND = {"file": 25_000, "s3": 700}
"""Roughly, by the kind of bucket; docs/check.md says so."""
_PICTURES = (
    ("Points", "normalized_points", pictures.of_points),
    ("Over time", "global_aggregates", pictures.of_timeseries),
    ("Regions", "regional_aggregates", pictures.of_regions),
    ("Map", "grid_cells", pictures.of_tiles),
)

Progress = Callable[[int, int, str], None]
"""Called with the number of steps done, of all steps, and the name of the next."""


@dataclass(frozen=True)
class Found:
    """Something worth a look; its name stays the same from version to version."""

    name: str
    says: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnFound:
    """What a column of the files becomes, and why."""

    name: str
    becomes: str
    why: str


@dataclass(frozen=True)
class Example:
    """A row, by its file and its number in it from 0, as delivered."""

    part: str
    row: int
    timestamp: str | None
    value: str | None


@dataclass
class Findings:
    """Everything that publishing would say. What is not known, because of an error, is None or empty."""

    run: ModelRun
    rows: int | None = None
    rows_kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows by why they are in no figure; each has one reason."""
    repaired: dict[str, int] = field(default_factory=dict)
    """Rows kept, by what was changed in them or where they do not count; one may have several."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    columns: list[ColumnFound] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    """Rows by feature."""
    levels: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    """Regions by level."""
    has_tiles: bool = False
    bounding_box: tuple[float, float, float, float] | None = None
    first: str | None = None
    last: str | None = None
    times: dict[str, int] = field(default_factory=dict)
    """Months and years that have rows."""
    objects: dict[str, Estimate] = field(default_factory=dict)
    """Objects and bytes by family."""
    about_seconds: float | None = None
    warnings: list[Found] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """That the check took."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNGs by title."""

    @property
    def total(self) -> Estimate:
        return sum(self.objects.values(), Estimate())

    @property
    def months_and_years(self) -> list[str]:
        """How many there are, in words."""
        return [f"{n:,} {name.removesuffix('s') if n == 1 else name}" for name, n in self.times.items()]

    def to_json(self) -> dict[str, Any]:
        """For programs; the keys stay."""
        known = bool(self.objects)
        return {
            "model_id": self.run.model_id,
            "run_id": self.run.run_id,
            "rows": self.rows,
            "rows_kept": self.rows_kept,
            "dropped": self.dropped,
            "repaired": self.repaired,
            "examples": {reason: [vars(one) for one in some] for reason, some in self.examples.items()},
            "columns": [vars(one) for one in self.columns],
            "features": list(self.features),
            "rows_per_feature": self.features,
            "levels": self.levels,
            "regions": self.places,
            "has_tiles": self.has_tiles,
            "bounding_box": self.bounding_box,
            "times": {"first": self.first, "last": self.last, **self.times},
            "objects": {
                **{name: one.objects for name, one in self.objects.items()},
                **({"all": self.total.objects} if known else {}),
            },
            "bytes": self.total.bytes if known else None,
            "bytes_by_family": {name: one.bytes for name, one in self.objects.items()},
            "about_seconds": self.about_seconds,
            "warnings": [vars(one) for one in self.warnings],
            "errors": self.errors,
        }


def check(
    settings: Settings,
    request: DatacubeRequest,
    progress: Progress = lambda *_: None,
    *,
    draw: bool = False,
) -> Findings:
    """Find out what publishing a request would say. Nothing is written but into a folder of its own.

    What publishing would refuse is among the errors. `draw` makes pictures, too. Raises what is no fault of
    the input: SettingsError, StoreError while there is no room for temporary files.
    """
    started = time.monotonic()
    found = Findings(ModelRun.of(request))
    try:
        found.run.check()
        with scratch_folder() as folder, WRITTEN.kept(), passing_instance() as instance:
            inner = _inner(settings, request, Path(folder))
            opened = request.model_copy(
                update={"data_paths": tuple(map(Seal.of(settings).open, request.data_paths))}
            )
            _Check(settings, inner, instance, opened, found, progress, draw).run()
    except (InputError, FetchError) as error:
        found.errors.append(redacted(str(error)))
    found.seconds = time.monotonic() - started
    return found


def _inner(settings: Settings, request: DatacubeRequest, folder: Path) -> Settings:
    """The same settings, with everything in a folder, and nobody to ask or to tell."""
    try:
        limits = LimitsFile.read(settings.check_limits)
    except LimitsError as error:
        raise SettingsError(str(error)) from None
    of_model = limits.of(request.model_id).model_dump()
    named = limits.model_fields_set | set(limits.models.get(request.model_id, {}))
    if "constant_from" not in named:
        of_model["constant_from"] = CONSTANT_FROM
    file = folder / "limits.toml"
    file.write_text("".join(f"{name} = {value}\n" for name, value in of_model.items()))
    nobody = SecretStr("")
    return settings.model_copy(
        update={
            "home": folder,
            "lake": (folder / "lake").as_uri(),
            "models_bucket": (folder / "models").as_uri(),
            "indicators_bucket": (folder / "indicators").as_uri(),
            "check_limits": str(file),
            "dojo_url": "",
            "dojo_password": nobody,
            "causemos_url": "",
            "causemos_password": nobody,
            "view_url": "",
            "docs_url": "",
            "pictures": False,
            # Another machine's workers do not reach the folder.
            "dask_mode": "threads",
            "dask_scheduler": "",
            "executor": "in_process",
        }
    )


@dataclass
class _Check:
    """One check while it is made."""

    settings: Settings
    inner: Settings
    instance: DagsterInstance
    request: DatacubeRequest
    found: Findings
    progress: Progress
    draw: bool
    estimates: dict[str, Estimate] = field(default_factory=dict)
    tables_seconds: float = 0.0

    def run(self) -> None:
        """Make the tables, then look at them."""
        started = time.monotonic()
        self._materialize()
        self.tables_seconds = time.monotonic() - started
        lake = self.lake
        try:
            points = lake.table(self.found.run, normalized_points.key.path[-1])
        except MissingTableError:
            return
        info = RunInfo.of(points)
        self._rows(lake, points, info)
        self._columns(lake, info)
        self._places_and_times(lake, points, info)
        if self.estimates:
            self._objects(lake, points)
        self._qualifiers(lake, points, info)
        self._other_runs(info)
        if self.draw:
            self._pictures(lake)

    @property
    def lake(self) -> Lake:
        return Lake(open_store(self.inner.lake), remembers=True, passing=True)

    # --- running -----------------------------------------------------------------------------------

    def _materialize(self) -> None:
        run = leave_request(self.lake, Seal.of(self.inner).close_all(self.request))
        self.instance.add_dynamic_partitions(str(model_runs.name), [run.key])
        done = 0

        def begun(step: str) -> None:
            self.progress(done, STEPS, step)

        def made(asset: str, _: Mapping[str, Any]) -> None:
            nonlocal done
            done += 1

        loggers = {"progress": events_to(begun, made, self._failed, self._passed)}
        job = build_definitions(self.inner, loggers=loggers, passing=True).resolve_job_def(
            process_model_run.name
        )
        try:
            with untold():
                execute_job(
                    job,
                    self.instance,
                    run_id=str(uuid.uuid4()),
                    partition_key=run.key,
                    assets=[asset.key for asset in TABLES],
                    tags={**run_tags(run), SOURCE_TAG: AT_COMMAND_LINE},
                    run_config={"loggers": {"progress": {}}},
                )
        except BlockingCheckFailed:
            pass
        except DagsterResourceFunctionError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None

    def _failed(self, check: AssetCheckEvaluation) -> None:
        says = check.description or "it failed"
        if check.blocking and check.severity == AssetCheckSeverity.ERROR:
            said = f"{check.check_name}: {says}"
            # One check may be of several assets.
            if said not in self.found.errors:
                self.found.errors.append(said)
        else:
            figures = {name: value.value for name, value in check.metadata.items()}
            self._warn(check.check_name, says, _without(figures, "seconds", "partition"))
        self._passed(check)

    def _passed(self, check: AssetCheckEvaluation) -> None:
        by_asset = check.metadata.get("by asset")
        if by_asset is not None and isinstance(by_asset.value, dict):
            self.estimates = {
                name: Estimate(one["objects"], one["bytes"]) for name, one in by_asset.value.items()
            }

    def _warn(self, name: str, says: str, figures: Mapping[str, Any] | None = None) -> None:
        # As JSON, which is what reports are made of.
        self.found.warnings.append(Found(name, says, json.loads(json.dumps(figures or {}, default=str))))

    def _judge(self, name: str, verdict: Verdict) -> None:
        if not verdict.passed:
            self._warn(name, verdict.says, verdict.figures)

    # --- rows and columns --------------------------------------------------------------------------

    def _rows(self, lake: Lake, points: LakeTable, info: RunInfo) -> None:
        report, found = info.report, self.found
        found.rows, found.rows_kept = report.num_rows, report.points
        found.features = {name: report.num_rows_per_feature[name] for name in info.features}
        found.dropped = dict.fromkeys(DROPPED, 0)
        reported = _reported(report, info.layout)
        if report.dropped:
            # Rows may have several faults: only a look at each tells the first one.
            self._look(lake, info, None)
        elif reported:
            found.repaired = reported
            self._look(lake, info, reported)

    def _look(self, lake: Lake, info: RunInfo, known: Mapping[str, int] | None) -> None:
        """Look through the rows for what is wrong with them; what is `known` needs examples only."""
        for part in RawParts(lake, lake.table(info.run, "raw_dojo_output")).parts():
            first = 0
            for batch in part.batches():
                for reason, rows in faults(batch, info.plan).items():
                    here = np.flatnonzero(rows)
                    if len(here):
                        if known is None:
                            self._count(reason, len(here))
                        self._show(reason, part.name, first, batch, here)
                first += batch.num_rows
                shown = self.found.examples
                if known is not None and all(
                    len(shown.get(reason, ())) >= min(number, EXAMPLES) for reason, number in known.items()
                ):
                    return

    def _count(self, reason: str, rows: int) -> None:
        counts = self.found.dropped if reason in DROPPED else self.found.repaired
        counts[reason] = counts.get(reason, 0) + rows

    def _show(self, reason: str, part: str, first: int, batch: pa.Table, rows: Ints) -> None:
        shown = self.found.examples.setdefault(reason, [])
        for row in rows[: EXAMPLES - len(shown)].tolist():
            cells = (python_values(batch[name].slice(row, 1))[0] for name in ("timestamp", "value"))
            time_, value = (None if cell is None else str(cell)[:80] for cell in cells)
            shown.append(Example(public(part), first + row, time_, value))

    def _columns(self, lake: Lake, info: RunInfo) -> None:
        raw = RawParts(lake, lake.table(info.run, "raw_dojo_output"))
        parts = raw.parts()
        mapped: dict[str, list[str]] = {}
        for feature, qualifiers in self.request.qualifier_map.items():
            for name in qualifiers:
                mapped.setdefault(name, []).append(feature)
        for name in dict.fromkeys(name for part in parts for name in part.columns):
            becomes, why = _role(name, info, mapped.get(name, []))
            missing = sum(name not in part.columns for part in parts)
            if missing:
                why += f"; {missing:,} of {len(parts):,} files have no such column"
            self.found.columns.append(ColumnFound(name, becomes, why))
        for name in dict.fromkeys(name for part in parts for name in part.left_out):
            self.found.columns.append(
                ColumnFound(name, "nothing", "it is the index of a data frame, and no data")
            )

    def _places_and_times(self, lake: Lake, points: LakeTable, info: RunInfo) -> None:
        report, found = info.report, self.found
        found.levels = list(info.layout.levels)
        found.has_tiles, found.bounding_box = report.has_tiles, report.bounding_box
        if info.layout.levels:
            regions = Regions.of(lake.read(points, REGIONS), info.layout.levels)
            found.places = {level: len(regions.ids(level).unique()) for level in info.layout.levels}
        if report.min_timestamp is not None and report.max_timestamp is not None:
            found.first, found.last = iso(report.min_timestamp), iso(report.max_timestamp)
        with contextlib.suppress(MissingTableError):
            table = lake.table(info.run, global_aggregates.key.path[-1])
            for resolution in RESOLUTIONS:
                times = lake.read_all(table, aggregate_folder(resolution), ["timestamp"])["timestamp"]
                found.times[f"{resolution}s"] = len(pc.unique(times))

    # --- objects -----------------------------------------------------------------------------------

    def _objects(self, lake: Lake, points: LakeTable) -> None:
        chosen = selection(self.request.selected_output_tasks)
        wanted = None if chosen is None else {key.path[-1] for key in chosen}
        bucket = buckets_of(self.settings).open(self.request)
        counts = counted(lake, self.found.run, _storable(bucket), self.estimates)
        families = {name: one for name, one in counts.items() if wanted is None or name in wanted}
        self.found.objects = {name: one.estimate for name, one in families.items()}
        results = pipeline_results.key.path[-1]
        if wanted is None or results in wanted:
            table = lake.table(self.found.run, global_aggregates.key.path[-1])
            self.found.objects[results] = Estimate(1, len(results_of(lake, points, table)))
        self._left_out(families)
        rate = _OBJECTS_PER_SECOND[bucket.url.partition(":")[0]]
        self.found.about_seconds = round(self.tables_seconds + self.found.total.objects / rate, 1)

    def _left_out(self, families: Mapping[str, Counted]) -> None:
        too_long = [key for one in families.values() for key in one.too_long]
        shared = [key for one in families.values() for key in one.shared]
        odd = [
            *([f"{len(too_long):,} keys are longer than the bucket takes"] if too_long else []),
            *([f"{len(shared):,} keys would be of several objects at once"] if shared else []),
        ]
        if odd:
            self._warn(
                "objects_can_be_asked_for",
                f"Some objects will not be published: {', '.join(odd)}. Give shorter names, without `/`",
                {"too long": too_long[:EXAMPLES], "shared": shared[:EXAMPLES]},
            )

    def _qualifiers(self, lake: Lake, points: LakeTable, info: RunInfo) -> None:
        limit = info.thresholds.max_count
        counts = breakdowns(lake, points).counts
        many = {
            f"{qualifier} of {feature}": counts[feature][qualifier]
            for feature, qualifiers in self.request.qualifier_map.items()
            for qualifier in qualifiers
            if counts.get(feature, {}).get(qualifier, 0) > limit
        }
        if many:
            self._warn(
                "qualifiers_are_within_limits",
                f"Qualifiers have more than {limit:,} values, and break nothing down: {names(list(many))}. "
                "Raise max_count, or leave them out",
                dict(list(many.items())[:EXAMPLES]),
            )

    # --- other runs --------------------------------------------------------------------------------

    def _other_runs(self, info: RunInfo) -> None:
        """What differs from the model's newest run, as far as the lake knows of any."""
        with contextlib.suppress(StoreError, OSError):
            limit = LimitsFile.read(self.inner.check_limits).other_runs
            # One more, since the newest may be this run as it was before.
            known = list(itertools.islice(_runs_of_model(self.settings, info.run.model_id), limit + 1))
            others = [(run.key, of.features) for run, of in known if run != info.run]
            newest = dict(others[:limit])
            self._judge("features_are_those_of_other_runs", plausibility.same_features(info.features, newest))
            if known:
                last, before = known[0]
                self._judge("like_the_last_run", _like(info, last, before))

    def _pictures(self, lake: Lake) -> None:
        for title, asset, make in _PICTURES:
            # Nobody should miss a report because of a picture.
            with contextlib.suppress(Exception):
                png = make(lake, lake.table(self.found.run, asset))
                if png is not None:
                    self.found.pictures[title] = png


def _reported(report: Report, layout: Layout) -> dict[str, int]:
    """What the report says of rows that were kept, where none was dropped, under the names of `faults`."""
    counts = {
        NO_TIMESTAMP: report.num_missing_ts,
        MISSING_VALUE: report.num_missing_val,
        INFINITE_VALUE: report.infinite_values,
        OFF_MAP: report.missing_coordinates + report.beyond_mercator if layout.mappable else 0,
        TURNED: report.wrapped_longitudes,
        NO_WEIGHT: report.missing_weights,
    }
    return {fault: number for fault, number in counts.items() if number}


def _without(figures: Mapping[str, Any], *names_: str) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in names_}


def _role(name: str, info: RunInfo, features: list[str]) -> tuple[str, str]:
    """What a column becomes, and why."""
    layout, request = info.layout, info.request
    if name == "timestamp":
        return "the time of a row", f"read as numbers in {request.timestamp_unit}, dates or ISO 8601 text"
    if name in ("feature", "value"):
        return f"the {name} of a row", "every file has it"
    if name in layout.levels:
        return f"a level of regions, {name}", "some row has one"
    if name in layout.coordinates:
        if layout.mappable:
            return f"a coordinate, {name}", "tiles are made of it"
        return f"a coordinate, {name}", "without the other one there are no tiles"
    if name == layout.weight:
        return "the weight of a row", "the request names it"
    if name in layout.qualifiers:
        mixed = "; its kind differs between files, so that it is text" if name in info.plan.mixed else ""
        if features:
            return "a qualifier", f"the request maps it to {names(sorted(features))}{mixed}"
        return "a qualifier that nothing is broken down by", (
            f"the request maps it to no feature; rows of a place that differ in it are apart{mixed}"
        )
    if name in FIXED_COLUMNS:
        return "nothing", "no row has a value in it"
    return "nothing", "it is empty"


def _storable(bucket: Store) -> Storable:
    """Which keys a bucket takes, without asking it."""
    if not bucket.url.startswith("s3:"):
        return bucket.storable
    prefix = len(bucket.url.removeprefix("s3://").partition("/")[2].encode()) + 1

    def storable(keys: Keys) -> Any:
        short = key_sizes(keys) + prefix <= LONGEST_KEY
        for number in np.flatnonzero(short & (key_sizes(keys) > LONGEST_PART)).tolist():
            # Servers that keep objects as files take no longer names; whether this one does is not asked.
            short[number] = longest_part(str(keys[number])) <= LONGEST_PART
        return short

    return storable


_READERS = 16
"""Runs of a model that are looked at at the same time."""


def _runs_of_model(settings: Settings, model_id: str) -> Iterator[tuple[ModelRun, RunInfo]]:
    """The runs of a model that the lake has points of, newest first. Only reads."""
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    folder = f"runs/{encode_name(model_id)}/"

    def written(name: str) -> tuple[float, str]:
        place = f"{folder}{name}/{normalized_points.key.path[-1]}/"
        entries = lake.store.entries(place)
        return max((one.modified for one in entries if one.key == f"{place}{DESCRIPTOR}"), default=0.0), name

    with ThreadPoolExecutor(_READERS, "runs") as readers:
        dated = sorted(readers.map(written, lake.store.folders(folder)), reverse=True)
    for _, name in dated:
        run = ModelRun.known(f"{encode_name(model_id)}:{name}")
        with contextlib.suppress(MissingTableError):
            if run is not None:
                yield run, RunInfo.of(lake.table(run, "normalized_points"))


_MANY_TIMES = 2
"""How many times more or fewer rows a feature may have than in the last run."""


def _like(now: RunInfo, last: ModelRun, before: RunInfo) -> Verdict:
    """Whether a run has what the last one had: features, levels, qualifiers, and about as many rows."""
    rows, earlier = now.report.num_rows_per_feature, before.report.num_rows_per_feature
    changes = {
        f"{what} {word}": some
        for what, here, there in (
            ("features", now.features, before.features),
            ("levels", now.layout.levels, before.layout.levels),
            ("qualifiers", now.layout.qualifiers, before.layout.qualifiers),
        )
        for word, some in (("new", sorted({*here} - {*there})), ("gone", sorted({*there} - {*here})))
        if some
    }
    counts = {
        name: [earlier[name], rows[name]]
        for name in now.features
        if name in before.features
        and max(rows[name], earlier[name]) > _MANY_TIMES * min(rows[name], earlier[name])
    }
    if counts:
        changes["many more or fewer rows of"] = list(counts)
    if now.report.has_tiles != before.report.has_tiles:
        changes["tiles"] = ["now there are some" if now.report.has_tiles else "now there are none"]
    says = "; ".join(f"{what}: {names(some)}" for what, some in changes.items())
    return Verdict(
        not changes,
        f"It is not like the last run, {last}: {says}" if changes else f"It is like the last run, {last}.",
        {"last run": last.key, "rows by feature, before and now": counts, **changes},
    )
