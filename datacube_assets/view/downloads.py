"""Tables of a datacube as files: CSV, Parquet, and regions as GeoJSON and GeoParquet for a GIS.

Which tables there are is `dictionary.py`. Regions have no outlines in a datacube: their geometry is a point,
the middle of their data (`places.py`).
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from starlette.responses import Response

from datacube_assets.kernels.groups import Floats
from datacube_assets.view.dictionary import readable

FORMATS: Mapping[str, str] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "geojson": "application/geo+json",
}
Middles = Mapping[str, tuple[float, float]]
"""Latitude and longitude by region id."""
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
}
"""What makes a Parquet file a GeoParquet file; without a reference system, coordinates are WGS 84."""


def as_file(table: pa.Table, kind: str, name: str, middles: Middles | None = None) -> Response:
    """A table as a file to be kept. `middles` make points of its column `region_id`."""
    plain = pa.table({column: readable(table[column]) for column in table.column_names})
    if kind == "csv":
        sink = io.BytesIO()
        pa_csv.write_csv(plain, sink)
        body = sink.getvalue()
    elif kind == "geojson":
        body = _geojson(plain, middles or {})
    else:
        body = _parquet(table, middles)
    return Response(body, media_type=FORMATS[kind], headers={"Content-Disposition": _attachment(name, kind)})


def _attachment(name: str, kind: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "datacube"
    return f"attachment; filename=\"{plain}.{kind}\"; filename*=UTF-8''{quote(f'{name}.{kind}', safe='')}"


def _points(table: pa.Table, middles: Middles) -> tuple[Floats, Floats]:
    """Longitudes and latitudes of the rows; NaN where the place of a region is not known."""
    known = pa.array(middles, pa.string())
    at = pc.index_in(table["region_id"].combine_chunks(), known).to_numpy(zero_copy_only=False)
    places = np.array([*middles.values(), (np.nan, np.nan)])
    lat, lng = places[np.where(np.isnan(at), -1, at).astype(np.int64)].T
    return lng, lat


def _parquet(table: pa.Table, middles: Middles | None) -> bytes:
    metadata = {}
    if middles is not None:
        lng, lat = _points(table, middles)
        # Well-known binary: byte order, kind, and two numbers; all rows at once.
        points = np.empty(len(lng), np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")]))
        points["order"], points["kind"], points["x"], points["y"] = 1, 1, lng, lat
        width = points.dtype.itemsize
        fixed = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), len(points), [None, pa.py_buffer(points.tobytes())]
        )
        unknown = pa.array(np.isnan(lng))
        geometry = pc.if_else(unknown, pa.scalar(None, pa.binary()), fixed.cast(pa.binary()))
        table = table.append_column("geometry", geometry)
        metadata = {b"geo": json.dumps(_GEO).encode()}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return sink.getvalue()


def _geojson(table: pa.Table, middles: Middles) -> bytes:
    lng, lat = _points(table, middles)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [x, y]} if math.isfinite(x) else None,
            "properties": properties,
        }
        for x, y, properties in zip(lng.tolist(), lat.tolist(), table.to_pylist(), strict=True)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False).encode()
