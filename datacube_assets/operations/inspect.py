"""Looking into single things: a tile or another object, a table, a manifest, the health of a datacube.

What is worth knowing of each belongs here; everything is plain data, ready for JSON.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.decode import Tile, csv_names, read_tile
from datacube_assets.kernels.morton import BIN_BITS
from datacube_assets.kernels.projection import north_edges, west_edges
from datacube_assets.partitions import PARTITION_TAG
from datacube_assets.settings import Settings, as_url
from datacube_assets.storage.history import RAW_PARTS, History
from datacube_assets.storage.lake import TABLES, Lake, LakeTable, MissingTableError
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest, manifest_entries
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import MissingObjectError, StoreError

if TYPE_CHECKING:
    from dagster import DagsterInstance

_LISTED = 10
_RUNS = 20
"""Newest runs of a partition in which the verdicts of checks are looked for."""
_RANGED = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)


# --- objects ---------------------------------------------------------------------------------------


def names_an_object(what: str) -> bool:
    """Whether this is the path or URL of an object, and no partition key."""
    return "://" in what or "/" in what or Path(what).exists()


def any_object(settings: Settings, where: str, *, bins: bool = False) -> dict[str, Any]:
    """An object by its path or URL. Raises LookupError when there is none, ValueError when it is none."""
    url = where if "://" in where else as_url(where)
    folder, _, name = url.rpartition("/")
    if not urlsplit(folder).netloc and not urlsplit(folder).path:
        raise LookupError(f"{where} names no object: give s3://bucket/key or a path")
    if url.startswith("file:"):
        path = Path(where) if "://" not in where else Path(urlsplit(url).path)
        if not path.is_file():
            raise LookupError(f"there is no file {path}")
        return describe(path.name, path.read_bytes(), bins=bins)
    parts = urlsplit(url)
    store = open_store(f"{parts.scheme}://{parts.netloc}", settings.s3_endpoint)
    try:
        return describe(name, store.get(parts.path.lstrip("/")), bins=bins)
    except MissingObjectError:
        raise LookupError(f"there is no object {where}") from None


def published_object(settings: Settings, partition: str, key: str, *, bins: bool = False) -> dict[str, Any]:
    """An object of a datacube, by its key after the prefix of the run. Raises LookupError, ValueError."""
    run = ModelRun.named(partition)
    url = settings.bucket_for(indicator=run.is_indicator)
    try:
        body = open_store(url, settings.s3_endpoint).get(f"{run.prefix}{key}")
    except MissingObjectError:
        raise LookupError(f"there is no object {url}/{run.prefix}{key}") from None
    return describe(key, body, bins=bins)


def describe(name: str, body: bytes, *, bins: bool = False) -> dict[str, Any]:
    """What is in an object. Raises UnreadableObjectError (a ValueError) when it is not what it should be."""
    facts: dict[str, Any] = {
        "object": name,
        "bytes": len(body),
        "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
    }
    if name.endswith(".tile"):
        return facts | _tile(read_tile(body), bins=bins)
    if name.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(body.decode(), newline="")))
        return facts | {
            "columns": csv_names(body),
            "rows": len(rows) - 1,
            "first row": rows[1] if len(rows) > 1 else None,
            "last row": rows[-1] if len(rows) > 1 else None,
        }
    if name.endswith(".json"):
        return facts | {"document": json.loads(body)}
    raise ValueError(f"{name} is no object of a datacube: these end with .tile, .csv or .json")


def _tile(tile: Tile, *, bins: bool) -> dict[str, Any]:
    side = 1 << BIN_BITS
    ends = np.array([0, side])
    west, east = west_edges(tile.x * side + ends, tile.precision).tolist()
    north, south = north_edges(tile.y * side + ends, tile.precision).tolist()
    figures: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {
        "s_sum_t_sum": tile.s_sum_t_sum,
        "s_sum_t_mean": tile.s_sum_t_mean,
        "s_count": tile.s_count,
    }
    facts: dict[str, Any] = {
        "zoom": tile.zoom,
        "x": tile.x,
        "y": tile.y,
        "on a map": max(tile.x, tile.y) < 2**tile.zoom,
        "degrees": {"west": west, "south": south, "east": east, "north": north},
        "bins": len(tile),
        **{
            name: {
                "sum": float(values.sum()),
                "min": float(values.min()) if len(values) else None,
                "max": float(values.max()) if len(values) else None,
            }
            for name, values in figures.items()
        },
    }
    if bins:
        x, y, precision = tile.subtile_x, tile.subtile_y, tile.precision
        lat = (north_edges(y, precision) + north_edges(y + 1, precision)) / 2
        lng = (west_edges(x, precision) + west_edges(x + 1, precision)) / 2
        columns: list[np.ndarray[Any, Any]] = [tile.bin, lat.round(6), lng.round(6), *figures.values()]
        places = zip(*(values.tolist() for values in columns), strict=True)
        names = ("bin", "lat", "lng", *figures)
        facts["each bin"] = [dict(zip(names, place, strict=True)) for place in places]
    return facts


def _rows(name: str, found: LakeTable) -> dict[str, int]:
    """How many rows a table has: what lies beside points is no point, and raw parts are not counted."""
    if name == RAW_PARTS:
        return {}
    return {"rows": RunInfo.of(found).report.points if name == "normalized_points" else found.rows}


# --- tables and manifests --------------------------------------------------------------------------


def table(settings: Settings, partition: str, name: str) -> dict[str, Any]:
    """A table of the lake: version, files, and per kind of file its columns with their smallest and largest.

    Raises LookupError when there is none.
    """
    run = ModelRun.named(partition)
    if name not in TABLES:
        raise LookupError(f"there is no table {name!r}; tables are {', '.join(sorted(TABLES))}")
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    found = lake.table(run, name)
    groups: dict[str, list[str]] = {}
    for file in found.files:
        groups.setdefault(file.name.rpartition("/")[0] or "(top)", []).append(file.name)
    return {
        "table": name,
        "version": found.version,
        "files": len(found.files),
        **_rows(name, found),
        "bytes": found.bytes,
        "whole": lake.is_whole(found),
        "of each folder": {folder: _columns(lake, found, names) for folder, names in groups.items()},
    }


def _columns(lake: Lake, found: LakeTable, names: list[str]) -> dict[str, Any]:
    rows = 0
    columns: dict[str, dict[str, Any]] = {}
    for name in names:
        part = lake.read(found, name)
        rows += part.num_rows
        for field in part.schema:
            values = part[field.name]
            dictionary = pa.types.is_dictionary(field.type)
            plain = values.cast(pa.string()) if dictionary else values
            type_ = "string" if dictionary else str(field.type)
            one = columns.setdefault(field.name, {"type": type_, "nulls": 0, "min": None, "max": None})
            one["nulls"] += plain.null_count
            if any(is_kind(plain.type) for is_kind in _RANGED):
                for side, choose in (("min", min), ("max", max)):
                    here = pc.min_max(plain)[side].as_py()
                    known = [bound for bound in (one[side], here) if bound is not None]
                    one[side] = choose(known) if known else None
    return {"files": len(names), "rows": rows, "columns": columns}


def manifest_of(
    settings: Settings, partition: str, asset: str, *, everything: bool = False
) -> dict[str, Any]:
    """What an asset has published. Raises LookupError when there is no manifest."""
    run = ModelRun.named(partition)
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    head = manifest(lake, run, asset)
    if head is None:
        raise LookupError(f"{run} has published nothing of {asset!r}: see `datacube inspect {run.key}`")
    entries = manifest_entries(lake, run, asset).to_pylist()
    listed = entries if everything else entries[:_LISTED]
    return {
        "asset": asset,
        **{name: value for name, value in head.items() if name != "fragments"},
        "fragments": sum(map(len, head["fragments"].values())),
        "recorded": [
            {"key": one["key"], "bytes": one["size"], "md5": one["checksum"].hex()} for one in listed
        ],
        "not listed": len(entries) - len(listed),
    }


# --- health ----------------------------------------------------------------------------------------


def health(settings: Settings, instance: DagsterInstance, partition: str) -> dict[str, Any]:
    """Is a datacube complete and of one piece, and what did its checks say last?

    `state` is `well`, `warning` (its newest run failed, or a check that only warns) or `broken`; `faults` and
    `warnings` say why.
    """
    from datacube_assets.assets.datacube import DATACUBE_ASSETS
    from datacube_assets.operations.inventory import list_partitions

    run = ModelRun.named(partition)
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    lake.store.check("DATACUBE_LAKE", write=False)
    faults: list[str] = []
    warnings: list[str] = []
    (listed,) = list_partitions(settings, instance, [run.key])
    tables: dict[str, Any] = {}
    for name in sorted(TABLES):
        try:
            found = lake.table(run, name)
            tables[name] = {"version": found.version, **_rows(name, found), "whole": lake.is_whole(found)}
            if not tables[name]["whole"]:
                faults.append(f"files of the table {name} are missing: materialize it again")
        except (MissingTableError, StoreError) as error:
            tables[name] = None
            faults.append(str(error))
    heads: dict[str, Mapping[str, Any]] = {}
    for asset in (*(asset.key.path[-1] for asset in DATACUBE_ASSETS), RESULTS_ASSET):
        head = manifest(lake, run, asset)
        if head is None:
            faults.append(f"{asset} is not published: process the partition again")
        else:
            heads[asset] = head
    versions = {head["version"] for head in heads.values()}
    if len(versions) > 1:
        faults.append(f"objects are of {len(versions)} versions: process the partition again")
    results: dict[str, Any] | None = None
    if RESULTS_ASSET in heads:
        results = _results(settings, lake, run, heads[RESULTS_ASSET], faults)
    checks = last_verdicts(instance, run)
    for one in checks:
        if not one["passed"]:
            (warnings if one["severity"] == "WARN" else faults).append(
                f"the check {one['check']} failed: {one['says']}"
            )
    if listed.state == "FAILED":
        warnings.append(f"its newest run failed: {listed.error}")
    return {
        "partition": run.key,
        "state": "broken" if faults else "warning" if warnings else "well",
        "faults": faults,
        "warnings": warnings,
        "newest run": listed.newest_run,
        "version": version.number if (version := History(lake, run).published()) else None,
        "published": listed.published
        and dt.datetime.fromtimestamp(listed.published, dt.UTC).isoformat(timespec="seconds"),
        "tables": tables,
        "manifests": {
            asset: {name: head[name] for name in ("version", "bucket", "objects", "bytes", "left_out")}
            for asset, head in heads.items()
        },
        "results.json": results,
        "checks": checks,
    }


def _results(
    settings: Settings, lake: Lake, run: ModelRun, head: Mapping[str, Any], faults: list[str]
) -> dict[str, Any] | None:
    bucket = open_store(head["bucket"], settings.s3_endpoint)
    try:
        body = bucket.get(f"{run.prefix}{keys.RESULTS}")
    except MissingObjectError:
        faults.append(f"results.json is recorded, and is not in {bucket.url}: run republish_datacube")
        return None
    recorded = manifest_entries(lake, run, RESULTS_ASSET)["checksum"].to_pylist()
    as_recorded = hashlib.md5(body, usedforsecurity=False).digest() in recorded
    if not as_recorded:
        faults.append("results.json is not the one that was published: run republish_datacube")
    try:
        info = json.loads(body)["data_info"]
    except (ValueError, LookupError, TypeError):
        faults.append("results.json cannot be read: run republish_datacube")
        return {"as recorded": as_recorded}
    return {
        "as recorded": as_recorded,
        "features": sorted(info["features"]),
        "rows": info["num_rows"],
        "region levels": info["region_levels"],
    }


def last_verdicts(instance: DagsterInstance, run: ModelRun) -> list[dict[str, Any]]:
    """What each check of a partition said last, in its newest runs, by name."""
    from dagster import DagsterEventType, RunsFilter

    found: dict[str, dict[str, Any]] = {}
    runs = instance.get_runs(RunsFilter(tags={PARTITION_TAG: run.key}), limit=_RUNS)
    for one in runs:
        for entry in instance.all_logs(one.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
            event = entry.dagster_event
            evaluation = event.asset_check_evaluation_data if event else None
            if evaluation is None or evaluation.check_name in found:
                continue
            found[evaluation.check_name] = {
                "check": evaluation.check_name,
                "asset": evaluation.asset_key.path[-1],
                "passed": bool(evaluation.passed),
                "severity": evaluation.severity.value,
                "says": evaluation.description or "",
                "run": one.run_id,
                "at": math.floor(entry.timestamp),
            }
    return [found[name] for name in sorted(found)]
