"""The name of what the system works on: one run of one model, or one dataset.

Partition keys and lake folders are made of it, and this is the one place that encodes and decodes them.
Keys in buckets use the ids as they are; they are built in `kernels/keys.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from datacube_assets.dojo.request import INDICATOR_RUN_ID, DatacubeRequest
from datacube_assets.kernels import keys
from datacube_assets.kernels.errors import InputError, shorten

LONGEST_ID = 200
"""Letters of an id, encoded: file systems take 255 for a folder."""
_DOTS = re.compile(r"\.{2,}|^\.$")


def encode_name(name: str) -> str:
    """A name percent-encoded outside `[A-Za-z0-9._-]`, and safe as a folder: no `.`, no `..`."""
    encoded = quote(name, safe="").replace("~", "%7E")
    return _DOTS.sub(lambda match: "%2E" * len(match[0]), encoded)


@dataclass(frozen=True, order=True)
class ModelRun:
    """A model run, or a dataset (whose run id is `indicator`)."""

    model_id: str
    run_id: str

    @classmethod
    def of(cls, request: DatacubeRequest) -> ModelRun:
        return cls(request.model_id, request.run_id)

    @classmethod
    def from_key(cls, key: str) -> ModelRun:
        """The run of a partition key. Raises ValueError when it is none."""
        parts = [unquote(part) for part in key.split(":")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{key!r} is no partition key; it should read MODEL_ID:RUN_ID")
        run = cls(*parts)
        if run.key != key:
            raise ValueError(f"{key!r} is no partition key; it should read {run.key}")
        return run

    @classmethod
    def named(cls, text: str) -> ModelRun:
        """The run that a person means: by a partition key, or by ids without `%` or `:` as they are.

        Raises ValueError when it is neither.
        """
        ids = text.split(":")
        if "%" not in text and len(ids) == 2 and all(ids):
            return cls(*ids)
        return cls.from_key(text)

    @classmethod
    def known(cls, key: str | None) -> ModelRun | None:
        """The run of a partition key, None for a key that is none: people can add any in the UI."""
        try:
            return cls.from_key(key or "")
        except ValueError:
            return None

    @property
    def key(self) -> str:
        """Partition key: `{model_id}:{run_id}`, each part encoded."""
        return f"{encode_name(self.model_id)}:{encode_name(self.run_id)}"

    @property
    def folder(self) -> str:
        """Folder of the run in the lake."""
        return f"runs/{encode_name(self.model_id)}/{encode_name(self.run_id)}"

    @property
    def prefix(self) -> str:
        """Prefix of the run's objects in a bucket."""
        return keys.run_prefix(self.model_id, self.run_id)

    @property
    def is_indicator(self) -> bool:
        return self.run_id == INDICATOR_RUN_ID

    def check(self) -> None:
        """Raise InputError when an id would leave its folder, or is too long to be the name of one."""
        for kind, name in (("model id", self.model_id), ("run id", self.run_id)):
            keys.check_identity(kind, name)
            if len(encode_name(name)) > LONGEST_ID:
                raise InputError(
                    f"the {kind} {shorten(name)} is too long",
                    remedy=f"Give a {kind} of at most {LONGEST_ID} letters; others than ASCII count 6 to 12",
                )

    def __str__(self) -> str:
        return f"{self.model_id}:{self.run_id}"


class UnknownPartitionError(LookupError):
    """A partition that neither Dagster nor the lake knows; the message names those that are called alike."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(key, sorted(known), 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`datacube list` tells which there are"
        super().__init__(f"{key} is not known here, neither to Dagster nor in the lake: {hint}")
