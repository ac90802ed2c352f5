from __future__ import annotations

import os

import pytest

from datacube_assets.settings import Settings, SettingsError

ADDRESSES = (
    "DATACUBE_LAKE",
    "DATACUBE_MODELS_BUCKET",
    "DATACUBE_INDICATORS_BUCKET",
    "DATACUBE_S3_ENDPOINT",
    "DATACUBE_DASK_SCHEDULER",
    "DOJO_URL",
    "CAUSEMOS_URL",
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DATACUBE_", "DOJO_", "CAUSEMOS_", "AWS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "address",
    [
        "{scheme}://ann:s3cret@host/path",
        "{scheme}://s3cret@host",
        "{scheme}://ann:s3/cret@host",
        "{scheme}://host/path?token=s3cret",
        "{scheme}://host/path#s3cret",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(name: str, address: str) -> None:
    schemes = {"DATACUBE_DASK_SCHEDULER": "tls", "DATACUBE_LAKE": "s3", "DATACUBE_MODELS_BUCKET": "s3"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(**{name: address.format(scheme=schemes.get(name, "https"))})
    assert name in str(caught.value)
    assert not any(word in str(caught.value) for word in ("s3cret", "ann", "cret"))


@pytest.mark.parametrize(
    ("dojo", "environment"),
    [
        ("", "development"),
        ("http://127.0.0.1:3001", "development"),
        ("http://localhost:3001/api", "development"),
        ("http://[::1]:3001", "development"),
        ("https://dojo.example.org/api/dojo", "production"),
        ("http://127.0.0.1.example.org", "production"),
        ("http://10.0.0.5:8000", "production"),
    ],
)
def test_it_is_production_as_soon_as_dojo_is_elsewhere(dojo: str, environment: str) -> None:
    settings = Settings.from_environment(DOJO_URL=dojo)
    assert settings.environment == environment
    assert ("file" in settings.source_schemes) == (environment == "development")
    assert (
        Settings.from_environment(DOJO_URL=dojo, DATACUBE_ENVIRONMENT="production").environment
        == "production"
    )


@pytest.mark.parametrize("prefix", ["a//b", "/a", "a/./b", "../a", "a/.."])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(SettingsError, match="has a prefix with a part that is empty"):
        Settings.from_environment(DATACUBE_LAKE=f"s3://bucket/{prefix}")


def test_one_store_has_one_address() -> None:
    written = ("s3://bucket/a b", "S3://bucket/a b", "s3://bucket/a b/", "s3://bucket/a b//")
    assert {Settings.from_environment(DATACUBE_LAKE=one).lake for one in written} == {"s3://bucket/a b"}
    assert Settings.from_environment(DATACUBE_LAKE="S3://Bucket/").lake == "s3://Bucket"


def test_local_files_cannot_be_allowed_in_production() -> None:
    with pytest.raises(SettingsError, match="`file`, which is for development only"):
        Settings.from_environment(DOJO_URL="https://dojo", DATACUBE_SOURCE_SCHEMES="https, File")
    developing = Settings.from_environment(
        DOJO_URL="https://dojo", DATACUBE_SOURCE_SCHEMES="https, File", DATACUBE_ENVIRONMENT="development"
    )
    assert developing.source_schemes == "https,file"


def test_a_kind_of_address_that_nothing_reads_is_refused() -> None:
    with pytest.raises(SettingsError, match="DATACUBE_SOURCE_SCHEMES: parts cannot be read from ftp://"):
        Settings.from_environment(DATACUBE_SOURCE_SCHEMES="https,ftp")
