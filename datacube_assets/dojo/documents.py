"""Dojo's run, model and indicator documents, as far as we use them.

Here belongs what a document means: its fields, whether it is ready, what tells one state of it from
the next. How documents are fetched is `client.py`, what is asked of the pipeline because of them
is `derive.py`.

The fields we use must have the right type, everything else may be missing, null or new:
nothing is validated on the way out of Dojo. What it may be: docs/specification/dojo-documents.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from datacube_assets.dojo.request import NonEmpty, digest
from datacube_assets.redaction import public

_STRING_PART = re.compile(r".*_str(.[0-9]+)?.parquet.gzip$")


def is_string_part(path: str) -> bool:
    """Whether the pipeline ignores this part, because it holds the text values.

    The dots of the pattern match any character, as in the original: `_str_2.parquet.gzip` counts. A
    signature behind the name does not change what the part is.
    """
    return _STRING_PART.fullmatch(public(path)) is not None


def has_numeric_part(data_paths: Iterable[str]) -> bool:
    """Whether any part is not a text one."""
    return not all(map(is_string_part, data_paths))


def _milliseconds_or_none(value: object) -> int | None:
    """Elasticsearch keeps `created_at` as text or number.

    It only decides who comes first, so one that cannot be read is as good as none.
    """
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return None


Milliseconds = Annotated[int | None, BeforeValidator(_milliseconds_or_none)]


def _text_or_empty(value: object) -> str:
    """What is only shown to people; one that is no text is as good as none."""
    return value if isinstance(value, str) else ""


ShownText = Annotated[str, BeforeValidator(_text_or_empty)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, raw: Any) -> Any:
        """Dojo fills what it does not know with null, so null means the same as no field at all."""
        if isinstance(raw, dict):
            return {name: value for name, value in raw.items() if value is not None}
        return raw


class RunAttributes(_Document):
    """What the execution of a model run leaves behind."""

    status: str = ""
    """`Running`, `success`, `failed`, in any case; empty before the run was accepted."""
    executed_at: str = ""
    """Local time without zone, `YYYY-MM-DD HH:MM:SS`; written on success only."""


class RunDocument(_Document):
    """One model run (docs/specification/dojo-documents.md#a-model-run)."""

    id: NonEmpty
    model_id: NonEmpty
    model_name: str = ""
    created_at: Milliseconds = None
    """Milliseconds UTC; None when unknown."""
    data_paths: tuple[NonEmpty, ...] = ()
    attributes: RunAttributes = RunAttributes()

    @property
    def is_ready(self) -> bool:
        """Whether the run succeeded and left a part that is not text."""
        return self.attributes.status.lower() == "success" and has_numeric_part(self.data_paths)

    @property
    def version(self) -> str:
        """Hex digest of id, time of execution and paths: a re-execution of the same id has another one.

        The order of the paths is that of a directory listing and means nothing.
        """
        return digest([self.id, self.attributes.executed_at, sorted(self.data_paths)])


class OutputDocument(_Document):
    """One feature of a model or dataset."""

    name: NonEmpty
    type: str = ""
    display_name: ShownText = ""
    description: ShownText = ""
    unit: ShownText = ""


class QualifierDocument(_Document):
    """One column that breaks features down, weights or annotates them."""

    name: NonEmpty
    related_features: tuple[str, ...] = ()
    qualifier_role: str = ""
    """`breakdown`, `weight`, `statistics` or `tooltip`; empty stands for `breakdown`."""


class _DescribedDocument(_Document):
    id: NonEmpty
    name: str = ""
    outputs: tuple[OutputDocument, ...] = ()
    qualifier_outputs: tuple[QualifierDocument, ...] | None = None
    """None and empty differ for a model's qualifier map (docs/specification/requests.md#qualifier-map)."""


class ModelDocument(_DescribedDocument):
    """What a model's runs produce (docs/specification/dojo-documents.md#models-and-datasets)."""


class IndicatorDocument(_DescribedDocument):
    """One dataset (docs/specification/dojo-documents.md#models-and-datasets)."""

    created_at: Milliseconds = None
    """Milliseconds UTC of the last update (Dojo resets it); None when unknown."""
    data_paths: tuple[NonEmpty, ...] = ()
    published: bool = False
    deprecated: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether the dataset is published, not deprecated and has a part that is not text."""
        return self.published and not self.deprecated and has_numeric_part(self.data_paths)

    @property
    def version(self) -> str:
        """Hex digest of what makes another datacube: the parts, the features and their qualifiers.

        Any update resets `created_at`, and new files come under the old addresses,
        so it enters: a run too many publishes nothing, a run too few would leave wrong numbers.
        """
        outputs = sorted((output.name, output.type) for output in self.outputs)
        qualifiers = [
            (qualifier.name, qualifier.qualifier_role, sorted(qualifier.related_features))
            for qualifier in self.qualifier_outputs or ()
        ]
        return digest([self.id, self.created_at, sorted(self.data_paths), outputs, qualifiers])


@dataclass(frozen=True)
class DocumentProblem:
    """A document that cannot be used, and why."""

    id: str
    """The document's id; `?` when it has none."""
    reason: str

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


D = TypeVar("D", RunDocument, IndicatorDocument)


def parse_documents(kind: type[D], raw: Iterable[object]) -> tuple[list[D], list[DocumentProblem]]:
    """Read each document of a listing; a malformed one becomes a problem and never stops the others."""
    documents: list[D] = []
    problems: list[DocumentProblem] = []
    for document in raw:
        if isinstance(document, DocumentProblem):
            problems.append(document)
            continue
        try:
            documents.append(kind.model_validate(document))
        except ValidationError as error:
            problems.append(DocumentProblem(document_id(document) or "?", reason_of(error)))
    return documents, problems


def document_id(document: object) -> str | None:
    """The id of a raw document, None when it has none that could be asked for."""
    name = document.get("id") if isinstance(document, dict) else None
    return name if isinstance(name, str) and name else None


def reason_of(error: ValidationError) -> str:
    """What is wrong with a document, field by field, without its values (they may hold signed URLs)."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, detail['loc'])) or 'document'}: {detail['msg']}" for detail in details
    )
