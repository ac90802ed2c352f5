"""The history of a partition: every version that was published, and which of them keep their tables.

    runs/M/R/history/NNNNNN.LLLLLL.json    one publication: when, by what, of which files, and what changed
    runs/M/R/history/tables/VERSION.json   the tables of a version that can be published again

The number of a publication goes up; behind it stands the number of the lease under which it was written, so
that a holder that lost its lease writes over nobody's. A publication is written down before results.json is,
and marked as complete afterwards. The files of a table stay as long as one of the documents in `tables/`
names them: such a document goes first, the files after it. Equal inputs are one version, however often they
are published. How tables are written is in `lake.py`; how an older version is published again, in `assets/`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.redaction import public
from datacube_assets.storage.lake import (
    TABLES,
    DamagedError,
    Lake,
    LakeTable,
    MissingTableError,
    described_table,
)
from datacube_assets.storage.leases import OwnedBucket
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets.storage.run_info import RunInfo

HISTORY = "history"
"""Name of the folder of a run's history."""
RAW_PARTS = "raw_dojo_output"
PREVIOUS = "previous"
"""What stands for the version before the published one."""
_TABLES = "tables"
_NAME = re.compile(r"(\d{6,})\.(\d{6,})\.json")
_THREADS = 16
_DAY = 86_400.0


@dataclass(frozen=True)
class Retention:
    """How long versions keep their tables."""

    versions: int = 3
    """Versions, the published one included."""
    days: float = 0.0
    """Days since a version was replaced; 0 for any number."""


@dataclass(frozen=True)
class Source:
    """One of the files that a version was made of."""

    address: str
    """With what everybody may see."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Size:
    """A table of a version."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class State:
    """A state of Dojo's document that a version was made of."""

    source: str
    """`DatacubeRequest.source_version`."""
    change: int = 0
    """How often the document had changed before, as the sensor counts."""


@dataclass(frozen=True)
class Version:
    """One publication of a partition."""

    number: int
    version: str
    """What its tables were made from (`LakeTable.version`)."""
    published: float
    """Seconds UTC."""
    by: str
    """Dagster's run."""
    root: str
    """The first of the runs that `by` repeats."""
    code: str
    executed_at: str
    """When Dojo executed the run, in its words; empty where nobody said so."""
    request: Mapping[str, Any]
    """What was asked for; of addresses, what everybody may see."""
    files: tuple[Source, ...]
    rows: int
    """Points."""
    tables: Mapping[str, Size]
    state: State | None = None
    """What it was made of in Dojo; None where it was made of something else."""
    back_to: int | None = None
    """The version of which this is the tables again, where somebody went back to it."""
    held: tuple[State, ...] = ()
    """What a sensor shall not publish again as long as this is the newest publication."""
    complete: bool = False
    """Whether results.json is known to have been written."""
    changes: Mapping[str, Any] | None = None
    """What changed against the publication before; None where nobody has compared."""
    lease: int = 0

    @property
    def origin(self) -> int:
        """The number under which the same tables were published first."""
        return self.back_to or self.number

    @property
    def name(self) -> str:
        return f"{self.number:06}.{self.lease:06}.json"


@dataclass(frozen=True)
class Listed:
    """A publication, and what there is of it now."""

    version: Version
    is_published: bool
    is_kept: bool
    """Whether it has its tables still, and the raw parts that they were made of."""
    is_newest: bool

    @property
    def state(self) -> str:
        """`published`, `replaced`, `withdrawn`; `broken off` where nobody saw results.json written."""
        if self.is_published or not self.version.complete:
            return "published" if self.is_published else "broken off"
        return "withdrawn" if self.is_newest else "replaced"

    def to_json(self) -> dict[str, Any]:
        document = asdict(self.version)
        published = dt.datetime.fromtimestamp(self.version.published, dt.UTC)
        hidden = ("lease", "root", "complete", "held", "state", "version", "by", "published")
        return {
            "number": self.version.number,
            "state": self.state,
            "published": published.isoformat(timespec="seconds"),
            "run": self.version.by,
            "input_version": self.version.version,
            "kept": self.is_kept,
            **{name: value for name, value in document.items() if name not in hidden},
        }


_VERSION = TypeAdapter(Version)


