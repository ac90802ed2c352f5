"""Numbers for analysts: a datacube's figures as Arrow tables, from its published objects or its lake tables.

    from datacube_assets.read import list_datacubes, open_datacube, open_tables

    cube = open_datacube("datacube-home/buckets/models", "toy-crop-model", "rainfall-low")
    cube.timeseries("yield", region="Kenya__Nakuru").to_pandas()

What people import belongs here; what a datacube answers is in `datacube.py`, published objects are in
`objects.py`, lake tables in `tables.py`. For people: docs/analysts.md. Importing it loads neither Dagster
nor pandas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import INDICATOR_RUN_ID
from datacube_assets.kernels.decode import UnreadableObjectError
from datacube_assets.read.datacube import Datacube, NoDataError, Time
from datacube_assets.read.explain import Explanation
from datacube_assets.read.objects import PublishedDatacube
from datacube_assets.read.tables import Files, LakeDatacube
from datacube_assets.read.versions import Difference, diff
from datacube_assets.settings import Settings, as_url
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.published import READERS, Published
from datacube_assets.storage.stores import Store, StoreError

__all__ = [
    "Datacube",
    "Difference",
    "Explanation",
    "Files",
    "LakeDatacube",
    "NoDataError",
    "PublishedDatacube",
    "StoreError",
    "UnreadableObjectError",
    "diff",
    "explain",
    "list_datacubes",
    "list_tables",
    "open_datacube",
    "open_tables",
]

AnyDatacube = TypeVar("AnyDatacube", bound=Datacube)


def open_datacube(
    url: str | Path, model_id: str, run_id: str = INDICATOR_RUN_ID, *, s3_endpoint: str = ""
) -> PublishedDatacube:
    """The published objects of a model run, or, without a run id, of a dataset. Nothing is read yet.

    `url` is the bucket: a folder such as `datacube-home/buckets/models`, `file://` or `s3://bucket/prefix`.
    `s3_endpoint` is the address of an S3 server other than AWS; without it, DATACUBE_S3_ENDPOINT or AWS'
    own variables say so. Credentials come from the usual places (docs/s3.md).
    """
    run = _run(model_id, run_id)
    return PublishedDatacube(Published(_store(url, s3_endpoint), run))


def open_tables(
    url: str | Path,
    model_id: str,
    run_id: str = INDICATOR_RUN_ID,
    *,
    version: int | None = None,
    s3_endpoint: str = "",
) -> LakeDatacube:
    """The tables of a model run, or, without a run id, of a dataset, in the lake. Nothing is read yet.

    `url` is the lake: a folder such as `datacube-home/lake`, `file://` or `s3://bucket/prefix`; `s3_endpoint`
    as in `open_datacube`. `version` is the number of one that keeps its tables (`LakeDatacube.versions` lists
    them), and these do not change; without one, the tables are those that what is published was made of, or
    those of now where nothing is.
    """
    run = _run(model_id, run_id)
    return LakeDatacube(Lake(_store(url, s3_endpoint)), run, version)


def explain(
    url: str | Path,
    model_id: str,
    run_id: str = INDICATOR_RUN_ID,
    *,
    feature: str,
    time: Time,
    s3_endpoint: str = "",
    **place: Any,
) -> Explanation:
    """Where a published figure comes from, down to the rows of Dojo's files.

    `url` is the lake, as in `open_tables`; what is asked for is as in `LakeDatacube.explain`.
    """
    cube = open_tables(url, model_id, run_id, s3_endpoint=s3_endpoint)
    return cube.explain(feature, time, **place)


def list_datacubes(url: str | Path, *, s3_endpoint: str = "") -> list[PublishedDatacube]:
    """The complete datacubes in a bucket, by model id and run id.

    Reads the names of their folders, and of each its results.json; one whose results.json cannot be read is
    left out, with a warning that names it. Arguments as in `open_datacube`. Raises NoDataError when there is
    no such folder.
    """
    store = _store(url, s3_endpoint)
    found = _runs(store, "", lambda name: name)
    cubes = [PublishedDatacube(Published(store, run)) for run in found]
    unreadable: list[str] = []

    def is_complete(cube: PublishedDatacube) -> bool:
        try:
            return cube.is_complete
        except UnreadableObjectError as error:
            unreadable.append(f"{cube.model_id}/{cube.run_id} in {cube.url} is left out: {error}")
            return False

    chosen = _chosen(cubes, is_complete)
    for problem in sorted(unreadable):
        # Threads have no caller to point at.
        warnings.warn(problem, stacklevel=2)
    return chosen


def list_tables(url: str | Path, *, s3_endpoint: str = "") -> list[LakeDatacube]:
    """The model runs and datasets that have tables in a lake, by model id and run id.

    Reads the names of their folders, and of each the descriptor of one table. Arguments as in `open_tables`.
    Raises NoDataError when there is no such folder.
    """
    store = _store(url, s3_endpoint)
    cubes = [LakeDatacube(Lake(store), run) for run in _runs(store, "runs/", unquote)]
    return _chosen(cubes, lambda cube: cube.is_complete)


def _store(url: str | Path, s3_endpoint: str) -> Store:
    settings = Settings.from_environment(DATACUBE_S3_ENDPOINT=s3_endpoint)
    return open_store(as_url(str(url)), settings.s3_endpoint)


def _run(model_id: str, run_id: str) -> ModelRun:
    run = ModelRun(model_id, run_id)
    run.check()
    return run


def _runs(store: Store, prefix: str, name_of: Callable[[str], str]) -> list[ModelRun]:
    """A run for each folder in a folder."""
    if isinstance(store, LocalStore) and not Path(store.root).is_dir():
        raise NoDataError(
            f"there is no folder {store.root}: correct the address, or publish something into it"
        )
    with ThreadPoolExecutor(READERS, "read") as readers:
        models = store.folders(prefix)
        runs = readers.map(lambda model: store.folders(f"{prefix}{model}/"), models)
        return sorted(
            ModelRun(name_of(model), name_of(run))
            for model, names in zip(models, runs, strict=True)
            for run in names
        )


def _chosen(cubes: list[AnyDatacube], which: Callable[[AnyDatacube], bool]) -> list[AnyDatacube]:
    with ThreadPoolExecutor(READERS, "read") as readers:
        return [cube for cube, chosen in zip(cubes, readers.map(which, cubes), strict=True) if chosen]
