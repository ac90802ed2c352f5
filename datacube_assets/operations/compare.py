"""Two buckets, object by object: what the original pipeline published beside what is published here.

What counts as equal, and which differences are wanted (docs/differences.md), belongs here. A difference is
*intended* when the two objects show it to be exactly one of those; it is *explained* when the run is known to
have rows that are treated otherwise and the object is of a kind that these rows change, though no single
number proves it; all others are *unexplained*.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.kernels import keys
from datacube_assets.kernels.decode import UnreadableObjectError, read_tile
from datacube_assets.kernels.errors import shorten
from datacube_assets.kernels.schema import MISSING, REGION_LEVELS, REGION_SEPARATOR, is_index_column
from datacube_assets.storage.run_info import RunInfo
from datacube_assets.storage.stores import MissingObjectError, Store

Kind = Literal["same", "intended", "explained", "missing", "unexpected", "differs"]
UNEXPLAINED: tuple[Kind, ...] = ("missing", "unexpected", "differs")
"""`missing`: only theirs; `unexpected`: only ours."""
TOLERANCE = 1e-9
"""Relative, and absolute near zero: the original adds in any order, so its last digits vary."""
EXAMPLES = 10
_READERS = 16
_BATCH = 2_000
_MOST_TIES = 20
"""Items of a list of extrema."""

WANTED: Mapping[str, str] = {
    "1": "a row without latitude or longitude counts everywhere but on the map",
    "2": "every region level has its true name",
    "3": "index columns are no qualifiers",
    "4": "a missing qualifier is always `None`",
    "5": "a column of whole numbers prints as whole numbers",
    "6": "only weights of present values count in a weighted mean",
    "7": "raw.csv holds integer timestamps and finite numbers",
    "8": "nothing is published that breaks the reader",
    "9": "longitudes are wrapped; points beyond the mercator limit are not on the map",
    "10": "timestamps before 1677 are dropped and counted",
    "14": "infinity is never published",
    "16": "nothing stale",
    "17": "a bin without any value is in no tile",
    "19": "an object lies where the reader asks for it",
    "ties": "ties in extrema are ordered by name, and at most 20 are listed",
}
"""Numbers of docs/differences.md. 11, 12 and 13 leave nothing of the original's to compare with; 15, order,
counts as equal."""


@dataclass(frozen=True)
class Finding:
    """What became of one object."""

    kind: Kind
    rule: str = ""
    """Which of `WANTED`."""
    detail: str = ""


@dataclass
class Compared:
    """The objects of one run, in both buckets."""

    key: str
    counts: Counter[Kind] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    """Intended and explained objects by the difference they have."""
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    problem: str = ""
    """Why nothing could be compared; empty when it could."""

    @property
    def agrees(self) -> bool:
        return not self.problem and not any(self.counts[kind] for kind in UNEXPLAINED)

    def add(self, key: str, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if finding.rule:
            self.rules[finding.rule] += 1
        listed = self.examples.setdefault(finding.kind, [])
        if finding.kind != "same" and len(listed) < EXAMPLES:
            listed.append(f"{key}: {finding.detail or WANTED.get(finding.rule, '')}".rstrip(": "))

    def to_json(self) -> dict[str, Any]:
        return {
            "partition": self.key,
            "agrees": self.agrees,
            "problem": self.problem,
            "objects": dict(self.counts),
            "intended differences": {
                rule: {"objects": count, "says": WANTED[rule]} for rule, count in sorted(self.rules.items())
            },
            "examples": {kind: some for kind, some in self.examples.items() if some},
        }


def compare(
    ours: Store,
    theirs: Store,
    run: ModelRun,
    progress: Callable[[int, int], None],
    *,
    info: RunInfo | None = None,
    tolerance: float = TOLERANCE,
) -> Compared:
    """Compare all objects of a run. `info`, from the lake, tells what is known of its rows.

    Raises StoreError when a bucket cannot be read.
    """
    compared = Compared(run.key)
    here = {key.removeprefix(run.prefix) for key, _ in ours.list(run.prefix)}
    there = {key.removeprefix(run.prefix) for key, _ in theirs.list(run.prefix)}
    for name, found in (("in ours", here), ("in theirs", there)):
        if keys.RESULTS not in found:
            compared.problem = f"not complete {name}: there is no {keys.RESULTS}"
            return compared
    judge = _Judge(run, ours, theirs, info, tolerance)
    every = sorted({*here, *there})
    with ThreadPoolExecutor(_READERS, "compare") as readers:
        for start in range(0, len(every), _BATCH):
            some = every[start : start + _BATCH]
            bodies = zip(
                some,
                readers.map(lambda key: _get(ours, run, key) if key in here else None, some),
                readers.map(lambda key: _get(theirs, run, key) if key in there else None, some),
                strict=True,
            )
            for key, our, their in bodies:
                compared.add(key, judge.of(key, our, their))
            progress(start + len(some), len(every))
    return compared


def _get(store: Store, run: ModelRun, key: str) -> bytes | None:
    try:
        return store.get(f"{run.prefix}{key}")
    except MissingObjectError:
        return None


@dataclass(frozen=True)
class _Judge:
    """Knows what one run is like, and judges its objects."""

    run: ModelRun
    ours: Store
    theirs: Store
    info: RunInfo | None
    tolerance: float

    def of(self, key: str, our: bytes | None, their: bytes | None) -> Finding:
        if our == their:
            return Finding("same")
        if our is None or their is None:
            return self._of_one(key, our, their)
        try:
            return self._of_both(key, our, their)
        except (UnreadableObjectError, ValueError, LookupError, TypeError) as error:
            return Finding("differs", detail=f"cannot be read: {str(error).splitlines()[0]}")

    # --- objects of one side only ------------------------------------------------------------------

    def _of_one(self, key: str, our: bytes | None, their: bytes | None) -> Finding:
        if our is None and their is not None:
            if _breaks_reader(key, their):
                return Finding("intended", "8")
            if (place := _tile_place(key)) and max(place[1:]) >= 2 ** place[0]:
                return Finding("intended", "9", "a tile that no map asks for")
            if place and _without_value(their):
                return Finding("intended", "17")
            if _never_asked(key):
                return Finding("intended", "19")
        if any(is_index_column(part) for part in re.split(r"[/.]json$|/", key)) and our is None:
            return Finding("intended", "3")
        if self._is_misnamed(key):
            return Finding("intended", "2")
        if self._spells_missing(key):
            return Finding("intended", "4")
        if self._spells_number(key):
            return Finding("intended", "5")
        if our is None and self._is_stale(key):
            return Finding("intended", "16", "of a region that their own lists do not have")
        side: Kind = "missing" if our is None else "unexpected"
        # Rows that the original loses make objects of ours, those that it moves to 1970 of theirs.
        possible = ("9", "10") if our is None else ("1", "9")
        if (cause := self._cause(key, set())) in possible:
            return Finding("explained", cause)
        return Finding(side)

    @cached_property
    def _levels(self) -> list[str]:
        body = _get(self.ours, self.run, keys.RESULTS) or b"{}"
        levels = json.loads(body)["data_info"]["region_levels"]
        return [level for level in REGION_LEVELS if level in levels]

    @cached_property
    def _hole(self) -> set[str]:
        """The region levels that the original mislabels: all below one that is missing."""
        whole = REGION_LEVELS[: len(self._levels)]
        return (
            set()
            if self._levels == list(whole)
            else {level for level in REGION_LEVELS if level not in self._levels or level not in whole}
        )

    def _is_misnamed(self, key: str) -> bool:
        return any(f"/regional/{level}/" in key for level in self._hole)

    def _spells_missing(self, key: str) -> bool:
        value = _qualifier_value(key)
        return value is not None and value in ("", "nan", MISSING)

    def _spells_number(self, key: str) -> bool:
        value = _qualifier_value(key)
        if value is None or not re.fullmatch(r"-?\d+(\.0)?", value):
            return False
        other = value[:-2] if value.endswith(".0") else f"{value}.0"
        head, _, tail = key.rpartition(f"/{value}/")
        twin = f"{head}/{other}/{tail}"
        return any(_get(store, self.run, twin) is not None for store in (self.ours, self.theirs))

    @cached_property
    def _their_regions(self) -> dict[str, set[str]]:
        return {}

    def _is_stale(self, key: str) -> bool:
        found = re.fullmatch(r"(?:month|year)/(.+)/regional/(\w+)/timeseries/default/(.+)\.csv", key)
        if not found:
            return False
        feature, level, region = found.groups()
        known = self._their_regions
        if (at := f"{feature}/{level}") not in known:
            body = _get(self.theirs, self.run, f"raw/{feature}/info/region_lists.json")
            known[at] = set(json.loads(body).get(level, [])) if body else {region}
        return region not in known[at]

    # --- objects of both sides ---------------------------------------------------------------------

    def _of_both(self, key: str, our: bytes, their: bytes) -> Finding:
        if key.endswith(".tile"):
            detail, rule = _tiles_differ(our, their, self.tolerance)
            changed = {"tile"}
        elif key.endswith(".csv"):
            detail, rule, changed = _csv_differs(key, our, their, self.tolerance)
        else:
            detail, rule, changed = _json_differs(key, our, their, self.tolerance)
        if not detail:
            return Finding("intended", rule) if rule else Finding("same")
        if key.endswith("/info/region_lists.json") and self._hole:
            return Finding("intended", "2", detail)
        if self._is_misnamed(key):
            return Finding("intended", "2", detail)
        if cause := self._cause(key, changed):
            return Finding("explained", cause, detail)
        return Finding("differs", detail=detail)

    # --- what is known of the run ------------------------------------------------------------------

    def _cause(self, key: str, changed: set[str]) -> str:
        """The wanted difference that rows of this run have and that changes objects like this one."""
        if self.info is None or key.startswith("raw/"):
            return ""
        report, mapped = self.info.report, "/tiles/" in key or "/stats/grid/" in key
        if self._had_index and changed and not changed - _MEANS - {"tile"}:
            return "3"
        if report.missing_coordinates and not mapped and self.info.layout.mappable:
            return "1"
        if report.wrapped_longitudes or (mapped and report.beyond_mercator):
            return "9"
        if report.num_invalid_ts:
            return "10"
        weighted = changed and all("wavg" in name for name in changed)
        if weighted and self.info.layout.weighted and (report.num_missing_val or report.infinite_values):
            return "6"
        return ""

    @cached_property
    def _had_index(self) -> bool:
        """Whether the original took an index column for a qualifier."""
        folder = f"{self.run.prefix}raw/"
        return any(
            is_index_column(key.rpartition("/")[2].removesuffix(".json"))
            for key, _ in self.theirs.list(folder)
            if "/info/qualifiers/" in key
        )


_MEANS = frozenset(
    f"s_{agg}_{measure}"
    for agg in ("mean", "min", "max", "sum", "wavg")
    for measure in ("t_mean", "t_wavg", "t_sum")
    if (agg, measure) != ("sum", "t_sum")
) | {"s_count"}
"""Figures that change when rows of one cell become several cells."""


def _tile_place(key: str) -> tuple[int, int, int] | None:
    found = re.fullmatch(r".*/tiles/-?\d+-(\d+)-(\d+)-(\d+)\.tile", key)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _qualifier_value(key: str) -> str | None:
    """The value in the key of a region's timeseries by qualifier."""
    found = re.fullmatch(r".*/timeseries/qualifiers/[^/]*/(.*)/[^/]*\.csv", key)
    return found[1] if found and "/regional/" in key else None


