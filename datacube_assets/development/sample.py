"""The sample: a small toy world in exactly the form in which Dojo leaves its results.

Here belong the toy crop model (three runs under different rainfall), the toy price dataset (weights, no
coordinates), their Dojo documents, and the shape of a Dojo file (`dojo_schema`), which the benchmarks share.
Here does not belong anything that reads, registers, serves or publishes the sample: this module only writes
plain files and knows neither Dagster nor the network.

Everything is a smooth function of place, month and rainfall plus a fixed noise, so the same code writes the
same bytes every time. `write_sample` fills a folder with

    runs/{run_id}.json   models/{model_id}.json   indicators/{dataset_id}.json   files/*.parquet.gzip

In the documents `data_paths` start with the text `{files}`, which stands for the address of the files folder;
whoever serves or loads the sample replaces it.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.dojo.derive import request_for_indicator, request_for_run
from datacube_assets.dojo.documents import IndicatorDocument, ModelDocument, RunDocument
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.schema import FIXED_COLUMNS

Document: TypeAlias = dict[str, object]
Floats: TypeAlias = npt.NDArray[np.float64]

FILES_PLACEHOLDER: Final = "{files}"
INDEX_COLUMN: Final = "__index_level_0__"

SAMPLE_MODEL: Final = "toy-crop-model"
SAMPLE_DATASET: Final = "toy-market-prices"
SAMPLE_RAINFALL: Final[Mapping[str, float]] = MappingProxyType(
    {"rainfall-low": 0.6, "rainfall-normal": 1.0, "rainfall-high": 1.4}
)
SAMPLE_PARTITIONS: Final = (
    *(f"{SAMPLE_MODEL}:{run_id}" for run_id in SAMPLE_RAINFALL),
    f"{SAMPLE_DATASET}:indicator",
)

YIELD: Final = "yield"
AREA: Final = "harvested area"
PRICE: Final = "price"

_DOUBLE_COLUMNS: Final = ("lat", "lng", "value")
_MONTHS: Final = 24
_STEP: Final = 0.25  # degrees between neighbouring grid points
_JANUARY_2020: Final = np.datetime64("2020-01-01", "ms")
_JANUARY_2023: Final = 1_672_531_200_000  # "now" in the toy world, milliseconds


def dojo_schema(qualifiers: Mapping[str, pa.DataType], empty: Collection[str] = ()) -> pa.Schema:
    """The columns of a Dojo file: the nine fixed ones, the qualifiers, and the stored pandas index.

    Columns in `empty` have no value in any row; Dojo stores such columns as doubles.
    """
    types: dict[str, pa.DataType] = {name: pa.string() for name in FIXED_COLUMNS}
    types |= {"timestamp": pa.int64()} | {name: pa.float64() for name in (*_DOUBLE_COLUMNS, *empty)}
    types |= {**qualifiers, INDEX_COLUMN: pa.int64()}
    columns = [_pandas_column(name, type_) for name, type_ in types.items()]
    pandas = {"index_columns": [INDEX_COLUMN], "column_indexes": [], "columns": columns}
    return pa.schema(list(types.items()), metadata={"pandas": json.dumps(pandas)})


def _pandas_column(name: str, type_: pa.DataType) -> Document:
    text = pa.types.is_string(type_)
    kind = type_.to_pandas_dtype().__name__
    return {
        "name": None if name == INDEX_COLUMN else name,
        "field_name": name,
        "pandas_type": "unicode" if text else kind,
        "numpy_type": "object" if text else kind,
        "metadata": None,
    }


@dataclass(frozen=True)
class _Zone:
    """A second-level region: where it is, what grows there, and its market towns."""

    country: str
    admin1: str
    admin2: str
    lat: float
    lng: float
    crops: tuple[str, ...]
    markets: tuple[str, ...]


_SNNP: Final = "Southern Nations, Nationalities and Peoples"
_ZONES: Final = (
    _Zone("Ethiopia", "Amhara", "Semen Gondar", 12.75, 37.5, ("maize", "teff"), ("Debark", "Gondar")),
    _Zone("Ethiopia", "Oromia", "Arsi", 7.75, 39.25, ("maize", "teff"), ("Asella", "Bekoji")),
    _Zone("Ethiopia", "Oromia", "Borena", 4.5, 38.5, ("maize", "sorghum"), ("Moyale", "Yabelo")),
    _Zone("Ethiopia", "Somali", "Shinile", 10.25, 42.0, ("sorghum",), ("Dewele", "Shinile")),
    _Zone("Ethiopia", _SNNP, "Gamo Gofa", 6.0, 37.25, ("maize", "teff", "sorghum"), ("Arba Minch", "Sawla")),
    _Zone("Kenya", "Makueni", "Kibwezi West", -2.25, 37.75, ("maize", "sorghum"), ("Kibwezi", "Makindu")),
    _Zone("Kenya", "Murang'a", "Maragwa", -0.75, 37.25, ("maize",), ("Kenol", "Maragua")),
    _Zone("Kenya", "Nakuru", "Naivasha", -0.75, 36.5, ("maize",), ("Gilgil", "Naivasha")),
    _Zone("Kenya", "Trans Nzoia", "Kwanza", 1.25, 34.75, ("maize",), ("Endebess", "Kitale")),
    _Zone("Kenya", "Turkana", "Turkana Central", 3.25, 35.5, ("sorghum",), ("Kalokol", "Lodwar")),
)


@dataclass(frozen=True)
class _Crop:
    """A toy crop: how it answers to water, and what it needs and earns."""

    potential: float  # t/ha, with the best water
    optimum: float  # the best water, relative to the mean of a good place
    tolerance: float  # how far water may be off, as the logarithm of a ratio
    share: float  # of the land of a grid point
    price: float  # USD/kg


_CROPS: Final = {
    "maize": _Crop(potential=5.2, optimum=1.3, tolerance=0.9, share=0.22, price=0.34),
    "teff": _Crop(potential=2.1, optimum=1.1, tolerance=0.8, share=0.17, price=0.92),
    "sorghum": _Crop(potential=3.0, optimum=0.7, tolerance=1.1, share=0.12, price=0.41),
}


def write_sample(folder: Path) -> None:
    """Write the whole sample into `folder`; writing it again changes no byte."""
    for name in ("runs", "models", "indicators"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for run_id, names in write_parts(folder).items():
        document = _run_document(run_id, SAMPLE_RAINFALL[run_id], names)
        _write_document(folder / "runs" / f"{run_id}.json", document)
    _write_document(folder / "models" / f"{SAMPLE_MODEL}.json", _model_document())
    _write_document(folder / "indicators" / f"{SAMPLE_DATASET}.json", _dataset_document())


def write_parts(folder: Path) -> dict[str, list[str]]:
    """Write the files alone, to be asked for by their addresses; returns the names of each run's."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    written: dict[str, list[str]] = {}
    for run_id, rainfall in SAMPLE_RAINFALL.items():
        tables = _run_tables(rainfall)
        written[run_id] = [f"{run_id}_{SAMPLE_MODEL}.{n}.parquet.gzip" for n in range(1, len(tables) + 1)]
        for name, table in zip(written[run_id], tables, strict=True):
            _write_table(folder / "files" / name, table)
    _write_table(folder / "files" / f"{SAMPLE_DATASET}.parquet.gzip", _price_table())
    return written


