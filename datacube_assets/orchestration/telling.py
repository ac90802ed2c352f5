"""Having CauseMos told of what never becomes a run of Dagster.

How runs went is told by `sensors/reports.py`, which also delivers what is posted here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from datacube_assets.causemos.client import ProcessingFailed
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.reports import Outbox, Report


def tell_failure(
    lake: Lake, name: str, run: ModelRun, doc_ids: Sequence[str], *, is_indicator: bool | None = None
) -> None:
    """Post that a model run or dataset cannot be processed; once for a name, which stands for a run's id."""
    failed = ProcessingFailed(
        run_id=run.run_id,
        data_id=run.model_id,
        doc_ids=tuple(doc_ids),
        is_indicator=run.is_indicator if is_indicator is None else is_indicator,
        flow_id=name,
    )
    body = failed.model_dump(mode="json")
    Outbox(lake).post(Report(name, "processing-failed", run.key, body, None, time.time_ns() // 1_000_000))
