"""Which store a URL means."""

from __future__ import annotations

from urllib.parse import urlsplit

from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.stores import Store


def open_store(url: str, s3_endpoint: str = "") -> Store:
    """The store of a URL: `file:///folder` or `s3://bucket/prefix`."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(url)
    if parts.scheme == "s3":
        from datacube_assets.storage.s3 import S3

        return S3(url, s3_endpoint)
    raise ValueError(f"no store speaks {url!r}; give file:// or s3://")