def _write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="gzip")


def _write_document(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# The model ----------------------------------------------------------------------------------------


def _run_tables(rainfall: float) -> list[pa.Table]:
    """One table per output file of the model: first the yields, then the harvested areas."""
    fields = [(zone, crop) for zone in _ZONES for crop in zone.crops]
    block = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]) * _STEP
    # Every row is one (zone and crop, point of the zone's 3 x 3 block, month).
    shape = (len(fields), len(block), _MONTHS)
    field, point, month = (index.ravel() for index in np.indices(shape))

    def of_field(values: Iterable[float]) -> Floats:
        return np.asarray(np.fromiter(values, np.float64, len(fields))[field])

    lat = of_field(zone.lat for zone, _ in fields) + block[point, 0]
    lng = of_field(zone.lng for zone, _ in fields) + block[point, 1]
    crops = [_CROPS[crop] for _, crop in fields]
    noise = np.random.default_rng(2020).uniform(0.97, 1.03, field.size)
    water = rainfall * _rain(lat, lng, month)
    stress = np.log(water / of_field(crop.optimum for crop in crops))
    fit = np.exp(-((stress / of_field(crop.tolerance for crop in crops)) ** 2))
    yields = of_field(crop.potential for crop in crops) * (0.15 + 0.85 * fit) * noise
    land = 77_000 * np.cos(np.radians(lat))  # hectares of a quarter-degree square
    terrain = 0.75 + 0.25 * np.sin(2.1 * lat) * np.cos(1.7 * lng)
    areas = land * of_field(crop.share for crop in crops) * terrain * (0.1 + 0.9 * fit)

    zones = [zone for zone, _ in fields]
    common = {
        "timestamp": _milliseconds(_JANUARY_2020.astype("M8[M]") + month),
        "country": _pick([zone.country for zone in zones], field),
        "admin1": _pick([zone.admin1 for zone in zones], field),
        "admin2": _pick([zone.admin2 for zone in zones], field),
        "lat": lat,
        "lng": lng,
        "crop": _pick([crop for _, crop in fields], field),
    }
    schema = dojo_schema({"crop": pa.string()}, empty=["admin3"])
    return [
        _table(schema, {**common, "feature": np.full(field.size, name), "value": values}, first_row)
        for name, values, first_row in ((YIELD, yields.round(3), 0), (AREA, areas.round(1), field.size))
    ]


