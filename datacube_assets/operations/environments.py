"""Two environments side by side: what one has and the other lacks, or has older or otherwise.

An environment is what settings name: a Dojo, a lake and two buckets. What is compared belongs here; asking
for what is missing is left to `operations/reprocess.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.client import DojoClient
from datacube_assets.dojo.documents import IndicatorDocument, RunDocument, parse_documents
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import INDICATOR_RUN_ID, DatacubeRequest
from datacube_assets.kernels import keys
from datacube_assets.kernels.errors import InputError
from datacube_assets.operations.compare import runs_in
from datacube_assets.settings import Settings, SettingsError, as_url
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import RunRequested, ask_for_run
from datacube_assets.storage.stores import MissingObjectError, Store

HERE = "."
"""The environment of this process."""
Difference = Literal["missing", "older", "different", "extra"]
DIFFERENCES: Mapping[Difference, str] = {
    "missing": "only the first has it",
    "older": "both have it, they differ, and that of the second is older",
    "different": "both have it, they differ, and that of the first is older or of the same age",
    "extra": "only the second has it",
}
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_OURS = ("DATACUBE_", "DOJO_", "CAUSEMOS_", "AWS_")
_READERS = 16


@dataclass(frozen=True)
class Environment:
    """A place where datacubes are made, or only published, or only described."""

    name: str
    variables: Mapping[str, str] | None
    """Of its file; None for this process' own."""
    only_dojo: str = ""
    only_bucket: str = ""

    @classmethod
    def of(cls, where: str) -> Environment:
        """The environment of `.`, of a file of settings, of the address of a Dojo, or of a bucket.

        Raises SettingsError when it is none of these.
        """
        if where == HERE:
            return cls(where, None)
        if where.startswith(("http://", "https://")):
            return cls(where, None, only_dojo=where)
        path = Path(where)
        if path.is_file():
            return cls(where, read_variables(path))
        if where.startswith(("s3://", "file://")) or path.is_dir():
            return cls(where, None, only_bucket=as_url(where))
        raise SettingsError(
            f"{where!r} is no environment: give a file of settings, `.`, the address of a Dojo, or a bucket"
        )

    @contextlib.contextmanager
    def active(self) -> Iterator[Settings]:
        """Its settings, while the environment of this process is its own."""
        before = dict(os.environ)
        try:
            if self.variables is not None:
                for name in before:
                    if name.startswith(_OURS):
                        del os.environ[name]
                os.environ.update(self.variables)
            yield Settings.from_environment(DOJO_URL=self.only_dojo)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def in_dojo(self) -> dict[str, str] | None:
        """Version of each finished run and published dataset in its Dojo, by key; None without a Dojo.

        Raises DojoError.
        """
        with self.active() as settings:
            if self.only_bucket or not settings.dojo_url:
                return None
            with DojoClient(
                settings.dojo_url, settings.dojo_username, settings.dojo_password.get_secret_value()
            ) as dojo:
                return {**_finished(dojo.runs()), **_published(dojo.indicators())}

    def datacubes(self) -> dict[str, Published] | None:
        """The complete datacubes of its buckets, by key; None where only a Dojo was named.

        Raises StoreError.
        """
        with self.active() as settings:
            if self.only_dojo:
                return None
            if self.only_bucket:
                return _complete(self.only_bucket, settings)
            models = _complete(settings.models_bucket, settings)
            datasets = _complete(settings.indicators_bucket, settings)
        return {key: one for key, one in models.items() if not ModelRun.from_key(key).is_indicator} | {
            key: one for key, one in datasets.items() if ModelRun.from_key(key).is_indicator
        }


@dataclass(frozen=True)
class Published:
    """What tells one published datacube from another, without reading all of it."""

    digest: str
    """Of results.json: row counts, sizes, and the summary of every feature."""
    modified: float
    """Seconds UTC when it was written."""


def _complete(url: str, settings: Settings) -> dict[str, Published]:
    store = open_store(url, settings.s3_endpoint)
    store.check(url, write=False)
    runs = list(runs_in(store))
    with ThreadPoolExecutor(_READERS, "sync") as readers:
        found = zip(runs, readers.map(partial(_results, store), runs), strict=True)
        return {run.key: one for run, one in found if one is not None}


def read_variables(path: Path) -> dict[str, str]:
    """`NAME=VALUE` lines of a file; `#` begins a comment, quotes around a value are taken off.

    Raises SettingsError naming the line.
    """
    variables = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise SettingsError(f"{path}, line {number}: give NAME=VALUE")
        value = found[2].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        variables[found[1]] = value[1:-1] if quoted else value
    return variables


def _results(store: Store, run: ModelRun) -> Published | None:
    key = f"{run.prefix}{keys.RESULTS}"
    try:
        body = store.get(key)
        modified = next(one.modified for one in store.entries(f"{run.prefix}results/") if one.key == key)
    except (MissingObjectError, StopIteration):
        return None
    return Published(hashlib.sha256(body).hexdigest(), modified)


