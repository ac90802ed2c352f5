"""Every setting of the system, read from the environment in one place.

Names, defaults and meanings belong here; `docs/settings.md` is the table for people. Nothing else in
the package reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from datacube_assets.check_limits import LimitsError, LimitsFile
from datacube_assets.redaction import keep_secret

SCHEMES: Mapping[str, tuple[str, ...]] = {
    "development": ("https", "http", "s3", "file"),
    "production": ("https", "s3"),
}
"""Kinds of addresses that parts may be read from, unless DATACUBE_SOURCE_SCHEMES names them."""
_AWS_SECRETS = frozenset(("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are this machine."""


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable."""


class Settings(BaseSettings):
    """Where things are and how much may run at once. Addresses of stores are URLs."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True, env_ignore_empty=True)

    environment: Literal["", "development", "production"] = Field("", alias="DATACUBE_ENVIRONMENT")
    """What Dojo's documents may make this read (`docs/security.md`): in `production` neither local files
    nor internal addresses. Empty: `development` while Dojo is on this machine, or not asked."""
    home: Path = Field(Path("datacube-home"), alias="DATACUBE_HOME")
    """Folder of the embedded default: lake, buckets and Dagster's storage."""
    lake: str = Field("", alias="DATACUBE_LAKE")
    """URL of the lake; default `lake` in the home folder."""
    models_bucket: str = Field("", alias="DATACUBE_MODELS_BUCKET")
    """URL of the bucket of model runs; default `buckets/models` in the home folder."""
    indicators_bucket: str = Field("", alias="DATACUBE_INDICATORS_BUCKET")
    """URL of the bucket of datasets; default `buckets/indicators` in the home folder."""
    s3_endpoint: str = Field(  # type: ignore[pydantic-alias]
        "",
        alias="DATACUBE_S3_ENDPOINT",
        validation_alias=AliasChoices("DATACUBE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    )
    """Address of an S3-compatible server; empty for AWS. AWS' own variables for it do as well.

    Credentials come from the usual places: `AWS_*`, profiles, roles (`docs/s3.md`).
    """
    dask_mode: Literal["threads", "local", "scheduler"] = Field("threads", alias="DATACUBE_DASK")
    """Where shards are computed: threads of the run, a cluster of processes, or an existing cluster."""
    dask_workers: int = Field(0, alias="DATACUBE_DASK_WORKERS", ge=0)
    """Threads or processes for `threads` and `local`; 0 for one per core."""
    dask_scheduler: str = Field("", alias="DATACUBE_DASK_SCHEDULER")
    """Address of an existing Dask scheduler; setting it selects the mode `scheduler`."""
    executor: Literal["in_process", "dask"] = Field("in_process", alias="DATACUBE_EXECUTOR")
    """Where the steps of Dagster's runs are executed: in the run's process, or on `dask_scheduler`."""
    shard_rows: int = Field(1_000_000, alias="DATACUBE_SHARD_ROWS", ge=1)
    """Rows in a shard of points: the measure of memory per worker."""
    keep_versions: int = Field(3, alias="DATACUBE_KEEP_VERSIONS", ge=1)
    """Versions of a datacube that keep their tables, the published one included."""
    keep_days: float = Field(0, alias="DATACUBE_KEEP_DAYS", ge=0, allow_inf_nan=False)
    """Days after which a version that was replaced loses its tables all the same; 0: never."""
    dojo_url: str = Field("", alias="DOJO_URL")
    """Dojo's API, path prefix included; empty: Dojo is not asked."""
    dojo_username: str = Field("", alias="DOJO_USERNAME")
    dojo_password: SecretStr = Field(SecretStr(""), alias="DOJO_PASSWORD")
    causemos_url: str = Field("", alias="CAUSEMOS_URL")
    """CauseMos, without `/api/maas`; empty: nobody is told."""
    causemos_page: str = Field("", alias="CAUSEMOS_PAGE")
    """Page of a datacube below `causemos_url`, with `{model_id}` and `{run_id}`; empty: its front page."""
    causemos_username: str = Field("", alias="CAUSEMOS_USERNAME")
    causemos_password: SecretStr = Field(SecretStr(""), alias="CAUSEMOS_PASSWORD")

    gateway_clients: str = Field("127.0.0.0/8,::1", alias="DATACUBE_GATEWAY_CLIENTS")
    """Networks, comma-separated, from which the gateway may be called: addresses, or CIDRs."""
    gateway_token: SecretStr = Field(SecretStr(""), alias="DATACUBE_GATEWAY_TOKEN")
    """What callers of the gateway have to send as bearer token besides; empty: nothing."""
    gateway_origins: str = Field("*", alias="DATACUBE_GATEWAY_ORIGINS")
    """Web pages, comma-separated, whose scripts may call the gateway (CORS); `*`, as in the original: any."""
    gateway_checks: int = Field(1, alias="DATACUBE_GATEWAY_CHECKS", ge=0)
    """Checks of requests that the gateway makes at the same time; 0 for none at all."""
    queue_size: int = Field(3000, alias="DATACUBE_QUEUE_SIZE", ge=1)
    """Requests that may wait; the gateway refuses more."""

    source_schemes: str = Field("", alias="DATACUBE_SOURCE_SCHEMES")
    """Kinds of addresses that parts may be read from, comma-separated; default those of `SCHEMES`."""
    source_hosts: str = Field("", alias="DATACUBE_SOURCE_HOSTS")
    """Hosts (for `s3://` buckets) that parts may be read from, comma-separated; empty for any."""
    address_key: SecretStr = Field(SecretStr(""), alias="DATACUBE_ADDRESS_KEY")
    """Seals what is secret in addresses of parts; empty: a key of the home folder."""
    max_part_bytes: int = Field(0, alias="DATACUBE_MAX_PART_BYTES", ge=0)
    """Size beyond which a part is refused; 0 for any."""
    max_objects: int = Field(20_000_000, alias="DATACUBE_MAX_OBJECTS", ge=1)
    """Objects of a datacube beyond which it is refused before the first one is written."""
    check_limits: str = Field("", alias="DATACUBE_CHECK_LIMITS")
    """TOML file with the limits that asset checks judge by; empty for the defaults."""
    sensor_interval: int = Field(30, alias="DATACUBE_SENSOR_INTERVAL", ge=1)
    """Seconds between looks at Dojo, at requests and at reports."""
    runs_per_tick: int = Field(50, alias="DATACUBE_RUNS_PER_TICK", ge=1)
    """Runs that a sensor requests at once, at most; the others follow on the next tick."""
    pictures: bool = Field(True, alias="DATACUBE_PICTURES")
    """Whether materializations show pictures in Dagster's UI."""
    docs_url: str = Field("", alias="DATACUBE_DOCS_URL")
    """Where the folder `docs` can be read; empty: assets name their page, but do not link to it."""
    lease_seconds: float = Field(60, alias="DATACUBE_LEASE_SECONDS", ge=1, le=3600)
    """After how many seconds without a sign of life a publisher is taken for dead by others."""
    spare_workers: int = Field(1, alias="DATACUBE_SPARE_WORKERS", ge=0)
    """Processes that have imported everything and wait for a run; with 0 each run starts a process."""
    view_url: str = Field("", alias="DATACUBE_VIEW_URL")
    """Where `datacube view` can be reached by whoever reads Dagster's UI; empty: nothing links to it.

    `datacube dev` starts one and sets this."""
    max_runs: int = Field(2, alias="DATACUBE_MAX_RUNS", ge=1)
    """Runs at the same time, in the embedded default; see `dagster.yaml` elsewhere."""

    @classmethod
    def from_environment(cls, **overrides: Any) -> Settings:
        """Settings of the environment, with overrides by variable name (None and empty ones ignored).

        Raises SettingsError naming the variable.
        """
        given = {name: value for name, value in overrides.items() if value not in (None, "")}
        try:
            return cls(**given).resolved()
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"the setting {where} cannot be used: {first['msg']}") from None

    def resolved(self) -> Settings:
        """The same with an absolute home, every address filled in as a URL, and what follows from others."""
        keep_secret(
            self.address_key.get_secret_value(),
            self.gateway_token.get_secret_value(),
            *(value for name, value in aws_environment() if name in _AWS_SECRETS),
            pairs=(
                (self.dojo_username, self.dojo_password.get_secret_value()),
                (self.causemos_username, self.causemos_password.get_secret_value()),
            ),
        )
        dask_mode = self.dask_mode
        if self.dask_scheduler and "dask_mode" not in self.model_fields_set:
            dask_mode = "scheduler"
        if dask_mode == "scheduler" and not self.dask_scheduler:
            raise SettingsError("DATACUBE_DASK is `scheduler`: set DATACUBE_DASK_SCHEDULER to its address")
        if self.executor == "dask" and dask_mode != "scheduler":
            raise SettingsError("DATACUBE_EXECUTOR is `dask`: set DATACUBE_DASK_SCHEDULER to its scheduler")
        endpoint = urlsplit(self.s3_endpoint)
        if self.s3_endpoint and (endpoint.scheme not in ("http", "https") or not endpoint.hostname):
            raise SettingsError("DATACUBE_S3_ENDPOINT cannot be used: give http://host:port or https://host")
        # These addresses are shown, and kept in manifests and in Dagster's storage.
        for name, address, instead in (
            ("DATACUBE_LAKE", self.lake, "AWS_*"),
            ("DATACUBE_MODELS_BUCKET", self.models_bucket, "AWS_*"),
            ("DATACUBE_INDICATORS_BUCKET", self.indicators_bucket, "AWS_*"),
            ("DATACUBE_S3_ENDPOINT", self.s3_endpoint, "AWS_*"),
            ("DATACUBE_DASK_SCHEDULER", self.dask_scheduler, "Dask's own settings"),
            ("DOJO_URL", self.dojo_url, "DOJO_USERNAME and DOJO_PASSWORD"),
            ("CAUSEMOS_URL", self.causemos_url, "CAUSEMOS_USERNAME and CAUSEMOS_PASSWORD"),
            ("DATACUBE_VIEW_URL", self.view_url, "the proxy before it"),
        ):
            if holds_secrets(address):
                raise SettingsError(
                    f"{name} holds credentials or a query: give the plain address; "
                    f"credentials belong into {instead}"
                )
        environment = self.environment or ("development" if self._dojo_is_here() else "production")
        schemes = names(self.source_schemes.lower()) or list(SCHEMES[environment])
        if unknown := sorted(set(schemes) - set(SCHEMES["development"])):
            raise SettingsError(f"DATACUBE_SOURCE_SCHEMES: parts cannot be read from {unknown[0]}://")
        if environment == "production" and "file" in schemes:
            raise SettingsError(
                "DATACUBE_SOURCE_SCHEMES allows `file`, which is for development only: leave it out, or set "
                "DATACUBE_ENVIRONMENT to `development`"
            )
        networks(self.gateway_clients)
        try:
            LimitsFile.read(self.check_limits)
        except LimitsError as error:
            raise SettingsError(f"DATACUBE_CHECK_LIMITS cannot be used: {error}") from None
        home = self.home.expanduser().absolute()
        return self.model_copy(
            update={
                "environment": environment,
                "dask_mode": dask_mode,
                "source_schemes": ",".join(schemes),
                "home": home,
                "lake": as_url(self.lake or str(home / "lake")),
                "models_bucket": as_url(self.models_bucket or str(home / "buckets" / "models")),
                "indicators_bucket": as_url(self.indicators_bucket or str(home / "buckets" / "indicators")),
            }
        )

    def bucket_for(self, *, indicator: bool) -> str:
        """URL of the bucket where CauseMos' reader looks for a dataset, or else for a model run."""
        return self.indicators_bucket if indicator else self.models_bucket

    def as_environment(self) -> dict[str, str]:
        """The variables that give a process of ours these settings."""
        variables = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            text = str(value.get_secret_value() if isinstance(value, SecretStr) else value)
            if text:
                variables[str(field.alias)] = text
        return variables

    def _dojo_is_here(self) -> bool:
        return not self.dojo_url or urlsplit(self.dojo_url).hostname in LOOPBACK


def aws_environment() -> tuple[tuple[str, str], ...]:
    """The variables that S3 clients read for themselves, sorted: clients of other ones are other clients."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def names(listed: str) -> list[str]:
    """The names of a comma-separated list."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def networks(listed: str) -> list[IPv4Network | IPv6Network]:
    """The networks of DATACUBE_GATEWAY_CLIENTS. Raises SettingsError."""
    try:
        return [ip_network(one) for one in names(listed)]
    except ValueError as error:
        raise SettingsError(
            f"DATACUBE_GATEWAY_CLIENTS cannot be used: {error}. Give addresses or CIDRs, such as 10.0.0.0/8"
        ) from None


def holds_secrets(address: str) -> bool:
    """Whether an address may carry a user name, a password, a query or a fragment; a path does not."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return False
    # A password may have any sign in it; only a path of files may have an `@`.
    return any(sign in rest for sign in ("?#" if scheme == "file" else "@?#"))


def as_url(address: str) -> str:
    """A store's address as a URL without a final `/`; plain paths become `file://` URLs.

    Raises SettingsError for schemes that no store speaks.
    """
    parts = urlsplit(address)
    if len(parts.scheme) <= 1:  # a path, or a drive letter
        return Path(address).expanduser().absolute().as_uri()
    if parts.scheme not in ("file", "s3"):
        raise SettingsError(
            f"a store of the kind {parts.scheme}:// cannot be used: give a path, file:// or s3://"
        )
    if holds_secrets(address):
        raise SettingsError(
            "the address of a store holds credentials or a query: give s3://bucket or s3://bucket/prefix; "
            "credentials belong into AWS_*"
        )
    if parts.scheme == "s3" and not parts.netloc:
        raise SettingsError(f"the store {address!r} names no bucket: give s3://bucket or s3://bucket/prefix")
    # One address for one store: whether two are the same is seen by it.
    url = f"{parts.scheme}{address[len(parts.scheme) :]}".rstrip("/")
    prefix = url.partition("://")[2].partition("/")[2]
    if parts.scheme == "s3" and prefix and {"", ".", ".."} & set(prefix.split("/")):
        raise SettingsError(
            f"the store {address!r} has a prefix with a part that is empty, `.` or `..`: give "
            "s3://bucket/prefix or s3://bucket/a/longer/prefix"
        )
    return url
