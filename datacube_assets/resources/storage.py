"""Dagster resources for the lake and the buckets, and the IO manager that hands tables on.

Thin: what stores and tables can do is in `storage/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from dagster import (
    ConfigurableIOManager,
    ConfigurableResource,
    InitResourceContext,
    InputContext,
    OutputContext,
)

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.resources.retries import retried_later
from datacube_assets.resources.ui import UserInterface, telling
from datacube_assets.settings import Settings
from datacube_assets.storage.history import History, Retention
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.run_info import request_key
from datacube_assets.storage.stores import Store
from datacube_assets.storage.written import WRITTEN


class LakeResource(ConfigurableResource["LakeResource"]):
    """The lake at a URL."""

    url: str
    s3_endpoint: str = ""
    shard_rows: int = 1_000_000
    """Rows in a shard of points."""
    keep_versions: int = 3
    keep_days: float = 0.0
    """How long versions keep their tables."""
    passing: bool = False
    """Whether it is for the time being, so that tables need not be stored."""

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[LakeResource]:
        """Keep the tables that the run writes for its own steps, until it ends."""
        with WRITTEN.kept():
            yield self

    @property
    def retention(self) -> Retention:
        return Retention(self.keep_versions, self.keep_days)

    def open(self) -> Lake:
        return Lake(open_store(self.url, self.s3_endpoint), remembers=True, passing=self.passing)


class BucketsResource(ConfigurableResource["BucketsResource"]):
    """The buckets of model runs and of datasets."""

    models: str
    indicators: str
    s3_endpoint: str = ""

    def open(self, request: DatacubeRequest) -> Store:
        """The bucket of a request (docs/specification/requests.md#buckets).

        A bucket that the request names is used where buckets have names, on S3; a local folder stands
        for whatever bucket is asked for.
        """
        configured, named = (
            (self.indicators, request.indicator_bucket)
            if request.is_indicator
            else (self.models, request.model_bucket)
        )
        url = f"s3://{named}" if named and configured.startswith("s3:") else configured
        return self.at(url)

    def of(self, run: ModelRun) -> Store:
        """The bucket that such runs are published into, unless a request names another."""
        return self.at(self.indicators if run.is_indicator else self.models)

    def at(self, url: str) -> Store:
        """A bucket by its address."""
        return open_store(url, self.s3_endpoint)


def buckets_of(settings: Settings) -> BucketsResource:
    """The buckets that settings name."""
    return BucketsResource(
        models=settings.models_bucket, indicators=settings.indicators_bucket, s3_endpoint=settings.s3_endpoint
    )


class LakeIOManager(ConfigurableIOManager):
    """Keeps what assets hand on: the descriptor of a table, or the request; rows stay in the lake."""

    lake: LakeResource
    ui: UserInterface

    def handle_output(self, context: OutputContext, obj: LakeTable | DatacubeRequest) -> None:
        lake, run = self.lake.open(), ModelRun.from_key(context.partition_key)
        with _repeated(context):
            context.add_output_metadata(self.ui.links(run, context.asset_key.path[-1]))
            if isinstance(obj, DatacubeRequest):
                lake.write_document(request_key(run), obj.model_dump(mode="json"))
            else:
                history = History(lake, run)
                kept = partial(history.files, besides=(obj.version,))
                lake.commit(run, context.asset_key.path[-1], obj, kept)

    def load_input(self, context: InputContext) -> LakeTable | DatacubeRequest:
        with telling():
            return self._load(context)

    def _load(self, context: InputContext) -> LakeTable | DatacubeRequest:
        lake, run = self.lake.open(), ModelRun.from_key(context.partition_key)
        with _repeated(context):
            if context.dagster_type.typing_type is not DatacubeRequest:
                return lake.table(run, context.asset_key.path[-1])
            document = lake.read_document(request_key(run))
        if document is None:
            raise MissingTableError(f"{run} has no request yet; materialize the asset dojo_request first")
        return DatacubeRequest.model_validate(document)


def _repeated(context: InputContext | OutputContext) -> AbstractContextManager[None]:
    """What a step reads and hands on is repeated with it."""
    step = context.step_context
    return retried_later(step.instance, step.dagster_run, step.previous_attempt_count)