@dataclass(frozen=True)
class History:
    """What was published of one partition."""

    lake: Lake
    run: ModelRun

    @property
    def folder(self) -> str:
        return f"{self.run.folder}/{HISTORY}"

    # --- looking -------------------------------------------------------------------------------------

    def versions(self) -> list[Version]:
        """Every publication, oldest first. Raises DamagedError."""
        names = self._names()
        with ThreadPoolExecutor(_THREADS) as threads:
            found = [one for one in threads.map(self._read, names) if one]
        return [*found[:-1], self._settled(found[-1])] if found else []

    def listed(self) -> list[Listed]:
        """Every publication, oldest first, and what there is of it now. Raises DamagedError."""
        published, kept, versions = self.published(), self._publishable(), self.versions()
        return [
            Listed(
                one,
                is_published=published is not None and one.number == published.number,
                is_kept=one.version in kept,
                is_newest=one is versions[-1],
            )
            for one in versions
        ]

    def newest(self) -> Version | None:
        """The last publication, complete or not."""
        found = self._read(names[-1]) if (names := self._names()) else None
        return found and self._settled(found)

    def published(self) -> Version | None:
        """The version that stands, None where nothing does."""
        head = manifest(self.lake, self.run, RESULTS_ASSET)
        newest = self.newest() if head is not None else None
        return newest if head and newest and newest.version == head["version"] else None

    def find(self, number: int) -> Version:
        """A publication by its number. Raises InputError."""
        for name in self._names():
            if _number(name)[0] == number and (found := self._read(name)):
                return self._settled(found)
        numbers = [_number(name)[0] for name in self._names()]
        there = f"There are 1 to {max(numbers)}" if numbers else "Nothing of it was ever published"
        raise InputError(
            f"it has no version {number}",
            run=str(self.run),
            remedy=f"{there}: `datacube history {self.run.key}` lists them",
        )

    def kept(self) -> list[str]:
        """Versions that keep their tables (`Version.version`)."""
        keys = (key for key, _ in self.lake.store.list(f"{self.folder}/{_TABLES}/"))
        return sorted(key.rpartition("/")[2].removesuffix(".json") for key in keys)

    def tables_of(self, version: str) -> dict[str, LakeTable]:
        """The tables that a version keeps, by name; none where it keeps none."""
        document = self.lake.read_document(self.tables_key(version)) or {}
        return {name: described_table(self.run, name, one) for name, one in document.items()}

    def number(self, text: str) -> int:
        """The number of a version, as somebody gives it. Raises InputError."""
        if not text.isascii() or not text.isdecimal():
            raise InputError(
                f"{text!r} is no version",
                run=str(self.run),
                remedy=f"Give a number that `datacube history {self.run.key}` lists",
            )
        return int(text)

    def opened(self, number: int) -> tuple[Version, dict[str, LakeTable]]:
        """A version by its number, and the tables that it keeps. Raises InputError where it keeps none."""
        version = self.find(number)
        tables = self.tables_of(version.version)
        if not tables:
            raise self._keeps_nothing(version)
        return version, tables

    def published_table(self, name: str) -> LakeTable:
        """The table that what is published was made of; where nothing is published, the current one.

        The current one may be of another input: of a run that is at work, or failed, or made tables alone.
        Raises MissingTableError.
        """
        head = manifest(self.lake, self.run, RESULTS_ASSET)
        table = self.lake.table(self.run, name)
        if head is None or table.version == head["version"]:
            return table
        kept = self.tables_of(head["version"])
        if name not in kept:
            raise MissingTableError(
                f"the table {name} that {self.run} was published from is gone; process the partition again"
            )
        return kept[name]

    def table(self, name: str, version: str) -> LakeTable | None:
        """A table of a version, the current one or one that is kept; None where it is not whole."""
        try:
            table: LakeTable | None = self.lake.table(self.run, name)
        except MissingTableError:
            table = None
        if table is None or table.version != version:
            table = self.tables_of(version).get(name)
        return table if table and self.lake.is_whole(table) else None

    def files(self, *, besides: Collection[str] = ()) -> set[str]:
        """Keys of all files that versions keep, or all but some."""
        versions = [version for version in self.kept() if version not in besides]
        return {key for version in versions for key in keys_of(self.tables_of(version))}

    def target(self, to: str, root: str = "") -> Version:
        """The version that somebody wants to go back to: a number, or `PREVIOUS`. Raises InputError.

        The previous one is what stood before what is published; where nothing is published any more, what
        stood last.

        `root` is the run that goes back, for one that died on the way and is repeated: what it has written
        down itself is where it was going. So is, for the previous version, what anybody left unfinished.
        """
        versions = self.versions()
        if versions and root and versions[-1].root == root:
            return self._can_be_published(versions[-1])
        if to == PREVIOUS and versions and versions[-1].back_to and not self._is_finished(versions[-1]):
            return self._can_be_published(versions[-1])
        if to != PREVIOUS:
            return self._can_be_published(self.find(self.number(to)))
        complete = [one for one in versions if one.complete]
        last = complete[-1] if complete else None
        if last and self.published() is None:
            return self._can_be_published(last)
        # What stood before may itself have been gone back to.
        older = [one for one in complete if last and one.number < last.origin and one.version != last.version]
        if not older:
            raise InputError(
                "there is no version before the published one",
                run=str(self.run),
                remedy=f"Give one that `datacube history {self.run.key}` lists, with `--to N`",
            )
        return self._can_be_published(older[-1])

    def _is_finished(self, version: Version) -> bool:
        written = self._read(version.name)
        return written is not None and written.complete

    def _can_be_published(self, version: Version) -> Version:
        raw = self.tables_of(version.version).get(RAW_PARTS)
        if raw is None:
            raise self._keeps_nothing(version)
        if not self.lake.is_whole(raw):
            there = self._numbers(self._publishable())
            raise InputError(
                f"the raw parts that version {version.number} was made of are gone",
                run=str(self.run),
                remedy=f"Of {there} they are there. Restore them, or publish the files again",
            )
        return version

    def _publishable(self) -> set[str]:
        """Versions that keep their tables and whose raw parts are whole."""
        raw = {version: self.tables_of(version).get(RAW_PARTS) for version in self.kept()}
        # Mostly of one folder.
        there = {
            folder: dict(self.lake.store.list(f"{folder}/"))
            for folder in {one.folder for one in raw.values() if one}
        }
        return {version for version, one in raw.items() if one and self.lake.is_whole(one, there[one.folder])}

    def _keeps_nothing(self, version: Version) -> InputError:
        return InputError(
            f"version {version.number} keeps no tables any more",
            run=str(self.run),
            remedy=f"Of {self._numbers(self.kept())} there are tables; "
            "DATACUBE_KEEP_VERSIONS says how many are kept",
        )

    def _numbers(self, versions: Collection[str]) -> str:
        numbers = sorted({one.number for one in self.versions() if one.version in versions})
        return ", ".join(map(str, numbers)) or "no version"

    def is_held(self, source: str, change: int) -> bool:
        """Whether this state of Dojo's document is what somebody went back from."""
        newest = self.newest()
        return newest is not None and any(
            source == state.source and change <= state.change for state in newest.held
        )

    # --- writing -------------------------------------------------------------------------------------

    def begin(
        self,
        bucket: OwnedBucket,
        points: LakeTable,
        by: str,
        code: str,
        *,
        root: str = "",
        change: int | None = None,
        asked: int | None = None,
    ) -> Version:
        """Write down that the version of these points is about to be published, unless it was the last.

        `by` is the run, `code` the version of the code. `change` is the number of the state of Dojo's
        document that a sensor's run was started for. `asked` says that somebody goes back to an earlier
        version: it is the number of the last such state.
        """
        bucket.tenure.check()
        kept = self.tables_of(points.version)
        tables = {**kept, **self._current(points.version)}
        if tables != kept:
            described = {name: table.descriptor() for name, table in tables.items()}
            self.lake.write_document(self.tables_key(points.version), described, durably=True)
        names = self._names()
        newest = self._read(names[-1]) if names else None
        if newest is not None and newest.version == points.version:
            return self._settled(newest)
        request = DatacubeRequest.model_validate(points.info["request"])
        parts = tables[RAW_PARTS].info["parts"] if RAW_PARTS in tables else ()
        state = State(request.source_version, change or 0) if request.source_version else None
        version = Version(
            number=_number(names[-1])[0] + 1 if names else 1,
            version=points.version,
            published=round(time.time(), 3),
            by=by,
            root=root or by,
            code=code,
            executed_at=request.executed_at,
            request=_public(request),
            files=tuple(Source(public(part["address"]), part["size"], part["sha256"]) for part in parts),
            rows=RunInfo.of(points).report.points,
            tables={name: Size(table.rows, table.bytes) for name, table in sorted(tables.items())},
            state=state,
            lease=bucket.number,
        )
        if asked is not None:
            version = self._back(version, newest, asked)
        bucket.tenure.check()
        self._write(version)
        return version

    def _back(self, version: Version, replaced: Version | None, asked: int) -> Version:
        """The same, as one that somebody went back to from another."""
        first = next((one for one in self.versions() if one.version == version.version), None)
        before = (*replaced.held, *filter(None, [replaced.state])) if replaced else ()
        # What one goes back to may be had from Dojo; what was asked for until now is not newer.
        held = {state.source: max(state.change, asked) for state in before}
        if version.state:
            held.pop(version.state.source, None)
        states = tuple(State(source, change) for source, change in held.items())
        return replace(version, back_to=first.origin if first else None, held=states)

    def before(self, version: Version) -> Version | None:
        """The complete publication before another."""
        for name in reversed([name for name in self._names() if _number(name)[0] < version.number]):
            found = self._read(name)
            if found and found.complete:
                return found
        return None

    def finish(self, version: Version, changes: Mapping[str, Any] | None) -> Version:
        """Write down that results.json stands, and what changed."""
        done = replace(version, complete=True, changes=changes)
        if done != self._read(version.name):
            self._write(done)
        return done

    def settle(self) -> None:
        """Write down that the last publication was complete, where its run died before it could say so.

        Before anything is changed in the bucket: afterwards nobody could know.
        """
        # What is damaged keeps no datacube from being published.
        with suppress(DamagedError):
            newest = self._read(names[-1]) if (names := self._names()) else None
            if newest is not None and (settled := self._settled(newest)) != newest:
                self._write(settled)

    def trim(self, retention: Retention) -> int:
        """Let go of the tables of versions that are not kept any longer; returns the bytes that frees."""
        gone = self.outlived(retention)
        if not gone:
            return 0
        files = {key: size for version in gone for key, size in keys_of(self.tables_of(version)).items()}
        self.lake.store.delete_many([self.tables_key(version) for version in gone])
        named = self._named()
        free = {key: size for key, size in files.items() if key not in named}
        self.lake.store.delete_many(sorted(free))
        return sum(free.values())

    def outlived(self, retention: Retention) -> list[str]:
        """Versions with tables that are not to be kept any longer. The last publication always is."""
        kept = self.kept()
        if len(kept) <= 1:
            return []
        versions = self.versions()
        now = time.time()
        alive: list[str] = []
        replaced: float | None = None
        for one in reversed(versions):
            is_newest = one is versions[-1]
            too_old = retention.days and replaced is not None and now - replaced > retention.days * _DAY
            if is_newest or (one.complete and not too_old and len(alive) < retention.versions):
                alive += [] if one.version in alive else [one.version]
            replaced = one.published
        return [version for version in kept if version not in alive]

    def tables_key(self, version: str) -> str:
        """Key of the document that keeps the tables of a version."""
        return f"{self.folder}/{_TABLES}/{version}.json"

    def _named(self) -> set[str]:
        return {*keys_of(self._current()), *self.files()}

    def _current(self, version: str = "") -> dict[str, LakeTable]:
        """The current tables, or those of one version."""
        found = {}
        for name in sorted(TABLES):
            with suppress(MissingTableError):
                table = self.lake.table(self.run, name)
                if version in ("", table.version):
                    found[name] = table
        return found

    # --- documents -----------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Names of the documents, by number; of two of one number that of the later lease."""
        prefix = f"{self.folder}/"
        there = (key.removeprefix(prefix) for key, _ in self.lake.store.list(prefix))
        newest: dict[int, str] = {}
        for name in sorted(filter(_NAME.fullmatch, there), key=_number):
            newest[_number(name)[0]] = name
        return list(newest.values())

    def _read(self, name: str) -> Version | None:
        key = f"{self.folder}/{name}"
        document = self.lake.read_document(key)
        try:
            return None if document is None else _VERSION.validate_python(document)
        except ValidationError:
            raise DamagedError(f"the history {key} of the lake is none. Restore it, or delete it") from None

    def _write(self, version: Version) -> None:
        document = _VERSION.dump_python(version, mode="json")
        self.lake.write_document(f"{self.folder}/{version.name}", document, durably=True)

    def _settled(self, newest: Version) -> Version:
        """The last publication: whoever wrote results.json may have died before it said so."""
        if newest.complete:
            return newest
        head = manifest(self.lake, self.run, RESULTS_ASSET)
        return replace(newest, complete=bool(head and head["version"] == newest.version))


def keys_of(tables: Mapping[str, LakeTable]) -> dict[str, int]:
    """Keys and sizes of the files of tables."""
    return {
        key: file.bytes
        for table in tables.values()
        for key, file in zip(table.keys(), table.files, strict=True)
    }


def _number(name: str) -> tuple[int, int]:
    number, lease, _ = name.split(".")
    return int(number), int(lease)


def _public(request: DatacubeRequest) -> dict[str, Any]:
    document = request.model_dump(mode="json", exclude_defaults=True)
    return {**document, "data_paths": [public(address) for address in request.data_paths]}
