"""What checks are given, and what a check is.

A `Subject` reads from lake and bucket what has to be judged; a `Check` lets a function judge it and tells
the UI. Which checks there are is in the modules `points.py` to `results.py`; how a result is found, in
`judging/`, without Dagster.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetsDefinition,
    ConfigurableResource,
    PreviewWarning,
)

from datacube_assets.assets.points import normalized_points
from datacube_assets.check_limits import Limits, LimitsFile
from datacube_assets.checks.judging.columns import Declared
from datacube_assets.checks.judging.verdict import CannotCompareError, Verdict
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.partitions import model_runs
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.storage import BucketsResource
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError
from datacube_assets.storage.publishing import manifest
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import MissingObjectError, Store

EVERYTHING = "datacube/every_object"
"""Run tag, of any value, with which checks look at everything where a run looks at samples."""
REMAKE = "Publish from scratch (docs/checks.md); if that does not help, it is a fault of ours"
_FETCHED_AT_ONCE = 16
_READINGS = 3
"""Before something is said against an object."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Wanted = TypeVar("Wanted")


class LimitsResource(ConfigurableResource["LimitsResource"]):
    """The limits that checks judge by."""

    document: str = "{}"
    """As JSON, so that the UI shows what is in force."""
    max_objects: int = 20_000_000
    """Of a datacube."""

    def of(self, model_id: str) -> Limits:
        return LimitsFile.model_validate_json(self.document).of(model_id)


@dataclass(frozen=True)
class Subject:
    """A partition that is checked; what several checks need is fetched once."""

    context: AssetCheckExecutionContext
    lake: Lake
    buckets: BucketsResource
    dask: DaskResource
    all_limits: LimitsResource
    _found: dict[str, Any] = field(default_factory=dict, init=False)

    @cached_property
    def run(self) -> ModelRun:
        return ModelRun.from_key(self.context.partition_key)

    @cached_property
    def limits(self) -> Limits:
        return self.all_limits.of(self.run.model_id)

    @property
    def max_objects(self) -> int:
        return self.all_limits.max_objects

    @cached_property
    def everything(self) -> bool:
        """Whether all is looked at, however long it takes; a run of assets looks at samples."""
        return EVERYTHING in self.context.run.tags

    def map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece], name: str) -> list[Result]:
        """Results for each piece; the name has to be another one for each call in a run."""
        return self.dask.map(function, pieces, name=f"check-{name}", run_id=self.context.run.run_id)

    def once(self, name: str, find: Callable[[], Result]) -> Result:
        """What several checks need, found when the first one asks for it."""
        if name not in self._found:
            self._found[name] = find()
        found: Result = self._found[name]
        return found

    def table(self, asset: AssetsDefinition) -> LakeTable:
        """The table of an asset. Raises MissingTableError."""
        name = asset.key.path[-1]
        return self.once(name, lambda: self.lake.table(self.run, name))

    def beside(self, asset: AssetsDefinition, table: LakeTable) -> LakeTable:
        """The table of another asset, made from the same input. Raises CannotCompareError."""
        name = asset.key.path[-1]
        try:
            other = self.table(asset)
        except MissingTableError:
            raise CannotCompareError(f"{name} has no table yet") from None
        if other.version != table.version:
            raise CannotCompareError(f"{name} was made from another input")
        return other

    @cached_property
    def points(self) -> LakeTable:
        return self.table(normalized_points)

    @cached_property
    def info(self) -> RunInfo:
        return RunInfo.of(self.points)

    @cached_property
    def bucket(self) -> Store:
        return self.buckets.open(DatacubeRequest.model_validate(self.points.info["request"]))

    def standing(self, asset: str) -> Mapping[str, Any]:
        """The head of an asset's manifest. Raises MissingTableError."""
        head = manifest(self.lake, self.run, asset)
        if head is None:
            raise MissingTableError(f"{self.run} has no published {asset} yet; materialize it first")
        if head["bucket"] != self.bucket.url:
            raise MissingTableError(
                f"{asset} is published in {head['bucket']}; materialize it for this bucket"
            )
        return head

    def published_from(self, asset: AssetsDefinition, table: LakeTable) -> Mapping[str, Any]:
        """The same, of objects made from a table. Raises MissingTableError, CannotCompareError."""
        name = asset.key.path[-1]
        head = self.standing(name)
        if head["version"] != table.version:
            raise CannotCompareError(f"{name} is published from another input")
        return head

    def judged(
        self, wanted: Mapping[str, Wanted], judge: Callable[[Wanted, bytes | None], str]
    ) -> dict[str, str]:
        """What `judged` says of objects by key after the run's prefix."""
        prefix = self.run.prefix
        said = judged(self.bucket, {f"{prefix}{key}": one for key, one in wanted.items()}, judge)
        return {key.removeprefix(prefix): one for key, one in said.items()}

    def beside_schemas(
        self, files: Sequence[tuple[LakeTable, str, Declared]]
    ) -> dict[str, tuple[Declared, pa.Schema]]:
        """Columns that files of tables should have, beside their schemas. Raises MissingTableError."""

        def read(file: tuple[LakeTable, str, Declared]) -> tuple[Declared, pa.Schema]:
            table, name, wanted = file
            return wanted, self.lake.schema(table, name)

        named = [f"{table.folder}/{name}.parquet" for table, name, _ in files]
        if self.lake.store.local_path(self.run.folder) is not None:
            # Threads cost more than reading a file.
            return dict(zip(named, map(read, files), strict=True))
        with ThreadPoolExecutor(_FETCHED_AT_ONCE, "check") as threads:
            return dict(zip(named, threads.map(read, files), strict=True))

    def chance(self, purpose: str) -> np.random.Generator:
        """Random numbers, other ones in every run, so that runs look at other samples."""
        text = f"{self.context.run.run_id} {purpose}"
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))


