"""How a request follows from Dojo's documents: the rules of docs/specification/requests.md.

Here belong the rules only, as plain functions of documents. Whether a run is ready, and where a
request goes, is decided elsewhere. Buckets and output tasks are left at "as configured" and "all".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datacube_assets.dojo.documents import (
    IndicatorDocument,
    ModelDocument,
    OutputDocument,
    QualifierDocument,
    RunDocument,
)
from datacube_assets.dojo.request import INDICATOR_RUN_ID, DatacubeRequest
from datacube_assets.kernels.schema import FIXED_COLUMNS

IMPLICIT_COLUMNS = frozenset(FIXED_COLUMNS)
"""The nine columns of every file; Dojo lists some of them as qualifiers."""

NUMERIC_TYPES = frozenset({"int", "float", "boolean", "datetime"})
"""Output types of a dataset that become a datacube."""


def request_for_run(run: RunDocument, model: ModelDocument) -> DatacubeRequest:
    """The request CauseMos would make for a model run.

    The run's own document waits for the outcome. Raises ValueError when `model` is another model.
    """
    if model.id != run.model_id:
        raise ValueError(f"run {run.id} belongs to model {run.model_id}, not to {model.id}")
    qualifiers = model.qualifier_outputs
    return DatacubeRequest(
        model_id=run.model_id,
        run_id=run.id,
        data_paths=run.data_paths,
        qualifier_map={} if qualifiers is None else _qualifier_map(model.outputs, qualifiers),
        weight_column=_weight_column(qualifiers or ()),
        doc_ids=(run.id,),
        source_version=run.version,
        executed_at=run.attributes.executed_at,
    )


def request_for_indicator(
    indicator: IndicatorDocument, doc_ids: Sequence[str] | None = None
) -> DatacubeRequest:
    """The request CauseMos would make for a dataset.

    Only CauseMos knows the `doc_ids` that wait for the outcome; None: nobody is told.
    """
    qualifiers = indicator.qualifier_outputs or ()
    numeric = [output for output in indicator.outputs if output.type in NUMERIC_TYPES]
    return DatacubeRequest(
        model_id=indicator.id,
        run_id=INDICATOR_RUN_ID,
        data_paths=indicator.data_paths,
        is_indicator=True,
        qualifier_map=_qualifier_map(numeric, qualifiers),
        weight_column=_weight_column(qualifiers),
        doc_ids=None if doc_ids is None else tuple(doc_ids),
        source_version=indicator.version,
    )


def _qualifier_map(
    outputs: Iterable[OutputDocument], qualifiers: Sequence[QualifierDocument]
) -> dict[str, tuple[str, ...]]:
    breakdowns = [
        qualifier
        for qualifier in qualifiers
        if qualifier.name not in IMPLICIT_COLUMNS and qualifier.qualifier_role in ("", "breakdown")
    ]
    return {
        output.name: tuple(q.name for q in breakdowns if output.name in q.related_features)
        for output in outputs
    }


def _weight_column(qualifiers: Iterable[QualifierDocument]) -> str:
    """One column weighs all features, whichever features it is related to."""
    weights = (
        qualifier.name
        for qualifier in qualifiers
        if qualifier.qualifier_role == "weight"
        and qualifier.name not in IMPLICIT_COLUMNS
        and qualifier.related_features
    )
    return next(weights, "")
