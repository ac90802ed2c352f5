"""A datacube as one file: objects, tables, manifests and requests, to be taken from one place to another.

The format, and what is refused, belong here. It is a plain tar with a table of contents first: equal
datacubes give equal archives. Nothing of an archive is believed before all of it has been read and compared
with its contents; then `results.json` is written last, as whenever a datacube is published.

    datacube.json               contents: format, ids, version, name, size and SHA-256 of every other member
    objects/KEY                 objects, by their key after MODEL_ID/RUN_ID/
    lake/PATH                   tables, manifests and requests, by their path after the folder of the run

Addresses with secrets in them are sealed in the lake (`dojo/address_encryption.py`), and travel sealed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels import keys
from datacube_assets.kernels.encode import JSON
from datacube_assets.kernels.errors import InputError, shown
from datacube_assets.kernels.key_safety import UnsafeKeyError, check_keys
from datacube_assets.partitions import CODE_VERSION
from datacube_assets.redaction import public
from datacube_assets.storage.copying import batches
from datacube_assets.storage.history import RAW_PARTS, History
from datacube_assets.storage.lake import DESCRIPTOR, TABLES, Lake, described_table, scratch_folder
from datacube_assets.storage.leases import Holder
from datacube_assets.storage.ownership import overwriting
from datacube_assets.storage.publishing import (
    HEAD,
    MANIFESTS,
    RESULTS_ASSET,
    IncompleteDatacubeError,
    fragments,
    manifest,
    manifest_entries,
    ownership,
)
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError

FORMAT = 1
CONTENTS = "datacube.json"
OBJECTS, LAKE = "objects/", "lake/"
MOST_CONTENTS = 1 << 30
"""Bytes of a table of contents; that of a million objects has a quarter of it."""
MADE_FROM = "dojo_request/request.json"
REQUESTS = (MADE_FROM, "requested/request.json")
_ASSETS = (*(asset.key.path[-1] for asset in DATACUBE_ASSETS), RESULTS_ASSET)
_PATHS = re.compile(
    rf"(?:{'|'.join(sorted(TABLES))})/[^/]+(?:/.+)?|{MANIFESTS}/(?:{'|'.join(_ASSETS)})/.+|"
    + "|".join(map(re.escape, REQUESTS))
)
"""Paths in the lake that an archive may hold."""

Progress = Callable[[int, int], None]
"""Members done, members in all."""


class ArchiveError(InputError):
    """An archive that is none, or not whole, or that would write where it must not."""


class _Member(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class _Contents(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    format: int
    model_id: str
    run_id: str
    version: str
    members: list[_Member]


@dataclass(frozen=True)
class Archived:
    """What went into an archive, or came out of one."""

    run: ModelRun
    version: str
    objects: int
    files: int
    """Of the lake."""
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "partition": self.run.key,
            "version": self.version,
            "objects": self.objects,
            "lake files": self.files,
            "bytes": self.bytes,
        }


# --- export ----------------------------------------------------------------------------------------


def export(lake: Lake, bucket: Store, run: ModelRun, target: Path, progress: Progress) -> Archived:
    """Write the archive of a complete datacube; the file appears whole or not at all.

    Reads everything twice, so that the contents come first and what changes meanwhile is noticed. Raises
    IncompleteDatacubeError when the datacube is not complete, or is published anew meanwhile.
    """
    head = manifest(lake, run, RESULTS_ASSET)
    if head is None or head["bucket"] != bucket.url:
        raise IncompleteDatacubeError(f"{run} is not complete: process it before it is exported")
    version: str = head["version"]
    sources = {**_lake_files(lake, run), **_objects(lake, bucket, run)}
    names = sorted(sources)
    total = 2 * len(names)
    members = []
    for number, name in enumerate(names, 1):
        body = sources[name]()
        members.append(_Member(name=name, bytes=len(body), sha256=_sha256(body)))
        progress(number, total)
    contents = _Contents(
        format=FORMAT, model_id=run.model_id, run_id=run.run_id, version=version, members=members
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add(tar, CONTENTS, contents.model_dump_json(indent=1).encode())
            for number, member in enumerate(members, 1):
                body = sources[member.name]()
                if _sha256(body) != member.sha256:
                    raise _changed(run)
                _add(tar, member.name, body)
                progress(len(names) + number, total)
        if manifest(lake, run, RESULTS_ASSET) != head:
            raise _changed(run)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return _archived(run, contents)


Source = Callable[[], bytes]
"""Gives the bytes of a member."""


def _lake_files(lake: Lake, run: ModelRun) -> dict[str, Source]:
    """Members of the archive that come from the lake.

    Of tables, those of what is published. A run that has failed since may have left others, and its request.
    """
    paths = [path for path in REQUESTS if lake.read_document(f"{run.folder}/{path}") is not None]
    documents: dict[str, Mapping[str, Any]] = {}
    for name in sorted(TABLES):
        table = History(lake, run).published_table(name)
        folder = table.folder.removeprefix(f"{run.folder}/")
        paths += [f"{folder}/{file.name}.parquet" for file in table.files]
        documents[f"{name}/{DESCRIPTOR}"] = table.descriptor()
        if name == RAW_PARTS:
            documents[MADE_FROM] = table.info["request"]
    for asset in _ASSETS:
        head = manifest(lake, run, asset)
        if head is None:
            raise IncompleteDatacubeError(f"{run} is not complete: {asset} is not published")
        paths.append(f"{MANIFESTS}/{asset}/{HEAD}")
        paths += [key.removeprefix(f"{run.folder}/") for key in fragments(run, asset, head)]
    return {
        **{f"{LAKE}{path}": partial(_read, lake.store, f"{run.folder}/{path}", run) for path in paths},
        **{f"{LAKE}{path}": partial(_without_secrets, document) for path, document in documents.items()},
    }


def _objects(lake: Lake, bucket: Store, run: ModelRun) -> dict[str, Source]:
    return {
        f"{OBJECTS}{key.removeprefix(run.prefix)}": partial(_read, bucket, key, run)
        for asset in _ASSETS
        for key in manifest_entries(lake, run, asset)["key"].to_pylist()
    }


def _read(store: Store, key: str, run: ModelRun) -> bytes:
    try:
        body = store.get(key)
    except MissingObjectError:
        raise IncompleteDatacubeError(
            f"{run} lacks {store.url}/{key}: see `datacube verify {run.key}`, or process it again"
        ) from None
    return _without_secrets(json.loads(body)) if key.endswith(REQUESTS) else body


def _without_secrets(document: Mapping[str, Any]) -> bytes:
    """A document whose addresses carry nothing secret in the clear, even if somebody left them so."""

    def safe(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: safe(part) for name, part in value.items()}
        if isinstance(value, list):
            return [safe(part) for part in value]
        sealed = isinstance(value, str) and "?sealed=" in value
        return public(value) if isinstance(value, str) and "://" in value and not sealed else value

    return json.dumps(safe(document), indent=1, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    # Times and owners would make equal datacubes unequal archives.
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(body), 0o644
    tar.addfile(info, io.BytesIO(body))


def _changed(run: ModelRun) -> IncompleteDatacubeError:
    return IncompleteDatacubeError(f"{run} was published anew while it was exported. Export it again")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _archived(run: ModelRun, contents: _Contents) -> Archived:
    objects = sum(member.name.startswith(OBJECTS) for member in contents.members)
    return Archived(
        run,
        contents.version,
        objects,
        len(contents.members) - objects,
        sum(member.bytes for member in contents.members),
    )


# --- import ----------------------------------------------------------------------------------------


def contents_of(path: Path) -> ModelRun:
    """The datacube of an archive. Raises ArchiveError when it is none."""
    with _opened(path) as tar:
        contents, _ = _checked_contents(path, tar)
    return ModelRun(contents.model_id, contents.run_id)


def restore(path: Path, lake: Lake, bucket: Store, progress: Progress, *, replace: bool = False) -> Archived:
    """Bring the datacube of an archive into lake and bucket.

    Every member is read and compared with the contents before the first is written. Nobody sees a part of
    it: results.json is deleted first, where there is one, and written last. An import that broke off is
    made good by importing again, with `replace`.

    Raises ArchiveError for whatever is wrong with the archive, StoreError when something of the partition is
    there already and is not to be replaced.
    """
    with scratch_folder() as scratch:
        contents, run, files = _unpacked(path, Path(scratch), progress)
        _check_documents(path, run, files)
        if not replace:
            _refuse_what_is_there(lake, bucket, run)
        with overwriting(bucket, run, Holder(lake.store.url, f"import {uuid.uuid4().hex}")) as owned:
            _write(contents, run, files, lake, owned, progress)
            # What was there before went with its history.
            history = History(lake, run)
            points = lake.table(run, "normalized_points")
            history.finish(history.begin(owned, points, f"import {uuid.uuid4().hex}", CODE_VERSION), None)
    return _archived(run, contents)


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError:
        raise ArchiveError(
            "it is no archive of a datacube", file=str(path), remedy="Give what `datacube export` wrote"
        ) from None


def _checked_contents(path: Path, tar: tarfile.TarFile) -> tuple[_Contents, ModelRun]:
    def refuse(problem: str) -> ArchiveError:
        return ArchiveError(problem, file=str(path), remedy="Export the datacube again")

    try:
        first = tar.next()
        file = tar.extractfile(first) if first is not None and first.isreg() else None
        if first is None or file is None or first.name != CONTENTS or first.size > MOST_CONTENTS:
            raise refuse(f"it does not begin with its contents, {CONTENTS}")
        contents = _Contents.model_validate_json(file.read())
    except (tarfile.TarError, OSError, ValidationError):
        raise refuse("its contents cannot be read") from None
    if contents.format != FORMAT:
        raise refuse(f"it has the format {contents.format}; this version reads {FORMAT}")
    run = ModelRun(contents.model_id, contents.run_id)
    run.check()
    names = [member.name for member in contents.members]
    if len(set(names)) != len(names):
        raise refuse("a name occurs twice in its contents")
    for name in names:
        inner = name.removeprefix(OBJECTS) if name.startswith(OBJECTS) else name.removeprefix(LAKE)
        try:
            check_keys([inner])
        except UnsafeKeyError:
            raise refuse(f"the name {shown(name)} would leave its folder") from None
        if not name.startswith(OBJECTS) and not (name.startswith(LAKE) and _PATHS.fullmatch(inner)):
            raise refuse(f"the name {shown(name)} is of nothing that an archive may hold")
    if f"{OBJECTS}{keys.RESULTS}" not in names or f"{LAKE}{MANIFESTS}/{RESULTS_ASSET}/{HEAD}" not in names:
        raise refuse("it has no results.json: the datacube was not complete")
    return contents, run


def _unpacked(path: Path, scratch: Path, progress: Progress) -> tuple[_Contents, ModelRun, dict[str, Path]]:
    """The members of an archive as files of a folder, all of them as the contents say."""
    with _opened(path) as tar:
        contents, run = _checked_contents(path, tar)

        def refuse(problem: str) -> ArchiveError:
            return ArchiveError(
                problem, file=str(path), remedy="Copy the archive again, or export the datacube again"
            )

        files: dict[str, Path] = {}
        try:
            for number, expected in enumerate(contents.members):
                member = tar.next()
                if member is None or member.name != expected.name or not member.isreg():
                    raise refuse(f"{shown(expected.name)} is not where its contents have it")
                if member.size != expected.bytes:
                    raise refuse(f"{shown(expected.name)} has {member.size} bytes, not {expected.bytes}")
                source = tar.extractfile(member)
                # Names from outside never become names of files here.
                files[expected.name] = scratch / str(number)
                if source is None or _copied(source, files[expected.name]) != expected.sha256:
                    raise refuse(f"{shown(expected.name)} is not what was exported")
                progress(number + 1, 2 * len(contents.members))
            if tar.next() is not None:
                raise refuse("it holds more than its contents say")
        except (tarfile.TarError, EOFError):
            raise refuse("it breaks off, or is damaged") from None
    return contents, run, files


def _check_documents(path: Path, run: ModelRun, files: dict[str, Path]) -> None:
    """Hold manifests, tables and requests to be about this datacube, and about what is in the archive.

    What manifests name is deleted one day, as stale: they must name nothing else.
    """
    objects = {name.removeprefix(OBJECTS) for name in files if name.startswith(OBJECTS)}
    recorded: set[str] = set()
    needed: set[str] = set()
    try:
        for asset in _ASSETS:
            head = json.loads(files[f"{LAKE}{MANIFESTS}/{asset}/{HEAD}"].read_bytes())
            for key in fragments(run, asset, head):
                name = f"{LAKE}{key.removeprefix(f'{run.folder}/')}"
                needed.add(name)
                for entry in pq.read_table(files[name]).to_pylist():
                    key = entry["key"].removeprefix(run.prefix)
                    body = files[f"{OBJECTS}{key}"]
                    checksum = hashlib.md5(body.read_bytes(), usedforsecurity=False).digest()
                    if not entry["key"].startswith(run.prefix) or checksum != entry["checksum"]:
                        raise ValueError(key)
                    recorded.add(key)
        for name in sorted(TABLES):
            table = json.loads(files[f"{LAKE}{name}/{DESCRIPTOR}"].read_bytes())
            _check_request(table["info"]["request"], run)
            described = described_table(run, name, table)
            for key, file in zip(described.keys(), described.files, strict=True):
                where = f"{LAKE}{key.removeprefix(f'{run.folder}/')}"
                needed.add(where)
                if files[where].stat().st_size != file.bytes:
                    raise ValueError(where)
        for request in REQUESTS:
            if (name := f"{LAKE}{request}") in files:
                needed.add(name)
                _check_request(json.loads(files[name].read_bytes()), run)
    except (LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise _inconsistent(path, str(error).splitlines()[0] if str(error) else "a document") from None
    in_lake = {
        name for name in files if name.startswith(LAKE) and not name.endswith((f"/{HEAD}", f"/{DESCRIPTOR}"))
    }
    if recorded != objects or needed != in_lake:
        odd = sorted((recorded ^ objects) | (needed ^ in_lake))[0]
        raise _inconsistent(path, odd)


def _check_request(document: Any, run: ModelRun) -> None:
    if ModelRun.of(DatacubeRequest.model_validate(document)) != run:
        raise ValueError("a request of another datacube")


def _inconsistent(path: Path, what: str) -> ArchiveError:
    return ArchiveError(
        f"its tables, manifests and objects do not belong together: {shown(what)}",
        file=str(path),
        remedy="Export the datacube again",
    )


def _copied(source: Any, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while part := source.read(1 << 20):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _refuse_what_is_there(lake: Lake, bucket: Store, run: ModelRun) -> None:
    for store, folder in ((lake.store, f"{run.folder}/"), (bucket, run.prefix)):
        if next(iter(store.list(folder)), None) is not None:
            raise StoreError(
                f"{store.url}/{folder} is not empty: {run} is there already. Replace it with --replace"
            )


def _write(
    contents: _Contents,
    run: ModelRun,
    files: dict[str, Path],
    lake: Lake,
    bucket: Store,
    progress: Progress,
) -> None:
    done = len(files)

    def count(written: int) -> None:
        nonlocal done
        done += written
        progress(done, 2 * len(files))

    in_lake = [name for name in files if name.startswith(LAKE)]
    heads = [name for name in in_lake if name.endswith(f"/{HEAD}")]
    documents = [name for name in in_lake if name.endswith(f"/{DESCRIPTOR}")]
    others = [name for name in in_lake if name not in heads and name not in documents]
    results, results_head = f"{OBJECTS}{keys.RESULTS}", f"{LAKE}{MANIFESTS}/{RESULTS_ASSET}/{HEAD}"
    objects = [name for name in files if name.startswith(OBJECTS) and name != results]
    # As in `publishing.py`: the record goes first, then the mark, then anything else.
    lake.store.delete_many([f"{run.folder}/{MANIFESTS}/{asset}/{HEAD}" for asset in reversed(_ASSETS)])
    bucket.delete_many([f"{run.prefix}{keys.RESULTS}"])
    for store, folder, names in (
        (lake.store, f"{run.folder}/", [name.removeprefix(LAKE) for name in in_lake]),
        (bucket, run.prefix, [name.removeprefix(OBJECTS) for name in (*objects, results)]),
    ):
        kept = {f"{folder}{name}" for name in names}
        store.delete_many([key for key, _ in store.list(folder) if key not in kept])
    # Descriptors make tables of files, so they follow them.
    for name in (*others, *documents):
        lake.store.put(f"{run.folder}/{name.removeprefix(LAKE)}", files[name].read_bytes())
        count(1)
    for kind, batch in batches({name: files[name].stat().st_size for name in objects}):
        targets = [f"{run.prefix}{name.removeprefix(OBJECTS)}" for name in batch]
        bucket.put_many(targets, [files[name].read_bytes() for name in batch], kind)
        count(len(batch))
    for name in heads:
        if name != results_head:
            _write_head(lake, bucket, run, name, files[name])
            count(1)
    bucket.put_many([f"{run.prefix}{keys.RESULTS}"], [files[results].read_bytes()], JSON)
    _write_head(lake, bucket, run, results_head, files[results_head])
    count(2)


def _write_head(lake: Lake, bucket: Store, run: ModelRun, name: str, file: Path) -> None:
    head = json.loads(file.read_bytes())
    # Here the objects are in this bucket.
    lake.write_document(f"{run.folder}/{name.removeprefix(LAKE)}", {**head, **ownership(bucket)})
