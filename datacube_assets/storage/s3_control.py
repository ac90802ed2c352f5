"""Requests about keys that hold control characters, which the quick client of `s3.py` refuses to send.

Such a key is rare, a name of a region with a line break for instance, and S3 takes it. Only what `s3.py`
cannot do for it is here, one key at a time, by the client that speaks for AWS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypedDict

from datacube_assets.settings import aws_environment

_MISSING = frozenset({"NoSuchKey", "404"})


class Listed(TypedDict):
    """What a listing tells of an object."""

    path: str
    size: int
    e_tag: str | None
    last_modified: datetime


class RefusedError(Exception):
    """What the server or the way to it said, in the words of the quick client."""


@dataclass(frozen=True)
class ControlKeys:
    """A bucket, or a prefix of it, by the slower client. Raises FileNotFoundError and RefusedError."""

    bucket: str
    prefix: str
    endpoint: str

    def get(self, key: str) -> bytes:
        found = self._ask("get_object", Key=self._full(key))
        body: bytes = found["Body"].read()
        return body

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._ask("put_object", Key=self._full(key), Body=body, ContentType=content_type)

    def delete(self, key: str) -> None:
        # Several at once go as XML, in which such a key cannot be written.
        self._ask("delete_object", Key=self._full(key))

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object below a prefix, those with other keys too."""
        start = self._full(prefix)
        skipped = len(start) - len(prefix)
        more: dict[str, str] = {}
        while True:
            # Keys are asked for in URL encoding: plain XML has no way to write them.
            page = self._ask("list_objects_v2", Prefix=start, **more)
            for item in page.get("Contents", ()):
                yield {
                    "path": item["Key"][skipped:],
                    "size": item["Size"],
                    "e_tag": item.get("ETag"),
                    "last_modified": item["LastModified"],
                }
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _ask(self, action: str, **parameters: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(_client(self.endpoint, aws_environment()), action)(
                Bucket=self.bucket, **parameters
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _MISSING:
                raise FileNotFoundError(str(error)) from None
            raise RefusedError(f"(code: {code}) status code: {status} {error}") from None
        except BotoCoreError as error:
            raise RefusedError(f"HTTP error: {error}") from None


@lru_cache(maxsize=8)
def _client(endpoint: str, environment: tuple[tuple[str, str], ...]) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    region = dict(environment).get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    return session.create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint or None,
        verify=os.environ.get("SSL_CERT_FILE") or None,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 4, "mode": "standard"},
            connect_timeout=5,
            read_timeout=60,
        ),
    )