def _rain(lat: Floats, lng: Floats, month: npt.NDArray[np.int64]) -> Floats:
    """Relative rainfall: one season in the north (August), two near the equator (April, November)."""
    north = 1 / (1 + np.exp(-(lat - 4.5) / 1.5))
    angle = 2 * np.pi * month / 12
    one_season = 0.55 * np.cos(angle - 2 * np.pi * 7 / 12)
    two_seasons = 0.4 * np.cos(2 * angle - 2 * np.pi * 6 / 12) + 0.1 * np.cos(angle - 2 * np.pi * 3 / 12)
    highland = np.exp(-(((lng - 37.2) / 3.0) ** 2))
    second_year = np.where(month < 12, 1.0, 0.88)
    rain = (0.55 + 0.5 * highland) * (1 + north * one_season + (1 - north) * two_seasons)
    return np.asarray(rain * second_year, np.float64)


# The dataset --------------------------------------------------------------------------------------


def _price_table() -> pa.Table:
    """Weekly grain prices of every market, weighted by the people it serves; one in a hundred is missing."""
    markets = [(zone, market) for zone in _ZONES for market in zone.markets]
    weeks = 104
    market, week = (index.ravel() for index in np.indices((len(markets), weeks)))
    days = 5 + 7 * week  # Mondays
    random = np.random.default_rng(2021)
    people = random.integers(20, 400, len(markets)) * 1000
    remoteness = random.uniform(0.9, 1.25, len(markets))
    grain = np.array([np.mean([_CROPS[crop].price for crop in zone.crops]) for zone, _ in markets])
    lean_season = 1 + 0.18 * np.cos(2 * np.pi * (days - 200) / 365)
    prices = (grain * remoteness)[market] * lean_season * (1 + 0.12 * week / weeks)
    prices *= random.uniform(0.96, 1.04, market.size)
    values = prices.round(3)
    values[random.random(market.size) < 0.01] = np.nan
    zones = [zone for zone, _ in markets]
    columns = {
        "timestamp": _milliseconds(_JANUARY_2020.astype("M8[D]") + days),
        "country": _pick([zone.country for zone in zones], market),
        "admin1": _pick([zone.admin1 for zone in zones], market),
        "admin2": _pick([zone.admin2 for zone in zones], market),
        "feature": np.full(market.size, PRICE),
        "value": values,
        "market": _pick([name for _, name in markets], market),
        "population": people[market],
    }
    schema = dojo_schema({"market": pa.string(), "population": pa.int64()}, empty=["admin3", "lat", "lng"])
    return _table(schema, columns)


