"""What a request may say: from the body that CauseMos sends to a request that can be kept.

What the fields mean is in `dojo/request.py`; which addresses may be read is decided by `dojo/fetch.py`, as
it is when they are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.documents import reason_of
from datacube_assets.dojo.fetch import Source, check_address
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.redaction import HIDDEN, redacted
from datacube_assets.settings import Settings, names
from datacube_assets.storage.requests import meaning_mark, partition_mark

LARGEST_REQUEST = 1_000_000
"""Bytes of a flow parameter object; one with a thousand addresses has about a third of it."""
LARGEST_BODY = 10_000_000
"""Bytes of an array of them."""
MOST_VALUES = 50_000
"""Values of a body; one with a thousand addresses has about a thousand and fifty."""
DEEPEST = 64
"""Objects and arrays of a body that lie in each other."""
MOST_ADDRESSES = 2_000
"""Addresses of parts that a body may name, in all its requests together: each is looked at and sealed."""
MOST_DOCUMENTS = 10_000
"""Documents that may wait for the outcomes of a body's requests."""
MOST_REQUESTS = 1_000
"""Requests of an array: it is put in while the caller waits."""

_SECRET_NAME = re.compile(r"(?i)secret|passw|pwd|token|credential|authorization|(^|_|access|api)key($|_)")
_LONGEST_RUN_ID = 100


class RefusedError(ValueError):
    """A body that cannot be used; the message says why, without repeating what may be secret."""


class TooLargeError(RefusedError):
    """A body, or a request in it, that has more bytes than any needs."""


@dataclass(frozen=True)
class Parameters:
    """One request, in both forms."""

    request: DatacubeRequest
    """What is worked on; addresses are sealed."""
    document: Mapping[str, Any]
    """The object as it came, with whatever else it said but secrets; addresses are sealed."""

    @cached_property
    def partition(self) -> str:
        """The mark of its partition."""
        return partition_mark(ModelRun.of(self.request))

    @cached_property
    def meaning(self) -> str:
        """The mark of what is asked for; of thousands of qualifiers it takes a while."""
        return meaning_mark(self.request)


@dataclass(frozen=True)
class Reader:
    """Reads bodies."""

    source: Source
    """Which addresses of parts may be read."""
    seal: Seal

    @classmethod
    def of(cls, settings: Settings, *, local_files: bool = True) -> Reader:
        """`local_files`: whether whoever calls may have files of this machine read at all."""
        schemes = {scheme for scheme in names(settings.source_schemes) if local_files or scheme != "file"}
        seal = Seal.of(settings)
        source = Source(
            allowed_schemes=frozenset(schemes),
            allowed_hosts=tuple(names(settings.source_hosts)),
            guarded=settings.environment == "production",
            seal=seal,
        )
        return cls(source, seal)

    def read_one(self, document: Any) -> Parameters:
        """The request of a flow parameter object (docs/specification/requests.md). Raises RefusedError.

        Fields that are null count as absent, as in the original.
        """
        if not isinstance(document, dict):
            raise RefusedError("a request is a JSON object of flow parameters")
        _check_sizes([document])
        known = {
            name: value
            for name, value in document.items()
            if name in DatacubeRequest.model_fields and value is not None
        }
        try:
            # As JSON: there, lists are what is expected of tuples, and nothing else is converted.
            request = DatacubeRequest.model_validate_json(json.dumps(known), strict=True)
            ModelRun.of(request).check()
            if not request.data_paths:
                raise RefusedError("data_paths: name at least one file")
            for address in request.data_paths:
                check_address(address, self.source)
        except ValidationError as error:
            raise RefusedError(reason_of(error)) from None
        except InputError as error:
            raise RefusedError(str(error)) from None
        opened = request.model_copy(
            update={"data_paths": tuple(map(self.source.seal.open, request.data_paths))}
        )
        request = self.seal.close_all(opened)
        kept = {
            name: value if name in DatacubeRequest.model_fields else _without_secrets(name, value)
            for name, value in document.items()
        }
        return Parameters(request, {**kept, "data_paths": list(request.data_paths)})

    def read_many(self, documents: Any) -> list[Parameters]:
        """The requests of an array, all or none. Raises RefusedError naming the first that cannot be used."""
        if not isinstance(documents, list):
            raise RefusedError("the body must be an array of requests")
        if len(documents) > MOST_REQUESTS:
            raise TooLargeError(f"an array may have at most {MOST_REQUESTS} requests; send several arrays")
        _check_sizes([one for one in documents if isinstance(one, dict)])
        read = []
        for number, document in enumerate(documents):
            try:
                if len(json.dumps(document)) > LARGEST_REQUEST:
                    raise TooLargeError(f"it must have at most {LARGEST_REQUEST:,} bytes")
                read.append(self.read_one(document))
            except RefusedError as error:
                raise type(error)(f"request {number}: {error}") from None
        return read


def _check_sizes(documents: Sequence[Mapping[str, Any]]) -> None:
    """Refuse more of something than any request needs, before each is looked at. Raises TooLargeError."""
    for name, most in (("data_paths", MOST_ADDRESSES), ("doc_ids", MOST_DOCUMENTS)):
        if sum(len(one[name]) for one in documents if isinstance(one.get(name), list)) > most:
            raise TooLargeError(f"{name}: a body may have at most {most:,}")


def _without_secrets(name: str, value: Any) -> Any:
    """What a request says besides, as it may be kept; the original was sent the keys of a store that way."""
    if isinstance(value, dict):
        return {inner: _without_secrets(inner, part) for inner, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(name, part) for part in value]
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_NAME.search(name) else redacted(value)
    return value


def parsed(body: bytes) -> Any:
    """What a JSON body says, in the one form in which it is kept and read again.

    Raises RefusedError for what is none, or could not be written again: numbers that are none or infinite,
    half a character; and for what would take long.
    """
    # In texts these signs count as well, which makes no difference to anybody.
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise RefusedError(f"the body must be JSON of at most {MOST_VALUES:,} values")
    try:
        content = json.loads(body.decode())
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RefusedError("the body must be JSON") from None
    if not _is_flat(content, DEEPEST):
        raise RefusedError(f"the body must be JSON of at most {DEEPEST} levels")
    return content


def _is_flat(content: Any, levels: int) -> bool:
    level = [content]
    for _ in range(levels + 1):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
    return not level


def is_run_id(text: str) -> bool:
    """Whether Dagster may be asked for a run of that id: it holds nothing that a database chokes on."""
    return text.isascii() and text.isprintable() and 0 < len(text) <= _LONGEST_RUN_ID
