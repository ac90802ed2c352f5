"""What there is to look at: the complete datacubes of the buckets, and what Dojo calls their features.

Listing is done here and nowhere else in the page's server: everything after it is read by key, as
CauseMos' reader does.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from datacube_assets.dojo.client import DojoClient, DojoError
from datacube_assets.dojo.documents import IndicatorDocument, ModelDocument, OutputDocument
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.http_client import RetryPolicy
from datacube_assets.read import NoDataError, list_datacubes
from datacube_assets.settings import Settings
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import READERS, Published

_PATIENCE = 3.0
"""Seconds that Dojo gets to answer: names and units are welcome, but nobody waits for them."""
_PAUSE = 60.0
"""Seconds until Dojo is asked again after it did not answer."""

_log = logging.getLogger(__name__)


def complete_runs(settings: Settings) -> list[tuple[ModelRun, float | None]]:
    """The model runs, then the datasets, whose datacube is complete, in the buckets where these belong.

    With each, when it was published (seconds UTC).
    """
    models = _complete(settings.models_bucket, settings.s3_endpoint)
    datasets = _complete(settings.indicators_bucket, settings.s3_endpoint)
    return [
        *(one for one in models if not one[0].is_indicator),
        *(one for one in datasets if one[0].is_indicator),
    ]


def _complete(bucket: str, s3_endpoint: str) -> list[tuple[ModelRun, float | None]]:
    try:
        cubes = list_datacubes(bucket, s3_endpoint=s3_endpoint)
    except NoDataError:
        return []
    store = open_store(bucket, s3_endpoint)
    runs = [ModelRun(cube.model_id, cube.run_id) for cube in cubes]
    with ThreadPoolExecutor(READERS, "times") as readers:
        times = list(readers.map(lambda run: Published(store, run).published_at(), runs))
    return list(zip(runs, times, strict=True))


@dataclass
class Descriptions:
    """What Dojo's documents call features, and their units.

    Asked of Dojo where one is set; else the documents of the sample that `make demo` wrote. Objects hold
    neither, so a datacube without documents is shown under the names of its columns.
    """

    settings: Settings
    _known: dict[ModelRun, dict[str, OutputDocument]]
    _not_before: float

    @classmethod
    def of(cls, settings: Settings) -> Descriptions:
        return cls(settings, {}, 0.0)

    def outputs(self, run: ModelRun) -> dict[str, OutputDocument]:
        """Descriptions of features by name; those that nobody described are not there."""
        if run not in self._known:
            found = self._from_dojo(run) if self.settings.dojo_url else self._from_sample(run)
            if found is None:
                return {}
            self._known[run] = {output.name: output for output in found}
        return self._known[run]

    def _from_dojo(self, run: ModelRun) -> Iterable[OutputDocument] | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            with DojoClient(
                self.settings.dojo_url,
                self.settings.dojo_username,
                self.settings.dojo_password.get_secret_value(),
                timeout=_PATIENCE,
                retries=RetryPolicy(attempts=1),
            ) as client:
                document = client.indicator(run.model_id) if run.is_indicator else client.model(run.model_id)
        except DojoError as error:
            _log.warning("names and units of %s are not known: %s", run, error)
            self._not_before = time.monotonic() + _PAUSE
            return None
        return document.outputs

    def _from_sample(self, run: ModelRun) -> Iterable[OutputDocument]:
        kind = IndicatorDocument if run.is_indicator else ModelDocument
        folder: Path = self.settings.home / "sample" / ("indicators" if run.is_indicator else "models")
        for path in folder.glob("*.json"):
            try:
                document = kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, ValidationError):
                continue
            if document.id == run.model_id:
                return document.outputs
        return ()