def _milliseconds(moments: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    return moments.astype("M8[ms]").astype(np.int64)


def _pick(names: list[str], index: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    return np.array(names)[index]


def _table(schema: pa.Schema, columns: Mapping[str, npt.NDArray[np.generic]], first_row: int = 0) -> pa.Table:
    """The columns in the order and types of the schema; not-a-number becomes null, as pandas stores it."""
    rows = len(columns["timestamp"])
    numbered = {**columns, INDEX_COLUMN: np.arange(first_row, first_row + rows)}
    arrays = [
        pa.array(numbered[field.name], field.type, from_pandas=True)
        if field.name in numbered
        else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


# The documents ------------------------------------------------------------------------------------

_MAINTAINER: Final = {
    "name": "Toy Modeler",
    "email": "toy@example.org",
    "organization": "Toy World",
    "website": "https://example.org",
}


def _geography() -> Document:
    names = {level: {getattr(zone, level) for zone in _ZONES} for level in ("country", "admin1", "admin2")}
    return {**{level: sorted(found) for level, found in names.items()}, "admin3": []}


def _output(name: str, description: str, unit: str, unit_description: str, **more: object) -> Document:
    return {
        "name": name,
        "display_name": name.capitalize(),
        "description": description,
        "type": "float",
        "unit": unit,
        "unit_description": unit_description,
        "ontologies": {"concepts": None, "processes": None, "properties": None},
        **more,
    }


def _qualifier(name: str, type_: str, description: str, features: list[str], role: str) -> Document:
    output = _output(name, description, "", "", related_features=features, qualifier_role=role)
    return output | {"type": type_}


def _implicit_qualifiers(names: Iterable[str], features: list[str]) -> list[Document]:
    """The date and place columns, which Dojo lists as qualifiers too."""
    types = {"date": "datetime"}
    return [_qualifier(name, types.get(name, name), "", features, "breakdown") for name in names]


def _run_document(run_id: str, rainfall: float, files: list[str]) -> Document:
    return {
        "id": run_id,
        "model_name": "Toy crop model",
        "model_id": SAMPLE_MODEL,
        "created_at": _JANUARY_2023,
        "data_paths": [f"{FILES_PLACEHOLDER}/{name}" for name in files],
        "pre_gen_output_paths": [],
        "is_default_run": rainfall == 1.0,
        "parameters": [{"name": "rainfall", "value": rainfall}],
        "tags": [],
        "attributes": {"status": "success", "executed_at": "2023-01-01 00:12:09"},
    }


def _model_document() -> Document:
    features = [YIELD, AREA]
    monthly = {"temporal_resolution": "monthly", "spatial_resolution": [_STEP, _STEP]}
    common: Document = {"additional_options": {}, "data_resolution": monthly, "choices": None}
    last_month = _JANUARY_2020.astype("M8[M]") + (_MONTHS - 1)
    return {
        "id": SAMPLE_MODEL,
        "name": "Toy crop model",
        "family_name": "Toy crop model",
        "description": "How maize, teff and sorghum in Ethiopia and Kenya answer to more or less rain. "
        "Invented for demonstrations: no number here describes the real world.",
        "created_at": _JANUARY_2023,
        "category": ["Agriculture"],
        "domains": ["Agricultural Sciences"],
        "maintainer": _MAINTAINER,
        "image": "",
        "observed_data": [],
        "is_stochastic": False,
        "parameters": [
            {
                "name": "rainfall",
                "display_name": "Rainfall",
                "description": "Rainfall relative to a normal year",
                "type": "float",
                "unit": "",
                "unit_description": "",
                "is_drilldown": False,
                "default": 1.0,
                "choices": [str(rainfall) for rainfall in SAMPLE_RAINFALL.values()],
                "min": min(SAMPLE_RAINFALL.values()),
                "max": max(SAMPLE_RAINFALL.values()),
            }
        ],
        "outputs": [
            _output(
                YIELD, "Grain harvested per hectare", "t/ha", "tonnes per hectare",
                is_primary=True, min=0.0, max=6.0, **common,
            ),
            _output(
                AREA, "Area harvested in the month", "ha", "hectares",
                is_primary=False, min=0.0, max=20_000.0, **common,
            ),
        ],
        "qualifier_outputs": [
            _qualifier("crop", "str", "The crop: maize, teff or sorghum", features, "breakdown"),
            *_implicit_qualifiers(["date", "country", "admin1", "admin2", "lat", "lng"], features),
        ],
        "tags": ["toy"],
        "geography": _geography(),
        "period": {
            "gte": int(_JANUARY_2020.astype(np.int64)),
            "lte": int(last_month.astype("M8[ms]").astype(np.int64)),
        },
        "next_version": None,
        "prev_version": None,
        "is_published": True,
        "commit_message": "First version",
    }  # fmt: skip


def _dataset_document() -> Document:
    weekly = {"temporal_resolution": "weekly", "spatial_resolution": []}
    first, last = (int(_JANUARY_2020.astype(np.int64)) + day * 86_400_000 for day in (5, 5 + 7 * 103))
    return {
        "id": SAMPLE_DATASET,
        "name": "Toy market prices",
        "family_name": None,
        "description": "Weekly prices of grain at twenty markets of Ethiopia and Kenya, weighted by the "
        "people a market serves. Invented for demonstrations.",
        "created_at": _JANUARY_2023,
        "category": None,
        "domains": ["Economic Sciences"],
        "maintainer": _MAINTAINER,
        "image": None,
        "data_paths": [f"{FILES_PLACEHOLDER}/{SAMPLE_DATASET}.parquet.gzip"],
        "outputs": [
            _output(
                PRICE, "Price of a kilogram of grain", "USD/kg", "US dollars per kilogram",
                is_primary=True, data_resolution=weekly, alias={},
            ),
        ],
        "qualifier_outputs": [
            _qualifier("market", "str", "The market town", [PRICE], "breakdown"),
            _qualifier("population", "int", "People served by the market", [PRICE], "weight"),
            *_implicit_qualifiers(["date", "country", "admin1", "admin2"], [PRICE]),
        ],
        "tags": ["toy"],
        "geography": _geography(),
        "period": {"gte": last, "lte": first},  # swapped: Dojo's registration stores the maximum under gte
        "deprecated": False,
        "data_sensitivity": "",
        "data_quality": "measured",
        "published": True,
        "feature_names": [PRICE],
        "temporal_resolution": "weekly",
        "spatial_resolution": None,
    }  # fmt: skip


def write_sample_requests(folder: Path) -> list[DatacubeRequest]:
    """Write the sample into a folder and derive its requests, as from Dojo's documents."""
    write_sample(folder)
    models = {
        model.id: model
        for model in (ModelDocument.model_validate(one) for one in _documents(folder, "models"))
    }
    runs = [RunDocument.model_validate(one) for one in _documents(folder, "runs")]
    indicators = [IndicatorDocument.model_validate(one) for one in _documents(folder, "indicators")]
    return [
        # The newest datacube is the first to be seen: one with a map.
        *(request_for_indicator(indicator) for indicator in indicators),
        # Nobody waits for what is made by hand, so CauseMos is not told of it.
        *(request_for_run(run, models[run.model_id]).model_copy(update={"doc_ids": None}) for run in runs),
    ]


def _documents(folder: Path, collection: str) -> list[dict[str, object]]:
    address = json.dumps(str(folder / "files"))[1:-1]
    return [
        json.loads(path.read_text().replace(FILES_PLACEHOLDER, address))
        for path in sorted((folder / collection).glob("*.json"))
    ]
