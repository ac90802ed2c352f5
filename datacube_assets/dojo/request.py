"""The request: everything needed to turn one model run or dataset into a datacube.

Here belongs the document itself and its meaning (what makes two requests equal). How a request is
derived from Dojo's documents is `derive.py`; where requests wait is the lake's business.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

INDICATOR_RUN_ID = "indicator"
"""The run id of every dataset; the reader picks the indicators bucket by it."""

OUTPUT_TASKS = (
    "compute_global_timeseries",
    "compute_regional_stats",
    "compute_regional_timeseries",
    "compute_regional_aggregation",
    "compute_tiles",
)
"""Names by which a request selects outputs (docs/specification/requests.md#output-tasks)."""

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class QualifierThresholds(BaseModel):
    """Limits on qualifiers, inclusive. The defaults are what CauseMos sends with every request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_count: int = Field(10_000, ge=0, le=2**31 - 1)
    """A qualifier with more values leaves every output but the info lists."""
    regional_timeseries_count: int = Field(100, ge=0, le=2**31 - 1)
    """A qualifier with more values gets no timeseries per region."""
    regional_timeseries_max_level: int = Field(1, ge=0, le=3)
    """Deepest region level with qualifier timeseries: 0 country, 1 admin1, ..."""


class DatacubeRequest(BaseModel):
    """What CauseMos, a user or the derivation from Dojo asks for (docs/specification/requests.md).

    Unknown fields are ignored, as the original flow ignored them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_id: NonEmpty
    run_id: NonEmpty
    data_paths: tuple[NonEmpty, ...]
    """URLs or paths of the Parquet parts, `_str` parts included."""
    is_indicator: bool = False
    qualifier_map: dict[str, tuple[str, ...]] = {}
    """Feature name to the qualifier columns that break it down."""
    weight_column: str = ""
    qualifier_thresholds: QualifierThresholds = QualifierThresholds()
    fill_timestamp: int = Field(0, ge=-(2**63), lt=2**63)
    """Milliseconds UTC put where the timestamp is missing."""
    raw_count_threshold: int = Field(10_000, ge=0, lt=2**63)
    """Features with more rows get no raw.csv."""
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "ms"
    """Unit of numeric timestamps in the parts. Old files hold seconds, and nothing in them says so."""
    selected_output_tasks: tuple[str, ...] | None = None
    """Subset of the five task names; None stands for all of them."""
    model_bucket: str | None = None
    indicator_bucket: str | None = None
    """Names of buckets on S3 that replace the configured ones."""
    doc_ids: tuple[str, ...] | None = None
    """Documents in CauseMos that wait for the outcome; None or empty: nobody is told."""
    source_version: str = ""
    """What tells this state of Dojo's document from others; empty when unknown."""
    executed_at: str = ""
    """When Dojo executed the run, in its own words; empty when unknown."""

    @model_validator(mode="after")
    def _names_its_kind(self) -> DatacubeRequest:
        # The reader chooses the bucket by the run id, the pipeline by the flag.
        if self.is_indicator != (self.run_id == INDICATOR_RUN_ID):
            raise ValueError(
                f"the run id is {INDICATOR_RUN_ID!r} for datasets (is_indicator), and only for them"
            )
        return self

    def fingerprint(self) -> str:
        """Hex digest of what a request asks to be made of its files.

        Equal for requests that make the same datacube of the same bytes: where the files come from and
        who waits for the outcome do not enter.
        """
        besides = {"doc_ids", "data_paths", "source_version", "executed_at"}
        return digest(self.model_dump(mode="json", exclude=besides))


def digest(document: Any) -> str:
    """Hex digest (128 bit) of a JSON document, independent of key order."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
