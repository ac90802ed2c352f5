"""Requests about keys that hold control characters, which the quick client of `s3.py` refuses to send.

Such a key is rare, a name of a region with a line break for instance, and S3 takes it. Only what `s3.py`
cannot do for it is here, one key at a time, by the client that speaks for AWS. It also lists what the quick
client would list in part or as something else: pages of servers that only know the older way, and markers of
folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, TypedDict, TypeVar

from datacube_assets.kernels.key_safety import is_safe
from datacube_assets.settings import aws_environment

T = TypeVar("T")


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
        def read(client: Any) -> bytes:
            body: bytes = client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            return body

        return self._ask(read)

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self._ask(
            lambda client: client.put_object(
                Bucket=self.bucket, Key=self._full(key), Body=body, ContentType=content_type
            )
        )

    def delete(self, key: str) -> None:
        # Several at once go as XML, in which such a key cannot be written.
        self._ask(lambda client: client.delete_object(Bucket=self.bucket, Key=self._full(key)))

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object below a prefix, those with other keys too; none of keys that no store writes."""
        start = self._full(prefix)
        skipped = len(start) - len(prefix)
        for page in self._pages(start):
            for item in page.get("Contents", ()):
                if is_safe(item["Key"][skipped:]):
                    yield {
                        "path": item["Key"][skipped:],
                        "size": item["Size"],
                        "e_tag": item.get("ETag"),
                        "last_modified": item["LastModified"],
                    }

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders directly below a folder (with final `/`; an empty one is the root)."""
        start = self._full(prefix)
        for page in self._pages(start, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                if is_safe(name := item["Prefix"][len(start) :].removesuffix("/")):
                    yield name

    def _pages(self, start: str, **how: str) -> Iterator[Any]:
        # Keys are asked for in URL encoding: plain XML has no way to write them.
        asked = {"Bucket": self.bucket, "Prefix": start, **how}
        more: dict[str, str] = {}
        old = False
        while True:
            action = "list_objects" if old else "list_objects_v2"
            page = self._ask(partial(_call, action=action, parameters={**asked, **more}))
            yield page
            if not page.get("IsTruncated"):
                return
            old = old or not page.get("NextContinuationToken")
            if old:
                # It does not know the newer way to list, or the token would be there.
                last = [item["Key"] for item in page.get("Contents", ())]
                last += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
                after = {"Marker": page.get("NextMarker") or max(last, default="")}
            else:
                after = {"ContinuationToken": page["NextContinuationToken"]}
            if after == more:
                raise RefusedError(f"Got invalid list response: it begins again and again at {after}")
            more = after

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _ask(self, do: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return do(_client(self.endpoint, aws_environment()))
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            # Where an answer has no code, the client makes one of the status.
            said = f"{'' if code == str(status) else f'(code: {code})'} status code: {status} {error}"
            raise (FileNotFoundError(said) if code == "NoSuchKey" else RefusedError(said)) from None
        except (BotoCoreError, RecursionError) as error:
            # It follows some redirects until it cannot any more.
            raise RefusedError(f"HTTP error: {error}") from None


def _call(client: Any, action: str, parameters: Mapping[str, str]) -> Any:
    return getattr(client, action)(**parameters)


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
            # Other servers refuse checksums that only AWS knows, or store them with the object.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
