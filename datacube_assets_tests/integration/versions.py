"""A datacube of three versions, of which the last two keep their tables, for tests that look at versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import httpx

from datacube_assets.development.s3_server import S3Server
from datacube_assets.settings import Settings
from datacube_assets.storage.opening import open_store
from datacube_assets_tests.integration.support import House, open_house, rows

T = TypeVar("T")

FEATURE, MODEL, RUN = "rain", "model", "run"
GONE, BEFORE, AFTER = 1, 2, 3
VALUES = ([9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 30.0, 4.0])
"""Of the versions. From the second to the third, February in Kenya changes from 3 to 30."""


@dataclass
class Versions(Generic[T]):
    """The house, and what was seen of the second version while it was published."""

    house: House
    seen: T

    def publish(self, value: list[float]) -> None:
        publish(self.house, value)


def publish(house: House, value: list[float]) -> None:
    table = rows(value=value, crop=["maize", "teff", "maize", "teff"])
    house.publish(table, qualifier_map={FEATURE: ["crop"]})


@contextmanager
def three_versions(folder: Path) -> Iterator[House]:
    """The house after all were published."""
    with open_house(folder) as house:
        house = house.with_settings(keep_versions=2)
        for value in VALUES:
            publish(house, value)
        yield house


def upload(house: House, server: S3Server, prefix: str) -> Settings:
    """Lake and buckets of a house as they are, on an S3 server; the settings that lead there."""
    names = {
        "DATACUBE_LAKE": ("lake", house.settings.lake),
        "DATACUBE_MODELS_BUCKET": ("models", house.settings.models_bucket),
        "DATACUBE_INDICATORS_BUCKET": ("indicators", house.settings.indicators_bucket),
    }
    settings = {name: f"s3://{bucket}/{prefix}" for name, (bucket, _) in names.items()}
    for name, (_, url) in names.items():
        here, there = open_store(url), open_store(settings[name], server.endpoint)
        # As it was published: results.json comes last.
        keys = sorted((key for key, _ in here.list("")), key=lambda key: key.endswith("results.json"))
        there.put_many(keys, [here.get(key) for key in keys], "application/octet-stream")
    settings |= {"DATACUBE_HOME": str(house.folder), "DATACUBE_S3_ENDPOINT": server.endpoint}
    return Settings.model_validate(settings).resolved()


def ask(url: str, path: str, **parameters: object) -> httpx.Response:
    """Ask a server of `datacube view` about the datacube."""
    asked = {"model_id": MODEL, "run_id": RUN, **parameters}
    return _client().get(f"{url}/{path}", params={name: str(value) for name, value in asked.items()})


@cache
def _client() -> httpx.Client:
    # One for all: making one takes longer than most answers.
    return httpx.Client(timeout=60)