def _breaks_reader(key: str, body: bytes) -> bool:
    """Whether it is a grid statistic with empty cells or a list of extrema without any."""
    if "/stats/grid/" in key:
        return any("" in line for line in _lines(body)[1:])
    if key.endswith("/extrema.json"):
        return any(not items for side in json.loads(body).values() for items in side.values())
    return False


# --- equal within a tolerance ----------------------------------------------------------------------


def _number(cell: object) -> float | None:
    if isinstance(cell, bool) or cell is None:
        return None
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _close(one: object, other: object, tolerance: float) -> bool:
    if one == other:
        return True
    x, y = _number(one), _number(other)
    if x is None or y is None:
        return False
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance)


def _without_value(body: bytes) -> bool:
    """Whether it is a tile none of whose bins has a value."""
    try:
        return not read_tile(body).s_count.any()
    except UnreadableObjectError:
        return False


def _never_asked(key: str) -> bool:
    """Whether the reader's client changes a key before it asks, or cannot be asked for the region in it."""
    if "//" in key or any(part in (".", "..") for part in key.split("/")):
        return True
    found = re.fullmatch(r".*/regional/\w+/timeseries/.*/([^/]*)\.csv", key)
    return found is not None and found[1].count(REGION_SEPARATOR) >= len(REGION_LEVELS)


