"""What every step of a run has to know: the request, the layout of its tables, what became of its rows.

Travels in the `info` of lake tables, so that what an asset does always fits the rows it reads. Also
how it reads as materialization metadata.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datacube_assets.datacube.normalize import Options, Report
from datacube_assets.datacube.qualifiers import Thresholds
from datacube_assets.datacube.schema import Layout, Period
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.storage.lake import LakeTable


@dataclass(frozen=True)
class RunInfo:
    """Facts about one partition, fixed when its points were normalized."""

    request: DatacubeRequest
    layout: Layout
    report: Report
    features: tuple[str, ...]
    """Features that have points, sorted."""

    @classmethod
    def of(cls, table: LakeTable) -> RunInfo:
        """The facts that came with a table."""
        info = table.info
        layout = {name: tuple(value) if isinstance(value, list) else value for name, value in info["layout"].items()}
        return cls(
            DatacubeRequest.model_validate(info["request"]),
            Layout(**layout),
            Report(**info["report"]),
            tuple(info["features"]),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.request.model_dump(mode="json"),
            "layout": dataclasses.asdict(self.layout),
            "report": dataclasses.asdict(self.report),
            "features": list(self.features),
        }

    @property
    def run(self) -> ModelRun:
        return ModelRun.of(self.request)

    @property
    def periods(self) -> tuple[Period, ...]:
        """The summary of the whole period is made for model runs only (CONTRACTS C)."""
        return ("month", "year") if self.request.is_indicator else ("month", "year", "all")

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(**self.request.qualifier_thresholds.model_dump())


def options(request: DatacubeRequest) -> Options:
    """What a request says about normalizing."""
    return Options(
        weight_column=request.weight_column,
        fill_timestamp=request.fill_timestamp,
        timestamp_unit=request.timestamp_unit,
    )


def report_metadata(report: Report) -> dict[str, Any]:
    """A report for the UI: what came in, what was dropped or repaired and why, where and when."""
    metadata: dict[str, Any] = {
        "rows in": report.num_rows,
        "rows out": report.points,
        "rows dropped": report.dropped,
        "dropped: no feature": report.missing_features,
        "dropped: value is no number": report.unreadable_values,
        "dropped: timestamp out of range": report.num_invalid_ts,
        "repaired: timestamp missing, filled": report.num_missing_ts,
        "repaired: infinite value, now missing": report.infinite_values,
        "repaired: weight missing, now 0": report.missing_weights,
        "kept: value missing": report.num_missing_val,
        "kept: no coordinates, not on the map": report.missing_coordinates,
        "rows per feature": dict(report.num_rows_per_feature),
    }
    if report.min_timestamp is not None and report.max_timestamp is not None:
        metadata["first time"] = iso(report.min_timestamp)
        metadata["last time"] = iso(report.max_timestamp)
    if report.bounding_box is not None:
        names = ("west", "south", "east", "north")
        metadata["bounding box (degrees)"] = dict(zip(names, report.bounding_box, strict=True))
    return metadata


def iso(milliseconds: int) -> str:
    """A time in ms UTC as ISO 8601, years beyond the calendar of Python included."""
    try:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="seconds")


def rows_by_file(table: LakeTable) -> Mapping[str, int]:
    """Rows of each file of a table, for the UI."""
    return {file.name: file.rows for file in table.files}
