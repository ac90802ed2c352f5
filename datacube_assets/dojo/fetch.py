"""Fetching the Parquet parts of a run from wherever Dojo left them (CONTRACTS B.1).

Bytes only: a part is copied to a local file, its size and checksum taken on the way. Which parts to
fetch is said by the request; what is in them is checked by `datacube/parts.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from datacube_assets.datacube.errors import InputError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FetchedPart:
    """A part as it came."""

    address: str
    size: int
    sha256: str


def fetch(address: str, target: Path) -> FetchedPart:
    """Copy a part to a local file. Raises InputError when it cannot be had."""
    checksum = hashlib.sha256()
    with _open(address) as source, target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            checksum.update(chunk)
            sink.write(chunk)
    return FetchedPart(address, target.stat().st_size, checksum.hexdigest())


@contextmanager
def _open(address: str) -> Iterator[BinaryIO]:
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path)) if parts.scheme else Path(address)
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise InputError(
                f"the file cannot be opened: {error.strerror}", file=address, remedy="Check the path"
            ) from error
    else:
        raise InputError(
            f"addresses of the kind {parts.scheme}:// cannot be read", file=address, remedy="Give a path"
        )


