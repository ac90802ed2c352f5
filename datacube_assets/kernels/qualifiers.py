"""Which qualifiers break which features down, and how far (docs/specification/requests.md#limits).

The rule and the inventory it is applied to belong here. Aggregating by qualifier is in `spatial.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from datacube_assets.kernels.groups import Coded, build_table, encode_text, group_by
from datacube_assets.kernels.schema import REGION_LEVELS, Layout, RegionLevel
from datacube_assets.kernels.spatial import Breakdown


@dataclass(frozen=True)
class Thresholds:
    """Limits on the number of distinct values of a qualifier, inclusive."""

    max_count: int = 10_000
    regional_timeseries_count: int = 100
    regional_timeseries_max_level: int = 1
    """Deepest level with qualifier timeseries: 0 country, 1 admin1, ..."""


def qualifier_values(points: pa.Table, layout: Layout) -> pa.Table:
    """Distinct values of every qualifier per feature: columns feature, qualifier, value (text), sorted."""
    feature = encode_text(points["feature"])
    tables = [_distinct(feature, name, encode_text(points[name])) for name in sorted(layout.qualifiers)]
    return merge_values(tables)


def _distinct(feature: Coded, qualifier: str, value: Coded) -> pa.Table:
    groups = group_by([feature, value])
    first = groups.first
    name = Coded(first * 0, pa.array([qualifier]))
    return build_table({"feature": feature.take(first), "qualifier": name, "value": value.take(first)})


def feature_regions(points: pa.Table, layout: Layout) -> pa.Table:
    """Distinct regions per feature: columns feature and the levels present, sorted."""
    columns = {name: encode_text(points[name]) for name in ("feature", *layout.levels)}
    groups = group_by(list(columns.values()))
    return build_table({name: coded.take(groups.first) for name, coded in columns.items()})


def merge_values(tables: Sequence[pa.Table]) -> pa.Table:
    """Distinct rows of several tables of text columns, sorted."""
    if not tables:
        nothing = encode_text(pa.array([], pa.string()))
        return build_table(dict.fromkeys(("feature", "qualifier", "value"), nothing))
    table = pa.concat_tables(tables).unify_dictionaries()
    columns = {name: encode_text(table[name]) for name in table.column_names}
    groups = group_by(list(columns.values()))
    return build_table({name: coded.take(groups.first) for name, coded in columns.items()})


@dataclass(frozen=True)
class Breakdowns:
    """The qualifiers of a run that are in use."""

    counts: Mapping[str, Mapping[str, int]]
    """Distinct values per feature and qualifier, of all qualifiers."""
    mapped: Mapping[str, Sequence[str]]
    """Qualifiers per feature as requested."""
    thresholds: Thresholds

    @classmethod
    def of(cls, values: pa.Table, mapped: Mapping[str, Sequence[str]], thresholds: Thresholds) -> Breakdowns:
        """From the inventory made by `qualifier_values`."""
        counts: dict[str, dict[str, int]] = {}
        counted = values.group_by(["feature", "qualifier"]).aggregate([("value", "count")]).to_pylist()
        for row in sorted(counted, key=lambda row: (row["feature"], row["qualifier"])):
            counts.setdefault(row["feature"], {})[row["qualifier"]] = row["value_count"]
        return cls(counts, mapped, thresholds)

    def everywhere(self) -> list[Breakdown]:
        """Qualifiers of timeseries and regional tables, each with its features, by name."""
        return self._up_to(self.thresholds.max_count)

    def in_timeseries(self, level: RegionLevel) -> list[Breakdown]:
        """Qualifiers of the timeseries per region of a level."""
        if REGION_LEVELS.index(level) > self.thresholds.regional_timeseries_max_level:
            return []
        return self._up_to(min(self.thresholds.max_count, self.thresholds.regional_timeseries_count))

    def _up_to(self, limit: int) -> list[Breakdown]:
        features: dict[str, set[str]] = {}
        for feature, counts in self.counts.items():
            for qualifier in self.mapped.get(feature, ()):
                # A qualifier that is no column has no count and is ignored.
                if counts.get(qualifier, limit + 1) <= limit:
                    features.setdefault(qualifier, set()).add(feature)
        return [Breakdown(name, frozenset(features[name])) for name in sorted(features)]
