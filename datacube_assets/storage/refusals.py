"""Tables that checks refused, so that nothing is published of them until they are checked again.

    runs/M/R/refused/STEP.json    what the checks of a step said against the tables, and of which version

A run that makes tables checks them before it publishes. One that begins after them, as by "Materialize
unsynced" in the UI, learns from here what was said. What is refused is decided in `checks/`.
"""

from __future__ import annotations

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.lake import Lake

REFUSED = "refused"
"""Name of the folder of a run."""


def note(lake: Lake, run: ModelRun, step: str, version: str, says: str) -> None:
    """Write down what the checks of a step say against the tables of a version; nothing takes it back."""
    key = f"{run.folder}/{REFUSED}/{step}.json"
    if says:
        lake.write_document(key, {"version": version, "says": says})
    elif lake.read_document(key) is not None:
        lake.store.delete_many([key])


def refusal(lake: Lake, run: ModelRun, version: str) -> str:
    """What was last said against the tables of a version; empty where nothing was."""
    keys = sorted(key for key, _ in lake.store.list(f"{run.folder}/{REFUSED}/"))
    documents = [document for key in keys if (document := lake.read_document(key))]
    return "; ".join(one["says"] for one in documents if one["version"] == version)
