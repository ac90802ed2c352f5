"""What integration tests share: a house to publish in, and a reader as strict as the real one.

`Datacube.check` holds every object to what the reader accepts
(docs/specification/reader.md#what-it-cannot-bear).
"""

from __future__ import annotations

import atexit
import csv
import hashlib
import io
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult, InitLoggerContext, LoggerDefinition
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.keys import RESERVED
from datacube_assets.operations.publish import Outcome, process
from datacube_assets.orchestration.home import prepare
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.orchestration.sqlite_storage import KeptEventLogStorage
from datacube_assets.resources.ui import untold
from datacube_assets.settings import Settings
from datacube_assets_tests.reader_model import ask_for_everything

JANUARY, FEBRUARY = 1_577_836_800_000, 1_580_515_200_000  # 2020
DAY = 86_400_000


@dataclass(frozen=True)
class House:
    """A folder with a lake, buckets and Dagster's storage, all its own."""

    folder: Path
    settings: Settings
    instance: DagsterInstance

    def with_settings(self, **changes: object) -> House:
        """The same house with other settings, by field name."""
        return House(self.folder, self.settings.model_copy(update=changes), self.instance)

    def write(self, table: pa.Table, name: str = "part.parquet.gzip") -> str:
        """Write a part; returns its path."""
        path = self.folder / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="gzip")
        return str(path)

    def publish(self, *parts: str | pa.Table, from_scratch: bool = False, **fields: object) -> Outcome:
        """Process parts as one run of a model, unless the fields of the request say otherwise."""
        paths = [
            part if isinstance(part, str) else self.write(part, f"part.{number}.parquet.gzip")
            for number, part in enumerate(parts, 1)
        ]
        request = DatacubeRequest.model_validate(
            {"model_id": "model", "run_id": "run", "data_paths": paths, **fields}
        )
        return process(
            self.settings,
            self.instance,
            request,
            lambda asset, metadata, done: None,
            from_scratch=from_scratch,
        )

    def materialize(self, run: ModelRun, *assets: str) -> ExecuteInProcessResult:
        """Materialize some assets of a partition, as with the button in the UI."""
        job = build_definitions(self.settings, loggers={"quiet": QUIET}).resolve_job_def(
            process_model_run.name
        )
        with untold():
            return job.execute_in_process(
                asset_selection=[AssetKey(asset) for asset in assets],
                partition_key=run.key,
                instance=self.instance,
                raise_on_error=True,
                run_config={"loggers": {"quiet": {}}},
            )

    def run_job(
        self, name: str, run: ModelRun, tags: Mapping[str, str] | None = None
    ) -> ExecuteInProcessResult:
        """Run a job for a partition, as from its page in the UI."""
        job = build_definitions(self.settings, loggers={"quiet": QUIET}).resolve_job_def(name)
        return job.execute_in_process(
            partition_key=run.key,
            instance=self.instance,
            run_config={"loggers": {"quiet": {}}},
            tags=dict(tags or {}),
        )

    def bucket(self, *, indicators: bool = False) -> Path:
        """The folder that stands for a bucket."""
        return self.folder / "buckets" / ("indicators" if indicators else "models")

    def datacube(self, model_id: str = "model", run_id: str = "run") -> Datacube:
        return Datacube.read(self.bucket(indicators=run_id == "indicator"), model_id, run_id)


