"""Which shard a point belongs to: all points of a temporal cell are in one (DESIGN 3).

Only the assignment belongs here. It depends on names and coordinates alone, never on codes or on the
order of rows, so that the same place is in the same shard in every batch.
"""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.datacube.groups import Floats, column, encode_text
from datacube_assets.datacube.schema import Layout

Hashes = npt.NDArray[np.uint64]

_MIX = np.uint64(0x9E3779B97F4A7C15)


def shard_numbers(points: pa.Table, layout: Layout, shards: int) -> npt.NDArray[np.int64]:
    """Shard of each point, in [0, shards): a hash of its feature, regions and coordinates."""
    hashes = np.zeros(points.num_rows, np.uint64)
    for name in ("feature", *layout.levels):
        coded = encode_text(points[name])
        hashes = _mix(hashes, _hash_texts(coded.values)[coded.codes])
    for name in layout.coordinates:
        values = cast(Floats, column(points, name)) + 0.0
        # All NaN are one place, whatever their bits.
        values[np.isnan(values)] = np.nan
        hashes = _mix(hashes, values.view(np.uint64))
    return ((hashes >> np.uint64(11)) % np.uint64(shards)).astype(np.int64)


def _hash_texts(texts: pa.Array) -> Hashes:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(digests, np.uint64)


def _mix(hashes: Hashes, values: Hashes) -> Hashes:
    mixed = (hashes ^ values) * _MIX
    return mixed ^ (mixed >> np.uint64(29))
