"""What every step of a run has to know: the request, the layout of its tables, what became of its rows.

Travels in the `info` of lake tables, so that what an asset does always fits the rows it reads. How it
reads in the UI is in `assets/tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.plan import Options, Plan
from datacube_assets.kernels.qualifiers import Thresholds
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import Layout, Period
from datacube_assets.storage.lake import LakeTable

_PLAN = TypeAdapter(Plan)
_REPORT = TypeAdapter(Report)


@dataclass(frozen=True)
class RunInfo:
    """Facts about one partition, fixed when its points were normalized."""

    request: DatacubeRequest
    plan: Plan
    report: Report
    features: tuple[str, ...]
    """Features that have points, sorted."""
    may_share: bool = True
    """Whether two objects may have one key (`keys.may_share`)."""

    @classmethod
    def of(cls, table: LakeTable) -> RunInfo:
        """The facts that came with a table."""
        info = table.info
        return cls(
            DatacubeRequest.model_validate(info["request"]),
            _PLAN.validate_python(info["plan"]),
            _REPORT.validate_python(info["report"]),
            tuple(info["features"]),
            info.get("may_share", True),
        )

    def to_json(self) -> dict[str, Any]:
        plan = _PLAN.dump_python(self.plan, mode="json")
        # Sets have an order of their own in every process.
        sets = {name: sorted(plan[name]) for name in ("whole", "mixed", "floats")}
        return {
            "request": self.request.model_dump(mode="json"),
            "plan": {**plan, **sets},
            "report": _REPORT.dump_python(self.report, mode="json"),
            "features": list(self.features),
            "may_share": self.may_share,
        }

    @property
    def layout(self) -> Layout:
        return self.plan.layout

    @property
    def run(self) -> ModelRun:
        return ModelRun.of(self.request)

    @property
    def periods(self) -> tuple[Period, ...]:
        """The summary of the whole period is made for model runs only: datasets have no runs to compare."""
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


def request_key(run: ModelRun) -> str:
    """Where the request that a partition was last made from lies in the lake."""
    return f"{run.folder}/dojo_request/request.json"