def _tiles_differ(our: bytes, their: bytes, tolerance: float) -> tuple[str, str]:
    """What differs, and which wanted difference it is."""
    mine, other = read_tile(our), read_tile(their)
    if (mine.zoom, mine.x, mine.y) != (other.zoom, other.x, other.y):
        return "another place", ""
    # A bin without any value may be left out.
    known = (other.s_count != 0) | np.isin(other.bin, mine.bin)
    rule = "" if known.all() else "17"
    if not np.array_equal(mine.bin, other.bin[known]):
        return f"{len(mine):,} bins, theirs {len(other):,}", ""
    for name in ("s_sum_t_sum", "s_sum_t_mean", "s_count"):
        x, y = getattr(mine, name), getattr(other, name)[known]
        off = ~np.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        if off.any():
            at = int(np.flatnonzero(off)[0])
            return f"bin {mine.bin[at]} {name}: {x[at]!r}, theirs {y[at]!r}", ""
    return "", rule


def _lines(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode(), newline="")))


def _csv_differs(key: str, our: bytes, their: bytes, tolerance: float) -> tuple[str, str, set[str]]:
    """What differs, the rule that all the rest is an instance of, and the columns that differ."""
    mine, other = _lines(our), _lines(their)
    fixed = 2 if "/aggs/" in key and "/qualifiers/" in key else 1
    raw = key.endswith("/raw/raw.csv")
    rules: set[str] = set()
    head, theirs = mine[0], other[0]
    if "/timeseries/qualifiers/" in key and "/regional/" not in key:
        # Its columns are values of a qualifier.
        head, theirs = (
            head[:1] + [_value(name, rules) for name in head[1:]],
            theirs[:1] + [_value(name, rules) for name in theirs[1:]],
        )
        if sorted(mine[0]) == sorted(other[0]):
            rules.clear()
    elif raw and (extra := [name for name in theirs if is_index_column(name) and name not in head]):
        rules.add("3")
        kept = [i for i, name in enumerate(theirs) if name not in extra]
        other = [[line[i] for i in kept] for line in other]
        theirs = other[0]
    if sorted(head) != sorted(theirs) or (not raw and head[:fixed] != theirs[:fixed]):
        return f"columns {head}, theirs {theirs}", "", {*head} ^ {*theirs}
    if len(mine) != len(other):
        return f"{len(mine) - 1:,} rows, theirs {len(other) - 1:,}", "", {head[0]}
    order = [theirs.index(name) for name in head]
    others = [[line[i] for i in order] for line in other[1:]]
    if fixed == 2:
        others = [[line[0], _value(line[1], set()), *line[2:]] for line in others]
        if any(line[1] != _value(line[1], set()) for line in other[1:]):
            rules.add("4")
    changed: set[str] = set()
    first = ""
    pairs = zip(sorted(mine[1:], key=_rough), sorted(others, key=_rough), strict=True)
    for x, y in pairs:
        for name, p, q in zip(head, x, y, strict=True):
            if _close(p, q, tolerance):
                continue
            if not p and math.isinf(_number(q) or 0.0):
                rules.add("7" if raw else "14")
            elif raw and fixed == 1 and not p and q == "nan":
                rules.add("7")
            else:
                changed.add(name)
                first = first or f"{x[:fixed]} {name}: {p!r}, theirs {q!r}"
    if (
        raw
        and not first
        and not rules
        and mine != other
        and any("." in line[head.index("timestamp")] for line in other[1:] if "timestamp" in head)
    ):
        rules.add("7")
    return first, "" if first else next(iter(sorted(rules)), ""), changed


