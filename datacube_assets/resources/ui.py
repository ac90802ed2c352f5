"""What people see in Dagster's UI beside figures: links, pictures, tags of runs, errors with a remedy.

Pictures are drawn in `kernels/pictures.py`, from rows that `assets/pictures.py` chooses; what figures are
shown is up to each asset.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

from dagster import ConfigurableResource, DagsterLogManager, Failure, InitResourceContext, MetadataValue

from datacube_assets.dojo.client import DojoError
from datacube_assets.dojo.fetch import FetchError
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.errors import InputError
from datacube_assets.partitions import PARTITION_TAG, run_tags
from datacube_assets.redaction import redacted, redacting
from datacube_assets.resources.dask import WorkersLostError
from datacube_assets.resources.drawing import Draw, begin, remember_fonts
from datacube_assets.settings import SettingsError
from datacube_assets.storage.lake import MissingTableError, MixedVersionsError
from datacube_assets.storage.publishing import IncompleteDatacubeError
from datacube_assets.storage.stores import StoreError

P = ParamSpec("P")
R = TypeVar("R")


class UserInterface(ConfigurableResource["UserInterface"]):
    """Links and pictures for the metadata of materializations."""

    pictures: bool = True
    """Whether pictures are made: each takes some kilobytes of Dagster's storage."""
    dojo_url: str = ""
    causemos_url: str = ""
    causemos_page: str = ""
    """Path of a datacube's page in CauseMos, with `{model_id}` and `{run_id}`."""
    view_url: str = ""
    """Where `datacube view` is to be had."""
    docs_url: str = ""
    """Where the folder `docs` can be read; empty: at `view_url`, which has it too."""

    def setup_for_execution(self, context: InitResourceContext) -> None:
        # Runs that a person or a backfill started have no tags of ours: the runs page would not find them.
        run = context.run
        model_run = ModelRun.known(run.tags.get(PARTITION_TAG)) if run else None
        if run and model_run and context.instance:
            missing = {name: value for name, value in run_tags(model_run).items() if name not in run.tags}
            if missing:
                context.instance.add_run_tags(run.run_id, missing)

    def links(self, run: ModelRun, asset: str) -> dict[str, MetadataValue[Any]]:
        """Where else a run or dataset can be seen, and what the asset is."""
        found: dict[str, MetadataValue[Any]] = {}
        if self.view_url:
            where = urlencode({"model": run.model_id, "run": run.run_id})
            found["on the map"] = MetadataValue.url(f"{self.view_url.rstrip('/')}/#{where}")
            found["about it"] = MetadataValue.url(f"{self.view_url.rstrip('/')}/datacube.html#{where}")
        if docs := documentation(self.docs_url, self.view_url):
            found["what this is"] = MetadataValue.url(f"{docs}/reference/assets.md#{asset}")
        if self.dojo_url:
            document = (
                f"indicators/{_segment(run.model_id)}" if run.is_indicator else f"runs/{_segment(run.run_id)}"
            )
            found["in Dojo"] = MetadataValue.url(f"{self.dojo_url.rstrip('/')}/{document}")
        if self.causemos_url:
            page = self.causemos_page.lstrip("/")
            for name, value in (("{model_id}", run.model_id), ("{run_id}", run.run_id)):
                page = page.replace(name, _segment(value))
            found["in CauseMos"] = MetadataValue.url(f"{self.causemos_url.rstrip('/')}/{page}")
        return found

    def picture(self, log: DagsterLogManager, draw: Draw) -> dict[str, MetadataValue[Any]]:
        """The PNG that `draw` makes, for metadata; nothing where pictures are off or there is none."""
        return self.begin_picture(log, draw)()

    def begin_picture(
        self, log: DagsterLogManager, draw: Draw
    ) -> Callable[[], dict[str, MetadataValue[Any]]]:
        """The same for later: drawn meanwhile where there is a process for it (`drawing.py`)."""
        if not self.pictures:
            return dict
        remember_fonts()
        return partial(self._picture, log, begin(draw))

    def _picture(self, log: DagsterLogManager, draw: Draw) -> dict[str, MetadataValue[Any]]:
        try:
            png = draw()
        except Exception as error:
            # Nobody should miss a datacube because of its picture.
            log.warning(
                f"The picture of this asset could not be drawn, the data are not concerned: {error!r}"
            )
            return {}
        if png is None:
            return {}
        image = base64.b64encode(png).decode()
        return {"picture": MetadataValue.md(f"![picture](data:image/png;base64,{image})")}

    def next_steps(self, run: ModelRun) -> dict[str, MetadataValue[Any]]:
        """What one may do with a datacube that stands, a click away: jobs, with the partition filled in."""
        tags = urlencode({"tags[0][key]": PARTITION_TAG, "tags[0][value]": run.key})
        jobs = f"/locations/{LOCATION}/jobs"
        return {
            "next: republish": MetadataValue.url(f"{jobs}/republish_datacube"),
            "next: roll back": MetadataValue.url(f"{jobs}/rollback_datacube"),
            "next: check all": MetadataValue.url(f"{jobs}/check_model_run"),
            "next: withdraw": MetadataValue.url(f"{jobs}/withdraw_datacube/playground/setup?{tags}"),
        }


LOCATION = "datacube_assets"
"""Name of the code location, in workspaces and so in addresses of the UI."""


def documentation(docs_url: str, view_url: str) -> str:
    """Where the folder `docs` can be read; empty where nobody said so."""
    return docs_url.rstrip("/") or (f"{view_url.rstrip('/')}/docs" if view_url else "")


def _segment(name: str) -> str:
    return quote(name, safe="")


# --- errors ----------------------------------------------------------------------------------------

TELLING = (
    InputError,
    MissingTableError,
    MixedVersionsError,
    WorkersLostError,
    IncompleteDatacubeError,
    SettingsError,
    StoreError,
    DojoError,
    FetchError,
)
"""Errors whose message tells a person what is wrong and what to do."""


def to_do(error: Exception) -> str:
    """An error's message, beginning with what to do about it where the error tells that apart."""
    remedy = str(getattr(error, "remedy", "")).rstrip(".")
    if not remedy:
        return str(error)
    problem = str(error).rstrip(".").removesuffix(remedy).rstrip(". ")
    return f"{remedy}. The problem: {problem}"


@contextmanager
def telling() -> Iterator[None]:
    """Turn errors that a person can act on into Dagster's `Failure`, which shows its first line first.

    Any other error comes as "Error occurred while executing op", with its message far below. None says more
    than may be shown.
    """
    with redacting():
        try:
            yield
        except TELLING as error:
            raise Failure(redacted(to_do(error))) from error


def told(compute: Callable[P, R]) -> Callable[P, R]:
    """An asset's function, `telling` its errors."""

    @functools.wraps(compute)
    def with_telling(*args: P.args, **kwargs: P.kwargs) -> R:
        with telling():
            return compute(*args, **kwargs)

    return with_telling


@contextmanager
def untold() -> Iterator[None]:
    """The way back, for whoever calls Dagster from Python: the error itself."""
    try:
        yield
    except Failure as failure:
        if failure.__cause__ is None:
            raise
        raise failure.__cause__ from None
