"""Which object keys are safe: none may leave the root of its store, and stores take no longer ones.

Rules about keys as plain text belong here. How keys are made of names is in `keys.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keys: TypeAlias = Sequence[str] | pa.Array
"""Keys as texts or as an Arrow array of texts, which is quicker to look through."""

LONGEST_KEY = 1024
"""Bytes that S3 takes for a key; a folder that stands for a bucket takes no more."""
LONGEST_PART = 255
"""Bytes of a part of a key that a store takes whose parts are names of files."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE = r"(^|/)(\.{1,2})?(/|$)|\x00"
_UNSAFE_KEY = re.compile(_UNSAFE.replace("$", r"\Z"))
_MANY = 100
"""Keys from which on looking through all of them at once is quicker."""


class UnsafeKeyError(ValueError):
    """A key with an empty, `.` or `..` part or the character NUL: it could leave the store's root."""


def check_keys(keys: Keys) -> None:
    """Refuse keys that could leave the root. Raises UnsafeKeyError."""
    if len(keys) < _MANY:
        found = next((number for number, key in enumerate(keys) if _UNSAFE_KEY.search(str(key))), -1)
    else:
        found = pc.index(pc.match_substring_regex(as_array(keys), _UNSAFE), True).as_py()
    if found >= 0:
        raise UnsafeKeyError(
            f"the key {str(keys[found])!r} has a part that is empty, `.` or `..`, or holds NUL"
        )


def is_safe(key: str) -> bool:
    """Whether a key is one that `check_keys` lets pass."""
    return _UNSAFE_KEY.search(key) is None


def has_control(text: str) -> bool:
    """Whether a key, or a name for one, has a control character: a line break, for instance."""
    return _CONTROL.search(text) is not None


def as_array(keys: Keys) -> pa.Array:
    """Keys as an Arrow array of texts."""
    return keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())


def key_sizes(keys: Keys) -> npt.NDArray[np.int32]:
    """Size of each key in bytes."""
    sizes: npt.NDArray[np.int32] = pc.binary_length(as_array(keys)).to_numpy()
    return sizes


def longest_part(key: str) -> int:
    """Size in bytes of the longest part of a key."""
    return max(len(part.encode()) for part in key.split("/"))