def _value(text: str, rules: set[str]) -> str:
    """A value of a qualifier as it is spelled here."""
    if text in ("", "nan"):
        rules.add("4")
        return MISSING
    if re.fullmatch(r"-?\d+\.0", text):
        rules.add("5")
        return text[:-2]
    return text


def _rough(row: Sequence[str]) -> list[str]:
    return [text if (number := _number(text)) is None else f"{number:.6g}" for text in row]


def _json_differs(key: str, our: bytes, their: bytes, tolerance: float) -> tuple[str, str, set[str]]:
    mine, other = json.loads(our), json.loads(their)
    rules: set[str] = set()
    if "/info/qualifiers/" in key:
        spelled = sorted({_value(text, rules) for text in other})
        if sorted(mine) == sorted(other):
            return "", "", set()
        if sorted({_value(text, set()) for text in mine}) == spelled:
            return "", min(rules) if rules else "", set()
        return f"{len(mine):,} values, theirs {len(other):,}", "", {"values"}
    if key.endswith("/qualifier_counts.json"):
        extra = [name for name in other["counts"] if is_index_column(name) and name not in mine["counts"]]
        if extra:
            rules.add("3")
            other = {**other, "counts": {k: v for k, v in other["counts"].items() if k not in extra}}
    if key.endswith("/extrema.json"):
        return _extrema_differ(mine, other, tolerance)
    found = list(_parts_that_differ(mine, other, tolerance, ""))
    real = []
    for at, p, q in found:
        if p is None and isinstance(q, float) and not math.isfinite(q):
            rules.add("14")
        else:
            real.append((at, p, q))
    if not real:
        return "", next(iter(sorted(rules)), ""), set()
    at, p, q = real[0]
    changed = {at.rpartition(".")[2] for at, _, _ in real}
    return f"{at.lstrip('.')}: {shorten(p)}, theirs {shorten(q)}", "", changed