def _silent(_: InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("datacube.quiet")
    logger.setLevel(logging.CRITICAL + 1)
    return logger


QUIET = LoggerDefinition(logger_fn=_silent, config_schema={})
"""Of jobs that are executed in this process."""


NOT_PRINTED = """\
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


@cache
def _new_home() -> Path:
    """Dagster's folder of a home that was just made: that takes half a second, to copy it does not.

    What steps print is not kept there: that would take two processes a run.
    """
    folder = Path(tempfile.mkdtemp(prefix="datacube-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with mock.patch.dict(os.environ):
        os.environ.pop("DAGSTER_HOME", None)
        prepare(Settings.model_validate({"DATACUBE_HOME": folder}))
        with DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
            events = instance.event_log_storage
            assert isinstance(events, KeptEventLogStorage)
            events.empty_run()
    with (folder / "dagster" / "dagster.yaml").open("a") as configuration:
        configuration.write(NOT_PRINTED)
    return folder / "dagster"


def begin_home(home: Path) -> Path:
    """Make a home folder, unless it is there; Dagster's folder in it."""
    if not (home / "dagster").exists():
        shutil.copytree(_new_home(), home / "dagster")
    return home / "dagster"


@contextmanager
def dagster_storage(home: Path) -> Iterator[DagsterInstance]:
    """Dagster's storage in a home folder."""
    with DagsterInstance.from_config(str(begin_home(home))) as instance:
        yield instance


@contextmanager
def open_house(folder: Path) -> Iterator[House]:
    """A house in a folder; its runs make no pictures, which would be a fifth of their work."""
    settings = Settings.model_validate({"DATACUBE_HOME": folder, "DATACUBE_PICTURES": False}).resolved()
    with dagster_storage(folder) as instance:
        yield House(folder, settings, instance)


def rows(**columns: Any) -> pa.Table:
    """Two places in two months, feature `rain`; columns can be replaced, added or (None) left out."""
    base: dict[str, Any] = {
        "timestamp": [JANUARY + 4 * DAY, JANUARY + 24 * DAY, FEBRUARY + 4 * DAY, FEBRUARY + 14 * DAY],
        "country": ["Kenya", "Ethiopia", "Kenya", "Ethiopia"],
        "admin1": ["Nairobi", "Oromia", "Nairobi", "Oromia"],
        "lat": [-1.25, 7.5, -1.25, 7.5],
        "lng": [36.75, 40.5, 36.75, 40.5],
        "feature": ["rain"] * 4,
        "value": [1.0, 2.0, 3.0, 4.0],
    }
    return pa.table({name: values for name, values in (base | columns).items() if values is not None})


@dataclass(frozen=True)
class Datacube:
    """Everything that was published for one run, by key after its prefix."""

    folder: Path
    objects: Mapping[str, bytes]

    @classmethod
    def read(cls, bucket: Path, model_id: str, run_id: str) -> Datacube:
        """Raises AssertionError when the bucket holds more outside of the run's folder than leases."""
        folder, leases = bucket / model_id / run_id, bucket / RESERVED
        paths = [path for path in bucket.rglob("*") if path.is_file() and not path.is_relative_to(leases)]
        outside = [path for path in paths if not path.is_relative_to(folder)]
        assert not outside, f"published outside of {folder}: {outside}"
        return cls(folder, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    @property
    def hash(self) -> str:
        """Of all keys and bytes."""
        digest = hashlib.sha256()
        for key, body in sorted(self.objects.items()):
            digest.update(f"{key} {len(body)}\n".encode() + body)
        return digest.hexdigest()

    @property
    def complete(self) -> bool:
        """Whether results.json says so."""
        return "results/results.json" in self.objects

    def times(self) -> dict[str, int]:
        """When each object was last written (ns)."""
        return {key: (self.folder / key).stat().st_mtime_ns for key in self.objects}

    def csv(self, key: str) -> list[dict[str, str]]:
        header, *lines = read_csv(self.objects[key])
        return [dict(zip(header, line, strict=True)) for line in lines]

    def json(self, key: str) -> Any:
        return read_json(self.objects[key])

    @property
    def info(self) -> dict[str, Any]:
        """`data_info` of results.json."""
        info: dict[str, Any] = self.json("results/results.json")["data_info"]
        return info

    def keys(self, *parts: str) -> list[str]:
        """Keys in which all of these occur."""
        return sorted(key for key in self.objects if all(part in key for part in parts))

    def check(self) -> None:
        """Hold every object to what the reader accepts, and results.json to be the newest of all."""
        assert self.complete
        times = self.times()
        assert times["results/results.json"] == max(times.values())
        for key, body in self.objects.items():
            assert not any(part in ("", ".", "..") for part in key.split("/")), key
            try:
                check_object(key, body)
            except (AssertionError, ValueError, csv.Error) as error:
                raise AssertionError(f"{key}: {error}\n{body[:500]!r}") from error
        unasked = ask_for_everything(self.objects, most_tiles=100)
        assert all("%" in key or ".tile" in key or "/__" in key for key in unasked), unasked


def checksums(folder: Path) -> dict[str, str]:
    """MD5 of every file, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check_object(key: str, body: bytes) -> None:
    """Hold one object to what the reader accepts."""
    if key.endswith(".tile"):
        _check_tile(key, body)
    elif key.endswith(".json"):
        _check_json(key, read_json(body))
    else:
        assert key.endswith(".csv")
        _check_csv(key, read_csv(body))


def read_csv(body: bytes) -> list[list[str]]:
    """Lines of a CSV, quotes strict. Raises ValueError when their lengths differ, as Go does."""
    lines = list(csv.reader(io.StringIO(body.decode(), newline=""), strict=True))
    if not lines or {len(line) for line in lines} != {len(lines[0])}:
        raise ValueError(f"lines of {sorted({len(line) for line in lines})} fields")
    return lines


def read_json(body: bytes) -> Any:
    """A JSON document. Raises ValueError for numbers that JSON does not have."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(body, parse_constant=refuse)


def _check_csv(key: str, lines: Sequence[Sequence[str]]) -> None:
    header, *rest = lines
    assert rest, "no line after the header"
    raw = key.endswith("/raw/raw.csv")
    texts = {"id", "qualifier"}
    if raw:
        texts = set(header) - {"timestamp", "lat", "lng", "value"}
    elif "/aggs/" in key:
        assert header[0] == "id"
    elif "/stats/grid/" in key:
        assert header[0] == "zoom"
        assert [line[0] for line in rest] == [str(zoom) for zoom in range(6, 15)]
        assert all(cell for line in rest for cell in line), "an empty cell fails the reader"
    else:
        assert header[0] == "timestamp"
    whole = {"timestamp", "zoom"} | (set() if key.endswith("/s_count.csv") else {"s_count"})
    for line in rest:
        for number, (name, cell) in enumerate(zip(header, line, strict=True)):
            # A value of a qualifier may be called as a column is; only the place tells them apart.
            if name in texts and (raw or number < 2):
                continue
            if name in whole and (raw or number == 0 or name == "s_count"):
                assert cell or raw, f"{name} is empty"
                assert not cell or str(int(cell)) == cell
            elif cell:
                assert math.isfinite(float(cell)), f"{name} is {cell}"


def _check_json(key: str, document: Any) -> None:
    for number in _numbers(document):
        assert math.isfinite(number)
    if key.endswith("/extrema.json"):
        for side in ("min", "max"):
            for column, items in document[side].items():
                assert 1 <= len(items) <= 20, f"{side} {column} has {len(items)} items"
                assert all(type(item["timestamp"]) is int for item in items)
    elif "/info/qualifiers/" in key:
        assert document
        assert all(isinstance(value, str) for value in document)
    elif key.endswith("/region_lists.json"):
        assert list(document) == ["country", "admin1", "admin2", "admin3"]


def _numbers(document: Any) -> Iterator[float]:
    if isinstance(document, float):
        yield document
    elif isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from _numbers(part)


def _check_tile(key: str, body: bytes) -> None:
    tile = read_tile(body)
    *_, zoom, x, y = key.removesuffix(".tile").rsplit("-", 3)
    assert tile.HasField("coord")
    assert tile.HasField("bins")
    assert (tile.coord.z, tile.coord.x, tile.coord.y) == (int(zoom), int(x), int(y))
    assert max(int(x), int(y)) < 2 ** int(zoom), "no map asks for this tile"
    assert tile.bins.totalBins == 4096
    assert tile.bins.stats
    for number, stats in tile.bins.stats.items():
        assert number < 4096
        assert all(map(math.isfinite, (stats.s_sum_t_sum, stats.s_sum_t_mean, stats.weight)))


def read_tile(body: bytes) -> Any:
    """A tile, parsed by the protobuf library."""
    return _tile_class().FromString(body)


@cache
def _tile_class() -> Any:
    """The message of docs/objects.md#13-tiles."""
    file = descriptor_pb2.FileDescriptorProto(name="tiles_of_tests.proto", package="tiles", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, kind: int, of: str = "", *, repeated: bool = False) -> None:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)

    coord = file.message_type.add(name="TileCoord")
    for number, name in enumerate("xyz", 1):
        add(coord, name, number, field.TYPE_UINT32)
    stats = file.message_type.add(name="TileStats")
    for number, name in ((4, "s_sum_t_sum"), (5, "s_sum_t_mean"), (6, "weight")):
        add(stats, name, number, field.TYPE_DOUBLE)
    bins = file.message_type.add(name="TileBins")
    entry = bins.nested_type.add(name="StatsEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_UINT32)
    add(entry, "value", 2, field.TYPE_MESSAGE, ".tiles.TileStats")
    add(bins, "stats", 1, field.TYPE_MESSAGE, ".tiles.TileBins.StatsEntry", repeated=True)
    add(bins, "totalBins", 2, field.TYPE_UINT32)
    tile = file.message_type.add(name="Tile")
    add(tile, "coord", 1, field.TYPE_MESSAGE, ".tiles.TileCoord")
    add(tile, "bins", 2, field.TYPE_MESSAGE, ".tiles.TileBins")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tiles.Tile"))
