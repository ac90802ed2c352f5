"""How many objects each asset of a datacube will publish, from the tables in the lake.

What is counted, and how sizes are told from samples, is in `kernels/estimate.py`. Here belongs which file of
which table is looked at, and when a look at tables is not enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.assets.aggregates import breakdowns
from datacube_assets.assets.datacube import DATACUBE_ASSETS, features_with_few_rows, works_of
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import estimate, keys
from datacube_assets.kernels.estimate import Estimate
from datacube_assets.kernels.groups import Floats, Mask, column
from datacube_assets.kernels.key_safety import LONGEST_PART
from datacube_assets.kernels.raw_rows import join_rows, raw_rows
from datacube_assets.kernels.schema import RESOLUTIONS, Layout, RegionLevel, Resolution
from datacube_assets.kernels.spatial import Breakdown
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.points import QUALIFIER_VALUES, REGIONS, RawParts
from datacube_assets.storage.publishing import made_twice
from datacube_assets.storage.run_info import RunInfo

_PARTS = 16
"""Parts that are looked at to find a row of each feature."""
_SHORT = 40
"""Bytes by which a name is shorter than the longest part of a key, so that what is put around it fits."""
_SHORT_KEY = 700
"""Bytes of all names of a key together with which it fits any store, whatever its prefix."""
_LARGE = 1e300
"""Sums of absolute numbers up to which no square of the map can overflow."""


def estimates(lake: Lake, run: ModelRun, assets: Collection[str] = ()) -> dict[str, Estimate]:
    """Objects and bytes by asset, of these assets or all. Raises MissingTableError."""
    points = lake.table(run, "normalized_points")
    info = RunInfo.of(points)

    @cache
    def table(name: str) -> LakeTable:
        return lake.table(run, name)

    def whole() -> LakeTable | None:
        """The global table, which a run of some assets need not have."""
        try:
            found = table("global_aggregates")
        except MissingTableError:
            return None
        return found if found.version == points.version else None

    def grid(resolution: Resolution) -> Iterator[pa.Table]:
        names = table("grid_cells").names(aggregate_folder(resolution))
        return (lake.read(table("grid_cells"), name) for name in names)

    families: dict[str, Callable[[], Estimate]] = {
        "raw_data": lambda: _raw_data(lake, table("raw_dojo_output"), points),
        "region_lists": lambda: estimate.region_lists(lake.read(points, REGIONS), info.layout),
        "qualifier_lists": lambda: estimate.qualifier_lists(
            lake.read(points, QUALIFIER_VALUES), info.features, breakdowns(lake, points)
        ),
        "global_timeseries": lambda: _global_timeseries(lake, table("global_aggregates")),
        "regional_timeseries": lambda: _regional_timeseries(lake, table("regional_aggregates"), points),
        "regional_maps": lambda: _regional_maps(lake, table("regional_aggregates"), whole()),
        "regional_extrema": lambda: _regional_extrema(lake, table("regional_aggregates"), whole()),
        "spatial_tiles": lambda: estimate.total(
            estimate.spatial_tiles(cells) for resolution in RESOLUTIONS for cells in grid(resolution)
        ),
        "grid_stats": lambda: estimate.total(
            estimate.grid_stats(resolution, cells) for resolution in RESOLUTIONS for cells in grid(resolution)
        ),
    }
    return {name: of() for name, of in families.items() if not assets or name in assets}


# --- exactly ---------------------------------------------------------------------------------------

Storable = Callable[[pa.Array], Mask]
"""Which keys a bucket takes."""


@dataclass(frozen=True)
class Counted:
    """What an asset will publish, and what is left out because of its key."""

    estimate: Estimate
    too_long: tuple[str, ...] = ()
    """Keys that the bucket does not take."""
    shared: tuple[str, ...] = ()
    """Keys that several objects would have."""


def counted(
    lake: Lake, run: ModelRun, storable: Storable, known: dict[str, Estimate] | None = None
) -> dict[str, Counted]:
    """Objects by asset, exactly, whatever they are called and however large their figures are.

    Names with a `/` may make one key of two, and long ones a key that no bucket takes; sums may overflow on
    their way up the map. Then objects are made, by the functions that publish them, and let go at once. Else
    the tables tell as much; `known` are estimates that were made before. Raises MissingTableError.
    """
    info = RunInfo.of(lake.table(run, "normalized_points"))
    known = estimates(lake, run) if known is None else known
    remade = _with_odd_keys(lake, run, info)
    if remade is not None and _any_large(lake, run):
        remade |= {"spatial_tiles", "grid_stats"}
    return {
        asset.key.path[-1]: _made(lake, run, asset.key.path[-1], storable)
        if remade is None or asset.key.path[-1] in remade
        else Counted(known[asset.key.path[-1]])
        for asset in DATACUBE_ASSETS
        if asset.key.path[-1] in known
    }


def _with_odd_keys(lake: Lake, run: ModelRun, info: RunInfo) -> set[str] | None:
    """The assets whose keys may be shared or too long, None for all: places are in keys of one asset only."""
    points = lake.table(run, "normalized_points")
    regions, values = lake.read(points, REGIONS), lake.read(points, QUALIFIER_VALUES)
    short = [pa.chunked_array([info.features], pa.string()), values["qualifier"]]
    levels = [regions[name] for name in info.layout.levels]
    # Between the names of a region's id stand two underscores each; `None` stands for a missing one.
    region = sum(map(_longest, levels)) + 6 * len(levels)
    in_all = list(map(_longest, short))
    in_one = [*in_all, region, _longest(values["value"])]
    if _long(in_all, run) or (info.may_share and any(map(_shared, short))):
        return None
    if _long(in_one, run) or (info.may_share and any(map(_shared, [*levels, values["value"]]))):
        return {"regional_timeseries"}
    return set()


def _shared(names: pa.ChunkedArray) -> bool:
    return keys.may_share(names.unique().cast(pa.string()))


def _long(sizes: Sequence[int], run: ModelRun) -> bool:
    return max(sizes) > LONGEST_PART - _SHORT or sum(sizes) + len(run.prefix.encode()) > _SHORT_KEY


def _longest(texts: pa.ChunkedArray) -> int:
    return pc.max(pc.binary_length(texts.cast(pa.string()))).as_py() or 0


def _any_large(lake: Lake, run: ModelRun) -> bool:
    """Whether a square of the map may overflow, though the smaller ones within it do not."""
    cells = lake.table(run, "grid_cells")
    for resolution, name in product(RESOLUTIONS, ("s_sum_t_sum", "s_sum_t_mean")):
        for file in cells.names(aggregate_folder(resolution)):
            sums = cast(Floats, column(lake.read(cells, file, [name]), name))
            with np.errstate(over="ignore", invalid="ignore"):
                if not np.abs(sums).sum() <= _LARGE:
                    return True
    return False


def _made(lake: Lake, run: ModelRun, asset: str, storable: Storable) -> Counted:
    table, works = works_of(lake, partial(lake.table, run), asset)
    kept, sizes, too_long = [], [], list[str]()
    for name, view in works.items():
        for objects in view(lake, table, name):
            whole_keys = pc.binary_join_element_wise(pa.scalar(run.prefix), objects.names, "")
            taken = storable(whole_keys)
            too_long += whole_keys.filter(pa.array(~taken)).to_pylist()
            kept.append(whole_keys.filter(pa.array(taken)))
            sizes.append(np.asarray(objects.sizes())[taken])
    if not kept:
        return Counted(Estimate())
    made, size = pa.chunked_array(kept), np.concatenate(sizes)
    shared = made_twice(made)
    alone = ~pc.is_in(made, shared).to_numpy()
    whole = Estimate(int(np.count_nonzero(alone)), int(size[alone].sum()))
    return Counted(whole, tuple(too_long), tuple(shared.to_pylist()))


# --- rows and lists --------------------------------------------------------------------------------


def _raw_data(lake: Lake, raw: LakeTable, points: LakeTable) -> Estimate:
    info = RunInfo.of(points)
    few = features_with_few_rows(info)
    if not few:
        return Estimate()
    rows = {feature: info.report.num_rows_per_feature[feature] for feature in few}
    wanted = pa.array(few, pa.string())
    held: list[pa.Table] = []
    # The first batch of some parts, of others while features are missing: all have the columns that count.
    parts = [part for part in RawParts(lake, raw).parts() if part.rows]
    spread = _spread(len(parts))
    others = [number for number in range(len(parts)) if number not in spread]
    seen: set[str] = set()
    for read, number in enumerate((*spread, *others)):
        if read >= len(spread) and (seen.issuperset(few) or (seen and read >= _PARTS)):
            break
        for batch in itertools.islice(parts[number].batches(), 1):
            for some in (estimate.some_rows(batch), batch):
                table = raw_rows(some, info.plan)
                held.append(table.filter(pc.is_in(table["feature"].cast(pa.string()), wanted)))
                seen.update(held[-1]["feature"].unique().cast(pa.string()).to_pylist())
                if held[-1].num_rows:
                    break
    return estimate.raw_data(rows, join_rows(held))


def _global_timeseries(lake: Lake, table: LakeTable) -> Estimate:
    layout = RunInfo.of(table).layout
    found = Estimate()
    for resolution in RESOLUTIONS:
        for name in table.names(aggregate_folder(resolution)):
            found += estimate.global_timeseries(lake.read(table, name), layout)
        for qualifier in table.info["qualifiers"]:
            for name in table.names(aggregate_folder(resolution, qualifier=qualifier)):
                found += estimate.qualifier_timeseries(lake.read(table, name), layout)
    return found


def _regional_timeseries(lake: Lake, table: LakeTable, points: LakeTable) -> Estimate:
    layout, used = RunInfo.of(table).layout, breakdowns(lake, points)
    by_level = estimate.regions_of_features(lake.read(points, REGIONS), layout)
    in_tables = {breakdown.qualifier: breakdown.features for breakdown in used.everywhere()}
    found = Estimate()
    for level in layout.levels:
        for resolution in RESOLUTIONS:
            folder = aggregate_folder(resolution, level)
            rows, sample = _rows(table, folder), _sample(lake, table, folder)
            found += estimate.regional_timeseries(by_level[level], rows, sample, layout)
        for breakdown in used.in_timeseries(level):
            whole = breakdown.features == in_tables[breakdown.qualifier]
            found += _by_qualifier(lake, table, level, breakdown, whole=whole)
    return found


def _by_qualifier(
    lake: Lake, table: LakeTable, level: RegionLevel, breakdown: Breakdown, *, whole: bool
) -> Estimate:
    """Timeseries by the values of a qualifier; `whole`: of all features that its tables have."""
    layout = RunInfo.of(table).layout
    mapped = pa.array(sorted(breakdown.features), pa.string())
    # What is there in a month is there in its year.
    years = aggregate_folder("year", level, qualifier=breakdown.qualifier)
    objects = sum(
        estimate.regions_of_values(
            lake.read(table, name, ["feature", "region_id", "value"]), breakdown.features
        )
        for name in table.names(years)
    )
    found = Estimate()
    for resolution in RESOLUTIONS:
        folder = aggregate_folder(resolution, level, qualifier=breakdown.qualifier)
        sample = _sample(lake, table, folder)
        if whole:
            rows = _rows(table, folder)
        else:
            features = [lake.read(table, name, ["feature"])["feature"] for name in table.names(folder)]
            rows = sum(pc.sum(pc.is_in(of.cast(pa.string()), mapped)).as_py() or 0 for of in features)
            if sample.num_rows:
                sample = sample.filter(pc.is_in(sample["feature"].cast(pa.string()), mapped))
        found += estimate.regional_timeseries(objects, rows, sample, layout)
    return found


def _regional_maps(lake: Lake, table: LakeTable, whole: LakeTable | None) -> Estimate:
    layout = RunInfo.of(table).layout
    found = Estimate()
    for resolution, level, qualifier in product(
        RESOLUTIONS, layout.levels, (None, *table.info["qualifiers"])
    ):
        folder = aggregate_folder(resolution, level, qualifier=qualifier)
        if whole is None:
            objects = _times(lake, table, folder)
        elif qualifier is None:
            # A row of the global table is a feature and a time, each of which has a table of regions.
            objects = _rows(whole, aggregate_folder(resolution))
        else:
            objects = _times(lake, whole, aggregate_folder(resolution, qualifier=qualifier))
        sample = _sample(lake, table, folder)
        found += estimate.regional_maps(objects, _rows(table, folder), sample, layout)
    return found


def _times(lake: Lake, table: LakeTable, folder: str) -> int:
    """How many features and times there are in a table by qualifier."""
    return sum(
        lake.read(table, name, ["feature", "timestamp"])
        .group_by(["feature", "timestamp"])
        .aggregate([])
        .num_rows
        for name in table.names(folder)
    )


def _regional_extrema(lake: Lake, table: LakeTable, whole: LakeTable | None) -> Estimate:
    info = RunInfo.of(table)
    layout, found = info.layout, Estimate()
    for resolution in RESOLUTIONS:
        complete = frozenset[str]().union(
            *(
                estimate.complete_features(lake.read(cast(LakeTable, whole), name), layout)
                for name in (whole.names(aggregate_folder(resolution)) if whole else ())
            )
        )
        for level in layout.levels:
            found += _extrema_of_level(lake, table, resolution, level, complete, len(info.features), layout)
    return found


def _extrema_of_level(
    lake: Lake,
    table: LakeTable,
    resolution: Resolution,
    level: RegionLevel,
    complete: frozenset[str],
    features: int,
    layout: Layout,
) -> Estimate:
    files = table.names(aggregate_folder(resolution, level))
    if not files:
        return Estimate()
    if len(complete) < features:
        # What cancels over all places exists in regions: only their table tells.
        of_files = (estimate.complete_features(lake.read(table, name), layout) for name in files)
        complete = complete.union(*of_files)
    return estimate.regional_extrema(resolution, level, lake.read(table, files[0]), len(complete), layout)


def _rows(table: LakeTable, folder: str) -> int:
    return sum(file.rows for file in table.files if file.name.startswith(folder))


def _sample(lake: Lake, table: LakeTable, folder: str) -> pa.Table:
    """The rows of some files of a folder; of a folder without any, no rows and no columns."""
    names = table.names(folder)
    parts = [lake.read(table, names[number]) for number in _spread(len(names))]
    return pa.concat_tables(parts).unify_dictionaries() if parts else pa.table({})


def _spread(count: int) -> list[int]:
    """The numbers of the files that lines are sampled from: first, middle and last of so many."""
    return sorted({0, count // 2, count - 1}) if count else []
