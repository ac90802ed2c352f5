"""Looking for secrets in everything that is kept: files, and what Dagster's storage has compressed."""

from __future__ import annotations

import base64
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote


def found(folder: Path, secrets: Mapping[str, str]) -> list[str]:
    """Where below a folder which of the secrets stands, in whatever spelling."""
    wanted = {
        spelling: name
        for name, secret in secrets.items()
        for spelling in (secret.encode(), quote(secret, safe="").encode(), base64.b64encode(secret.encode()))
    }
    return [
        f"{where}: {name}"
        for where, content in _contents(folder)
        for spelling, name in wanted.items()
        if spelling in content
    ]


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            yield str(path), content
            if content.startswith(b"SQLite format 3\0"):
                for cell in _cells(path):
                    yield str(path), cell


def _cells(path: Path) -> Iterator[bytes]:
    """Cells of a database, decompressed where they are compressed."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f'select * from "{table}"'):
                for cell in row:
                    content = cell.encode() if isinstance(cell, str) else cell
                    if isinstance(content, bytes):
                        with suppress(zlib.error):
                            content = zlib.decompress(content)
                        yield content
