"""Which version of a partition a run publishes, where that is not the newest state of its input.

A run goes back to an earlier version because its tag says so, or because it was started by a sensor for a
state that somebody went back from. Where versions are kept is in `storage/history.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRun, RunsFilter

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.partitions import CHANGE_TAG, FROM_DOJO, SOURCE_TAG, VERSION_TAG, WANTED_VERSION
from datacube_assets.storage.history import RAW_PARTS, History, Version
from datacube_assets.storage.lake import Lake, LakeTable


@dataclass(frozen=True)
class Kept:
    """An earlier version that can be published again."""

    number: int
    raw: LakeTable

    @property
    def request(self) -> DatacubeRequest:
        return DatacubeRequest.model_validate(self.raw.info["request"])


def wanted_version(lake: Lake, run: ModelRun, by: DagsterRun) -> Kept | None:
    """The version that a run goes back to, None for a run that does not. Raises InputError."""
    if WANTED_VERSION not in by.tags:
        return None
    history = History(lake, run)
    return _kept(history, history.target(by.tags[WANTED_VERSION], root_of(by)))


def held_version(lake: Lake, run: ModelRun, by: DagsterRun) -> Kept | None:
    """The version that stays, where a sensor's run is about a state that somebody went back from."""
    if by.tags.get(SOURCE_TAG) != FROM_DOJO or VERSION_TAG not in by.tags:
        return None
    history = History(lake, run)
    if not history.is_held(by.tags[VERSION_TAG], change_of(by) or 0):
        return None
    newest = history.newest()
    return None if newest is None else _kept(history, newest)


def _kept(history: History, version: Version) -> Kept:
    return Kept(version.origin, history.tables_of(version.version)[RAW_PARTS])


def root_of(by: DagsterRun) -> str:
    """The first of the runs that a run repeats, which may be itself."""
    return by.root_run_id or by.run_id


def change_of(by: DagsterRun) -> int | None:
    """The number of the state that a sensor's run was started for."""
    number = by.tags.get(CHANGE_TAG, "")
    return int(number) if number.isascii() and number.isdecimal() else None


def last_change(instance: DagsterInstance, run: ModelRun) -> int:
    """The number of the last state of a partition that a sensor asked a run for."""
    filters = RunsFilter(tags={"dagster/partition": run.key, SOURCE_TAG: FROM_DOJO})
    runs = instance.get_runs(filters, limit=1)
    return (change_of(runs[0]) or 0) if runs else 0
