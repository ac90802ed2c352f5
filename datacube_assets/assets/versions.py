"""Versions of a partition in a run: which one it publishes, and what it changes.

A run goes back to an earlier version because its tag says so, or because it was started by a backfill, or
by a sensor for a state that somebody went back from. Where versions are kept is in `storage/history.py`, how
two are compared in `storage/comparing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    MetadataValue,
    RunsFilter,
    TableColumn,
    TableRecord,
    TableSchema,
)

from datacube_assets.assets import pictures
from datacube_assets.check_limits import LimitsFile
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.pictures import MAX_PANELS
from datacube_assets.partitions import (
    BACKFILL_TAG,
    CHANGE_TAG,
    CODE_VERSION,
    FROM_DOJO,
    FROM_SCRATCH,
    PARTITION_TAG,
    SOURCE_TAG,
    VERSION_TAG,
    WANTED_VERSION,
)
from datacube_assets.resources.publishing import Publisher
from datacube_assets.storage.comparing import Side, changes_between
from datacube_assets.storage.history import RAW_PARTS, History, Version
from datacube_assets.storage.lake import DamagedError, Lake, LakeTable, MissingTableError
from datacube_assets.storage.leases import OwnedBucket
from datacube_assets.storage.publishing import RESULTS_ASSET
from datacube_assets.storage.requests import left_since
from datacube_assets.storage.stores import StoreError


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
    """The version that stays, because somebody went back to it and nobody has asked for anything newer.

    A sensor's run is about a state of Dojo, which may be newer. A backfill asks for nothing new at all,
    unless it says that everything is to be made from scratch. Neither does a run that does not end in
    results.json, such as one of the tiles: it would leave a mixture of the two versions.
    """
    history = History(lake, run)
    chosen = by.asset_selection or ()
    ends_before = bool(chosen) and AssetKey(RESULTS_ASSET) not in chosen
    if (BACKFILL_TAG in by.tags or ends_before) and FROM_SCRATCH not in by.tags:
        newest = history.newest()
        if newest is None or newest.back_to is None or left_since(lake, run, newest.published):
            return None
        return _kept(history, newest)
    if by.tags.get(SOURCE_TAG) != FROM_DOJO or VERSION_TAG not in by.tags:
        return None
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
    filters = RunsFilter(tags={PARTITION_TAG: run.key, SOURCE_TAG: FROM_DOJO})
    runs = instance.get_runs(filters, limit=1)
    return (change_of(runs[0]) or 0) if runs else 0


# --- a publication becomes a version ------------------------------------------------------------------


def begin(
    context: AssetExecutionContext, history: History, bucket: OwnedBucket, points: LakeTable
) -> Version:
    """Write down that a run is about to publish the version of these points."""
    goes_back = WANTED_VERSION in context.run.tags
    return history.begin(
        bucket,
        points,
        context.run.run_id,
        CODE_VERSION,
        root=root_of(context.run),
        change=change_of(context.run),
        asked=last_change(context.instance, history.run) if goes_back else None,
    )


def ended(
    context: AssetExecutionContext, publisher: Publisher, history: History, this: Version
) -> dict[str, Any]:
    """Write down that a version stands, let go of those that are not kept, and tell the UI what changed.

    The datacube is complete by now: that the history of it is damaged is a warning, and no failure.
    """
    before = None
    with _in_spite_of_damage(context):
        before = history.before(this)
    this = history.finish(this, this.changes or what_changed(context, publisher, history, before, this))
    with _in_spite_of_damage(context):
        history.trim(publisher.lake.retention)
    return {
        **changes_metadata(before, this),
        **before_and_after(context, publisher, history, before, this),
    }


@contextmanager
def _in_spite_of_damage(context: AssetExecutionContext) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        context.log.warning(str(error))


# --- what changed ------------------------------------------------------------------------------------


def what_changed(
    context: AssetExecutionContext,
    publisher: Publisher,
    history: History,
    before: Version | None,
    this: Version,
) -> Mapping[str, Any] | None:
    """What changed against the version before, None where there is none to compare with.

    Nobody should miss a datacube because an older one cannot be read.
    """
    if before is None:
        return None
    limit = LimitsFile.model_validate_json(publisher.limits).of(history.run.model_id).max_region_move
    mapped = partial(publisher.dask.map, name="what-changed", run_id=context.run.run_id)
    old, new = (Side(history.lake, history.tables_of(one.version)) for one in (before, this))
    try:
        return changes_between(old, new, limit, mapped).to_json()
    except (MissingTableError, StoreError, LookupError, pa.ArrowException) as error:
        context.log.warning(f"Version {before.number} cannot be compared, it is not concerned: {error}")
        return None


def changes_metadata(before: Version | None, this: Version) -> dict[str, Any]:
    """What changed, for the UI."""
    back = {"back to version": this.back_to} if this.back_to else {}
    changes = this.changes
    if changes is None or before is None:
        return back
    figures, names = changes["figures"], changes["names"]
    came_or_went = {
        kind: {name: one[name] for name in ("before", "after", "came", "went") if one[name]}
        for kind, one in names.items()
        if one["came_count"] or one["went_count"]
    }
    return {
        **back,
        "changed against version": before.number,
        "figures compared": figures["compared"],
        "figures changed": figures["changed"],
        "figures that came": figures["came"],
        "figures that went": figures["went"],
        "figures changed by": MetadataValue.json(figures["classes"]),
        "came or went": MetadataValue.json(came_or_went),
        "changes by feature and level": _table(changes["by_feature"], _LINES),
        "largest movers": _table(changes["movers"], _MOVERS),
    }


_LINES = ("feature", "level", "compared", "changed", "came", "went", "regions", "moved")
_MOVERS = ("feature", "level", "month", "region", "figure", "before", "after")
_SHOWN = 50
"""Lines of a table in metadata."""


def _table(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> MetadataValue[Any]:
    if not lines:
        return MetadataValue.text("(none)")
    records = [
        TableRecord({name: "" if line[name] is None else line[name] for name in names})
        for line in lines[:_SHOWN]
    ]
    columns = [TableColumn(name, "string" if isinstance(lines[0][name], str) else "number") for name in names]
    return MetadataValue.table(records, TableSchema(columns=columns))


def before_and_after(
    context: AssetExecutionContext,
    publisher: Publisher,
    history: History,
    before: Version | None,
    this: Version,
) -> dict[str, Any]:
    """The picture of what changed."""
    if before is None or not this.changes or not this.changes["by_feature"]:
        return {}
    old, new = (history.tables_of(one.version).get("global_aggregates") for one in (before, this))
    if old is None or new is None:
        return {}
    # Those that changed most.
    features = list(dict.fromkeys(line["feature"] for line in this.changes["by_feature"]))[:MAX_PANELS]
    title = f"Mean over all places, per month: versions {before.number} and {this.number}"
    draw = partial(pictures.of_changes, history.lake, old, new, features, title)
    return publisher.ui.picture(context.log, draw)
