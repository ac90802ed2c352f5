"""The checks of the asset group `datacube`: are the objects there that are recorded, and as the tables say?

How that is judged is in `objects.py` and `conservation.py`. A run looks at samples, other ones each time,
where looking at everything would take as long as making it; the job `check_model_run` looks at everything.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetCheckSeverity

from datacube_assets.assets.aggregates import grid_cells, regional_aggregates
from datacube_assets.assets.datacube import DATACUBE_ASSETS, raw_data, regional_extrema, spatial_tiles
from datacube_assets.checks.check import REMAKE, Check, Subject, judged, stops
from datacube_assets.checks.judging import conservation, objects
from datacube_assets.checks.judging.verdict import EXAMPLES, Verdict, names
from datacube_assets.kernels import keys
from datacube_assets.kernels.groups import Ints
from datacube_assets.kernels.morton import ZOOMS
from datacube_assets.kernels.schema import RESOLUTIONS, Layout, Resolution
from datacube_assets.storage.lake import Lake, LakeTable, MissingTableError, aggregate_folder
from datacube_assets.storage.publishing import fragment_entries, fragments, manifest, manifest_entries
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import Store

OBJECTS_AS_RECORDED = "objects_as_recorded"
_NOT_THERE = "it is not there"
_READ_AT_ONCE = 2000
"""Objects of a piece of work."""
_SAMPLED_BYTES = 1_000_000
"""Bytes of the objects of an asset that are read as a sample, about."""
_SAMPLED_FRAGMENTS = 4
"""Fragments of a manifest that a sample is taken from."""
_SAMPLED_CHUNKS = 2
"""Chunks of a table whose extrema are looked at in a run."""
_SAMPLED_TILES = 4
"""Tiles of a resolution that are read in a run ..."""
_TILES_OF_ALL = 45
"""... and when everything is looked at: five of each zoom, if there are as many chunks."""

# --- as recorded -----------------------------------------------------------------------------------


def _as_recorded(subject: Subject) -> Verdict:
    assets = [asset.key.path[-1] for asset in DATACUBE_ASSETS]
    all_heads = {asset: manifest(subject.lake, subject.run, asset) for asset in assets}
    heads = {
        asset: head
        for asset, head in all_heads.items()
        if head is not None and head["bucket"] == subject.bucket.url
    }
    if not heads:
        raise MissingTableError(f"{subject.run} has no published objects yet; materialize its assets first")
    counts: dict[str, int] = {asset: head["objects"] for asset, head in heads.items()}
    if not subject.everything and subject.bucket.local_path(keys.RESULTS) is not None:
        return _sample_as_recorded(subject, heads, counts)
    recorded = pa.concat_tables([manifest_entries(subject.lake, subject.run, asset) for asset in heads])
    looked = objects.look(recorded, subject.bucket.listing(subject.run.prefix))
    unread = np.flatnonzero(looked.unread)
    if not subject.everything:
        ends = np.cumsum(list(counts.values()))
        of_assets = np.split(unread, np.searchsorted(unread, ends[:-1]))
        most = subject.limits.sampled_objects
        unread = np.concatenate(
            [rows[_sample(subject, recorded.take(pa.array(rows)), most)] for rows in of_assets]
        )
    unread = np.concatenate([unread, np.flatnonzero(looked.suspect)])
    read = recorded.take(pa.array(unread))
    pieces = [read.slice(start, _READ_AT_ONCE) for start in range(0, len(unread), _READ_AT_ONCE)]
    faults = [fault for some in subject.map(Reading(subject.bucket), pieces, "objects") for fault in some]
    missing, altered = (
        recorded["key"].filter(pa.array(mask)).to_pylist() for mask in (looked.missing, looked.altered)
    )
    # results.json is written last and has its own check.
    results = f"{subject.run.prefix}{keys.RESULTS}"
    return objects.as_recorded(
        objects.Found(
            counts,
            sorted({*missing, *(key for key, there in faults if not there)}),
            sorted({*altered, *(key for key, there in faults if there)}),
            [key for key in looked.stray if key != results],
            int(np.count_nonzero(looked.told)) + len(unread),
        )
    )


def _sample_as_recorded(
    subject: Subject, heads: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int]
) -> Verdict:
    """Some objects of each asset, from some fragments of its manifest, without a listing."""
    sampled = []
    for asset, head in heads.items():
        some = fragments(subject.run, asset, head)
        chosen = subject.chance(asset).permutation(len(some))[:_SAMPLED_FRAGMENTS]
        for number in chosen:
            table = fragment_entries(subject.lake, [some[number]])
            most = math.ceil(subject.limits.sampled_objects / len(chosen))
            sampled.append(table.take(pa.array(_sample(subject, table, most))))
    read = pa.concat_tables([fragment_entries(subject.lake, []), *sampled])
    faults = Reading(subject.bucket)(read)
    missing, altered = ([key for key, here in faults if here is there] for there in (False, True))
    return objects.as_recorded(objects.Found(counts, missing, altered, compared=read.num_rows, sampled=True))


def _sample(subject: Subject, recorded: pa.Table, most: int) -> Ints:
    """Rows of some of the recorded objects, not too large altogether."""
    chosen = subject.chance("objects").permutation(recorded.num_rows)[:most]
    sizes = recorded["size"].take(pa.array(chosen)).to_numpy()
    few: Ints = chosen[: max(1, int(np.searchsorted(np.cumsum(sizes), _SAMPLED_BYTES)))]
    return np.sort(few)


@dataclass(frozen=True)
class Reading:
    """Keys of recorded objects that are not as recorded, and whether they are there at all.

    Reads them, on a worker.
    """

    bucket: Store

    def __call__(self, recorded: pa.Table) -> list[tuple[str, bool]]:
        wanted = dict(zip(recorded["key"].to_pylist(), recorded["checksum"].to_pylist(), strict=True))
        found = judged(self.bucket, wanted, _altered)
        return [(key, said != _NOT_THERE) for key, said in found.items() if said]


def _altered(checksum: bytes, body: bytes | None) -> str:
    if body is None:
        return _NOT_THERE
    same = hashlib.md5(body, usedforsecurity=False).digest() == checksum
    return "" if same else "it is not as it was written"


# --- extrema ---------------------------------------------------------------------------------------


def _extrema_are_of_the_table(subject: Subject) -> Verdict:
    table = subject.table(regional_aggregates)
    head = subject.published_from(regional_extrema, table)
    layout = RunInfo.of(table).layout
    chunks = [
        (resolution, level, name)
        for resolution in RESOLUTIONS
        for level in layout.levels
        for name in table.names(aggregate_folder(resolution, level))
    ]
    chance = random.Random(subject.context.run.run_id)
    most = subject.limits.sampled_objects if subject.everything else _SAMPLED_CHUNKS
    if len(chunks) > most:
        chunks = chance.sample(chunks, most)
    wanted: dict[str, Mapping[str, objects.Extreme]] = {}
    found = subject.map(_Extrema(subject.lake, table, layout), [name for _, _, name in chunks], "extrema")
    for (resolution, level, _), features in zip(chunks, found, strict=True):
        for feature, extremes in features.items():
            wanted[keys.regional_extrema(resolution, level, feature)] = extremes
    if len(wanted) > subject.limits.sampled_objects:
        wanted = dict(chance.sample(sorted(wanted.items(), key=_first), subject.limits.sampled_objects))
    wrong = _but_left_out(subject.judged(wanted, _other_extrema), head)
    return _same_objects(wrong, "The extrema are those of the tables", "lists of extrema")


def _other_extrema(extremes: Mapping[str, objects.Extreme], body: bytes | None) -> str:
    return _NOT_THERE if body is None else objects.same_extrema(body, extremes)


def _first(item: tuple[str, object]) -> str:
    return item[0]


@dataclass(frozen=True)
class _Extrema:
    lake: Lake
    table: LakeTable
    layout: Layout

    def __call__(self, name: str) -> dict[str, dict[str, objects.Extreme]]:
        return objects.table_extrema(self.lake.read(self.table, name), self.layout)


# --- tiles -----------------------------------------------------------------------------------------


def _tiles_hold_every_point(subject: Subject) -> Verdict:
    table = subject.table(grid_cells)
    head = subject.published_from(spatial_tiles, table)
    if not RunInfo.of(table).layout.mappable:
        return Verdict(True, "There are no coordinates.")
    odd: list[str] = []
    left_out = 0
    counts: dict[str, dict[str, list[int]]] = {}
    samples: dict[str, conservation.Tile] = {}
    published = _published_by_zoom(subject) if subject.everything else {}
    for resolution in RESOLUTIONS:
        found = _expected(subject, table, resolution)
        expected = sum((tiles.count for tiles in found), np.zeros(len(ZOOMS), np.int64))
        points = sum((tiles.points for tiles in found), np.zeros(len(ZOOMS), np.int64))
        counts[resolution] = {"tiles expected": expected.tolist(), "points": points.tolist()}
        if len(set(points.tolist())) > 1:
            odd.append(f"the zooms of {resolution} hold different numbers of points")
        elif subject.everything and all(tiles.finite for tiles in found):
            there = published[resolution]
            counts[resolution]["tiles"] = there.tolist()
            # Of which zoom and resolution those are that were left out is not known.
            left_out += int((expected - there).sum())
            if (there > expected).any() or (not head["left_out"] and (there != expected).any()):
                odd.append(f"the number of tiles by {resolution} is not what the table asks for")
        tiles_ = list(itertools.islice((tile for tiles in found for tile in tiles.samples), _TILES_OF_ALL))
        if not subject.everything:
            chosen = subject.chance(f"{resolution} tiles").permutation(len(tiles_))[:_SAMPLED_TILES]
            tiles_ = [tiles_[number] for number in chosen]
        samples |= {_tile_key(resolution, tile): tile for tile in tiles_}
    if left_out > head["left_out"] and not odd:
        odd.append("more tiles are missing than were left out")
    wrong = _but_left_out(subject.judged(samples, _unlike), head)
    told = _same_objects(wrong, "Tiles hold what the table holds, at every zoom", "tiles")
    figures = {**told.figures, "by zoom, 0 to 8": counts}
    return (
        Verdict(False, f"{'; '.join(odd)}. {REMAKE}", figures)
        if odd
        else Verdict(told.passed, told.says, figures)
    )


def _published_by_zoom(subject: Subject) -> dict[str, Ints]:
    """How many tiles of each zoom are recorded, by resolution."""
    recorded = manifest_entries(subject.lake, subject.run, spatial_tiles.key.path[-1])["key"]
    found: dict[str, Ints] = {}
    for resolution in RESOLUTIONS:
        here = recorded.filter(pc.starts_with(recorded, f"{subject.run.prefix}{resolution}/"))
        found[resolution] = np.bincount(objects.zooms(here), minlength=len(ZOOMS))
    return found


def _expected(subject: Subject, table: LakeTable, resolution: Resolution) -> list[conservation.Tiles]:
    """What the tiles of each chunk have to be; in a run those of one feature and time."""
    chance = subject.chance(resolution)
    files = [
        file.name for file in table.files if file.name.startswith(aggregate_folder(resolution)) and file.rows
    ]
    if files and not subject.everything:
        files = [files[int(chance.integers(len(files)))]]
    work = _Tiles(subject.lake, table, int(chance.integers(2**32)), sample=not subject.everything)
    return subject.map(work, files, f"tiles-{resolution}")


@dataclass(frozen=True)
class _Tiles:
    lake: Lake
    table: LakeTable
    seed: int
    sample: bool

    def __call__(self, name: str) -> conservation.Tiles:
        chance = np.random.default_rng(self.seed)
        table = self.lake.read(self.table, name)
        return conservation.expected_tiles(
            conservation.one_bucket(table, chance) if self.sample else table, chance
        )


def _tile_key(resolution: Resolution, tile: conservation.Tile) -> str:
    texts = [keys.segment(tile.feature), str(tile.timestamp), str(tile.x), str(tile.y)]
    feature, timestamp, x, y = (pa.array([text], pa.string()) for text in texts)
    key: str = keys.tiles(resolution, tile.zoom, feature, timestamp, x, y)[0].as_py()
    return key


def _unlike(tile: conservation.Tile, body: bytes | None) -> str:
    if body is None:
        return _NOT_THERE
    try:
        found = objects.bins_of_tile(body)
    except ValueError as error:
        return str(error)
    return "" if tile.agrees(found) else f"its bins add up to {found}, in the table to {tile.bins}"


def _but_left_out(said: Mapping[str, str], head: Mapping[str, Any]) -> Mapping[str, str]:
    """What is said of objects that cannot have been left out, because their key is too long or shared."""
    if not head["left_out"]:
        return said
    return {key: one for key, one in said.items() if one != _NOT_THERE}


def _same_objects(wrong: Mapping[str, str], passed: str, what: str) -> Verdict:
    faults = {key: said for key, said in wrong.items() if said}
    return Verdict(
        not faults,
        f"{len(faults):,} of {len(wrong):,} {what} are not what the tables say: {names(sorted(faults))}. "
        "Publish from scratch (docs/checks.md), and find out what changed the bucket"
        if faults
        else f"{passed}.",
        {f"{what} read": len(wrong), "examples": dict(sorted(faults.items())[:EXAMPLES])},
    )


OF_OBJECTS = (
    Check(
        raw_data,
        OBJECTS_AS_RECORDED,
        "Every object of the datacube that a manifest records is in the bucket, whichever asset it is of, "
        "with its size and checksum, and no other. On S3, and in the job check_model_run, of all objects; "
        "in a folder a run looks at a sample, other ones each time. Objects that are recorded nowhere only "
        "warn.",
        _as_recorded,
        AssetCheckSeverity.ERROR,
        blocking=True,
        after=tuple(DATACUBE_ASSETS),
    ),
    stops(
        regional_extrema,
        "extrema_are_of_the_table",
        "Published extrema have the smallest and largest figures of the regional table, and their places. "
        "Read are all of them, or a sample where there are many.",
        _extrema_are_of_the_table,
    ),
    stops(
        spatial_tiles,
        "tiles_hold_every_point",
        "At every zoom, the pyramid over the grid table holds the same points, and as many tiles are "
        "recorded as it has. Some published tiles are read: their bins add up to what the table has there. "
        "A run looks at one feature and time by month and by year, the job check_model_run at all.",
        _tiles_hold_every_point,
    ),
)