def _fetched(bucket: Store, wanted: Sequence[str]) -> list[bytes | None]:
    """Objects by key, None for those that are not there."""

    def fetch(key: str) -> bytes | None:
        try:
            return bucket.get(key)
        except MissingObjectError:
            return None

    if not wanted or bucket.local_path(wanted[0]) is not None:
        # Threads cost more than reading a file.
        return [fetch(key) for key in wanted]
    with ThreadPoolExecutor(_FETCHED_AT_ONCE, "check") as threads:
        return list(threads.map(fetch, wanted))


def judged(
    bucket: Store, wanted: Mapping[str, Wanted], judge: Callable[[Wanted, bytes | None], str]
) -> dict[str, str]:
    """What is said against each object, by key; nothing against those that are as wanted.

    What seems wrong is read again: an answer that was cut short on its way is no fault of the object.
    """
    said: dict[str, str] = {}
    left = list(wanted)
    for _ in range(_READINGS):
        bodies = _fetched(bucket, left)
        said |= {key: judge(wanted[key], body) for key, body in zip(left, bodies, strict=True)}
        left = [key for key in left if said[key]]
        if not left:
            break
    return said


@dataclass(frozen=True)
class Check:
    """One check of an asset."""

    asset: AssetsDefinition
    name: str
    description: str
    judge: Callable[[Subject], Verdict]
    severity: AssetCheckSeverity = AssetCheckSeverity.WARN
    blocking: bool = False
    after: tuple[AssetsDefinition, ...] = ()
    """What else has to be made before it is told."""
    of_partition: bool = True
    """Whether it is about the partition, and not about all of them."""

    @property
    def key(self) -> AssetCheckKey:
        return AssetCheckKey(self.asset.key, self.name)

    def spec(self) -> AssetCheckSpec:
        with warnings.catch_warnings():
            # It shows results by partition, and lets one be checked. Dagster's version is locked.
            warnings.simplefilter("ignore", PreviewWarning)
            return AssetCheckSpec(
                self.name,
                asset=self.asset.key,
                description=self.description,
                blocking=self.blocking,
                additional_deps=[other for other in self.after if other is not self.asset],
                partitions_def=model_runs if self.of_partition else None,
            )

    def refuses(self, result: AssetCheckResult) -> bool:
        """Whether a result keeps from being published what is made from the asset."""
        return self.blocking and not result.passed and result.severity == AssetCheckSeverity.ERROR

    def result(self, subject: Subject) -> AssetCheckResult:
        started = time.monotonic()
        try:
            verdict = self.judge(subject)
        except CannotCompareError as error:
            # In a run of some assets only that is as it should be.
            verdict = Verdict(True, f"Not compared: {error}.")
        except (MissingTableError, MissingObjectError) as error:
            verdict = Verdict(False, str(error.args[0]))
        except (KeyError, pa.ArrowException) as error:
            # The check of its columns says more.
            verdict = Verdict(False, f"The tables cannot be compared: {str(error).splitlines()[0]}. {REMAKE}")
        return AssetCheckResult(
            asset_key=self.asset.key,
            check_name=self.name,
            passed=verdict.passed,
            severity=AssetCheckSeverity.WARN if verdict.only_warns else self.severity,
            description=verdict.says,
            metadata={
                **({"partition": subject.run.key} if self.of_partition else {}),
                **verdict.figures,
                "seconds": round(time.monotonic() - started, 3),
            },
        )


def warns(asset: AssetsDefinition, name: str, description: str, judge: Callable[[Subject], Verdict]) -> Check:
    """A check whose failure is something to look at."""
    return Check(asset, name, description, judge)


def stops(
    asset: AssetsDefinition,
    name: str,
    description: str,
    judge: Callable[[Subject], Verdict],
    *,
    after: Sequence[AssetsDefinition] = (),
) -> Check:
    """A check without which nothing that is made from the asset is published."""
    return Check(asset, name, description, judge, AssetCheckSeverity.ERROR, blocking=True, after=tuple(after))


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
