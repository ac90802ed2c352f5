"""The client of a bucket on S3: its time limits, its own repetitions, its credentials.

How an account is found belongs here (for people: `docs/s3.md`). What is asked of the bucket is in `s3.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from datacube_assets.storage.s3_errors import CREDENTIALS
from datacube_assets.storage.stores import StoreError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3Store

CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=5),
}
"""Limits of one request: to be connected, without any progress, altogether."""
RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=3),
}
"""Of single requests: what the lake reads and writes, and listings."""
BATCH_RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
    "max_retries": 3,
    "retry_timeout": timedelta(minutes=1),
}
"""Of objects in batches, before fewer of them are sent at once and `PATIENCE` begins."""
PROBE_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=15),
}
PROBE_RETRIES: RetryConfig = {
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=1), "base": 2},
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
}
"""Of `check`, which somebody waits for."""
CREDENTIALS_LAST = timedelta(minutes=10)
"""What botocore hands out is good for ten minutes at least; it renews credentials that end sooner."""


class _Botocore:
    """Credentials that botocore finds, renewed when they are used up."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def __call__(self) -> S3Credential:
        # Read before they are renewed: too early an end does no harm.
        end = datetime.now(UTC) + CREDENTIALS_LAST
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": end,
        }


@lru_cache(maxsize=64)
def s3_client(
    bucket: str, prefix: str, endpoint: str, kind: str, environment: tuple[tuple[str, str], ...]
) -> S3Store:
    """The client of a bucket, shared by all that use it: its connections stay open.

    Raises StoreError when there are no credentials.
    """
    from obstore.store import S3Store

    client, retries, in_batches = {
        "single": (CLIENT, RETRIES, False),
        "batch": (CLIENT, BATCH_RETRIES, True),
        "one by one": (CLIENT, BATCH_RETRIES, False),
        "probe": (PROBE_CLIENT, PROBE_RETRIES, False),
    }[kind]
    variables = dict(environment)
    # The most specific name for it, or a variable of that name would go before.
    options: dict[str, object] = {"aws_endpoint_url_s3": endpoint} if endpoint else {}
    if not variables.get("AWS_ACCESS_KEY_ID"):
        provider, region = _found_by_botocore(environment)
        options["credential_provider"] = provider
        if region and not variables.get("AWS_REGION"):
            options["region"] = region
    if not in_batches:
        options["disable_bulk_delete"] = True
    return S3Store(
        bucket,
        prefix=prefix or None,
        virtual_hosted_style_request=False,
        client_options={**client, "allow_http": endpoint.lower().startswith("http://")},
        retry_config=retries,
        **options,  # type: ignore[arg-type]
    )


@lru_cache(maxsize=8)
def _found_by_botocore(environment: tuple[tuple[str, str], ...]) -> tuple[_Botocore, str]:
    """Credentials and region of a profile, a role or the machine (`environment` makes them its own)."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        region = session.get_config_variable("region") or ""
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise StoreError(f"no credentials for S3 can be had: {error}. Correct {CREDENTIALS}") from None
    if credentials is None:
        raise StoreError(f"there are no credentials for S3. Set {CREDENTIALS}, or see docs/s3.md")
    return _Botocore(credentials), region
