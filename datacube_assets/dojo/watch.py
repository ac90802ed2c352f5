"""What is new in Dojo: which listed runs or datasets have to be processed now.

Plain functions over what was listed and what is known; sensors wire them (`sensors/dojo.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from datacube_assets.dojo.documents import IndicatorDocument, RunDocument
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import INDICATOR_RUN_ID


@dataclass(frozen=True)
class Ready:
    """A run or dataset that is ready for processing, in one state of it."""

    run: ModelRun
    version: str
    """Changes when the run is executed again or the dataset is published anew."""
    since: int
    """Milliseconds UTC by which the oldest is taken first; 0 when unknown."""
    name: str = ""
    """What people call the model or dataset."""

    @property
    def run_key(self) -> str:
        """Key under which Dagster starts no second run."""
        return f"{self.run.key}@{self.version}"


def ready_runs(documents: Iterable[RunDocument]) -> list[Ready]:
    """The model runs that are ready (docs/dojo-to-causemos.md#when-is-something-ready)."""
    return [
        Ready(ModelRun(one.model_id, one.id), one.version, one.created_at or 0, one.model_name)
        for one in documents
        if one.is_ready and not is_misnamed(one)
    ]


def is_misnamed(document: RunDocument) -> bool:
    """Whether a model run has the id by which everybody knows datasets: it would be read as one."""
    return document.id == INDICATOR_RUN_ID


def ready_indicators(documents: Iterable[IndicatorDocument]) -> list[Ready]:
    """The datasets that are ready (docs/dojo-to-causemos.md#when-is-something-ready)."""
    return [
        Ready(ModelRun(one.id, INDICATOR_RUN_ID), one.version, one.created_at or 0, one.name)
        for one in documents
        if one.is_ready
    ]


@dataclass(frozen=True)
class Changes:
    """What one look at Dojo asks for."""

    due: list[Ready]
    """To be requested now, oldest first."""
    waiting: int
    """Further ones, for the next look."""
    new: int
    """How many of all were never requested before; the others changed."""


def changes(ready: Iterable[Ready], known: Mapping[str, str], limit: int) -> Changes:
    """The ready runs whose version is not the known one (by partition key), at most `limit` at once."""
    changed = [one for one in ready if known.get(one.run.key) != one.version]
    changed.sort(key=lambda one: (one.since, one.run))
    new = sum(one.run.key not in known for one in changed)
    return Changes(changed[:limit], max(len(changed) - limit, 0), new)