def _finished(documents: Sequence[Any]) -> dict[str, str]:
    # Addresses of parts are other ones in every environment, so they tell nothing.
    runs, _ = parse_documents(RunDocument, documents)
    return {ModelRun(run.model_id, run.id).key: run.attributes.executed_at for run in runs if run.is_ready}


def _published(documents: Sequence[Any]) -> dict[str, str]:
    datasets, _ = parse_documents(IndicatorDocument, documents)
    return {
        ModelRun(dataset.id, INDICATOR_RUN_ID).key: ", ".join(sorted(one.name for one in dataset.outputs))
        for dataset in datasets
        if dataset.is_ready
    }


# --- the comparison --------------------------------------------------------------------------------


@dataclass
class Synced:
    """Where two environments differ, by difference: what their Dojos know, and what is published."""

    dojo: dict[Difference, list[str]] | None = None
    """None where not both have a Dojo."""
    datacubes: dict[Difference, list[str]] | None = None
    unprocessed: list[str] | None = None
    """Finished in the first's Dojo, and not published by the second; None without both."""
    asked: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return any(keys_ for part in (self.dojo, self.datacubes) if part for keys_ in part.values()) or bool(
            self.unprocessed
        )

    @property
    def lacking(self) -> list[str]:
        """What the second would have to process to be as the first."""
        wanted = set(self.unprocessed or ())
        if self.datacubes:
            wanted |= {*self.datacubes["missing"], *self.datacubes["older"]}
        return sorted(wanted)

    def to_json(self) -> dict[str, Any]:
        return {"differs": self.differs, **asdict(self)}


def compare(source: Environment, target: Environment) -> Synced:
    """Compare what two environments have. Raises SettingsError, DojoError, StoreError."""
    in_dojo = source.in_dojo(), target.in_dojo()
    first, second = source.datacubes(), target.datacubes()
    synced = Synced()
    if in_dojo[0] is not None and in_dojo[1] is not None:
        synced.dojo = _sides(in_dojo[0], in_dojo[1])
        synced.dojo["different"] = [
            key for key in in_dojo[0].keys() & in_dojo[1].keys() if in_dojo[0][key] != in_dojo[1][key]
        ]
        synced.dojo["different"].sort()
    if first is not None and second is not None:
        synced.datacubes = _sides(first, second)
        for key in sorted(first.keys() & second.keys()):
            if first[key].digest != second[key].digest:
                older = second[key].modified < first[key].modified
                synced.datacubes["older" if older else "different"].append(key)
    if in_dojo[0] is not None and second is not None:
        synced.unprocessed = sorted(in_dojo[0].keys() - second.keys())
    return synced


def _sides(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[Difference, list[str]]:
    return {
        "missing": sorted(first.keys() - second.keys()),
        "older": [],
        "different": [],
        "extra": sorted(second.keys() - first.keys()),
    }


def process(source: Environment, target: Environment, synced: Synced) -> None:
    """Leave requests in the second environment for what it lacks; nothing runs here.

    A request comes from where the second would take it anyway, its lake or its Dojo; where neither knows the
    run, from the first's.
    """
    from datacube_assets.dojo.client import DojoError
    from datacube_assets.operations.reprocess import NoRequestError, reprocess

    if target.only_dojo or target.only_bucket:
        raise SettingsError(
            f"requests cannot be left at {target.name}: give a file of settings, with DATACUBE_LAKE"
        )
    for key in synced.lacking:
        try:
            try:
                with target.active() as settings:
                    reprocess(settings, key, {})
            except (NoRequestError, InputError):
                _hand_over(source, target, key)
            synced.asked.append(key)
        except (NoRequestError, InputError, DojoError, ValueError, RuntimeError) as error:
            synced.refused[key] = str(error)


def _hand_over(source: Environment, target: Environment, key: str) -> RunRequested:
    from datacube_assets.operations.reprocess import current_request

    run = ModelRun.from_key(key)
    with source.active() as settings:
        lake = Lake(open_store(settings.lake, settings.s3_endpoint))
        request = current_request(settings, lake, run)
        seal = Seal.of(settings)
        paths = tuple(map(seal.open, request.data_paths))
    with target.active() as settings:
        lake = Lake(open_store(settings.lake, settings.s3_endpoint))
        # Buckets that a request names, and documents that wait, are those of the first.
        open_request = DatacubeRequest.model_validate(
            {
                **request.model_dump(),
                "data_paths": paths,
                "model_bucket": None,
                "indicator_bucket": None,
                "doc_ids": None,
                "selected_output_tasks": None,
            }
        )
        return ask_for_run(lake, Seal.of(settings).close_all(open_request))
