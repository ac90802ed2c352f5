"""A model of CauseMos' reader: it asks for every object of a datacube as the reader does, and as strictly.

Keys are made of names that earlier answers told, by the reader's own formulas, with the `/` that its S3
client makes of several. What it cannot answer, or would answer with a number that is none, is `Unanswered`.
Nothing of ours is used here but the names of columns: a fault in our keys or bytes must not hide itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datacube_assets_tests.unit.kernel_helpers import TILE

T = TypeVar("T")
LEVELS = ("country", "admin1", "admin2", "admin3")
RESOLUTIONS = ("month", "year")
AGGREGATIONS = ("sum", "mean", "wavg", "min", "max")
FIGURES = ("s_count", *(f"s_{space}_t_{time}" for space in AGGREGATIONS for time in AGGREGATIONS))
"""What an analyst may choose."""
NEEDED = ("s_sum_t_sum", "s_mean_t_sum", "s_sum_t_mean", "s_mean_t_mean")
_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Unanswered(AssertionError):
    """A question that the reader has no answer to, although it is offered it."""


@dataclass
class Reader:
    """Asks a datacube, given its objects by key after the prefix of the run."""

    objects: Mapping[str, bytes]
    most_tiles: int = 2_000
    """Tiles of a feature and time that are asked for."""
    asked: set[str] = field(default_factory=set)
    """Keys that were asked for and found."""
    missed: dict[str, set[str]] = field(default_factory=dict)
    """Keys of objects that had to be there and are not, and by which names they were asked for."""

    def everything(self) -> None:
        """Ask for every object. Raises Unanswered."""
        results = self._json("results/results.json")
        for feature in results["data_info"]["features"]:
            self._feature(feature)
        for key, names in self.missed.items():
            # Where two names lead to one key nobody can answer; some keys are too long for a store, and no
            # store has the character NUL in one.
            _must(len(names) > 1 or _too_long(key) or "\0" in key, f"there is no {key}")

    def unasked(self) -> list[str]:
        """Objects that nobody can ask for: names that are never readable, or a fault."""
        return sorted(set(self.objects) - self.asked)

    # --- one feature -------------------------------------------------------------------------------

    def _offered(self, ask: Callable[..., T], *arguments: Any, otherwise: Any) -> T:
        """An answer to a question about something that earlier answers offered."""
        try:
            return ask(*arguments)
        except Missing as missing:
            key = str(missing)
            if not _climbs(key):
                self.missed.setdefault(_collapsed(key), set()).add(key)
            nothing: T = otherwise
            return nothing

    def _feature(self, feature: str) -> None:
        lists = self._region_lists(feature)
        counts = self._offered(self._qualifier_counts, feature, otherwise={})
        values = {name: self._offered(self._qualifier_list, feature, name, otherwise=[]) for name in counts}
        self._raw(feature)
        for resolution in RESOLUTIONS:
            key = f"{resolution}/{feature}/timeseries/global/global.csv"
            times = [time for time, _ in self._offered(self._series, key, otherwise=[])]
            for name in counts:
                self._qualifier_series(f"{resolution}/{feature}/timeseries/qualifiers/{name}", values[name])
            for level in LEVELS:
                folder = f"{resolution}/{feature}/regional/{level}"
                for region in lists[level]:
                    self._region(folder, region, values)
                if lists[level]:
                    self._maps(folder, times, counts)
            for time in times:
                self._map(f"{resolution}/{feature}", time)

    def _region_lists(self, feature: str) -> dict[str, list[str]]:
        try:
            lists: dict[str, list[str]] = self._json(f"raw/{feature}/info/region_lists.json")
        except Missing:
            return {level: [] for level in LEVELS}
        _must(set(lists) == set(LEVELS), "another key than a level ends the process")
        _must(all(isinstance(one, str) for ids in lists.values() for one in ids), "a region is no text")
        return lists

    def _qualifier_counts(self, feature: str) -> dict[str, int]:
        document = self._json(f"raw/{feature}/info/qualifier_counts.json")
        for number in (*document["thresholds"].values(), *document["counts"].values()):
            _must(type(number) is int and abs(number) < 2**31, f"{number} is no int32")
        counts: dict[str, int] = document["counts"]
        return counts

    def _qualifier_list(self, feature: str, name: str) -> list[str]:
        found: list[str] = self._json(f"raw/{feature}/info/qualifiers/{name}.json")
        _must(all(isinstance(one, str) for one in found), "not a list of texts")
        return found

    def _raw(self, feature: str) -> None:
        try:
            header, *lines = self._csv(f"raw/{feature}/raw/raw.csv")
        except Missing:
            return
        for line in lines:
            for name, cell in zip(header, line, strict=True):
                if name == "timestamp":
                    _integer(cell)
                elif name in ("lat", "lng", "value") and cell:
                    _number(cell)

    # --- series ------------------------------------------------------------------------------------

    def _series(self, key: str) -> list[tuple[int, list[str]]]:
        header, *lines = self._csv(key)
        _must(len(set(header)) == len(header), "two columns of a name")
        for name in NEEDED:
            at = header.index(name)
            for line in lines:
                if line[at]:
                    _number(line[at])
        return [(_integer(line[0]), line) for line in lines]

    def _qualifier_series(self, folder: str, values: Sequence[str]) -> None:
        for figure in FIGURES:
            try:
                header, *lines = self._csv(f"{folder}/{figure}.csv")
            except Missing:
                continue
            for value in values:
                # Go makes one line break of two characters, in what it reads.
                _must(value.replace("\r\n", "\n") in header[1:], f"no column {value!r}")
            for line in lines:
                _integer(line[0])
                for cell in filter(None, line[1:]):
                    _number(cell)

    def _region(self, folder: str, region: str, values: Mapping[str, Sequence[str]]) -> None:
        _must(region.count("__") < len(LEVELS), f"{region!r} has more than four parts and ends the process")
        if not region:
            return  # taken for all places
        self._offered(self._series, f"{folder}/timeseries/default/{region}.csv", otherwise=[])
        for name, names in values.items():
            for value in names:
                key = f"{folder}/timeseries/qualifiers/{name}/{value}/{region}.csv"
                if _collapsed(key) in self.objects:
                    self._series(key)

    # --- tables ------------------------------------------------------------------------------------

    def _maps(self, folder: str, times: Sequence[int], qualifiers: Mapping[str, int]) -> None:
        for time in times:
            self._offered(self._table, f"{folder}/aggs/{time}/default/default.csv", 1, otherwise=None)
            for name in qualifiers:
                key = f"{folder}/aggs/{time}/qualifiers/{name}.csv"
                if _collapsed(key) in self.objects:
                    self._table(key, 2)
        try:
            document = self._json(f"{folder}/stats/default/extrema.json")
        except Missing:
            return
        for side in ("min", "max"):
            for name, items in document[side].items():
                _must(bool(items), f"the empty list of {side} {name} ends the process")
                for item in items:
                    _must(type(item["timestamp"]) is int, "a time that is no integer")
                    _must(math.isfinite(item["value"]), "no number")

    def _table(self, key: str, texts: int) -> None:
        header, *lines = self._csv(key)
        _must(header[:texts] == ["id", "qualifier"][:texts], "the first columns are taken by their place")
        for line in lines:
            for cell in filter(None, line[texts:]):
                _number(cell)

    # --- the map -----------------------------------------------------------------------------------

    def _map(self, folder: str, time: int) -> None:
        try:
            header, *lines = self._csv(f"{folder}/stats/grid/{time}.csv")
        except Missing:
            pass
        else:
            for line in lines:
                _integer(line[0])
                for cell in line[1:]:
                    _number(cell)
            _must(len(header) == 9, "the wrong columns")
        self._tiles(folder, time)

    def _tiles(self, folder: str, time: int) -> None:
        waiting = [(0, 0, 0)]
        for _ in range(self.most_tiles):
            if not waiting:
                return
            zoom, x, y = waiting.pop()
            try:
                body = self._get(f"{folder}/tiles/{time}-{zoom}-{x}-{y}.tile")
            except Missing:
                continue
            tile = TILE.FromString(body)
            _must(tile.HasField("coord") and tile.HasField("bins"), "ends the process")
            _must((tile.coord.z, tile.coord.x, tile.coord.y) == (zoom, x, y), "another tile")
            _must(tile.bins.totalBins == 4096 and len(tile.bins.stats) > 0, "a tile without bins")
            for number, bin_ in tile.bins.stats.items():
                _must(number < 4096, "a bin that is none")
                _must(bin_.weight > 0, f"bin {number} of {zoom}-{x}-{y} is divided by {bin_.weight}")
                for figure in (bin_.s_sum_t_sum, bin_.s_sum_t_mean):
                    _must(math.isfinite(figure / bin_.weight), "no number")
            if zoom < 8:
                waiting += [(zoom + 1, 2 * x + right, 2 * y + down) for right in (0, 1) for down in (0, 1)]

    # --- how it reads ------------------------------------------------------------------------------

    def _get(self, key: str) -> bytes:
        asked = _collapsed(key)
        if _climbs(key) or asked not in self.objects:
            raise Missing(key)
        self.asked.add(asked)
        return self.objects[asked]

    def _csv(self, key: str) -> list[list[str]]:
        try:
            lines = list(go_csv(self._get(key).decode()))
            _must(bool(lines), "no line at all")
            _must({len(line) for line in lines} == {len(lines[0])}, "wrong number of fields")
        except Missing:
            raise
        except ValueError as error:
            raise Unanswered(f"{key}: {error}") from None
        return lines

    def _json(self, key: str) -> Any:
        def refuse(word: str) -> None:
            raise ValueError(f"{word} is no JSON")

        body = self._get(key)
        try:
            return json.loads(body, parse_constant=refuse)
        except ValueError as error:
            raise Unanswered(f"{key}: {error}") from None


class Missing(Exception):
    """There is no object of a key: often an answer, too."""


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unanswered(otherwise)


def _collapsed(key: str) -> str:
    return re.sub("//+", "/", key)


def _climbs(key: str) -> bool:
    """Whether a client leaves out parts of the path before it asks."""
    return any(part in (".", "..") for part in key.split("/"))


def _too_long(key: str) -> bool:
    """Whether a folder does not take it, below that of the run."""
    return len(key.encode()) > 900 or max(len(part.encode()) for part in key.split("/")) > 255


def _integer(cell: str) -> int:
    _must(_INT.fullmatch(cell) is not None and -(2**63) <= int(cell) < 2**63, f"{cell!r} is no int64")
    return int(cell)


def _number(cell: str) -> float:
    _must(_FLOAT.fullmatch(cell) is not None and math.isfinite(float(cell)), f"{cell!r} is no number")
    return float(cell)


def go_csv(text: str) -> Iterator[list[str]]:
    """The records of a CSV as Go's encoding/csv reads them. Raises ValueError where it does."""
    text = text.replace("\r\n", "\n")
    at = 0
    while at < len(text):
        if text[at] == "\n":
            at += 1
            continue
        record: list[str] = []
        while True:
            if text[at : at + 1] == '"':
                cell, at = _quoted(text, at + 1)
            else:
                end = min(end for end in (text.find(",", at), text.find("\n", at), len(text)) if end >= 0)
                cell, at = text[at:end], end
                if '"' in cell:
                    raise ValueError("a bare quote")
            record.append(cell)
            if text[at : at + 1] != ",":
                break
            at += 1
        if at < len(text) and text[at] != "\n":
            raise ValueError("text after a quote")
        at += 1
        yield record


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise ValueError("a quote without its other")
        parts.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return '"'.join(parts), end + 1
        at = end + 2


def ask_for_everything(objects: Mapping[str, bytes], most_tiles: int = 2_000) -> list[str]:
    """Ask for every object; returns those that nobody can ask for. Raises Unanswered."""
    reader = Reader(objects, most_tiles)
    reader.everything()
    return reader.unasked()
