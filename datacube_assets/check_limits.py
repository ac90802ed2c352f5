"""The limits that checks judge by, for all models and for single ones.

They come from the TOML file that `DATACUBE_CHECK_LIMITS` names (`docs/checks.md`). What is judged by them
is in `checks/judging/`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class LimitsError(ValueError):
    """A file of limits that cannot be used; the message names it and what is wrong."""


class Limits(BaseModel):
    """The limits for one model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_dropped_share: float = Field(0.05, ge=0, le=1)
    """Share of the rows read that may be dropped."""
    max_missing_share: float = Field(0.5, ge=0, le=1)
    """Share of the rows read that may have no value."""
    constant_from: int = Field(1000, ge=2)
    """Values of a feature from which on they should not all be the same."""
    max_stand_in_share: float = Field(0.01, ge=0, le=1)
    """Share of a feature's values that may be one that mostly stands for a missing value, such as -9999."""
    far_factor: float = Field(10.0, ge=1)
    """A row is far from its country beyond so many times the distance within which three in four are ..."""
    far_degrees: float = Field(20.0, ge=0)
    """... and beyond so many degrees."""
    max_far_share: float = Field(0.0, ge=0, le=1)
    """Share of the rows with coordinates that may be far from their country."""
    other_runs: int = Field(5, ge=0)
    """Runs of the same model, the newest ones, whose features are compared; 0 for none."""
    max_region_move: float = Field(0.5, gt=0)
    """Part of what it was by which a region's figures may change when a version replaces another; ..."""
    max_moved_share: float = Field(0.1, ge=0, le=1)
    """... and share of the regions of a feature and level that may change by more, or go."""
    max_wait_seconds: float = Field(3600.0, ge=0)
    """Seconds from when a datacube is asked for until it is published."""
    sampled_objects: int = Field(30, ge=0)
    """Objects of an asset that a run reads where the store does not tell their checksum."""


class LimitsFile(Limits):
    """Limits for all models, and what is different for some."""

    models: dict[str, dict[str, Any]] = {}

    def of(self, model_id: str) -> Limits:
        """The limits for a model or dataset, by its id."""
        general = self.model_dump(exclude={"models"})
        return Limits.model_validate(general | self.models.get(model_id, {}))

    @classmethod
    def read(cls, path: str) -> LimitsFile:
        """The file at a path; without a path everything is at its default. Raises LimitsError."""
        if not path:
            return cls()
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise LimitsError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise LimitsError(f"{path} is no TOML: {error}") from error
        try:
            limits = cls.model_validate(document)
            for model_id in limits.models:
                limits.of(model_id)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            known = ", ".join(Limits.model_fields)
            said = (
                f"there is no such limit; give {known}"
                if first["type"] == "extra_forbidden"
                else first["msg"]
            )
            raise LimitsError(f"{path}, {where}: {said}") from None
        return limits
