"""What a person asks about the versions of a datacube: which there were, and what changed between two.

How versions are kept is in `storage/history.py`, how they are compared in `storage/comparing.py`.
"""

from __future__ import annotations

from datacube_assets.check_limits import LimitsFile
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels.errors import InputError
from datacube_assets.settings import Settings
from datacube_assets.storage.comparing import NEEDED, Changes, Side, changes_between
from datacube_assets.storage.history import History
from datacube_assets.storage.lake import Lake, MissingTableError
from datacube_assets.storage.opening import open_store


def open_history(settings: Settings, run: ModelRun) -> History:
    """The history of a partition."""
    run.check()
    return History(Lake(open_store(settings.lake, settings.s3_endpoint)), run)


def side_of(settings: Settings, named: str) -> Side:
    """The tables of a version, named `MODEL_ID:RUN_ID@NUMBER`; without a number, of the published one.

    Raises ValueError for another name, InputError where there are no such tables.
    """
    key, separator, number = named.partition("@")
    run = ModelRun.named(key)
    history = open_history(settings, run)
    if separator:
        _, tables = history.opened(history.number(number))
    else:
        try:
            tables = {name: history.published_table(name) for name in NEEDED}
        except MissingTableError as error:
            raise InputError(
                str(error), run=str(run), remedy="`datacube list` shows what is published"
            ) from None
    return Side(history.lake, tables)


def difference(settings: Settings, before: str, after: str) -> Changes:
    """What changed from one version to another. Raises as `side_of` does."""
    limits = LimitsFile.read(settings.check_limits)
    sides = side_of(settings, before), side_of(settings, after)
    limit = limits.of(sides[1].info.run.model_id).max_region_move
    try:
        return changes_between(*sides, limit)
    except MissingTableError as error:
        raise InputError(
            str(error.args[0]), remedy="Compare versions whose tables are kept: `datacube history` lists them"
        ) from None