def _extrema_differ(mine: Any, other: Any, tolerance: float) -> tuple[str, str, set[str]]:
    rule = ""
    changed: set[str] = set()
    first = ""
    for side in ("min", "max"):
        if set(mine[side]) != set(other[side]):
            return f"{side}: figures {sorted(mine[side])}, theirs {sorted(other[side])}", "", {"figures"}
        for name, items in mine[side].items():
            others = other[side][name]
            values = [item["value"] for item in (*items, *others)]
            if values and all(_close(value, values[0], tolerance) for value in values):
                places = [
                    {(item["region_id"], item["timestamp"]) for item in some} for some in (items, others)
                ]
                if places[0] == places[1]:
                    continue
                if len(items) == len(others) == _MOST_TIES:
                    rule = "ties"
                    continue
            changed.add(name)
            first = first or f"{side} {name}: {shorten(items[:1])}, theirs {shorten(others[:1])}"
    return first, "" if first else rule, changed


def _parts_that_differ(mine: Any, other: Any, tolerance: float, at: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(mine, dict) and isinstance(other, dict):
        for name in sorted(mine.keys() | other.keys()):
            if name in mine and name in other:
                yield from _parts_that_differ(mine[name], other[name], tolerance, f"{at}.{name}")
            else:
                yield f"{at}.{name}", mine.get(name, "(none)"), other.get(name, "(none)")
    elif isinstance(mine, list) and isinstance(other, list):
        if len(mine) != len(other):
            yield at, mine, other
            return
        for x, y in zip(sorted(mine, key=_name_of), sorted(other, key=_name_of), strict=True):
            yield from _parts_that_differ(x, y, tolerance, at)
    elif not _close(mine, other, tolerance):
        yield at, mine, other


def _name_of(item: Any) -> str:
    """What items of an unordered list are told apart by."""
    return (
        str(item["name"]) if isinstance(item, dict) and "name" in item else json.dumps(item, sort_keys=True)
    )


def runs_in(store: Store) -> Iterable[ModelRun]:
    """The runs that have a folder in a bucket."""
    for model in store.folders(""):
        for run in store.folders(f"{model}/"):
            yield ModelRun(model, run)
