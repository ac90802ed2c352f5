"""Requests that wait in the lake: left by a user, by CauseMos, or by the command line.

The newest one for a partition says what its datacube is made of, before Dojo is asked (DESIGN 2).
Deriving requests from Dojo's documents belongs to `dojo/derive.py`.
"""

from __future__ import annotations

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.storage.lake import Lake


def _key(run: ModelRun) -> str:
    return f"{run.folder}/requested/request.json"


def leave_request(lake: Lake, request: DatacubeRequest) -> ModelRun:
    """Leave a request for its partition, in place of an earlier one.

    Raises InputError when an id would leave its folder.
    """
    run = ModelRun.of(request)
    run.check()
    lake.write_document(_key(run), request.model_dump(mode="json"))
    return run


def requested(lake: Lake, run: ModelRun) -> DatacubeRequest | None:
    """The request left for a partition, None when there is none."""
    document = lake.read_document(_key(run))
    return None if document is None else DatacubeRequest.model_validate(document)
