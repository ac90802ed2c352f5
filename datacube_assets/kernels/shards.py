"""How a run is cut so that no step holds all of it (docs/concepts.md#how-it-stays-quick).

Points are cut by place, into *shards*; the tables of all shards by feature and time, into *chunks*. Only
which row belongs where is decided here. The shard of a point depends on names and coordinates alone,
never on codes or on the order of rows, so that a place is in the same shard in every batch. Places that
share a subtile of the grid are together, so that grid cells of shards never have to be added up.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import Floats, Ints, Key, Tuples, column, encode_floats, encode_text
from datacube_assets.kernels.projection import on_map, quadkeys
from datacube_assets.kernels.schema import Layout

Hashes = npt.NDArray[np.uint64]

_MIX = np.uint64(0x9E3779B97F4A7C15)


def shard_numbers(points: pa.Table, layout: Layout, shards: int) -> npt.NDArray[np.int64]:
    """Shard of each point, in [0, shards): a hash of its feature and of its subtile or place."""
    feature = encode_text(points["feature"])
    levels = {level: encode_text(points[level]) for level in layout.levels}
    degrees = {name: encode_floats(cast(Floats, column(points, name))) for name in layout.coordinates}
    columns: list[Key] = [*levels.values(), *degrees.values()]
    places = Tuples.of(columns, points.num_rows)
    hashes = np.zeros(len(places), np.uint64)
    for coded, codes in zip(levels.values(), places.members, strict=False):
        hashes = _mix(hashes, text_hashes(coded.values)[codes])
    found = {
        name: coded.values.to_numpy(zero_copy_only=False).astype(np.float64)[codes]
        for (name, coded), codes in zip(degrees.items(), places.members[len(levels) :], strict=True)
    }
    for values in found.values():
        # All NaN are one place, whatever their bits.
        hashes = _mix(hashes, np.where(np.isnan(values), np.nan, values).view(np.uint64))
    if layout.mappable:
        on = on_map(found["lat"], found["lng"])
        subtiles = quadkeys(found["lat"][on], found["lng"][on])
        hashes[on] = _mix(np.zeros(len(subtiles), np.uint64), subtiles.astype(np.uint64))
    mixed = _mix(hashes[places.codes], text_hashes(feature.values)[feature.codes])
    return ((mixed >> np.uint64(11)) % np.uint64(shards)).astype(np.int64)


def text_hashes(texts: pa.Array) -> Hashes:
    """A number for each text that depends on nothing but the text."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(digests, np.uint64)


def _mix(hashes: Hashes, values: Hashes) -> Hashes:
    mixed = (hashes ^ values) * _MIX
    return mixed ^ (mixed >> np.uint64(29))


Boundary = tuple[str, int]
"""The first feature and time (ms UTC) of a chunk."""
_ALWAYS = -(2**63)


@dataclass(frozen=True)
class Chunks:
    """Ranges of feature and time, in this order, that cover a run."""

    boundaries: tuple[Boundary, ...]
    """Where every chunk but the first begins, ascending."""

    def __len__(self) -> int:
        return len(self.boundaries) + 1

    @classmethod
    def of(cls, rows: Mapping[str, int], target: int, times: tuple[int, int] | None = None) -> Chunks:
        """Chunks of about `target` rows, given the rows of every feature.

        A feature stays whole, unless `times` (first and last, ms UTC) is given: then one that is larger
        is cut evenly in time.
        """
        boundaries: list[Boundary] = []
        filled = 0
        for feature in sorted(rows):
            if filled and filled + rows[feature] > target:
                boundaries.append((feature, _ALWAYS))
                filled = 0
            filled += rows[feature]
            cuts = -(-rows[feature] // target)
            if times is not None and cuts > 1:
                first, last = times
                inner = {first + (last + 1 - first) * number // cuts for number in range(1, cuts)}
                boundaries.extend((feature, time) for time in sorted(inner - {first}))
                filled = target
        return cls(tuple(boundaries))

    def cut(self, table: pa.Table) -> list[pa.Table]:
        """The part of each chunk in a table that is ordered by feature and timestamp."""
        feature = encode_text(table["feature"])
        names = feature.values.to_pylist()
        times = cast(Ints, column(table, "timestamp"))
        cuts = [0]
        for name, time in self.boundaries:
            code = bisect_left(names, name)
            start = int(np.searchsorted(feature.codes, code))
            if time != _ALWAYS and code < len(names) and names[code] == name:
                end = int(np.searchsorted(feature.codes, code, side="right"))
                start += int(np.searchsorted(times[start:end], time))
            cuts.append(start)
        cuts.append(table.num_rows)
        return [table.slice(start, end - start) for start, end in itertools.pairwise(cuts)]

    def split(self, table: pa.Table) -> list[pa.Table]:
        """The part of each chunk in a table of any order; for chunks of whole features."""
        feature = encode_text(table["feature"])
        firsts = [name for name, _ in self.boundaries]
        chunk = np.array([bisect_right(firsts, name) for name in feature.values.to_pylist()], np.int64)
        numbers = chunk[feature.codes] if len(chunk) else np.zeros(0, np.int64)
        return [table.filter(pa.array(numbers == number)) for number in range(len(self))]
